"""Consistency models: a function that goes to the end of the way in one step (chapter 9).

Without noise of its own, a sampler follows one line from each xt down to a picture. A denoiser says where the line
points, and the sampler makes many small steps along it; a consistency function says where it ends, and is therefore the
same at all points of a line. What makes it more than "the same everywhere" is its boundary: at the lowest noise level
the line has ended, so there it returns what it is given.

The course's levels are a table, of which index 0 is the lowest. The paper counts them by sigma = noise_scale /
signal_scale, of x = xt / signal_scale, from epsilon = sigma[0] to T = sigma[T - 1].

Papers: Consistency Models, Song et al. 2023 (2303.01469); EDM, Karras et al. 2022 (2206.00364).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..checks import Levels, Positive, checked
from ..config import UNetConfig
from ..networks.unet import UNet
from .samplers import timesteps
from .schedules import Named, Schedule, make_schedule


def boundary_scales(schedule: Schedule) -> tuple[Tensor, Tensor]:
    """c_skip and c_out of Song et al. 2023, section 3 and appendix C, at each level, with sigma_data = 1: two float64
    tables (T,), 1 and 0 at index 0.

    c_skip = 1 / ((sigma - epsilon)^2 + 1) and c_out = (sigma - epsilon) / sqrt(1 + sigma^2). With epsilon = 0 these are
    EDM's, and f = c_skip x + c_out F is what v-prediction says of x0: there c_skip x = signal_scale xt and c_out =
    noise_scale, so F is -v. That is why a trained denoiser's weights are a start.
    """
    sigma = schedule.noise_scale / schedule.signal_scale
    above = sigma - sigma[0]
    return 1 / (above.square() + 1), above / (sigma.square() + 1).sqrt()


@checked
class ConsistencyConfig:
    """A consistency model: its U-Net, and the schedule that its levels are those of, as `make_schedule` takes it."""

    unet: UNetConfig
    schedule: Named
    T: Levels = 1000
    shift: Positive = 1.0

    @property
    def in_channels(self) -> int:
        return self.unet.in_channels

    @property
    def num_classes(self) -> int | None:
        return self.unet.num_classes


class ConsistencyModel(nn.Module):
    """f(xt, t), the picture at the end of the line through xt: from (B, C, H, W) and int64 (B,) to (B, C, H, W).

    A U-Net between the two scales of `boundary_scales`, so that f(xt, 0) = xt / signal_scale[0], whatever the weights.
    To whoever samples it is a network that predicts x0. `condition` is the U-Net's.
    """

    def __init__(self, config: ConsistencyConfig):
        super().__init__()
        self.config = config
        self.unet = UNet(config.unet)
        with torch.device("cpu"):  # numbers also where the network is only planned
            schedule = make_schedule(config.schedule, config.T, config.shift)
            skip, out = boundary_scales(schedule)
            skip = skip / schedule.signal_scale  # of xt, where c_skip is of x
        self.register_buffer("skip", skip.float(), persistent=False)
        self.register_buffer("out", out.float(), persistent=False)

    def forward(self, xt: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        v = self.unet(xt, t, condition).float()
        skip, out = (table[t].view(-1, 1, 1, 1) for table in (self.skip, self.out))
        return skip * xt - out * v


def started_from(unet: nn.Module, schedule: Schedule, prediction: str) -> ConsistencyModel:
    """A consistency model with a copy of a trained denoiser's weights.

    ValueError: it predicts something other than v, or is no `UNet`, or its schedule has betas of its own.
    """
    if prediction != "v":
        raise ValueError(f"prediction={prediction!r}; a consistency model starts from a denoiser that predicts 'v'")
    if not isinstance(unet, UNet):
        raise ValueError(f"a consistency model starts from a UNet; this is a {type(unet).__name__}")
    model = ConsistencyModel(ConsistencyConfig(unet.config, schedule.name, schedule.T, schedule.shift))
    if not torch.equal(make_schedule(schedule.name, schedule.T, schedule.shift).alpha_bar, schedule.alpha_bar):
        raise ValueError(f"a {schedule.name!r} schedule with its own betas has no name to go by; take make_schedule's")
    model.unet.load_state_dict(unet.state_dict())
    return model


@torch.no_grad()
def multistep(
    predict_x0: Callable[[Tensor, int], Tensor],
    noise: Tensor,
    schedule: Schedule,
    *,
    steps: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Multistep consistency sampling, Song et al. 2023, algorithm 1: from `noise` (B, ...) to pictures or latents like
    it, one call of `predict_x0` a step (see `samplers.x0_predictor`), at `steps` trailing timesteps.

    The first call draws a picture from pure noise. Each further one adds fresh noise, from `generator`, back up to a
    lower level, and goes to the end again: x + sqrt(sigma_t^2 - epsilon^2) z, since x has the noise epsilon already.
    ValueError: `steps` outside 1..T, or more than one without a generator.
    """
    first, *others = timesteps(schedule.T, steps).tolist()
    if others and generator is None:
        raise ValueError(f"steps={steps} draws new noise after each step but the last; give it a generator")
    x0, lowest = predict_x0(noise, first), (1 / schedule.alpha_bar[0] - 1).item()  # epsilon^2
    for t in others:
        alpha_bar = schedule.alpha_bar[t].item()
        z = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=generator.device).to(x0.device)
        added = max(1 - alpha_bar * (1 + lowest), 0.0)  # max: rounding may fall below 0 at index 0
        x0 = predict_x0(math.sqrt(alpha_bar) * x0 + math.sqrt(added) * z, t)
    return x0

"""Rectified flow: straight lines from noise to pictures, and the paths that a network makes of them (chapter 9).

y = (1 - s) x0 + s eps runs in a straight line from a picture, s = 0, to noise, s = 1, at the speed u = eps - x0. A
network learns the mean of u at each y and s, and dy/ds = u_theta leads from noise to pictures (Liu et al. 2022,
2209.03003; Lipman et al. 2022, 2210.02747; Esser et al. 2024, 2403.03206, "SD 3").

Nothing of this needs a machine of its own. x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps, whatever the schedule,
is y at s = noise_scale / (signal_scale + noise_scale), divided by the root of (1 - s)^2 + s^2; the network is given
x_t. So a flow is a schedule, 'flow', whose levels are spaced evenly in s; a prediction, 'u'; and a density of times,
`FlowObjective`'s. The step of DDIM with eta = 0 is Euler's step on dy/ds, on every schedule: it goes straight on from
one s to the next towards the x0 that it sees. Of second order is `heun`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .objectives import BatchRandom, DenoisingObjective
from .samplers import ddim_step, path, sample
from .schedules import Schedule

TIMES = ("uniform", "logit-normal")
LEAST = 0.05  # JiT's lower bound of what errors of x0 and eps are divided by, in its v-loss


class FlowObjective(DenoisingObjective):
    """E |u_theta(x_t, t) - (eps - x0)|^2, the conditional flow matching loss (Lipman et al. 2022; SD 3, section 2).

    `times`: 'uniform' over the schedule's levels, or 'logit-normal', the logistic function of a standard normal number,
    which is in the middle more often (SD 3, section 3.1: the one that it ranks first, m = 0 and s = 1). A shift of the
    schedule moves both. What the network says may also be x0, eps or v: then u is taken from it, and the loss is of u
    all the same (Li & He 2025, JiT, table 1, its third row), where the error of x0 is divided by s, that of eps by
    1 - s, and neither by less than LEAST. The other options are `DenoisingObjective`'s. ValueError: unknown times.
    """

    def __init__(self, data, schedule: Schedule, prediction: str, *, times: str = "uniform", **options):
        if times not in TIMES:
            raise ValueError(f"times={times!r}; expected 'uniform' or 'logit-normal'")
        super().__init__(data, schedule, prediction, **options)
        self.density = times
        self.weight = velocity_weight(schedule, prediction).float()

    def to(self, device: torch.device) -> FlowObjective:
        self.weight = self.weight.to(device)
        return super().to(device)

    def describe(self) -> str:
        return f"{super().describe()}, as a flow, {self.density} times"

    def times(self, rng: BatchRandom) -> Tensor:
        T = self.schedule.T
        if self.density == "uniform":
            return rng.integers(T)
        return (rng.normal().sigmoid() * T).long().clamp(max=T - 1)  # index t is the level (t + 1) / T

    def loss(self, pred: Tensor, wanted: Tensor, t: Tensor) -> Tensor:
        return (self.weight[t] * (pred - wanted).square().flatten(1).mean(1)).mean()


def velocity_weight(schedule: Schedule, prediction: str) -> Tensor:
    """What an error of the prediction, squared, is multiplied by to be the error of u at the same x_t: float64 (T,)."""
    signal, noise = schedule.signal_scale, schedule.noise_scale
    s = noise / (signal + noise)
    return {
        "u": torch.ones_like(s),
        "v": (signal + noise).square(),
        "x0": s.clamp(min=LEAST) ** -2,
        "eps": (1 - s).clamp(min=LEAST) ** -2,
    }[prediction]


def position(alpha_bar: float) -> tuple[float, float]:
    """(s, scale): where on the line from picture to noise the level alpha_bar lies, and y = scale * x_t there."""
    signal, noise = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    return noise / (signal + noise), 1 / (signal + noise)


def velocity(xt: Tensor, x0_hat: Tensor, alpha_bar: float) -> Tensor:
    """dy/ds = eps_hat - x0_hat at x_t, (B, ...); alpha_bar below 1."""
    s, scale = position(alpha_bar)
    return (scale * xt - x0_hat) / s


@torch.no_grad()
def heun(predict_x0: Callable[[Tensor, int], Tensor], noise: Tensor, schedule: Schedule, *, steps: int) -> Tensor:
    """From noise (B, ...) to samples by Heun's method on dy/ds: 2 * steps - 1 calls of `predict_x0`.

    Each step goes where Euler's would, asks again there, and goes with the mean of both velocities (EDM's algorithm 1,
    Karras et al. 2022, in s). The step to the clean picture, s = 0, is Euler's, as there. Timesteps are trailing, as
    those of `samplers.sample`. ValueError: steps outside 1 to T.
    """
    alpha_bars = [*schedule.alpha_bar.tolist(), 1.0]  # at -1, the clean picture
    xt = noise
    for t, to in path(schedule.T, steps):
        here, there = alpha_bars[t], alpha_bars[to]
        x0_hat = predict_x0(xt, t)
        ahead = ddim_step(xt, x0_hat, here, there)
        if there < 1:
            (s, scale), (s_there, scale_there) = position(here), position(there)
            mean = (velocity(xt, x0_hat, here) + velocity(ahead, predict_x0(ahead, to), there)) / 2
            ahead = (scale * xt + (s_there - s) * mean) / scale_there
        xt = ahead
    return xt


def evaluations(method: str, steps: int) -> int:
    """Calls of the network, without guidance: `steps`, or 2 * steps - 1 for 'heun'."""
    return 2 * steps - 1 if method == "heun" else steps


class Straightness(NamedTuple):
    """S(Z) per value, with its standard `error` over the paths, and the mean square per value of what the paths cross,
    `span`: S(Z) / span compares spaces whose pictures are not of one scale."""

    s: float
    error: float
    span: float


def straightness(
    predict_x0: Callable[[Tensor, int], Tensor], noise: Tensor, schedule: Schedule, *, steps: int = 100
) -> Straightness:
    """How straight the paths of a denoiser are: S(Z) = E of the integral of |(Z_1 - Z_0) - dZ/ds|^2 over s in [0, 1],
    which is 0 where one step of Euler's is enough (Liu et al. 2022, section 2).

    Z is y along the sampler's path from each of `noise` (B, ...), B at least 2, by `steps` steps. Whatever was trained
    and on which schedule: dy/ds is measured in the one s, so that denoisers compare. ValueError: fewer than two paths.
    """
    if len(noise) < 2:
        raise ValueError(f"{len(noise)} path; expected at least 2, for an error")
    alpha_bars = schedule.alpha_bar.tolist()
    pairs = path(schedule.T, steps)
    first, _ = position(alpha_bars[pairs[0][0]])
    total, squares = torch.zeros_like(noise), torch.zeros(len(noise), device=noise.device)

    def add(_i: int, t: int, xt: Tensor, x0_hat: Tensor) -> None:
        nonlocal total, squares
        _, to = pairs[_i]
        ds = position(alpha_bars[t])[0] - (position(alpha_bars[to])[0] if to >= 0 else 0.0)
        u = velocity(xt, x0_hat, alpha_bars[t])
        total = total + ds * u
        squares = squares + ds * u.square().flatten(1).mean(1)

    sample(predict_x0, noise, schedule, steps=pairs, callback=add)
    mean = total / first  # (Z_1 - Z_0), over the part of [0, 1] that the schedule covers
    spans = mean.square().flatten(1).mean(1)
    each = squares / first - spans  # the mean square of dZ/ds about its mean
    return Straightness(each.mean().item(), (each.std() / len(each) ** 0.5).item(), spans.mean().item())

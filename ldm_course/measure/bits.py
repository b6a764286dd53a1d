"""What a denoiser spends on detail: the terms of DDPM's variational bound, beside the distortion left (chapter 4).

Papers: DDPM, Ho et al. 2020 (2006.11239); variational diffusion models, Kingma et al. 2021 (2107.00630).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..diffusion.schedules import Schedule, add_noise, to_x0
from . import spectra
from .content import GRID, VISIBLE, grey


@torch.no_grad()
def denoised(
    model: Callable,
    x0: Tensor,
    t: int,
    schedule: Schedule,
    *,
    prediction: str,
    clip_x0: bool,
    generator: torch.Generator,
    batch_size: int = 64,
) -> Tensor:
    """x0_hat like x0 (N, C, H, W): one draw of xt at index t for each picture, and the network's word on it.

    No labels are given. The same `generator` state gives the same noise on every device.
    """
    found = []
    for part in x0.split(batch_size):
        eps = torch.randn(part.shape, generator=generator, device=generator.device).to(part.device)
        xt = add_noise(part, eps, t, schedule)
        x0_hat = to_x0(model(xt, torch.full((len(part),), t, device=part.device)), xt, t, schedule, prediction)
        found.append(x0_hat.clamp(-1, 1) if clip_x0 else x0_hat)
    return torch.cat(found)


def at_every_level(levels: Sequence[int], values: Tensor, schedule: Schedule) -> Tensor:
    """Positive `values` measured at some rising `levels`, read at all T: float64 (T,).

    Straight lines of log value against log SNR; before the first level and after the last, the value there.
    ValueError: not one value for each of at least two rising levels.
    """
    if len(levels) != len(values) or len(levels) < 2 or sorted(set(levels)) != list(levels):
        raise ValueError(f"got levels {list(levels)} for {len(values)} values; expected one for each of 2 or more")
    x, y = -schedule.snr.log(), torch.as_tensor(values, dtype=torch.float64).log()
    at = x[torch.tensor(levels)]
    right = torch.searchsorted(at, x).clamp(1, len(levels) - 1)
    share = ((x - at[right - 1]) / (at[right] - at[right - 1])).clamp(0, 1)
    return torch.lerp(y[right - 1], y[right], share).exp()


def transition_bits(mse: Tensor, schedule: Schedule) -> Tensor:
    """The terms L_{t-1} of DDPM eq. 5 in bits a dimension, float64 (T,), from the error of x0_hat at each index t.

    Where the model's step has the posterior's variance (beta tilde, eq. 7), the KL of two Gaussians is
    |mu(xt, x0) - mu(xt, x0_hat)|^2 / (2 beta tilde) = (SNR(t-1) - SNR(t)) / 2 |x0 - x0_hat|^2 nats
    (Kingma et al. 2021, section 4). Entry 0 is 0: the last step has no such term, but `decoder_bits`.
    mse (T,): mean squared error of values in [-1, 1]. ValueError: another shape.
    """
    if mse.shape != (schedule.T,):
        raise ValueError(f"mse has shape {tuple(mse.shape)}; expected ({schedule.T},), one value for each level")
    bits = torch.zeros(schedule.T, dtype=torch.float64)
    bits[1:] = -0.5 * schedule.snr.diff() * mse[1:].double() / math.log(2)
    return bits


def prior_bits(x0: Tensor, schedule: Schedule) -> float:
    """L_T of DDPM eq. 5, KL(q(x_T | x0) || N(0, 1)), in bits a dimension; x0 (N, C, H, W) in [-1, 1]."""
    left = schedule.alpha_bar[-1].item()
    return 0.5 * (left * x0.double().square().mean().item() - left - math.log1p(-left)) / math.log(2)


def decoder_bits(x0: Tensor, x0_hat: Tensor, std: float) -> float:
    """L_0 of DDPM eq. 5 in bits a dimension: what the exact bytes cost, given x0_hat (N, C, H, W) at index 0.

    The discretised Gaussian of eq. 13: the mass of N(x0_hat, std^2) between x0 - 1/255 and x0 + 1/255, where the
    intervals of the bytes 0 and 255 are open at their outer ends. x0 holds u / 127.5 - 1 for bytes u.
    """
    x, mean, root = x0.double(), x0_hat.double(), std * math.sqrt(2)
    low = torch.where(x < -1 + 1e-3, -torch.inf, (x - 1 / 255 - mean) / root)
    high = torch.where(x > 1 - 1e-3, torch.inf, (x + 1 / 255 - mean) / root)
    mirrored = low + high < 0  # the mass is a difference of tails on the side where they are small
    near, far = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
    mass = 0.5 * (torch.special.erfc(near) - torch.special.erfc(far))
    return -mass.clamp(min=1e-300).log2().mean().item()


LEVELS = (0, 2, 5, 12, 25, 50, 90, 150, 250, 350, 450, 550, 650, 750, 850, 930, 970, 999)


@dataclass(frozen=True)
class Errors:
    """A pixel denoiser's guesses at held-out pictures x0 (N, 3, H, H), one for each picture at some levels t.

    As frequencies, as the loss of v and as bits, at these levels or, (T,), at all of them (`at_every_level`). An error
    of v is one of x0_hat over sqrt(1 - alpha_bar), so the loss of v is (1 + SNR) |x0 - x0_hat|^2.
    """

    x0: Tensor
    guesses: Mapping[int, Tensor]
    schedule: Schedule
    grid: int = GRID

    @cached_property
    def mse(self) -> Tensor:
        return torch.tensor([(guess - self.x0).double().square().mean() for guess in self.guesses.values()])

    @cached_property
    def all_mse(self) -> Tensor:
        return at_every_level(list(self.guesses), self.mse, self.schedule)

    @cached_property
    def spectra(self) -> dict[int, spectra.Spectrum]:
        return {t: spectra.power_spectrum(guess - self.x0) for t, guess in self.guesses.items()}

    @cached_property
    def above_grid(self) -> Tensor:
        """The part of the squared error that lies above `grid` cycles a side, at each measured level."""
        parts = [_above(s, self.grid) for s in self.spectra.values()]
        return torch.tensor(parts, dtype=torch.float64)

    @property
    def distortion(self) -> Tensor:
        """The error of x0_hat at all levels, RMSE in grey levels."""
        return grey(self.all_mse.sqrt())

    @property
    def v_loss(self) -> Tensor:
        return self.all_mse * (1 + self.schedule.snr)

    @cached_property
    def bits(self) -> Tensor:
        return transition_bits(self.all_mse, self.schedule)

    @cached_property
    def last_bits(self) -> float:
        """L_0, the exact bytes from the best guess."""
        return decoder_bits(self.x0, self.guesses[0], self.schedule.noise_scale[0].item())

    @property
    def rate(self) -> float:
        return self.bits.sum().item() + prior_bits(self.x0, self.schedule)

    @property
    def total_bits(self) -> float:
        return self.rate + self.last_bits

    def loss_above_grid(self) -> float:
        high = at_every_level(list(self.guesses), self.mse * self.above_grid, self.schedule)
        return ((high * (1 + self.schedule.snr)).sum() / self.v_loss.sum()).item()

    def finer_than(self, grey_levels: float) -> dict[str, float]:
        """What is spent where the guess is already better than so much, so that only finer detail is undecided: the
        part of the noise levels, of the training loss and of the code, where L_0 belongs to the first level."""
        below = self.distortion < grey_levels
        parts = {
            "noise levels": below.double().mean(),
            "training loss": self.v_loss[below].sum() / self.v_loss.sum(),
            "bits": (self.bits[below].sum() + (self.last_bits if below[0] else 0)) / self.total_bits,
        }
        return {name: float(value) for name, value in parts.items()}

    def results(self, visible: float = VISIBLE) -> dict:
        """For a record, and for the judges of C4.1."""
        clean = spectra.power_spectrum(self.x0)
        return {
            "pictures": len(self.x0),
            "visible": visible,
            "grid": self.grid,
            "finer_than_visible": self.finer_than(visible),
            "loss_above_grid": self.loss_above_grid(),
            "waves_above_grid": (clean.modes[self.grid + 1 :].sum() / clean.modes.sum()).item(),
            "variation_above_grid": _above(clean, self.grid, first=1),
            "rate": self.rate,
            "last_bits": self.last_bits,
            "levels": list(self.guesses),
            "rmse": grey(self.mse.sqrt()),
            "above_grid": self.above_grid,
        }


def _above(s: spectra.Spectrum, grid: int, first: int = 0) -> float:
    power = s.power * s.modes
    return (power[grid + 1 :].sum() / power[first:].sum()).item()


def errors_of(denoiser: Denoiser, x0: Tensor, levels: Iterable[int] = LEVELS, *, grid: int = GRID) -> Errors:
    """One draw of noise for each picture of x0 (N, 3, H, H) at each level, and the network's clipped guess.

    ValueError: it predicts something else than v, or not in pixels.
    """
    if denoiser.prediction != "v" or denoiser.space.name != "pixel":
        raise ValueError(f"got {denoiser.prediction} in {denoiser.space.name} space; expected v in pixel space")
    device, rng = next(denoiser.model.parameters()).device, torch.Generator().manual_seed(0)
    options = {"prediction": "v", "clip_x0": True, "generator": rng}
    guesses = {t: denoised(denoiser.model, x0.to(device), t, denoiser.schedule, **options).cpu() for t in levels}
    return Errors(x0, guesses, denoiser.schedule, grid)

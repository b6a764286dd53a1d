"""Noise schedules, the forward process, and the things a network may predict (chapters 0 and 9).

The papers count noise levels t = 1..T and put the clean picture at t = 0. Code counts from zero: index
t = 0..T-1 is the papers' t + 1, so `alpha_bar[0]` is already a little noisy, and the clean picture, for
which alpha_bar = 1, has no index.

Tables are float64 and stay on the CPU; results come in the picture's dtype, on the picture's device.

Papers: DDPM, Ho et al. 2020 (2006.11239); Improved DDPM, Nichol & Dhariwal 2021 (2102.09672); progressive
distillation, Salimans & Ho 2022 (2202.00512); simple diffusion, Hoogeboom et al. 2023 (2301.11093); rectified flow,
Liu et al. 2022 (2209.03003); flow matching, Lipman et al. 2022 (2210.02747); SD 3, Esser et al. 2024 (2403.03206).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from ..checks import Levels, Shift, check, shaped

Prediction = Literal["eps", "x0", "v", "u"]
Named = Literal["linear", "sqrt_linear", "cosine", "flow"]
PREDICTIONS, SCHEDULES = get_args(Prediction), get_args(Named)

# (first beta, last beta) at T = 1000, as published: DDPM section 4, and Stable Diffusion's configuration.
BETA_RANGE = {"linear": (1e-4, 0.02), "sqrt_linear": (0.00085, 0.012)}

LEAST_SIGNAL = 1e-6  # of a flow at its end, where there should be none: alpha_bar stays above 0
LARGEST_GAIN = 1000  # that an error of the network's may have in x0 at the first step, where x0 is not clipped


@dataclass(frozen=True, eq=False)
class Schedule:
    """How much signal is left at each of T noise levels.

    `alpha_bar`: float64 (T,), the product of the alphas up to each index; strictly decreasing, inside (0, 1).
    Everything else follows from it. Refuses a table that is not so with a ValueError.
    """

    alpha_bar: Tensor
    name: str = "custom"
    shift: float = 1.0

    def __post_init__(self):
        table = torch.as_tensor(self.alpha_bar, dtype=torch.float64, device="cpu")
        if table.ndim != 1 or len(table) == 0:
            raise ValueError(f"alpha_bar has shape {tuple(table.shape)}; expected (T,) with T at least 1")
        falling = torch.cat([torch.ones(1, dtype=table.dtype), table, torch.zeros(1, dtype=table.dtype)])
        if not bool((falling.diff() < 0).all()):
            raise ValueError("alpha_bar must fall strictly from below 1 to above 0; this table does not")
        object.__setattr__(self, "alpha_bar", table)

    @property
    def T(self) -> int:
        """The number of noise levels."""
        return len(self.alpha_bar)

    @cached_property
    def alpha(self) -> Tensor:
        """The share of the variance that one forward step keeps: alpha_bar[t] / alpha_bar[t - 1]. (T,)"""
        return torch.cat([self.alpha_bar[:1], self.alpha_bar[1:] / self.alpha_bar[:-1]])

    @cached_property
    def beta(self) -> Tensor:
        """The variance that one forward step adds, DDPM eq. 2. (T,)"""
        return 1 - self.alpha

    @cached_property
    def signal_scale(self) -> Tensor:
        """sqrt(alpha_bar): the factor on x0 in DDPM eq. 4. (T,)"""
        return self.alpha_bar.sqrt()

    @cached_property
    def noise_scale(self) -> Tensor:
        """sqrt(1 - alpha_bar): the factor on eps in DDPM eq. 4. (T,)

        At t = 0, 1 - alpha_bar is about 1e-4: taken in float32 it would keep three of its seven digits. Taken
        in float64 it keeps twelve, and only the root is rounded to the picture's dtype.
        """
        return (1 - self.alpha_bar).sqrt()

    @cached_property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio, a ratio of variances: alpha_bar / (1 - alpha_bar). (T,)"""
        return self.alpha_bar / (1 - self.alpha_bar)

    @cached_property
    def _moved(self) -> dict:
        return {}

    def scales(self, t: Tensor | int, like: Tensor) -> tuple[Tensor, Tensor] | tuple[float, float]:
        """(signal_scale, noise_scale) at index t, ready to multiply `like` of shape (B, ...).

        A tensor t, int64 (B,), gives two tensors of shape (B, 1, ...) on `like`'s device; an int t gives two
        floats. Half-precision pictures get float32 scales. Refuses a t of another kind or shape with a
        ValueError; the values of a tensor t are not looked at, since that would make the GPU wait.
        """
        if not isinstance(t, Tensor):
            if not (hasattr(t, "__index__") and 0 <= t < self.T):
                raise ValueError(f"t={t} is not an index of this schedule; expected 0 to {self.T - 1}")
            return self.signal_scale[t].item(), self.noise_scale[t].item()
        shaped(t, "t, one index for each picture", "int64", len(like))
        dtype = torch.promote_types(like.dtype, torch.float32)
        key = (like.device, dtype)
        if key not in self._moved:  # copied once, since each copy to a GPU makes it wait
            self._moved[key] = tuple(s.to(dtype).to(like.device) for s in (self.signal_scale, self.noise_scale))
        shape = (-1,) + (1,) * (like.ndim - 1)
        signal, noise = self._moved[key]
        return signal[t].view(shape), noise[t].view(shape)


def make_schedule(
    name: str,
    T: int = 1000,
    shift: float = 1.0,
    beta_start: float | None = None,
    beta_end: float | None = None,
) -> Schedule:
    """The schedule of that name with T noise levels.

    - `linear`: beta rises linearly, from 1e-4 to 0.02 (DDPM section 4).
    - `sqrt_linear`: sqrt(beta) rises linearly, beta from 0.00085 to 0.012 (Stable Diffusion; diffusers calls
      it "scaled_linear", and the latent-diffusion code calls it "linear").
    - `cosine`: alpha_bar is a squared cosine, beta at most 0.999 (Improved DDPM eq. 17).
    - `flow`: the noise levels of rectified flow, y = (1 - s) x0 + s eps at s = 1/T, 2/T ... 1. Divided by the root of
      (1 - s)^2 + s^2, y keeps the variance like all the others here; `flow` has the way back.

    The published betas are for T = 1000. For another T they are multiplied by 1000 / T, so that about the
    same signal is left at the end; `beta_start` and `beta_end`, when given, are taken as they are.

    `shift` multiplies the noise-to-signal ratio noise_scale / signal_scale at every level, hence divides the
    SNR by shift squared. A larger picture survives the same noise better, because neighbouring pixels repeat
    each other: size / 64 is the choice of Hoogeboom et al. 2023, section 3.1, for a schedule tuned at
    64 x 64 pixels. Of a flow it makes s into shift s / (1 + (shift - 1) s), which is SD 3's.

    Raises ValueError for an unknown name, T outside 1 to 100,000, a shift outside (0, 1e6], or betas
    outside (0, 1).
    """
    for field, kind, value in (("schedule", Named, name), ("T", Levels, T), ("shift", Shift, shift)):
        check(kind, value, field)
    if name in ("cosine", "flow"):
        if beta_start is not None or beta_end is not None:
            raise ValueError(f"the {name} schedule has no beta_start or beta_end; leave them out")
        alpha_bar = (1 - _cosine_beta(T)).cumprod(0) if name == "cosine" else _flow_alpha_bar(T)
    else:
        first, last = (b * 1000 / T for b in BETA_RANGE[name])
        first = first if beta_start is None else beta_start
        last = last if beta_end is None else beta_end
        if not (0 < first < 1 and 0 < last < 1):
            raise ValueError(f"betas from {first:g} to {last:g} at T={T}; expected inside (0, 1): take a larger T")
        if name == "linear":
            beta = torch.linspace(first, last, T, dtype=torch.float64)
        else:
            beta = torch.linspace(first**0.5, last**0.5, T, dtype=torch.float64) ** 2
        alpha_bar = (1 - beta).cumprod(0)
    alpha_bar = alpha_bar / (alpha_bar + shift**2 * (1 - alpha_bar))  # the alpha_bar whose SNR is 1/shift^2 as large
    return Schedule(alpha_bar, name, shift)


def _cosine_beta(T: int) -> Tensor:
    """Improved DDPM eq. 17 with s = 0.008; the cap keeps the last beta away from 1."""
    u = torch.arange(T + 1, dtype=torch.float64) / T
    f = torch.cos((u + 0.008) / 1.008 * torch.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=0.999)


def _flow_alpha_bar(T: int) -> Tensor:
    """(1 - s)^2 / ((1 - s)^2 + s^2): SD 3's section 3, its signal and noise as shares of the variance."""
    signal = (1 - torch.arange(1, T + 1, dtype=torch.float64) / T).clamp(min=LEAST_SIGNAL)
    return signal**2 / (signal**2 + (1 - signal) ** 2)


def add_noise(x0: Tensor, eps: Tensor, t: Tensor | int, schedule: Schedule) -> Tensor:
    """The forward process in one jump: xt = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps, DDPM eq. 4.

    x0, eps: float (B, C, H, W). t: int64 (B,), or one int for all. Returns xt like x0. ValueError, as from all that
    follow: two tensors that are not alike, or no floating-point ones.
    """
    check_prediction("eps", x0, eps)
    signal, noise = schedule.scales(t, x0)
    return (signal * x0 + noise * eps).to(x0.dtype)


def target(x0: Tensor, eps: Tensor, t: Tensor | int, schedule: Schedule, prediction: str) -> Tensor:
    """What the network should have said at index t, (B, C, H, W).

    'eps': the noise, DDPM eq. 14. 'x0': the clean picture. 'v': signal_scale * eps - noise_scale * x0, the
    velocity on the circle between the two (Salimans & Ho 2022, section 4 and appendix D). 'u': eps - x0, the velocity
    on the straight line between them (Lipman et al. 2022; Liu et al. 2022), at every t the same.
    """
    check_prediction(prediction, x0, eps)
    if prediction == "eps":
        return eps
    if prediction == "x0":
        return x0
    if prediction == "u":
        return eps - x0
    signal, noise = schedule.scales(t, x0)
    return (signal * eps - noise * x0).to(x0.dtype)


def to_x0(pred: Tensor, xt: Tensor, t: Tensor | int, schedule: Schedule, prediction: str) -> Tensor:
    """The clean picture that a prediction implies at xt: DDPM eq. 15 for eps, Salimans & Ho app. D for v.

    For u, xt = signal_scale x0 + noise_scale (x0 + u), solved for x0.
    """
    check_prediction(prediction, xt, pred)
    if prediction == "x0":
        return pred.to(xt.dtype)
    signal, noise = schedule.scales(t, xt)
    if prediction == "v":
        return (signal * xt - noise * pred).to(xt.dtype)
    return ((xt - noise * pred) / (signal if prediction == "eps" else signal + noise)).to(xt.dtype)


def to_eps(pred: Tensor, xt: Tensor, t: Tensor | int, schedule: Schedule, prediction: str) -> Tensor:
    """The noise that a prediction implies at xt: DDPM eq. 4 solved for eps."""
    check_prediction(prediction, xt, pred)
    if prediction == "eps":
        return pred.to(xt.dtype)
    signal, noise = schedule.scales(t, xt)
    if prediction == "v":
        return (noise * xt + signal * pred).to(xt.dtype)
    if prediction == "u":
        return ((xt + signal * pred) / (signal + noise)).to(xt.dtype)
    return ((xt - signal * pred) / noise).to(xt.dtype)


def to_v(pred: Tensor, xt: Tensor, t: Tensor | int, schedule: Schedule, prediction: str) -> Tensor:
    """The velocity that a prediction implies at xt: `target`'s formula with eps or x0 eliminated."""
    check_prediction(prediction, xt, pred)
    if prediction == "v":
        return pred.to(xt.dtype)
    signal, noise = schedule.scales(t, xt)
    if prediction == "u":
        return ((pred + (signal - noise) * xt) / (signal + noise)).to(xt.dtype)
    v = (pred - noise * xt) / signal if prediction == "eps" else (signal * xt - pred) / noise
    return v.to(xt.dtype)


def check_prediction(prediction: str, *pair: Tensor) -> None:
    """ValueError unless it is one of PREDICTIONS, and a picture and what stands beside it are floating-point and alike:
    one picture's noise would be broadcast to all, and bytes would wrap."""
    check(Prediction, prediction, "prediction")
    for tensor in pair:
        shaped(tensor, "a picture, its noise or prediction", "float", *getattr(pair[0], "shape", ()))


def check_invertible(schedule: Schedule, prediction: str, clip_x0: bool) -> None:
    """ValueError for a pair that gives no x0 where sampling starts: there eps is divided by a signal of nearly nothing,
    so that any error of the network's becomes a sample in the thousands, unless x0 is clipped.

    At the last index the cosine schedule leaves a signal of 5e-5 and a flow 1e-6; linear ones leave 6e-3 and 7e-2.
    """
    if not isinstance(schedule, Schedule):
        raise ValueError(f"schedule={schedule!r:.40}; expected a Schedule, as make_schedule gives it")
    one = torch.ones(1, dtype=torch.float64)
    gain = to_x0(one, 0 * one, schedule.T - 1, schedule, prediction).abs().item()
    if not clip_x0 and not gain <= LARGEST_GAIN:
        raise ValueError(
            f"prediction {prediction!r} with the {schedule.name} schedule, where x0 is not clipped: the first step "
            f"multiplies the network's error by {gain:.2g}; take prediction 'v', or the schedule 'sqrt_linear'"
        )

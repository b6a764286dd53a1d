"""From noise to a picture: DDPM, DDIM and DPM-Solver++, and classifier-free guidance (chapters 0 and 6).

A step is a pure function of xt, of the predicted clean picture x0_hat, and of two numbers: `alpha_bar` where
we are and `alpha_bar_prev` where we go. It neither knows nor asks whether xt holds pixels or latents.
`x0_predictor` makes the guess out of a network, and `sample` is the only loop. It lands on alpha_bar_prev = 1, the
clean picture, so the last step returns x0_hat and adds no noise.

The numbers are Python floats, taken once from the float64 table. PyTorch hands a float to a kernel as an
argument, so a step neither copies anything to a GPU nor waits for it.

Papers: DDPM, Ho et al. 2020 (2006.11239); DDIM, Song et al. 2021 (2010.02502); Improved DDPM, Nichol &
Dhariwal 2021 (2102.09672); classifier-free guidance, Ho & Salimans 2022 (2207.12598); DPM-Solver++, Lu et
al. 2022 (2211.01095); guidance in an interval, Kynkäänniemi et al. 2024 (2404.07724).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..checks import Jumps, Share, check, shaped
from .schedules import Schedule, check_prediction, to_x0

CALLED = {"ddpm": "DDPM", "ddim": "DDIM", "dpmpp": "DPM-Solver++"}  # by the name that is typed
METHODS = tuple(CALLED)
Method, Spacing = Literal[METHODS], Literal["trailing", "leading"]
Previous, Variance = Literal["listed", "diffusers"], Literal["posterior", "beta"]


def timesteps(schedule_T: int, steps: int, spacing: str = "trailing") -> Tensor:
    """The indices at which the network is called: int64 (steps,), falling, exactly `steps` different ones.

    - `trailing` starts at T - 1, where training saw the purest noise, and goes down by T / steps, rounded.
    - `leading` goes down to index 0 by T // steps, so it starts below T - 1 (at 957 for 30 of 1000), although
      what it is given is pure noise.

    Both are rows of Table 2 of Lin et al. 2023 (2305.08891), which recommends trailing. Raises ValueError
    unless 1 <= steps <= T.
    """
    if not 1 <= steps <= schedule_T or steps != int(steps):
        raise ValueError(f"steps={steps}; expected a whole number from 1 to {schedule_T}, the schedule's T")
    steps = int(steps)
    check(Spacing, spacing, "spacing")
    if spacing == "trailing":
        listed = [round(schedule_T * i / steps) - 1 for i in range(steps, 0, -1)]
    else:
        listed = [schedule_T // steps * i for i in range(steps - 1, -1, -1)]
    return torch.tensor(listed)


def path(schedule_T: int, steps: int, spacing: str = "trailing", previous: str = "listed") -> list[tuple[int, int]]:
    """Where a sampler goes: `steps` pairs (t, where the step from t goes), -1 for the clean picture.

    - `spacing`: see `timesteps`.
    - `previous`: 'listed', which is ours, goes to the next listed timestep, so that each step starts at the noise
      level where the one before ended, and the last ends at alpha_bar = 1. 'diffusers' goes to t - T // steps, and to
      the clean picture where that is negative: the rule of diffusers' DDIM, kept for comparison. Leading steps, and
      trailing ones if `steps` divides T, are the same under both. Elsewhere the second rule leaves gaps, so the
      network is told a noise level that xt does not have, and the last step may stop short of the clean picture.

    Raises ValueError unless 1 <= steps <= T, and for a rule that is unknown.
    """
    listed = timesteps(schedule_T, steps, spacing).tolist()
    check(Previous, previous, "previous")
    following = listed[1:] + [-1] if previous == "listed" else [max(t - schedule_T // steps, -1) for t in listed]
    return list(zip(listed, following))


def ddpm_step(
    xt: Tensor,
    x0_hat: Tensor,
    alpha_bar: float,
    alpha_bar_prev: float,
    noise: Tensor | None = None,
    variance: str = "posterior",
) -> Tensor:
    """Draw from q(x_prev | xt, x0 = x0_hat): DDPM eq. 6 and 7, or its mean alone where `noise` is None.

    When steps are skipped, beta is that of the whole jump (Improved DDPM eq. 19). `variance` is 'posterior',
    beta tilde of eq. 7, or 'beta', the larger of the two choices of DDPM section 3.2 (sigma hat in DDIM's
    tables). ValueError, as from all steps: x0_hat is not like xt, an alpha_bar that is none, an unknown variance.
    """
    _check_step(xt, x0_hat, alpha_bar, alpha_bar_prev, variance, noise=noise)
    alpha = alpha_bar / alpha_bar_prev
    beta = 1 - alpha
    from_x0 = math.sqrt(alpha_bar_prev) * beta / (1 - alpha_bar)
    from_xt = math.sqrt(alpha) * (1 - alpha_bar_prev) / (1 - alpha_bar)
    mean = from_x0 * x0_hat + from_xt * xt
    if noise is None:
        return mean
    beta_tilde = (1 - alpha_bar_prev) / (1 - alpha_bar) * beta
    return mean + math.sqrt(beta_tilde if variance == "posterior" else beta) * noise


def ddim_step(
    xt: Tensor,
    x0_hat: Tensor,
    alpha_bar: float,
    alpha_bar_prev: float,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """Predicted x0, plus the direction that points to xt, plus noise: DDIM eq. 12, with step_std from eq. 16.

    eps_hat is taken from x0_hat and xt. Where x0_hat was clipped, the two thus still make up xt, and eta = 1
    is DDPM with the posterior variance, clipped or not. With eta = 0 the step may go up as well, to an
    alpha_bar_prev below alpha_bar (`editing.invert`).
    """
    _check_step(xt, x0_hat, alpha_bar, alpha_bar_prev, eta=eta, noise=noise)
    eps_hat = (xt - math.sqrt(alpha_bar) * x0_hat) / math.sqrt(1 - alpha_bar)
    step_std = 0.0
    if eta > 0:
        ddpm_std = math.sqrt((1 - alpha_bar_prev) / (1 - alpha_bar)) * math.sqrt(1 - alpha_bar / alpha_bar_prev)
        step_std = eta * ddpm_std
    towards_xt = math.sqrt(max(1 - alpha_bar_prev - step_std**2, 0.0))  # max: rounding may fall below 0
    x_prev = math.sqrt(alpha_bar_prev) * x0_hat + towards_xt * eps_hat
    return x_prev if noise is None else x_prev + step_std * noise


def dpmpp_step(
    xt: Tensor,
    x0_hat: Tensor,
    alpha_bar: float,
    alpha_bar_prev: float,
    last: tuple[Tensor, float] | None = None,
) -> Tensor:
    """DPM-Solver++(2M): Lu et al. 2022, Algorithm 2.

    `last` is the (x0_hat, alpha_bar) of the step before, from which the change of x0_hat along the way is
    guessed; without it the step is of first order, and equals DDIM with eta = 0. So is the step to
    alpha_bar_prev = 1: there the step size h in the half log-SNR, `lam`, is infinite, and only first order
    has a limit, which is x0_hat.
    """
    _check_step(xt, x0_hat, alpha_bar, alpha_bar_prev)
    signal_prev, noise_prev = math.sqrt(alpha_bar_prev), math.sqrt(1 - alpha_bar_prev)
    signal, noise = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    exp_minus_h = (noise_prev / signal_prev) * (signal / noise)
    D = x0_hat
    if last is not None and alpha_bar_prev < 1:
        x0_last, alpha_bar_last = last
        lam_last, lam, lam_prev = (_half_log_snr(a) for a in (alpha_bar_last, alpha_bar, alpha_bar_prev))
        r = (lam - lam_last) / (lam_prev - lam)
        D = (1 + 1 / (2 * r)) * x0_hat - 1 / (2 * r) * x0_last
    return noise_prev / noise * xt + signal_prev * (1 - exp_minus_h) * D


def _check_step(xt, x0_hat, alpha_bar, alpha_bar_prev, variance="posterior", eta=0.0, noise=None):
    for name, x in {"x0_hat": x0_hat, "noise": xt if noise is None else noise}.items():
        shaped(x, name, "float", *xt.shape)
    check(Share, eta, "eta")
    if not (0 < alpha_bar < 1 and 0 <= alpha_bar_prev <= 1):
        raise ValueError(f"a step from alpha_bar={alpha_bar} to {alpha_bar_prev}; expected one inside (0, 1) to [0, 1]")
    check(Variance, variance, "variance")


def _half_log_snr(alpha_bar: float) -> float:
    return 0.5 * math.log(alpha_bar / (1 - alpha_bar))


def guided_prediction(
    model: Callable,
    xt: Tensor,
    t: Tensor,
    condition: Tensor | None = None,
    no_condition: Tensor | None = None,
    guidance_scale: float = 1.0,
) -> Tensor:
    """The network's word on xt (B, C, H, W) at t (B,), pushed away from what it says without the condition.

    pred = uncond + guidance_scale * (cond - uncond). Ho & Salimans 2022, eq. 6, write w for our
    guidance_scale - 1. Scale 1 is no guidance, and one plain call; any other is one call on a doubled batch.
    Whether the network predicts eps, x0 or v makes no difference: each is the others' affine image at a
    given xt, and the two weights add up to 1.
    """
    if condition is None:
        return model(xt, t)
    if guidance_scale == 1:
        return model(xt, t, condition)
    conditions = torch.cat([condition, no_condition])
    both = model(torch.cat([xt, xt]), torch.cat([t, t]), conditions)
    cond, uncond = both.to(xt.dtype).chunk(2)  # the scale would amplify half precision's rounding
    return uncond + guidance_scale * (cond - uncond)


def x0_predictor(
    model: Callable,
    schedule: Schedule,
    *,
    prediction: str,
    clip_x0: bool,
    condition: Tensor | None = None,
    no_condition: Tensor | None = None,
    guidance_scale: float = 1.0,
    guidance_interval: tuple[int, int] | None = None,
) -> Callable[[Tensor, int], Tensor]:
    """All that a sampler asks of a network: predict_x0(xt, t), its guess at the clean picture from xt (B, ...).

    - `model`: called as model(xt, t), or model(xt, t, condition) if there is one, with t int64 (B,); returns its
      `prediction`, one of PREDICTIONS, shaped like xt. What it predicts has no default: a wrong one draws rubbish.
    - `clip_x0`: whether the guess is clamped to [-1, 1]. True for pixels; False for latents, whose range is another.
      It has no default, because it is the one choice in which the two spaces differ.
    - `condition`: what the network is told beside xt, (B, ...), handed on unread: class indices, or embedded text;
      `no_condition`, of the same shape, is what it is told where nothing is asked for (or what is not wanted: a
      negative prompt), and `guidance_scale` as in `guided_prediction`.
    - `guidance_interval`: the first and the last index t at which it is guided; elsewhere it is told the condition, and
      no more (Kynkäänniemi et al. 2024, 2404.07724). None: everywhere.

    Raises ValueError for arguments that are unknown or do not go together, and where the model's answer has another
    shape.
    """
    check_prediction(prediction)
    _check_guidance(condition, no_condition, guidance_scale)
    first, last = guidance_interval or (0, schedule.T - 1)
    if not 0 <= first <= last < schedule.T:
        raise ValueError(f"guidance_interval={guidance_interval}; expected (first, last) within 0 to {schedule.T - 1}")

    def predict_x0(xt: Tensor, t: int) -> Tensor:
        if condition is not None and len(condition) != len(xt):
            raise ValueError(f"{len(condition)} conditions for {len(xt)} pictures; expected one for each")
        t_rows = torch.full((len(xt),), t, device=xt.device)
        scale = guidance_scale if first <= t <= last else 1.0
        pred = guided_prediction(model, xt, t_rows, condition, no_condition, scale)
        if pred.shape != xt.shape:
            raise ValueError(f"the model returned {tuple(pred.shape)} for xt of shape {tuple(xt.shape)}")
        x0_hat = to_x0(pred.to(xt.dtype), xt, t, schedule, prediction)
        return x0_hat.clamp(-1, 1) if clip_x0 else x0_hat

    return predict_x0


@torch.no_grad()
def sample(
    predict_x0: Callable[[Tensor, int], Tensor],
    noise: Tensor,
    schedule: Schedule,
    *,
    steps: int | Sequence[tuple[int, int]],
    method: str = "ddim",
    eta: float = 0.0,
    variance: str = "posterior",
    generator: torch.Generator | None = None,
    callback: Callable[[int, int, Tensor, Tensor], None] | None = None,
    progress: bool = False,
) -> Tensor:
    """Turn standard normal `noise` (B, ...) into pictures or latents like it, one call of `predict_x0` a step.

    - `predict_x0`: the guess at the clean picture from xt at index t; see `x0_predictor`.
    - `steps`: how many, at trailing timesteps; or a path of one's own, pairs (t, where the step from t goes), as
      `path` makes them. What adds no noise may also go up.
    - `method`: 'ddpm'; 'ddim', with eta from 0 (deterministic) to 1 (the same as 'ddpm'); or 'dpmpp', which is
      deterministic and of second order.
    - `variance`: for 'ddpm' only, 'posterior' or 'beta'; see `ddpm_step`.
    - `generator`: the source of the noise that 'ddpm' and eta > 0 add. A CPU generator gives the same noise on
      every device; one on xt's own device spares a copy in each step.
    - `callback`: called as callback(step_index, t, xt, x0_hat) before each step is made; step_index counts from 0.
    - `progress`: show a bar with the time left.

    Raises ValueError for `steps` outside 1..T, a guess unlike xt, and arguments unknown or that do not go together.
    """
    steps = steps.item() if isinstance(steps, (np.number, Tensor)) else steps
    pairs = path(schedule.T, steps) if isinstance(steps, (int, float)) else list(steps)
    stochastic = method == "ddpm" or eta > 0
    _check(method, eta, variance, pairs, schedule.T, noise, stochastic, generator)

    alpha_bars = [*schedule.alpha_bar.tolist(), 1.0]  # at -1, the clean picture
    xt, last = noise, None
    for i, (t, to) in enumerate(tqdm(pairs, desc=method, disable=not progress)):
        alpha_bar, alpha_bar_prev = alpha_bars[t], alpha_bars[to]
        x0_hat = predict_x0(xt, t)
        if callback is not None:
            callback(i, t, xt, x0_hat)
        fresh = _normal_like(xt, generator) if stochastic and alpha_bar_prev < 1 else None
        if method == "ddpm":
            xt = ddpm_step(xt, x0_hat, alpha_bar, alpha_bar_prev, fresh, variance)
        elif method == "ddim":
            xt = ddim_step(xt, x0_hat, alpha_bar, alpha_bar_prev, eta, fresh)
        else:
            xt = dpmpp_step(xt, x0_hat, alpha_bar, alpha_bar_prev, last)
            last = x0_hat, alpha_bar
    return xt


def _normal_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise like x. A CPU generator thus gives the same noise on every device."""
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=generator.device).to(x.device)


def _check(method, eta, variance, pairs, T, noise, stochastic, generator):
    check(Method, method, "method")
    shaped(noise, "noise", "float", *noise.shape)
    check(Jumps, pairs, "steps")
    if (last := max(map(max, pairs))) >= T:
        raise ValueError(f"steps lead over t={last}; expected 0 to {T - 1}, and -1 for the clean picture")
    check(Share, eta, "eta")
    if eta > 0 and method != "ddim":
        raise ValueError(f"eta={eta} with method={method!r}; only 'ddim' has an eta, so leave it at 0")
    if variance != "posterior" and method != "ddpm":
        raise ValueError(f"variance={variance!r} with method={method!r}; only 'ddpm' has that choice")
    if stochastic and any(to > t for t, to in pairs):
        raise ValueError(f"method={method!r} with eta={eta} on a path that goes up; only 'ddim', eta=0 and 'dpmpp' can")
    if method == "dpmpp" and any(to != t for (_, to), (t, _) in pairwise(pairs)):
        raise ValueError("method='dpmpp' on a path whose steps do not join; take one with previous='listed'")
    shaped(noise, "noise", "float", *noise.shape)
    if stochastic and generator is None:
        raise ValueError(f"method={method!r} with eta={eta} draws noise at each step; give it a generator")


def _check_guidance(condition, no_condition, guidance_scale):
    if guidance_scale != 1 and condition is None:
        raise ValueError(
            f"guidance_scale={guidance_scale} without a condition, a class or a text; ask for one, or take 1"
        )
    if guidance_scale != 1 and no_condition is None:
        raise ValueError(f"guidance_scale={guidance_scale} without no_condition; give what stands for 'nothing asked'")

"""From noise to a picture: DDPM, DDIM and DPM-Solver++, and classifier-free guidance (chapter 2).

A step is a pure function of xt, of the predicted clean picture x0_hat, and of two numbers: `alpha_bar` where
we are and `alpha_bar_prev` where we go. It neither knows nor asks whether xt holds pixels or latents.
`sample` is the only loop. It lands on alpha_bar_prev = 1, the clean picture, so the last step returns x0_hat
and adds no noise.

The numbers are Python floats, taken once from the float64 table. PyTorch hands a float to a kernel as an
argument, so a step neither copies anything to a GPU nor waits for it.

Papers: DDPM, Ho et al. 2020 (2006.11239); DDIM, Song et al. 2021 (2010.02502); Improved DDPM, Nichol &
Dhariwal 2021 (2102.09672); classifier-free guidance, Ho & Salimans 2022 (2207.12598); DPM-Solver++, Lu et
al. 2022 (2211.01095).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from .schedules import PREDICTIONS, Schedule, to_x0

METHODS = ("ddpm", "ddim", "dpmpp")


def timesteps(schedule_T: int, steps: int, spacing: str = "trailing") -> Tensor:
    """The indices at which the network is called: int64 (steps,), falling, exactly `steps` different ones.

    - `trailing` starts at T - 1, where training saw the purest noise, and goes down by T / steps, rounded.
    - `leading` goes down to index 0 by T // steps, so it starts below T - 1 (at 957 for 30 of 1000), although
      what it is given is pure noise.

    Both are rows of Table 2 of Lin et al. 2023 (2305.08891), which recommends trailing. Raises ValueError
    unless 1 <= steps <= T.
    """
    if steps != int(steps) or not 1 <= steps <= schedule_T:
        raise ValueError(f"steps={steps}; expected a whole number from 1 to {schedule_T}, the schedule's T")
    steps = int(steps)
    if spacing == "trailing":
        listed = [round(schedule_T * i / steps) - 1 for i in range(steps, 0, -1)]
    elif spacing == "leading":
        listed = [schedule_T // steps * i for i in range(steps - 1, -1, -1)]
    else:
        raise ValueError(f"spacing={spacing!r}; expected 'trailing' or 'leading'")
    return torch.tensor(listed)


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
    tables).
    """
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
    is DDPM with the posterior variance, clipped or not.
    """
    eps_hat = (xt - math.sqrt(alpha_bar) * x0_hat) / math.sqrt(1 - alpha_bar)
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


def _half_log_snr(alpha_bar: float) -> float:
    return 0.5 * math.log(alpha_bar / (1 - alpha_bar))


def guided_prediction(
    model: Callable,
    xt: Tensor,
    t: Tensor,
    label: Tensor | None = None,
    null_label: int | None = None,
    guidance_scale: float = 1.0,
) -> Tensor:
    """The network's word on xt (B, C, H, W) at t (B,), pushed away from what it says without the label.

    pred = uncond + guidance_scale * (cond - uncond). Ho & Salimans 2022, eq. 6, write w for our
    guidance_scale - 1. Scale 1 is no guidance, and one plain call; any other is one call on a doubled batch.
    Whether the network predicts eps, x0 or v makes no difference: each is the others' affine image at a
    given xt, and the two weights add up to 1.
    """
    if label is None:
        return model(xt, t)
    if guidance_scale == 1:
        return model(xt, t, label)
    labels = torch.cat([label, torch.full_like(label, null_label)])
    both = model(torch.cat([xt, xt]), torch.cat([t, t]), labels)
    cond, uncond = both.to(xt.dtype).chunk(2)  # the scale would amplify half precision's rounding
    return uncond + guidance_scale * (cond - uncond)


@torch.no_grad()
def sample(
    model: Callable,
    noise: Tensor,
    schedule: Schedule,
    *,
    steps: int,
    clip_x0: bool,
    method: str = "ddim",
    eta: float = 0.0,
    variance: str = "posterior",
    spacing: str = "trailing",
    previous: str = "listed",
    prediction: str = "eps",
    label: Tensor | None = None,
    null_label: int | None = None,
    guidance_scale: float = 1.0,
    generator: torch.Generator | None = None,
    callback: Callable[[int, int, Tensor, Tensor], None] | None = None,
    progress: bool = False,
) -> Tensor:
    """Turn standard normal `noise` (B, C, H, W) into pictures or latents like it, by `steps` network calls.

    - `model`: called as model(xt, t), or model(xt, t, label) if there are labels, with t int64 (B,); returns its
      `prediction`, 'eps', 'x0' or 'v', shaped like xt.
    - `clip_x0`: whether x0_hat is clamped to [-1, 1] at each step. True for pixels; False for latents, whose
      range is another. It has no default, because it is the one choice in which the two spaces differ.
    - `method`: 'ddpm'; 'ddim', with eta from 0 (deterministic) to 1 (the same as 'ddpm'); or 'dpmpp', which is
      deterministic and of second order.
    - `variance`: for 'ddpm' only, 'posterior' or 'beta'; see `ddpm_step`.
    - `spacing`: 'trailing' or 'leading'; see `timesteps`.
    - `previous`: where a step from t goes. 'listed', which is ours, goes to the next listed timestep, so that each
      step starts at the noise level where the one before ended, and the last ends at alpha_bar = 1. 'diffusers'
      goes to t - T // steps, and to alpha_bar = 1 where that is negative: the rule of diffusers' DDIM, kept for
      comparison. Leading steps, and trailing ones if `steps` divides T, are the same under both. Elsewhere the
      second rule leaves gaps, so the network is told a noise level that xt does not have, and the last step may
      stop short of the clean picture.
    - `label`, `null_label`, `guidance_scale`: see `guided_prediction`. `label` is int64 (B,); `null_label` is the
      index that means "no label", which for our U-Net is the number of classes.
    - `generator`: the source of the noise that 'ddpm' and eta > 0 add. A CPU generator gives the same noise on
      every device; one on xt's own device spares a copy in each step.
    - `callback`: called as callback(step_index, t, xt, x0_hat) before each step is made; step_index counts from 0.
    - `progress`: show a bar with the time left.

    Raises ValueError for `steps` outside 1..T, and for arguments that are unknown or do not go together.
    """
    listed = timesteps(schedule.T, steps, spacing).tolist()
    stochastic = method == "ddpm" or eta > 0
    _check(method, eta, variance, previous, prediction, noise, stochastic, generator)
    _check_guidance(noise, label, null_label, guidance_scale)

    following = listed[1:] + [-1] if previous == "listed" else [t - schedule.T // steps for t in listed]
    alpha_bars = schedule.alpha_bar.tolist()
    path = [(t, alpha_bars[t], alpha_bars[to] if to >= 0 else 1.0) for t, to in zip(listed, following)]
    t_rows = torch.tensor(listed).to(noise.device)[:, None].repeat(1, len(noise))

    xt, last = noise, None
    for i, (t, alpha_bar, alpha_bar_prev) in enumerate(tqdm(path, desc=method, disable=not progress)):
        pred = guided_prediction(model, xt, t_rows[i], label, null_label, guidance_scale)
        if pred.shape != xt.shape:
            raise ValueError(f"the model returned {tuple(pred.shape)} for xt of shape {tuple(xt.shape)}")
        x0_hat = to_x0(pred.to(xt.dtype), xt, t, schedule, prediction)
        if clip_x0:
            x0_hat = x0_hat.clamp(-1, 1)
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


def _check(method, eta, variance, previous, prediction, noise, stochastic, generator):
    if method not in METHODS:
        raise ValueError(f"method={method!r}; expected 'ddpm', 'ddim' or 'dpmpp'")
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction={prediction!r}; expected 'eps', 'x0' or 'v'")
    if previous not in ("listed", "diffusers"):
        raise ValueError(f"previous={previous!r}; expected 'listed' or 'diffusers'")
    if variance not in ("posterior", "beta"):
        raise ValueError(f"variance={variance!r}; expected 'posterior' or 'beta'")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta}; expected a number from 0 (deterministic) to 1 (as DDPM)")
    if eta > 0 and method != "ddim":
        raise ValueError(f"eta={eta} with method={method!r}; only 'ddim' has an eta, so leave it at 0")
    if variance != "posterior" and method != "ddpm":
        raise ValueError(f"variance={variance!r} with method={method!r}; only 'ddpm' has that choice")
    if previous == "diffusers" and method == "dpmpp":
        raise ValueError("previous='diffusers' with method='dpmpp', whose steps must join; use 'listed'")
    if not noise.is_floating_point():
        raise ValueError(f"noise is {noise.dtype}; expected floating-point noise of shape (B, C, H, W)")
    if stochastic and generator is None:
        raise ValueError(f"method={method!r} with eta={eta} draws noise at each step; give it a generator")


def _check_guidance(noise, label, null_label, guidance_scale):
    if label is not None and len(label) != len(noise):
        raise ValueError(f"{len(label)} labels for {len(noise)} pictures; expected one for each")
    if guidance_scale != 1 and label is None:
        raise ValueError(f"guidance_scale={guidance_scale} without a label; give labels, or leave it at 1")
    if guidance_scale != 1 and null_label is None:
        raise ValueError(f"guidance_scale={guidance_scale} without null_label; give the index of 'no label'")

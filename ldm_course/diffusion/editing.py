"""What a trained denoiser does beside drawing: redraw, inpaint, interpolate, invert, translate (chapter 8).

Nothing here is trained, and nothing asks what a state holds: each function is given the guess `predict_x0(xt, t)` that
`samplers.sample` asks for, a schedule, and clean samples x0 (B, ...), pixels or latents, and leaves the steps to
`sample`. Where a condition comes in, it is inside `predict_x0`.

Papers: SDEdit, Meng et al. 2022 (2108.01073); score SDE, Song et al. 2021 (2011.13456); RePaint, Lugmayr et al. 2022
(2201.09865); DDIM, Song et al. 2021 (2010.02502); Dhariwal & Nichol 2021 (2105.05233); dual diffusion implicit bridges,
Su et al. 2023 (2203.08382); Poisson image editing, Pérez et al. 2003 (10.1145/882262.882269).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ..checks import Count, check, shaped
from .samplers import _normal_like, path, sample
from .schedules import Schedule, add_noise

Guess = Callable[[Tensor, int], Tensor]


def noisiest(strength: float, schedule: Schedule) -> int:
    """The index up to which a picture is noised: `strength` is the share of the schedule's T levels that it climbs, so
    1 is T - 1. ValueError: outside (0, 1], or less than one level."""
    if not 0 < strength <= 1:
        raise ValueError(f"strength={strength}; expected more than 0 (the picture) and at most 1 (nothing is kept)")
    levels = round(strength * schedule.T)
    if levels < 1:
        raise ValueError(f"strength={strength} of {schedule.T} noise levels is less than one; expected more")
    return levels - 1


def descent(strength: float, schedule: Schedule, steps: int) -> list[tuple[int, int]]:
    """`steps` pairs (t, to) for `sample`, spread from `noisiest` down to the clean picture as `path` spreads them.

    As in SDEdit's Algorithm 1, so many steps are made, however short the way. (diffusers makes strength * steps of
    them.) ValueError: more steps than there are levels.
    """
    levels = noisiest(strength, schedule) + 1
    _check_steps(steps, levels, strength)
    return path(levels, steps)


def _check_steps(steps: int, most: int, strength: float) -> None:
    if not 1 <= steps <= most:
        raise ValueError(
            f"steps={steps}; expected a whole number from 1 to {most}, the levels up to strength={strength}"
        )


def redraw(
    predict_x0: Guess, x0: Tensor, noise: Tensor, schedule: Schedule, *, strength: float, steps: int, **sampler
) -> Tensor:
    """Image to image, SDEdit: x0 noised to the level that `strength` says, and drawn from there. Like x0.

    What is larger than the noise is kept, what is smaller is drawn anew. Strength 1 is `sample` from the noise alone:
    the trace of x0 that a schedule leaves at T - 1 is left out. `sampler`: method, eta, generator, ... of `sample`.
    """
    top = noisiest(strength, schedule)
    xt = noise if top == schedule.T - 1 else add_noise(x0, noise, top, schedule)
    return sample(predict_x0, xt, schedule, steps=descent(strength, schedule, steps), **sampler)


def inpaint(
    predict_x0: Guess,
    x0: Tensor,
    mask: Tensor,
    noise: Tensor,
    schedule: Schedule,
    *,
    steps: int,
    resamplings: int = 1,
    generator: torch.Generator | None = None,
    progress: bool = False,
    **sampler,
) -> Tensor:
    """x0 where `mask` is False, drawn to fit where it is True: bool, (1 or B, 1, ...) at x0's resolution. Like x0.

    At every level the known part of the state has to be the known picture, noised to that level (Song et al. 2021,
    appendix I.2; RePaint eq. 8a). For that it is enough to overrule the guess: where x0 is known, x0_hat = x0. Then
    each of `sample`'s steps makes its known part out of x0 and its own noise, with q(xt | x0)'s mean and variance (by
    variance='beta' a little more), and the last one ends on x0 itself.

    The drawn part hears of the known one only through the network, and each step back commits it before it has fitted
    in. RePaint (Algorithm 1; its U is our `resamplings`) therefore makes each step several times, and noises its result
    up again in between: `resamplings` times as many calls of the network, which fit better. (Each step is then a way
    of its own, on which 'dpmpp' has no step to look back at.) A sampler with noise of its own, 'ddpm' or 'ddim' with
    eta = 1, fits better than one without. Long steps made often draw too smoothly: with many resamplings, take more
    steps as well.

    ValueError: a mask that is not bool or does not fit, less than one resampling, several without a generator.
    """
    check_mask(mask, x0)
    if resamplings < 1:
        raise ValueError(f"resamplings={resamplings}; expected 1, each step once, or more")
    if resamplings > 1 and generator is None:
        raise ValueError(f"resamplings={resamplings} adds noise between the steps; give it a generator")
    overruled = lambda xt, t: torch.where(mask, predict_x0(xt, t), x0)  # noqa: E731
    xt = torch.where(mask, noise, add_noise(x0, noise, schedule.T - 1, schedule))
    pairs = path(schedule.T, steps)
    options = {"generator": generator, **sampler}
    if resamplings == 1:
        return sample(overruled, xt, schedule, steps=pairs, progress=progress, **options)
    for t, to in tqdm(pairs, desc="resampling", disable=not progress):
        for _ in range(resamplings - 1 if to >= 0 else 0):
            below = sample(overruled, xt, schedule, steps=[(t, to)], **options)
            kept = (schedule.alpha_bar[t] / schedule.alpha_bar[to]).item()
            xt = math.sqrt(kept) * below + math.sqrt(1 - kept) * _normal_like(below, generator)  # DDPM eq. 2, one jump
        xt = sample(overruled, xt, schedule, steps=[(t, to)], **options)
    return xt


def coarse_mask(mask: Tensor, downsample: int) -> Tensor:
    """A mask of pixels (B, 1, H, W) as one of latents (B, 1, H/f, W/f), f = `downsample`: a latent is drawn anew if any
    of its f x f pixels is. ValueError: f below 1, or sides that are no multiples of it."""
    shaped(mask, "the mask", "bool", "B", 1, "H", "W", multiple=check(Count, downsample, "downsample"))
    return F.max_pool2d(mask.float(), downsample) > 0


def continued(x: Tensor, mask: Tensor, reach: int) -> Tensor:
    """x (B, C, H, W) where `mask`, bool (1 or B, 1, H, W), is False; where it is True, what stands around it, spread
    inwards by repeated 3 x 3 means: smooth at the edge, and fading to 0 some `reach` pixels away. What x holds beneath
    the mask does not matter.

    Latents need it twice. An encoder looks at pixels beyond its own f x f: what is hidden would show in the latents
    beside it, and so would the sharp edge of a flat filling. And `pasted` needs it.
    """
    spread = x.masked_fill(mask, 0)
    for _ in range(math.ceil(1.5 * reach**2)):  # a 3 x 3 mean has a variance of 2/3 along each side
        spread = torch.where(mask, F.avg_pool2d(F.pad(spread, (1, 1, 1, 1), mode="replicate"), 3, 1), spread)
    return spread


def pasted(made: Tensor, pictures: Tensor, mask: Tensor, reach: int) -> Tensor:
    """The drawn part of `made` in `pictures`, both uint8 (B, 3, H, W): every known pixel as it was, and no seam.

    A decoder does not return the known pixels, so that beside the true ones the drawn part would end in an edge. As in
    Poisson image editing (Pérez et al. 2003), the difference along that edge is continued into the drawn part; here it
    fades after `reach` pixels. In pixel space there is none, and nothing changes.
    """
    difference = continued(pictures.float() - made.float(), mask, reach)
    return torch.where(mask, (made.float() + difference).round().clamp(0, 255).to(torch.uint8), pictures)


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """From a (B, ...) at weight 0 to b at 1, along the great circle between the two of each row.

    Noise of D numbers has a length near sqrt(D), whatever its direction, and that is all a network has seen. Halfway
    along the straight line two such noises have cancelled in part: the length is sqrt(D / 2), that of noise at a lower
    level. On the circle it stays. ValueError: another shape, or two that are opposite, with no shortest way between.
    """
    if a.shape != b.shape:
        raise ValueError(f"a has shape {tuple(a.shape)} and b {tuple(b.shape)}; expected two alike")
    rows = (len(a),) + (1,) * (a.ndim - 1)
    exact = torch.promote_types(a.dtype, torch.float32)
    one, other = (F.normalize(v.flatten(1).to(exact), dim=1) for v in (a, b))
    # the angle by its half's sine and cosine, which keeps its digits where the two are almost alike
    angle = 2 * torch.atan2((one - other).norm(dim=1), (one + other).norm(dim=1)).view(rows)
    if bool((angle > math.pi - 1e-6).any()):
        raise ValueError("a and b are opposite; there is no shortest way from one to the other")
    sine = angle.sin()
    from_a = torch.where(sine > 0, ((1 - weight) * angle).sin() / sine, 1 - weight)
    from_b = torch.where(sine > 0, (weight * angle).sin() / sine, weight)
    return from_a.to(a.dtype) * a + from_b.to(a.dtype) * b


def invert(
    predict_x0: Guess, x0: Tensor, schedule: Schedule, *, steps: int, strength: float = 1.0, **sampler
) -> Tensor:
    """The noise from which `sample` would draw x0: the deterministic sampler run upwards, (B, ...) like x0.

    DDIM eq. 14 is an equation without chance, so it may be followed from the picture to the noise as well (section 5.4;
    Dhariwal & Nichol 2021). The picture is taken for index 0, whose noise cannot be seen; from there exactly `steps`
    even steps lead to `noisiest(strength)`. Each is made with the guess at its start, where the way down has the one
    at its end; the two differ by less, the shorter the steps are. Method 'ddim' errs in proportion to a step, 'dpmpp'
    by less. ValueError: a method with noise of its own, or not fewer steps than levels.
    """
    top = noisiest(strength, schedule)
    _check_steps(steps, top, strength)
    levels = [round(top * i / steps) for i in range(steps + 1)]
    return sample(predict_x0, x0, schedule, steps=list(pairwise(levels)), **sampler)


def translate(
    source: Guess, target: Guess, x0: Tensor, schedule: Schedule, *, steps: int, strength: float = 1.0, **sampler
) -> Tensor:
    """x0 inverted by the guesses of one condition, and drawn again by those of another (Su et al. 2023). Like x0.

    What the noise holds (pose, place, colours, as far as they are the same under both) is kept, what the condition says
    is exchanged. With the same guess twice it is a reconstruction. `strength` below 1 inverts only so far.
    """
    xt = invert(source, x0, schedule, steps=steps, strength=strength, **sampler)
    return sample(target, xt, schedule, steps=descent(strength, schedule, steps), **sampler)


def check_mask(mask: Tensor, x: Tensor) -> None:
    """ValueError unless `mask` is bool, with one channel and the size of x (B, C, ...), for each row or for all."""
    fits = mask.ndim == x.ndim and mask.shape[1] == 1 and mask.shape[2:] == x.shape[2:]
    if mask.dtype != torch.bool or not fits or len(mask) not in (1, len(x)):
        expected = f"bool of shape (1 or {len(x)}, 1, {', '.join(map(str, x.shape[2:]))})"
        raise ValueError(f"the mask is {mask.dtype} of shape {tuple(mask.shape)}; expected {expected}")

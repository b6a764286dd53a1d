"""Does fine texture make content harder to learn? Texture varied alone, content judged by block means (chapter 4).

Scenes are rendered with a grain whose mean over each block of F x F pixels is zero, so that textured and texture-free
pictures have the same block means, which stand for the content. What is judged is the network's guess of these means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import scenes
from ..data.pictures import to_float, to_uint8
from ..denoiser import Denoiser
from .bits import denoised
from .content import grey

BLOCK = 4  # pixels a side: the positions of an f = 4 latent
LEVELS = (500, 600, 700, 800, 900)  # of the cosine schedule: where shape, colour and place are being decided


def block_means(x: Tensor, f: int = BLOCK) -> Tensor:
    """Means of f x f pixels, (N, C, H, H) to (N, C, H / f, H / f)."""
    return F.avg_pool2d(x, f)


def finely_textured(numbers: Sequence[int] | Tensor, size: int, strength: float) -> Tensor:
    """The scenes `numbers`, uint8 (N, 3, size, size), with texture of that strength, its block means taken away.

    Strength 0 is texture-free. Block means are those of texture-free scenes, up to rounding to bytes and clipping.
    ValueError: the side is no multiple of BLOCK, or the strength negative.
    """
    if size % BLOCK:
        raise ValueError(f"a side of {size} is no multiple of {BLOCK}, the side of a block")
    plain = scenes.render(0, numbers, size, texture=0)
    if strength == 0:
        return plain
    grain = to_float(scenes.render(0, numbers, size, texture=strength)) - to_float(plain)
    coarse = F.interpolate(block_means(grain), scale_factor=BLOCK, mode="nearest")
    return to_uint8(to_float(plain) + grain - coarse)


def content_errors(denoiser: Denoiser, x0: Tensor, content: Tensor, levels: Sequence[int] = LEVELS) -> list[float]:
    """RMSE in grey levels of the block means of the network's guess, at each level: of pictures x0 (N, 3, H, H) that
    were noised, against `content`, the block means (N, 3, H / f, H / f) that they should have.

    The noise depends on level and device alone: networks and textures are judged under the same.
    """
    found = []
    for t in levels:
        rng = torch.Generator(x0.device).manual_seed(t)
        options = {"prediction": denoiser.prediction, "clip_x0": denoiser.space.clip_x0, "generator": rng}
        guess = denoised(denoiser.model, x0, t, denoiser.schedule, batch_size=512, **options)
        found.append((block_means(guess, guess.shape[-1] // content.shape[-1]) - content).square().mean().sqrt())
    return grey(torch.stack(found)).tolist()


def images_to_reach(error: float, images: Sequence[int], errors: Sequence[float]) -> float:
    """After how many images a curve of `errors` first comes down to `error`: between marks, along a line of their
    logarithms; before the first mark, that mark. ValueError: it never does, or there is no mark."""
    if not images or min(errors) > error:
        raise ValueError(f"errors of {[round(e, 3) for e in errors]} do not come down to {error:.3f}")
    k = next(i for i, e in enumerate(errors) if e <= error)
    if k == 0:
        return float(images[0])
    part = math.log(errors[k - 1] / error) / math.log(errors[k - 1] / errors[k])
    return math.exp((1 - part) * math.log(images[k - 1]) + part * math.log(images[k]))


def slow_down(images: Sequence[int], plain: Sequence[float], textured: Sequence[float]) -> float:
    """How many times as many images the textured training needs to reach the error that both reach, the larger of the
    two at the end; less than 1 where it is the faster one. Errors at the same marks."""
    both = max(min(plain), min(textured))
    return images_to_reach(both, images, textured) / images_to_reach(both, images, plain)


def typical(ratios: Sequence[float]) -> tuple[float, float]:
    """The geometric mean of ratios, one for each seed, and twice its standard error over the seeds.
    ValueError: fewer than two, from which no scatter can be told."""
    if len(ratios) < 2:
        raise ValueError(f"got {len(ratios)} ratio; a scatter over seeds needs at least 2")
    logs = [math.log(r) for r in ratios]
    mean = math.exp(fmean(logs))
    return mean, 2 * mean * stdev(logs) / math.sqrt(len(logs))


def against_plain(runs: Sequence[Mapping]) -> dict[str, dict]:
    """What each strength of texture does, from `runs`, each with strength, seed and points (`images`, `content`): by
    strength, over seeds, the `typical` ratio of its content error to the texture-free one at each mark, and that of
    its `slow_down`, with its error."""
    curves = {(run["strength"], run["seed"]): [point["content"] for point in run["points"]] for run in runs}
    images = [point["images"] for point in runs[0]["points"]]
    seeds = sorted({seed for _, seed in curves})
    found = {}
    for strength in sorted({s for s, _ in curves} - {0}):
        pairs = [(curves[0, seed], curves[strength, seed]) for seed in seeds]
        ratios = [typical([textured[k] / plain[k] for plain, textured in pairs]) for k in range(len(images))]
        slow, error = typical([slow_down(images, *pair) for pair in pairs])
        found[f"{strength:g}"] = {"ratio": ratios, "slow_down": slow, "slow_down_error": error}
    return found

"""The claims of chapter 6, three stages."""

from __future__ import annotations

import math

import torch

from ...diffusion.samplers import sample, x0_predictor
from ...diffusion.schedules import make_schedule
from ...measure.complexity import unet_flops
from ...page.numbers import plus_minus
from .verdicts import CONFIRMED, LATENT, NOT_HERE, PIXEL, REFINED, REFUTED, Evidence, Finding, claim, gain, rules, worst


@claim(
    "C6.1",
    "DDPM (2020): high quality, but slow (1000 steps) and in pixels.",
    "KD-E at one count, and seconds a picture, of every sampler on one pixel network",
)
def _good_but_slow(seen: Evidence) -> Finding:
    rows = at_one_count(seen, "pixel")
    full, few = (pick(s for m, s in rows if m == "ddpm") for pick in (max, min))
    ddpm, best = rows["ddpm", full], min(rows.values(), key=lambda r: r["quality"]["kd_e"])
    if not _nearer(ddpm, rows["ddpm", few]):
        return cannot_tell(rows["ddpm", few], ddpm)
    others = [r for (m, s), r in rows.items() if m != "ddpm" and s < full and not _nearer(ddpm, r)]
    cheapest = min(others, key=lambda r: r["seconds_picture"], default=ddpm)
    times = ddpm["seconds_picture"] / cheapest["seconds_picture"]
    needs = ("ddpm", cheapest["steps"]) in rows and _nearer(cheapest, rows["ddpm", cheapest["steps"]])
    kd, least = ddpm["quality"]["kd_e"], best["quality"]["kd_e"]
    good = CONFIRMED if not _nearer(best, ddpm, rules.tie) else REFINED if kd <= 2 * least else REFUTED
    slow = REFUTED if others and times < 10 else CONFIRMED if needs else REFINED
    than = f"{times:.0f}x the seconds of {_called(cheapest)}, where DDPM is {'' if needs else 'not '}resolvably worse"
    return Finding(
        worst(good, slow),
        f"KD-E {kd:.2f} at {full} steps, the best {least:.2f}; {than if others else 'no other is as good'}",
        "Slow is the sampler, and not the model: the same weights serve every row.",
    )


@claim(
    "C6.2", "DDIM (2020): deterministic, 10 to 50x faster at the same quality, still in pixels.", "KD-E at one count"
)
def _fewer_steps(seen: Evidence) -> Finding:
    rows = at_one_count(seen, "pixel")
    full = max(s for m, s in rows if m == "ddpm")
    ddpm, steps = rows["ddpm", full], enough_steps(rows, rows["ddpm", full])
    if steps is None:
        return cannot_tell(fewest(rows), ddpm)
    factor = full / steps
    if not draws_alike("ddim") or draws_alike("ddpm"):
        return Finding(REFUTED, "DDIM does not draw the same picture twice from the same noise")
    return Finding(
        CONFIRMED if 10 <= factor <= 50 else REFINED if factor > 50 else REFUTED,
        f"not resolvably worse than DDPM's {full} steps from {steps} DDIM steps on: {factor:.0f}x fewer"
        if factor
        else f"resolvably worse than DDPM's {full} steps at every number of DDIM steps",
        "How few steps are enough depends on how good the network is: a weak one hides what few steps lose.",
    )


def draws_alike(method: str) -> bool:
    """Whether a sampler makes the same of the same noise, whatever further chance it is given: by trying it."""
    noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    schedule = make_schedule("linear")
    predict_x0 = x0_predictor(lambda x, t: 0.9 * x, schedule, prediction="eps", clip_x0=False)
    generators = (torch.Generator().manual_seed(seed) for seed in (1, 2))
    a, b = (sample(predict_x0, noise, schedule, method=method, steps=5, generator=g) for g in generators)
    return torch.equal(a, b)


def at_one_count(seen: Evidence, space: str) -> dict[tuple[str, int], dict]:
    """The rows of the sampling stage by (method, steps), all judged on as many pictures as DDPM's longest is; a row
    that was not judged at that count is left out."""
    rows = seen.results(f"sampling-cifar10-32-{space}")["rows"]
    count = max((r for r in rows if r["method"] == "ddpm"), key=lambda r: r["steps"])["quality"]["n_generated"]
    found = {}
    for r in rows:
        for quality in (r["quality"], r.get("quality_few")):
            if quality and quality["n_generated"] == count:
                found[r["method"], r["steps"]] = r | {"quality": quality}
    return found


def _nearer(a: dict, b: dict, by: float = 0.0) -> bool:
    """Whether row a's KD-E is resolvably below row b's, and by more than that part of b's."""
    change = gain(b["quality"], a["quality"])
    return change is not None and change > by * abs(b["quality"]["kd_e"])


def _called(row: dict) -> str:
    return f"{row['method'].upper().replace('DPMPP', 'DPM-Solver++')}, {row['steps']} steps"


def cannot_tell(few: dict, target: dict) -> Finding:
    """What a comparison finds that could not have failed: no difference proves nothing where none can be seen."""
    shown = " against ".join(
        f"{_called(r)}, KD-E {plus_minus(r['quality']['kd_e'], r['quality'].get('kd_e_error'))}" for r in (few, target)
    )
    return Finding(
        NOT_HERE,
        f"{target['quality']['n_generated']} pictures do not even resolve the fewest steps judged on so many: {shown}",
        "In published FIDs of 50,000 pictures (DDIM, Table 1, and chapter 6) the order is clear.",
    )


def fewest(rows: dict) -> dict:
    return rows["ddim", min(s for m, s in rows if m == "ddim")]


def enough_steps(rows: dict, target: dict) -> float | None:
    """The fewest DDIM steps from which on KD-E is not resolvably above the target's; infinite where it always is.

    None where not even the fewest steps are resolvably worse: then the pictures are too few, or the network too weak,
    for the test to fail, and it shows nothing.
    """
    if not _nearer(target, fewest(rows)):
        return None
    steps = sorted(s for m, s in rows if m == "ddim")
    last = max(s for s in steps if _nearer(target, rows["ddim", s]))
    return min((s for s in steps if s > last), default=math.inf)


@claim(
    "C6.3",
    "Latent diffusion (2022): makes 512x512 and 1024x1024 practical.",
    "a decoded picture and a training step, at f = 8 and in pixels",
)
def _practical(seen: Evidence) -> Finding:
    """Practical is: 50 steps and the decoder within a minute, and training steps at a tenth of the pixels' cost, by the
    clock and, since a pixel network may leave out attention on large grids, by FLOPs without any attention."""
    rows, words, shown = seen.cost(), [], []
    for side in (512, 1024):
        one, eight = rows.get((side, 1)), rows.get((side, 8))
        parts = [eight and eight[what].get("seconds_image") for what in ("training", "step", "decode")]
        if one is None or None in parts:
            return Finding(NOT_HERE, f"latents at {side} a side were left out as too slow, or not tried")
        training, step, decode = parts
        picture, pixel = 50 * step + decode, one["training"].get("seconds_image")
        plain = unet_flops(PIXEL, side)
        less = (plain.total - plain.attention) / unet_flops(LATENT, side // 8).total
        cheaper = (pixel is None or pixel > 10 * training) and less > 10
        words.append(CONFIRMED if cheaper and picture < 60 else REFINED if cheaper else REFUTED)
        left = "left out as too slow" if pixel is None else f"{pixel:.3g} s"
        shown.append(f"{side}: a picture in {picture:.2g} s, a training step in {training:.2g} s (in pixels {left})")
    return Finding(
        worst(*words),
        "; ".join(shown),
        "Of cost alone, on this machine; how good such pictures would be is not measured at these sizes.",
    )

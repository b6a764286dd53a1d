"""The claims of chapter 6, three stages."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from itertools import product

import torch

from ...diffusion.samplers import CALLED, METHODS, sample, x0_predictor
from ...diffusion.schedules import make_schedule
from ...measure.cost_model import BUILT
from ...page.numbers import kd_e
from ..profiles import STEPS
from .learnt import DENOISERS, SAMPLERS, UP_TO_100, all_rows, epochs_of, lacking
from .rates import measured_as, picture_seconds
from .verdicts import (
    CONFIRMED,
    NOT_HERE,
    REFINED,
    REFUTED,
    Evidence,
    Finding,
    claim,
    gain,
    rules,
    worst,
)


@claim(
    "C6.1",
    "DDPM (2020): high quality, but slow (1000 steps) and in pixels.",
    "KD-E at one count, and seconds a picture, of every sampler on one pixel network",
)
def _good_but_slow(seen: Evidence) -> Finding:
    rows, missing = at_one_count(seen, METHODS)
    if missing:
        return Finding(NOT_HERE, missing)
    full, few = (pick(s for m, s in rows if m == "ddpm") for pick in (max, min))
    ddpm, best = rows["ddpm", full], min(rows.values(), key=lambda r: r["quality"]["kd_e"])
    if not _nearer(ddpm, rows["ddpm", few]):
        return cannot_tell(rows["ddpm", few], ddpm)
    others = [r for (m, s), r in rows.items() if m != "ddpm" and s < full and not _nearer(ddpm, r)]
    cheapest = min(others, key=lambda r: r["seconds_picture"], default=ddpm)
    times = ddpm["seconds_picture"] / cheapest["seconds_picture"]
    needs = ("ddpm", cheapest["steps"]) in rows and _nearer(cheapest, rows["ddpm", cheapest["steps"]])
    kd, least = ddpm["quality"]["kd_e"], best["quality"]["kd_e"]
    good = CONFIRMED if not _nearer(best, ddpm, rules.tie) else REFINED if kd <= rules.off * least else REFUTED
    slow = REFUTED if others and times < rules.slow else CONFIRMED if needs else REFINED
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
    rows, missing = at_one_count(seen, ["ddim"])
    if missing:
        return Finding(NOT_HERE, missing)
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


@functools.cache
def draws_alike(method: str) -> bool:
    """Whether a sampler makes the same of the same noise, whatever further chance it is given: by trying it."""
    noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    schedule = make_schedule("linear")
    predict_x0 = x0_predictor(lambda x, t: 0.9 * x, schedule, prediction="eps", clip_x0=False)
    generators = (torch.Generator().manual_seed(seed) for seed in (1, 2))
    a, b = (sample(predict_x0, noise, schedule, method=method, steps=5, generator=g) for g in generators)
    return torch.equal(a, b)


def at_one_count(seen: Evidence, methods: Sequence[str]) -> tuple[dict[tuple[str, int], dict], str]:
    """The rows of the pixel network's sampling stage by (method, steps), all judged on as many pictures as DDPM's
    longest is, and what is missing for a verdict; a row that was not judged at that count is left out. What decides is
    DDPM's longest, and `methods` at up to 100 steps: these must be there."""
    denoiser, sampling = seen.together(DENOISERS[0], SAMPLERS[0])
    rows = all_rows(sampling, ("ddpm", max(STEPS)), *product(methods, UP_TO_100))
    last = max((r for r in rows if r["method"] == "ddpm"), key=lambda r: r["steps"])
    count = last["quality"]["n_generated"]
    found = {}
    for r in rows:
        for quality in (r["quality"], r.get("quality_few")):
            if quality and quality["n_generated"] == count:
                found[r["method"], r["steps"]] = r | {"quality": quality}
    return found, lacking(epochs_of(denoiser), [(last["steps"], count)])


def _nearer(a: dict, b: dict, by: float = 0.0) -> bool:
    """Whether row a's KD-E is resolvably below row b's, and by more than that part of b's."""
    change = gain(b["quality"], a["quality"])
    return change is not None and change > by * abs(b["quality"]["kd_e"])


def _called(row: dict) -> str:
    name = row["method"]  # of a sampler, or in chapter 9 of a network
    return f"{CALLED.get(name, name.upper())}, {row['steps']} steps"


def cannot_tell(few: dict, target: dict) -> Finding:
    """What a comparison finds that could not have failed: no difference proves nothing where none can be seen."""
    shown = " against ".join(f"{_called(r)}, KD-E {kd_e(r['quality'])}" for r in (few, target))
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
    """Practical is: 50 steps and the decoder within `wait` seconds, and training steps `practical` times cheaper than
    in pixels, with the networks that one would build for such pictures in either space. What was not timed supports
    nothing."""
    rows, words, shown = seen.cost(BUILT), [], []
    for side in (512, 1024):
        one, eight = rows.get((side, 1)), rows.get((side, 8))
        picture = eight and picture_seconds(eight, 50)
        pixel, latent = (row and row["training"].get("seconds_image") for row in (one, eight))
        if None in (picture, pixel, latent):
            return Finding(NOT_HERE, f"a picture or a training step at {side} a side was left out, or not tried")
        cheaper = pixel >= rules.practical * latent
        words.append(CONFIRMED if cheaper and picture < rules.wait else REFINED if cheaper else REFUTED)
        shown.append(
            f"{side}: a picture in {picture:.2g} s, a training step in {latent:.2g} s, in pixels {pixel:.3g} s "
            f"({measured_as(eight)}; training {measured_as(eight, 'training')})"
        )
    return Finding(
        worst(*words),
        "; ".join(shown),
        "Of cost alone, on this machine; how good such pictures would be is not measured at these sizes.",
    )

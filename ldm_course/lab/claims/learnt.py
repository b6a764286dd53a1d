"""What a verdict on quality rests on: networks that have learnt, pictures enough, and seeds enough (chapters 2, 4, 5).

The records are those of the long trainings on CIFAR-10. Two networks that draw nothing one could name may be as far
apart as they like: it says nothing of what they would draw.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...measure import stability
from ..profiles import STEPS
from ..records import NotRecorded
from .verdicts import CONFIRMED, NOT_HERE, REFINED, REFUTED, gain, rules

SPACES = ("pixel", "latent")
DENOISERS, SAMPLERS = (tuple(f"{stage}-cifar10-32-{s}" for s in SPACES) for stage in ("denoiser", "sampling"))
SEEDS = "seeds-cifar10-32"
SLOW_STEPS = 1000  # from so many steps on, `Rules.pictures_slow` are enough


def lacking(epochs: float, judged: Iterable[tuple[int, int]], seeds: int | None = None) -> str:
    """What is missing for a verdict on quality, by the rules; empty where nothing is.

    `epochs` are those of the training that saw least; `judged` has (the sampler's steps, pictures) of what is compared;
    `seeds` counts the trainings of each space, None where a network is compared with itself.
    """
    wrong = []
    if epochs < rules.epochs:
        wrong.append(f"{epochs:.3g} epochs of training, where {rules.epochs:g} are asked for")
    for steps, count in sorted({(steps if steps >= SLOW_STEPS else 0, count) for steps, count in judged}):
        least, slow = (rules.pictures, "") if steps < SLOW_STEPS else (rules.pictures_slow, f" of {steps} steps")
        if count < least:
            wrong.append(f"{count} pictures{slow}, where {least:g} are asked for")
    if seeds is not None and seeds < rules.seeds:
        wrong.append(f"{seeds} seeds, where {rules.seeds:g} are asked for")
    return "; ".join(wrong)


def unlike(judged: Mapping) -> str:
    """What is missing for a verdict where what a network draws covers next to nothing of real pictures, by recall
    (chapter 9); empty where it covers enough."""
    if judged["recall"] >= rules.covered * judged["recall_real"]:
        return ""
    return f"what is drawn covers less than {rules.covered:.0%} of what other real pictures do"


def epochs_of(*denoisers: dict) -> float:
    """Passes over the data of the training that made fewest, from results of denoisers' stages."""
    return min(found["training"]["epochs"] for found in denoisers)


@dataclass(frozen=True)
class Seeds:
    """How many trainings of each space there are, and the part of KD-E by which they scatter, by space."""

    count: int
    spread: dict[str, float]

    def between(self, pixel: dict, latent: dict) -> float:
        """The standard deviation that seeds alone give to the difference of two spaces' KD-E."""
        return math.hypot(self.spread["pixel"] * pixel["kd_e"], self.spread["latent"] * latent["kd_e"])


def seeds_of(results: dict | None) -> Seeds:
    """From the results of the stage `seeds-…`, at the images that both spaces were judged at; none, and no scatter,
    without results."""
    if results is None:
        return Seeds(0, dict.fromkeys(SPACES, 0.0))
    found = {space: stability.calm(results, space, results["images"]) for space in SPACES}
    if None in found.values() or min(len(c.kd_e) for c in found.values()) < 2:
        return Seeds(0, dict.fromkeys(SPACES, 0.0))
    return Seeds(min(len(c.kd_e) for c in found.values()), {s: stability.spread(c.kd_e) for s, c in found.items()})


ALIKE = "not told apart"


def nearer(pixel: dict, latent: dict, seeds: Seeds) -> str:
    """The space whose judged pictures are nearer to real ones, with the scatter of the seeds, or ALIKE."""
    change = gain(pixel, latent, seeds.between(pixel, latent))
    return ALIKE if change is None else "latent" if change > 0 else "pixel"


def resolved(judged: Mapping[float, dict]) -> tuple[float, list[float]]:
    """Of judged sets by a setting: the setting that comes nearest to real pictures, and those resolvably farther."""
    best = min(judged, key=lambda x: judged[x]["kd_e"])
    return best, [x for x in judged if (gain(judged[x], judged[best]) or 0) > 0]


def better(before: dict, after: dict, seeds: float = 0.0) -> str:
    """Of “nearer than before”: confirmed or refuted where KD-E differs, else not testable here."""
    change = gain(before, after, seeds)
    return NOT_HERE if change is None else CONFIRMED if change > 0 else REFUTED


def as_good(before: dict, after: dict, seeds: float = 0.0) -> str:
    """Of “as good as before”. Refuted where KD-E is resolvably higher by more than `tie` of it, refined where by less;
    confirmed where it is lower, or where nothing is resolved although a rise by `tie` would have been; else not
    testable here, since no difference proves nothing where none could be seen."""
    change, near = gain(before, after, seeds), rules.tie * abs(before["kd_e"])
    if change is not None:
        return CONFIRMED if change > 0 else REFINED if -change <= near else REFUTED
    visible = gain(before, {**after, "kd_e": before["kd_e"] + near}, seeds)
    return NOT_HERE if visible is None else CONFIRMED


UP_TO_100 = tuple(steps for steps in STEPS if steps <= 100)


def all_rows(sampling: dict, *deciding: tuple[str, int]) -> list[dict]:
    """The rows of results of a sampling stage. NotRecorded: one of the `deciding`, each (method, steps), is to come."""
    to_come = set(deciding) - {(row["method"], row["steps"]) for row in sampling["rows"]}
    if to_come and not sampling.get("finished", True):
        raise NotRecorded(f"of the samplers' rows, {len(to_come)} that decide have not been judged yet")
    return sampling["rows"]


def row_of(sampling: dict, method: str, steps: int) -> dict:
    """One row of results of a sampling stage. NotRecorded: it is still to come."""
    row = next((r for r in sampling["rows"] if (r["method"], r["steps"]) == (method, steps)), None)
    if row is None:
        raise NotRecorded(f"{method.upper()} with {steps} steps has not been judged yet")
    return row


def at_equal_counts(one: dict, other: dict) -> tuple[dict, dict] | None:
    """The qualities of two rows of the sampling stage at the largest count that both were judged at; None: at none."""
    sets = [{q["n_generated"]: q for q in (row["quality"], row.get("quality_few")) if q} for row in (one, other)]
    common = set(sets[0]) & set(sets[1])
    return (sets[0][max(common)], sets[1][max(common)]) if common else None


@dataclass(frozen=True)
class Budget:
    """What is counted against a training: a name, and what each space had spent at a point, first stage included."""

    name: str
    pixel: Callable[[dict], float]
    latent: Callable[[dict], float]


def at_equal_budget(budget: Budget, pixel: Sequence[dict], latent: Sequence[dict]) -> tuple[dict, dict] | None:
    """Points of two trainings at the largest budget that both have reached, on a line in log budget between the points
    around it; None where one of them was first judged beyond that."""
    spent = [budget.pixel(p) for p in pixel], [budget.latent(p) for p in latent]
    most = min(spent[0][-1], spent[1][-1])
    if most < max(spent[0][0], spent[1][0]):
        return None
    return between(spent[0], pixel, most), between(spent[1], latent, most)


def between(spent: Sequence[float], points: Sequence[dict], x: float) -> dict[str, Any]:
    """What was judged where `x` is spent: KD-E on a line in log x, its error the larger of the two; images on one in x,
    since every image costs the same."""
    i = min(bisect_right(spent, x), len(spent) - 1)
    if i == 0 or x >= spent[i]:
        return points[i]
    low, high = points[i - 1], points[i]
    part = math.log(x / spent[i - 1]) / math.log(spent[i] / spent[i - 1])
    seen = (x - spent[i - 1]) / (spent[i] - spent[i - 1])
    a, b = low["quality"], high["quality"]
    errors = [a.get("kd_e_error"), b.get("kd_e_error")]
    error = None if None in errors else max(errors)
    quality = {**b, "kd_e": a["kd_e"] + part * (b["kd_e"] - a["kd_e"]), "kd_e_error": error}
    return {"images": low["images"] + seen * (high["images"] - low["images"]), "quality": quality}

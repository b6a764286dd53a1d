"""How calm is a training run? Its spikes, and what the seed and the learning rate change (chapter 5).

"More stable" means three things here: the outcome depends less on the seed; the loss leaps less often; the training
stands a larger learning rate. The reference stage `seeds-…` runs the trainings, `calm` reads its results. The first
two were fixed before a number was seen. The third was at first the range of KD-E over the rates, which proved useless:
where a training fails, KD-E is as high as it gets, and its range says how good the usual training was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

WINDOW, SIGMAS = 25, 6.0
CHANCE = 0.05  # how often equal spreads come out so far apart
DEVIATIONS = 2.0  # by which two counts of spikes differ
WORSE = 0.1  # a learning rate has failed if KD-E is higher than at the usual one by more than that part


def spikes(values: Sequence[float]) -> list[int]:
    """Where a curve leaps: the indices k at which values[k] exceeds the median of the WINDOW values before it by more
    than SIGMAS of their standard deviations, estimated robustly (1.4826 times the median absolute deviation).

    So each curve is measured by its own noise, and noisy batches are no spikes. The first WINDOW values are never
    counted; a value that is not finite always is.
    """
    found = []
    for k, value in enumerate(values):
        before = [v for v in values[max(0, k - WINDOW) : k] if math.isfinite(v)]
        if not math.isfinite(value):
            found.append(k)
        elif k >= WINDOW and len(before) >= 3:
            middle = median(before)
            scale = 1.4826 * median(abs(v - middle) for v in before)
            if value > middle + SIGMAS * scale:
                found.append(k)
    return found


def spread(values: Sequence[float]) -> float:
    """Standard deviation (of a sample, n - 1) over the mean. ValueError: fewer than two values."""
    if len(values) < 2:
        raise ValueError(f"got {len(values)} value; a spread needs at least 2")
    return stdev(values) / abs(fmean(values))


def resolved(count: int, chance: float = CHANCE) -> float:
    """How many times larger one of two standard deviations of `count` values each must be, for equal ones to come out
    so far apart in no more than the part `chance` of cases.

    The root of the F distribution's upper point with (count - 1, count - 1) degrees of freedom, two-sided: values are
    taken to be normal. From three values it is 6.2, from five 3.1: a few seeds resolve only gross differences.
    """
    from scipy.special import fdtri  # here, since importing it takes longer than all the rest

    return math.sqrt(fdtri(count - 1, count - 1, 1 - chance / 2))


@dataclass(frozen=True)
class Calm:
    """One space's trainings at a number of images: what seeds, spikes and learning rates did to them.

    `kd_e` (by seed), `loss` (on held-out pictures, by seed); `drawn`: the relative scatter of a network's KD-E from one
    set of drawn pictures to another, so that much of the spread is none of the training's doing; `leaps` and `steps`:
    spikes of the loss, and the steps that were looked at, of all seeds together; `by_rate`: KD-E by multiple of the
    learning rate, 1 being the mean over seeds.
    """

    kd_e: list[float]
    loss: list[float]
    drawn: float
    leaps: int
    steps: int
    by_rate: dict[int, float]

    def stands(self, worse: float = WORSE) -> int:
        """The largest multiple of the learning rate up to which every one tried leaves KD-E no worse by that part; 0
        where a training at the usual rate has diverged."""
        if not math.isfinite(self.by_rate[1]):
            return 0
        limit, found = (1 + worse) * self.by_rate[1], 1
        for times, kd in sorted(self.by_rate.items()):
            if not kd <= limit:
                break
            found = times
        return found


def calm(results: Mapping, space: str, images: int) -> Calm | None:
    """What the stage found in a space after so many images; None where it was not judged there. A training that
    diverged has an infinite KD-E at its multiple of the learning rate."""
    usual, by_rate, gaps, points = [], {}, [], []
    for row in (r for r in results["runs"] if r["space"] == space):
        if row.get("diverged"):
            by_rate[row["times"]] = math.inf
            continue
        point = next((p for p in row["points"] if p["images"] == images), None)
        if point is None:
            return None
        draws = [quality["kd_e"] for quality in (point["quality"], point["again"])]
        if row["times"] == 1:
            gaps.append((draws[0] - draws[1]) ** 2 / 2)
            usual.append(row)
            points.append((fmean(draws), point["loss_test"], point["step"]))
        else:
            by_rate[row["times"]] = fmean(draws)
    if not points:
        return None
    kd_e, losses, steps = (list(column) for column in zip(*points))
    leaps = sum(k <= n for row, n in zip(usual, steps) for k in row["spikes"]["loss"])
    drawn = math.sqrt(fmean(gaps) / 2) / abs(fmean(kd_e))  # of a mean of two draws
    return Calm(kd_e, losses, drawn, leaps, sum(steps), {1: fmean(kd_e)} | by_rate)


def calmer(
    pixel: Calm, latent: Calm, *, chance: float = CHANCE, deviations: float = DEVIATIONS, worse: float = WORSE
) -> dict[str, bool | None]:
    """By each of the three tests: is the latent's training the calmer one? None where the difference is not resolved.

    Seeds: the spreads of KD-E differ by more than `resolved`. Spikes: their counts, at equal steps, differ by more than
    so many standard `deviations` of such counts. Learning rate: one stands a larger multiple of it, of those tried.
    """
    found: dict[str, bool | None] = {}
    p, z = spread(pixel.kd_e), spread(latent.kd_e)
    clear = max(p, z) > resolved(len(pixel.kd_e), chance) * min(p, z)
    found["seeds"] = z < p if clear else None
    p, z = pixel.leaps, latent.leaps
    found["spikes"] = z < p if abs(p - z) > deviations * math.sqrt(p + z) else None
    p, z = pixel.stands(worse), latent.stands(worse)
    found["learning rate"] = z > p if p != z else None
    return found

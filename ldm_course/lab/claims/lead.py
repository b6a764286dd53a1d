"""Who is ahead at equal budgets, and where that changes: a pixel and a latent training side by side (chapters 2 and 4).

A budget counts images, FLOPs or seconds, with the first stage's part or without it. Which space is nearer to real
pictures depends on which is counted, and on how far one trains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .learnt import Budget, between
from .rates import Rates, first_stage_seconds
from .verdicts import rules

IMAGES = Budget("images", lambda p: p["images"], lambda p: p["images"])


def flops(first_stage: Mapping | None = None) -> Budget:
    """FLOPs of training; with those of the first stage, which is the entry of that name in the latent's results."""
    own = first_stage["training_flops"] if first_stage else 0
    return Budget("FLOPs", lambda p: p["flops"], lambda p: p["flops"] + own)


def seconds(found: Rates, first_stage: Mapping | None = None) -> Budget:
    """Seconds of training, images times the rates of one machine; with those of the first stage, from the results of
    its own stage."""
    own = first_stage_seconds(found, first_stage) if first_stage else 0.0
    return Budget("seconds", lambda p: p["images"] * found.pixel, lambda p: p["images"] * found.latent + own)


@dataclass(frozen=True)
class Lead:
    """Where so much is spent: by how much the latent's KD-E is below the pixels', and the standard error of that
    difference, None where a record holds no errors."""

    spent: float
    by: float
    error: float | None

    @property
    def resolved(self) -> bool:
        """Whether it is beyond `rules.scatter` errors, one way or the other."""
        return self.error is not None and abs(self.by) > rules.scatter * self.error


def leads(budget: Budget, pixel: Sequence[dict], latent: Sequence[dict]) -> list[Lead]:
    """The latent's lead at every mark of either training, within the budgets that both have reached; KD-E between marks
    is on a line in log budget."""
    spent = [budget.pixel(p) for p in pixel], [budget.latent(p) for p in latent]
    low, high = max(s[0] for s in spent), min(s[-1] for s in spent)
    found = []
    for x in sorted({x for part in spent for x in part if low <= x <= high}):
        one, other = (between(s, points, x)["quality"] for s, points in zip(spent, (pixel, latent)))
        errors = [q.get("kd_e_error") for q in (one, other)]
        found.append(Lead(x, one["kd_e"] - other["kd_e"], None if None in errors else math.hypot(*errors)))
    return found


@dataclass(frozen=True)
class Crossing:
    """The budget `at` which pixels take the lead for good, and between which budgets the two are not told apart, by the
    pictures' own scatter: None where records hold no errors, infinite where that does not end."""

    at: float
    low: float | None
    high: float | None


def crossing(found: Sequence[Lead]) -> Crossing | None:
    """Where a latent lead ends for good; None where there is none, or where it lasts."""
    spent, by = [lead.spent for lead in found], [lead.by for lead in found]
    if not by or max(by) <= 0 or by[-1] > 0:
        return None
    if any(lead.error is None for lead in found):
        return Crossing(_ends(spent, by), None, None)
    least, most = ([lead.by + k * rules.scatter * lead.error for lead in found] for k in (-1, 1))
    return Crossing(_ends(spent, by), _ends(spent, least), _ends(spent, most))


def _ends(spent: Sequence[float], values: Sequence[float]) -> float:
    """Where values stop being above 0 for good, on a line in log budget; infinite where the last one still is."""
    above = [i for i, value in enumerate(values) if value > 0]
    if not above:
        return spent[0]
    i = above[-1]
    if i == len(values) - 1:
        return math.inf
    part = values[i] / (values[i] - values[i + 1])
    return spent[i] * (spent[i + 1] / spent[i]) ** part

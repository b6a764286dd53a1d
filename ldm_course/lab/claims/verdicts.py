"""Claims, findings and verdicts: what a judge is, what it reads, and the rules that all judges share.

A judge is a function: it reads stored records through its `Evidence`, or counts by formula, and returns a `Finding`.
What has not been recorded is "not measured yet", never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from ...config import AutoencoderConfig, UNetConfig
from .. import records
from ..records import NotRecorded

CONFIRMED, REFINED, REFUTED = "confirmed", "refined", "refuted"
NOT_HERE, NOT_YET = "not testable here", "not measured yet"
ORDER = (CONFIRMED, REFINED, REFUTED, NOT_HERE, NOT_YET)
PIXEL, LATENT, FIRST = UNetConfig(), UNetConfig().for_channels(4), AutoencoderConfig()  # the course's standard networks


@dataclass
class Rules:
    """The thresholds that judges share, in one place; `under` turns them.

    `tie`: a ratio nearer to another than that part is the same. `scatter`: so many standard errors, and a difference
    of distances, or of PSNRs, is one. `half`: "most" is more than this part.
    """

    tie: float = 0.1
    scatter: float = 2.0
    half: float = 0.5


rules = Rules()  # those in force


@contextmanager
def under(**changes: float) -> Iterator[None]:
    """Other rules within the block: `with under(tie=0.2): ...`."""
    before = {name: getattr(rules, name) for name in changes}
    try:
        for name, value in changes.items():
            setattr(rules, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(rules, name, value)


@dataclass(frozen=True)
class Finding:
    """A verdict, one of ORDER; what was found; what holds instead or besides; and the records that it is read from."""

    verdict: str
    found: str
    holds: str = ""
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim:
    """What is asserted, and what would count as evidence; `judge()` looks at it."""

    id: str
    says: str
    evidence: str
    look: Callable[[Evidence], Finding] | None

    def judge(self, live: Mapping[str, dict] | None = None) -> Finding:
        """The finding; "not measured yet" where a record is missing, or no chapter measures it yet.

        `live` holds results of stages that were made just now; they take the place of these stages' records.
        """
        if self.look is None:
            return Finding(NOT_YET, self.evidence)
        seen = Evidence(live or {})
        try:
            found = self.look(seen)
        except NotRecorded as missing:
            return Finding(NOT_YET, str(missing))
        return Finding(found.verdict, found.found, found.holds, tuple(seen.names))


@dataclass
class Evidence:
    """Reads records, and remembers which; `live` results take the place of a record."""

    live: Mapping[str, dict] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def records(self, *stages: str) -> list[dict]:
        """All from one kind of machine."""
        found = records.recorded_together(*stages)
        self.names += [record["name"] for record in found]
        return found

    def results(self, stage: str) -> dict:
        if stage in self.live:
            return self.live[stage]
        return self.records(stage)[0]["results"]

    def cost(self) -> dict[tuple[int, int], dict]:
        """The rows of the stage `cost` by (side, f)."""
        return {(row["side"], row["f"]): row for row in self.results("cost")["rows"]}


CLAIMS: dict[str, Claim] = {}


def claim(id: str, says: str, evidence: str) -> Callable:
    """Registers the decorated function as the judge of a claim."""

    def register(look: Callable[[Evidence], Finding] | None):
        CLAIMS[id] = Claim(id, says, evidence, look)
        return look

    return register


def verdict(found: float, claimed: float) -> str:
    """Of a ratio: confirmed within 10 % of what is claimed, refined within a factor of two, else refuted; refuted as
    well on the other side of 1, where the other space is ahead."""
    off = max(found / claimed, claimed / found)
    same_side = (found - 1) * (claimed - 1) > 0
    return CONFIRMED if off <= 1 + rules.tie else REFINED if off <= 2 and same_side else REFUTED


def worst(*verdicts: str) -> str:
    """A claim of several parts is as good as its worst."""
    return max(verdicts, key=ORDER.index)


def gain(before: dict, after: dict, seeds: float = 0.0) -> float | None:
    """By how much KD-E falls from one judged set of pictures to another of the same count, against one reference. KD-E,
    since it has no bias from the count.

    None where the change is within `rules.scatter` standard errors of the difference, where the counts differ, or where
    a record holds no errors. `seeds` is the standard error that the trainings' seeds add to the difference.
    """
    errors = [before.get("kd_e_error"), after.get("kd_e_error")]
    if before["n_generated"] != after["n_generated"] or None in errors:
        return None
    change = before["kd_e"] - after["kd_e"]
    return change if abs(change) > rules.scatter * math.hypot(*errors, seeds) else None


def above_floor(judged: dict) -> float | None:
    """By how much KD-E is above its floor, as `gain` tells; None where that is not resolved."""
    floor = {"kd_e": judged["kd_e_floor"], "kd_e_error": judged.get("kd_e_floor_error")}
    return gain(judged, floor | {"n_generated": judged["n_generated"]})


def sampled(results: dict, space: str, method: str, steps: int) -> dict:
    return records.only(results["sampling"], space=space, method=method, steps=steps)


def seconds_a_picture(results: dict, space: str, method: str, steps: int) -> float:
    """Of a picture, decoder included, at the largest batch that was timed."""
    of = sampled(results, space, method, steps)["seconds_picture"]
    return of[max(of, key=int)]

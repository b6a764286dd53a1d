"""Claims, findings and verdicts: what a judge is, what it reads, and the rules that all judges share.

A judge is a function: it reads stored records through its `Evidence`, or counts by formula, and returns a `Finding`.
What has not been recorded is "not measured yet", never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields

from ...config import AutoencoderConfig, UNetConfig
from ...measure import content, cost_model, structures
from .. import records
from ..records import NotRecorded
from .published import PUBLISHED, Published

CONFIRMED, REFINED, REFUTED = "confirmed", "refined", "refuted"
NOT_HERE, NOT_YET = "not testable here", "not measured yet"
ORDER = (CONFIRMED, REFINED, REFUTED, NOT_HERE, NOT_YET)
PIXEL, LATENT, FIRST = UNetConfig(), UNetConfig().for_channels(4), AutoencoderConfig()  # the course's standard networks


def _rule(value: float, says: str) -> float:
    return field(default=value, metadata={"says": says})


@dataclass
class Rules:
    """Every threshold of a judge that is a choice of the course's; `under` turns them, `ledger.sensitivity` each.

    A figure that the claim itself names is none of these: it stands in the call that judges it.
    """

    tie: float = _rule(0.1, "two ratios are the same if they differ by no more than this part")
    off: float = _rule(2.0, "a figure off by more than this factor is refuted, one within it refined")
    scatter: float = _rule(2.0, "standard errors beyond which two distances, counts or shares differ")
    half: float = _rule(0.5, "“most” is more than this part, “halved” less than it")
    epochs: float = _rule(20.0, "passes over the data before what a network draws is judged (the source: 100)")
    covered: float = _rule(0.05, "recall, as a part of real pictures' own, below which what is drawn is not judged")
    pictures: float = _rule(1000.0, "pictures in each set, for a verdict on quality")
    pictures_slow: float = _rule(512.0, "the same where a sampler makes 1000 steps")
    seeds: float = _rule(3.0, "trainings of each space, before one space is called better")
    overfit: float = _rule(0.02, "part by which new pictures' loss exceeds the old ones' where overfitting has begun")
    failed: float = _rule(0.1, "part by which KD-E is higher where a learning rate has failed")
    chance: float = _rule(0.05, "how often two equal spreads come out as far apart as two that differ")
    visible: float = _rule(content.VISIBLE, "grey levels, root mean square, below which a loss is invisible")
    faded: float = _rule(structures.FADED, "part by which a kept structure's contrast may be off")
    told: float = _rule(structures.TOLD, "area under the ROC curve from which on a kept structure is told from none")
    astray: float = _rule(structures.ASTRAY, "pixels within which a kept structure is found")
    wait: float = _rule(60.0, "seconds for a picture, up to which it takes “seconds” and from which on “minutes”")
    practical: float = _rule(10.0, "times cheaper than in pixels, for a training step that makes a size practical")
    slow: float = _rule(10.0, "times the seconds of the cheapest sampler that is as good, for a slow one")
    first_stage: float = _rule(50.0, "epochs of the autoencoder on a bill of 100 for the denoiser")
    small_card: float = _rule(12.0, "GiB of a common consumer GPU: what needs no more runs, or trains, on most")
    large_card: float = _rule(24.0, "GiB of a large consumer GPU: what needs more is beyond them")
    card_years: float = _rule(1.0, "years that one consumer GPU may take for a training that it can do")

    def table(self) -> list[tuple[str, float, str]]:
        """Name, value and meaning of each."""
        return [(f.name, getattr(self, f.name), f.metadata["says"]) for f in fields(self)]


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
    """A verdict, one of ORDER; what was found; what holds instead or besides; the records that it is read from, and
    what must be known of their data (`records.data_note`)."""

    verdict: str
    found: str
    holds: str = ""
    sources: tuple[str, ...] = ()
    data: str = ""


@dataclass(frozen=True)
class Claim:
    """What is asserted, and what would count as evidence; `judge()` looks at it."""

    id: str
    says: str
    evidence: str
    look: Callable[[Evidence], Finding] | None

    @property
    def published(self) -> Published | None:
        """What the literature shows of it, in tables that we know."""
        return PUBLISHED.get(self.id)

    def judge(self, live: Mapping[str, dict] | None = None) -> Finding:
        """The finding; "not measured yet" where a record is missing, or no chapter measures it yet.

        `live` holds results of stages that were made just now; they take the place of these stages' records.
        ValueError: a record has not what its stage records, nor an older edition of it.
        """
        if self.look is None:
            return Finding(NOT_YET, self.evidence)
        seen = Evidence(live or {})
        try:
            found = self.look(seen)
        except NotRecorded as missing:
            return Finding(NOT_YET, str(missing))
        except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
            if not seen.names:
                raise
            read = ", ".join(dict.fromkeys(seen.names))
            raise ValueError(
                f"{self.id} cannot be judged: {error!r} in what its records hold, {read}; restore or remake them"
            ) from error
        return Finding(found.verdict, found.found, found.holds, tuple(dict.fromkeys(seen.names)), seen.data)


@dataclass
class Evidence:
    """Reads records, and remembers which; `live` results take the place of a record."""

    live: Mapping[str, dict] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    data: str = ""

    def records(self, *stages: str) -> list[dict]:
        """All from one kind of machine."""
        found = records.recorded_together(*stages)
        self.names += [record["name"] for record in found]
        self.data = self.data or records.data_note(*found)
        return found

    def results(self, stage: str) -> dict:
        if stage in self.live:
            return self.live[stage]
        return self.records(stage)[0]["results"]

    def together(self, *stages: str) -> list[dict]:
        """Results of several stages, from one kind of machine; `live` ones only where all of them are."""
        if set(stages) <= set(self.live):
            return [self.live[stage] for stage in stages]
        return [record["results"] for record in self.records(*stages)]

    def cost(self, network: str = cost_model.STANDARD) -> dict[tuple[int, int], dict]:
        """The rows of the stage `cost` by (side, f), with that network. NotRecorded: it was not measured with it."""
        found = cost_model.rows(self.results("cost"), network)
        if not found:
            raise NotRecorded(f"cost was not measured with networks {network}; run: ldm-course reference --stage cost")
        return found


CLAIMS: dict[str, Claim] = {}


def claim(id: str, says: str, evidence: str) -> Callable:
    """Registers the decorated function as the judge of a claim."""

    def register(look: Callable[[Evidence], Finding] | None):
        CLAIMS[id] = Claim(id, says, evidence, look)
        return look

    return register


def verdict(found: float, claimed: float) -> str:
    """Of a ratio: confirmed within `tie` of what is claimed, refined within a factor of `off`, else refuted; refuted as
    well on the other side of 1, where the other space is ahead."""
    off = max(found / claimed, claimed / found)
    same_side = (found - 1) * (claimed - 1) > 0
    return CONFIRMED if off <= 1 + rules.tie else REFINED if off <= rules.off and same_side else REFUTED


def more(ratio: float) -> str:
    """Of a claim that only says which way: confirmed where the ratio is above 1 by more than `tie`."""
    return CONFIRMED if ratio > 1 + rules.tie else REFUTED


def worst(*verdicts: str) -> str:
    """A claim of several parts is as good as its worst: one that is refuted refutes it, whatever of the others cannot
    be tested; short of that, it is tested only if all are."""
    return max(verdicts, key=(CONFIRMED, REFINED, NOT_HERE, NOT_YET, REFUTED).index)


def gain(before: dict, after: dict, seeds: float = 0.0) -> float | None:
    """By how much KD-E falls from one judged set of pictures to another of the same count, against one reference. KD-E,
    since it has no bias from the count.

    None where the change is within `rules.scatter` standard errors of the difference, where the counts differ, or where
    a record holds no errors. `seeds` is the standard deviation that the trainings' seeds give to the difference.
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


def margin(twice: float) -> float:
    """How far apart two values must be to differ, by the rules in force, from twice the standard error of their
    difference, which is what chapter 4's records hold."""
    return rules.scatter * twice / 2

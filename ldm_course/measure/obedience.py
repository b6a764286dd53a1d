"""Does a picture obey its prompt? What the detector finds in it, held against what the words say (chapter 8).

A picture may have every shape and every colour that was asked for and yet show a blue star and a red square where the
prompt says the reverse. So each attribute is asked alone, and then those that belong together. What the prompt does not
say is not asked. Nothing is perfect here but the prompt: the shares of real scenes, and of the same scenes encoded and
decoded, are the most that a generator can reach, and another scene's prompt says what chance gives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

from torch import Tensor

from ..data.prompts import Asked, Prompt, asked_of, parse
from ..data.scenes import PLACES, Scene
from ..networks.detector import Detector
from .detection import Found, Seen, detect, detector

CENTRE = 0.115  # widths: a thing "in the centre" is within 0.05 of it, one at a side at least 0.18 away
BOUND = {  # what must be right together, of each thing
    "shape": ("shape",),
    "colour": ("colour",),
    "size": ("size",),
    "shape and colour": ("shape", "colour"),
    "size, shape and colour": ("size", "shape", "colour"),
}
ATTRIBUTES = ("count", *BOUND, "place", "relation", "pattern", "tint", "everything")


@dataclass(frozen=True)
class Share:
    """The share of `n` pictures that have something `right`, and its standard error.

    The error is that of a binomial share, sqrt(p (1 - p) / n), with p = (k + 1) / (n + 2) for k right ones (Laplace's
    rule of succession): where all are right, some doubt is left.
    """

    right: float
    error: float
    n: int

    @classmethod
    def of(cls, answers: Sequence[bool]) -> Share:
        k, n = sum(answers), len(answers)
        p = (k + 1) / (n + 2)
        return cls(k / n, math.sqrt(p * (1 - p) / n), n)


def score(pictures: Tensor, asked: Sequence[Scene | Prompt | str], model: Detector | None = None) -> dict[str, Share]:
    """By attribute, how many of these pictures, uint8 `(N, 3, 64, 64)`, show what is asked.

    `asked`: for each picture its prompt, in words or parsed, or its scene; `model`: the detector, by default the
    course's own. ValueError: not one for each, pictures of another size, or words that `parse` cannot read.
    """
    return shares(detect(detector() if model is None else model, pictures), asked)


def shares(seen: Sequence[Seen], asked: Sequence[Scene | Prompt | str]) -> dict[str, Share]:
    """As `score`, of what was seen in pictures. An attribute that no prompt asks for is left out."""
    if len(seen) != len(asked):
        raise ValueError(f"{len(asked)} prompts for {len(seen)} pictures; expected one for each")
    found = [obeyed(one, _prompt(of)) for one, of in zip(seen, asked)]
    answers = {name: [of[name] for of in found if name in of] for name in ATTRIBUTES}
    return {name: Share.of(of) for name, of in answers.items() if of}


def _prompt(asked: Scene | Prompt | str) -> Prompt:
    if isinstance(asked, str):
        return parse(asked)
    return asked_of(asked) if isinstance(asked, Scene) else asked


def obeyed(seen: Seen, prompt: Prompt) -> dict[str, bool]:
    """What of the prompt's attributes a picture has right, of those that the prompt asks for.

    An attribute of things, or several together, is right if there is one way to take a thing that was found for each
    that was asked for by which it is so for all of them. Things too many count as wrong under "count" and "everything"
    alone. A place or a relation is right if it is so for things of the shapes and colours that it is said of.
    """
    said = {name for name in BOUND["size, shape and colour"] if any(getattr(thing, name) for thing in prompt.things)}
    found = {"count": len(seen.things) == len(prompt.things)}
    for name, together in BOUND.items():
        if said.issuperset(together):
            found[name] = any(_choices(seen, prompt, together))
    where = {"place": prompt.place, "relation": prompt.relation or prompt.both}
    for name in (name for name, asked in where.items() if asked):
        found[name] = any(_stand(chosen, prompt) for chosen in _choices(seen, prompt, BOUND["shape and colour"]))
    for name in ("pattern", "tint"):
        if getattr(prompt, name):
            found[name] = getattr(seen, name) == getattr(prompt, name)
    whole = any(_stand(chosen, prompt) for chosen in _choices(seen, prompt, BOUND["size, shape and colour"]))
    return found | {"everything": whole and all(found.values())}


def _choices(seen: Seen, prompt: Prompt, names: Sequence[str]) -> Iterator[tuple[Found, ...]]:
    """All ways to take a thing that was found for each that was asked for, by which these `names` are right."""

    def fits(asked: Asked, found: Found) -> bool:
        return all(getattr(asked, name) in (None, getattr(found, name)) for name in names)

    return (chosen for chosen in permutations(seen.things, len(prompt.things)) if all(map(fits, prompt.things, chosen)))


def _stand(chosen: Sequence[Found], prompt: Prompt) -> bool:
    """Whether these things, in the prompt's order, are where it says. The first two must be further apart along their
    relation than across it, as they are in every scene."""
    right = prompt.place is None or place_of(chosen[0]) == prompt.place
    if prompt.relation:
        right = right and _ahead(prompt.relation, *chosen[:2]) > abs(_ahead(_ACROSS[prompt.relation], *chosen[:2]))
    if prompt.both:
        right = right and all(_ahead(prompt.both, thing, chosen[2]) > 0 for thing in chosen[:2])
    return right


_ACROSS = {"left of": "above", "right of": "above", "above": "left of", "below": "left of"}


def _ahead(relation: str, a: Found, b: Found) -> float:
    """How far a is, in widths, on that side of b; negative on the other one."""
    x, y = b.x - a.x, b.y - a.y
    return {"left of": x, "right of": -x, "above": y, "below": -y}[relation]


def place_of(thing: Found) -> str:
    """The one of `scenes.PLACES` where a thing is: the centre within CENTRE of it, else the side that is nearest."""
    x, y = thing.x - 0.5, thing.y - 0.5
    if max(abs(x), abs(y)) < CENTRE:
        return "in the centre"
    return max(PLACES, key=lambda place: x * PLACES[place][0] + y * PLACES[place][1])

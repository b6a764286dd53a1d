"""What a caption of a scene asks for, read back from its words, and pairs that a model is never to see (chapter 8).

`parse` is the inverse of `scenes.caption`, and reads shorter prompts as well: all but the shapes may be left out, and
what is not said is None, so that nobody asks a picture for it. `held_out` is the course's test of composition: a model
that has seen blue things and stars, but no scene with a blue star, is asked for one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import torch

from ..checks import check
from .scenes import COLOURS, PATTERNS, PLACES, RELATIONS, SHAPES, SIZES, TINTS, Scene

# The first shape in the first colour, and so on: an eighth of all pairs. Each shape is left with seven colours and each
# colour with seven shapes.
HELD_OUT_PAIRS = frozenset(zip(SHAPES, COLOURS, strict=True))


@dataclass(frozen=True)
class Asked:
    """One thing that a prompt asks for; None is what it does not say."""

    shape: str
    colour: str | None = None
    size: str | None = None

    def __str__(self) -> str:
        words = " ".join(word for word in (self.size, self.colour, self.shape) if word)
        return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


@dataclass(frozen=True)
class Prompt:
    """What a prompt says of a picture, in `scenes.Scene`'s terms; None is what it does not say."""

    things: tuple[Asked, ...]
    place: str | None = None
    relation: str | None = None
    both: str | None = None
    pattern: str | None = None
    tint: str | None = None

    def __str__(self) -> str:
        """The prompt in words, which `parse` reads back."""
        first, *others = map(str, self.things)
        parts = [first, self.place] if not others else [first, self.relation or "and", others[0]]
        text = " ".join(filter(None, parts))
        ground = " ".join(filter(None, (self.pattern, self.tint)))
        if len(others) == 2:
            text += f", both {self.both} {others[1]}" if self.both else f", and {others[1]}"
            text += "," if ground else ""
        return f"{text} on a {ground} background" if ground else text


def asked_of(scene: Scene) -> Prompt:
    """All that the scene's caption says."""
    things = tuple(Asked(thing.shape, thing.colour, thing.size) for thing in scene.things)
    return Prompt(things, scene.place, scene.relation, scene.both, scene.pattern, scene.tint)


def parse(prompt: str) -> Prompt:
    """What a prompt asks for: `parse(scenes.caption(scene)) == asked_of(scene)`.

    One to three things, "a small red star", with or without size and colour. One may have a place, "at the left". Two
    stand in a relation, or side by side: "a star above a square", "a star and a square". A third follows with "both"
    and its relation, or with "and": "…, both left of a ring", "…, and a ring". Then, if wanted, "on a striped mint
    background", or with one of the two words. Upper and lower case are the same.

    ValueError: what cannot be read, and what was expected there.
    """
    words = _Words(prompt)
    things, relation, both = [_thing(words)], None, None
    place = words.take(PLACES)
    if place is None and (joined := words.take((*RELATIONS, "and", ", an", ", a"))):
        relation = joined if joined in RELATIONS else None
        things.append(_thing(words))
        if words.take((", both", "both")):
            both = words.take(RELATIONS, "a relation")
            things.append(_thing(words))
        elif words.take((", and",) if relation else (", and", "and")):
            things.append(_thing(words))
    pattern = tint = None
    if words.take((", on a", "on a")):
        pattern, tint = words.take(PATTERNS), words.take(TINTS)
        if pattern is None and tint is None:
            words.refuse(f"a pattern or a tint: {', '.join((*PATTERNS, *TINTS))}")
        words.take(("background",), "the word")
    if words.left:
        words.refuse("its end" if pattern or tint else "“, and a …”, “, both … a …”, “on a … background”, or its end")
    return Prompt(tuple(things), place, relation, both, pattern, tint)


def _thing(words: _Words) -> Asked:
    words.take(("a", "an", "the"))
    size, colour = words.take(SIZES), words.take(COLOURS)
    return Asked(words.take(SHAPES, "a shape"), colour, size)


class _Words:
    """What is `left` of a prompt while it is read from its beginning."""

    def __init__(self, prompt: str):
        self.prompt = " ".join(check(str, prompt, "the prompt").split())
        self.left = re.findall(r"\w+|[^\w\s]", self.prompt.lower().removesuffix("."))

    def take(self, options: Iterable[str], expected: str | None = None) -> str | None:
        """The one of the options that comes next; None, or ValueError where one is `expected`, if none does."""
        for option in options:
            words = re.findall(r"\w+|,", option)
            if self.left[: len(words)] == words:
                del self.left[: len(words)]
                return option
        if expected:
            self.refuse(f"{expected}: {', '.join(options)}")
        return None

    def refuse(self, expected: str) -> NoReturn:
        prompt, left = (text if len(text) < 100 else f"{text[:100]} …" for text in (self.prompt, " ".join(self.left)))
        found = f"cannot read “{left}”" if left else "it ends too early"
        raise ValueError(f"the prompt “{prompt}”: {found}; expected {expected}")


def held_out(scene: Scene | Prompt) -> bool:
    """Whether any of its things is of a pair of shape and colour in HELD_OUT_PAIRS."""
    return any((thing.shape, thing.colour) in HELD_OUT_PAIRS for thing in scene.things)


def new_pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """Those of HELD_OUT_PAIRS, (shape, colour) in order, that none of these drawings' names has: a model that was
    trained on emoji as well knows a red circle from there."""
    known = [set(name.split()) for name in names]
    return sorted(pair for pair in HELD_OUT_PAIRS if not any(known_of >= set(pair) for known_of in known))


def without_held_out(captions: Sequence[str]) -> torch.Tensor:
    """The indices of those captions that name no held-out pair, int64 (N,), in order.

    `known.subset(without_held_out(known.captions))` is what a model of scenes is trained on, if it is to be asked for
    new pairs later: some three quarters of them. ValueError: a caption that `parse` cannot read.
    """
    return torch.tensor([i for i, text in enumerate(captions) if not held_out(parse(text))], dtype=torch.int64)


SAID = ("size", "colour", "place", "relation", "both", "pattern", "tint")  # beside the shapes


def shortened(prompt: Prompt, said: Collection[str]) -> Prompt:
    """The prompt that says of these, beside the shapes, only what is among `said` (names out of SAID)."""
    things = tuple(
        Asked(thing.shape, *(getattr(thing, name) if name in said else None for name in ("colour", "size")))
        for thing in prompt.things
    )
    return Prompt(things, *(getattr(prompt, name) if name in said else None for name in SAID[2:]))


def exchanged(prompt: Prompt, *names: str) -> Prompt | None:
    """The prompt with these attributes of its first two things exchanged: the same words in another order.

    `exchanged(prompt, "colour")` of "a red star above a blue square" is "a blue star above a red square"; with "shape"
    as well, "a blue square above a red star". None where there are no two things that differ in shape and in colour.
    """
    if len(prompt.things) < 2:
        return None
    first, second, *others = prompt.things
    if first.shape == second.shape or first.colour == second.colour:
        return None
    a, b = ({name: getattr(thing, name) for name in names} for thing in (first, second))
    return replace(prompt, things=(replace(first, **b), replace(second, **a), *others))

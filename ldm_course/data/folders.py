"""What lies below a folder: the pictures in natural order, and what else there is (chapter 0)."""

from __future__ import annotations

import functools
import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from ..files import shown

SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")


class LeftOut(UserWarning):
    """Something in a folder of pictures is not used: how many, an example, and why."""


@functools.cache
def formats() -> list[str]:
    """What Pillow reads, whatever a file is called; but EPS, for which it would run another program on the file."""
    Image.init()
    return [name for name in Image.OPEN if name != "EPS"]


def natural(name: str) -> list[str | int]:
    """Sorts 2 before 10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", name))]


def pictures_below(path: Path) -> tuple[dict[Path, Path], list[tuple[Path, str]]]:
    """The pictures' files, by their names within the folder, in natural order; and what else there is, and why it is
    left out. Links are followed, each folder is read once."""
    found, left, seen = {}, [], set()

    def closed(error: OSError) -> None:
        left.append((Path(error.filename), "a folder that cannot be opened"))

    walk = os.walk(path, followlinks=True, onerror=closed)
    for at, folders, files in tqdm(walk, f"looking through {shown(path)}", unit=" folders", delay=2, leave=False):
        here = os.stat(at)
        if (here.st_dev, here.st_ino) in seen:  # a link to a folder above, or a second one to the same
            left.append((Path(at), "a folder that another link had led to"))
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural)
        for file in (Path(at, name) for name in files):
            if file.suffix.lower() not in SUFFIXES:
                if not file.name.startswith("."):
                    left.append((file, "of a format that is not read"))
            elif file.name.startswith("."):
                left.append((file, "hidden"))
            elif not file.is_file():
                left.append((file, "a link that leads nowhere, or no file"))
            else:
                found[file.relative_to(path)] = file
    return dict(sorted(found.items(), key=lambda item: [natural(part) for part in item[0].parts])), left


def left_out(path: Path, left: list[tuple[Path, str]]) -> list[str]:
    """In words, how much of what is not used, an example, and why; nothing if all is used."""
    examples = {why: shown(file.relative_to(path)) for file, why in reversed(left)}
    parts = [f"{count} {why} (such as {examples[why]})" for why, count in Counter(why for _, why in left).items()]
    return [f"left out {', '.join(parts)}"] * bool(parts)


def tell(path: Path, left: list[tuple[Path, str]], unclassed: int = 0, classes: Sequence[str] = ()) -> None:
    """Warns in one line, a `LeftOut`, of what is not used, of pictures in sub-folders that are no classes, since as
    many lie beside them, and of `classes` that may not be meant: one alone, or parts of a data set."""
    said = left_out(path, left)
    if unclassed:
        said.append(f"no classes, since {unclassed} pictures lie in sub-folders and as many or more beside them")
    if classes and (len(classes) == 1 or SPLITS.issuperset(map(str.lower, classes))):
        are = "is taken for the only class" if len(classes) == 1 else "are taken for classes"
        said.append(f"{' and '.join(classes)} {are}; to have what is in one, name {path / classes[0]}")
    if said:
        warnings.warn(f"{shown(path)}: {'; '.join(said)}", LeftOut, stacklevel=4)


def tell_shadowed(name: str) -> None:
    """Warns, as `tell` does, where a folder of one's own is called as a data set of the course is."""
    if Path(name).is_dir():
        warnings.warn(f"{name} is the course's own data; name ./{name} for the folder", LeftOut, stacklevel=3)

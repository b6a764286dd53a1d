"""Where the course's files lie, and how one is written: whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch


def home() -> Path:
    """The folder that holds `records/` and `checkpoints/`.

    `$LDM_HOME` if set; else the repository, when the package runs from a checkout; else what the installed
    package carries. Refused with ValueError: an `$LDM_HOME` that is no folder.
    """
    chosen = os.environ.get("LDM_HOME")
    if chosen:
        if not Path(chosen).is_dir():
            raise ValueError(f"LDM_HOME={chosen!r} is not a folder; point it to one that has records/ in it")
        return Path(chosen)
    return checkout() or Path(__file__).parent / "_stored"


# of machine and patience that a stage is recorded on, the largest first: what ends the names of its files
MACHINES = ("reference", "gpu", "hours", "cpu")
PLACES = {
    "record": ("records", ".json"),
    "picture": ("records", ".png"),
    "film": ("records", ".webp"),
    "weights": ("checkpoints", ".safetensors"),
}


def place_of(kind: str, name: str, root: str | os.PathLike | None = None) -> Path:
    """Where the record, the picture, the film or the weights (`kind`) of that name lie, there or not: below the folder
    `root`, by default the course's own (`home`)."""
    folder, suffix = PLACES[kind]
    return Path(home() if root is None else root) / folder / f"{name}{suffix}"


def checkout() -> Path | None:
    """The repository that the package runs from, or None where it was installed."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").is_file() and (root / "records").is_dir() else None


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary name in the folder of `path`, and moves it to `path` if the block ends well.

    A reader of `path` sees the old file or the new one, never half of one; folders are made as needed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def writable_folder(folder: str | os.PathLike) -> Path:
    """The folder, made if need be and tried by writing: found out before hours of work, and not after.

    ValueError: it cannot be made, or takes no files.
    """
    folder = Path(folder)
    try:
        with written_whole(folder / ".tried") as temporary:
            temporary.write_bytes(b"tried")
        (folder / ".tried").unlink(missing_ok=True)  # another process may have tried the same folder
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"{folder} takes no files ({reason}); name another folder, or make room there") from error
    return folder


def all_finite(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether there is no NaN and no infinity in any of them."""
    return all(bool(v.isfinite().all()) for v in tensors.values() if v.is_floating_point())

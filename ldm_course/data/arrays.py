"""What an .npz file of pictures holds, each array looked at before it is used (chapter 0)."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..files import readable, reason, shown

MOST_CLASSES = 10_000  # without names


def contents(
    path: Path,
) -> tuple[torch.Tensor, torch.Tensor | None, tuple[str, ...] | None, tuple[str, ...] | None]:
    """`images` uint8 (N, 3, H, W), and, where the file has them, `labels` int64 (N,), names of `classes`, `captions`.
    ValueError, which names file and array: something else than `loaders.load_data` says."""
    stored = read(path, ("images",), ("labels", "classes", "captions"))
    images = as_pictures(path, "images", stored["images"])
    labels = classes = captions = None
    if "classes" in stored and "labels" not in stored:
        raise ValueError(f"{path} has names of classes and no labels; add labels, or leave the names out")
    if "labels" in stored:
        labels, classes = labelled(path, "labels", stored["labels"], stored.get("classes"), len(images))
    if "captions" in stored:
        _one_each(path, "captions", stored["captions"], len(images))
        if stored["captions"].dtype.kind != "U":
            raise ValueError(f"{path}: captions are {stored['captions'].dtype}; expected text (numpy's str)")
        captions = tuple(map(str, stored["captions"]))
    return images, labels, classes, captions


def as_pictures(path: Path, key: str, array: np.ndarray) -> torch.Tensor:
    """(N, H, W, 3), (N, 3, H, W) or grey (N, H, W), (N, H, W, 1), (N, 1, H, W), as uint8 (N, 3, H, W)."""
    expected = "uint8 of shape (N, H, W, 3), (N, 3, H, W) or (N, H, W)"
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or 0 in array.shape:
        raise ValueError(f"{path}: {key} is {array.dtype} of shape {array.shape}; expected {expected}")
    images = torch.from_numpy(array)
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[-1] in (1, 3):
        images = images.permute(0, 3, 1, 2)
    elif images.shape[1] not in (1, 3):
        raise ValueError(f"{path}: {key} is {array.dtype} of shape {array.shape}; expected {expected}")
    return images.expand(-1, 3, -1, -1)


def labelled(
    path: Path, key: str, labels: np.ndarray, names: np.ndarray | None, count: int
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """An .npz file's labels, int64 (count,), and the names of the classes, or their numbers."""
    _one_each(path, key, labels, count)
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: {key} are {labels.dtype}; expected whole numbers from 0 up")
    if labels.max() >= 2**63:  # of unsigned ones
        raise ValueError(f"{path}: {key} go up to {labels.max()}; expected numbers of classes, from 0 up")
    if labels.min() < 0:
        raise ValueError(f"{path}: {key} go down to {labels.min()}; expected whole numbers from 0 up")
    if names is not None and (names.ndim != 1 or names.dtype.kind not in "Uiu"):
        raise ValueError(f"{path}: classes are {names.dtype} of shape {names.shape}; expected a list of names")
    if names is None and labels.max() >= MOST_CLASSES:
        raise ValueError(f"{path}: {key} go up to {labels.max()}; expected less than {MOST_CLASSES}, from 0 up")
    classes = tuple(map(shown, map(str, range(int(labels.max()) + 1) if names is None else names)))
    if labels.max() >= len(classes):
        raise ValueError(f"{path}: {key} go up to {labels.max()}, but there are {len(classes)} classes")
    if len(set(classes)) < len(classes) or not all(classes):
        raise ValueError(f"{path}: classes are {', '.join(map(repr, classes[:20]))}; expected a name for each, once")
    return torch.from_numpy(labels.astype(np.int64)), classes


def _one_each(path: Path, key: str, values: np.ndarray, count: int) -> None:
    if values.shape != (count,):
        raise ValueError(f"{path}: {key} has shape {values.shape}; expected ({count},), one per picture")


def read(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """These arrays of an .npz; never a pickle, which could run code."""
    readable(path)
    try:
        with zipfile.ZipFile(path):  # else numpy takes it for a pickle, and advises to load it
            pass
        with np.load(path, allow_pickle=False) as file:
            present = file.files
            stored = {key: np.asarray(file[key]) for key in (*required, *optional) if key in present}
    except Exception as error:  # a torn zip, objects that would need a pickle, or no .npz at all
        objects = "save text by .astype(str), and numbers by a type of numbers"
        mend = objects if "Object arrays" in str(error) else "copy or download it again, or save arrays by numpy.savez"
        raise ValueError(f"{path} cannot be read as an .npz of plain arrays: {reason(error)}; {mend}") from error
    missing = [key for key in required if key not in stored]
    if missing:
        raise ValueError(f"{path} has the arrays {', '.join(present) or 'none'}; expected also {', '.join(missing)}")
    return stored

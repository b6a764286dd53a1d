"""Where pictures come from: emoji, scenes, CIFAR-10, your own folder or .npz file (chapter 0 on).

Pictures live as uint8 `(N, 3, H, W)`, 0 to 255, and become float32 in [-1, 1] only batch by batch, on the way into a
network (`Pictures.batch`). The networks' output comes back by `to_uint8`.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from tqdm import tqdm

from ..checks import Count, PictureSide, Seed, check
from ..device import check_room
from ..files import expanded, named_folder, readable, reason, shown, written_whole
from . import emoji, scenes
from .arrays import as_pictures, contents, labelled, read
from .folders import SUFFIXES, formats, left_out, natural, pictures_below, tell, tell_shadowed
from .pictures import Pictures

TEST_FRACTION = 0.1
SCENES_TRAIN, SCENES_TEST = 20_000, 2_000
FIRST_TEST_SCENE = 2**40
Split = Literal["train", "test"]
_CACHE_VERSION = 1
FEW = 20  # times fewer drawings than there are: drawn alone


def load_data(
    name: str | os.PathLike, size: int = 32, split: str = "train", *, limit: int | None = None, seed: int = 0
) -> Pictures:
    """The pictures `name` at size x size.

    `name` is "emoji", "scenes", "cifar10", a folder of pictures, or an .npz file with `images` (N, H, W, 3),
    (N, 3, H, W) or grey, and optionally `labels`, `classes` and `captions`. A picture that is not square is cropped at
    its centre; one of another size is resized by an antialiased bicubic filter.

    `split` is "train" or "test". CIFAR-10 has its own; scenes are drawn from two disjoint ranges; elsewhere about a
    tenth, chosen by a hash of the name alone, is for testing, with all skin tones and genders of an emoji on one side.
    `limit` takes the first pictures of a shuffle seeded by `seed`. Scenes have no end: `limit` is how many of `seed`'s.
    Whatever cannot be read or used raises a ValueError of one line; what a folder holds besides gives a `LeftOut`.
    """
    given = {"size": (PictureSide, size), "split": (Split, split), "limit": (Count | None, limit), "seed": (Seed, seed)}
    for field, (kind, value) in given.items():
        check(kind, value, field)
    if not os.fspath(name):
        raise ValueError("the name of the data is empty (a variable that is not set?); expected " + EXPECTED)
    if name in LOADERS:
        tell_shadowed(str(name))
        return LOADERS[name](size, split, limit, seed)
    path = expanded(name)
    if path.is_dir():
        return _load_folder(path, size, split, limit, seed)
    if path.suffix.lower() == ".npz":
        return _load_npz(path, size, split, limit, seed)
    what = f"{str(name)!r} is a file of another kind" if path.exists() else f"there is no data called {str(name)!r}"
    raise ValueError(f"{what}; expected {EXPECTED}")


def cache_folder() -> Path:
    """Where rendered and downloaded pictures are kept: $LDM_CACHE, else ~/.cache/ldm_course."""
    return expanded(os.environ.get("LDM_CACHE") or "~/.cache/ldm_course")


def split_by_key(keys: Sequence[str], split: str) -> list[int]:
    """The indices of `split`: a key is for testing if its hash falls into the lowest TEST_FRACTION.

    A picture so stays on its side when others come or go. If chance leaves a side empty, it gets the nearest key.
    """
    digests = (hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest() for key in keys)
    place = [int.from_bytes(digest[:8], "big") / 2**64 for digest in digests]
    threshold = min(max(TEST_FRACTION, min(place) * (1 + 1e-9)), max(place))
    return [i for i, p in enumerate(place) if (p < threshold) == (split == "test")]


def _select(indices: Sequence[int], limit: int | None, seed: int) -> torch.Tensor:
    """All `indices`, or the first `limit` of their shuffle."""
    indices = torch.as_tensor(indices, dtype=torch.int64)
    if limit is None:
        return indices
    return indices[torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))[:limit]]


def _load_emoji(size: int, split: str, limit: int | None, seed: int) -> Pictures:
    drawings = emoji.drawings()
    stamp = f"{_CACHE_VERSION} {emoji.version()} " + " ".join(drawing.name for drawing in drawings)
    chosen = _select(split_by_key([drawing.base for drawing in drawings], split), limit, seed)
    kept, shape = f"emoji-{size}.npz", (len(drawings), 3, size, size)
    if len(chosen) < len(drawings) / FEW:  # a few that are not there are drawn alone, and not kept
        every = _in_cache(kept, stamp, shape)
        images = emoji.render_all(size, chosen.tolist()) if every is None else every[chosen]
    else:
        images = cached(kept, stamp, lambda: emoji.render_all(size), shape)[chosen]
    return Pictures(
        images,
        labels=torch.tensor([emoji.GROUPS.index(drawings[i].group) for i in chosen.tolist()]),
        classes=emoji.GROUPS,
        captions=tuple(drawings[i].name for i in chosen.tolist()),
        name="emoji",
        source=emoji.CREDIT,
        split=split,
    )


def _load_scenes(size: int, split: str, limit: int | None, seed: int) -> Pictures:
    count = limit or (SCENES_TRAIN if split == "train" else SCENES_TEST)
    first = 0 if split == "train" else FIRST_TEST_SCENE
    indices = range(first, first + count)
    _check_pictures(count, size)
    known = scenes.factors_of(seed, indices)
    shapes = tuple(scenes.SHAPES)
    return Pictures(
        scenes.render(seed, indices, size),
        labels=torch.tensor([shapes.index(scene.things[0].shape) for scene in known]),
        classes=shapes,
        captions=tuple(scenes.caption(scene) for scene in known),
        name="scenes",
        source="procedural scenes, drawn by this course",
        split=split,
    )


def _cifar10_npz() -> Path:
    return (named_folder("LDM_DATA", "cifar10.npz") or cache_folder()) / "cifar10.npz"


def cifar10_is_here() -> bool:
    """Whether `load_data("cifar10", …)` would find it without a download."""
    return _cifar10_npz().exists() or (Path(cache_folder()) / "cifar-10-batches-py").is_dir()


def _load_cifar10(size: int, split: str, limit: int | None, seed: int) -> Pictures:
    """From $LDM_DATA/cifar10.npz if it is there, else torchvision's download with its checksum. ValueError: $LDM_DATA
    names no folder."""
    path = _cifar10_npz()
    if path.exists():
        stored = read(path, (f"{split}_images", f"{split}_labels", "classes", "source"))
        images, key = as_pictures(path, f"{split}_images", stored[f"{split}_images"]), f"{split}_labels"
        labels, classes = labelled(path, key, stored[key], stored["classes"], len(images))
        source = str(stored["source"])
    else:
        from torchvision.datasets import CIFAR10

        try:
            downloaded = CIFAR10(cache_folder(), train=split == "train", download=True)
        except Exception as error:  # whatever the network, the server or the disk may raise
            raise ValueError(
                f"CIFAR-10 could not be downloaded ({reason(error)}); put it at {path} or try another data set"
            ) from error
        images, labels = torch.from_numpy(downloaded.data).permute(0, 3, 1, 2), torch.tensor(downloaded.targets)
        classes, source = downloaded.classes, "CIFAR-10 (Krizhevsky, 2009)"
    chosen = _select(range(len(images)), limit, seed)
    return Pictures(
        _resize(images[chosen], size), labels[chosen], tuple(classes), name="cifar10", source=source, split=split
    )


LOADERS = {"emoji": _load_emoji, "scenes": _load_scenes, "cifar10": _load_cifar10}
EXPECTED = f"{', '.join(LOADERS)}, a folder of pictures, or an .npz file"


def _load_folder(path: Path, size: int, split: str, limit: int | None, seed: int) -> Pictures:
    """Every picture below the folder, in the natural order of the names; its first sub-folder's name is its class.

    Links are followed. Where more than half of the pictures lie in sub-folders, those beside them are left out, since
    they have no class; else all are taken, and none has one.
    """
    found, left = pictures_below(path)
    beside = [name for name in found if len(name.parts) == 1]
    classed = len(beside) < len(found) / 2
    if classed:
        left += [(found.pop(name), "beside the folders of classes") for name in beside]
    _require_two(path, len(found), left)
    folders = sorted({name.parts[0] for name in found}, key=natural) if classed else []
    tell(path, left, 0 if classed else len(found) - len(beside), folders)
    chosen = _select(split_by_key([name.as_posix() for name in found], split), limit, seed).tolist()
    names = [list(found)[i] for i in chosen]
    classes = labels = None
    if classed:
        labels, classes = torch.tensor([folders.index(name.parts[0]) for name in names]), tuple(map(shown, folders))
    _check_pictures(len(names), size)
    images = torch.empty(len(names), 3, size, size, dtype=torch.uint8)
    for k, name in enumerate(tqdm(names, f"reading {shown(path)}", unit="picture", leave=False)):
        images[k] = middle_square(open_picture(found[name]), size)
    return Pictures(
        images, labels, classes, name=str(path), source=f"pictures of {shown(path.resolve().name)}", split=split
    )


def open_picture(path: Path, over: str = "white") -> Image.Image:
    """One file, upright, what is transparent `over` a colour, in RGB of 8 bits. ValueError: it is no picture that
    Pillow can read, or its values need more than 16 bits."""
    try:
        # warnings are of large pictures, and of torn notes beside them, which are not used
        with warnings.catch_warnings(action="ignore"), Image.open(readable(path), formats=formats()) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode == "F":
                raise ValueError("its values are floating-point; save it with 8 or 16 bits")
            if image.mode.startswith("I"):  # 16 bits of grey
                grey = np.asarray(image, np.int64)
                if grey.min() < 0 or grey.max() > 65535:
                    raise ValueError(f"its values go from {grey.min()} to {grey.max()}; save it with 8 or 16 bits")
                image = Image.fromarray((grey / 257).round().astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, over), image)
            return image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise many kinds
        raise ValueError(f"{path} cannot be read as a picture: {reason(error)}") from error


def middle_square(image: Image.Image, size: int, resampling=Image.Resampling.BICUBIC) -> torch.Tensor:
    """The middle square of a picture, or of a grey one, as uint8 (3 or 1, size, size)."""
    fitted = np.array(ImageOps.fit(image, (size, size), resampling))
    return torch.from_numpy(fitted).view(size, size, -1).permute(2, 0, 1)


def _load_npz(path: Path, size: int, split: str, limit: int | None, seed: int) -> Pictures:
    images, labels, classes, captions = contents(path)
    _require_two(path, len(images))
    chosen = _select(split_by_key([str(i) for i in range(len(images))], split), limit, seed)
    labels = None if labels is None else labels[chosen]
    captions = None if captions is None else tuple(captions[i] for i in chosen.tolist())
    images = _resize(images[chosen], size)
    return Pictures(images, labels, classes, captions, name=str(path), source=shown(path.name), split=split)


def _resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """The middle square of uint8 (N, 3, H, W), at size x size by an antialiased bicubic filter."""
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    images = images[..., top : top + side, left : left + side]
    if side == size:
        return images.contiguous()
    _check_pictures(len(images), size)
    resized = torch.empty(len(images), 3, size, size, dtype=torch.uint8)
    for part in torch.arange(len(images)).split(1024):  # as floats, only a part at a time
        smooth = F.interpolate(images[part].float(), size=(size, size), mode="bicubic", antialias=True)
        resized[part] = smooth.round().clamp(0, 255).to(torch.uint8)
    return resized


def cached(
    name: str, stamp: str, make: Callable[[], torch.Tensor], shape: tuple[int, ...] | None = None
) -> torch.Tensor:
    """The images, uint8 of that `shape` if one is given, in the cache's file `name` if it is whole and bears this
    `stamp`; else made, and kept there. ValueError: the cache takes no files."""
    images = _in_cache(name, stamp, shape)
    if images is not None:
        return images
    images, path = make(), cache_folder() / name
    try:
        with written_whole(path) as temporary:
            np.savez_compressed(temporary, images=images.numpy(), stamp=np.array(stamp))
    except OSError as error:
        raise ValueError(f"{error}; set LDM_CACHE to a folder that can be written") from error
    return images


def _in_cache(name: str, stamp: str, shape: tuple[int, ...] | None) -> torch.Tensor | None:
    path = cache_folder() / name
    try:
        with np.load(readable(path), allow_pickle=False) as stored:
            images = stored["images"]
            if str(stored["stamp"]) == stamp and images.dtype == np.uint8 and shape in (None, images.shape):
                return torch.from_numpy(images)
    except Exception:  # absent, torn or not ours, in any of the ways a zip can be: made again
        pass
    return None


def _check_pictures(count: int, size: int) -> None:
    check_room(f"{count:,} pictures of {size} x {size}", 3 * count * size**2, "take a smaller size, or limit")


def _require_two(path: Path, count: int, left: Sequence[tuple[Path, str]] = ()) -> None:
    if count == 0:
        what = "; ".join([f"{path} holds no pictures", *left_out(path, left)])
        raise ValueError(f"{what}; expected files of {' '.join(SUFFIXES)}, in it or its sub-folders")
    if count == 1:
        raise ValueError(f"{path} holds 1 picture; expected at least 2, one to train on and one to test with")

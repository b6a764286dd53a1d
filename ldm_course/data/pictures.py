"""Pictures in memory, whole or as random crops, and the way into a network and back (chapter 0 on)."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from ..checks import describe, numbered, shaped
from ..files import fingerprint


class Chance(Protocol):
    """What a set of data may ask for when a batch is drawn from it: random numbers, a row for each picture, and the
    device that they are on (`diffusion.objectives.BatchRandom`)."""

    device: torch.device

    def normal(self, *shape: int) -> torch.Tensor: ...

    def uniform(self) -> torch.Tensor: ...


@dataclass(frozen=True)
class Pictures:
    """A set of pictures: `images` uint8 (N, 3, H, W), and what is known of them.

    `labels` int64 (N,) index `classes`; `captions` are one sentence each; `source` is the credit that a figure must
    show; `split` is "train" or "test". ValueError: another shape or type, or not one label or caption for each picture.
    """

    images: torch.Tensor
    labels: torch.Tensor | None = None
    classes: tuple[str, ...] | None = None
    captions: tuple[str, ...] | None = None
    name: str = ""
    source: str = ""
    split: str = "train"

    def __post_init__(self):
        shaped(self.images, "images", "uint8", "N", 3, "H", "W")
        if self.images.shape[2] != self.images.shape[3]:
            raise ValueError(f"pictures of {tuple(self.images.shape[2:])}; expected square ones")
        for name, words in {"classes": self.classes, "captions": self.captions}.items():
            if words is not None and (isinstance(words, str) or not all(isinstance(word, str) for word in words)):
                raise ValueError(f"{name} is {describe(words)}; expected a tuple of texts")
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes={reprlib.repr(self.classes)}; expected each once")
        if self.labels is not None:
            numbered(self.labels, "labels", len(self), None if self.classes is None else len(self.classes))
        if self.captions is not None and len(self.captions) != len(self):
            raise ValueError(f"{len(self.captions)} captions for {len(self)} pictures; expected one for each")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> int:
        """H, which is W: the pictures are square."""
        return self.images.shape[-1]

    @property
    def fingerprint(self) -> str:
        """Tells these pictures, their order and their labels from all others: 16 hexadecimal digits."""
        return fingerprint(self.images, *([] if self.labels is None else [self.labels]))

    def subset(self, indices: Sequence[int] | torch.Tensor) -> Pictures:
        """The pictures at `indices`, in that order, with their labels and captions. ValueError: not whole numbers."""
        indices = self._indices(indices)
        return replace(
            self,
            images=self.images[indices],
            labels=None if self.labels is None else self.labels[indices.to(self.labels.device)],
            captions=None if self.captions is None else tuple(self.captions[i] for i in indices.tolist()),
        )

    def batch(self, indices: Sequence[int] | torch.Tensor, device=None) -> torch.Tensor:
        """The pictures at `indices` as the networks take them: float32 (B, 3, H, W) in [-1, 1] on `device`."""
        return to_float(self.images[self._indices(indices)].to(device))

    def _indices(self, given: Sequence[int] | torch.Tensor) -> torch.Tensor:
        found = torch.as_tensor(given, device=self.images.device)
        shaped(found, "indices", "int64" if found.numel() else "", "M")  # halves, or a mask, would be cut to numbers
        return found.long()

    def draw(self, indices: torch.Tensor, rng: Chance) -> torch.Tensor:
        """A batch for training, as `batch`: nothing about it is left to chance."""
        return self.batch(indices, rng.device)


def joined(*sets: Pictures) -> Pictures:
    """Several sets, one after another, with their captions, without classes. ValueError: several sizes, or no set."""
    if len(sizes := dict.fromkeys(tuple(part.images.shape[2:]) for part in sets)) != 1:
        raise ValueError(f"got sets of pictures of {list(sizes)}; expected one size")
    captions = None if any(part.captions is None for part in sets) else sum((part.captions for part in sets), ())
    return Pictures(
        torch.cat([part.images for part in sets]),
        captions=captions,
        name=" and ".join(dict.fromkeys(part.name for part in sets)),
        source="; ".join(dict.fromkeys(part.source for part in sets)),
        split=sets[0].split,
    )


@dataclass(frozen=True)
class Crops:
    """Random windows of `side` x `side`, cut from several sets of pictures, which may be of different sizes.

    What is convolutional needs no whole pictures to learn from, and works at every size when it has learnt. An epoch
    cuts one window from each picture of each set. ValueError: a set of pictures smaller than the window.
    """

    sets: tuple[Pictures, ...]
    side: int = 32

    def __post_init__(self):
        if not self.sets or self.side < 1:
            raise ValueError(f"{len(self.sets)} sets of pictures, side={self.side}; expected one or more of each")
        for part in self.sets:
            if part.size < self.side:
                raise ValueError(f"{part.name} has pictures of {part.size} a side; windows of {self.side} do not fit")

    def __len__(self) -> int:
        return sum(map(len, self.sets))

    @property
    def size(self) -> int:
        return self.side

    @property
    def name(self) -> str:
        return f"{self.side}-pixel crops of " + ", ".join(f"{part.name} at {part.size}" for part in self.sets)

    @property
    def split(self) -> str:
        return self.sets[0].split

    @property
    def source(self) -> str:
        return "; ".join(dict.fromkeys(part.source for part in self.sets))

    @property
    def fingerprint(self) -> str:
        """Tells the sets from all others, as `Pictures.fingerprint` does one."""
        return fingerprint(*(part.fingerprint for part in self.sets))

    def draw(self, indices: torch.Tensor, rng: Chance) -> torch.Tensor:
        """Windows of the pictures at `indices`, counted through all sets, float32 (B, 3, side, side) in [-1, 1]."""
        y, x = rng.uniform(), rng.uniform()
        windows, first = None, 0
        for part in self.sets:  # one window of each set for each row, of which one is taken: no index is looked at
            found = self._windows(part, (indices - first).clamp(0, len(part) - 1), y, x)
            here = (indices >= first).to(found.device)[:, None, None, None]
            windows = found if windows is None else torch.where(here, found, windows)
            first += len(part)
        return to_float(windows.to(rng.device))

    def _windows(self, part: Pictures, indices: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """From the pictures at `indices`, uint8 (B, 3, side, side); y and x in [0, 1) say where."""
        room, device = part.size - self.side + 1, part.images.device
        top, left = ((place * room).long().to(device) for place in (y, x))
        every = part.images.unfold(2, self.side, 1).unfold(3, self.side, 1)  # a view: (N, 3, room, room, side, side)
        return every[indices.to(device), :, top, left]


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 0..255 to float32 in [-1, 1]: x = u / 127.5 - 1."""
    if images.dtype != torch.uint8:
        raise ValueError(f"to_float was given {images.dtype}; expected pictures of torch.uint8, 0 to 255")
    return images.float() / 127.5 - 1


def to_uint8(x: torch.Tensor) -> torch.Tensor:
    """Float in [-1, 1] to the nearest of 0..255, clipped; `to_uint8(to_float(u))` is u. ValueError: no float or NaN."""
    if not x.is_floating_point() or bool(x.isnan().any()):
        raise ValueError(f"to_uint8 was given {x.dtype}, or NaN; expected floating-point pictures in [-1, 1]")
    return ((x.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

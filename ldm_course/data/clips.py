"""Clips of scenes in motion, with the true track of each thing (chapter 9).

A clip is one period of a scene's motion, so that it loops without a seam. Each thing goes round a small ellipse and
sways; the paper, and so its pattern and grain, stays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..checks import check
from ..networks.autoencoder import Autoencoder
from . import scenes
from .latents import Latents, encode_pictures
from .loaders import FIRST_TEST_SCENE, Split, cached
from .pictures import Chance, Pictures, to_float

CLIPS_TRAIN, CLIPS_TEST = 1000, 250
_VERSION = 1


@dataclass(frozen=True)
class Clips:
    """A set of clips: `clips` uint8 (N, F, 3, H, W), and `tracks` float64 (N, F, 3, 2), where each thing's middle is, x
    and y in widths of the picture, NaN where a scene has fewer than three things (`scenes.tracks`)."""

    clips: Tensor
    tracks: Tensor
    name: str = ""
    source: str = ""
    split: str = "train"

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def size(self) -> int:
        return self.clips.shape[-1]

    @property
    def frames(self) -> int:
        """How many pictures make a clip."""
        return self.clips.shape[1]

    @property
    def fingerprint(self) -> str:
        """Tells these clips from all others, as `Pictures.fingerprint` does pictures."""
        return self.pictures.fingerprint

    @property
    def pictures(self) -> Pictures:
        """All frames of all clips, N·F of them, clip by clip: what an image network learns from."""
        return Pictures(self.clips.flatten(0, 1), name=self.name, source=self.source, split=self.split)

    def subset(self, indices: Tensor) -> Clips:
        """The clips at `indices`, int64 (M,), in that order."""
        return replace(self, clips=self.clips[indices], tracks=self.tracks[indices])

    def draw(self, indices: Tensor, rng: Chance) -> Tensor:
        """A batch for training, float32 (B, F, 3, H, W) in [-1, 1]: nothing about it is left to chance."""
        return to_float(self.clips[indices.to(self.clips.device)].to(rng.device))


def load_clips(
    size: int = 64, split: str = "train", *, frames: int = 8, limit: int | None = None, seed: int = 0
) -> Clips:
    """`Clips` of scenes at size x size, `frames` pictures each, of the scenes that `load_data` gives first.

    `split`, "train" or "test": from two disjoint ranges. `limit` is how many of `seed`'s; by default CLIPS_TRAIN and
    CLIPS_TEST. They are kept, once rendered (`loaders.cache_folder`). ValueError: another split, fewer than two frames,
    or no clip.
    """
    check(Split, split, "split")
    count = limit if limit is not None else CLIPS_TRAIN if split == "train" else CLIPS_TEST
    if frames < 2 or count < 1:
        raise ValueError(f"{count} clips of {frames} frames; expected at least one, of two or more")
    first = 0 if split == "train" else FIRST_TEST_SCENE
    indices = torch.arange(first, first + count)

    def render() -> Tensor:
        time = torch.arange(frames, dtype=torch.float64) / frames
        return scenes.render(seed, indices.repeat_interleave(frames), size, time=time.repeat(count))

    stamp = f"{_VERSION} {split} {count} {seed}"
    images = cached(f"clips-{split}-{count}-{size}-{frames}-{seed}.npz", stamp, render, (count * frames, 3, size, size))
    return Clips(
        images.unflatten(0, (count, frames)),
        scenes.tracks(seed, indices, frames),
        name=f"scenes in motion, {frames} frames",
        source="procedural scenes, drawn by this course",
        split=split,
    )


def encode_clips(autoencoder: Autoencoder, clips: Clips, **options) -> Latents:
    """Every frame encoded by itself: `Latents` whose mean and std are (N, F, c, h, w); options as of
    `encode_pictures`. The first stage knows nothing of time."""
    found, shape = encode_pictures(autoencoder, clips.pictures, **options), (len(clips), clips.frames)
    return replace(found, mean=found.mean.unflatten(0, shape), std=found.std.unflatten(0, shape))


def frames_of(latents: Latents) -> Latents:
    """The latents of clips as those of their frames, (N·F, c, h, w), clip by clip."""
    return replace(latents, mean=latents.mean.flatten(0, 1), std=latents.std.flatten(0, 1))

"""Does a clip hang together? Tracks of its things, flicker of its ground, and distances between clips (chapter 9).

Three questions, each asked of real clips as well, which says what the instruments themselves make of nothing:

- tracks: the detector reads each frame, and what it finds is matched from frame to frame. Do things stay what they
  are, do they move, and do they move smoothly?
- flicker: the calmer half of a clip's pixels, which in these scenes is paper that stands still. How much does it
  change?
- distances: KD-E and FD-E of frames, which know nothing of time, and of the changes between frames, which do. They are
  not FVD, whose features are those of a network of videos (I3D).

What must fail: `shuffled` clips have the right frames in a wrong order, `mixed` ones have frames of different clips.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..checks import describe
from ..networks.detector import Detector
from ..networks.features import pooled_features
from .detection import SIDE, Found, detect, detector
from .distances import Reference, evaluate

MEASURES = {  # of a clip, in this order
    "kept": "share of things, from one frame to the next, that are found again with their shape and colour",
    "step": "widths of the picture that a thing goes from frame to frame, root mean square",
    "bend": "widths by which a step differs from the one before it, root mean square: 0 at constant velocity",
    "off_path": "widths from the ellipse, once round in a clip, that fits a whole track best, root mean square",
    "flicker": "grey levels by which the calmer half of the pixels changes from frame to frame, root mean square",
}


@dataclass(frozen=True)
class Mean:
    """The mean over `n` clips, and its standard error; NaN and infinite where too few clips tell."""

    mean: float
    error: float
    n: int

    @classmethod
    def of(cls, found: Sequence[float]) -> Mean:
        """Of what was found in each clip; NaN, where a clip does not tell, is left out."""
        x = torch.tensor([value for value in found if not math.isnan(value)], dtype=torch.float64)
        error = (x.std() / len(x) ** 0.5).item() if len(x) > 1 else math.inf
        return cls(x.mean().item(), error, len(x))


def coherence(clips: Tensor, model: Detector | None = None) -> dict[str, Mean]:
    """MEASURES of clips, uint8 (N, F, 3, H, W) with three frames or more; those of other sides than SIDE are resized
    for the detector. `model` is that detector, by default the course's own. ValueError: no such clips."""
    check_clips(clips, frames=3)
    pictures = clips.flatten(0, 1)
    if clips.shape[-1] != SIDE:
        pictures = F.interpolate(pictures.float(), (SIDE, SIDE), mode="bicubic", antialias=True)
        pictures = pictures.round().clamp(0, 255).to(torch.uint8)
    seen = [one.things for one in detect(detector() if model is None else model, pictures)]
    frames = clips.shape[1]
    by_clip = [motion(seen[i : i + frames]) for i in range(0, len(seen), frames)]
    found = {name: [of[name] for of in by_clip] for name in MEASURES if name != "flicker"}
    return {name: Mean.of(of) for name, of in (found | {"flicker": flicker(clips).tolist()}).items()}


def check_clips(clips: Tensor, frames: int = 2) -> None:
    """ValueError unless clips are uint8 (N, F, 3, H, W) with so many frames at least."""
    if not isinstance(clips, Tensor) or clips.dtype != torch.uint8 or clips.ndim != 5 or clips.shape[2] != 3:
        raise ValueError(f"got {describe(clips)}; expected clips, a uint8 tensor (N, F, 3, H, W)")
    if clips.shape[1] < frames or not len(clips):
        raise ValueError(f"got {len(clips)} clips of {clips.shape[1]} frames; expected at least {frames} frames")


# Tracks --------------------------------------------------------------------------------------------------------------


def matched(before: Sequence[Found], after: Sequence[Found]) -> list[tuple[int, int]]:
    """Which thing of one frame is which of the next: the pairs (index before, index after) whose distances add up to
    least. Where there are more on one side, some have none. What the things are is not asked."""
    if not before or not after:
        return []
    apart = [[math.hypot(a.x - b.x, a.y - b.y) for b in after] for a in before]
    return list(zip(*(part.tolist() for part in linear_sum_assignment(apart))))


def tracks(seen: Sequence[Sequence[Found]]) -> list[list[Found | None]]:
    """The things of a clip, each as a list over its frames, None where it is not there: one that is lost has ended, and
    one that appears is another."""
    found: list[list[Found | None]] = []
    last: list[int] = []  # of each thing in the frame before, its track
    for i, things in enumerate(seen):
        pairs = {b: a for a, b in matched(seen[i - 1], things)} if i else {}
        here = []
        for b, thing in enumerate(things):
            if b in pairs:
                here.append(last[pairs[b]])
            else:
                here.append(len(found))
                found.append([None] * len(seen))
            found[here[-1]][i] = thing
        last = here
    return found


def motion(seen: Sequence[Sequence[Found]]) -> dict[str, float]:
    """MEASURES of what was found in the frames of one clip, but flicker; NaN where there is nothing to tell from."""
    paths = tracks(seen)
    pairs = [(a, b) for path in paths for a, b in pairwise(path) if a and b]
    things = sum(max(len(a), len(b)) for a, b in pairwise(seen))
    steps = [(b.x - a.x, b.y - a.y) for a, b in pairs]
    bends = [
        (c.x - 2 * b.x + a.x, c.y - 2 * b.y + a.y)
        for path in paths
        for a, b, c in zip(path, path[1:], path[2:])
        if a and b and c
    ]
    whole = [torch.tensor([[t.x, t.y] for t in path], dtype=torch.float64) for path in paths if all(path)]
    off = [d for path in whole for d in from_ellipse(path).tolist()]
    same = sum((a.shape, a.colour) == (b.shape, b.colour) for a, b in pairs)
    return {
        "kept": same / things if things else 0.0,  # an empty clip keeps nothing
        "step": _rms(steps),
        "bend": _rms(bends),
        "off_path": _rms(off),
    }


def from_ellipse(path: Tensor) -> Tensor:
    """What is left of a path, float64 (F, 2), without the ellipse that fits it best, once round in F frames.

    Least squares for x_k = centre + a cos(2πk/F) + b sin(2πk/F): F - 3 of the F degrees of freedom are left.
    """
    turn = 2 * math.pi * torch.arange(len(path), dtype=torch.float64) / len(path)
    basis = torch.stack([torch.ones_like(turn), turn.cos(), turn.sin()], 1)
    return path - basis @ torch.linalg.lstsq(basis, path).solution


def _rms(steps: Sequence[Sequence[float]]) -> float:
    """Root mean square length of vectors; NaN of none."""
    return math.sqrt(sum(x * x + y * y for x, y in steps) / len(steps)) if steps else math.nan


# Flicker -------------------------------------------------------------------------------------------------------------


def flicker(clips: Tensor) -> Tensor:
    """Of each clip, uint8 (N, F, 3, H, W): the root mean square change from frame to frame, in grey levels, of the half
    of the pixels that changes least over the clip. (N,)

    Things, their shadows and all that they move over are less than half of a scene, so in real clips it is 0.
    """
    check_clips(clips)
    found = []
    for part in clips.split(64):
        change = part.float().diff(dim=1).square().mean((1, 2)).flatten(1)  # (N, H·W), over frames and channels
        calm = change.topk(change.shape[1] // 2, largest=False).values
        found.append(calm.mean(1).sqrt())
    return torch.cat(found)


# Distances -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClipFeatures:
    """What EfficientNet-Lite0 sees in N clips: of each, `frames`, the features of one of its pictures (the next one of
    each next clip), so that they are independent; and `changes`, the mean size of their change from frame to frame.
    Both (N, 1280)."""

    frames: Tensor
    changes: Tensor


def clip_features(clips: Tensor, **options) -> ClipFeatures:
    """Of clips uint8 (N, F, 3, H, W); options as of `features.pooled_features`."""
    check_clips(clips)
    found = pooled_features(clips.flatten(0, 1), **options).unflatten(0, clips.shape[:2])
    at = torch.arange(len(clips))
    return ClipFeatures(found[at, at % clips.shape[1]], found.diff(dim=1).abs().mean(1))


class ClipReference:
    """Real clips, as features computed once: clips uint8 (N, F, 3, H, W), or their `ClipFeatures`; see
    `distances.Reference`, of which it holds two."""

    def __init__(self, clips: Tensor | ClipFeatures, *, device=None):
        found = clips if isinstance(clips, ClipFeatures) else clip_features(clips, device=device)
        self.frames, self.changes = (Reference(of, device=device) for of in (found.frames, found.changes))


def clip_distances(clips: Tensor | ClipFeatures, reference: ClipReference) -> dict[str, dict]:
    """What `distances.evaluate` says of the `frames`, as of pictures, and of the `changes` between them.

    A set of clips has right frames and wrong changes where each picture is good and they do not belong together. The
    changes say how much and in which features clips change, not in which direction.
    """
    found = clips if isinstance(clips, ClipFeatures) else clip_features(clips, device=reference.frames.device)
    return {name: evaluate(getattr(found, name), getattr(reference, name)) for name in ("frames", "changes")}


# What must fail ------------------------------------------------------------------------------------------------------


def shuffled(clips: Tensor, seed: int = 0) -> Tensor:
    """Each clip's frames in an order that is drawn for it, in which steps differ: so it is neither its own, begun
    anywhere, nor that backwards. ValueError: fewer than four frames, of which there is no such order."""
    check_clips(clips, frames=4)
    chance, frames = torch.Generator().manual_seed(seed), clips.shape[1]
    return torch.stack([clip[_out_of_order(frames, chance)] for clip in clips])


def _out_of_order(frames: int, chance: torch.Generator) -> Tensor:
    while True:
        order = torch.randperm(frames, generator=chance)
        steps = (order.roll(-1) - order) % frames
        if len(steps.unique()) > 1:
            return order


def mixed(clips: Tensor) -> Tensor:
    """Clips whose frames are of different clips: frame k is that of the clip k places on. The frames are the same all
    in all. ValueError: fewer clips than frames."""
    check_clips(clips)
    n, frames = clips.shape[:2]
    if n < frames:
        raise ValueError(f"{n} clips of {frames} frames; expected as many clips as frames, to mix them")
    k = torch.arange(frames)
    return clips[(torch.arange(n)[:, None] + k) % n, k]

"""Has a model learnt, or copied? (chapter 5)

Distances to training pictures alone do not tell: blurred pictures are near to everything. As many held-out pictures are
the control. What copies nothing is as often nearest to the one kind as to the other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .distances import Neighbours, nearest_neighbours


def copying(generated, train, held_out, *, space: str = "features", seed: int = 0, device=None) -> dict:
    """The share of generated pictures whose nearest neighbour is a training picture, among as many of either kind.

    generated, train, held_out: as for `nearest_neighbours`, and `space` too. Of the larger of the two known sets, as
    many as the smaller has are drawn at random (`seed`). Both must be random parts of one set, so that nothing but the
    training tells them apart. Returns

    - share: 1/2 is expected of a model that copies nothing, 1 of one that copies; ties count half
    - error: the standard error of that 1/2: binomial, 1 / (2 sqrt(n)), where all have different neighbours, and larger
      where many share one, as blurred pictures do, since these fall to one side together
    - n: the generated pictures; nearest_train, nearest_held_out: medians of the distances, in the units of the space
    """
    size = min(len(train), len(held_out))
    train, held_out = (_drawn(pictures, size, seed) for pictures in (train, held_out))
    options = {"space": space, "device": device}
    seen, new = nearest_neighbours(generated, train, **options), nearest_neighbours(generated, held_out, **options)
    a, b = seen.distance[:, 0], new.distance[:, 0]
    return {
        "share": ((a < b).double().mean() + (a == b).double().mean() / 2).item(),
        "error": _error(seen, new, size),
        "n": len(a),
        "nearest_train": a.median().item(),
        "nearest_held_out": b.median().item(),
    }


def _drawn(pictures, size: int, seed: int) -> Tensor:
    pictures = getattr(pictures, "images", pictures)
    if size == len(pictures):
        return pictures
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))
    return pictures[order[:size].to(pictures.device)]


def _error(seen: Neighbours, new: Neighbours, size: int) -> float:
    """Each neighbour is of either kind by a fair coin: half the root of the sum of the neighbours' squared shares."""
    nearest = torch.where(seen.distance <= new.distance, seen.index, size + new.index)[:, 0]
    shares = torch.bincount(nearest).double() / len(nearest)
    return math.sqrt(shares.square().sum().item()) / 2

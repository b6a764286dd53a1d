"""Precision and recall of generated pictures: are they like real ones, and do they cover them? (chapter 5)

One distance cannot tell poor pictures from poor variety. Kynkäänniemi et al. (2019, section 2) take a union of balls
for the region where a set lies: around each of its features one that reaches to the k-th nearest other one. Precision
is the share of generated pictures in the reference's region, recall the share of the reference in the generated one's.
In many dimensions two draws of one distribution do not reach 1, since much lies between the balls: read both beside
what real pictures get at the same counts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import describe
from ..device import default_device

K = 3  # as in the paper
BLOCK = 1024  # rows of distances that are held at a time


def radii(features: Tensor, *, k: int = K, device=None) -> Tensor:
    """Distance of each feature (N, D) to its k-th nearest other one: float32 (N,), on the device.

    ValueError for k features or fewer, or such as are not finite.
    """
    if not isinstance(features, Tensor) or features.ndim != 2 or not features.isfinite().all():
        raise ValueError(f"got {describe(features)}, or NaN in it; expected finite float features (N, D)")
    if not 1 <= k < len(features):
        raise ValueError(f"k={k} with {len(features)} features; expected 1 to {len(features) - 1}")
    x = features.float().to(device if device is not None else default_device())
    found = []
    for i in range(0, len(x), BLOCK):
        distance = torch.cdist(x[i : i + BLOCK], x)
        distance.diagonal(i).fill_(torch.inf)  # to itself
        found.append(distance.topk(k, largest=False).values[:, -1])
    return torch.cat(found)


def precision_recall(
    generated: Tensor, reference: Tensor, *, k: int = K, reference_radii: Tensor | None = None, device=None
) -> tuple[float, float]:
    """Improved precision and recall of features (N, D) against (M, D), each from 0 to 1 (Kynkäänniemi et al. 2019).

    `reference_radii` are `radii(reference)` where they are known already. Exact; costs N^2 + NM distances, and M^2 for
    the radii. ValueError for k features or fewer, or of different widths.
    """
    device = torch.device(device) if device is not None else default_device()
    if generated.shape[1:] != reference.shape[1:]:
        raise ValueError(f"got {describe(generated)} and {describe(reference)}; expected features of one width")
    reach = radii(generated, k=k, device=device)
    known = radii(reference, k=k, device=device) if reference_radii is None else reference_radii.to(device)
    a, b = (features.float().to(device) for features in (generated, reference))
    inside, reached = [], torch.zeros(len(b), dtype=torch.bool, device=device)
    for rows, around in zip(a.split(BLOCK), reach.split(BLOCK)):
        distance = torch.cdist(rows, b)
        inside.append((distance <= known).any(1))
        reached |= (distance <= around[:, None]).any(0)
    return torch.cat(inside).double().mean().item(), reached.double().mean().item()

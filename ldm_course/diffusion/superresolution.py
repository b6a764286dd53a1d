"""Super-resolution by diffusion: what a denoiser is told of a picture at half the side (chapter 9).

It sees that picture, enlarged, as further channels beside xt. Alone it would learn to trust it to the last detail. In a
cascade it gets what another network has drawn, faults included, so in training noise is added to the small picture, of
a level that the network is told: conditioning augmentation (Ho et al. 2022, Cascaded diffusion models, section 4.2;
Saharia et al. 2022, Imagen, section 2.4).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .objectives import BatchRandom, DenoisingObjective
from .schedules import Schedule, add_noise


def halved(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, C, H/2, W/2): the mean of each 2 x 2. ValueError: an odd side."""
    if x.shape[2] % 2 or x.shape[3] % 2:
        raise ValueError(f"pictures of {x.shape[2]} x {x.shape[3]} cannot be halved; expected even sides")
    return F.avg_pool2d(x, 2)


def doubled(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, C, 2H, 2W), linear in between."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def hint(small: Tensor, levels: Tensor, noise: Tensor, schedule: Schedule) -> Tensor:
    """What a super-resolution network is told of a picture of half the side: (B, C, H, W) in [-1, 1] to
    (B, C + 1, 2H, 2W).

    It is enlarged, and noised with `noise` (B, C, 2H, 2W) to the level that `levels`, int64 (B,), says: 0 leaves it
    as it is, and k noises it as xt is noised at index k - 1. The last channel holds levels / T, so that the network
    knows how far to trust the others.
    """
    large, rows = doubled(small), (-1, 1, 1, 1)
    noised = add_noise(large, noise, (levels - 1).clamp(min=0), schedule)
    told = (levels / schedule.T).to(large.dtype).view(rows).expand(-1, 1, *large.shape[2:])
    return torch.cat([torch.where((levels > 0).view(rows), noised, large), told], dim=1)


class SuperResolutionObjective(DenoisingObjective):
    """`DenoisingObjective` for a network that is told each picture at half its side (`hint`), noised to a level drawn
    uniformly from 0 to `most` of the schedule's T."""

    def __init__(self, data, schedule: Schedule, prediction: str, *, most: float = 0.5, flip: bool = False):
        if not 0 <= most <= 1:
            raise ValueError(f"most={most}; expected the share of the noise levels, 0 to 1")
        super().__init__(data, schedule, prediction, flip=flip)
        self.levels = 1 + round(most * schedule.T)

    def describe(self) -> str:
        return f"{super().describe()}, from half the side, {self.levels} levels"

    def told(self, x0: Tensor, indices: Tensor, rng: BatchRandom) -> tuple[Tensor, ...]:
        levels = rng.integers(self.levels)
        return (hint(halved(x0), levels, rng.normal(*x0.shape[1:]), self.schedule),)

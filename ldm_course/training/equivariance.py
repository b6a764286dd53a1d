"""What happens to a picture is to happen to its latent: EQ-VAE's transformations (Kouzelis et al. 2025; chapter 9)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..diffusion.objectives import BatchRandom

WHOLE = 4  # scales are so many fourths, from one on, as in the paper (0.25 to 1)


@dataclass(frozen=True)
class Transform:
    """τ: quarter turns, then height and width each to its own number of `fourths` (equation 6).

    Such scales leave a latent whose side is a multiple of 4 on its grid, so that the picture, which is f times as
    large, is that after it as well. Downscaling is bicubic, and what would alias is filtered out.
    """

    turns: int = 0
    fourths: tuple[int, int] = (WHOLE, WHOLE)

    def __call__(self, x: Tensor) -> Tensor:
        """`(B, C, H, H)` to `(B, C, H · fourths[0] / 4, H · fourths[1] / 4)`. ValueError: no squares, or not a multiple
        of 4 a side."""
        if x.ndim != 4 or x.shape[2] != x.shape[3] or x.shape[3] % WHOLE:
            raise ValueError(f"got {tuple(x.shape)}; expected (B, C, H, H) with H a multiple of {WHOLE}, latents too")
        x = x.rot90(self.turns, (2, 3)) if self.turns else x
        if self.fourths == (WHOLE, WHOLE):
            return x
        size = [x.shape[3] // WHOLE * part for part in self.fourths]
        return F.interpolate(x.float(), size, mode="bicubic", antialias=True)


def drawn(rng: BatchRandom, share: float) -> Transform | None:
    """A transformation for a whole batch: with the probability `share` one to three quarter turns and two scales, each
    as likely as the others, else none (equation 7, where `share` is 1 - p_α)."""
    chance, turn, high, wide = rng.shared(4)
    if chance >= share:
        return None
    return Transform(1 + int(3 * turn), (1 + int(WHOLE * high), 1 + int(WHOLE * wide)))

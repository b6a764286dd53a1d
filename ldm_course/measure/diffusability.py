"""What makes a latent easy to diffuse, rather than good to decode (chapter 9).

Diffusion draws the coarse before the fine, as noise drowns the fine first (`spectra.drowning_level`): so a latent whose
fine waves are stronger than the picture's own asks for more (Skorokhodov et al. 2025). And what changes a picture
little should change its latent little, and likewise (Kouzelis et al. 2025). Neither is seen in a reconstruction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..diffusion.schedules import Schedule
from .bits import denoised
from .spectra import power_spectrum

Map = Callable[[Tensor], Tensor]
LEVELS = tuple(range(50, 1000, 100))  # indices t, ten of T = 1000, evenly spaced as training draws them


def channel_spectra(z: Tensor) -> tuple[Tensor, Tensor]:
    """Each channel's power by frequency, float64 (C, rings), and how many modes a ring has, (rings,).

    z: float (N, C, H, H), latents or pictures. Each channel less its mean over all positions and over its deviation, so
    that (power * modes).sum(1) is 1; rings as in `power_spectrum`, in cycles a side. ValueError: no squares, or a
    channel that never changes.
    """
    spread = z.double().var((0, 2, 3), correction=0)
    if not (spread > 0).all():
        raise ValueError(f"channel {int(spread.argmin())} is the same everywhere; a spectrum needs some variation")
    z = (z.double() - z.double().mean((0, 2, 3), keepdim=True)) / spread.sqrt()[:, None, None]
    each = [power_spectrum(channel) for channel in z.split(1, dim=1)]
    return torch.stack([s.power for s in each]), each[0].modes


def fine_share(z: Tensor) -> float:
    """The part of the variance, mean over channels, in waves finer than four positions: above H / 4 cycles a side.

    White noise has in them as much as there are modes, three quarters to four fifths; pictures have little.
    """
    power, modes = channel_spectra(z)
    fine = torch.arange(len(modes)) > z.shape[-1] / 4
    return (power * modes)[:, fine].sum(1).mean().item()


def pooled(x: Tensor, f: int) -> Tensor:
    """Means of blocks of f x f: the picture itself as a latent, to hold others against."""
    return F.avg_pool2d(x, f)


def equivariance_error(encode: Map, x: Tensor, move: Map, moved: Map | None = None) -> float:
    """How far E(T x) is from T E(x): mean |T E(x) - E(T x)|² over the variance of E(T x); 2 where they are unrelated.

    encode: pictures (N, 3, H, H) to latents (N, c, h, h). `move` is T of pictures, and of latents if `moved` is not
    given, which is T of (E(x), E(T x)) where T leaves grids, both cut alike. As EQ-VAE's error (Kouzelis et al. 2025,
    appendix C.3), but with the channels' means off, which any latent may have, and of all pictures together.
    ValueError: latents that never change.
    """
    before, after = encode(x), encode(move(x))
    expected, after = (move(before), after) if moved is None else moved(before, after)
    spread = (after - after.mean((0, 2, 3), keepdim=True)).square().mean().item()
    if not spread:
        raise ValueError("the latents are the same everywhere; an error has nothing to be held against")
    return (expected - after).square().mean().item() / spread


def smoothness(encode: Map, x: Tensor, f: int) -> dict[str, float]:
    """`equivariance_error` of a quarter turn, of half the size (means of 2 x 2), and of a shift by one pixel, which
    moves the latent by 1/f of a position: read between two positions on a straight line, and not at the borders."""

    def between(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        expected = torch.lerp(before, before.roll(1, 3), 1 / f)
        return expected[..., 1:-1], after[..., 1:-1]

    return {
        "quarter turn": equivariance_error(encode, x, lambda u: u.rot90(1, (2, 3))),
        "half the size": equivariance_error(encode, x, lambda u: pooled(u, 2)),
        "one pixel": equivariance_error(encode, x, lambda u: u.roll(1, 3), between),
    }


def loss_by_level(
    model: nn.Module, z: Tensor, schedule: Schedule, prediction: str, levels: Sequence[int] = LEVELS
) -> dict[str, list]:
    """Where a denoiser of z (N, c, h, h), given no labels, has its loss: at each level the `unexplained` part of the
    latents' variance, mean |x0 - x0_hat|² over it, and the `loss` of v, (1 + SNR) |x0 - x0_hat|².

    One noise for each latent at each level, always the same. A part of 1 is what the mean of all latents would leave.
    """
    rng, variance = torch.Generator().manual_seed(0), z.double().var(correction=0).item()
    options = {"prediction": prediction, "clip_x0": False, "generator": rng}
    errors = [(denoised(model, z, t, schedule, **options) - z).double().square().mean().item() for t in levels]
    loss = [(1 + schedule.snr[t].item()) * error for t, error in zip(levels, errors)]
    return {"levels": list(levels), "unexplained": [error / variance for error in errors], "loss": loss}

"""Frequencies: what varies at which scale, where noise drowns it, what a map of pictures passes on (chapters 4, 5)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import describe
from ..diffusion.schedules import Schedule


class Spectrum(NamedTuple):
    """`frequency` in cycles per picture side; `power`, its mean over the `modes` at that frequency."""

    frequency: Tensor
    power: Tensor
    modes: Tensor


def power_spectrum(images: Tensor) -> Spectrum:
    """How much of the pictures' variation lies at which scale: the radially averaged power spectrum (chapter 4).

    images: uint8 (N, C, H, H), taken as [-1, 1], or float (N, C, H, H), taken as they are, so latents too. Averaged
    over pictures and channels; a mode (u, v) belongs to the ring of radius round(sqrt(u^2 + v^2)), from 0 to the
    corner at H / sqrt(2). Rings above H / 2 are incomplete. Normalised so that (power * modes).sum() is the mean
    squared value (Parseval). float64. ValueError for pictures that are not square.
    """
    if images.ndim != 4 or images.shape[2] != images.shape[3] or not len(images):
        raise ValueError(f"got {describe(images)}; expected square pictures (N, C, H, H)")
    size = images.shape[-1]
    wave = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    ring = (wave[:, None].square() + wave[None, :].square()).sqrt().round().long().flatten()
    total = torch.zeros(size, size, dtype=torch.float64)
    for batch in images.cpu().split(256):
        x = batch.double() / 127.5 - 1 if images.dtype == torch.uint8 else batch.double()
        total += torch.fft.fft2(x, norm="forward").abs().square().mean(1).sum(0)
    modes = ring.bincount()
    power = torch.zeros(len(modes), dtype=torch.float64).index_add_(0, ring, total.flatten() / len(images))
    return Spectrum(torch.arange(len(modes)), power / modes, modes)


def drowning_level(spectrum: Spectrum, size: int, schedule: Schedule) -> Tensor:
    """The first index t at which each frequency's signal is below its noise, int64 (rings,); T where none is.

    `spectrum` is `spectra.power_spectrum` of clean pictures of `size` a side. In each mode the noise of DDPM eq. 4
    has the power (1 - alpha_bar) / size^2, the signal alpha_bar S(f). So f drowns where size^2 S(f) SNR(t) < 1.
    """
    below = size**2 * spectrum.power.double()[:, None] * schedule.snr < 1  # (rings, T); the SNR only falls
    return torch.where(below.any(1), below.int().argmax(1), schedule.T)


def transfer(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """What a map of pictures does to each frequency: (gain, power ratio), float64 (rings,) each.

    before, after: float (N, C, H, H). With transforms X and Y, and sums over the modes of a ring as in
    `power_spectrum`, the gain is Re sum(Y X*) / sum(|X|^2): the part of the signal that arrives in place. The power
    ratio is sum(|Y|^2) / sum(|X|^2), which also counts what was put in its stead. A filter that multiplies a ring by
    a real h has the gain h and the ratio h^2, whatever the pictures. ValueError: other shapes.
    """
    if before.shape != after.shape or before.ndim != 4 or before.shape[2] != before.shape[3]:
        raise ValueError(f"got {tuple(before.shape)} and {tuple(after.shape)}; expected (N, C, H, H) twice, one shape")
    size = before.shape[-1]
    wave = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    ring = (wave[:, None].square() + wave[None, :].square()).sqrt().round().long().flatten()
    x, y = (torch.fft.fft2(images.cpu().double()) for images in (before, after))

    def summed(values: Tensor) -> Tensor:
        zeros = torch.zeros(int(ring.max()) + 1, dtype=torch.float64)
        return zeros.index_add_(0, ring, values.sum((0, 1)).flatten())

    power = summed(x.abs().square())
    return summed((y * x.conj()).real) / power, summed(y.abs().square()) / power

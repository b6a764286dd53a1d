"""One picture against another: PSNR and SSIM (chapters 4, 5)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import describe

SSIM_WINDOW = 11  # pixels a side
BEYOND = 10  # what no picture in [-1, 1] reaches, though noise be added to it, and grey levels 0 to 255 do


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB: 10 log10(255^2 / MSE), with one mean squared error over all pictures.

    a, b: both uint8 (N, C, H, W), or both float in [-1, 1], which is taken to 0..255 first, unrounded. Equal sets
    give infinity. (A mean of the pictures' own ratios is higher, and infinite as soon as one is copied exactly.)
    ValueError for different shapes or types, or floats that are grey levels.
    """
    a, b = _grey_levels(a, b)
    error = sum((x.double() - y).square().sum().item() for x, y in zip(a.split(64), b.split(64))) / a.numel()
    return 10 * math.log10(255**2 / error) if error else math.inf


def psnr_lead(a: Tensor, b: Tensor, original: Tensor) -> tuple[float, float]:
    """By how many dB `a` is nearer to the original than `b` is, psnr(a, original) - psnr(b, original), and its error.

    The standard error over pictures, to first order: with each picture's squared errors e of `a` and e' of `b`, which
    go together, that of the mean of (10 / ln 10) (e' / mean e' - e / mean e).
    a, b, original: as for `psnr`, two pictures or more. ValueError as there, or one of them equal to the original.
    """
    errors = []
    for images in (a, b):
        x, y = _grey_levels(images, original)
        parts = [(u.double() - v).square().flatten(1).mean(1) for u, v in zip(x.split(64), y.split(64))]
        errors.append(torch.cat(parts))
    if len(original) < 2 or not all(e.any() for e in errors):
        raise ValueError(f"got {len(original)} pictures, or copies of the original; expected two or more that differ")
    own, other = (e / e.mean() for e in errors)
    lead = 10 * (errors[1].mean() / errors[0].mean()).log10()
    spread = (other - own).std() * 10 / math.log(10)
    return lead.item(), (spread / math.sqrt(len(own))).item()


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity (Wang et al. 2004, equation 13), averaged over pictures: 1 for equal ones.

    a, b: as for `psnr`, with sides of at least 11, the window's size. As in the paper: a Gaussian window of 1.5
    pixels, placed where it fits into the picture; K1 = 0.01, K2 = 0.03, on grey levels 0 to 255; here channel by
    channel. (torchmetrics 1.4 does the same; 1.9 also counts the border, padded.) ValueError as for `psnr`.
    """
    a, b = _grey_levels(a, b)
    if min(a.shape[2:]) < SSIM_WINDOW:
        raise ValueError(f"got pictures of {size_of(a)}; SSIM's window needs sides of at least 11")
    similarity = [_ssim(x.double(), y.double()).sum().item() for x, y in zip(a.split(64), b.split(64))]
    return sum(similarity) / len(a)


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    """(B,) of grey levels (B, C, H, W). float64, since a variance is a small difference of large squares."""
    gauss = torch.exp(-((torch.arange(11, dtype=x.dtype, device=x.device) - 5) ** 2) / (2 * 1.5**2))
    gauss = gauss / gauss.sum()

    def mean(u: Tensor) -> Tensor:
        u = u.flatten(0, 1)[:, None]
        return F.conv2d(F.conv2d(u, gauss.view(1, 1, 1, 11)), gauss.view(1, 1, 11, 1)).view(*x.shape[:2], -1)

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y, cov = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2, mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    same_mean = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return (same_mean * (2 * cov + c2) / (var_x + var_y + c2)).mean((1, 2))


def _grey_levels(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two sets of pictures as float grey levels, 0 to 255."""
    if a.shape != b.shape or a.ndim != 4 or a.dtype != b.dtype or not len(a):
        raise ValueError(f"got {describe(a)} and {describe(b)}; expected two (N, C, H, W) of one shape and type")
    if a.dtype == torch.uint8:
        return a.float(), b.float()
    if not a.is_floating_point() or a.abs().max() > BEYOND or b.abs().max() > BEYOND:
        raise ValueError(f"got {describe(a)}, or grey levels as floats; expected uint8, or float in [-1, 1]")
    return (a.float() + 1) * 127.5, (b.float() + 1) * 127.5


def size_of(images: Tensor) -> str:
    """The pictures' height and width, for a message."""
    return " x ".join(str(side) for side in images.shape[2:])

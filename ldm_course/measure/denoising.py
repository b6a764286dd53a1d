"""Pictures out of noise: the best linear map there is, and an autoencoder beside it (chapter 5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import describe
from .fidelity import psnr, psnr_lead

PART = 4096  # pictures at a time


@dataclass(frozen=True)
class LinearDenoiser:
    """The linear estimate of least squared error of pictures x from y = x + σ ε (the LMMSE estimate):

    x̂ = m + C (C + σ² I)⁻¹ (y - m), with the mean m and the covariance C of all values of a picture jointly, colours
    and pixels alike. No linear map is nearer to x on average; one that treats each colour or each wave by itself, as
    Wiener's filter does, is a special case. With C = V diag(λ) Vᵀ the estimate multiplies the direction i by
    λᵢ / (λᵢ + σ²), so that one decomposition serves every σ.

    `mean` (D,), `variances` λ (K,), `directions` V (D, K), of D = C·H·W values in [-1, 1], with K = D, or less where
    the others have λ = 0; float64.
    """

    mean: Tensor
    variances: Tensor
    directions: Tensor

    @classmethod
    def of_moments(cls, mean: Tensor, covariance: Tensor) -> LinearDenoiser:
        """From a known mean (D,) and covariance (D, D). ValueError: shapes that do not belong together."""
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise ValueError(f"got {describe(mean)} and {describe(covariance)}; expected (D,) and (D, D)")
        variances, directions = torch.linalg.eigh(covariance.double())
        return cls(mean.double(), variances.clamp(min=0), directions)

    @classmethod
    def of_pictures(cls, images: Tensor, device: torch.device | str = "cpu") -> LinearDenoiser:
        """From clean pictures uint8 (N, C, H, W), and as many mirrored ones, which are pictures just as well.

        ValueError: other pictures, or fewer than two.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or len(images) < 2:
            raise ValueError(f"got {describe(images)}; expected two pictures or more, uint8 (N, C, H, W)")
        size = images[0].numel()
        if 2 * len(images) < size:
            return cls._of_few(torch.cat([images, images.flip(3)]).to(device))
        first = torch.zeros(size, dtype=torch.float64, device=device)
        second = torch.zeros(size, size, dtype=torch.float64, device=device)
        for part in images.split(PART):
            x = part.to(device).flatten(1).double() / 127.5 - 1
            first += x.sum(0)
            second.addmm_(x.T, x)
        mirror = torch.arange(size, device=device).view(images.shape[1:]).flip(2).flatten()
        mean = (first + first[mirror]) / (2 * len(images))
        second = (second + second[mirror][:, mirror]) / (2 * len(images))
        return cls.of_moments(mean, second - torch.outer(mean, mean))

    @classmethod
    def _of_few(cls, images: Tensor) -> LinearDenoiser:
        """Where there are fewer pictures than values, the same without the directions in which they do not vary."""
        x = images.flatten(1).double() / 127.5 - 1
        _, spread, directions = torch.linalg.svd(x - x.mean(0), full_matrices=False)
        return cls(x.mean(0), spread.square() / len(x), directions.T)

    def __call__(self, noisy: Tensor, noise_std: float) -> Tensor:
        """The estimate for float pictures (N, C, H, W) with noise of that standard deviation, clipped to [-1, 1] as
        `Autoencoder.reconstruct` clips; like `noisy`. ValueError: pictures of another shape."""
        if noisy[0].numel() != len(self.mean):
            raise ValueError(f"got {describe(noisy)}; expected pictures of {len(self.mean)} values")
        kept = self.variances / (self.variances + noise_std**2)
        parts = []
        for part in noisy.split(PART):
            away = part.to(self.mean.device).flatten(1).double() - self.mean
            parts.append((self.mean + (away @ self.directions * kept) @ self.directions.T).to(noisy))
        return torch.cat(parts).view(noisy.shape).clamp(-1, 1)


@torch.no_grad()
def against_noise(
    through: Callable[[Tensor], Tensor],
    clean: Tensor,
    linear: LinearDenoiser,
    stds: Sequence[float] = (0.05, 0.1, 0.2, 0.4, 0.8),
) -> list[dict[str, float | None]]:
    """Does the autoencoder filter noise? A row for each standard deviation of white noise added to the pictures.

    `through`: the way through the autoencoder, such as `Autoencoder.reconstruct`.
    clean: float (N, C, H, W) in [-1, 1]; `linear`, made of other clean pictures. Each row: `std`; the PSNR in dB
    against the clean pictures of the `noisy` ones, of what the `autoencoder` makes of them, and of what `linear` does;
    `lead`, by how many dB the autoencoder is ahead of it, and `lead_error`, its standard error over pictures; `kept`,
    the PSNR of the autoencoder's pictures against the noisy ones; `passed`, the power by which the noise moves its
    pictures, over the noise's own. `std` 0 comes first, with nothing but `autoencoder` and `kept`: an autoencoder is
    trained on clean pictures, and this is what it loses of them.
    """
    plain = through(clean)
    lost = psnr(plain, clean)
    none = dict.fromkeys(("noisy", "linear", "lead", "lead_error", "passed"))
    rows = [{"std": 0.0, **none, "autoencoder": lost, "kept": lost}]
    for std in stds:
        added = std * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(clean)
        noisy = clean + added
        rebuilt, filtered = through(noisy), linear(noisy, std)
        row = {"noisy": noisy, "autoencoder": rebuilt, "linear": filtered}
        found = {name: psnr(x, clean) for name, x in row.items()}
        found["lead"], found["lead_error"] = psnr_lead(rebuilt, filtered, clean)
        passed = ((rebuilt - plain).square().mean() / added.square().mean()).item()
        rows.append({"std": std, **found, "kept": psnr(rebuilt, noisy), "passed": passed})
    return rows

"""A codebook in place of a Gaussian: vector quantisation (van den Oord et al. 2017; VQGAN, Esser et al. 2021).

Each vector of a latent is replaced by the nearest of K learnt ones: a picture becomes h·w whole numbers (chapter 9).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..checks import shaped

COMMITMENT = 0.25  # β of van den Oord et al., equation 3


class Coded(NamedTuple):
    """Latents after quantisation, `z` `(B, c, h, w)`; which vectors they are, `codes` int64 `(B, h, w)`; and, in
    training, the codebook's `loss`."""

    z: Tensor
    codes: Tensor
    loss: Tensor | None


class Codebook(nn.Module):
    """K vectors e of c numbers, to which latents `(B, c, h, w)` are rounded (van den Oord et al. 2017, equation 2).

    The rounding passes gradients on as if it were not there (straight-through). The vectors are trained by gradients,
    as in VQGAN, and not by a running mean of the latents that chose them: so they are weights like all others, which
    the trainer averages, stores and resumes, and no step depends on more than the seed and its number.
    """

    def __init__(self, size: int, channels: int):
        super().__init__()
        self.embedding = nn.Embedding(size, channels)  # drawn from N(0, 1); the latents come to them

    def forward(self, z: Tensor) -> Coded:
        shaped(z, "latents to quantise", "float", "B", self.embedding.embedding_dim, "h", "w")
        b, c, h, w = z.shape
        rows = z.float().permute(0, 2, 3, 1).reshape(-1, c)
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            e = self.embedding.weight.float()
            distances = torch.addmm(e.square().sum(1), rows, e.T, alpha=-2)  # |z - e|², less |z|²
            codes = distances.argmin(1)
        chosen = self.embedding(codes).float()
        loss = self._loss(rows, chosen, codes, distances) if self.training else None
        through = rows + (chosen - rows).detach()
        return Coded(through.view(b, h, w, c).permute(0, 3, 1, 2).contiguous(), codes.view(b, h, w), loss)

    def _loss(self, rows: Tensor, chosen: Tensor, codes: Tensor, distances: Tensor) -> Tensor:
        """‖sg[z] - e‖² + β ‖z - sg[e]‖², a value of the latent (equation 3's second and third term).

        A vector that no latent of the batch chose would get no gradient, and might never be chosen again: it is drawn
        to the latent nearest to it, like one that this latent had chosen. (diffusers' VQModel has its β at the other
        term, "for backwards compatibility".)
        """
        idle = torch.ones(len(self.embedding.weight), dtype=torch.bool, device=codes.device)
        idle[codes] = False
        nearest = rows[distances.argmin(0)].detach()
        revived = ((self.embedding.weight - nearest).square() * idle[:, None]).sum() / rows.numel()
        codebook, commitment = (rows.detach() - chosen).square(), (rows - chosen.detach()).square()
        return codebook.mean() + revived + COMMITMENT * commitment.mean()


def perplexity(codes: Tensor, size: int) -> float:
    """How many of `size` vectors are in use: exp of the entropy of their frequencies, 1 to `size`.

    codes: whole numbers of any shape. ValueError: none at all, or one that is not below `size`.
    """
    if not codes.numel() or not 0 <= codes.min() <= codes.max() < size:
        raise ValueError(f"got {codes.numel()} codes of a codebook of {size}; expected some, 0 to {size - 1}")
    share = codes.flatten().bincount(minlength=size).double() / codes.numel()
    return torch.special.entr(share).sum().exp().item()

"""What an autoencoder is trained on: reconstruction, perceptual, KL and adversarial terms (chapter 4); and what makes
its latents turn and shrink with the pictures (chapter 9)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import Share, Weight, check
from ..data.pictures import Crops, Pictures
from ..diffusion.objectives import Objective, draw, on_device
from ..networks.features import SMALLEST, perceptual_distance
from ..networks.quantise import Coded
from . import equivariance


class PatchCritic(nn.Module):
    """Judges patches, not pictures: `(B, 3, H, W)` to one number for each 16x16 patch or so (Isola et al. 2017)."""

    def __init__(self, channels: int = 3, width: int = 32):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class AutoencoderObjective(Objective):
    """LDM's first stage (Rombach et al. 2022, equation 25): what was lost, how it looks, and how far from N(0, 1).

    loss = |x - 𝒟(z)| + perceptual_weight · perceptual distance + kl_weight · KL a pixel value
    (+ adversarial_weight · hinge loss against a `PatchCritic`, where that weight is not 0).
    `squared` takes (x - 𝒟(z))² in place of the absolute value: then few large errors count for more than many small.
    A codebook's own loss takes the place of the KL. Of the batches, the share `equivariant` compares 𝒟(τ(z)) with τ(x)
    for a random τ (EQ-VAE, equations 5 and 7); what is too small for the perceptual distance is enlarged for it.
    ValueError: pictures that are too small for the perceptual distance, a share that is none, or a weight below 0.
    """

    def __init__(
        self,
        data: Pictures | Crops,
        *,
        perceptual_weight: float = 0.1,
        kl_weight: float = 1e-4,
        adversarial_weight: float = 0.0,
        squared: bool = False,
        equivariant: float = 0.0,
        flip: bool = False,
    ):
        if perceptual_weight and data.size < SMALLEST:
            needed = f"pictures of {data.size} a side; the perceptual loss takes {SMALLEST} or more"
            raise ValueError(f"{needed}: choose a larger size, or a perceptual weight of 0")
        check(Share, equivariant, "equivariant")
        self.data, self.flip = data, flip
        self.perceptual_weight, self.kl_weight = perceptual_weight, kl_weight
        self.adversarial_weight, self.squared = adversarial_weight, squared
        self.equivariant, self.varies = equivariant, equivariant > 0
        check(dict[str, Weight], self.weights, "weights")
        self.critic = PatchCritic() if adversarial_weight else None
        self.size = len(data)
        self._pair: tuple[Tensor, Tensor] | None = None

    def to(self, device: torch.device) -> AutoencoderObjective:
        self.data = on_device(self.data, device)
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Those of its terms, for a record."""
        names = ("perceptual_weight", "kl_weight", "adversarial_weight") + ("equivariant",) * self.varies
        return {name: getattr(self, name) for name in names}

    def describe(self) -> str:
        weights = f"perceptual {self.perceptual_weight}, kl {self.kl_weight}, adversarial {self.adversarial_weight}"
        weights += (", squared" if self.squared else "") + (f", equivariant {self.equivariant}" * self.varies)
        return f"reconstruct, {weights}"

    def __call__(self, model, indices, rng, critic=None):
        x = draw(self.data, indices, rng, self.flip)
        values, move = x[0].numel(), equivariance.drawn(rng, self.equivariant) if self.varies else None
        rebuilt, encoded = model(x, rng.normal, move)
        x, rebuilt = x if move is None else move(x), rebuilt.float()
        lost = x - rebuilt
        losses = {"l1": lost.abs().mean()}
        loss = lost.square().mean() if self.squared else losses["l1"]
        if isinstance(encoded, Coded):
            losses["codebook"] = encoded.loss
            loss = loss + losses["codebook"]
        else:
            losses["kl"] = encoded.kl().mean() / values
            loss = loss + self.kl_weight * losses["kl"]
        if self.perceptual_weight:
            losses["perceptual"] = perceptual_distance(*map(_large_enough, (rebuilt, x))).mean()
            loss = loss + self.perceptual_weight * losses["perceptual"]
        if critic is not None:
            self._pair = (x, rebuilt.detach())
            for p in critic.parameters():  # the autoencoder must not pay for the critic's gradients
                p.requires_grad_(False)
            losses["adversarial"] = -critic(rebuilt).mean()
            for p in critic.parameters():
                p.requires_grad_(True)
            loss = loss + self.adversarial_weight * losses["adversarial"]
        return {"loss": loss, **losses}

    def critic_loss(self, critic):
        real, fake = self._pair
        return 0.5 * (F.relu(1 - critic(real)).mean() + F.relu(1 + critic(fake)).mean())


def _large_enough(x: Tensor) -> Tensor:
    """Pictures as the perceptual distance takes them: enlarged where a transformation has made them too small."""
    size = [max(side, SMALLEST) for side in x.shape[2:]]
    return x if size == list(x.shape[2:]) else F.interpolate(x, size, mode="bilinear")

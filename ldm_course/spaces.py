"""Pixels and latents side by side: everything that differs between the two spaces is in this module (chapters 0 and 2).

The U-Net, the trainer, the sampler and the evaluator are the same for both. What differs: the shape of what is
denoised, whether x̂₀ may be clipped to [-1, 1] (pixels have that range, latents have none), and the way to pictures
and back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import Count, checked, shaped
from .data.pictures import to_float, to_uint8
from .networks.autoencoder import Autoencoder


@checked
class PixelSpace:
    """Pictures of `size` a side, denoised as they are. ValueError: a size that is none."""

    size: Count
    channels: Count = 3
    name: str = "pixel"
    clip_x0: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.channels, self.size, self.size)

    def to_pictures(self, x: Tensor) -> Tensor:
        """Samples `(B, 3, H, W)` to uint8."""
        return to_uint8(x)

    def from_pictures(self, pictures: Tensor) -> Tensor:
        """The samples that uint8 pictures `(B, 3, H, W)` are. ValueError: pictures of another kind or size."""
        return to_float(_of_size(pictures, self.size))


@checked
class LatentSpace:
    """The latents of pictures of `size` a side; `to_pictures` decodes. ValueError: one that f does not divide."""

    size: Count
    autoencoder: Autoencoder
    name: str = "latent"
    clip_x0: bool = False

    def __post_init__(self):
        f = self.autoencoder.config.downsample
        if self.size % f:
            raise ValueError(f"pictures of {self.size} a side have no latents with f={f}; expected a multiple of it")

    @property
    def shape(self) -> tuple[int, int, int]:
        config = self.autoencoder.config
        side = self.size // config.downsample
        return (config.latent_channels, side, side)

    @torch.inference_mode()
    def to_pictures(self, z: Tensor) -> Tensor:
        """Scaled latents `(B, c, h, w)` to uint8 pictures `(B, 3, H, W)`."""
        return to_uint8(self.autoencoder.from_latents(z))

    @torch.no_grad()
    def from_pictures(self, pictures: Tensor) -> Tensor:
        """The scaled latents of uint8 pictures `(B, 3, H, W)`, the means of their posteriors: what `to_pictures` turns
        into the autoencoder's reconstructions. ValueError: pictures of another kind or size."""
        return self.autoencoder.to_latents(to_float(_of_size(pictures, self.size)))


def _of_size(pictures: Tensor, size: int) -> Tensor:
    shaped(pictures, "pictures", "uint8", "B", 3, size, size)
    return pictures

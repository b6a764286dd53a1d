"""The U-Net of a super-resolution stage (chapter 9)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import UNetConfig
from .unet import UNet


class SuperResolutionUNet(nn.Module):
    """A U-Net that is told a picture, as further channels beside xt (chapter 9): from `(B, C, H, W)`, `(B,)` and what
    `superresolution.hint` makes of a smaller picture, `(B, C + 1, H, W)`, to `(B, C, H, W)`.

    `config.in_channels` counts all of them, 2C + 1. ValueError: it counts others, or what it is given does not fit.
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        if config.in_channels != 2 * config.out_channels + 1:
            wanted = 2 * config.out_channels + 1
            raise ValueError(f"in_channels={config.in_channels}; expected {wanted}: xt, the smaller picture, its level")
        self.config = config
        self.unet = UNet(config)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        if condition.shape != (len(x), x.shape[1] + 1, *x.shape[2:]):
            raise ValueError(
                f"xt is {tuple(x.shape)} and what is told {tuple(condition.shape)}; expected one channel more"
            )
        return self.unet(torch.cat([x, condition], dim=1), t)

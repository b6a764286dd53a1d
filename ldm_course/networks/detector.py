"""The network that finds the things in a picture of a scene: a heat map of their middles (Zhou et al. 2019; chapter 8).

It is no part of a generator. It reads what a generator has drawn, so that drawings can be held against their prompts.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import DetectorConfig
from .layers import Downsample, ResnetBlock

EPS = 1e-6
STRIDE = 4  # pixels a side that one cell of the output's grid stands for


class Detector(nn.Module):
    """Says what is where, on a grid of H/4 x W/4 cells: things are points (Zhou, Wang and Krähenbühl 2019, section 4).

    Three levels down and one up again, so that a cell knows its surroundings. Pictures `(B, 3, H, W)` in [-1, 1], sides
    multiples of 8, become a dictionary of

    - middle `(B, h, w)`: the logit of a thing's middle being in this cell
    - shape, colour `(B, names, h, w)`: logits of what that thing is
    - offset `(B, 2, h, w)`: from the cell's own middle to the thing's, x and y in cells
    - radius `(B, h, w)`: the logarithm of the thing's radius in widths of the picture
    - pattern, tint `(B, names)`: logits of the ground's
    """

    def __init__(self, config: DetectorConfig):
        super().__init__()
        self.config = config
        fine, middle, coarse = config.block_out_channels

        def block(first: int, out: int) -> ResnetBlock:
            return ResnetBlock(first, out, None, config.norm_num_groups, EPS)

        self.conv_in = nn.Conv2d(12, fine, 3, padding=1)  # of 2 x 2 pixels folded into channels: that loses nothing
        self.fine = nn.Sequential(block(fine, fine), Downsample(fine))
        self.middle = block(fine, middle)
        self.coarse = nn.Sequential(Downsample(middle), block(middle, coarse), block(coarse, coarse))
        self.joined = block(coarse + middle, middle)
        self.norm_ground = nn.GroupNorm(config.norm_num_groups, middle + coarse, EPS)
        self.norm_out = nn.GroupNorm(config.norm_num_groups, middle, EPS)
        self.parts = {"middle": 1, "offset": 2, "radius": 1, "shape": len(config.shapes), "colour": len(config.colours)}
        self.conv_out = nn.Conv2d(middle, sum(self.parts.values()), 1)
        nn.init.constant_(self.conv_out.bias[:1], -math.log(9))  # at first a middle has a chance of 1 in 10
        self.pattern = nn.Linear(coarse + middle, len(config.patterns))
        self.tint = nn.Linear(coarse + middle, len(config.tints))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] % 8 or x.shape[3] % 8:
            raise ValueError(f"the detector was given {tuple(x.shape)}; expected (B, 3, H, W), sides multiples of 8")
        middle = self.middle(self.fine(self.conv_in(F.pixel_unshuffle(x, 2))))
        coarse = self.coarse(middle)
        both = torch.cat([F.interpolate(coarse, scale_factor=2.0), middle], dim=1)
        joined = self.joined(both)
        maps = self.conv_out(F.silu(self.norm_out(joined))).split(list(self.parts.values()), dim=1)
        found = dict(zip(self.parts, maps))
        ground = F.silu(self.norm_ground(both)).mean((2, 3))
        return found | {
            "middle": found["middle"][:, 0],
            "radius": found["radius"][:, 0],
            "pattern": self.pattern(ground),
            "tint": self.tint(ground),
        }

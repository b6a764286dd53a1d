"""CLIP: an encoder of pictures and one of texts, whose vectors can be compared (Radford et al. 2021; chapter 8).

A picture and its caption are to lie near each other in one space. Stable Diffusion's U-Net reads such a text encoder.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import CLIPConfig
from .layers import CrossAttention, Downsample, ResnetBlock
from .text import END, PAD, TextEncoder, Tokenizer

EPS = 1e-6
FOLD = 4  # pixels a side that are folded into channels at first, which loses none of them
FIRST_SCALE, LARGEST_SCALE = 1 / 0.07, 100.0  # of what cosines are multiplied by: section 2.5


class PictureEncoder(nn.Module):
    """Pictures `(B, 3, H, W)` in [-1, 1] to a vector each, `(B, C)`, C the last level's channels.

    Down from a quarter of the side, with a residual block at each level; then one query, the mean of all cells, reads
    them and itself, all of which know their places (CLIP's attention pooling, section 2.3).
    ValueError: pictures of another size than `config.size`.
    """

    def __init__(self, config: CLIPConfig):
        super().__init__()
        self.size, widths, groups = config.size, config.block_out_channels, config.norm_num_groups
        last, grid = widths[-1], config.size // 2 ** (1 + len(widths))
        self.conv_in = nn.Conv2d(3 * FOLD**2, widths[0], 3, padding=1)
        self.blocks = nn.Sequential(ResnetBlock(widths[0], widths[0], None, groups, EPS))
        for above, width in pairwise(widths):
            self.blocks.extend([Downsample(above), ResnetBlock(above, width, None, groups, EPS)])
        self.norm_out = nn.GroupNorm(groups, last, EPS)
        self.position_embedding = nn.Embedding(1 + grid**2, last)
        nn.init.normal_(self.position_embedding.weight, std=last**-0.5)
        self.pool = CrossAttention(last, last // config.attention_head_dim, last)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1:] != (3, self.size, self.size):
            raise ValueError(f"pictures of shape {tuple(x.shape)}; expected (B, 3, {self.size}, {self.size})")
        x = self.blocks(self.conv_in(F.pixel_unshuffle(x, FOLD)))
        x = F.silu(self.norm_out(x)).flatten(2).transpose(1, 2)  # (B, cells, C)
        x = torch.cat([x.mean(1, keepdim=True), x], dim=1) + self.position_embedding.weight
        return self.pool(x[:, :1], x)[:, 0]


class CLIP(nn.Module):
    """Pictures `(B, 3, H, W)` and tokens int64 `(B, L)` to unit vectors `(B, width)` each, and the scale: what cosines
    are multiplied by, 1 / temperature, which is learnt as a logarithm and is 100 at most (section 2.5)."""

    def __init__(self, config: CLIPConfig):
        super().__init__()
        self.config = config
        self.text, self.picture = TextEncoder(config.text), PictureEncoder(config)
        self.text_projection = nn.Linear(config.text.width, config.width, bias=False)
        self.picture_projection = nn.Linear(config.block_out_channels[-1], config.width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))
        self.tokenizer = Tokenizer(config.words, config.text.length)

    def of_pictures(self, x: Tensor) -> Tensor:
        """float32 `(B, width)`, of length 1."""
        return F.normalize(self.picture_projection(self.picture(x)).float(), dim=1)

    def of_texts(self, tokens: Tensor) -> Tensor:
        """float32 `(B, width)`, of length 1."""
        h = self.text(tokens)
        if self.config.text.causal:  # the end is the one token that has seen all
            read = h[torch.arange(len(h), device=h.device), (tokens == END).int().argmax(1)]
        else:
            said = (tokens != PAD)[:, :, None]
            read = (h * said).sum(1) / said.sum(1)
        return F.normalize(self.text_projection(read).float(), dim=1)

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.training:
            with torch.no_grad():  # after a step, in effect: clamped within the formula, it could never come down again
                self.log_scale.clamp_(max=math.log(LARGEST_SCALE))
        return self.of_pictures(x), self.of_texts(tokens), self.log_scale.exp()

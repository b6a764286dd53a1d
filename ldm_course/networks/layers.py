"""The parts that the U-Net and the autoencoder share: residual block, attention, resampling, middle (chapter 1).

Every module's parameters carry the names that diffusers gives them, so converting weights is no more than
renaming (see `interop`). Feature maps are `(B, C, H, W)`; time embeddings are `(B, E)`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """Sinusoids of t (DDPM, appendix B): `(B,)` to `(B, width)`, cosines first, periods from 2π to 2π·10⁴."""
    half = width // 2
    rate = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angle = t.float()[:, None] * rate
    return torch.cat([angle.cos(), angle.sin()], dim=1)


class TimestepEmbedding(nn.Module):
    """Two linear layers that turn the sinusoids into what the residual blocks are told about the time."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.linear_1 = nn.Linear(width, out)
        self.linear_2 = nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class ResnetBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))) + time))); a 1x1 convolution on the shortcut where the width changes."""

    def __init__(self, in_channels: int, out_channels: int, time_width: int | None, groups: int, eps: float):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_width, out_channels) if time_width else None
        self.norm2 = nn.GroupNorm(groups, out_channels, eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """`time` is the embedding after its SiLU, which is the same for all blocks and so is done once."""
        h = self.conv1(F.silu(self.norm1(x)))
        if self.time_emb_proj is not None:
            h = h + self.time_emb_proj(time)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nn.Module):
    """Self-attention over the H·W positions, with a residual connection: its cost grows with (H·W)²."""

    def __init__(self, channels: int, head_dim: int, groups: int, eps: float):
        super().__init__()
        self.heads = channels // head_dim
        self.group_norm = nn.GroupNorm(groups, channels, eps)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        h = self.group_norm(x).flatten(2).transpose(1, 2).contiguous()  # (B, HW, C); in order, the products are quicker
        q, k, v = (f(h).unflatten(2, (self.heads, -1)).transpose(1, 2) for f in (self.to_q, self.to_k, self.to_v))
        h = F.scaled_dot_product_attention(q, k, v)  # (B, heads, HW, C / heads)
        h = self.to_out(h.transpose(1, 2).reshape(b, -1, c))
        return x + h.transpose(1, 2).reshape(b, c, height, width)


class Downsample(nn.Module):
    """Halves each side by a strided convolution; `one_sided` pads right and below only, as the autoencoder does."""

    def __init__(self, channels: int, one_sided: bool = False):
        super().__init__()
        self.one_sided = one_sided
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if one_sided else 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.one_sided else x)


class Upsample(nn.Module):
    """Doubles each side by repetition, then smooths by a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class MidBlock(nn.Module):
    """Residual block, attention, residual block, at the lowest resolution."""

    def __init__(
        self,
        channels: int,
        time_width: int | None,
        head_dim: int,
        groups: int,
        eps: float,
        attention: bool = True,
    ):
        super().__init__()
        self.attentions = nn.ModuleList([Attention(channels, head_dim, groups, eps)] if attention else [])
        self.resnets = nn.ModuleList([ResnetBlock(channels, channels, time_width, groups, eps) for _ in range(2)])

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        x = self.resnets[0](x, time)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x, time)

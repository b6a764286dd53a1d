"""The parts that the U-Net and the autoencoder share: residual block, attention, resampling, middle (chapters 1 and 8).

Every module's parameters carry the names that diffusers gives them, so converting weights is no more than
renaming (see `interop`). Feature maps are `(B, C, H, W)`; time embeddings are `(B, E)`.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


def timestep_embedding(t: Tensor, width: int, last: int = 0) -> Tensor:
    """Sinusoids of t (DDPM, appendix B): `(B,)` to `(B, width)`, cosines first, periods from 2π to 2π·10⁴, which comes
    after the last of them, or with `last` 1 is the last. ValueError: an odd width."""
    if width % 2:
        raise ValueError(f"width={width}; expected an even one, half for cosines and half for sines")
    half = width // 2
    rate = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device, dtype=torch.float32) / (half - last))
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


SMALL = 256 * 256  # pairs of positions


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """softmax(q kᵀ / √d) v for each head: q is (B, heads, N, d), k and v are (B, heads, L, d); a true entry of `mask`
    may be read, and with `causal` only what is not later.

    Where a CPU trains on few pairs, step by step as the formula says: there the fused kernel's way back took a third of
    a whole training step.
    """
    trains = q.device.type == "cpu" and torch.is_grad_enabled() and q.shape[2] * k.shape[2] <= SMALL
    with sdpa_kernel(SDPBackend.MATH) if trains else nullcontext():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


class Attention(nn.Module):
    """Self-attention over the H·W positions, with a residual connection: its cost grows with (H·W)²."""

    def __init__(self, channels: int, heads: int, groups: int, eps: float):
        super().__init__()
        self.heads = heads
        self.group_norm = nn.GroupNorm(groups, channels, eps)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, context: None = None) -> Tensor:
        b, c, height, width = x.shape
        h = self.group_norm(x).flatten(2).transpose(1, 2).contiguous()  # (B, HW, C); in order, the products are quicker
        q, k, v = (f(h).unflatten(2, (self.heads, -1)).transpose(1, 2) for f in (self.to_q, self.to_k, self.to_v))
        h = attend(q, k, v)  # (B, heads, HW, C / heads)
        h = self.to_out(h.transpose(1, 2).reshape(b, -1, c))
        return x + h.transpose(1, 2).reshape(b, c, height, width)


class CrossAttention(nn.Module):
    """softmax(Q Kᵀ / √d) V by several heads: Q from x (B, N, C), K and V from a context (B, L, D) (LDM, section 3.3).

    Each of the N positions gets a weighted mean of L values. Without a context, x reads itself.
    """

    def __init__(self, channels: int, heads: int, context_width: int | None = None, bias: bool = False):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=bias)
        self.to_k = nn.Linear(context_width or channels, channels, bias=bias)
        self.to_v = nn.Linear(context_width or channels, channels, bias=bias)
        self.to_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        read = x if context is None else context
        h = attend(self.split(self.to_q(x)), self.split(self.to_k(read)), self.split(self.to_v(read)))
        return self.to_out(h.transpose(1, 2).flatten(2))

    def split(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, heads, N, C / heads)."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with a gate between them: out(a · gelu(b)), with a and b each four times as wide as x."""

    def __init__(self, channels: int):
        super().__init__()
        self.proj = nn.Linear(channels, 8 * channels)
        self.out = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return self.out(value * F.gelu(gate))


class TransformerBlock(nn.Module):
    """Positions read each other, then the context, then each is changed by itself; each time x + f(norm(x))."""

    def __init__(self, channels: int, heads: int, context_width: int):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))
        self.attn1 = CrossAttention(channels, heads)
        self.attn2 = CrossAttention(channels, heads, context_width)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """`Attention`'s place in a network with a context: a transformer block over the H·W positions of (B, C, H, W)."""

    def __init__(self, channels: int, heads: int, groups: int, context_width: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, 1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, heads, context_width)])
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.proj_in(self.norm(x).flatten(2).transpose(1, 2).contiguous())  # (B, HW, C)
        for block in self.transformer_blocks:
            h = block(h, context)
        return x + self.proj_out(h).transpose(1, 2).reshape(x.shape)


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

    def __init__(self, channels: int, time_width: int | None, groups: int, eps: float, attention: nn.Module | None):
        super().__init__()
        self.attentions = nn.ModuleList([] if attention is None else [attention])
        self.resnets = nn.ModuleList([ResnetBlock(channels, channels, time_width, groups, eps) for _ in range(2)])

    def forward(self, x: Tensor, time: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        x = self.resnets[0](x, time)
        for attention in self.attentions:
            x = attention(x, context)
        return self.resnets[1](x, time)

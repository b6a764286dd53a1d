"""The one denoiser, for pictures and for latents alike, with classes or a text beside them (chapters 0, 1 and 8).

Same parts in the same order as diffusers' `UNet2DModel`, in a page: down through the levels, a middle with
attention, up again with the skip connections. It knows nothing of the space it works in. With a context, such as an
encoded text, it is diffusers' `UNet2DConditionModel`: each attention then reads the context too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import shaped
from ..config import UNetConfig
from .layers import (
    Attention,
    Downsample,
    MidBlock,
    ResnetBlock,
    SpatialTransformer,
    TimestepEmbedding,
    Upsample,
    timestep_embedding,
)

EPS = 1e-5


def attention_at(config: UNetConfig, level: int) -> Attention | SpatialTransformer:
    """What attends at that level: positions to each other, and where there is a context, to it."""
    width, heads, groups = config.block_out_channels[level], config.heads(level), config.norm_num_groups
    if config.cross_attention_dim is None:
        return Attention(width, heads, groups, EPS)
    return SpatialTransformer(width, heads, groups, config.cross_attention_dim)


class DownBlock(nn.Module):
    """One level on the way down; hands on every feature map it makes, for the way up."""

    def __init__(self, config: UNetConfig, level: int, time_width: int):
        super().__init__()
        out = config.block_out_channels[level]
        first = config.block_out_channels[max(level - 1, 0)]
        layers = config.layers_per_block
        groups = config.norm_num_groups
        self.resnets = nn.ModuleList(
            [ResnetBlock(first if i == 0 else out, out, time_width, groups, EPS) for i in range(layers)]
        )
        attending = layers if config.attention[level] else 0
        self.attentions = nn.ModuleList([attention_at(config, level) for _ in range(attending)])
        last = level == len(config.block_out_channels) - 1
        self.downsamplers = nn.ModuleList([] if last else [Downsample(out)])

    def forward(self, x: Tensor, time: Tensor, context: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        skips = []
        for i, resnet in enumerate(self.resnets):
            x = resnet(x, time)
            if self.attentions:
                x = self.attentions[i](x, context)
            skips.append(x)
        for downsample in self.downsamplers:
            x = downsample(x)
            skips.append(x)
        return x, skips


class UpBlock(nn.Module):
    """One level on the way up: each residual block reads the stream beside one feature map from the way down."""

    def __init__(self, config: UNetConfig, level: int, time_width: int):
        super().__init__()
        widths = config.block_out_channels
        out, below, above = widths[level], widths[min(level + 1, len(widths) - 1)], widths[max(level - 1, 0)]
        layers = config.layers_per_block + 1
        groups = config.norm_num_groups
        self.resnets = nn.ModuleList()
        for i in range(layers):
            stream = below if i == 0 else out
            skip = above if i == layers - 1 else out
            self.resnets.append(ResnetBlock(stream + skip, out, time_width, groups, EPS))
        attending = layers if config.attention[level] else 0
        self.attentions = nn.ModuleList([attention_at(config, level) for _ in range(attending)])
        self.upsamplers = nn.ModuleList([] if level == 0 else [Upsample(out)])

    def forward(self, x: Tensor, skips: list[Tensor], time: Tensor, context: Tensor | None = None) -> Tensor:
        for i, resnet in enumerate(self.resnets):
            x = resnet(torch.cat([x, skips.pop()], dim=1), time)
            if self.attentions:
                x = self.attentions[i](x, context)
        for upsample in self.upsamplers:
            x = upsample(x)
        return x


class UNet(nn.Module):
    """The denoiser ε_θ(x_t, t): from `(B, C, H, W)` and `(B,)` to `(B, C, H, W)`.

    What the output means (ε, x₀ or v) is for the objective and the sampler to say. H and W must be multiples of
    `2 ** (levels - 1)`. `condition` is what the network was built for: for classes, int64 `(B,)`, where
    `config.num_classes` stands for "no label"; left out, no picture has one. For a context, float
    `(B, L, config.cross_attention_dim)`, which cannot be left out. ValueError: another shape or type.
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        widths = config.block_out_channels
        time_width = 4 * widths[0]
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(widths[0], time_width)
        classes = config.num_classes
        self.class_embedding = nn.Embedding(classes + 1, time_width) if classes is not None else None
        self.pooled_embedding = nn.Linear(config.cross_attention_dim, time_width) if config.pooled else None
        levels = range(len(widths))
        self.down_blocks = nn.ModuleList([DownBlock(config, i, time_width) for i in levels])
        self.mid_block = MidBlock(widths[-1], time_width, config.norm_num_groups, EPS, attention_at(config, -1))
        self.up_blocks = nn.ModuleList([UpBlock(config, i, time_width) for i in reversed(levels)])
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0], EPS)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        self._check(x, t, condition)
        emb = self.time_embedding(timestep_embedding(t, self.config.block_out_channels[0]).to(x.dtype))
        if self.class_embedding is not None:
            nothing = torch.full_like(t, self.config.num_classes, dtype=torch.int64)
            emb = emb + self.class_embedding(nothing if condition is None else condition)
        if self.pooled_embedding is not None:
            emb = emb + self.pooled_embedding(condition.mean(1))
        time, context = F.silu(emb), None if self.class_embedding is not None else condition

        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            x, made = block(x, time, context)
            skips += made
        x = self.mid_block(x, time, context)
        for block in self.up_blocks:
            x = block(x, skips, time, context)
        return self.conv_out(F.silu(self.conv_norm_out(x)))

    def _check(self, x: Tensor, t: Tensor, condition: Tensor | None) -> None:
        c = self.config
        shaped(x, "the U-Net's input", "float", "B", c.in_channels, "H", "W", multiple=c.multiple)
        shaped(t, "the U-Net's t", "", len(x))
        if c.cross_attention_dim is not None:
            shaped(condition, "the context", "float", len(x), "L", c.cross_attention_dim)
        elif condition is not None and c.num_classes is None:
            raise ValueError("labels were given to a U-Net without classes; build it with num_classes")
        elif condition is not None:
            shaped(condition, "the labels", "int", len(x))

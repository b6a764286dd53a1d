"""The one denoiser, for pictures and for latents alike (chapters 0 and 1).

Same parts in the same order as diffusers' `UNet2DModel`, in a page: down through the levels, a middle with
attention, up again with the skip connections. It knows nothing of the space it works in.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import UNetConfig
from .layers import Attention, Downsample, MidBlock, ResnetBlock, TimestepEmbedding, Upsample, timestep_embedding

EPS = 1e-5


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
        self.attentions = nn.ModuleList(
            [
                Attention(out, config.attention_head_dim, groups, EPS)
                for _ in range(layers if config.attention[level] else 0)
            ]
        )
        last = level == len(config.block_out_channels) - 1
        self.downsamplers = nn.ModuleList([] if last else [Downsample(out)])

    def forward(self, x: Tensor, time: Tensor) -> tuple[Tensor, list[Tensor]]:
        skips = []
        for i, resnet in enumerate(self.resnets):
            x = resnet(x, time)
            if self.attentions:
                x = self.attentions[i](x)
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
        self.attentions = nn.ModuleList(
            [
                Attention(out, config.attention_head_dim, groups, EPS)
                for _ in range(layers if config.attention[level] else 0)
            ]
        )
        self.upsamplers = nn.ModuleList([] if level == 0 else [Upsample(out)])

    def forward(self, x: Tensor, skips: list[Tensor], time: Tensor) -> Tensor:
        for i, resnet in enumerate(self.resnets):
            x = resnet(torch.cat([x, skips.pop()], dim=1), time)
            if self.attentions:
                x = self.attentions[i](x)
        for upsample in self.upsamplers:
            x = upsample(x)
        return x


class UNet(nn.Module):
    """The denoiser ε_θ(x_t, t): from `(B, C, H, W)` and `(B,)` to `(B, C, H, W)`.

    What the output means (ε, x₀ or v) is for the objective and the sampler to say. H and W must be multiples of
    `2 ** (levels - 1)`, or ValueError. A network built for classes takes `label`, int64 `(B,)`, where
    `config.num_classes` stands for "no label"; left out, no picture has one.
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
        levels = range(len(widths))
        self.down_blocks = nn.ModuleList([DownBlock(config, i, time_width) for i in levels])
        self.mid_block = MidBlock(widths[-1], time_width, config.attention_head_dim, config.norm_num_groups, EPS)
        self.up_blocks = nn.ModuleList([UpBlock(config, i, time_width) for i in reversed(levels)])
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0], EPS)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        self._check(x, label)
        emb = self.time_embedding(timestep_embedding(t, self.config.block_out_channels[0]).to(x.dtype))
        if self.class_embedding is not None:
            if label is None:
                label = torch.full_like(t, self.config.num_classes, dtype=torch.int64)
            emb = emb + self.class_embedding(label)
        time = F.silu(emb)

        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            x, made = block(x, time)
            skips += made
        x = self.mid_block(x, time)
        for block in self.up_blocks:
            x = block(x, skips, time)
        return self.conv_out(F.silu(self.conv_norm_out(x)))

    def _check(self, x: Tensor, label: Tensor | None) -> None:
        factor = 2 ** (len(self.config.block_out_channels) - 1)
        if x.ndim != 4 or x.shape[1] != self.config.in_channels or x.shape[2] % factor or x.shape[3] % factor:
            raise ValueError(
                f"the U-Net was given {tuple(x.shape)}; expected (B, {self.config.in_channels}, H, W) "
                f"with H and W multiples of {factor}"
            )
        if label is not None and self.class_embedding is None:
            raise ValueError("labels were given to a U-Net without classes; build it with num_classes")

"""A denoiser of clips: the one U-Net, and attention over time between its parts (chapter 9).

Space and time are kept apart, as in video diffusion models (Ho et al. 2022, section 3): the U-Net's own layers see each
frame by itself, and after each of them the frames read each other, position by position. What is added begins as
nothing, so that a network of images, with all it has learnt, is where a network of clips may begin (Blattmann et al.
2023, "Align your latents", section 3.1).

Papers: video diffusion models, Ho et al. 2022 (2204.03458); align your latents, Blattmann et al. 2023 (2304.08818).
"""

from __future__ import annotations

import copy
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from ..checks import Count, checked
from ..config import UNetConfig
from .layers import attend, timestep_embedding
from .unet import EPS, UNet


@checked
class VideoUNetConfig:
    """The image network `unet`, and the number of `frames` in a clip. ValueError: fewer than two, or a level whose
    width is not a multiple of the heads' (`UNetConfig.attention_head_dim`), since attention over time is at all."""

    unet: UNetConfig
    frames: Annotated[Count, Field(ge=2)] = 8

    def __post_init__(self):
        for width in self.unet.block_out_channels:
            if width % self.unet.attention_head_dim or width % 2:
                raise ValueError(
                    f"a level of {width} channels; attention over time needs an even multiple of "
                    f"attention_head_dim={self.unet.attention_head_dim}"
                )

    @property
    def in_channels(self) -> int:
        return self.unet.in_channels

    @property
    def num_classes(self) -> int | None:
        return self.unet.num_classes


class TemporalAttention(nn.Module):
    """x + out(attention over the frames at each position of norm(x) + where in the clip a frame is).

    Feature maps `(B·F, C, H, W)`, clip by clip, the frames of a clip in order. The norm is over all frames of a clip: a
    frame that is lighter than the others is seen to be. `out` begins at zero. Its pairs grow with F², its projections
    with F, both with H·W.
    """

    def __init__(self, channels: int, heads: int, groups: int, frames: int):
        super().__init__()
        self.heads, self.frames = heads, frames
        self.group_norm = nn.GroupNorm(groups, channels, EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.Linear(channels, channels)
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)
        self.register_buffer(
            "positions", timestep_embedding(torch.arange(frames, device="cpu"), channels), persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        clip = x.unflatten(0, (-1, self.frames))  # (B, F, C, H, W)
        h = self.group_norm(clip.transpose(1, 2))  # (B, C, F, H, W)
        h = h.flatten(3).permute(0, 3, 2, 1).flatten(0, 1).contiguous()  # (B·HW, F, C)
        h = h + self.positions.to(h)  # its device too: a network that has only shapes keeps these as numbers
        q, k, v = (f(h).unflatten(2, (self.heads, -1)).transpose(1, 2) for f in (self.to_q, self.to_k, self.to_v))
        h = attend(q, k, v).transpose(1, 2).flatten(2)  # (B·HW, F, C)
        h = self.to_out(h).unflatten(0, (len(clip), -1)).permute(0, 2, 3, 1)  # (B, F, C, HW)
        return x + h.reshape(x.shape)


class SpaceThenTime(nn.Module):
    """In the place where an image network attends, or may: its own attention, if it has one there, and then that over
    time. Feature maps as of `TemporalAttention`; the context, if there is one, is for space."""

    def __init__(self, space: nn.Module | None, time: TemporalAttention):
        super().__init__()
        self.space, self.time = space, time

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.time(x if self.space is None else self.space(x, context))


class VideoUNet(nn.Module):
    """The denoiser of clips: from `(B, F, C, H, W)` and `(B,)`, one noise level for all frames of a clip, to
    `(B, F, C, H, W)`.

    `image` is a U-Net of this configuration whose weights it begins with; without, it begins as that of the same seed
    would. Either way its first outputs are the image network's, frame by frame. `condition`, as of the `UNet`, is one
    for each clip. ValueError also for another number of frames, and an `image` of another configuration.
    """

    def __init__(self, config: VideoUNetConfig, image: UNet | None = None):
        super().__init__()
        if image is not None and image.config != config.unet:
            raise ValueError("the image network is of another configuration than the video network's `unet`")
        self.config = config
        self.unet = UNet(config.unet) if image is None else copy.deepcopy(image).requires_grad_(True)
        levels = range(len(config.unet.block_out_channels))
        for level, block in (*zip(levels, self.unet.down_blocks), *zip(reversed(levels), self.unet.up_blocks)):
            space = list(block.attentions) or [None] * len(block.resnets)
            block.attentions = nn.ModuleList([self._then_time(part, level) for part in space])
        middle = self.unet.mid_block
        middle.attentions = nn.ModuleList([self._then_time(part, -1) for part in middle.attentions])

    def _then_time(self, space: nn.Module | None, level: int) -> SpaceThenTime:
        c = self.config.unet
        width = c.block_out_channels[level]
        time = TemporalAttention(width, width // c.attention_head_dim, c.norm_num_groups, self.config.frames)
        return SpaceThenTime(space, time)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        frames = self.config.frames
        if x.ndim != 5 or x.shape[1] != frames:
            raise ValueError(f"the video U-Net was given {tuple(x.shape)}; expected (B, {frames}, C, H, W)")
        t, condition = (v if v is None else v.repeat_interleave(frames, 0) for v in (t, condition))
        return self.unet(x.flatten(0, 1), t, condition).unflatten(0, (len(x), frames))

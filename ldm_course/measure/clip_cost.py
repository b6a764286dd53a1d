"""What a clip costs on paper: FLOPs of the network of clips, and what compressing time as well would save (chapter 9).

As in `complexity`, values, positions, attention pairs and FLOPs are four things.
"""

from __future__ import annotations

from ..checks import Count, checked
from ..networks.video import VideoUNetConfig
from .complexity import Flops, attention_pairs, positions, unet_flops, values


def video_unet_flops(config: VideoUNetConfig, size: int, clips: int = 1, backward: bool = False) -> Flops:
    """FLOPs of one call of `VideoUNet(config)` on so many clips of frames of `size` x `size`; with its `backward` pass
    if asked. Equal to `count_flops`, by kind and to the last one. ValueError: as `unet_flops`."""
    c, space = config.unet, unet_flops(config.unet, size, clips * config.frames, backward)
    widths, time = c.block_out_channels, Flops()
    for level, width in enumerate(widths):
        layers = 2 * c.layers_per_block + 1 + (level == len(widths) - 1)  # down, up, and the middle once
        time += layers * temporal_flops(width, positions(size // 2**level, size // 2**level), config.frames)
    return space + clips * (3 if backward else 1) * time


def temporal_flops(channels: int, places: int, frames: int) -> Flops:
    """Of one `TemporalAttention` on one clip: four projections of each position, and two products of F² pairs at each
    of the places."""
    return Flops(linear=4 * 2 * channels**2 * places * frames, attention=2 * 2 * frames**2 * channels * places)


@checked
class ClipCounts:
    """A clip as a denoiser holds it: `frames` of c x h x w. ValueError: one that is below 1."""

    frames: Count
    channels: Count
    height: Count
    width: Count

    @property
    def values(self) -> int:
        return self.frames * values(self.height, self.width, self.channels)

    @property
    def positions(self) -> int:
        return self.frames * positions(self.height, self.width)

    @property
    def pairs_apart(self) -> int:
        """Attention pairs where space and time are kept apart, as here: within each frame, and over the frames at each
        position."""
        here = positions(self.height, self.width)
        return self.frames * attention_pairs(self.height, self.width) + here * self.frames**2

    @property
    def pairs_together(self) -> int:
        """Attention pairs where each position of each frame reads all others, as in transformers of video."""
        return self.positions**2

    def in_time(self, f: int, first_alone: bool = True) -> ClipCounts:
        """The same with time compressed `f` times. `first_alone`: the first frame is encoded by itself, so that a
        picture is a clip, and the others by `f`: 17 frames become 5 (VidTok's and CogVideoX's causal encoders). Frames
        that do not fill a group count as one that is filled up. ValueError: f below 1."""
        if f < 1:
            raise ValueError(f"f={f}; expected 1 or more")
        alone = int(first_alone)
        return ClipCounts(alone + -(-(self.frames - alone) // f), self.channels, self.height, self.width)


def savings(before: ClipCounts, after: ClipCounts) -> dict[str, float]:
    """How many times fewer there are of each count."""
    names = ("values", "positions", "pairs_apart", "pairs_together")
    return {name: getattr(before, name) / getattr(after, name) for name in names}

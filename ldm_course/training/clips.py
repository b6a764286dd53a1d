"""From clips to a denoiser of clips: its space, its training, and its file (chapter 9).

The trainer, the objective, the sampler and the `Denoiser` are those of pictures: where they say picture, read clip. One
noise level holds for all frames of a clip, and each frame has a noise of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .. import checkpoints
from ..config import TrainConfig, UNetConfig
from ..data.clips import Clips
from ..data.latents import Latents
from ..denoiser import Denoiser
from ..diffusion.objectives import DenoisingObjective
from ..diffusion.schedules import Schedule, make_schedule
from ..networks.unet import UNet
from ..networks.video import VideoUNet, VideoUNetConfig
from ..spaces import LatentSpace, PixelSpace
from .recipes import seeded
from .trainer import Trainer


@dataclass(frozen=True)
class ClipSpace:
    """Clips of `frames` pictures, each by itself in the space `frame`: samples (B, F, c, h, w), clips uint8
    (B, F, 3, H, W)."""

    frame: PixelSpace | LatentSpace
    frames: int

    @property
    def size(self) -> int:
        return self.frame.size

    @property
    def name(self) -> str:
        return self.frame.name

    @property
    def clip_x0(self) -> bool:
        """Whether x̂₀ is clipped to [-1, 1]; it has nothing to do with clips."""
        return self.frame.clip_x0

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.frames, *self.frame.shape)

    def to_pictures(self, x: Tensor) -> Tensor:
        """Samples (B, F, c, h, w) to clips; the first stage decodes frame by frame."""
        return self.frame.to_pictures(x.flatten(0, 1)).unflatten(0, (len(x), self.frames))

    def from_pictures(self, clips: Tensor) -> Tensor:
        """The samples that uint8 clips (B, F, 3, H, W) are. ValueError: clips of another kind, length or size."""
        if clips.ndim != 5 or clips.shape[1] != self.frames:
            raise ValueError(f"clips of shape {tuple(clips.shape)}; expected (B, {self.frames}, 3, H, W)")
        return self.frame.from_pictures(clips.flatten(0, 1)).unflatten(0, (len(clips), self.frames))


def clip_trainer(
    data: Clips | Latents,
    network: UNetConfig,
    config: TrainConfig,
    schedule: Schedule,
    prediction: str,
    *,
    image: UNet | None = None,
    **trainer,
) -> Trainer:
    """A trainer for a denoiser of clips, or of their latents (`data.clips.encode_clips`); the network gets the data's
    channels and frames. What its configuration and progress call pictures are clips.

    With `image`, a trained U-Net of the same configuration, it begins with that one's weights; all of them are trained
    on. Else the initial weights come from `config.seed`, and are those of an image network beside what is added.
    ValueError: the network cannot halve the data's side often enough, data that are no clips, or are to be mirrored.
    """
    samples = data.clips if isinstance(data, Clips) else data.mean
    if samples.ndim != 5:
        raise ValueError(f"data of shape {tuple(samples.shape)}; expected clips (N, F, C, H, W)")
    if config.flip:
        raise ValueError("clips are not mirrored; leave flip out")
    factor = network.multiple
    if data.size % factor:
        raise ValueError(f"frames of {data.size} a side; this U-Net needs multiples of {factor}")
    network = VideoUNetConfig(network.for_channels(samples.shape[2]), samples.shape[1])
    model = seeded(config.seed, VideoUNet, network, image)
    return Trainer(model, DenoisingObjective(data, schedule, prediction), config, **trainer)


def save_clip_denoiser(path: str | Path, d: Denoiser, *, autoencoder: str | None = None, **meta) -> Path:
    """Writes a denoiser of clips, as `checkpoints.save_denoiser` does one of pictures; a latent one with the name of
    its `autoencoder`'s file, which lies in the same folder. ValueError: a latent one without."""
    if isinstance(d.space.frame, LatentSpace) != (autoencoder is not None):
        raise ValueError(
            "a denoiser in latents is stored with the name of its autoencoder's file, one in pixels without"
        )
    if autoencoder is not None:
        meta["autoencoder_fingerprint"] = checkpoints.fingerprint(d.space.frame.autoencoder)
    return checkpoints.save_denoiser(path, d, autoencoder=autoencoder, **meta)


def load_clip_denoiser(path: str | Path, device: str | torch.device = "cpu") -> Denoiser:
    """What `save_clip_denoiser` wrote, ready to draw: `generate(n)` gives uint8 (n, F, 3, H, W). `path` may also be the
    name of one that comes with the course. ValueError: the file is none, or its autoencoder is missing or another."""
    path = Path(path) if Path(path).suffix else checkpoints.pretrained_path(str(path))
    model, meta = checkpoints.load_model(path, device)
    if not isinstance(model, VideoUNet):
        raise ValueError(f"{path}: this is no denoiser of clips; try checkpoints.load_denoiser")
    frame: PixelSpace | LatentSpace = PixelSpace(meta["size"], model.config.in_channels)
    if meta["autoencoder"] is not None:
        autoencoder, _ = checkpoints.load_model(path.with_name(meta["autoencoder"]), device)
        if checkpoints.fingerprint(autoencoder) != meta["autoencoder_fingerprint"]:
            raise ValueError(f"{path} was trained with another autoencoder than {meta['autoencoder']} beside it")
        frame = LatentSpace(meta["size"], autoencoder)
    space = ClipSpace(frame, model.config.frames)
    return Denoiser(model, space, make_schedule(**meta["schedule"]), meta["prediction"], meta)

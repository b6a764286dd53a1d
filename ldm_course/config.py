"""What can be chosen, in one place: the networks, the training, and the profiles.

A profile is a set of sizes for one kind of machine. The code path is the same in each; only numbers change.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch


def from_stored(cls: type, stored: Mapping[str, Any]):
    """A configuration of class `cls` from what JSON kept of it: lists become tuples again.

    TypeError: an entry that `cls` does not have.
    """
    return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in stored.items()})


@dataclass(frozen=True)
class UNetConfig:
    """The denoiser, in the terms of diffusers' `UNet2DModel` (chapter 1).

    `attention[i]` says whether level i, counted from the full resolution down, has self-attention;
    `num_classes` adds an embedding of the class, with one row more than classes: the last means "no label".
    `norm_num_groups` leaves some channels to a group at every level: with one channel to a group, the norm takes
    each channel's mean and spread over the picture away, and colours come out as the average of all colours.
    """

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (32, 64, 96)
    layers_per_block: int = 1
    attention: tuple[bool, ...] = (False, False, True)
    attention_head_dim: int = 32
    norm_num_groups: int = 8
    num_classes: int | None = None

    def __post_init__(self):
        if len(self.attention) != len(self.block_out_channels):
            raise ValueError(
                f"attention has {len(self.attention)} entries for {len(self.block_out_channels)} levels; "
                "give one for each"
            )
        attends = (*self.attention[:-1], True)  # below the last level, the middle always does
        for width, attention in zip(self.block_out_channels, attends):
            if width % self.norm_num_groups or (attention and width % self.attention_head_dim):
                raise ValueError(
                    f"a level of {width} channels is not a multiple of norm_num_groups={self.norm_num_groups}, "
                    f"or it has attention and is none of attention_head_dim={self.attention_head_dim}"
                )

    def for_channels(self, channels: int) -> UNetConfig:
        """The same network for pictures, or latents, of another number of channels."""
        return replace(self, in_channels=channels, out_channels=channels)

    def attending_up_to(self, most: float, grid: int) -> UNetConfig:
        """The same network as one would build it for inputs of `grid` x `grid`: as many more levels, of the last
        one's width, as keep its attention on grids of at most `most` a side (chapter 3). With `most` infinite, itself.
        """
        widths, attending = self.block_out_channels, sum(self.attention)
        while grid / 2 ** (len(widths) - 1) > most:
            widths += widths[-1:]
        levels = len(widths)
        attention = tuple(i >= levels - attending and grid // 2**i <= most for i in range(levels))
        return replace(self, block_out_channels=widths, attention=attention)


@dataclass(frozen=True)
class AutoencoderConfig:
    """The KL autoencoder, in the terms of diffusers' `AutoencoderKL` (chapters 1 and 4)."""

    in_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (32, 64, 64)
    layers_per_block: int = 1
    norm_num_groups: int = 8
    mid_attention: bool = True

    def __post_init__(self):
        for width in self.block_out_channels:
            if width % self.norm_num_groups:
                raise ValueError(
                    f"a level of {width} channels is not a multiple of norm_num_groups={self.norm_num_groups}"
                )

    @property
    def downsample(self) -> int:
        """f: how many pixels of one side become one latent position."""
        return 2 ** (len(self.block_out_channels) - 1)

    def for_downsample(self, f: int) -> AutoencoderConfig:
        """The same autoencoder with as many levels as f needs: first widths are kept, the last one is repeated.

        ValueError: f is no power of two.
        """
        if f < 1 or f & (f - 1):
            raise ValueError(f"f={f}; expected a power of two")
        widths, levels = self.block_out_channels, f.bit_length()
        return replace(self, block_out_channels=(widths + widths[-1:] * levels)[:levels])


@dataclass(frozen=True)
class TrainConfig:
    """One training run. The first of `steps`, `images` and `seconds` to be reached ends it.

    `precision` "auto" is what `native_precision` says; `compile` runs the network through torch.compile, which costs a
    minute at the start and pays on a GPU.
    """

    batch_size: int = 64
    steps: int | None = None
    images: int | None = None
    seconds: float | None = None
    lr: float = 2e-4
    weight_decay: float = 0.0
    warmup_steps: int = 100
    decay: str = "none"
    ema_decay: float = 0.999
    grad_clip: float = 1.0
    accumulate: int = 1
    precision: str = "auto"
    compile: bool = False
    label_dropout: float = 0.1
    flip: bool = False
    seed: int = 0

    def __post_init__(self):
        if self.steps is None and self.images is None and self.seconds is None:
            raise ValueError("a training run needs an end: give steps, images or seconds")
        if self.decay not in ("none", "cosine", "linear"):
            raise ValueError(f"decay={self.decay!r}; expected 'none', 'cosine' or 'linear'")
        if self.decay != "none" and self.steps is None and self.images is None:
            raise ValueError(f"decay={self.decay!r} needs to know the end: give steps or images")
        if self.precision not in ("auto", "no", "fp16", "bf16"):
            raise ValueError(f"precision={self.precision!r}; expected 'auto', 'no', 'fp16' or 'bf16'")
        for name in ("batch_size", "steps", "images", "seconds", "lr", "accumulate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value}; expected more than 0")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size={self.batch_size} is not a multiple of accumulate={self.accumulate}")


@dataclass(frozen=True)
class Profile:
    """The sizes for one kind of machine.

    `unet` serves both spaces, with the space's own channels, and `batch_size` both denoisers; the autoencoder has its
    own, or the same (None). `budget` is what the comparison grants each space for
    training, in seconds, the autoencoder included. `eval_count` pictures are made for each distance, `ddpm_count`
    for the sampler of 1000 steps, the slowest; `match_steps` DDIM steps at the matched budgets. `limit` is the most
    pictures that are used, None for all.
    """

    name: str
    size: int = 32
    limit: int | None = None
    unet: UNetConfig = field(default_factory=UNetConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    batch_size: int = 64
    autoencoder_batch_size: int | None = None
    lr: float = 5e-4
    ema_decay: float = 0.999
    budget: float = 90.0
    autoencoder_share: float = 0.4
    eval_count: int = 64
    reference_count: int = 1024
    ddpm_steps: int = 1000
    ddpm_count: int = 16
    ddim_steps: int = 100
    latent_steps: int = 50
    match_steps: int = 25
    timing_batches: tuple[int, ...] = (1, 64)


_SMALL_UNET = UNetConfig(block_out_channels=(32, 32), attention=(False, True), norm_num_groups=4)
_SMALL_AUTOENCODER = AutoencoderConfig(block_out_channels=(16, 32, 32), norm_num_groups=4)
_LARGE_UNET = UNetConfig(
    block_out_channels=(128, 256, 256), layers_per_block=2, attention=(False, True, True), norm_num_groups=32
)
_LARGE_AUTOENCODER = AutoencoderConfig(block_out_channels=(64, 128, 256), layers_per_block=2, norm_num_groups=16)

PROFILES = {
    "smoke": Profile(
        "smoke",
        limit=256,
        unet=_SMALL_UNET,
        autoencoder=_SMALL_AUTOENCODER,
        batch_size=16,
        budget=1.5,
        eval_count=16,
        reference_count=64,
        ddpm_steps=20,
        ddpm_count=4,
        ddim_steps=4,
        latent_steps=2,
        match_steps=2,
        timing_batches=(1, 8),
    ),
    # small batches: so short a run needs the steps, and the autoencoder most; more pictures than it can see need not
    # be encoded
    "cpu": Profile("cpu", limit=8192, batch_size=32, autoencoder_batch_size=16, lr=1e-3),
    # the same networks and machine, but training that goes on for hours, beside other work: larger batches, slower
    # averages, and enough pictures for a verdict
    "hours": Profile(
        "hours",
        autoencoder=AutoencoderConfig(mid_attention=False),
        batch_size=64,
        autoencoder_batch_size=16,
        lr=5e-4,
        ema_decay=0.9995,
        eval_count=1000,
        reference_count=10_000,
        ddpm_count=512,
        match_steps=25,
    ),
    "gpu": Profile(
        "gpu",
        unet=UNetConfig(block_out_channels=(64, 128, 192), layers_per_block=2),
        autoencoder=AutoencoderConfig(block_out_channels=(64, 128, 128), layers_per_block=1),
        batch_size=128,
        budget=180.0,
        eval_count=512,
        reference_count=4096,
        ddpm_count=128,
        match_steps=50,
    ),
    "reference": Profile(
        "reference",
        unet=_LARGE_UNET,
        autoencoder=_LARGE_AUTOENCODER,
        batch_size=256,
        lr=4e-4,
        ema_decay=0.9995,
        budget=200.0,
        eval_count=2048,
        reference_count=10_000,
        ddpm_count=512,
        match_steps=50,
    ),
}


def profile(name: str | None = None) -> Profile:
    """The profile of that name; else of `$LDM_PROFILE`; else `gpu` where there is a CUDA device and `cpu` where not.

    ValueError: there is no such profile.
    """
    name = name or os.environ.get("LDM_PROFILE") or ("gpu" if torch.cuda.is_available() else "cpu")
    if name not in PROFILES:
        raise ValueError(f"profile {name!r}; expected one of {', '.join(PROFILES)}")
    return PROFILES[name]


def native_precision(device: torch.device) -> str:
    """What precision "auto" is: "bf16" where the hardware computes in it, "fp16" on older GPUs, else "no" (float32)."""
    if device.type == "cuda":  # GPUs before Ampere emulate bf16, slowly
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return "bf16" if device.type == "cpu" and any(ask is not None and ask() for ask in asked) else "no"

"""The profiles: how large and how long everything is on one kind of machine, in one table.

The code path is the same in each; only numbers change.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import torch

from ..config import AutoencoderConfig, CLIPConfig, DiTConfig, TextConfig, UNetConfig

STEPS = (5, 10, 20, 50, 100, 250, 1000)  # of the sampling tables


@dataclass(frozen=True)
class Scale:
    """How far the reference stages go on one kind of machine.

    `long`: trainings go on for hours, or on a large GPU: they end after their images and not by the clock, are judged
    at marks that do not depend on the end, leave a record at each, and know classes where the data has some. So many
    images see, where that is so: `images` CIFAR-10's pixel denoiser, `drawing_images` those of drawings and scenes at
    64 a side (at other sides in proportion to 64 / side), `few_images` those of a few pictures, `seed_images` each of
    `seeds` trainings that tell how much a seed matters; latent ones `latent_times` as many, None for as many as take
    the same FLOPs. `crops` what the first stage for all sizes sees, and `other_crops` those of other f and channels,
    and `structures` each of those that learn nothing but fine structures; `texture_images` each of the trainings that
    tell what texture does (None: as many as the stage's time allows), `text_images` the denoiser that reads texts,
    `clip_images` each CLIP, `condition_images` each of the denoisers that tell what a condition does, `cascade_images`
    the cascade's largest stage, twice as many the next smaller one, and so on, `flow_images` each of the flows and
    transformers, which draw by `flow_evaluations` of the network, `latent_crops` each of the autoencoders whose latents
    are compared, `latent_images` each of the denoisers of these, `few_step_images` each consistency model in pixels,
    with `latent_times` as many in latents, and `detector_scenes` the network that reads scenes. Networks of clips, and
    the image networks that they are held against, learn from `video_clips` and see `video_images` frames of them, at 32
    a side half as many.

    `compile` and `cuda_graph` are TrainConfig's. `limit`: the most pictures of a data set that are used, None for all.
    `sides` of the cost stage, where no call may be expected to take more than `call_seconds`, and on a CPU, no batch
    more than `memory` bytes. Stable Diffusion's networks are built `published_width` wide, 320 at their true size, and
    for pictures of `published_side`.
    """

    images: int = 48_000
    drawing_images: int = 48_000
    few_images: int = 48_000
    latent_times: int | None = None
    compile: bool = False
    cuda_graph: bool = False
    crops: int = 400_000
    other_crops: int = 200_000
    structures: int = 200_000
    detector_scenes: int = 400_000
    clip_images: int = 60_000
    condition_images: int = 40_000
    cascade_images: int = 6_000
    flow_images: int = 16_000
    flow_evaluations: tuple[int, ...] = (5, 10, 20, 50)
    latent_crops: int = 50_000
    latent_images: int = 75_000
    few_step_images: int = 16_000
    video_clips: int = 1000
    video_images: int = 24_000
    long: bool = False
    seeds: int = 5
    seed_images: int = 200_000
    texture_images: int | None = 128_000
    text_images: int | None = None
    limit: int | None = None
    sides: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)
    call_seconds: float = 20.0
    memory: float = 8 * 2**30
    published_width: int = 320
    published_side: int = 512


_TEXT = TextConfig(layers=2)
_CLIP = CLIPConfig(TextConfig(width=96, layers=2, causal=True))
_TEXT_UNET = UNetConfig(block_out_channels=(48, 96, 144), attention=(False, True, True), attention_head_dim=24)
_CONDITION_UNET = UNetConfig(
    block_out_channels=(32, 64, 96),
    attention=(False, True, True),
    attention_head_dim=16,
    cross_attention_dim=_TEXT.width,
    pooled=True,
)
_LATENTS_UNET = UNetConfig(block_out_channels=(32, 48, 64))


@dataclass(frozen=True)
class Profile:
    """The sizes for one kind of machine.

    `unet` serves both spaces, with the space's own channels, and `batch_size` both denoisers; the autoencoder has its
    own, or the same (None). `text_unet` reads texts through `text`, in latents of pictures of 64 a side, and
    `condition_unet` is told in several ways what to draw. `dit` serves both spaces too, its patches as the stage says:
    in latents, with patches of 2, it costs what `unet` does. `latents_unet` is trained on many latents. `clip` sees
    `clip_batch_size` pairs at once, and is to tell each from all others. `budget` is what the comparison grants each
    space for training, in seconds, the autoencoder included. `eval_count` pictures are made for each distance,
    `ddpm_count` for the sampler of 1000 steps, the slowest; `match_steps` DDIM steps at the matched budgets. `limit` is
    the most pictures that are used, None for all. `scale` is how far the reference stages go.
    """

    name: str
    size: int = 32
    limit: int | None = None
    unet: UNetConfig = field(default_factory=UNetConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    text_unet: UNetConfig = _TEXT_UNET
    condition_unet: UNetConfig = _CONDITION_UNET
    dit: DiTConfig = field(default_factory=DiTConfig)
    latents_unet: UNetConfig = _LATENTS_UNET
    text: TextConfig = _TEXT
    clip: CLIPConfig = _CLIP
    clip_batch_size: int = 256
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
    scale: Scale = field(default_factory=Scale)


_SMALL_UNET = UNetConfig(block_out_channels=(32, 32), attention=(False, True), norm_num_groups=4)
_SMALL_AUTOENCODER = AutoencoderConfig(block_out_channels=(16, 32, 32), norm_num_groups=4)
PROFILES = {
    "smoke": Profile(
        "smoke",
        limit=256,
        unet=_SMALL_UNET,
        autoencoder=_SMALL_AUTOENCODER,
        text_unet=_SMALL_UNET,
        condition_unet=_SMALL_UNET,
        dit=DiTConfig(width=32, layers=2, heads=2),
        latents_unet=_SMALL_UNET,
        text=TextConfig(width=32, layers=1),
        clip=CLIPConfig(TextConfig(width=32, layers=1, causal=True), block_out_channels=(16, 32), width=16),
        clip_batch_size=16,
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
        scale=Scale(
            images=64,
            drawing_images=64,
            few_images=64,
            crops=64,
            other_crops=64,
            structures=256,
            detector_scenes=64,
            seeds=2,
            seed_images=48,
            texture_images=48,
            text_images=48,
            clip_images=64,
            condition_images=48,
            cascade_images=16,
            flow_images=48,
            flow_evaluations=(3,),
            latent_crops=32,
            latent_images=48,
            few_step_images=64,
            video_clips=16,
            video_images=48,
            limit=256,
            sides=(32, 64),
            call_seconds=1.0,
            memory=2**28,
            published_width=40,
            published_side=64,
        ),
    ),
    # small batches: so short a run needs the steps, and the autoencoder most; more pictures than it can see need not
    # be encoded
    "cpu": Profile(
        "cpu",
        limit=8192,
        batch_size=32,
        clip_batch_size=128,
        autoencoder_batch_size=16,
        lr=1e-3,
        scale=Scale(
            images=48_000, structures=12_000, detector_scenes=100_000, seeds=3, seed_images=4000, texture_images=None
        ),
    ),
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
        scale=Scale(
            images=1_500_000,
            drawing_images=300_000,
            few_images=200_000,
            seed_images=100_000,
            texture_images=60_000,
            text_images=3_000_000,
            clip_images=400_000,
            condition_images=160_000,
            cascade_images=72_000,
            flow_images=80_000,
            latent_crops=12_000,
            latent_images=72_000,
            few_step_images=63_000,
            video_clips=600,
            video_images=100_000,
            long=True,
            seeds=3,
        ),
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
        scale=Scale(
            images=1_000_000,
            clip_images=300_000,
            condition_images=320_000,
            cascade_images=150_000,
            flow_images=320_000,
            few_step_images=320_000,
            video_images=160_000,
        ),
    ),
    # the course's networks, which two cores can sample from, trained on one large GPU until they have learnt
    "reference": Profile(
        "reference",
        autoencoder=AutoencoderConfig(mid_attention=False),
        batch_size=256,
        autoencoder_batch_size=64,
        lr=1e-3,
        ema_decay=0.9995,
        budget=200.0,
        eval_count=1000,
        reference_count=50_000,
        ddpm_count=512,
        match_steps=50,
        scale=Scale(
            images=5_000_000,
            drawing_images=600_000,
            few_images=400_000,
            latent_times=1,
            compile=True,
            cuda_graph=True,
            other_crops=300_000,
            structures=300_000,
            long=True,
            seeds=3,
            seed_images=120_000,
            texture_images=100_000,
            text_images=6_000_000,
            clip_images=1_200_000,
            condition_images=600_000,
            cascade_images=600_000,
            flow_images=1_000_000,
            latent_crops=300_000,
            latent_images=600_000,
            few_step_images=1_000_000,
            video_clips=4000,
            video_images=1_300_000,
            call_seconds=1.5,
        ),
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


@dataclass(frozen=True)
class Sizes:
    """How much chapter 4 measures in a profile: drawings and scenes; scenes that probes learn from and read; their
    steps. The stages measure more: four times the drawings, and of all that the probes take."""

    drawings: int
    scenes: int
    seen: int
    new: int
    steps: int

    @classmethod
    def of(cls, p: Profile) -> Sizes:
        count = min(p.reference_count, 4096)
        return cls(max(16, p.eval_count), max(32, 2 * p.eval_count), count, max(64, count // 2), min(count, 2048) // 8)

"""Stages: denoisers in both spaces, judged along the way (chapters 2 and 5)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ... import checkpoints
from ...config import UNetConfig
from ...data.latents import encode_pictures
from ...data.loaders import load_data
from ...data.pictures import Pictures
from ...diffusion.objectives import DenoisingObjective, mean_loss
from ...diffusion.schedules import make_schedule
from ...files import place_of, written_whole
from ...measure import distances
from ...measure.complexity import count_parameters, unet_flops
from ...measure.copying import copying
from ...spaces import LatentSpace, PixelSpace
from ...training.recipes import denoiser_of, denoiser_trainer
from ...training.trainer import Trainer, thinned
from ..profiles import Scale
from .autoencoders import USED
from .base import (
    FEW,
    PREDICTION,
    SCHEDULE,
    Run,
    Stage,
    about,
    judged_at,
    labels_as_in,
    limit_of,
    matrix_rates,
    minutes,
    reference_for,
    save_grid,
    steady_rate,
)

POINTS = 12  # at which a denoiser is judged on its way, each √2 times as far as the one before
# images, of trainings that go on for hours; √2 times as many at each further mark
FIRST_MARK, FIRST_MARK_OF_FEW = 50_000, 5_000


def denoiser(
    run: Run,
    data: str,
    size: int,
    *,
    autoencoder: str | None = None,
    width: int = 1,
    images: Callable[[Scale], int] | None = None,
    few: bool = False,
) -> dict:
    """A denoiser in pixels, or in the latents of the stage `autoencoder`, judged at POINTS points on its way; above 32
    a side, where pictures are dear, at a third of them, and by half as many pictures.

    All widths are multiplied by `width`. It ends after `images(scale)` pictures, or with the stage's time. With `few`
    it trains on FEW pictures, and each point also says how it does on those and on others (`_overfitting`).
    """
    p = run.profile
    train, test = (load_data(data, size, split, limit=limit_of(run, split, few)) for split in ("train", "test"))
    space, source, first_stage = space_and_data(run, train, autoencoder)
    network = network_for(run, train, space, width)
    flops = unet_flops(network, space.shape[1], backward=True).total
    wanted = None if images is None else images(run.scale)
    if wanted is not None and autoencoder is not None:  # by default the same FLOPs as in pixels
        times = run.scale.latent_times or unet_flops(p.unet, size, backward=True).total / flops
        wanted = round(wanted * times)
    compiled = run.scale.compile and autoencoder is None and not few  # the others are too short for it to pay
    config = run.train_config(images=wanted, compile=compiled)
    trainer = denoiser_trainer(
        source, network, config, make_schedule(SCHEDULE), PREDICTION, out=run.folder, save_every=run.save_every
    )
    training = Training(run, trainer, space, reference_for(run, train))
    extra = _overfitting(training, train, test) if few else None
    if first_stage is not None:
        put_beside(run, run.weights(autoencoder))
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    first = FIRST_MARK_OF_FEW if few else FIRST_MARK
    marks = marks_of(run, wanted, config.batch_size, POINTS // 3 if space.size > 32 else POINTS, first)

    def results(points: list[dict]) -> dict:
        return _denoiser_results(training, train, test, first_stage, points)

    return results(training.judged_at(marks, extra, lambda points: run.keep(results(points))))


def network_for(run: Run, train: Pictures, space: PixelSpace | LatentSpace, width: int = 1) -> UNetConfig:
    """The profile's U-Net for this space, all its widths multiplied by `width`; where trainings go on for hours, with
    the data's classes."""
    network = run.profile.unet
    network = replace(network, block_out_channels=tuple(width * w for w in network.block_out_channels))
    classes = len(train.classes) if run.scale.long and train.classes else None
    return replace(network.for_channels(space.shape[0]), num_classes=classes)


@dataclass(frozen=True)
class Training:
    """A denoiser on its way: the run that it belongs to, its trainer and space, and what its pictures are judged by."""

    run: Run
    trainer: Trainer
    space: PixelSpace | LatentSpace
    reference: distances.Reference

    @property
    def network(self) -> UNetConfig:
        return self.trainer.ema.module.config

    @property
    def flops_image(self) -> int:
        """FLOPs of its training on one picture."""
        return unet_flops(self.network, self.space.shape[1], backward=True).total

    def drawn(self, count: int, seed: int = 0) -> Tensor:
        """New pictures, of classes as often as in the data, where the network knows classes."""
        d, run = denoiser_of(self.trainer, self.space), self.run
        label = labels_as_in(self.trainer.objective.data.labels, d, count, seed)
        return d.generate(count, steps=run.profile.match_steps, label=label, seed=seed, batch_size=run.at_once)

    def judged_at(
        self,
        marks: list[dict],
        extra: Callable[[Tensor], dict] | None = None,
        keep: Callable[[list[dict]], object] = lambda points: None,
    ) -> list[dict]:
        """Trains from mark to mark, and judges new pictures at each: a list of points, to which `extra(pictures)` adds.

        See `base.judged_at` for what is kept.
        """

        def judge() -> dict:
            half = self.space.size > 32 and not self.run.scale.long
            made = self.drawn(self.run.profile.eval_count // (2 if half else 1))
            quality, progress = distances.evaluate(made, self.reference), self.trainer.progress
            print(f"  {progress.images} images: FD-E {quality['fd_e']:.0f} ({quality['fd_e_floor']:.0f})", flush=True)
            return {
                "flops": self.flops_image * progress.images,
                "loss": progress.history[-1]["loss"],
                "quality": quality,
                **(extra(made) if extra else {}),
            }

        return judged_at(self.run, self.trainer, marks, judge, keep)


def put_beside(run: Run, weights: Path) -> None:
    """Copies an autoencoder's weights to where the run's own go, which name them."""
    if weights != place_of("weights", weights.stem, run.out):
        with written_whole(run.weights().with_name(weights.name)) as beside:
            shutil.copyfile(weights, beside)


def _denoiser_results(
    training: Training, train: Pictures, test: Pictures, first_stage: dict | None, points: list[dict]
) -> dict:
    """Weights and picture of a denoiser as it is now, and its entry in the records."""
    run, trainer, space = training.run, training.trainer, training.space
    flops, network = training.flops_image, training.network
    peak = torch.cuda.max_memory_allocated() if run.device.type == "cuda" else None
    config, progress, d = trainer.config, trainer.progress, denoiser_of(trainer, space)
    stored = {"record": run.name, "data": train.name, "classes": train.classes}
    if first_stage is not None:
        stored["autoencoder"] = f"{first_stage['record']}.safetensors"
    checkpoints.save_denoiser(run.weights(), d, eight_bit=True, **stored)
    save_grid(run, training.drawn(32, seed=1))
    rate = steady_rate(progress.history)
    precision = "float32" if trainer.precision == "no" else "bf16"
    # where trainings go on for hours, they share the machine
    limit = None if run.scale.long else matrix_rates(run.device)[precision]
    return {
        "finished": run.has_ended(progress, config.images),
        "data": about(train, test),
        "space": space.name,
        "shape": list(space.shape),
        "network": network,
        "parameters": count_parameters(d.model),
        "flops_step": unet_flops(network, space.shape[1]).total,
        "training_flops_image": flops,
        "first_stage": first_stage,
        "sampler": f"ddim, {run.profile.match_steps} steps",
        "training": {
            "steps": progress.step,
            "images": progress.images,
            "wanted_images": config.images,
            "epochs": progress.images / len(train),
            "seconds": progress.seconds,
            "flops": flops * progress.images,
            "batch_size": config.batch_size,
            "precision": trainer.precision,
            "compiled": config.compile,
            "images_per_s": rate,
            "flop_per_s": rate and rate * flops,
            "share_of_matmul": limit and rate and rate * flops / limit,
            "peak_bytes": peak,
        },
        "points": points,
        "history": thinned(progress.history),
    }


def space_and_data(run: Run, train: Pictures, autoencoder: str | None):
    """The space, the data in it, and what its first stage cost."""
    if autoencoder is None:
        return PixelSpace(train.size), train, None
    model, _ = checkpoints.load_model(run.weights(autoencoder), run.device)
    latents = encode_pictures(model, train, cache=run.folder, batch_size=run.at_once)
    record = run.record_of(autoencoder)
    paid = record["results"]["variants"][USED]
    each = record["results"]["training_flops_image"]
    first_stage = {
        "record": record["name"],
        "training_seconds": paid["training_seconds"],
        "training_flops": each * paid["training_images"],
        "encode_seconds": latents.seconds,
    }
    return LatentSpace(train.size, model), latents, first_stage


def marks_of(run: Run, images: int | None, batch_size: int, points: int, first: int) -> list[dict]:
    """Where to judge, as arguments of `Trainer.run`: by pictures seen where their number is known, else by seconds."""
    if run.scale.long and images is not None:  # the same marks, however far the run is to go
        counts = [first * 2 ** (k / 2) for k in range(40)]
        return [{"until": round(n / batch_size)} for n in (*(n for n in counts if n < 0.9 * images), images)]
    parts = [2 ** (-k / 2) for k in reversed(range(points))]
    if images is None:
        return [{"until_seconds": part * run.seconds} for part in parts]
    return [{"until": max(1, round(part * images / batch_size))} for part in parts]


def _overfitting(training: Training, train: Pictures, test: Pictures) -> Callable[[Tensor], dict]:
    """What tells learning from copying: the loss on seen and on held-out pictures, and the nearest of either.

    The losses are of the same times and noises for both. `copied` is the share of generated pictures that are nearer,
    in feature space, to a training picture than to any of as many held-out ones, with its error (`copying`), beside the
    medians of both distances.
    """
    trainer, space = training.trainer, training.space
    count = min(4 * training.run.profile.eval_count, len(train), len(test))
    sets = {"train": train, "test": test}
    if isinstance(space, LatentSpace):
        sets = {k: encode_pictures(space.autoencoder, v) for k, v in sets.items()}
    schedule, device = trainer.objective.schedule, trainer.accelerator.device
    losses = {k: DenoisingObjective(v, schedule, PREDICTION).to(device) for k, v in sets.items()}
    size = min(len(train), len(test))
    known = [distances.as_features(part.images[:size]).to(device) for part in (train, test)]

    def judge(made: Tensor) -> dict:
        model, found = trainer.snapshot(), {}
        for name, loss in losses.items():
            found[f"loss_{name}"] = mean_loss(model, loss, count)
        near = copying(made, *known, device=device)
        return found | {
            "copied": near["share"],
            "copied_error": near["error"],
            "nearest_train": near["nearest_train"],
            "nearest_test": near["nearest_held_out"],
        }

    return judge


_QUALITY = {
    "FD-E": "points[last].quality.fd_e",
    "its floor": "points[last].quality.fd_e_floor",
    "images": "training.images",
}


def pixel_stage(data: str, size: int, time: dict[str, float], *, images=None) -> Stage:
    """The stage of a denoiser in pixels: for `time`, in minutes by profile, or until it has seen `images(scale)`."""
    trains = partial(denoiser, data=data, size=size, images=images)
    return Stage(f"denoiser-{data}-{size}-pixel", f"{data} at {size}, in pixels", trains, time, shows=_QUALITY)


def latent_stage(data: str, size: int, first: str, time: dict[str, float], *, width: int = 1, images=None) -> Stage:
    """The stage of a denoiser in the latents of the stage `first`, `width` times as wide."""
    return Stage(
        f"denoiser-{data}-{size}-latent" + ("-wide" if width > 1 else ""),
        f"{data} at {size}, in the latents of {first}" + (f", {width} times as wide" if width > 1 else ""),
        partial(denoiser, data=data, size=size, images=images, autoencoder=first, width=width),
        time,
        needs=(first,),
        shows=_QUALITY,
    )


def pair(data: str, size: int) -> tuple[Stage, Stage]:
    """A stage in pixels and one in the latents of the first stage for all sizes."""
    time, images = minutes(5, hours=75 * size / 32), partial(_images_of_drawings, size=size)
    return pixel_stage(data, size, time, images=images), latent_stage(data, size, "first-stage-f4", time, images=images)


def _images_of_drawings(scale: Scale, size: int) -> int:
    return scale.drawing_images * 64 // size


def _images_of_few(scale: Scale) -> int | None:
    return scale.few_images if scale.long else None


def _on_few(space: str) -> Stage:
    first = "autoencoder-cifar10-few-32-f4" if space == "latent" else None
    return Stage(
        f"few-cifar10-32-{space}",
        f"a denoiser in {space} space, trained on {FEW} pictures",
        partial(denoiser, data="cifar10", size=32, autoencoder=first, few=True, images=_images_of_few),
        minutes(3, 8, hours=60),
        needs=(first,) if first else (),
        shows={"loss on new pictures": "points[last].loss_test", "on its own": "points[last].loss_train"},
    )


def _images(scale: Scale) -> int:
    return scale.images


_PHOTOGRAPHS = ("cifar10", 32, "autoencoder-cifar10-32-f4")
PHOTOGRAPHS = (
    pixel_stage("cifar10", 32, minutes(8, 14, hours=360), images=_images),
    latent_stage(*_PHOTOGRAPHS, minutes(8, 14, hours=560), images=_images),
    latent_stage(*_PHOTOGRAPHS, {"smoke": 0.01, "cpu": 14}, width=4, images=_images),
)
FEW_PHOTOGRAPHS = tuple(_on_few(space) for space in ("pixel", "latent"))
DRAWINGS = tuple(stage for size in (32, 64, 128) for data in ("emoji", "scenes") for stage in pair(data, size))

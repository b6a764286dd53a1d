"""One training run from start to finish: the trainer, sample grids on the way, the checkpoint, and its record."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from . import checkpoints, plotting
from .autoencoder import Autoencoder
from .complexity import count_parameters
from .config import Profile, TrainConfig
from .data import Pictures, to_uint8
from .features import default_device
from .recipes import autoencoder_trainer, denoiser_of, denoiser_trainer, finished_autoencoder
from .records import checked_name, code_state, home, make_record, save_record
from .schedules import make_schedule
from .spaces import LatentSpace, PixelSpace, encode_pictures, generate
from .training import Trainer, thinned

GRID = 32  # pictures in a sample grid
EVALUATED = 256  # pictures that a finished run is judged by, or fewer where the profile is small
REFERENCE = 4096  # training pictures, at most, that they are held against


def train_run(
    what: str,
    pictures: Pictures,
    test: Pictures,
    profile: Profile,
    config: TrainConfig,
    *,
    name: str,
    out: Path,
    autoencoder: Path | None = None,
    schedule: str = "cosine",
    prediction: str = "v",
    conditional: bool = True,
    losses: dict | None = None,
    sample_every: int = 1000,
    save_every: int = 500,
    log_every: int = 25,
    tensorboard: bool = False,
    publish: bool = False,
) -> Path | None:
    """Trains `what`, "autoencoder", "pixel" or "latent", and returns the checkpoint, `out`/`name`.safetensors; of
    several processes, the first does, and the others return None.

    Beside it lie the record, the run's state (found again by a second call) and `samples/`, a grid each
    `sample_every` steps. `publish` puts the weights in half precision into the course's `checkpoints/`, and the
    record into `records/`, and beside a latent denoiser its autoencoder. ValueError, before the training: what does
    not fit together, or another autoencoder of that name among the published ones.
    """
    checked_name(name)  # now, not after hours of training
    if publish and autoencoder is not None:
        _check_published(autoencoder)
    code = code_state()
    options = {"out": out, "save_every": save_every, "log_every": log_every, "tensorboard": tensorboard}
    if what == "autoencoder":
        run = AutoencoderRun(autoencoder_trainer(pictures, profile.autoencoder, config, losses=losses, **options), test)
    else:
        space, data, seconds = _space(what, pictures, autoencoder, out)
        network = replace(profile.unet, num_classes=len(pictures.classes) if conditional and pictures.classes else None)
        trainer = denoiser_trainer(data, network, config, make_schedule(schedule), prediction, **options)
        run = DenoiserRun(trainer, space, pictures, autoencoder, encode_seconds=seconds)

    def grid(trainer: Trainer) -> None:
        if trainer.accelerator.is_main_process:
            step = trainer.progress.step
            plotting.save_png(out / "samples" / f"{step:07d}.png", plotting.grid_image(run.pictures(), 8, scale=2))

    progress = run.trainer.run(every=(sample_every, grid), show=True, label=name)
    if not run.trainer.accelerator.is_main_process:
        return None
    grid(run.trainer)
    path = run.save(out / f"{name}.safetensors", record=name, data=pictures.name)
    record = make_record(
        name,
        "train",
        {
            "steps": progress.step,
            "images": progress.images,
            "seconds": progress.seconds,
            "processes": run.trainer.accelerator.num_processes,
            "precision": run.trainer.precision,
            "history": thinned(progress.history),
            "parameters": count_parameters(run.trainer.ema.module),
            **run.results(min(EVALUATED, 4 * profile.eval_count)),
        },
        command=sys.argv,
        seconds=progress.seconds,
        data_source=pictures.source,
        profile=profile.name,
        seed=config.seed,
        config={"train": asdict(config), "network": asdict(run.trainer.ema.module.config)},
        device=run.trainer.accelerator.device,
        code=code,
    )
    save_record(record, out)
    if publish:
        save_record(record, home() / "records")
        about = {"record": name, "data": Path(pictures.name).name}
        run.save(home() / "checkpoints" / f"{name}.safetensors", half=True, **about)
        plotting.save_png(home() / "records" / f"{name}.png", plotting.grid_image(run.pictures(), 8, scale=2))
    return path


def _space(what: str, pictures: Pictures, autoencoder: Path | None, out: Path):
    """The space, the data in it, and the seconds that getting there cost."""
    if what == "pixel":
        return PixelSpace(pictures.size), pictures, 0.0
    model, _ = checkpoints.load_model(autoencoder, default_device())
    if not isinstance(model, Autoencoder):
        raise ValueError(f"{autoencoder}: expected an autoencoder's checkpoint")
    latents = encode_pictures(model, pictures, cache=out, show=True)
    return LatentSpace(pictures.size, model), latents, latents.seconds


def _check_published(autoencoder: Path) -> None:
    """ValueError if `checkpoints/` has another autoencoder under this file's name."""
    there = home() / "checkpoints" / autoencoder.name
    if there.exists():
        ours, theirs = (checkpoints.load_model(path)[0].state_dict() for path in (autoencoder, there))
        if ours.keys() != theirs.keys() or any(not torch.equal(ours[k].half(), theirs[k].half()) for k in ours):
            raise ValueError(f"{autoencoder} is not the published {there.name}; publish it first, or take that one")


class AutoencoderRun:
    """What differs for an autoencoder: its pictures are reconstructions of held-out ones, above each its original."""

    def __init__(self, trainer: Trainer, test: Pictures):
        self.trainer, self.test = trainer, test
        self.weights = {
            k: getattr(trainer.objective, k) for k in ("perceptual_weight", "kl_weight", "adversarial_weight")
        }

    def rebuilt(self, model: Autoencoder, count: int) -> tuple[Tensor, Tensor]:
        """`count` held-out pictures and their reconstructions, uint8."""
        device = next(model.parameters()).device
        originals = self.test.images[:count].cpu()
        with torch.inference_mode():
            parts = [
                to_uint8(model.decode(model.encode(self.test.batch(i, device)).z_mean)).cpu()
                for i in torch.arange(len(originals)).split(64)
            ]
        return originals, torch.cat(parts)

    def pictures(self) -> Tensor:
        originals, rebuilt = self.rebuilt(self.trainer.snapshot(), GRID // 2)
        rows = [t for pair in zip(originals.split(8), rebuilt.split(8)) for t in pair]
        return torch.cat(rows)

    def results(self, count: int) -> dict:
        from . import evaluation

        originals, rebuilt = self.rebuilt(self.trainer.snapshot(), count)
        return {
            **self.weights,
            "psnr": evaluation.psnr(rebuilt, originals),
            "ssim": evaluation.ssim(rebuilt, originals) if self.test.size >= 11 else None,  # the side of its window
            "reconstruction": evaluation.evaluate(rebuilt, originals) if len(originals) >= 4 else None,
        }

    def save(self, path: Path, *, half: bool = False, **meta) -> Path:
        return checkpoints.save_model(path, finished_autoencoder(self.trainer), half=half, **meta)


class DenoiserRun:
    """What differs for a denoiser: its pictures are new ones, classes in turn."""

    def __init__(self, trainer: Trainer, space, pictures: Pictures, autoencoder: Path | None, encode_seconds: float):
        self.trainer, self.space, self.real = trainer, space, pictures
        self.autoencoder, self.encode_seconds = autoencoder, encode_seconds
        self.order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))

    def made(self, count: int, method: str, steps: int) -> Tensor:
        """`count` new pictures; their classes are those of as many training pictures, drawn at random."""
        d = denoiser_of(self.trainer, self.space)
        drawn = self.order[torch.arange(count) % len(self.order)]
        label = None if d.model.config.num_classes is None else self.real.labels[drawn]
        return generate(
            d.model, d.space, count, d.schedule, prediction=d.prediction, method=method, steps=steps, label=label
        )

    def pictures(self) -> Tensor:
        return self.made(GRID, "dpmpp", 25)

    def results(self, count: int) -> dict:
        from . import evaluation

        made = self.made(count, "ddim", 50)
        return {
            "encode_seconds": self.encode_seconds,
            "sampler": "ddim, 50 steps",
            "quality": evaluation.evaluate(made, evaluation.Reference(self.real.images.cpu(), limit=REFERENCE)),
        }

    def save(self, path: Path, *, half: bool = False, **meta) -> Path:
        objective = self.trainer.objective
        if self.autoencoder is not None:
            beside = path.with_name(self.autoencoder.name)
            if beside.resolve() != self.autoencoder.resolve():
                model, old = checkpoints.load_model(self.autoencoder)
                checkpoints.save_model(beside, model, half=half, **old)
        return checkpoints.save_denoiser(
            path,
            self.trainer.snapshot(),
            size=self.space.size,
            schedule=objective.schedule,
            prediction=objective.prediction,
            autoencoder=None if self.autoencoder is None else self.autoencoder.name,
            half=half,
            classes=self.real.classes,
            **meta,
        )

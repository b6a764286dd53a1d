"""Stages: autoencoders, on whole pictures for minutes, or on crops for hours (chapters 2 and 4)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from ... import checkpoints
from ...config import AutoencoderConfig
from ...data.loaders import load_data
from ...data.pictures import Crops, Pictures
from ...measure.complexity import autoencoder_flops, count_parameters
from ...training.recipes import autoencoder_trainer, finished_autoencoder
from ...training.trainer import Trainer, thinned
from ..runs import judged, rebuilt_pictures
from .base import FEW, Run, Stage, about, autoencoder_of, judged_at, limit_of, minutes, save_grid, steady_rate

LOSSES = {  # the autoencoder's, each with one term more
    "l1": {"perceptual_weight": 0.0},
    "perceptual": {},
    "adversarial": {"adversarial_weight": 0.01},
}
LR_FIRST_STAGE = 1e-3  # falling to zero, in small batches: tried on crops of emoji
USED = "perceptual"  # the one of these whose latents the denoisers get


def autoencoder(run: Run, data: str, size: int, f: int, *, few: bool = False) -> dict:
    """One autoencoder for each entry of LOSSES, on the same pictures for the same time; `few`: on FEW of them.

    PSNR, SSIM and FD-E of held-out reconstructions. The weights that are kept are those with the loss USED.
    """
    p = run.profile
    if run.scale.long:
        return autoencoder_of_whole_pictures(run, data, size, f, few)
    train, test = (load_data(data, size, split, limit=limit_of(run, split, few)) for split in ("train", "test"))
    network, variants, rows = autoencoder_of(p, f), {}, [test.images[:8]]
    for name, losses in LOSSES.items():
        if few and name != USED:
            continue
        config = run.train_config(batch_size=p.autoencoder_batch_size or p.batch_size)
        trainer = autoencoder_trainer(train, network, config, losses=losses, out=run.folder / name)
        progress = trainer.run(show=True, label=f"{run.stage}, {name}")
        variants[name] = {
            "training_seconds": progress.seconds,
            "training_images": progress.images,
            "images_per_s": steady_rate(progress.history),
            "precision": trainer.precision,
            "history": thinned(progress.history, 60),
            **trainer.objective.weights,
            **judged(trainer.snapshot(), test, 4 * p.eval_count),
        }
        rows.append(rebuilt_pictures(trainer.snapshot(), test, 8)[1])
        if name == USED:
            model = finished_autoencoder(trainer)
            origin = {"record": run.name, "data": train.name}
            checkpoints.save_model(run.weights(), model, half=True, **origin)
    save_grid(run, torch.cat(rows))
    return {
        "data": about(train, test),
        "f": f,
        "parameters": count_parameters(model),
        "encode_flops": autoencoder_flops(network, size, "encode").total,
        "decode_flops": autoencoder_flops(network, size, "decode").total,
        "training_flops_image": autoencoder_flops(network, size, "both", backward=True).total,
        "network": network,
        "rows_of_the_picture": ["held-out pictures", *variants],
        "variants": variants,
    }


# what the first stage for all sizes is made of: the same things at several sizes, as lines of several widths
FIRST_STAGE_SETS = (("emoji", 32), ("emoji", 64), ("emoji", 128), ("scenes", 32), ("scenes", 64))
FIRST_STAGE_SCENES = 4000
EPOCHS = 20  # of an autoencoder of whole pictures, where trainings go on for hours


def first_stage(run: Run, f: int, channels: int) -> dict:
    """One autoencoder for emoji and scenes at every size: trained on crops, judged on whole held-out pictures.

    It sees `Scale.crops` windows of 32 x 32 (`other_crops` with another f or other channels than the standard ones), at
    a rate that falls to zero; after each twice as many it is judged.
    """
    p, scale = run.profile, run.scale
    limits = {"emoji": scale.limit, "scenes": scale.limit or FIRST_STAGE_SCENES}
    train = Crops(tuple(load_data(data, size, limit=limits[data]) for data, size in FIRST_STAGE_SETS))
    tests = {
        f"{data} at {size}": load_data(data, size, "test", limit=min(256, p.eval_count))
        for data, size in FIRST_STAGE_SETS
    }
    wanted = scale.crops if (f, channels) == STANDARD else scale.other_crops
    return _autoencoder_of_images(run, train, tests, f, channels, wanted)


def autoencoder_of_whole_pictures(run: Run, data: str, size: int, f: int, few: bool) -> dict:
    """The same of whole pictures of one set and size, for EPOCHS, or as many images as `Scale` allows."""
    scale = run.scale
    train, test = (load_data(data, size, split, limit=limit_of(run, split, few)) for split in ("train", "test"))
    # half of them are rebuilt, as many as a row of pictures has, and the other half is what these are judged against
    test = test.subset(range(min(len(test), 2 * run.profile.eval_count)))
    wanted = scale.few_images if few else min(EPOCHS * len(train), 5 * scale.crops // 2)
    channels = run.profile.autoencoder.latent_channels
    return _autoencoder_of_images(run, train, {f"{data} at {size}": test}, f, channels, wanted)


def convolutional(run: Run, f: int, channels: int, codes: int | None = None) -> AutoencoderConfig:
    """The profile's autoencoder with that f and so many channels, without attention: so it works at every size."""
    network = autoencoder_of(run.profile, f)
    return replace(network, latent_channels=channels, mid_attention=False, codes=codes)


def trainer_of_images(
    run: Run, train: Pictures | Crops, network: AutoencoderConfig, wanted: int, losses: dict, out: Path, **config
) -> Trainer:
    """It ends after `wanted` images, towards which the rate falls to zero."""
    batch = run.profile.autoencoder_batch_size or run.profile.batch_size
    options = {"images": wanted, "decay": "cosine", "compile": False} | config
    config = run.train_config(batch_size=batch, lr=LR_FIRST_STAGE, **options)
    return autoencoder_trainer(train, network, config, losses=losses, out=out, save_every=run.save_every)


def _autoencoder_of_images(run: Run, train: Pictures | Crops, tests: dict, f: int, channels: int, wanted: int) -> dict:
    network = convolutional(run, f, channels)
    trainer = trainer_of_images(run, train, network, wanted, LOSSES[USED], run.folder)
    held_out: dict[str, dict] = {}  # what is lost of each set by now

    def judge() -> dict:
        model = trainer.snapshot()
        held_out.update({name: judged(model, test, len(test)) for name, test in tests.items()})
        psnr = {name: found["psnr"] for name, found in held_out.items()}
        shown = ", ".join(f"{name} {value:.1f} dB" for name, value in psnr.items())
        print(f"  {trainer.progress.images} pictures: {shown}", flush=True)
        return {"psnr": psnr}

    def results(points: list[dict]) -> dict:
        progress, model = trainer.progress, finished_autoencoder(trainer)
        if not held_out:  # every mark was judged before a stop
            judge()
        checkpoints.save_model(run.weights(), model, half=True, record=run.name, data=train.name)
        rows = [part for test in tests.values() for part in rebuilt_pictures(model, test, 8)]
        largest = max(len(row[0, 0]) for row in rows)
        save_grid(run, torch.cat([F.interpolate(row, scale_factor=largest // row.shape[-1]) for row in rows]))
        return {
            "finished": run.has_ended(progress, wanted),
            "data": {"name": train.name, "source": train.source, "size": train.size, "train": len(train)},
            "f": f,
            "parameters": count_parameters(model),
            "training_flops_image": autoencoder_flops(network, train.size, "both", backward=True).total,
            "network": network,
            "rows_of_the_picture": [f"{name}, {what}" for name in tests for what in ("held out", "rebuilt")],
            "variants": {
                USED: {
                    "training_seconds": progress.seconds,
                    "training_images": progress.images,
                    "wanted_images": wanted,
                    "images_per_s": steady_rate(progress.history),
                    "precision": trainer.precision,
                    "history": thinned(progress.history, 60),
                    "latent_scale": model.latent_scale.item(),
                    **trainer.objective.weights,
                    **next(iter(held_out.values())),
                    "held_out": held_out,
                }
            },
            "points": points,
        }

    batch = trainer.config.batch_size
    marks = [{"until": -(-wanted // part // batch)} for part in (32, 16, 8, 4, 2, 1)]
    return results(judged_at(run, trainer, marks, judge, lambda points: run.keep(results(points))))


def stage(data: str, size: int, f: int, cpu: float, *, few: bool = False, hours: float | None = None) -> Stage:
    """The stage that trains autoencoders of that data set, with `cpu` minutes for each loss."""
    name = f"autoencoder-{data}{'-few' if few else ''}-{size}-f{f}"
    of = f"{FEW} pictures of {data}" if few else data
    networks = 1 if few else len(LOSSES)
    shows = {f"PSNR, {k}": f"variants.{k}.psnr" for k in ([USED] if few else LOSSES)}
    run = partial(autoencoder, data=data, size=size, f=f, few=few)
    return Stage(name, f"autoencoder, f = {f}, on {of} at {size}", run, minutes(1.5, cpu, hours), networks, (), shows)


def first_stage_name(f: int, channels: int) -> str:
    """`first-stage-f4` is the standard one's; others name their channels too."""
    return f"first-stage-f{f}" + ("" if (f, channels) == STANDARD else f"-c{channels}")


def _first_stage(f: int, channels: int, hours: float) -> Stage:
    return Stage(
        first_stage_name(f, channels),
        f"one autoencoder for emoji and scenes at every size, f = {f}, {channels} channels, on crops",
        partial(first_stage, f=f, channels=channels),
        minutes(3, hours=hours),
        shows={f"PSNR, {data} at {size}": f"points[last].psnr.{data} at {size}" for data, size in FIRST_STAGE_SETS},
    )


STANDARD = (4, 4)  # f and channels of the latents that denoisers get
FIRST_STAGE = _first_stage(*STANDARD, 110)
# with as many channels as the standard one, or as many values a picture
OTHER_FIRST_STAGES = tuple(_first_stage(f, channels, 60) for f, channels in ((2, 4), (2, 1), (8, 4), (8, 16)))
PHOTOGRAPHS = tuple(stage("cifar10", 32, f, cpu=1.2, hours=280 if f == 4 else None) for f in (2, 4, 8))
FEW_PHOTOGRAPHS = stage("cifar10", 32, 4, cpu=2, few=True, hours=60)

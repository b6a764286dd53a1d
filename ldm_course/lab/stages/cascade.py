"""Stage: emoji of 64 pixels by a cascade, from 16 over 32, all of it in pixels (chapter 9)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial

import torch
from torch import Tensor

from ...cascade import Cascade, enlarged
from ...data.loaders import load_data
from ...data.pictures import Pictures, to_float, to_uint8
from ...diffusion.schedules import make_schedule
from ...diffusion.superresolution import halved
from ...files import written_whole
from ...measure import distances
from ...measure.complexity import count_parameters, unet_flops
from ...spaces import PixelSpace
from ...training.recipes import denoiser_of, denoiser_trainer, super_resolution_trainer
from ...training.trainer import Trainer
from .base import (
    PREDICTION,
    SCHEDULE,
    Run,
    Stage,
    found_once,
    labels_as_in,
    minutes,
    reference_for,
    save_grid,
    steady_rate,
)
from .denoisers import network_for

SIDES = (16, 32, 64)
AUGMENTATIONS = (0.0, 0.1, 0.2, 0.4)  # of what the larger stages are told, at USUAL steps
USUAL, AUGMENTED = (50, 25, 25), 0.1
STEPS = ((50, 10, 10), (50, 10, 5), (25, 25, 25), (10, 10, 10), (5, 5, 5))
METHOD = "ddim"
SHOWN = 8


def cascade(run: Run) -> dict:
    """One U-Net for each side, the larger two told the picture at half of it. Each sees twice the images of the next
    larger one, as everywhere in the book, and the largest `Scale.cascade_images`, however long that takes.

    Rows: steps and augmentation, each with what it costs and how near its pictures are; and, as the most that the base
    could give, the larger stages on real small pictures. `one`: a network like the base for the largest side alone, in
    the same batches, which saw as many images as the FLOPs of the whole cascade allow.
    """
    largest = load_data("emoji", SIDES[-1], limit=run.scale.limit)
    data = small_ones(largest, SIDES)
    trained = [_trained(run, each, SIDES[-1] // each.size * run.scale.cascade_images) for each in data]
    denoisers = [denoiser_of(trainer, PixelSpace(trainer.objective.data.size)) for trainer in trained]
    flops = [unet_flops(d.model.config, d.space.size) for d in denoisers]
    drawn = _Drawn(run, Cascade(denoisers[0], tuple(denoisers[1:])), reference_for(run, largest), data)
    plan = [{"steps": USUAL, "augmentation": level} for level in AUGMENTATIONS]
    plan += [{"steps": steps, "augmentation": AUGMENTED} for steps in STEPS]
    rows = drawn.rows([_within(run, row) for row in plan], [cost.total for cost in flops])
    stages = [_about(run, trainer, pictures) for trainer, pictures in zip(trained, data, strict=True)]
    spent = sum(each["training_flops"] for each in stages)
    one, pictures = found_once(run.folder / "one", partial(_alone, drawn, largest, spent))
    save_grid(run, torch.cat([drawn.shown(), pictures]))
    return {
        "finished": True,
        "data": {"name": largest.name, "source": largest.source, "size": largest.size, "train": len(largest)},
        "stages": stages,
        "parameters": sum(each["parameters"] for each in stages),
        "training": {
            "flops": spent,
            "seconds": sum(each["seconds"] for each in stages),
            "images": stages[-1]["images"],
            "epochs": min(each["epochs"] for each in stages),
        },
        "method": METHOD,
        "usual": rows[0]["quality"],
        "rows": rows,
        "one": one,
        "rows_of_the_picture": [
            "16 pixels a side, from noise",
            "32, from these",
            "64, from these",
            "64, from real ones at 16",
            "those real ones, at 64",
            "one network, from noise",
        ],
    }


def small_ones(pictures: Pictures, sides: Sequence[int]) -> list[Pictures]:
    """The same pictures at each of these sides, the last of which is theirs: means of 2 x 2, as the larger stages are
    told them."""
    found = [pictures]
    while found[0].size > sides[0]:
        found.insert(0, replace(pictures, images=to_uint8(halved(to_float(found[0].images)))))
    return found


def _within(run: Run, row: dict) -> dict:
    """The row with no more steps than the profile's samplers make."""
    most = max(1, run.profile.ddim_steps)
    return row | {"steps": tuple(min(n, most) for n in row["steps"])}


def _trained(run: Run, pictures: Pictures, images: int, alone: bool = False) -> Trainer:
    """A stage for pictures of this size; or, `alone`, a network that draws them from noise, as the smallest does."""
    size, name = pictures.size, "one" if alone else str(pictures.size)
    config = run.train_config(images=images, seconds=None, compile=False, cuda_graph=False)
    options = {"out": run.folder / name, "save_every": run.save_every}
    network, levels = network_for(run, pictures, PixelSpace(size)), make_schedule(SCHEDULE)
    make = denoiser_trainer if alone or size == SIDES[0] else super_resolution_trainer
    trainer = make(pictures, network, config, levels, PREDICTION, **options)
    trainer.run(show=True, label=f"{run.stage}, {size} a side" + alone * ", one network")
    return trainer


def _alone(drawn: _Drawn, pictures: Pictures, flops: int) -> tuple[dict, Tensor]:
    """One network for these pictures, of no more FLOPs of training, and SHOWN that it drew."""
    run, batch = drawn.run, drawn.run.profile.batch_size
    network = network_for(run, pictures, PixelSpace(pictures.size))
    images = flops // unet_flops(network, pictures.size, backward=True).total // batch * batch
    trainer = _trained(run, pictures, images, alone=True)
    d, steps = denoiser_of(trainer, PixelSpace(pictures.size)), min(USUAL[0], run.profile.ddim_steps)
    count = run.profile.eval_count
    label = labels_as_in(pictures.labels, d, count, 0)
    made = d.generate(count, steps=steps, method=METHOD, label=label, seed=0, batch_size=run.at_once)
    found = {"steps": steps, "updates": trainer.progress.step, "flops": steps * unet_flops(network, d.space.size).total}
    return _about(run, trainer, pictures) | found | {"quality": distances.evaluate(made, drawn.reference)}, made[:SHOWN]


def _about(run: Run, trainer: Trainer, pictures: Pictures) -> dict:
    model, progress = trainer.snapshot(), trainer.progress
    each = unet_flops(model.config, pictures.size, backward=True).total
    return {
        "size": pictures.size,
        "network": asdict(model.config),
        "parameters": count_parameters(model),
        "images": progress.images,
        "epochs": progress.images / len(pictures),
        "training_flops": each * progress.images,
        "seconds": progress.seconds,
        "batch_size": trainer.config.batch_size,
        "images_per_s": steady_rate(progress.history),
        "loss": progress.history[-1]["loss"],
    }


class _Drawn:
    """Pictures by the cascade, each row judged once; what was judged before a stop is read back."""

    def __init__(self, run: Run, made_by: Cascade, reference: distances.Reference, data: Sequence[Pictures]):
        self.run, self.cascade, self.reference, self.data = run, made_by, reference, data
        self.kept = run.folder / "rows.json"

    def rows(self, plan: Sequence[dict], passes: Sequence[int]) -> list[dict]:
        """The plan's rows, and after them the larger stages alone; `passes` are FLOPs of a pass, by stage."""
        done = json.loads(self.kept.read_text()) if self.kept.is_file() else []
        for options in [*plan, *({**plan[0], "augmentation": level, "real": True} for level in (0.0, AUGMENTED))]:
            if any(row["options"] == json.loads(json.dumps(options)) for row in done):
                continue
            real = options.get("real", False)
            steps = options["steps"]
            made = self.from_real(options) if real else self.made(self.run.profile.eval_count, options)
            quality = distances.evaluate(made, self.reference)
            cost = [0 if real and i == 0 else n * each for i, (n, each) in enumerate(zip(steps, passes, strict=True))]
            found = {"evaluations": sum(steps[1:] if real else steps), "flops": sum(cost), "quality": quality}
            done.append({"options": options} | found)
            with written_whole(self.kept) as path:
                path.write_text(json.dumps(done))
            print(f"  {options}: FD-E {quality['fd_e']:.0f} ({quality['fd_e_floor']:.0f})", flush=True)
        return done

    def made(self, count: int, options: dict, seed: int = 0) -> Tensor:
        base = self.cascade.base
        label = labels_as_in(self.data[0].labels, base, count, seed)
        return self.cascade.generate(
            count, **options, method=METHOD, label=label, seed=seed, batch_size=self.run.at_once
        )

    def from_real(self, options: dict, count: int | None = None) -> Tensor:
        """The larger stages on real pictures of the smallest side, as many as a row has."""
        count = min(count or self.run.profile.eval_count, len(self.data[0]))
        made = self.data[0].images[torch.randperm(len(self.data[0]), generator=_rng())[:count]]
        for d, n in zip(self.cascade.ups, options["steps"][1:], strict=True):
            made = enlarged(d, made, steps=n, augmentation=options["augmentation"], method=METHOD)
        return made

    def shown(self) -> Tensor:
        """Five rows of SHOWN: each stage's pictures, as they go up, and the larger stages on real ones, with these."""
        options = _within(self.run, {"steps": USUAL, "augmentation": AUGMENTED})
        rows, base = [], self.cascade.base
        label = labels_as_in(self.data[0].labels, base, SHOWN, 1)
        rows.append(base.generate(SHOWN, steps=options["steps"][0], method=METHOD, label=label, seed=1))
        for d, n in zip(self.cascade.ups, options["steps"][1:], strict=True):
            rows.append(enlarged(d, rows[-1], steps=n, augmentation=AUGMENTED, method=METHOD, seed=1))
        rows.append(self.from_real(options, SHOWN))
        rows.append(self.data[-1].images[torch.randperm(len(self.data[-1]), generator=_rng())[: len(rows[-1])]])
        side = SIDES[-1]
        return torch.cat(
            [
                row.repeat_interleave(side // row.shape[-1], 2).repeat_interleave(side // row.shape[-1], 3)
                for row in rows
            ]
        )


def _rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


STAGES = (
    Stage(
        "cascade-emoji-64",
        "emoji at 64 by a cascade in pixels, 16 to 32 to 64, by steps and by augmentation",
        cascade,
        minutes(6, 20, hours=120),
        networks=len(SIDES) + 1,
        shows={"FD-E": "usual.fd_e", "images, largest": "training.images"},
    ),
)

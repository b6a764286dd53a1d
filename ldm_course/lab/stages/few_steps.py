"""Stage: pictures in one, two and four steps, by consistency models in both spaces (chapter 9)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from ... import checkpoints
from ...data.latents import encode_pictures
from ...data.loaders import load_data
from ...data.pictures import Pictures
from ...denoiser import Denoiser
from ...files import written_whole
from ...measure import distances
from ...measure.complexity import autoencoder_flops, count_parameters, unet_flops
from ...measure.timing import time_together
from ...spaces import LatentSpace
from ...training.consistency import consistency_trainer, intervals_at
from ...training.recipes import denoiser_of
from ...training.trainer import Diverged, Trainer
from ..claims.verdicts import gain
from .base import Run, Stage, drawn_timed, found_once, labels_as_in, minutes, reference_for, save_grid, steady_rate
from .denoisers import put_beside

TRAINED = {space: f"denoiser-cifar10-32-{space}" for space in ("pixel", "latent")}
WAYS = {"distilled": True, "without a teacher": False}  # how a consistency model is trained, and whether it is taught
TEACHER_STEPS, STEPS = (1, 2, 4, 10, 20, 50), (1, 2, 4)
SAMPLERS = ("ddim", "dpmpp")  # of the teacher
COARSEST, FINEST = 8, 64  # intervals of the noise levels, at first and at last
RATE = 0.5  # of the denoiser's learning rate, falling to 0: at all of it 64 intervals undid what 32 had done
SHOWN = (("ddim", 1), ("ddim", 4), ("ddim", 50))  # of the teacher, in the picture


@dataclass(frozen=True)
class Side:
    """One space: its teacher, what is known of that one's training, what it was trained on as pictures and in its
    space, and what pictures are judged by."""

    run: Run
    teacher: Denoiser
    trained: dict
    pictures: Pictures
    data: object
    reference: distances.Reference

    @property
    def folder(self) -> Path:
        return self.run.folder / self.teacher.space.name

    @property
    def network(self):
        return self.teacher.model.config

    @property
    def decode_flops(self) -> int:
        """FLOPs of decoding a picture; 0 in pixels."""
        space = self.teacher.space
        return autoencoder_flops(space.autoencoder.config, space.size, "decode").total if _is_latent(space) else 0

    def flops(self, backward: bool = False) -> int:
        """FLOPs of one call of the network, with its backward pass if asked."""
        return unet_flops(self.network, self.teacher.space.shape[1], backward=backward).total

    def training_flops(self, taught: bool) -> int:
        """FLOPs of training on one picture: forward and back at one level, forward at the next below, and the
        teacher's word."""
        return self.flops(backward=True) + (2 if taught else 1) * self.flops()

    def labels(self, count: int) -> Tensor | None:
        return labels_as_in(self.pictures.labels, self.teacher, count)

    def row(self, method: str, sampler: str, steps: int, draw: Callable[..., Tensor], **about) -> dict:
        """One row of the table: the quality of the profile's `eval_count` pictures, from the same noise in every row of
        a space, and the seconds that one took, decoder included."""
        count = self.run.profile.eval_count
        made, seconds = drawn_timed(self.run, count, self.labels(count), partial(draw, steps=steps))
        quality = distances.evaluate(made, self.reference)
        space = self.teacher.space.name
        print(f"  {space}, {method}, {sampler}, {steps} steps: KD-E {quality['kd_e']:.3f}", flush=True)
        return {
            "space": space,
            "method": method,
            "sampler": sampler,
            "steps": steps,
            "parameters": count_parameters(self.teacher.model),
            **about,
            "flops_picture": steps * self.flops() + self.decode_flops,
            "seconds_picture": seconds,
            "quality": quality,
        }


def _is_latent(space) -> bool:
    return isinstance(space, LatentSpace)


def few_steps(run: Run) -> dict:
    """In both spaces, from the weights of the course's denoiser: a consistency model that it teaches, and one without a
    teacher, on equally many pictures, the same in the same order, with the same noise. In latents they see as many as
    take the FLOPs of the `few_step_images` in pixels, or `latent_times` as many, as denoisers do.

    Then one, two and four steps of each beside the teacher's samplers, from the same noise. `trainings` say where one
    fails: the loss, the gradient's norm and one step's quality at the end of each division of the levels (`course`).
    A row's `images` and `training_flops` are those of its own training; both ways begin where the teacher's ended, so
    that its own come on top. The distilled network of the latents is this stage's weights.
    """
    sides = {space: _side(run, stage) for space, stage in TRAINED.items()}
    rows, trainings, shown = [], {}, []

    def results(finished: bool) -> dict:
        pictures = sides["pixel"].pictures
        return {
            "finished": finished,
            "data": {"name": pictures.name, "source": pictures.source, "size": pictures.size, "train": len(pictures)},
            "teachers": {space: side.trained for space, side in sides.items()},
            "intervals": [COARSEST, FINEST],
            "batch": min(run.at_once, run.profile.eval_count),
            "trainings": trainings,
            "rows": rows,
            "one_step": {space: _shares(side) for space, side in sides.items()} if finished else None,
            "rows_of_the_picture": [
                f"{space}, {name}" for space in sides for name in _names_of_the_picture() if finished
            ],
        }

    for space, side in sides.items():
        rows += _teacher_rows(side)
        shown += [_eight(side, side.teacher.generate, s, method=m) for m, s in SHOWN]
        for way in WAYS:
            found, pictures = found_once(_folder(side, way), partial(_one, side, way))
            trainings[f"{space}, {way}"] = found["about"]
            rows += found["rows"]
            shown.append(pictures)
            if run.scale.long:
                run.keep(results(False))
    save_grid(run, torch.cat(shown))
    return results(True)


def _names_of_the_picture() -> list[str]:
    return [
        *(f"the teacher, {method}, {steps} steps" for method, steps in SHOWN),
        *(f"{way}, {steps} steps" for way in WAYS for steps in STEPS),
    ]


def _side(run: Run, stage: str) -> Side:
    teacher = checkpoints.load_denoiser(run.weights(stage), run.device)
    space = teacher.space
    pictures = load_data(teacher.meta["data"], space.size, limit=run.scale.limit)
    data = pictures
    if _is_latent(space):
        data = encode_pictures(space.autoencoder, pictures, cache=run.folder, batch_size=run.at_once)
    training = run.record_of(stage)["results"]["training"]
    trained = {"weights": run.weights(stage).stem, "shape": list(space.shape), "network": teacher.model.config}
    trained |= {name: training[name] for name in ("images", "epochs", "flops")}
    return Side(run, teacher, trained, pictures, data, reference_for(run, pictures))


def _teacher_rows(side: Side) -> list[dict]:
    """Its rows, those that were made before a stop read back."""
    kept = side.folder / "teacher.json"
    rows = json.loads(kept.read_text()) if kept.is_file() else []
    done = {(row["sampler"], row["steps"]) for row in rows}
    seen = {"images": side.trained["images"], "training_flops": side.trained["flops"]}
    for steps in TEACHER_STEPS:
        for method in SAMPLERS:
            if (method, steps) not in done:
                rows.append(side.row("teacher", method, steps, _sampled(side.teacher, method), **seen))
                with written_whole(kept) as path:
                    path.write_text(json.dumps(rows))
    return rows


def _sampled(d: Denoiser, method: str) -> Callable[..., Tensor]:
    return lambda count, **options: d.generate(count, method=method, **options)


def _eight(side: Side, draw: Callable[..., Tensor], steps: int, **options) -> Tensor:
    return draw(8, steps=steps, label=side.labels(8), seed=1, **options)


def _folder(side: Side, way: str) -> Path:
    return side.folder / way.replace(" ", "-")


def _one(side: Side, way: str) -> tuple[dict, Tensor]:
    """One training: what is to be said of it with its rows, and pictures to be shown."""
    run = side.run
    images = run.scale.few_step_images
    if _is_latent(side.teacher.space):
        pixels = unet_flops(side.network.for_channels(3), side.teacher.space.size).total
        images = round(images * (run.scale.latent_times or pixels / side.flops()))
    rate = RATE * run.profile.lr
    how = {"images": images, "lr": rate, "decay": "cosine", "seconds": None, "compile": False, "cuda_graph": False}
    config = run.train_config(**how)
    options = {"coarsest": COARSEST, "finest": FINEST, "out": _folder(side, way), "save_every": run.save_every}
    trainer = consistency_trainer(side.data, side.teacher, config, distil=WAYS[way], **options)
    points, diverged = _trained(side, trainer, way)
    d, progress = denoiser_of(trainer, side.teacher.space), trainer.progress
    seen = {"images": progress.images, "training_flops": progress.images * side.training_flops(WAYS[way])}
    rows, shown = [], torch.full((8 * len(STEPS), 3, *[side.teacher.space.size] * 2), 255, dtype=torch.uint8)
    if not diverged:
        rows = [side.row(way, "multistep", steps, d.jump, **seen) for steps in STEPS]
        shown = torch.cat([_eight(side, d.jump, steps) for steps in STEPS])
        if _is_latent(side.teacher.space) and WAYS[way]:
            _keep_weights(side, d)
    about = {
        **seen,
        "steps": progress.step,
        "epochs": progress.images / len(side.pictures),
        "seconds": progress.seconds,
        "batch_size": config.batch_size,
        "lr": config.lr,
        "decay": config.decay,
        "images_per_s": steady_rate(progress.history),
        "points": points,
        "course": diverged or course(points, _teacher_rows(side)[0]["quality"]),
    }
    print(f"  {side.teacher.space.name}, {way}: {about['course']}", flush=True)
    return {"about": about, "rows": rows}, shown


def _trained(side: Side, trainer: Trainer, way: str) -> tuple[list[dict], str]:
    """A point at the end of each division of the levels: intervals, mean loss, mean norm of the gradient before it was
    clipped, and how good one step is; and how the training ended early, empty where it did not."""
    objective, kept = trainer.objective, trainer.out / "points.json"
    points = json.loads(kept.read_text()) if kept.is_file() else []
    for first, last in _divisions(objective.steps):
        if points and points[-1]["step"] >= last:
            continue
        try:
            progress = trainer.run(until=last, show=True, label=f"{side.run.stage}, {side.teacher.space.name}, {way}")
        except Diverged as error:
            return points, f"diverged at {intervals_at(first, objective.steps, COARSEST, FINEST)} intervals: {error}"
        history = [entry for entry in progress.history if first < entry["step"] <= last]
        one = side.row(way, "multistep", 1, denoiser_of(trainer, side.teacher.space).jump)
        point = {"intervals": intervals_at(first, objective.steps, COARSEST, FINEST), "step": last}
        point |= {"images": progress.images, "seconds": progress.seconds, "quality": one["quality"]}
        points.append(point | {name: fmean(entry[name] for entry in history) for name in ("loss", "grad_norm")})
        with written_whole(kept) as path:
            path.write_text(json.dumps(points))
    return points, ""


def _divisions(steps: int) -> list[tuple[int, int]]:
    """The steps (after which, up to which) the levels are divided in one way."""
    starts = [k for k in range(steps) if k == 0 or _intervals(k, steps) != _intervals(k - 1, steps)]
    return list(zip(starts, [*starts[1:], steps]))


def _intervals(step: int, steps: int) -> int:
    return intervals_at(step, steps, COARSEST, FINEST)


def course(points: Sequence[dict], start: dict) -> str:
    """How one step's KD-E went, as far as it is resolved (`verdicts.gain`): its end, beside the teacher's own one step,
    which is `start`, and after which divisions it was worse than before."""
    better = (gain(start, points[-1]["quality"]) or 0) > 0
    end = f"{'better' if better else 'no better'} than the teacher in one step"
    rises = [str(b["intervals"]) for a, b in pairwise(points) if (gain(a["quality"], b["quality"]) or 0) < 0]
    if not rises:
        return f"{end}, and never resolvably worse than before"
    return f"{end}; with {' and '.join(rises)} intervals worse than just before"


def _keep_weights(side: Side, d: Denoiser) -> None:
    run, meta = side.run, side.teacher.meta
    first = run.weights(TRAINED["latent"]).with_name(meta["autoencoder"])
    put_beside(run, first)
    about = {"record": run.name, "data": meta["data"], "classes": meta.get("classes")}
    checkpoints.save_denoiser(run.weights(), d, autoencoder=first.name, eight_bit=True, **about)


@torch.no_grad()
def _shares(side: Side) -> dict:
    """What a picture in one step costs, and the decoder's share of it: FLOPs, and seconds in a batch and alone."""
    run, teacher = side.run, side.teacher
    found = {"flops": {"network": side.flops(), "decoder": side.decode_flops}}
    for name, batch in {"seconds": min(run.at_once, run.profile.eval_count), "seconds_alone": 1}.items():
        noise = torch.randn(batch, *teacher.space.shape, device=run.device)
        label = side.labels(batch)
        predict_x0 = teacher.predictor(teacher.condition(batch, label=label))
        calls = {"network": lambda p=predict_x0, x=noise: p(x, teacher.schedule.T - 1)}
        if _is_latent(teacher.space):
            calls["decoder"] = lambda x=noise: teacher.space.to_pictures(x)
        taken = time_together(calls, repeats=7, warmup=1, seconds=run.scale.call_seconds)
        found[name] = {"network": 0.0, "decoder": 0.0} | {part: t.median / batch for part, t in taken.items()}
    return {k: v | {"decoder_share": v["decoder"] / (v["network"] + v["decoder"])} for k, v in found.items()}


STAGES = (
    Stage(
        "few-steps-cifar10-32",
        "pictures in 1, 2 and 4 steps by consistency models, distilled and without a teacher, in both spaces",
        few_steps,
        minutes(8, 8, hours=110),
        networks=len(TRAINED) * len(WAYS),
        needs=tuple(TRAINED.values()),
        shows={
            f"KD-E in one step, {space}": f"rows[space={space},method=distilled,steps=1].quality.kd_e"
            for space in TRAINED
        },
    ),
)

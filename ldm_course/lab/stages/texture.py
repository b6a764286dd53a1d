"""Stage: the same training on the same scenes, with and without fine texture (chapter 4)."""

from __future__ import annotations

import json
from functools import partial

import torch
from torch import Tensor

from ...data.loaders import SCENES_TRAIN
from ...data.pictures import Pictures, to_float
from ...diffusion.schedules import make_schedule
from ...files import written_whole
from ...measure.content import HELD_OUT, VISIBLE, grey, rms
from ...measure.texture import BLOCK, LEVELS, against_plain, block_means, content_errors, finely_textured
from ...spaces import PixelSpace
from ...training.recipes import denoiser_of, denoiser_trainer
from .base import PREDICTION, SCHEDULE, Run, Stage, minutes, save_grid

STRENGTHS = (0, 1, 4)  # none; what counts as invisible; four times as much
MARKS = 9  # at which a training is judged, each after √2 times as many images as the one before
WARM_UP = 25  # steps of these short trainings


def texture(run: Run, size: int) -> dict:
    """A pixel denoiser of scenes for each strength of texture and each seed, judged by what it gets of the content.

    With one seed all strengths have the same weights to begin with, and see the same scenes in the same order, under
    the same noises. Each training lasts `Scale.texture_images`; where that is None, the first one lasts its part of
    the stage's seconds, and the others as many steps.
    """
    train, held_out = {}, {}
    count, new = run.scale.limit or SCENES_TRAIN, min(1000, run.profile.eval_count)
    for strength in STRENGTHS:
        images = finely_textured(range(count), size, strength)
        train[strength] = Pictures(images, name=f"scenes, texture {strength}", source="procedural scenes")
        numbers = range(HELD_OUT, HELD_OUT + new)
        held_out[strength] = to_float(finely_textured(numbers, size, strength)).to(run.device)
    runs, content = [], block_means(held_out[0])
    for seed in range(run.scale.seeds):
        for strength in STRENGTHS:
            row = _one(run, train[strength], (strength, seed), held_out[strength], content, _marks(run, runs))
            runs.append({"strength": strength, "seed": seed, "points": row})
            print(f"  texture {strength}, seed {seed}: off by {row[-1]['content']:.2f} grey levels", flush=True)
    save_grid(run, torch.cat([finely_textured(range(HELD_OUT, HELD_OUT + 8), size, s) for s in STRENGTHS]))
    return {
        "data": {"name": "scenes", "source": "procedural scenes", "size": size, "train": count, "test": new},
        "block": BLOCK,
        "levels": list(LEVELS),
        "visible": VISIBLE,
        "network": run.profile.unet,
        "batch_size": run.profile.batch_size,
        "textures": {f"{s:g}": _strength(held_out[s], held_out[0]) for s in STRENGTHS[1:]},
        "runs": runs,
        "against_plain": against_plain(runs),
        "rows_of_the_picture": [f"held-out scenes, texture {s}" for s in STRENGTHS],
    }


def _strength(textured: Tensor, plain: Tensor) -> dict[str, float]:
    """How strong a texture is in pixels, and how much of it is left in block means: RMS in grey levels."""
    change = textured - plain
    return {"pixels": grey(rms(change)), "block_means": grey(rms(block_means(change)))}


def _marks(run: Run, runs: list[dict]) -> list[dict]:
    """Where to judge a training, after those in `runs`: as arguments of `Trainer.run`."""
    if runs:
        return [{"until": point["step"]} for point in runs[0]["points"]]
    parts, images = [2 ** (-k / 2) for k in reversed(range(MARKS))], run.scale.texture_images
    if images is None:
        each = run.seconds / (len(STRENGTHS) * run.scale.seeds)
        return [{"until_seconds": part * each} for part in parts]
    steps = [max(1, round(part * images / run.profile.batch_size)) for part in parts]
    return [{"until": step} for step in dict.fromkeys(steps)]


def _one(
    run: Run, data: Pictures, key: tuple[float, int], x0: Tensor, content: Tensor, marks: list[dict]
) -> list[dict]:
    """One training, or what was kept of it: at each mark step, images, seconds, and the content error, in all (RMSE
    over LEVELS) and at each level."""
    strength, seed = key
    kept = run.folder / f"texture-{strength}-seed-{seed}.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    config = run.train_config(seed=seed, warmup_steps=WARM_UP, compile=False, **_end(marks))
    schedule = make_schedule(SCHEDULE)
    trainer = denoiser_trainer(data, run.profile.unet, config, schedule, PREDICTION)
    points: list[dict] = []
    for mark in marks:
        progress = trainer.run(**mark, show=True, label=f"{run.stage}, texture {strength}, seed {seed}")
        if points and points[-1]["step"] == progress.step:
            continue
        by_level = content_errors(denoiser_of(trainer, PixelSpace(data.size)), x0, content)
        point = {"step": progress.step, "images": progress.images, "seconds": progress.seconds}
        off = torch.tensor(by_level).square().mean().sqrt().item()
        points.append(point | {"content": off, "by_level": by_level})
    with written_whole(kept) as path:
        path.write_text(json.dumps(points))
    return points


def _end(marks: list[dict]) -> dict:
    """The end of a training for its configuration: after the last mark's steps, where these are known."""
    return {"steps": marks[-1]["until"], "seconds": None} if "until" in marks[-1] else {}


STAGES = (
    Stage(
        "texture-scenes-32",
        "the same training on scenes with and without fine texture, judged by the content it gets",
        partial(texture, size=32),
        minutes(2, 18, hours=90),
        shows={
            "slow-down by texture 1": "against_plain.1.slow_down",
            "by texture 4": "against_plain.4.slow_down",
        },
    ),
)

"""Stages: what a stored denoiser spends on invisible detail, and what a stored autoencoder keeps (chapter 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ... import checkpoints
from ...data.pictures import to_float, to_uint8
from ...diffusion.schedules import make_schedule
from ...measure.bits import errors_of
from ...measure.content import (
    GRID,
    HELD_OUT,
    SIZE,
    VISIBLE,
    answer_to_grain,
    averaged,
    changed_scenes,
    first_stage,
    grey,
    held_out_drawings,
    lost_in_scenes,
    passed,
    rms,
)
from ...measure.probes import alone, probe_inputs, read_factors
from ...page import plotting
from ..profiles import Sizes
from .base import Run, Stage, minutes

SEEDS = 3  # probes for each input, in a record


def stage_of_drawings(run: Run) -> dict:
    """What the stored pixel denoiser of drawings spends, and what their autoencoder loses."""
    pictures = held_out_drawings(4 * Sizes.of(run.profile).drawings)
    x0 = to_float(pictures.images)
    errors = errors_of(checkpoints.pretrained("emoji-32-pixel", run.device), x0)
    after = first_stage("emoji", run.device).reconstruct(x0)
    shown = (970, 850, 650, 350, 90)
    rows = [x0[:8], *(errors.guesses[t][:8] for t in shown), after[:8]]
    _save_rows(run, rows)
    return {
        "data": about("emoji", pictures.source, len(x0)),
        "networks": ["emoji-32-pixel", "emoji-32-autoencoder"],
        **errors.results(),
        "lost": grey(rms(after - x0)),
        "rows_of_the_picture": ["held-out drawings", *(f"guess at t = {t}" for t in shown), "decoded"],
    }


def stage_of_scenes(run: Run) -> dict:
    """What gets through the stored autoencoder of scenes, and what SEEDS probes of each input read."""
    sizes, model = Sizes.of(run.profile), first_stage("scenes", run.device)

    through = model.reconstruct
    plain, changed = changed_scenes(sizes.scenes)
    seen, truth = alone(0, 4 * sizes.seen)
    new, new_truth = alone(HELD_OUT, 4 * sizes.new)
    readings = read_factors(
        probe_inputs(model, seen, new), truth, new_truth, make_schedule("cosine"), steps=4 * sizes.steps, seeds=SEEDS
    )
    strong = changed["texture 4"]
    _save_rows(run, [strong[:8], through(strong[:8]), plain[:8], through(plain[:8])])
    return {
        "data": about("scenes", "procedural scenes", len(new)),
        "networks": ["scenes-32-autoencoder"],
        "visible": VISIBLE,
        "grid": GRID,
        "lost": lost_in_scenes(through, 4 * run.profile.eval_count),
        **passed(through, plain, changed).results(),
        "average": passed(averaged, plain, changed).results()["changes"],
        "grain": answer_to_grain(through, plain, changed["texture 1"]),
        "probes": readings.results(),
        "rows_of_the_picture": ["scenes, texture 4", "decoded", "without texture", "decoded"],
    }


def about(name: str, source: str, test: int) -> dict:
    return {"name": name, "source": source, "size": SIZE, "test": test}


def _save_rows(run: Run, rows: Sequence[Tensor]) -> None:
    images = to_uint8(torch.cat([row.cpu() for row in rows]))
    plotting.save_png(run.picture, plotting.grid_image(images, 8, scale=2))


STAGES = (
    Stage(
        "perception-emoji-32",
        "what the stored pixel denoiser of drawings spends on invisible detail",
        stage_of_drawings,
        minutes(1, 1),
        shows={"bits on the invisible": "finer_than_visible.bits", "loss": "finer_than_visible.training loss"},
    ),
    Stage(
        "perception-scenes-32",
        "what gets through the stored autoencoder of scenes, and what probes read",
        stage_of_scenes,
        minutes(5, 9),
        shows={"colour, pixels": "probes.clean.pixels.colour", "latents": "probes.clean.latents.colour"},
    ),
)

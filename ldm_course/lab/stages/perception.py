"""Stages: what a pixel denoiser spends on invisible detail, and what the first stage keeps (chapter 4)."""

from __future__ import annotations

from functools import partial

import torch

from ... import checkpoints
from ...data.pictures import to_float, to_uint8
from ...diffusion.schedules import make_schedule
from ...measure.bits import errors_of
from ...measure.content import (
    HELD_OUT,
    VISIBLE,
    answer_to_grain,
    averaged,
    changed_scenes,
    grey,
    grid_of,
    held_out_drawings,
    lost_in_scenes,
    passed,
    rms,
)
from ...measure.probes import alone, probe_inputs, read_factors
from ..profiles import Sizes
from .autoencoders import FIRST_STAGE
from .base import SCHEDULE, Run, Stage, minutes, save_grid

SEEDS = 3  # probes for each input, in a record
SHOWN = (970, 850, 650, 350, 90)  # levels whose guesses are in the picture


def stage_of_drawings(run: Run, size: int) -> dict:
    """What the pixel denoiser of drawings spends, given no labels, and what the first stage loses of them."""
    pictures, denoiser = held_out_drawings(4 * Sizes.of(run.profile).drawings, size), _pixel_denoiser(size)
    x0 = to_float(pictures.images)
    model = checkpoints.load_denoiser(run.weights(denoiser), run.device)
    errors = errors_of(model, x0, grid=grid_of(size))
    first, _ = checkpoints.load_model(run.weights(FIRST_STAGE.name), run.device)
    after = first.reconstruct(x0)
    save_grid(run, to_uint8(torch.cat([x0[:8], *(errors.guesses[t][:8] for t in SHOWN), after[:8]])))
    return {
        "data": about("emoji", pictures.source, size, len(x0)),
        "networks": [run.weights(denoiser).stem, run.weights(FIRST_STAGE.name).stem],
        **errors.results(),
        "lost": grey(rms(after - x0)),
        "rows_of_the_picture": ["held-out drawings", *(f"guess at t = {t}" for t in SHOWN), "decoded"],
    }


def stage_of_scenes(run: Run, size: int) -> dict:
    """What of scenes gets through the first stage, and what SEEDS probes of each input read."""
    sizes, grid = Sizes.of(run.profile), grid_of(size)
    model, _ = checkpoints.load_model(run.weights(FIRST_STAGE.name), run.device)
    through = model.reconstruct
    plain, changed = changed_scenes(sizes.scenes, size)
    seen, truth = alone(0, 4 * sizes.seen, size)
    new, new_truth = alone(HELD_OUT, 4 * sizes.new, size)
    steps = {"steps": 4 * sizes.steps, "seeds": SEEDS}
    readings = read_factors(probe_inputs(model, seen, new), truth, new_truth, make_schedule(SCHEDULE), **steps)
    strong = changed["texture 4"]
    save_grid(run, to_uint8(torch.cat([part[:8] for part in (strong, through(strong[:8]), plain, through(plain[:8]))])))
    return {
        "data": about("scenes", "procedural scenes", size, len(new)),
        "networks": [run.weights(FIRST_STAGE.name).stem],
        "visible": VISIBLE,
        "grid": grid,
        "lost": lost_in_scenes(through, 4 * run.profile.eval_count, size),
        **passed(through, plain, changed, grid).results(),
        "average": passed(averaged, plain, changed, grid).results()["changes"],
        "grain": answer_to_grain(through, plain, changed["texture 1"]),
        "probes": readings.results(),
        "rows_of_the_picture": ["scenes, texture 4", "decoded", "without texture", "decoded"],
    }


def about(name: str, source: str, size: int, test: int) -> dict:
    return {"name": name, "source": source, "size": size, "test": test}


def _pixel_denoiser(size: int) -> str:
    """The stage that trains the pixel denoiser of drawings."""
    return f"denoiser-emoji-{size}-pixel"


STAGES = (
    Stage(
        "perception-emoji-64",
        "what the pixel denoiser of drawings spends on invisible detail",
        partial(stage_of_drawings, size=64),
        minutes(0.5, 4, hours=4),
        needs=(_pixel_denoiser(64), FIRST_STAGE.name),
        shows={"bits on the invisible": "finer_than_visible.bits", "loss": "finer_than_visible.training loss"},
    ),
    Stage(
        "perception-scenes-32",
        "what of scenes gets through the first stage, and what probes read",
        partial(stage_of_scenes, size=32),
        minutes(2, hours=90),
        needs=(FIRST_STAGE.name,),
        shows={"colour, pixels": "probes.clean.pixels.colour", "latents": "probes.clean.latents.colour"},
    ),
)

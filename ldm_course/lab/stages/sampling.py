"""Stages: every sampler at every number of steps (chapter 6), and the same sampler again and again (chapter 5)."""

from __future__ import annotations

import json
import math
from functools import partial
from statistics import fmean, stdev

import torch
from torch import Tensor

from ... import checkpoints
from ...data.loaders import load_data
from ...data.pictures import Pictures
from ...denoiser import Denoiser
from ...diffusion.samplers import METHODS
from ...files import written_whole
from ...measure import distances
from ..profiles import STEPS
from .base import Run, Stage, drawn_timed, labels_as_in, minutes, record_name, reference_for, save_grid

# those of the source's table come first, since all of them take hours on two cores
SOURCE = (("ddim", 50), ("ddim", 100), ("ddpm", 1000))
ROWS = tuple(dict.fromkeys((*SOURCE, *((method, steps) for steps in STEPS for method in METHODS))))


def sampling(run: Run, trained: str) -> dict:
    """Every sampler at every number of steps of STEPS, from the weights of the stage `trained`: quality and time."""
    p, kept = run.profile, run.folder / "rows.json"
    d, train, reference = _trained(run, trained)
    rows = json.loads(kept.read_text()) if kept.is_file() else []
    d.generate(min(run.at_once, p.eval_count), steps=1, batch_size=run.at_once)  # the first call is slow
    done = {(row["method"], row["steps"]) for row in rows}

    def results() -> dict:
        return {
            "finished": len(rows) == len(ROWS),
            "trained": record_name(trained, p),
            "space": d.space.name,
            "data": {"name": train.name, "source": train.source, "size": train.size},
            "batch": min(run.at_once, p.eval_count),
            "rows": sorted(rows, key=lambda row: (row["steps"], METHODS.index(row["method"]))),
            "rows_of_the_picture": [f"{m}, {s} steps" for m in METHODS for s in SHOWN],
        }

    save_grid(run, _pictures(d, train.labels))
    for method, steps in ROWS:
        if (method, steps) not in done:
            rows.append(_row(run, d, train.labels, reference, method, steps))
            with written_whole(kept) as path:
                path.write_text(json.dumps(rows))
            if run.scale.long:
                run.keep(results())
    return results()


def _trained(run: Run, stage: str) -> tuple[Denoiser, Pictures, distances.Reference]:
    """The denoiser of that stage, what it was trained on, and what its pictures are judged against."""
    d = checkpoints.load_denoiser(run.weights(stage), run.device)
    train = load_data(d.meta["data"], d.space.size, limit=run.scale.limit)
    return d, train, reference_for(run, train)


SHOWN = (5, 20, 100)  # steps of the stage's picture


def _pictures(d: Denoiser, labels: Tensor | None) -> Tensor:
    """Eight pictures by each method at each of SHOWN, from the same noise."""
    some = labels_as_in(labels, d, 8)
    return torch.cat([d.generate(8, method=method, steps=steps, label=some) for method in METHODS for steps in SHOWN])


def _row(run: Run, d: Denoiser, labels: Tensor | None, reference: distances.Reference, method: str, steps: int) -> dict:
    """One row of the table: the pictures' quality, and the seconds that one took."""
    p = run.profile
    count = p.eval_count if steps <= 100 else p.ddpm_count
    draw = partial(d.generate, method=method, steps=steps)
    made, seconds = drawn_timed(run, count, labels_as_in(labels, d, count), draw)
    quality = distances.evaluate(made, reference)
    few = quality if count == p.ddpm_count else distances.evaluate(made[: p.ddpm_count], reference)
    print(f"  {method}, {steps} steps: FD-E {quality['fd_e']:.0f}, {seconds:.3g} s a picture", flush=True)
    return {
        "method": method,
        "steps": steps,
        "seconds_picture": seconds,
        "made": count,
        "quality": quality,
        "quality_few": few,  # of as many as the slowest sampler makes: only equal counts compare
    }


REDRAWS = 20


def redraws(run: Run, trained: str) -> dict:
    """The same network draws REDRAWS times from new noise: do its distances scatter as much as their errors say?

    `over_stated`: the standard deviation over the draws, by the root mean square of the stated errors; with that many
    draws it is known to about 1 / √(2 (REDRAWS - 1)) of itself.
    """
    p, kept = run.profile, run.folder / "draws.json"
    d, train, reference = _trained(run, trained)
    draws = json.loads(kept.read_text()) if kept.is_file() else []
    for seed in range(len(draws), REDRAWS):
        label = labels_as_in(train.labels, d, p.eval_count, seed)
        options = {"method": "dpmpp", "steps": 20, "label": label, "seed": seed, "batch_size": run.at_once}
        draws.append(distances.evaluate(d.generate(p.eval_count, **options), reference))
        with written_whole(kept) as path:
            path.write_text(json.dumps(draws))
    return {
        "trained": record_name(trained, p),
        "data": {"name": train.name, "source": train.source, "size": train.size},
        "sampler": "dpmpp, 20 steps",
        "draws": draws,
        "over_stated": {name: _over_stated(draws, name) for name in ("kd_e", "fd_e")},
        "expected_error": 1 / math.sqrt(2 * (REDRAWS - 1)),
    }


def _over_stated(draws: list[dict], name: str) -> float:
    return stdev(q[name] for q in draws) / math.sqrt(fmean(q[f"{name}_error"] ** 2 for q in draws))


def _stage(space: str, cpu: float) -> Stage:
    trained = f"denoiser-cifar10-32-{space}"
    return Stage(
        f"sampling-cifar10-32-{space}",
        f"every sampler at 5 to 1000 steps, in {space} space",
        partial(sampling, trained=trained),
        minutes(6, cpu),
        needs=(trained,),
        shows={"FD-E, DDIM, 50 steps": "rows[method=ddim,steps=50].quality.fd_e"},
    )


_REDRAWN = "denoiser-cifar10-32-latent"
STAGES = (
    _stage("pixel", 7),
    _stage("latent", 2),
    Stage(
        "redraws-cifar10-32-latent",
        f"the same network draws {REDRAWS} times, to test the errors of the distances",
        partial(redraws, trained=_REDRAWN),
        minutes(0.5, 3, hours=10),
        needs=(_REDRAWN,),
        shows={"scatter of KD-E over its stated error": "over_stated.kd_e", "of FD-E": "over_stated.fd_e"},
    ),
)

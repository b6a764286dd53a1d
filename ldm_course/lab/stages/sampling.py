"""Stages: every sampler at every number of steps (chapter 6)."""

from __future__ import annotations

import json
import time
from functools import partial

import torch

from ... import checkpoints
from ...data.loaders import load_data
from ...files import written_whole
from ...measure import distances
from .base import Run, Stage, minutes, record_name, save_grid

STEPS = (5, 10, 20, 50, 100, 250, 1000)  # of the sampling tables


def sampling(run: Run, trained: str) -> dict:
    """Every sampler at every number of steps of STEPS, from the weights of the stage `trained`: quality and time."""
    p = run.profile
    d = checkpoints.load_denoiser(run.weights(trained), run.device)
    train = load_data(d.meta["data"], d.space.size, limit=run.scale.limit)
    reference = distances.Reference(train, limit=p.reference_count)
    kept, rows, shown = run.folder / "rows.json", [], []
    if kept.is_file():
        rows = json.loads(kept.read_text())
    d.generate(min(64, p.eval_count), steps=1)  # the first call is slow
    done = {(row["method"], row["steps"]) for row in rows}
    for steps in STEPS:
        count = p.eval_count if steps <= 100 else p.ddpm_count
        for method in ("ddpm", "ddim", "dpmpp"):
            if (method, steps) in done:
                continue
            started = time.perf_counter()
            made = d.generate(count, method=method, steps=steps)
            seconds = time.perf_counter() - started
            quality = distances.evaluate(made, reference)
            few = quality if count == p.ddpm_count else distances.evaluate(made[: p.ddpm_count], reference)
            rows.append(
                {
                    "method": method,
                    "steps": steps,
                    "seconds_picture": seconds / count,
                    "made": count,
                    "quality": quality,
                    "quality_few": few,  # of as many as the slowest sampler makes: only equal counts compare
                }
            )
            print(
                f"  {method}, {steps} steps: FD-E {quality['fd_e']:.0f}, {seconds / count:.3g} s a picture", flush=True
            )
            with written_whole(kept) as path:
                path.write_text(json.dumps(rows))
    for method in ("ddpm", "ddim", "dpmpp"):
        shown += [d.generate(8, method=method, steps=s) for s in (5, 20, 100)]
    save_grid(run, torch.cat(shown))
    return {
        "trained": record_name(trained, p),
        "space": d.space.name,
        "data": {"name": train.name, "source": train.source, "size": train.size},
        "batch": min(64, p.eval_count),
        "rows": rows,
        "rows_of_the_picture": [f"{m}, {s} steps" for m in ("ddpm", "ddim", "dpmpp") for s in (5, 20, 100)],
    }


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


STAGES = (_stage("pixel", 7), _stage("latent", 2))

"""Stages: what a seed changes, and what an autoencoder makes of noise (chapter 5)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from ... import checkpoints
from ...data.latents import Latents, encode_pictures
from ...data.loaders import load_data
from ...data.pictures import Pictures, to_float
from ...device import native_precision
from ...diffusion.objectives import DenoisingObjective, mean_loss
from ...diffusion.schedules import make_schedule
from ...files import load_tensors, save_tensors, written_whole
from ...measure import distances, stability
from ...measure.denoising import LinearDenoiser, against_noise
from ...measure.timing import training_step
from ...networks.unet import UNet
from ...spaces import LatentSpace, PixelSpace
from ...training.recipes import denoiser_trainer, seeded
from ...training.trainer import STATE_FILE, Diverged
from .base import PREDICTION, SCHEDULE, Run, Stage, about, minutes, reference_for, save_grid, timed
from .denoisers import Training, network_for, space_and_data

RATES = (4, 16)  # times the learning rate, for the claim about stability
WARM_UP = 25  # steps for these trainings: short, so that it is the rate that is tested
BLOCKS = 60  # points of a stored training curve


@dataclass(frozen=True)
class Place:
    """A space, and the data in it: `pictures` as they are, and to train on and held out as the space sees them."""

    space: PixelSpace | LatentSpace
    pictures: Pictures
    train: Pictures | Latents
    test: Pictures | Latents


def seeds(run: Run, data: str, size: int, autoencoder: str, rates: tuple[int, ...] = ()) -> dict:
    """The same training from several seeds in both spaces, and from the first one at `rates` times the learning rate.

    The first pixel training lasts `seed_images` or the stage's seconds, and all others see as many images. The latent
    ones are judged there; with the usual rate they go on for `Scale.latent_times` as many, or for as many images as
    take a pixel training's seconds, by steps of both that are timed in turns. A training that diverges leaves a row
    without points. A seed decides the initial weights, the order of the pictures, times and
    noises. One autoencoder serves all.
    """
    p, rows = run.profile, []
    train = load_data(data, size, limit=run.scale.limit)
    test = load_data(data, size, "test", limit=min(4 * p.eval_count, 2048))
    latent, latents, first_stage = space_and_data(run, train, autoencoder)
    reference = reference_for(run, train)
    places = {
        "pixel": Place(PixelSpace(size), train, train, test),
        "latent": Place(latent, train, latents, encode_pictures(latent.autoencoder, test)),
    }
    shapes = [place.space.shape for place in places.values()]
    for seed, times in [(seed, 1) for seed in range(run.scale.seeds)] + [(0, times) for times in rates]:
        for name, place in places.items():
            row = {"space": name, "seed": seed, "times": times}
            rows.append(row | _one_seed(run, place, reference, row, _marks_of_seed(run, shapes, rows, row)))
            print(f"  {row}: {_end_of(rows[-1])}", flush=True)
    first = _first(rows, "pixel")["points"][-1]
    drew = [row for row in rows if row["points"]]
    samples = [load_tensors(_folder_of(run, row) / "samples.safetensors")[0]["images"] for row in drew]
    save_grid(run, torch.cat(samples))
    return {
        "data": about(train, test),
        "first_stage": first_stage,
        "images": first["images"],
        "seconds": first["seconds"],
        "batch_size": p.batch_size,
        "lr": p.lr,
        "warmup_steps": WARM_UP,
        "sampler": f"ddim, {p.match_steps} steps",
        "rows_of_the_picture": [f"{r['space']}, seed {r['seed']}, {r['times']} times the rate" for r in drew],
        "runs": rows,
    }


def _end_of(row: dict) -> str:
    if not row["points"]:
        return row["diverged"]
    last = row["points"][-1]
    return f"{last['images']} images, KD-E {last['quality']['kd_e']:.2f}"


def _folder_of(run: Run, row: dict) -> Path:
    return run.folder / f"{row['space']}-{row['seed']}-x{row['times']}"


def _marks_of_seed(run: Run, shapes: list[tuple[int, ...]], rows: list[dict], row: dict) -> list[dict]:
    """Where to judge one of the trainings of `seeds`, after those in `rows`: as arguments of `Trainer.run`."""
    if not rows:
        return [{"until": run.scale.seed_images // run.profile.batch_size, "until_seconds": run.seconds}]
    if first := _first(rows, row["space"]):
        steps = [point["step"] for point in first["points"]]
    else:
        same = _first(rows, "pixel")["points"][-1]["step"]
        steps = [same, round(same * (run.scale.latent_times or max(1, _faster(run, shapes))))]
    return [{"until": step} for step in (steps if row["times"] == 1 else steps[:1])]


def _first(rows: list[dict], space: str) -> dict | None:
    """The first training in a space, of seed 0 at the usual rate; None where there is none yet."""
    return next((r for r in rows if (r["space"], r["seed"], r["times"]) == (space, 0, 1)), None)


def _faster(run: Run, shapes: list[tuple[int, ...]]) -> float:
    """How many training steps of the second of two spaces take as long as one of the first: the two timed in turns."""
    batch, half = run.profile.batch_size, native_precision(run.device) == "bf16"
    steps = []
    for shape in shapes:
        model = seeded(0, UNet, run.profile.unet.for_channels(shape[0])).to(run.device)
        x, t = torch.randn(batch, *shape, device=run.device), torch.zeros(batch, dtype=torch.int64, device=run.device)
        steps.append(training_step(model, x, t, torch.randn_like(x), half=half))
    seconds = [[timed(step, run).median for step in steps] for _ in range(3)]
    return median(pixel / latent for pixel, latent in seconds)


def _one_seed(run: Run, place: Place, reference: distances.Reference, row: dict, marks: list[dict]) -> dict:
    """One of the trainings of `seeds`, or what was kept of it: spikes, norms, and how it does at each mark.

    Each network is judged by its loss on held-out pictures, and by two sets of drawn ones, `quality` and `again`: so
    what a draw changes is told from what a training does.
    """
    p, folder = run.profile, _folder_of(run, row)
    if (folder / "row.json").is_file():
        return json.loads((folder / "row.json").read_text())
    options = {"seconds": marks[-1].get("until_seconds"), "steps": marks[-1].get("until"), "warmup_steps": WARM_UP}
    config = run.train_config(seed=row["seed"], lr=row["times"] * p.lr, compile=False, **options)
    network, schedule = network_for(run, place.pictures, place.space), make_schedule(SCHEDULE)
    trainer = denoiser_trainer(place.train, network, config, schedule, PREDICTION, out=folder, log_every=1)
    training = Training(run, trainer, place.space, reference)
    new = DenoisingObjective(place.test, schedule, PREDICTION).to(trainer.accelerator.device)

    def extra(made: Tensor) -> dict:
        again = distances.evaluate(training.drawn(len(made), seed=1), reference)
        return {"loss_test": mean_loss(trainer.snapshot(), new, len(place.test)), "again": again}

    try:
        points, diverged = training.judged_at(marks, extra), None
    except Diverged as error:
        points, diverged = [], str(error)
    history = trainer.progress.history
    curves = {name: [entry[name] for entry in history] for name in ("loss", "grad_norm")}
    found = {
        "lr": config.lr,
        "points": points,
        "diverged": diverged,
        "spikes": {name: [k + 1 for k in stability.spikes(curve)] for name, curve in curves.items()},
        "clipped": sum(not norm <= config.grad_clip for norm in curves["grad_norm"]) / len(history),
        "curves": {name: _in_blocks(curve) for name, curve in curves.items()},
    }
    if points:
        save_tensors(folder / "samples.safetensors", {"images": training.drawn(8)})
    with written_whole(folder / "row.json") as path:
        path.write_text(json.dumps(found))
    (folder / STATE_FILE).unlink(missing_ok=True)  # large, and of no more use
    return found


def _in_blocks(curve: list[float]) -> list[float]:
    """The means of BLOCKS equal parts of a curve, or the curve itself where it is shorter."""
    return [part.mean().item() for part in torch.tensor(curve).tensor_split(min(BLOCKS, len(curve)))]


def noise(run: Run, data: str, size: int, autoencoder: str) -> dict:
    """What the autoencoder, and the best linear map, make of pictures with noise added (`denoising.against_noise`).

    The map knows the covariance of all training pictures; both are judged on the same held-out ones.
    """
    train = load_data(data, size, limit=run.scale.limit)
    test = load_data(data, size, "test", limit=4 * run.profile.eval_count)
    model, _ = checkpoints.load_model(run.weights(autoencoder), run.device)
    linear = LinearDenoiser.of_pictures(train.images, run.device)
    rows = against_noise(model.reconstruct, to_float(test.images).to(run.device), linear)
    return {"data": about(train, test), "autoencoder": run.weights(autoencoder).stem, "rows": rows}


_FIRST = "autoencoder-cifar10-32-f4"
_SHOWN_OF_SEEDS = {"images": "images", "KD-E, pixel": "runs[space=pixel,seed=0,times=1].points[last].quality.kd_e"}


def _seeds_of_drawings(data: str) -> Stage:
    first = "first-stage-f4"
    trains = partial(seeds, data=data, size=64, autoencoder=first)
    says = f"one training of {data} at 64 in both spaces, from several seeds"
    time = minutes(3, hours=300)
    return Stage(f"seeds-{data}-64", says, trains, time, needs=(first,), shows=_SHOWN_OF_SEEDS)


STAGES = (
    Stage(
        "seeds-cifar10-32",
        f"one training in both spaces from several seeds, and at {' and '.join(map(str, RATES))} times the rate",
        partial(seeds, data="cifar10", size=32, autoencoder=_FIRST, rates=RATES),
        minutes(0.75, 10, hours=300),
        networks=2 * (3 + len(RATES)),
        needs=(_FIRST,),
        shows=_SHOWN_OF_SEEDS,
    ),
    *(_seeds_of_drawings(data) for data in ("emoji", "scenes")),
    Stage(
        "noise-cifar10-32",
        "what an autoencoder, and the best linear map, make of noisy pictures",
        partial(noise, data="cifar10", size=32, autoencoder=_FIRST),
        minutes(0.2, 1, hours=1),
        needs=(_FIRST,),
        shows={
            "PSNR, clean, rebuilt": "rows[std=0.0].autoencoder",
            "at 0.2, noisy": "rows[std=0.2].noisy",
            "rebuilt": "rows[std=0.2].autoencoder",
            "best linear": "rows[std=0.2].linear",
        },
    ),
)

"""What a reference stage is, and what several of them share.

A `Stage` has a function of a `Run`, which says how far to go and where to put things; it returns results for a record.
`reference` puts the stages in order, runs them and keeps their records. A run that was stopped is found again in its
folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ... import checkpoints
from ...config import AutoencoderConfig, TrainConfig
from ...data.pictures import Pictures
from ...denoiser import Denoiser
from ...device import native_precision
from ...files import MACHINES, load_tensors, place_of, save_tensors, written_whole
from ...measure import distances
from ...measure.timing import Timing, machine_rates, time_call
from ...page import plotting
from ...training.trainer import STATE_FILE, Progress, Trainer
from ..profiles import Profile, Scale
from ..records import load_record

SCHEDULE, PREDICTION = "cosine", "v"
ORIGIN = "origin.json"  # in the folder of a run that began with published weights
FEW = 128  # pictures to train on, for the claims about overfitting


@dataclass(frozen=True)
class Run:
    """One run of one stage: `seconds` of training at most (for each network that it trains), files below `out`.

    `keep(results)` makes a record of what there is before the end, for stages that go on for hours.
    """

    stage: str
    profile: Profile
    out: Path
    seconds: float
    device: torch.device
    keep: Callable[[dict], object] = lambda results: None
    new: Path | None = None  # where its picture and its weights wait for the record; None: nowhere

    @property
    def scale(self) -> Scale:
        return self.profile.scale

    @property
    def name(self) -> str:
        return record_name(self.stage, self.profile)

    @property
    def folder(self) -> Path:
        """For what lets the run go on after a stop."""
        return self.out / "states" / self.name

    def has_ended(self, progress: Progress, images: int | None) -> bool:
        """Whether a training is over: it has seen its images, or its time is up."""
        return progress.seconds >= self.seconds or (images is not None and progress.images >= images)

    @property
    def picture(self) -> Path:
        return self.written("picture")

    def written(self, kind: str) -> Path:
        """Where the stage is to write its own file of that kind, one of `files.PLACES`."""
        return place_of(kind, self.name, self.new or self.out)

    def weights(self, stage: str | None = None) -> Path:
        """Where this stage's weights go, or where those of another one are: of this run, stored, of a larger machine,
        which trains the same networks for longer, or, if there are no others, of a smaller one. ValueError if they are
        nowhere."""
        if stage is None:
            return self.written("weights")
        here = place_of("weights", record_name(stage, self.profile), self.out)
        if here.is_file():
            return here
        for name in (*names_of(stage, self.profile), *(f"{stage}-{kind}" for kind in MACHINES)):
            if (stored := place_of("weights", name)).is_file():
                return stored
        raise ValueError(f"{self.stage} needs the weights of {stage}; run: ldm-course reference --stage {stage}")

    def record_of(self, stage: str) -> dict:
        """Another stage's record: from this run, or, where only its weights are known here, the stored one."""
        here = place_of("record", record_name(stage, self.profile), self.out)
        if here.is_file():
            return load_record(here.stem, here.parent)
        stored = (name for name in names_of(stage, self.profile) if place_of("record", name).is_file())
        return load_record(next(stored, here.stem))

    def train_config(self, **options) -> TrainConfig:
        p = self.profile
        common = {"batch_size": p.batch_size, "lr": p.lr, "ema_decay": p.ema_decay}
        common |= {"compile": self.scale.compile, "cuda_graph": self.scale.cuda_graph, "seconds": self.seconds}
        return TrainConfig(**(common | options))

    @property
    def at_once(self) -> int:
        """Pictures that are drawn or encoded in one batch: a GPU needs many, so as not to wait for Python."""
        return 512 if self.device.type == "cuda" else 64

    @property
    def save_every(self) -> int:
        """Steps between two saved states: about a minute's."""
        return 5000 if self.device.type == "cuda" else 250


@dataclass(frozen=True)
class Stage:
    """`run` does it; `needs` are stages whose weights it takes, as far as the profile has them; `minutes` of training
    for each network it trains, by profile; `networks` so many; `shows` names the figures of its results that `--status`
    prints."""

    name: str
    says: str
    run: Callable[[Run], dict]
    minutes: dict[str, float]
    networks: int = 1
    needs: tuple[str, ...] = ()
    shows: dict[str, str] | None = None

    def is_for(self, profile: Profile) -> bool:
        """Whether it is run in this profile."""
        return profile.name in self.minutes

    def expected(self, profile: Profile) -> float:
        """Seconds, measuring included, on a machine of the profile's kind."""
        networks = 1 if profile.scale.long else self.networks
        return 60 * (1 if profile.name == "smoke" else 1.3) * networks * self.minutes[profile.name]


def minutes(reference: float, cpu: float | None = None, hours: float | None = None) -> dict[str, float]:
    """Of training, by profile; None: not run there. For `hours` an estimate, since there it ends after its images."""
    found = {"smoke": 0.01, "cpu": cpu, "hours": hours, "gpu": 3 * reference, "reference": reference}
    return {name: minutes for name, minutes in found.items() if minutes is not None}


def record_name(stage: str, profile: Profile) -> str:
    """A stage's record in one profile: runs on a CPU and on a GPU never share a name."""
    return f"{stage}-{profile.name}"


def names_of(stage: str, profile: Profile) -> list[str]:
    """What a stage's record and weights may be called: in this profile, or in that of a larger machine."""
    larger = MACHINES[: MACHINES.index(profile.name)] if profile.name in MACHINES else MACHINES
    return [record_name(stage, profile), *(f"{stage}-{kind}" for kind in larger)]


def autoencoder_of(profile: Profile, f: int) -> AutoencoderConfig:
    """The profile's autoencoder with as many levels as f needs."""
    return profile.autoencoder.for_downsample(f)


def matrix_rates(device: torch.device) -> dict[str, float]:
    """The machine's FLOP/s in matrix products, by precision."""
    kinds = {"float32": torch.float32} | ({"bf16": torch.bfloat16} if native_precision(device) == "bf16" else {})
    return {name: machine_rates(device, dtype, seconds=4.0).matmul for name, dtype in kinds.items()}


def timed(fn: Callable, run: Run) -> Timing:
    return time_call(fn, repeats=7, warmup=1, seconds=run.scale.call_seconds / 8)


def limit_of(run: Run, split: str, few: bool) -> int | None:
    limit = run.scale.limit
    return min(FEW, limit or FEW) if few and split == "train" else limit


def about(train: Pictures, test: Pictures) -> dict:
    return {"name": train.name, "source": train.source, "size": train.size, "train": len(train), "test": len(test)}


def steady_rate(history: list[dict]) -> float | None:
    """Images a second from a run's history, without its first entry, in which things are loaded and compiled."""
    if len(history) < 2:
        return None
    first, last = history[0], history[-1]
    return (last["images"] - first["images"]) / (last["seconds"] - first["seconds"])


def reference_for(run: Run, pictures: Pictures) -> distances.Reference:
    """What pictures are judged against: the profile's `reference_count` of these. Their features, which take long on
    many pictures, are kept, so that stages share them."""
    limit = run.profile.reference_count
    return distances.Reference(pictures, limit=limit, device=run.device, cache=run.out / "states")


def labels_as_in(labels: Tensor | None, d: Denoiser, count: int, seed: int = 0) -> Tensor | None:
    """`count` classes, each as often as among the data's `labels`; None for a denoiser that knows no classes."""
    if d.num_classes is None:
        return None
    return labels.cpu()[torch.randint(len(labels), (count,), generator=torch.Generator().manual_seed(seed))]


def drawn_timed(run: Run, count: int, label: Tensor | None, draw: Callable[..., Tensor]) -> tuple[Tensor, float]:
    """`count` pictures by `draw(n, batch_size=, label=, seed=)`, batch by batch, and the seconds that one took in the
    median batch, so that a pause in the hours that slow ones take is not counted."""
    batches, taken = [], []
    for first in range(0, count, run.at_once):
        n = min(run.at_once, count - first)
        of = None if label is None else label[first : first + n]
        started = time.perf_counter()
        batches.append(draw(n, batch_size=n, label=of, seed=first))
        taken.append((time.perf_counter() - started) / n)
    return torch.cat(batches), median(taken)


def save_grid(run: Run, images: Tensor) -> None:
    plotting.save_png(run.picture, plotting.grid_image(images, 8, scale=max(1, 64 // images.shape[-1])))


def judged_at(
    run: Run,
    trainer: Trainer,
    marks: list[dict],
    judge: Callable[[], dict],
    keep: Callable[[list[dict]], object] = lambda points: None,
) -> list[dict]:
    """Trains from mark to mark, which are arguments of `Trainer.run`, and judges at each: a list of points, what
    `judge()` found beside step, images and seconds.

    What was judged before a stop is read back, so that each mark is judged once. Where trainings go on for hours,
    `keep(points)` is called after each; in minutes it would only take time from them.
    """
    kept = trainer.out / "points.json"
    points = _points_so_far(run, trainer, kept)
    for mark in marks:
        progress = trainer.run(**mark, show=True, label=run.stage)
        if points and points[-1]["step"] >= progress.step:
            continue
        point = {"step": progress.step, "images": progress.images, "seconds": progress.seconds}
        points.append(point | judge())
        with written_whole(kept) as path:
            path.write_text(json.dumps(points))
        if run.scale.long:
            keep(points)
    return points


def found_once(folder: Path, find: Callable[[], tuple[Any, Tensor]]) -> tuple[Any, Tensor]:
    """What `find()` makes of one training in `folder`, something that JSON can hold and uint8 pictures to be shown; or,
    after a stop, what was kept of it. Once it is kept, the training's state, which is large, is of no more use."""
    kept, samples = folder / "found.json", folder / "samples.safetensors"
    if kept.is_file():
        return json.loads(kept.read_text()), load_tensors(samples)[0]["images"]
    found, images = find()
    save_tensors(samples, {"images": images})
    with written_whole(kept) as path:
        path.write_text(json.dumps(found))
    (folder / STATE_FILE).unlink(missing_ok=True)
    return found, images


def went_on_from(run: Run) -> dict:
    """An entry `went_on_from` for the record of a run that began with published weights: how far they had come, where
    and by which code; else nothing."""
    path = run.folder / ORIGIN
    return json.loads(path.read_text()) if path.is_file() else {}


def _points_so_far(run: Run, trainer: Trainer, kept: Path) -> list[dict]:
    """What was judged before a stop. Where a run of hours left no state, but a record and weights among the published
    ones, the trainer goes on from those: the averaged weights, and an optimizer that begins anew."""
    if kept.is_file():
        return json.loads(kept.read_text())
    weights, record = (place_of(kind, run.name) for kind in ("weights", "record"))
    if not (run.scale.long and trainer.progress.step == 0 and weights.is_file() and record.is_file()):
        return []
    known = load_record(run.name)
    points = known["results"]["points"]
    model, _ = checkpoints.load_model(weights)
    last = points[-1]
    before = {k: known[k] for k in ("commit", "date", "machine")} | {"images": last["images"]}
    with written_whole(run.folder / ORIGIN) as path:
        path.write_text(json.dumps({"went_on_from": before}))
    trainer.start_from(model.state_dict(), Progress(last["step"], last["images"], last["seconds"]))
    print(f"  goes on from the published weights, {last['images']} images", flush=True)
    return points

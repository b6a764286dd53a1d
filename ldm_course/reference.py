"""The reference runs: the stages behind the course's recorded numbers, run one after another (`ldm-course reference`).

Each stage leaves a record, and where it trains, weights. What was done before is not done again, a stage that was
stopped goes on, and one that fails leaves the others alone. The same stages run at a reduced scale on a CPU, under
names of their own, so that a number never hides what it was measured on.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from . import content, stages
from .compare import compare
from .config import Profile
from .features import default_device
from .records import (
    code_state,
    duration,
    figure,
    home,
    load_record,
    make_record,
    place,
    save_record,
    writable_folder,
    written_whole,
)
from .stages import Run, record_name
from .widgets import si

SMALL = 4 * 2**20  # bytes: larger weights stay out of the repository
ALL_WEIGHTS = 24 * 2**20  # bytes of all the repository's weights together


@dataclass(frozen=True)
class Stage:
    """`run` does it; `needs` are stages whose weights it takes; `minutes` of training for each network it trains, by
    profile; `networks` so many; `shows` names the figures of its results that `--status` prints."""

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
        return 60 * (1 if profile.name == "smoke" else 1.3) * self.networks * self.minutes[profile.name]


def _minutes(reference: float, cpu: float | None = None, hours: float | None = None) -> dict[str, float]:
    """Of training, by profile; None: not run there. For `hours` an estimate, since there it ends after its images."""
    found = {"smoke": 0.01, "cpu": cpu, "hours": hours, "gpu": 3 * reference, "reference": reference}
    return {name: minutes for name, minutes in found.items() if minutes is not None}


def _autoencoder(data: str, size: int, f: int, cpu: float, few: bool = False, hours: float | None = None) -> Stage:
    name = f"autoencoder-{data}{'-few' if few else ''}-{size}-f{f}"
    of = f"{stages.FEW} pictures of {data}" if few else data
    networks = 1 if few else len(stages.LOSSES)
    show = {f"PSNR, {k}": f"variants.{k}.psnr" for k in ([stages.USED] if few else stages.LOSSES)}
    run = partial(stages.autoencoder, data=data, size=size, f=f, few=few)
    return Stage(name, f"autoencoder, f = {f}, on {of} at {size}", run, _minutes(1.5, cpu, hours), networks, (), show)


_QUALITY = {"FD-E": "points.-1.quality.fd_e", "its floor": "points.-1.quality.fd_e_floor", "images": "training.images"}


def _denoisers(
    data: str, size: int, f: int, cpu: float, reference: float, images=None, wide: int = 0, hours=(None, None)
) -> Iterator[Stage]:
    first = f"autoencoder-{data}-{size}-f{f}"
    options = {"data": data, "size": size, "images": images}
    stem = f"denoiser-{data}-{size}"
    minutes = _minutes(reference, cpu, hours[0])
    yield Stage(
        f"{stem}-pixel", f"{data} at {size}, in pixels", partial(stages.denoiser, **options), minutes, shows=_QUALITY
    )
    for width in (1, wide) if wide else (1,):
        yield Stage(
            f"{stem}-latent" + ("-wide" if width > 1 else ""),
            f"{data} at {size}, in latents of f = {f}" + (f", {width} times as wide" if width > 1 else ""),
            partial(stages.denoiser, **options, autoencoder=first, width=width),
            _minutes(reference, cpu, hours[1] if width == 1 else None),
            needs=(first,),
            shows=_QUALITY,
        )


def _all() -> Iterator[Stage]:
    yield Stage(
        "cost",
        "time and memory of a step, pixels and f = 2, 4, 8, from 32 to 1024 a side",
        stages.cost,
        _minutes(6, 6),
        shows={"matrix products, FLOP/s": "matmul_flop_per_s.float32"},
    )
    yield Stage(
        "training-speed",
        "a training step, from float32 to compiled half precision",
        stages.speed,
        _minutes(4, 4),
        shows={"images/s": "rungs.-1.images_per_s", "of the matrix rate": "rungs.-1.share_of_matmul"},
    )
    yield Stage(
        "first-stage-f4",
        "one autoencoder for emoji and scenes at every size, f = 4, on crops",
        partial(stages.first_stage, f=4, channels=4),
        _minutes(3, hours=110),
        shows={f"PSNR, {data} at {size}": f"points.-1.psnr.{data} at {size}" for data, size in stages.FIRST_STAGE_SETS},
    )
    for f in (2, 4, 8):
        yield _autoencoder("cifar10", 32, f, cpu=1.2, hours=280 if f == 4 else None)
    cifar = {"images": lambda scale: scale.images, "wide": 4, "hours": (360, 560)}
    yield from _denoisers("cifar10", 32, 4, cpu=14, reference=8, **cifar)
    for space in ("pixel", "latent"):
        yield Stage(
            f"sampling-cifar10-32-{space}",
            f"every sampler at 5 to 1000 steps, in {space} space",
            partial(stages.sampling, trained=f"denoiser-cifar10-32-{space}"),
            _minutes(6, 7 if space == "pixel" else 2),
            needs=(f"denoiser-cifar10-32-{space}",),
            shows={"FD-E, DDIM, 50 steps": "rows.10.quality.fd_e"},
        )
    for data in ("emoji", "cifar10"):
        yield Stage(
            f"compare-{data}-32",
            f"the whole comparison on {data}, as `ldm-course compare`",
            partial(_compare, data=data),
            _minutes(3.3, 1.9),
            networks=2,
            shows={"FD-E, pixel": "matched.3.pixel.quality.fd_e", "latent": "matched.3.latent.quality.fd_e"},
        )
    yield Stage(
        "perception-emoji-32",
        "what the stored pixel denoiser of drawings spends on invisible detail",
        content.stage_of_drawings,
        _minutes(1, 1),
        shows={"bits on the invisible": "finer_than_visible.bits", "loss": "finer_than_visible.training loss"},
    )
    yield Stage(
        "perception-scenes-32",
        "what gets through the stored autoencoder of scenes, and what probes read",
        content.stage_of_scenes,
        _minutes(5, 9),
        shows={"colour, pixels": "probes.clean.pixels.colour", "latents": "probes.clean.latents.colour"},
    )
    yield _autoencoder("cifar10", 32, 4, cpu=2, few=True)
    for space in ("pixel", "latent"):
        first = "autoencoder-cifar10-few-32-f4" if space == "latent" else None
        yield Stage(
            f"few-cifar10-32-{space}",
            f"a denoiser in {space} space, trained on {stages.FEW} pictures",
            partial(stages.denoiser, data="cifar10", size=32, autoencoder=first, few=True),
            _minutes(3, 8),
            needs=(first,) if first else (),
            shows={"loss on new pictures": "points.-1.loss_test", "on its own": "points.-1.loss_train"},
        )
    first = "autoencoder-cifar10-32-f4"
    yield Stage(
        "seeds-cifar10-32",
        f"one training in both spaces from several seeds, and at {' and '.join(map(str, stages.RATES))} times the rate",
        partial(stages.seeds, data="cifar10", size=32, autoencoder=first),
        _minutes(0.75, 10),
        networks=2 * (3 + len(stages.RATES)),
        needs=(first,),
        shows={"images": "images", "KD-E, pixel": "runs.0.points.-1.quality.kd_e"},
    )
    yield Stage(
        "noise-cifar10-32",
        "what an autoencoder, and a linear filter, make of noisy pictures",
        partial(stages.noise, data="cifar10", size=32, autoencoder=first),
        _minutes(0.2, 0.5),
        needs=(first,),
        shows={"PSNR at 0.2, noisy": "rows.3.noisy", "rebuilt": "rows.3.autoencoder", "filtered": "rows.3.wiener"},
    )
    for size, cpu in ((64, 1.5), (128, 2.0)):
        for f in (2, 4, 8):
            yield _autoencoder("emoji", size, f, cpu)
    for size, f in ((64, 4), (128, 8)):
        yield _autoencoder("scenes", size, f, cpu=1.5)
        yield from _denoisers("emoji", size, f, cpu=4, reference=5)
        yield from _denoisers("scenes", size, f, cpu=4, reference=5)
    yield Stage(
        "fine-structures-64",
        "what autoencoders leave of lines, dots, digits and gratings, by width",
        partial(stages.fine_structures, size=64),
        _minutes(1, 3),
        networks=6,
        needs=tuple(f"autoencoder-emoji-64-f{f}" for f in (2, 4, 8)),
    )


def _compare(run: Run, data: str) -> dict:
    """`compare` as a stage: its own record is taken over whole."""
    out = run.folder
    record = compare(data, run.profile, out=out, command=f"ldm-course reference --stage {run.stage}")
    shutil.copy(out / "quality.png", run.picture)
    data = record["results"]["data"] | {"source": record["data_source"]}
    return record["results"] | {"data": data}


STAGES = {stage.name: stage for stage in _all()}


def find(name: str) -> Stage:
    """The stage of that name; ValueError, which lists them, if there is none."""
    if name not in STAGES:
        raise ValueError(f"there is no stage {name!r}; there are: {', '.join(STAGES)}")
    return STAGES[name]


def known_record(stage: Stage, profile: Profile, out: Path) -> dict | None:
    """What this stage recorded, in `out` or among the stored records."""
    for folder in (out / "records", home() / "records"):
        if (folder / f"{record_name(stage.name, profile)}.json").is_file():
            return load_record(record_name(stage.name, profile), folder)
    return None


def is_finished(record: dict) -> bool:
    """Whether a stage has come to its end; a run of hours leaves records on its way."""
    return record["results"].get("finished", True)


def status(profile: Profile, out: Path) -> list[str]:
    """A line for each stage: done, when, where, from which commit, and its figures; or missing, and its time."""
    lines, missing = [], []
    stages_here = [stage for stage in STAGES.values() if stage.is_for(profile)]
    for stage in stages_here:
        record = known_record(stage, profile, out)
        if record is None or not is_finished(record):
            missing.append(stage)
        if record is None:
            text = f"missing, about {duration(stage.expected(profile))}"
        else:
            shown = ", ".join(f"{k} {_short(figure(record, f'results.{at}'))}" for k, at in (stage.shows or {}).items())
            code = record["commit"][:7] + ("*" if record["dirty"] else "")
            how = "done" if is_finished(record) else "so far"
            text = f"{how} {record['date'][:10]}, {place(record)}, {duration(record['seconds'])}, {code}: {shown}"
        lines.append(f"{stage.name:32} {text}")
    total = duration(sum(s.expected(profile) for s in missing)) if missing else "nothing"
    lines.append(
        f"{len(stages_here) - len(missing)} of {len(stages_here)} done in profile {profile.name}; left to do: {total}"
    )
    return lines


def _short(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if abs(value) < 1000 else si(value)


def run_stages(
    names: list[str] | None,
    profile: Profile,
    out: Path,
    *,
    minutes: float | None = None,
    publish: bool = False,
    say: Callable[[str], None] = print,
) -> list[str]:
    """Runs the stages `names` and what they need, or all that have no record yet; returns the names of those that
    failed.

    `minutes` takes the place of each stage's own limit of training. `publish` puts record and picture into the
    course's `records/`, and weights, where they are small, into `checkpoints/`.
    """
    for name in names or ():
        if not find(name).is_for(profile):
            raise ValueError(
                f"the stage {name} is not run in profile {profile.name}, but in {', '.join(STAGES[name].minutes)}"
            )
    here = [stage.name for stage in STAGES.values() if stage.is_for(profile)]
    wanted = here if names is None else [n for name in names for n in (*find(name).needs, name)]
    failed = []
    for name in dict.fromkeys(wanted):
        stage = STAGES[name]
        known = known_record(stage, profile, out)
        done = known is not None and is_finished(known)
        if done and (out / "records" / f"{record_name(name, profile)}.json").is_file():
            say(f"{name}: done before")
        elif done and (names is None or name not in names):
            say(f"{name}: among the stored records")
            continue
        else:
            say(f"{name}: {stage.says}; about {duration(stage.expected(profile))}")
            try:
                _run_one(stage, profile, out, minutes)
            except Exception as error:  # the others are to run all the same
                failed.append(name)
                path = out / "states" / record_name(name, profile) / "error.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(traceback.format_exc())
                say(f"{name}: FAILED, {' '.join(str(error).split()) or type(error).__name__} (all of it in {path})")
                continue
        if publish:
            _publish(stage, profile, out, say)
    return failed


def _run_one(stage: Stage, profile: Profile, out: Path, minutes: float | None) -> None:
    usual = math.inf if stages.SCALES[profile.name].long else 60 * stage.minutes[profile.name]
    limit = usual if minutes is None else 60 * minutes
    code, started = code_state(), time.perf_counter()

    def keep(results: dict) -> None:
        trained = max((point.get("seconds", 0) for point in results.get("points", [])), default=0)  # also before a stop
        record = make_record(
            run.name,
            "compare" if stage.name.startswith("compare") else "reference",
            {"stage": stage.name, **results},
            command=sys.argv,
            seconds=max(time.perf_counter() - started, trained),
            data_source=(results.get("data") or {}).get("source"),
            profile=profile.name,
            seed=0,
            config={"profile": asdict(profile), "scale": asdict(run.scale), "seconds": limit},
            device=run.device,
            code=code,
        )
        save_record(record, out / "records")

    run = Run(stage.name, profile, out, limit, default_device(), keep)
    for folder in (run.folder, run.picture.parent, run.weights().parent):
        writable_folder(folder)
    torch.backends.cudnn.benchmark = run.device.type == "cuda"  # shapes stay the same for minutes
    keep(stage.run(run))


def collect(profile: Profile, out: Path, say: Callable[[str], None] = print) -> None:
    """Publishes what the stages have left in `out` so far, and runs nothing: a run of hours may be going on there."""
    for stage in STAGES.values():
        if (out / "records" / f"{record_name(stage.name, profile)}.json").is_file():
            _publish(stage, profile, out, say)


def _publish(stage: Stage, profile: Profile, out: Path, say: Callable[[str], None]) -> None:
    name = record_name(stage.name, profile)
    for kind, suffix in (("records", "json"), ("records", "png"), ("checkpoints", "safetensors")):
        path, to = out / kind / f"{name}.{suffix}", home() / kind / f"{name}.{suffix}"
        if not path.is_file() or path.resolve() == to.resolve():
            continue
        if kind == "checkpoints":
            others = sum(p.stat().st_size for p in to.parent.glob("*.safetensors") if p != to)
            if path.stat().st_size > SMALL or others + path.stat().st_size > ALL_WEIGHTS:
                say(f"{name}: its weights, {path.stat().st_size / 2**20:.1f} MiB, stay in {path.parent}")
                continue
        with written_whole(to) as temporary:
            shutil.copyfile(path, temporary)

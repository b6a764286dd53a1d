"""The reference runs: the stages behind the course's recorded numbers, run one after another (`ldm-course reference`).

Each stage leaves a record, and where it trains, weights. What was done before is not done again, a stage that was
stopped goes on, and one that fails leaves the others alone. The same stages run at a reduced scale on a CPU, under
names of their own, so that a number never hides what it was measured on.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from ..checkpoints import load_model
from ..data.loaders import open_picture
from ..device import default_device
from ..files import PLACES, at_work_in, check_free, home, place_of, writable_folder, written_together, written_whole
from ..page.numbers import duration, number
from .profiles import Profile
from .records import code_state, figure, is_finished, load_record, make_record, place, save_record, state
from .stages import (
    autoencoders,
    calls,
    cascade,
    clip,
    comparison,
    conditions,
    cost,
    denoisers,
    few_steps,
    fine_structures,
    flow,
    latents,
    obedience,
    perception,
    prompts,
    quality,
    sampling,
    stable_diffusion,
    text2image,
    texture,
    video,
)
from .stages.base import Run, Stage, names_of, record_name, went_on_from

SMALL = 8 * 2**20  # bytes: larger weights stay out of the repository
ALL_WEIGHTS = 24 * 2**20  # bytes of all the repository's weights together


def _all() -> Iterator[Stage]:
    """In the order in which they are run: the most important first, and what is needed before what needs it."""
    yield from (*cost.STAGES, *stable_diffusion.STAGES)
    yield autoencoders.FIRST_STAGE
    yield from (*autoencoders.PHOTOGRAPHS, *denoisers.PHOTOGRAPHS, *sampling.STAGES)
    yield from (*comparison.STAGES, *texture.STAGES)
    yield from (*text2image.STAGES, *obedience.STAGES, *prompts.STAGES, *clip.STAGES, *conditions.STAGES)
    yield from denoisers.DRAWINGS
    yield from (autoencoders.FEW_PHOTOGRAPHS, *denoisers.FEW_PHOTOGRAPHS, *quality.STAGES)
    yield from (*latents.STAGES, *cascade.STAGES, *few_steps.STAGES, *video.STAGES, *flow.STAGES)
    yield from calls.STAGES
    yield from (*autoencoders.OTHER_FIRST_STAGES, *fine_structures.STAGES, *perception.STAGES)


STAGES = {stage.name: stage for stage in _all()}


def find(name: str) -> Stage:
    """The stage of that name; ValueError, which names those that are called much like it, if there is none."""
    if name not in STAGES:
        near = difflib.get_close_matches(name, STAGES, n=3, cutoff=0.4)
        meant = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"there is no stage {name!r}; {meant}`ldm-course reference --status` lists them all")
    return STAGES[name]


def known_record(stage: Stage, profile: Profile, out: Path) -> dict | None:
    """What this stage recorded, in `out` or among the stored records."""
    name = record_name(stage.name, profile)
    for path in (place_of("record", name, out), place_of("record", name)):
        if path.is_file():
            return load_record(name, path.parent)
    return None


def status(profile: Profile, out: Path, names: list[str] | None = None) -> list[str]:
    """A line for each stage, or each of these `names`: done, when, where, from which commit, and its figures; or
    missing, and its time."""
    lines, missing = [], []
    stages_here = [stage for name, stage in STAGES.items() if stage.is_for(profile) and (not names or name in names)]
    for stage in stages_here:
        record = known_record(stage, profile, out)
        if record is None or not is_finished(record):
            missing.append(stage)
        if record is None:
            text = f"missing, about {duration(stage.expected(profile))}"
        else:
            shown = ", ".join(_figures(stage, record))
            code = record["commit"][:7] + ("*" if record["dirty"] else "")
            text = f"{state(record)}, {place(record)}, {duration(record['seconds'])}, {code}: {shown}"
        lines.append(f"{stage.name:32} {text}")
    total = duration(sum(s.expected(profile) for s in missing)) if missing else "nothing"
    lines.append(
        f"{len(stages_here) - len(missing)} of {len(stages_here)} done in profile {profile.name}; left to do: {total}"
    )
    return lines


def _figures(stage: Stage, record: dict) -> Iterator[str]:
    """What `--status` prints of a record; a run of hours has not all that the same stage gives in minutes."""
    for name, at in (stage.shows or {}).items():
        try:
            yield f"{name} {number(figure(record, f'results.{at}'))}"
        except ValueError:
            continue


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
    named = [n for name in names or () for n in (*find(name).needs, name)]
    wanted = here if names is None else [n for n in named if find(n).is_for(profile)]
    own = [home(), *{place_of(kind, "x").parent for kind in PLACES}]
    for folder in (out, *(own if publish else [])):
        writable_folder(folder)
    failed = []
    for name in dict.fromkeys(wanted):
        stage = STAGES[name]
        known = known_record(stage, profile, out)
        done = known is not None and is_finished(known)
        if done and place_of("record", record_name(name, profile), out).is_file():
            say(f"{name}: done before")
        elif done and (names is None or name not in names):
            say(f"{name}: among the stored records")
            continue
        elif names is not None and name not in names and (known is not None or _has_weights(name, profile)):
            say(f"{name}: taken as far as it has come")
            continue
        else:
            say(f"{name}: {stage.says}; about {duration(stage.expected(profile))}")
            try:
                _run_one(stage, profile, out, minutes)
            except Exception as error:  # the others are to run all the same
                failed.append(name)
                path = out / "states" / record_name(name, profile) / "error.txt"
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(traceback.format_exc(), encoding="utf-8", errors="backslashreplace")
                except OSError:  # the disk may be what failed
                    path = "nowhere: it could not be written"
                say(f"{name}: FAILED, {' '.join(str(error).split()) or type(error).__name__} (all of it in {path})")
                continue
        if publish:
            _publish(stage, profile, out, say)
    return failed


def _has_weights(name: str, profile: Profile) -> bool:
    """Whether the repository has that stage's weights, of this machine or a larger one (`Run.weights`)."""
    return any(place_of("weights", called).is_file() for called in names_of(name, profile))


def _run_one(stage: Stage, profile: Profile, out: Path, minutes: float | None) -> None:
    with at_work_in(out / "states" / record_name(stage.name, profile)) as folder:
        _run_alone(stage, profile, out, minutes, folder / "new")


def _run_alone(stage: Stage, profile: Profile, out: Path, minutes: float | None, new: Path) -> None:
    """Runs a stage; what it writes into the folder `new` goes to its place together with the record. Of one that goes
    on where an earlier process stopped, the record has the seconds of all."""
    usual = math.inf if profile.scale.long else 60 * stage.minutes[profile.name]
    limit = usual if minutes is None else 60 * minutes
    code, started = code_state(), time.perf_counter()
    clock = new.parent / "seconds.json"  # of the processes before
    before = json.loads(clock.read_text()) if clock.is_file() else 0.0

    def keep(results: dict) -> None:
        clocks = [results.get("training") or {}, *results.get("points", [])]
        trained = max(clock.get("seconds", 0) for clock in clocks)  # also before a stop
        record = make_record(
            run.name,
            "compare" if stage.name.startswith("compare") else "reference",
            {"stage": stage.name, **results, **went_on_from(run)},
            command=sys.argv,
            seconds=max(before + time.perf_counter() - started, trained),
            data_source=(results.get("data") or {}).get("source"),
            profile=profile.name,
            seed=0,
            config={"profile": asdict(profile), "seconds": limit},
            device=run.device,
            code=code,
        )
        with written_together(out) as together:
            save_record(record, together / "records")
            for file in new.glob("*/[!.]*"):
                to = together / file.relative_to(new)
                to.parent.mkdir(exist_ok=True)
                file.rename(to)

    run = Run(stage.name, profile, out, limit, default_device(), keep, new)
    for folder, _ in PLACES.values():
        writable_folder(out / folder)
    check_free(*(place_of(kind, run.name, out) for kind in PLACES))
    # where a process has the GPU for itself: chosen by timing beside others, kernels have once returned rubbish
    torch.backends.cudnn.benchmark = run.device.type == "cuda" and not run.scale.long
    try:
        keep(stage.run(run))
    except BaseException:
        if any(new.parent.iterdir()):  # something to go on from
            with contextlib.suppress(OSError), written_whole(clock) as path:
                path.write_text(json.dumps(before + time.perf_counter() - started))
        raise
    clock.unlink(missing_ok=True)


def collect(profile: Profile, out: Path, names: list[str] | None = None, say: Callable[[str], None] = print) -> None:
    """Publishes what the stages, or those of these `names`, have left in `out` so far, and runs nothing: a run of hours
    may be going on there. ValueError: they have left nothing there, or what cannot be read, which is not published."""
    wanted = [stage for name, stage in STAGES.items() if names is None or name in names]
    found = [stage for stage in wanted if place_of("record", record_name(stage.name, profile), out).is_file()]
    if not found:
        raise ValueError(
            f"nothing of profile {profile.name} in {out} to publish; name the stages' folder by --out, and --profile"
        )
    for stage in found:
        _publish(stage, profile, out, say)
    say(f"published {len(found)}: {', '.join(stage.name for stage in found)}")


def _publish(stage: Stage, profile: Profile, out: Path, say: Callable[[str], None]) -> None:
    """Copies a stage's files into the course's own, all that are to be, or, with a ValueError, none: each is read."""
    name = record_name(stage.name, profile)
    load_record(name, place_of("record", name, out).parent)
    with written_together(home()) as together:
        for kind in PLACES:
            path, to = place_of(kind, name, out), place_of(kind, name)
            if not path.is_file() or path.resolve() == to.resolve():
                continue
            if kind == "weights":
                others = sum(p.stat().st_size for p in to.parent.glob("*.safetensors") if p != to)
                if path.stat().st_size > SMALL or others + path.stat().st_size > ALL_WEIGHTS:
                    say(f"{name}: its weights, {path.stat().st_size / 2**20:.1f} MiB, stay in {path.parent}")
                    continue
            if kind != "record":
                (load_model if kind == "weights" else open_picture)(path)
            new = place_of(kind, name, together)
            new.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, new)

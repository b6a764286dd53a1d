"""Run records: what was measured, and when, where, how long, from which code (the "recorded" columns).

A record is one JSON file, `records/NAME.json`, with the pictures of its run beside it. `make_record` adds
the provenance, `save_record` writes the file whole or not at all, `figure` reads one number out of it, and
`stamp` is the line that a page prints beside that number. A record holds no folder and no user name of the
machine that made it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import (
    Annotated,
    Any,
    NotRequired,  # pydantic asks for these before Python 3.12
)

import torch
from pydantic import AfterValidator, Field, JsonValue, with_config
from typing_extensions import TypedDict

from ..checks import STRICT_BUT_OPEN, Count, from_json
from ..files import MACHINES, checkout, home, readable, settled, shown, written_whole
from ..page.numbers import duration

Record = Mapping[str, Any]  # one run, as `load_record` gives it
SCHEMA = 1
PACKAGES = ("ldm_course", "torch", "torchvision", "numpy", "accelerate")
_SLUG = re.compile(r"[a-z0-9]+([-_][a-z0-9]+)*")
# An absolute path inside a text: not the // of an address, not the / of "images/s".
_PATH = re.compile(r"(?<![\w/:.~])(?:~\w*|[A-Za-z]:)?[/\\](?:[^\s/\\'\"]+[/\\])+(?P<last>[^\s/\\'\"]*)")


def _finite(values: dict) -> dict:
    try:
        json.dumps(values, allow_nan=False)
    except ValueError:
        raise ValueError("a number in it is NaN or infinite") from None
    return values


Finite = Annotated[dict[str, JsonValue], AfterValidator(_finite)]


@with_config(STRICT_BUT_OPEN)
class Machine(TypedDict):
    """What is read of the machine that a record says it was made on."""

    cpu: str
    threads: Count
    gpu: NotRequired[str | None]


@with_config(STRICT_BUT_OPEN)
class Stored(TypedDict):
    """One run, as its file holds it, and other things; no number in it is NaN or infinite."""

    schema: Annotated[int, Field(ge=1, le=SCHEMA)]
    name: str
    kind: str
    date: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d")]
    commit: str
    command: str
    seconds: Annotated[float, Field(ge=0)]
    data_source: NotRequired[str | None]
    machine: Machine
    versions: dict[str, str | None]
    config: Finite
    results: Finite


def code_state() -> dict[str, Any]:
    """`commit` of the code that runs, and `dirty`: does the code differ from that commit?

    Only code counts (`ldm_course/`, `benchmarks/`), so writing one record does not make the next one dirty.
    Outside a git checkout of this project: commit "unknown", dirty None.
    """
    root = checkout()

    def git(*words: str) -> str:
        asked = ["git", *words]
        return subprocess.check_output(asked, cwd=root, text=True, timeout=20, stderr=subprocess.DEVNULL).strip()

    try:
        # A virtual environment inside somebody's own repository must not lend us that repository's commit.
        if root is None or Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            raise OSError
        changed = git("status", "--porcelain", "--", "ldm_course", "benchmarks")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return {"commit": "unknown", "dirty": None}


def machine(device: str | torch.device | None = None) -> dict[str, Any]:
    """What the run had: system, CPU, logical cores it may use, torch's threads, memory in GiB, and the GPU.

    `device` is the run's own; None means that it took the GPU if there was one.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        memory = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        memory = None
    cuda = torch.cuda.is_available() and (device is None or torch.device(device).type == "cuda")
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": usable,
        "threads": torch.get_num_threads(),
        "memory_gib": memory,
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "gpu_memory_gib": round(torch.cuda.mem_get_info()[1] / 2**30, 1) if cuda else None,
    }


def _cpu_model() -> str:
    try:
        if sys.platform == "darwin":
            asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        return found[1].strip() if found else platform.processor() or platform.machine()
    except (OSError, subprocess.SubprocessError):
        return platform.processor() or platform.machine()


def versions(extra: Sequence[str] = ()) -> dict[str, str | None]:
    """Python's version and those of the packages that decide the numbers, and of `extra`; None: not there."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in (*PACKAGES, *extra):
        try:
            # torch's build tag (+cpu, +cu126) is only in its own attribute.
            found[name] = torch.__version__ if name == "torch" else metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    if found["ldm_course"] is None:  # run from a checkout that was not installed
        from .. import __version__

        found["ldm_course"] = __version__
    return found


def typed_command(argv: Sequence[str] | str | None = None) -> str:
    """A command as one types it: `ldm-course train --data emoji`, with every folder cut to its last name.

    `argv` is a list of words, a whole line, or None for the words this process was started with.
    """
    if isinstance(argv, str):
        try:
            words = shlex.split(argv)
        except ValueError:  # an apostrophe in free text
            words = argv.split()
    else:
        words = list(sys.argv if argv is None else argv)
    if words and re.search(r"(ldm_course[/\\](cli[/\\])?(cli|__main__)\.py|[/\\]ldm-course(\.exe)?)$", words[0]):
        words[0] = "ldm-course"
    elif words and words[0].endswith(".py"):
        words.insert(0, "python")
    return " ".join(shlex.quote(_short(word)) for word in words)


def _short(word: str) -> str:
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    if re.match(r"(~|\.\.|[A-Za-z]:)?[/\\]", value):
        parts = re.split(r"[/\\]", value.rstrip("/\\"))
        # A script's folder in the repository is part of what one types.
        value = "/".join(parts[-2:] if "benchmarks" in parts[-2:-1] else parts[-1:])
    return option + equals + value


def make_record(
    name: str,
    kind: str,
    results: Mapping[str, Any],
    *,
    command: str | Sequence[str],
    seconds: float,
    data_source: str | None = None,
    profile: str | None = None,
    seed: int | None = None,
    config: Any = None,
    device: str | torch.device | None = None,
    packages: Sequence[str] = (),
    code: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One run with its provenance, ready for `save_record`; made when the run ends.

    `name` is the file's name (lower-case letters, digits, single - or _ between); `kind` the sort of run
    ("train", "compare", "speed", …); `results` nests mappings, lists, numbers, texts, dataclasses and small
    tensors; `command` is what to type to get it again; `seconds` how long it took; `config` the settings;
    `device` where it ran (None: on the GPU if there is one); `packages` more names whose versions matter; `code`
    what `code_state` said when the run began (None: what it says now).
    A number that is not finite is stored as null. ValueError: a name that is no slug, what JSON cannot hold.
    """
    record = {
        "schema": SCHEMA,
        "name": checked_name(name),
        "kind": kind,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **(code or code_state()),
        "command": typed_command(command),
        "seconds": round(float(seconds), 3),
        "profile": profile,
        "seed": seed,
        "data_source": data_source,
        "machine": machine(device),
        "versions": versions(packages),
        "config": {} if config is None else config,
        "results": results,
    }
    return _plain(record, "record")


def slug(name: str) -> str:
    """What the name of a data set, which may be a path, gives to the name of a record: `My cats/` gives my-cats."""
    return re.sub(r"[^a-z0-9]+", "-", Path(name).stem.lower()).strip("-")[:50].strip("-") or "data"


def checked_name(name: str) -> str:
    """The name, if it is one for a record; else ValueError."""
    if not isinstance(name, str) or len(name) > 100 or not _SLUG.fullmatch(name):
        raise ValueError(f"record name {name!r} is no file name; use lower-case letters, digits, single - or _ between")
    return name


def _plain(value: Any, where: str) -> Any:
    """`value` in JSON's terms."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}.{i}") for i, item in enumerate(value)]
    if hasattr(value, "tolist"):  # a tensor, an array, a numpy number
        return _plain(value.tolist(), where)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return shown(Path(value).name)
    if isinstance(value, (str, torch.dtype, torch.device)):
        text = str(value).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")  # names of files
        return _PATH.sub(lambda found: found["last"], text)
    raise ValueError(f"{where} is a {type(value).__name__}, which JSON cannot hold; give numbers, texts, lists")


def save_record(record: Mapping[str, Any], folder: str | os.PathLike) -> Path:
    """Writes `folder/NAME.json`, whole or not at all, over an older one of that name; returns its path.

    The caller always names the folder: nothing writes into the stored records by default.
    """
    path = Path(folder) / f"{checked_name(record.get('name'))}.json"
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def load_record(name: str, folder: str | os.PathLike | None = None) -> dict[str, Any]:
    """The record of that name from `folder` (by default the stored ones).

    ValueError, in one line: there is none, the file is broken, or it is newer than this package.
    """
    folder = settled(home() / "records" if folder is None else folder)
    path = folder / f"{checked_name(name)}.json"
    if not path.exists():
        known = ", ".join(list_records(folder=folder)) or "none"
        raise ValueError(f"there is no record {name!r}; the records here are: {known}")
    try:
        record = from_json(Stored, readable(path).read_bytes())
    except (ValueError, OSError) as error:
        again = "restore the file or make it again, and if it is newer than this package, update that"
        raise ValueError(f"record {name!r} cannot be read from {path.name} ({error}); {again}") from None
    if record["name"] != name:
        raise ValueError(f"{path.name} holds a record named {record['name']!r}; rename the file")
    return record


class NotRecorded(ValueError):
    """There is no record of a stage, on any kind of machine."""


def recorded(stage: str) -> dict[str, Any]:
    """The stored record of a reference stage, from the first of MACHINES that it was run on. NotRecorded: it was run on
    none."""
    return recorded_together(stage)[0]


def recorded_together(*stages: str) -> list[dict[str, Any]]:
    """The stored records of several stages, all from one kind of machine, the largest that has them all; what is
    reckoned from several records must not mix machines. NotRecorded: there is no such kind."""
    names = list_records()
    for profile in MACHINES:
        wanted = [f"{stage}-{profile}" for stage in stages]
        if set(wanted) <= set(names):
            return [load_record(name) for name in wanted]
    for stage in stages:
        if not {f"{stage}-{profile}" for profile in MACHINES} & set(names):
            raise NotRecorded(f"{stage} has not been recorded yet; run: ldm-course reference --stage {stage} --publish")
    raise NotRecorded(f"{' and '.join(stages)} have not been recorded on one kind of machine yet")


def if_recorded(*stages: str) -> list[dict[str, Any]] | list[None]:
    """As `recorded_together`, for a page that goes on without them: prints what is missing, and gives None for each."""
    try:
        return recorded_together(*stages)
    except NotRecorded as missing:
        print(missing)
        return [None] * len(stages)


def list_records(kind: str | None = None, folder: str | os.PathLike | None = None) -> list[str]:
    """The names of the records in `folder` (by default the stored ones), in order; of one `kind` if given."""
    folder = settled(home() / "records" if folder is None else folder)
    names = sorted(path.stem for path in folder.glob("*.json") if _SLUG.fullmatch(path.stem))
    return names if kind is None else [name for name in names if load_record(name, folder)["kind"] == kind]


def by_kind(stage: str) -> dict[str, dict[str, Any]]:
    """The stored records of a reference stage by the kind of machine, the largest first; empty where it has none."""
    names = set(list_records())
    return {kind: load_record(f"{stage}-{kind}") for kind in MACHINES if f"{stage}-{kind}" in names}


def longest(*stages: str) -> dict[str, dict[str, Any]]:
    """Those of the stages, by name, that have been recorded, each from the largest kind of machine that it has. To be
    compared with care: one may have run for hours and its neighbour for minutes (`on_one_kind`)."""
    kinds = {stage: by_kind(stage) for stage in stages}
    return {stage: next(iter(of.values())) for stage, of in kinds.items() if of}


def on_one_kind(*stages: str) -> dict[str, dict[str, Any]]:
    """Those of the stages, by name, that were recorded on the largest kind of machine that has any of them.

    For what stands side by side: a run of hours is shown though its counterpart is still missing, and never beside one
    of minutes. Empty where none is recorded.
    """
    found = {stage: by_kind(stage) for stage in stages}
    kind = next((kind for kind in MACHINES if any(kind in of for of in found.values())), None)
    return {stage: of[kind] for stage, of in found.items() if kind in of}


def is_finished(record: Mapping[str, Any]) -> bool:
    """Whether a stage has come to its end; a run of hours leaves records on its way."""
    return record["results"].get("finished", True)


def state(record: Mapping[str, Any]) -> str:
    """How far a stage has come, and when that was: "done 2025-03-01", or "so far 2025-03-01"."""
    return f"{'done' if is_finished(record) else 'so far'} {record['date'][:10]}"


def figure(record: Mapping[str, Any], where: str) -> Any:
    """One entry of a record by its place: `figure(record, "results.pixel.fd_e")`.

    Of a list it takes the one entry that holds what is asked for, `results.rows[method=ddim,steps=50].quality.fd_e`,
    numbers compared as numbers, or the last one, `results.points[last].images`.
    ValueError: there is no such entry, or more than one (it says what there is), or the run gave no finite number
    there.
    """
    name, value, at = record.get("name", "?"), record, ""
    for step in re.split(r"\.(?![^\[]*\])|(?=\[)", where):  # at dots, but for those in brackets, and before a bracket
        try:
            value = _entry(value, step)
        except ValueError as there:
            raise ValueError(f"record {name!r} has no {where}; {at or 'the record'} has: {there}") from None
        at += step if step.startswith("[") or not at else f".{step}"
    if value is None:
        raise ValueError(f"record {name!r} has no value at {where}; the run gave no finite number there")
    return value


def _entry(value: Any, step: str) -> Any:
    """One step of a place: a name, or a list's entry in brackets. ValueError: what there is instead."""
    if isinstance(value, Mapping):
        if step in value:
            return value[step]
        raise ValueError(", ".join(value) or "nothing")
    if not isinstance(value, list):
        raise ValueError(f"only {value!r}")
    if step == "[last]" and value:
        return value[-1]
    wanted = re.findall(r"([^\[\],=]+)=([^\[\],]*)", step)
    if wanted and all(isinstance(row, Mapping) for row in value):
        return only(value, **{key: _as_number(text) for key, text in wanted})
    raise ValueError(f"{len(value)} entries; take one by [name=value], or [last]")


def _as_number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def only(rows: Sequence[Mapping[str, Any]], **wanted: Any) -> Mapping[str, Any]:
    """The one row that holds what is `wanted`: `only(results["matched"], match="images")`.

    ValueError: none does (it says what there is), or several do (it says in what they differ).
    """
    found = [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]
    if len(found) == 1:
        return found[0]
    says = ", ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in wanted.items()
    )
    if found:
        differ = [key for key in found[0] if any(row.get(key) != found[0][key] for row in found)]
        raise ValueError(f"{len(found)} rows with {says}; they differ in {', '.join(differ) or 'nothing'}")
    there = (f"{key}={', '.join(dict.fromkeys(str(row[key]) for row in rows if key in row))}" for key in wanted)
    raise ValueError(f"no row with {says}, but {'; '.join(there)}")


def place(record: Mapping[str, Any]) -> str:
    """The machine of a run: its GPU, or its CPU and how many threads it took."""
    had = record["machine"]
    threads = "1 thread" if had["threads"] == 1 else f"{had['threads']} threads"
    return had.get("gpu") or f"{had['cpu']} ({threads})"


def stamp(record: Mapping[str, Any]) -> str:
    """The line beside a stored number: recorded on 2025-03-01, on Tesla T4, in 4 min, from commit 1a2b3c4."""
    return _origin(record, f"in {duration(record['seconds'])}, ")


def stamps(found: Iterable[Mapping[str, Any]]) -> str:
    """The line beside numbers of several records: those of one origin by name, and once what `stamp` says of them, but
    for how long they took."""
    names: dict[str, list[str]] = {}
    for record in found:
        names.setdefault(_origin(record), []).append(record["name"])
    return "; ".join(f"{', '.join(dict.fromkeys(of))}: {origin}" for origin, of in names.items())


def named_stamps(found: Mapping[str, Mapping[str, Any] | None]) -> str:
    """The line beside numbers of several records, each by the name that the page gives it, with its own `stamp`; empty
    where none of them is recorded."""
    return "; ".join(f"{name}: {stamp(record)}" for name, record in found.items() if record)


def _origin(record: Mapping[str, Any], took: str = "") -> str:
    where = place(record)
    if record["commit"] == "unknown":
        code = f"from version {record['versions'].get('ldm_course')}"
    else:
        code = f"from commit {record['commit'][:7]}" + (" with changes" if record.get("dirty") else "")
    copy = ", on a JPEG copy of CIFAR-10" if _jpeg(record) else ""
    return f"recorded on {record['date'][:10]}, on {where}, {took}{code}{copy}"


def _jpeg(record: Mapping[str, Any]) -> bool:
    return "JPEG" in (record.get("data_source") or "")


def data_note(*found: Mapping[str, Any]) -> str:
    """What must be known of the data of these records, wherever their numbers stand; empty if there is nothing."""
    jpeg = next((record["data_source"] for record in found if _jpeg(record)), None)
    if jpeg is None:
        return ""
    return (
        f"{jpeg}: the pictures here are copies that JPEG has compressed. That took fine detail away before anything "
        "was measured, which makes the autoencoder's work easier, and hides a part of what C4.1 is about."
    )

"""Chapter 9 in one table: the main rows of its five stages beside the course's own denoisers, all from records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..checks import from_json
from ..config import AutoencoderConfig
from ..page.numbers import NONE, kd_e, plus_minus, si
from ..page.numbers import seconds as shown_seconds
from . import cascades, flows, moving, one_step, records
from .stages.autoencoders import FIRST_STAGE
from .stages.calls import Call, measured, seconds_of
from .tables import Record, Table

HEAD = ["section", "method", "space", "parameters", "training", "calls", "time a picture", "KD-E", "FD-E", "pictures"]


@dataclass(frozen=True)
class Row:
    """One method: what its network took, what a picture takes, and how its pictures were judged.

    `training` in FLOPs, of this training alone; `evaluations` of the network for a picture, or a clip; `seconds` a
    picture, decoder included, None where the stage does not time it; `quality` as `distances.evaluate` gives it;
    `calls`, how often each network is called for one picture, or one frame of a clip.
    """

    section: str
    method: str
    space: str
    parameters: int
    training: float
    evaluations: int
    seconds: float | None
    quality: Mapping
    calls: Mapping[Call, float] = field(default_factory=dict)

    def cells(self) -> list[str]:
        q = self.quality
        return [
            self.section,
            self.method,
            self.space,
            si(self.parameters),
            si(self.training, "FLOP"),
            str(self.evaluations),
            NONE if self.seconds is None else shown_seconds(self.seconds),
            kd_e(q),
            plus_minus(q["fd_e"], q.get("fd_e_error"), 0),
            f"{q['n_generated']:,}",
        ]


def _at(results: Mapping, size: int | None = None) -> str:
    """The data of a row, as its section's name goes on: a distance compares only within one kind of pictures."""
    return f"{results['data']['name']} at {size or results['data']['size']}"


def _own(record: Record) -> list[Row]:
    """A denoiser at its end; seconds by the stage on its samplers, where the same machine has judged the same steps."""
    r = record["results"]
    method, steps = r["sampler"].split()[0].removesuffix(","), int(r["sampler"].split()[1])
    space, timed = r["space"], record["name"].replace("denoiser-", "sampling-")
    found = records.load_record(timed)["results"]["rows"] if timed in records.list_records() else []
    seconds = next((x["seconds_picture"] for x in found if (x["method"], x["steps"]) == (method, steps)), None)
    spent, last = r["training"]["flops"], r["points"][-1]["quality"]
    named, calls = f"U-Net, {method.upper()}", {Call.of(r["network"], r["shape"][-1]): steps}
    if r["first_stage"]:
        calls[Call.decoder(r["first_stage"]["record"], r["data"]["size"])] = 1
    return [Row(f"own, {_at(r)}", named, space, r["parameters"], spent, steps, seconds, last, calls)]


def _latents(record: Record) -> list[Row]:
    """The standard autoencoder, and those whose latents are drawn best and worst."""
    r = record["results"]
    order = sorted(r["rows"], key=lambda row: row["quality"]["kd_e"])
    standard = [row for row in order if row["method"] == "standard"]
    kept = {row["method"]: row for row in (*standard, order[0], order[-1])}
    return [
        Row(
            f"9.1, {_at(r)}",
            f"autoencoder: {name}",
            "latent",
            row["denoiser"]["parameters"],
            row["training_flops"],
            r["steps"],
            None,
            row["quality"],
            {
                Call.of(r["network"], row["shape"][-1], **_channels(row["shape"][0])): r["steps"],
                Call.of(row["autoencoder"]["network"], r["data"]["size"], "decoder"): 1,
            },
        )
        for name, row in kept.items()
    ]


def _channels(of: int) -> dict[str, int]:
    return {"in_channels": of, "out_channels": of}


def _cascade(record: Record) -> list[Row]:
    """The cascade at its best and at its fewest steps, and one network of as many FLOPs."""
    r, one = record["results"], record["results"]["one"]
    best, least = cascades.best(record), min(cascades.drawn(record), key=lambda row: row["evaluations"])
    steps = {" + ".join(map(str, row["options"]["steps"])): row for row in (best, least)}
    return [
        Row(
            f"9.2, {_at(r)}",
            f"cascade, {name} steps",
            "pixel",
            r["parameters"],
            r["training"]["flops"],
            row["evaluations"],
            None,
            row["quality"],
            {Call.of(of["network"], of["size"]): n for of, n in zip(r["stages"], row["options"]["steps"], strict=True)},
        )
        for name, row in steps.items()
    ] + [
        Row(
            f"9.2, {_at(r)}",
            "one network for the largest side",
            "pixel",
            one["parameters"],
            one["training_flops"],
            one["steps"],
            None,
            one["quality"],
            {Call.of(one["network"], one["size"]): one["steps"]},
        )
    ]


def _few_steps(record: Record) -> list[Row]:
    """In either space the teacher at its fewest and most DDIM steps, the network that it taught at each number, and the
    one without a teacher in one step."""
    r = record["results"]
    most = max(row["steps"] for row in r["rows"] if row["method"] == "teacher")
    kept = [
        row
        for row in r["rows"]
        if row["method"] == "distilled"
        or (row["method"] == "without a teacher" and row["steps"] == 1)
        or (row["method"] == "teacher" and row["sampler"] == "ddim" and row["steps"] in (1, most))
    ]
    return [
        Row(
            f"9.3, {_at(r)}",
            row["method"],
            row["space"],
            row["parameters"],
            row["training_flops"],
            row["steps"],
            row["seconds_picture"],
            row["quality"],
            one_step.calls(record, row),
        )
        for row in kept
    ]


def _latents_of(decoder: Call) -> tuple[int, int]:
    """Channels and side of what it decodes."""
    config = from_json(AutoencoderConfig, decoder.config, "config")
    return config.latent_channels, decoder.side // config.downsample


def _video(record: Record) -> list[Row]:
    """All that was drawn; frames are judged, one by one, and calls are those for a frame."""
    r = record["results"]
    frames, first = r["data"]["frames"], records.recorded(FIRST_STAGE.name)["name"]

    def calls(row: Mapping) -> dict[Call, float]:
        decoder, latent = Call.decoder(first, row["size"]), row["space"] == "latent"
        channels, side = _latents_of(decoder) if latent else (3, row["size"])
        image = r["network"] | _channels(channels)
        if row["network"] == "clips":
            network = Call.of({"unet": image, "frames": frames}, side, "clips")
        else:
            network = Call.of(image, side)
        shared = 1 / frames  # of what is done once for a clip
        found = {network: row["evaluations"] * (1 if row["method"] == moving.ALONE else shared)}
        if latent:
            found[decoder] = shared if row["method"] == moving.STILL else 1
        return found

    return [
        Row(
            f"9.4, frames at {row['size']}",
            row["method"],
            row["space"],
            row["parameters"],
            row["training_flops"],
            row["evaluations"],
            None,
            row["quality"]["frames"],
            calls(row),
        )
        for row in r["rows"]
        if "evaluations" in row
    ]


def _flow(record: Record) -> list[Row]:
    """Every method at its most evaluations by Euler's method."""
    r = record["results"]
    decoder = Call.decoder(r["first_stage"]["record"], size := r["data"]["size"])

    def calls(row: Mapping) -> dict[Call, float]:
        network, latent = r["methods"][row["method"]]["network"], row["space"] == "latent"
        called = Call.of(network, _latents_of(decoder)[1] if latent else size)
        return {called: row["evaluations"]} | ({decoder: 1} if latent else {})

    return [
        Row(
            f"9.5, {_at(r)}",
            name.removeprefix(f"{row['space']} "),
            row["space"],
            row["parameters"],
            row["training_flops"],
            row["evaluations"],
            None,
            row["quality"],
            calls(row),
        )
        for name, row in flows.last_rows(record).items()
    ]


STAGES: dict[str, Callable[[Record], list[Row]]] = {
    "denoiser-cifar10-32-pixel": _own,
    "denoiser-cifar10-32-latent": _own,
    "denoiser-emoji-64-pixel": _own,
    "denoiser-emoji-64-latent": _own,
    "latents-emoji-64": _latents,
    "cascade-emoji-64": _cascade,
    "few-steps-cifar10-32": _few_steps,
    "video-scenes-64": _video,
    "flow-cifar10-32": _flow,
}


def rows(stages: Sequence[str] = tuple(STAGES)) -> tuple[list[Row], list[Record], list[str]]:
    """The rows of these stages, the records that they are from, and the stages of which there is no finished one."""
    found, used, missing = [], [], []
    for name in stages:
        try:
            record = records.recorded(name)
        except records.NotRecorded:
            missing.append(name)
            continue
        # a denoiser's record is of use at every mark of its training, the others' when all is judged
        if not (records.is_finished(record) or STAGES[name] is _own):
            missing.append(name)
            continue
        found += STAGES[name](record)
        used.append(record)
    return found, used, missing


def timed(of: Sequence[Row]) -> tuple[list[Row], list[Record]]:
    """These rows with the seconds that their calls take, where all of them have been measured (`stages.calls`), so that
    one way to take the time is used for all, and the record of it; as they are where there is none."""
    known, used = measured()
    found = ((row, seconds_of(row.calls, known)) for row in of)
    return [row if seconds is None else replace(row, seconds=seconds) for row, seconds in found], used


def table(of: Iterable[Row]) -> Table:
    """These rows as a table."""
    return HEAD, [row.cells() for row in of]


def left_out(missing: Sequence[str]) -> str:
    """One line on what is missing; empty where nothing is."""
    return f"Not recorded yet, and left out: {', '.join(missing)}." if missing else ""

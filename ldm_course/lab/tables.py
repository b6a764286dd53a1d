"""The reference stages' records as tables: who is ahead, the source's table made anew, what was trained for how long.

All of it is computed from the records, as in `figures`; a cell for which there is no record yet is "–".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from ..measure import cost_model
from ..measure.complexity import count_parameters
from ..networks.unet import UNet
from ..page.numbers import NONE, duration, kd_e, seconds, si, times
from .claims import lead
from .claims.learnt import Budget, at_equal_budget
from .claims.rates import Rates, measured_as, picture_seconds
from .profiles import PROFILES
from .records import Record, by_kind, is_finished, longest, place, state
from .reference import STAGES
from .report import QUALITY_HEAD, quality
from .stages.autoencoders import USED

Table = tuple[list[str], list[list[str]]]  # head, rows
INCLUDED = ", first stage included"


# ------------------------------------------------------------------------------------------------- who is ahead


def leads(pixel: Record, latent: Record, first: Record, speeds: Mapping[str, Rates]) -> Table:
    """Who is nearer to real pictures when both have spent the same, by KD-E: a row for each way to count it.

    How many of the marks within the common range each space leads resolvably, where pixels take the lead for good, and
    images and KD-E at the largest common budget. `first`: the record of the latent's first stage; `speeds`: rates by
    the name of the machine.
    """
    p, z, own = (record["results"] for record in (pixel, latent, first))
    budgets = {"images": lead.IMAGES, "FLOPs": lead.flops(), "FLOPs" + INCLUDED: lead.flops(z["first_stage"])}
    for where, rates in speeds.items():
        budgets |= {f"seconds, {where}": lead.seconds(rates), f"seconds, {where}{INCLUDED}": lead.seconds(rates, own)}
    head = ["at the same", "latent nearer", "pixels nearer", "undecided", "pixels take the lead at"]
    head += [f"{space}, {what}" for what in ("images", "KD-E") for space in ("pixel", "latent")]
    return head, [_lead_row(name, budget, p, z) for name, budget in budgets.items()]


def _lead_row(name: str, budget: Budget, pixel: Mapping, latent: Mapping) -> list[str]:
    marks = lead.leads(budget, pixel["points"], latent["points"])
    pair = at_equal_budget(budget, pixel["points"], latent["points"])
    if pair is None:
        return [name, *[NONE] * 8]
    sides = [sum(m.resolved and (m.by > 0) == first for m in marks) for first in (True, False)]
    ends = [si(point["images"]) for point in pair]
    kd = [kd_e(point["quality"]) for point in pair]
    return [name, *map(str, sides), str(len(marks) - sum(sides)), _crossing(lead.crossing(marks)), *ends, *kd]


def _crossing(found: lead.Crossing | None) -> str:
    if found is None:
        return NONE
    return si(found.at) + ("" if found.low is None else f" ({si(found.low)} to {si(found.high)})")


# ------------------------------------------------------------------------------------ the source's table, made anew

SOURCE_BATCH = 64  # images that its seconds are for
SOURCE = {  # its seconds and its FID, by space, sampler and steps: C2.3 and C2.4
    ("pixel", "ddpm", 1000): (11.10, "90.93"),
    ("pixel", "ddim", 100): (0.82, "88.91"),
    ("latent", "ddim", 50): (1.41, "85 to 90"),
}
AT_EQUAL_STEPS = (("pixel", "ddim", 50), ("latent", "ddim", 100), ("latent", "ddpm", 1000))


def source_table(sampling: Mapping[str, Record], denoisers: Mapping[str, Record], costs: Mapping[str, Record]) -> Table:
    """The source's three rows, and each space at the other's steps: what it claims, beside what is recorded.

    Seconds a picture, decoder included, are of the stage `cost`, by the name of its machine, with precision and batch;
    FD-E and KD-E of the stages `sampling`, by space, at the largest count that all rows were judged at (FD-E falls with
    it); epochs of the `denoisers`, by space, "≤" where these have been trained further since.
    """
    judged = {
        (space, row["method"], row["steps"]): row
        for space, record in sampling.items()
        for row in record["results"]["rows"]
    }
    wanted = [*SOURCE, *AT_EQUAL_STEPS]
    counted = _at_one_count({key: judged[key] for key in wanted if key in judged})
    timed = {where: _timed(record) for where, record in costs.items()}
    body = []
    for space, method, steps in wanted:
        key = space, method, steps
        claimed, fid = SOURCE.get(key, (None, NONE))
        each = [NONE if claimed is None else seconds(claimed / SOURCE_BATCH), fid]
        for rows in timed.values():
            taken = picture_seconds(rows[space], steps) if space in rows else None
            each.append(NONE if taken is None else f"{seconds(taken)} ({measured_as(rows[space])})")
        found = quality(counted[key]) if key in counted else [NONE] * 3
        epochs = _epochs_when_drawn(sampling.get(space), denoisers.get(space))
        body.append([f"{space}, {method.upper()}", str(steps), *each, *found, epochs])
    taken = [f"seconds a picture, {where}" for where in timed]
    head = [
        "",
        "steps",
        "claimed: seconds a picture",
        "claimed: FID, which is not FD-E",
        *taken,
        *QUALITY_HEAD,
        "epochs",
    ]
    return head, body


def _timed(cost: Record) -> dict[str, Mapping]:
    """The stage's rows at 32 a side, in pixels and at f = 4, as far as it has them."""
    rows = cost_model.rows(cost["results"])
    return {space: rows[32, f] for space, f in (("pixel", 1), ("latent", 4)) if (32, f) in rows}


def _at_one_count(rows: Mapping[tuple, Mapping]) -> dict[tuple, Mapping]:
    """Each row's quality at the largest count of pictures that all have; where there is none, each its own."""
    sets = {
        key: {q["n_generated"]: q for q in (row["quality"], row.get("quality_few")) if q} for key, row in rows.items()
    }
    common = set.intersection(*map(set, sets.values())) if sets else set()
    return {key: of[max(common)] if common else rows[key]["quality"] for key, of in sets.items()}


def _epochs_when_drawn(sampling: Record | None, denoiser: Record | None) -> str:
    if sampling is None or denoiser is None:
        return NONE
    since = "≤ " if denoiser["date"] > sampling["date"] else ""
    return since + _epochs(denoiser["results"]["training"]["epochs"])


# ------------------------------------------------------------------------------------------------ what was trained


@dataclass(frozen=True)
class Trained:
    """What a stage trained: so many `networks`, each on `images` pictures of `wanted` (None: it ended by the clock) in
    `epochs`, all of them in `seconds` by the stage's own clock; None where it keeps no such number."""

    networks: int
    images: int
    wanted: int | None
    epochs: float | None
    seconds: float | None


def trained(record: Record) -> Trained | None:
    """What the stage of this record has trained, if it trains anything. A comparison, whose trainings end by the clock
    and have a table of their own, counts as none."""
    r = record["results"]
    size = (r.get("data") or {}).get("train")
    if record["kind"] == "train":  # by `ldm-course train`, which keeps no count of the data
        return Trained(1, r["images"], None, None, r["seconds"])
    if "training" in r:
        t = r["training"]
        return Trained(1, t["images"], t.get("wanted_images"), t.get("epochs"), t["seconds"])
    if "variants" in r:
        of = list(r["variants"].values())
        seen = r["variants"][USED]
        images, whole = seen["training_images"], sum(v["training_seconds"] for v in of)
        return Trained(len(of), images, seen.get("wanted_images"), images / size if size else None, whole)
    if "runs" in r:
        ends = [run["points"][-1] for run in r["runs"] if run["points"]]
        images = max((end["images"] for end in ends), default=0)
        whole = sum(end["seconds"] for end in ends)
        return Trained(len(r["runs"]), images, None, images / size if size else None, whole)
    if "ways" in r:
        images = [way["images"] for way in r["ways"] if "images" in way]
        return Trained(len(images), max(images, default=0), None, None, None)
    return None


def trainings() -> Table:
    """Each stage that trains, as far as it is recorded, by its longest record: images, epochs, time, machine, state."""
    body = []
    for name, record in longest(*STAGES).items():
        of = trained(record)
        if not of:
            continue
        images = f"{of.images:,}" + ("" if is_finished(record) or of.wanted is None else f" of {of.wanted:,}")
        time = NONE if of.seconds is None else duration(of.seconds)
        body.append([name, str(of.networks), images, _epochs(of.epochs), time, place(record), state(record)])
    return ["stage", "networks", "images, each", "epochs", "trained for", "machine", "state"], body


def _epochs(count: float | None) -> str:
    return NONE if count is None else f"{count:,.0f}" if count >= 100 else f"{count:.3g}"


def stages(kinds: Sequence[str] = ("reference", "hours", "cpu")) -> Table:
    """All stages: how far each has come on each kind of machine; missing, or "–" where it is not run on that kind."""
    body = []
    for name, stage in STAGES.items():
        found = by_kind(name)
        none = {kind: "missing" if stage.is_for(PROFILES[kind]) else NONE for kind in kinds}
        body.append([name, *(state(found[kind]) if kind in found else none[kind] for kind in kinds)])
    return ["stage", *kinds], body


def kinds(names: Sequence[str] = ("reference", "hours", "cpu")) -> Table:
    """The kinds of machine: the U-Net that is trained there, its batch, how many images the longest training sees,
    how many pictures are judged, and how many stages are done, on their way, and missing."""
    body = []
    for name, column in zip(names, list(zip(*stages(names)[1]))[1:]):
        p = PROFILES[name]
        size = f"{count_parameters(UNet(p.unet)) / 1e6:.1f} M"
        images = f"{p.scale.images:,}" if p.scale.long else "by the clock"
        far = [sum(cell.startswith(word) for cell in column) for word in ("done", "so far", "missing")]
        body.append([name, size, str(p.batch_size), images, str(p.eval_count), *map(str, far)])
    head = ["", "U-Net", "batch", "CIFAR-10, images", "pictures judged", "stages done", "so far", "missing"]
    return head, body


# ----------------------------------------------------------------------------------------------- at their ends


def denoisers(runs: Mapping[str, Record]) -> Table:
    """Denoisers at their ends, by label: what they have seen and spent, the first stage's FLOPs beside theirs, and the
    quality of what they draw."""
    body = []
    for label, record in runs.items():
        r = record["results"]
        t, first = r["training"], r["first_stage"]
        paid = NONE if first is None else si(first["training_flops"], "FLOP")
        spent = [si(t["images"]), _epochs(t["epochs"]), si(t["flops"], "FLOP"), paid]
        body.append([label, *spent, *quality(r["points"][-1]["quality"]), state(record)])
    return ["", "images", "epochs", "FLOPs", "+ first stage", *QUALITY_HEAD, "state"], body


MEASURES = {  # of an autoencoder: what stands in a table's cell, from what was judged of one set
    "PSNR, dB": lambda judged: f"{judged['psnr']:.1f}",
    "KD-E": lambda judged: kd_e(judged["reconstruction"]),
}


def autoencoders(records: Sequence[Record], measure: str) -> Table:
    """A row for each autoencoder: f, channels, how many times fewer values, loss, what it was trained on and for how
    long; and `measure`, one of MEASURES, on each set of held-out pictures that any was judged on.

    ValueError: no such measure.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure={measure!r}; expected one of {', '.join(MEASURES)}")
    lines = [line for record in records for line in _autoencoder_lines(record)]
    sets = list(dict.fromkeys(name for _, judged in lines for name in judged))
    body = [
        [*cells, *(MEASURES[measure](judged[name]) if name in judged else NONE for name in sets)]
        for cells, judged in lines
    ]
    return ["", "fewer values", "loss", "trained on", "images, each", *sets], body


def _autoencoder_lines(record: Record) -> list[tuple[list[str], Mapping[str, Mapping]]]:
    """A pair for each loss: the cells that describe the autoencoder, and what was judged, by set."""
    r = record["results"]
    f, c, data = r["f"], r["network"]["latent_channels"], r["data"]
    of = "crops" if r["stage"].startswith("first-stage") else data["name"]
    of += f", {data['train']:,}" if "few" in r["stage"] else ""
    lines = []
    for loss, v in r["variants"].items():
        cells = [f"f = {f}, c = {c}", times(3 * f * f, c), loss, of, f"{v['training_images']:,}"]
        lines.append((cells, v.get("held_out") or {f"{data['name']} at {data['size']}": v}))
    return lines


def overfitting(runs: Mapping[str, Record]) -> Table:
    """Denoisers of few pictures, by space: where held-out loss is lowest, and at the end both losses and the share of
    drawn pictures that are nearer to a training picture than to any of as many held-out ones, beside what chance gives.
    """
    body = []
    for space, record in runs.items():
        points, t = record["results"]["points"], record["results"]["training"]
        low, last = min(points, key=lambda p: p["loss_test"]), points[-1]
        share = f"{last['copied']:.0%}" if "copied" in last else NONE
        chance = f"50 ± {100 * last['copied_error']:.0f} %" if "copied" in last else NONE
        losses = [f"{last[name]:.3f}" for name in ("loss_train", "loss_test")]
        body.append([space, si(t["images"]), _epochs(t["epochs"]), si(low["images"]), *losses, share, chance])
    head = ["", "images", "epochs", "held-out loss lowest after", "loss, training", "loss, held out"]
    return [*head, "nearer to a training picture", "by chance"], body


def redraws(record: Record) -> Table:
    """The same network, drawn from again and again: each distance's mean, its scatter over the draws, the error that
    each draw stated (root mean square), and the ratio of the two with its own error."""
    r = record["results"]
    body = []
    for name, shown in (("kd_e", "KD-E"), ("fd_e", "FD-E")):
        values, errors = ([q[entry] for q in r["draws"]] for entry in (name, f"{name}_error"))
        stated = math.sqrt(fmean(e**2 for e in errors))
        ratio = r["over_stated"][name]
        cells = [f"{x:.3g}" for x in (fmean(values), stdev(values), stated)]
        body.append([shown, *cells, f"{ratio:.2f} ± {ratio * r['expected_error']:.2f}"])
    return ["", "mean", "scatter of the draws", "error stated by a draw", "scatter over stated"], body

"""The reference stages' records as figures and tables (the page on the reference runs, and chapters 2 to 7).

Like `report` for the comparison: all of it is computed from the records, so that a page shows a CPU's run and a GPU's
alike. A figure takes records by the label that they are to have.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from statistics import fmean

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter
from PIL import Image

from ..diffusion.samplers import CALLED
from ..files import place_of
from ..measure import cost_model, stability, structures
from ..page import plotting
from ..page.numbers import NONE, duration, si, times
from .claims import lead
from .claims.learnt import Budget
from .claims.rates import Rates, picture_seconds, rates
from .claims.verdicts import gain
from .records import Record, stamp

MARKERS = {"ddpm": "o", "ddim": "s", "dpmpp": "^"}
# Hours an epoch and samples a second of LDM-1 and LDM-4: Rombach et al. 2022, Table 6; batch sizes: their appendix.
PUBLISHED = {"epoch": 20.66 / 7.66, "sample at 256": 0.97 / 0.26, "sample at 512": 0.34 / 0.07, "batch": 40 / 7}
# The source comparison's: C2.1; C1.4; C2.3 at equal steps (chapter 2 reckons it); C1.2.
CLAIMED = {"epoch": 4 / 3, "step": 12.0, "sample at 32": 50 * (0.82 / 100) / 1.41, "memory": 12.0}


def _colour(label: str) -> str:
    return plotting.PIXEL if label.startswith("pixel") else plotting.LATENT


def _drawn(columns: int, rows: int = 1, **size) -> tuple[Figure, list[plt.Axes]]:
    size = {"figsize": (3.1 * columns, 3.2 * rows)} | size
    figure, axes = plotting.subplots(rows, columns, squeeze=False, **size)
    return figure, list(axes.flat)


def progress(
    runs: Mapping[str, Record], first: Record | None = None, speeds: Mapping[str, Rates] | None = None
) -> Figure:
    """KD-E of a pixel and a latent denoiser on their way, with twice its standard error: against images seen, FLOPs,
    and seconds by the rates of each machine in `speeds`.

    Dotted: with the first stage's part, in seconds only where `first`, the record of its stage, is given; dashed: what
    that loses of photographs, KD-E of its reconstructions. A line marks where pixels take the lead for good, without
    the first stage's part; shaded around it, where the two are not told apart (`lead.crossing`).
    """
    spaces = {space: record["results"] for space, record in runs.items()}
    own, paid = first and first["results"], spaces.get("latent", {}).get("first_stage")
    panels = {"images seen": (lead.IMAGES, None), "FLOPs of training": (lead.flops(), paid and lead.flops(paid))}
    for where, of in (speeds or {}).items():
        panels[f"seconds of training,\n{where}"] = (lead.seconds(of), own and lead.seconds(of, own))
    columns = 2 if len(panels) % 2 == 0 else 3
    figure, places = _drawn(columns, -(-len(panels) // columns), sharey=True)
    for axes, (words, (alone, included)) in zip(places, panels.items()):
        _curves(axes, spaces, alone, included)
        if own:
            lost = own["variants"]["perceptual"]["reconstruction"]["kd_e"]
            axes.axhline(lost, color=plotting.LATENT, ls="--", lw=0.9, label="photographs, decoded")
        axes.set(xscale="log", yscale="log", xlabel=words)
        axes.xaxis.set_minor_formatter(NullFormatter())  # less than two decades would label every tick
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    _epochs(places[0], next(iter(spaces.values()))["data"]["train"])
    for axes in places[::columns]:
        axes.set_ylabel("KD-E, lower is better")
    places[1].legend(fontsize=7, loc="lower left")
    return figure


def _curves(axes: plt.Axes, spaces: Mapping[str, Record], alone: Budget, included: Budget | None) -> None:
    """One panel of `progress`."""
    for space, r in spaces.items():
        points, line = r["points"], {"color": _colour(space), "lw": 1.4}
        y = [p["quality"]["kd_e"] for p in points]
        bars = [2 * (p["quality"].get("kd_e_error") or 0) for p in points]
        marker = "o" if space == "pixel" else "s"
        x = [getattr(alone, space)(p) for p in points]
        axes.errorbar(x, y, bars, marker=marker, ms=3, capsize=2, label=space, **line)
        if included and space == "latent":
            axes.plot([included.latent(p) for p in points], y, ":", label="latent, with its first stage", **line)
    if len(spaces) == 2:
        ends = lead.crossing(lead.leads(alone, spaces["pixel"]["points"], spaces["latent"]["points"]))
        if ends:
            axes.axvline(ends.at, color=plotting.NEUTRAL, lw=0.8)
            if ends.low is not None:
                axes.axvspan(ends.low, min(ends.high, axes.get_xlim()[1]), color=plotting.NEUTRAL, alpha=0.12, lw=0)


def _epochs(axes: plt.Axes, train: int) -> None:
    """A second axis above one of images seen, for a training set of so many."""
    above = axes.secondary_xaxis("top", functions=(lambda n: n / train, lambda epochs: epochs * train))
    above.set_xlabel("epochs")
    for formatter in (above.xaxis.set_major_formatter, above.xaxis.set_minor_formatter):
        formatter(NullFormatter())
    above.xaxis.set_major_formatter(FuncFormatter(lambda epochs, _: f"{epochs:g}"))


def ratios(
    pixel: Record | None,
    latent: Record | None,
    cost: Record | None,
    compare: Record | None,
    speed: Record | None = None,
    first: Record | None = None,
) -> list[tuple[str, float | None, float | None, float | None]]:
    """Rows (what, claimed, published, recorded) of pixel over latent, from a pair of denoisers, the cost stage, the
    comparison, the stage `training-speed`, and the first stage's; None where nothing is claimed or published, or a
    record is missing.

    Seconds of training are images times the rates of `training-speed`, since trainings may share their machine.
    """
    found = dict.fromkeys(("epoch", "epoch, autoencoder included", "step", "memory", "batch"))
    if speed and "as_trained" in speed["results"]:
        alone = rates(speed["results"])
        found["epoch"] = alone.pixel / alone.latent
        if pixel and latent and first:
            spent, last = lead.seconds(alone, first["results"]), {"images": pixel["results"]["training"]["images"]}
            found["epoch, autoencoder included"] = spent.pixel(last) / spent.latent(last)
    rows = cost_model.rows(cost["results"]) if cost else {}
    large = (cost_model.rows(cost["results"], cost_model.BUILT) if cost else {}) or rows
    network = "" if large is rows else f", networks {cost_model.BUILT}"
    for side in (32, 256, 512):
        found[f"sample at {side}"] = _whole_sample(large.get((side, 1)), large.get((side, 4)))
    one, four = rows.get((32, 1)), rows.get((32, 4))
    if one and four:
        found["step"] = one["step"]["seconds_image"] / four["step"]["seconds_image"]
        found["memory"] = one["kept_for_backward"] / four["kept_for_backward"]
    fits = {at: row["training"]["largest_batch"] for at, row in large.items() if "largest_batch" in row["training"]}
    side = max((side for side, f in fits if f == 1 and (side, 4) in fits), default=0)
    if side:
        found["batch"] = fits[side, 4] / fits[side, 1]
    if compare:
        table = {(r["space"], r["steps"]): r for r in compare["results"]["sampling"] if r["method"] == "ddim"}
        batch = max(table["pixel", 50]["seconds_picture"], key=int)
        found["compare"] = table["pixel", 50]["seconds_picture"][batch] / table["latent", 50]["seconds_picture"][batch]
    says = {
        "epoch": "training, seconds an image",
        "epoch, autoencoder included": "the same run, autoencoder included",
        "step": "a sampling step, 32 a side",
        "sample at 32": "50 steps and decoding, 32 a side",
        "compare": "the same, by the comparison",
        "sample at 256": f"50 steps and decoding, 256 a side{network}",
        "sample at 512": f"50 steps and decoding, 512 a side{network}",
        "memory": "kept for the backward pass, an image",
        "batch": f"largest batch that fits, {side} a side, LDM's 256 (latent / pixel){network}",
    }
    columns = (CLAIMED, PUBLISHED, found)
    return [(text, *(column.get(key) for column in columns)) for key, text in says.items()]


def ratio_table(rows: Sequence[tuple]) -> list[list[str]]:
    """The rows of `ratios` as a table's cells."""
    return [[text, *(times(v, digits=2) for v in values)] for text, *values in rows]


def ratio_figure(rows: Sequence[tuple]) -> Figure:
    """The rows of `ratios` on one logarithmic axis: a mark for what is claimed, published and recorded."""
    figure, (axes,) = _drawn(1, figsize=(7.6, 0.42 * len(rows) + 0.9))
    columns = (("claimed", "X", plotting.CLAIMED), ("published", "D", plotting.NEUTRAL))
    for i, (name, marker, colour) in enumerate((*columns, ("recorded", "o", plotting.RECORDED)), 1):
        found = [(row[i], at) for at, row in enumerate(rows) if row[i] is not None]
        if found:
            axes.plot(*zip(*found), marker, color=colour, ms=8 if name == "claimed" else 6, label=name)
    axes.axvline(1, color=plotting.NEUTRAL, lw=0.8)
    axes.set(xscale="log", xlabel="pixel / latent: right of the line the latent is cheaper")
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}x"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.invert_yaxis()
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, 1.13), ncols=3)
    return figure


def _whole_sample(pixel: Record | None, latent: Record | None, steps: int = 50) -> float | None:
    one, other = (picture_seconds(row, steps) for row in (pixel, latent))
    return None if one is None or other is None else one / other


def costs(record: Record) -> Figure:
    """Seconds of a training and of a sampling step, and the largest batch, against the picture's side, by space."""
    figure, panels = _drawn(3)
    for f in (1, 2, 4, 8):
        rows = [row for row in cost_model.rows(record["results"]).values() if row["f"] == f]
        line = plotting.look_at(f) | {"marker": "o" if f == 1 else "s", "ms": 4}
        line["alpha"] = {1: 1, 2: 0.35, 4: 0.65, 8: 1}[f]
        for axes, (what, key) in zip(
            panels, (("training", "seconds_image"), ("step", "seconds_image"), ("training", "largest_batch"))
        ):
            measured = [(row["side"], row[what][key]) for row in rows if key in row[what]]
            if measured:
                axes.plot(*zip(*measured), **line)
    words = ("training step, seconds an image", "sampling step, seconds an image", "largest batch in training")
    for axes, ylabel in zip(panels, words):
        sides = sorted({row["side"] for row in record["results"]["rows"]})
        axes.set(xscale="log", yscale="log", xlabel="side of the picture, pixels", ylabel=ylabel)
        plotting.ticks(axes, sides, rotation=45)
    panels[0].legend(fontsize=8)
    return figure


def cost_table(record: Record) -> tuple[list[str], list[list[str]]]:
    """Head and rows: for each side, a pixel's training step and how many times less each latent takes, with the
    standard network, and with those built for the size where they are others."""
    body = []
    for network in (cost_model.STANDARD, cost_model.BUILT):
        rows = cost_model.rows(record["results"], network)
        for side in sorted({side for side, _ in rows}):
            if network == cost_model.BUILT and all(row["serves_both"] for row in rows.values() if row["side"] == side):
                continue
            cells = [str(side), network]
            for what in ("training", "step"):
                one = rows.get((side, 1), {}).get(what, {}).get("seconds_image")
                cells.append("left out" if one is None else si(one, "s"))
                for f in (2, 4, 8):
                    other = rows.get((side, f), {}).get(what, {}).get("seconds_image")
                    cells.append(times(one, other))
            cells.append(rows[side, 1].get("precision", record["results"]["precision"]))
            body.append(cells)
    latents = ["f = 2", "f = 4", "f = 8"]
    return ["side", "network", "training, pixels", *latents, "sampling, pixels", *latents, "precision"], body


def held_out(found: Mapping[str, Sequence[tuple[cost_model.Call, float]]]) -> Figure:
    """A panel for each kind of call: seconds as `cost_model.held_out` predicts them, against those recorded; on the
    line a prediction is exact. Open: calls on one picture alone."""
    figure, panels = plotting.subplots(1, len(found), figsize=(8.6, 3.2), squeeze=False)
    for axes, (what, calls) in zip(panels[0], found.items()):
        for space, mark in (("pixel", "o"), ("latent", "s")):
            colour = plotting.COLOURS[space]
            for alone in (False, True):
                wanted = [(c.f == 1) == (space == "pixel") and (c.batch == 1) == alone for c, _ in calls]
                points = [(c.seconds, predicted) for (c, predicted), yes in zip(calls, wanted) if yes]
                if points:
                    look = {"color": colour, "mfc": "none" if alone else colour}
                    axes.plot(*zip(*points), mark, ms=4, label=f"{space}, {'alone' if alone else 'batch'}", **look)
        ends = [pick(c.seconds for c, _ in calls) for pick in (min, max)]
        axes.plot(ends, ends, color=plotting.CLAIMED, lw=1)
        axes.set(xscale="log", yscale="log", title=what, xlabel="seconds, recorded")
    panels[0, 0].set_ylabel("predicted from other sides")
    panels[0, 0].legend(fontsize=7)
    return figure


def speed_rows(record: Record) -> list[list[str]]:
    """The ladder of the stage `speed`."""
    return [
        [
            rung.get("input", "x".join(map(str, record["results"]["shape"]))),
            rung["rung"],
            si(rung["seconds"]["median"] / record["results"]["batch"], "s"),
            f"{rung['images_per_s']:.3g}",
            si(rung["flop_per_s"], "FLOP/s"),
            f"{rung['share_of_matmul']:.0%}",
            duration(rung["first_call_seconds"]),
        ]
        for rung in record["results"]["rungs"]
    ]


def samplers(runs: Mapping[str, Record], cost: Record | None = None) -> Figure:
    """KD-E of every sampler, with twice its standard error, against its steps, and against seconds a picture by the
    stage `cost`, decoder included: at equal steps all samplers of a space take the same."""
    figure, panels = _drawn(2 if cost else 1, figsize=(7.6, 3.4), sharey=True)
    timed = cost_model.rows(cost["results"]) if cost else {}
    for space, record in runs.items():
        at = timed.get((32, 1 if space == "pixel" else 4))
        for method, marker in MARKERS.items():
            mine = [row for row in record["results"]["rows"] if row["method"] == method]
            if not mine:
                continue
            y = [row["quality"]["kd_e"] for row in mine]
            bars = [2 * (row["quality"].get("kd_e_error") or 0) for row in mine]
            line = {"color": _colour(space), "lw": 1, "marker": marker, "ms": 4, "capsize": 2}
            line["label"] = f"{space}, {CALLED[method]}"
            panels[0].errorbar([row["steps"] for row in mine], y, bars, **line)
            if at:
                seconds = [picture_seconds(at, row["steps"]) or math.nan for row in mine]
                panels[1].errorbar(seconds, y, bars, **line)
    panels[0].set(xscale="log", xlabel="steps S", ylabel="KD-E, lower is better")
    panels[0].set_ylim(0, None)
    if cost:
        panels[1].set(xscale="log", xlabel="seconds a picture")
    panels[-1].legend(fontsize=7)
    return figure


def pareto(rows: Sequence[Record], *, beyond_scatter: bool = False) -> list[Record]:
    """The Pareto front by `seconds_picture` and the KD-E of `quality`: the rows that no other dominates, by seconds.

    One dominates another if it takes no longer and is no farther, and is ahead in one of the two; of rows that tie in
    both, all stay. With `beyond_scatter` being nearer counts only beyond the error (`verdicts.gain`), and being
    faster alone dominates nothing: what stays is every row that may be on the front, at least those of the plain one.
    ValueError: rows judged on different counts of pictures, which do not compare.
    """
    counts = sorted({row["quality"]["n_generated"] for row in rows})
    if len(counts) > 1:
        raise ValueError(f"rows judged on {', '.join(map(str, counts))} pictures; a front needs one count")

    def dominates(a: Record, b: Record) -> bool:
        faster, nearer = (b["seconds_picture"] - a["seconds_picture"], b["quality"]["kd_e"] - a["quality"]["kd_e"])
        if beyond_scatter:
            return faster >= 0 and (gain(b["quality"], a["quality"]) or 0) > 0
        return faster >= 0 and nearer >= 0 and (faster > 0 or nearer > 0)

    front = [row for row in rows if not any(dominates(other, row) for other in rows)]
    return sorted(front, key=lambda row: row["seconds_picture"])


def sensitivity(moved: Mapping[tuple[str, float], Mapping[str, tuple[str, str]]]) -> Figure:
    """What hangs on each rule, from `ledger.sensitivity`: how many verdicts move as it is turned, and which."""
    names = list(dict.fromkeys(rule for rule, _ in moved))
    factors = sorted({factor for _, factor in moved})
    figure, (axes,) = _drawn(1, figsize=(7.6, 0.22 * len(names) * len(factors) + 0.9))
    height = 0.8 / len(factors)
    for k, factor in enumerate(factors):
        counts = [len(moved[rule, factor]) for rule in names]
        places = [i + (k - (len(factors) - 1) / 2) * height for i in range(len(names))]
        look = {"color": plotting.RECORDED if factor > 1 else plotting.NEUTRAL, "alpha": 0.8}
        axes.barh(places, counts, height=0.9 * height, label=f"{factor:g}", **look)
        for place, rule, count in zip(places, names, counts):
            words = ", ".join(moved[rule, factor]) or "none"
            axes.annotate(words, (count, place), (4, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel="verdicts that move", xlim=(0, 2 + 2 * max(1, *(len(ids) for ids in moved.values()))))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower right", title="the rule, multiplied by")
    return figure


def by_f(runs: Mapping[int, Record], published: Mapping[int, float] | None = None) -> Figure:
    """Autoencoders of one data set by f: PSNR and KD-E of each loss, and L1's training error against images seen.

    `published` gives a PSNR by f, which is drawn in grey. Bars are twice KD-E's error, where a
    record holds it.
    """
    figure, (left, middle, right) = _drawn(3, figsize=(8.8, 3.2))
    marks = {"l1": ("o", ":"), "perceptual": ("s", "-"), "adversarial": ("^", "--")}
    for loss, (mark, line) in marks.items():
        found = {f: r["results"]["variants"][loss] for f, r in runs.items()}
        q = {f: v["reconstruction"] for f, v in found.items()}
        look = {"color": plotting.LATENT, "marker": mark, "ls": line, "ms": 5, "lw": 1.4, "label": loss}
        left.plot(list(found), [v["psnr"] for v in found.values()], **look)
        bars = [2 * (x.get("kd_e_error") or 0) for x in q.values()]
        middle.errorbar(list(q), [x["kd_e"] for x in q.values()], bars, capsize=2, **look)
        middle.axhline(q[min(q)]["kd_e_floor"], color=plotting.CLAIMED, lw=0.8)
    if published:
        left.plot(list(published), list(published.values()), "x--", color=plotting.CLAIMED, lw=1, label="published")
    for (f, r), shade in zip(sorted(runs.items()), (0.4, 0.7, 1.0)):
        h = r["results"]["variants"]["l1"]["history"]
        error = [127.5 * point["l1"] for point in h]  # grey levels
        right.plot([point["images"] / 1000 for point in h], error, color=plotting.LATENT, alpha=shade, label=f"f = {f}")
    for axes, words in ((left, "PSNR, dB"), (middle, "KD-E, lower is better")):
        axes.set(xscale="log", xlabel="f", ylabel=words)
        plotting.ticks(axes, list(runs))
    middle.set_ylim(0, None)
    right.set(xlabel="thousand images seen", ylabel="training error, grey levels")
    right.set_ylim(0, None)
    left.legend(fontsize=7)
    right.legend(fontsize=8)
    return figure


def stored_rows(record: Record) -> dict[str, torch.Tensor]:
    """The pictures that an autoencoder's stage stored beside its record, by the name of their row: uint8 (8, 3, H, H).

    ValueError: the picture is missing, or has other rows than the record names.
    """
    names, size = record["results"]["rows_of_the_picture"], record["results"]["data"]["size"]
    path = place_of("picture", record["name"])
    if not path.is_file():
        raise ValueError(
            f"{path.name} is missing; run: ldm-course reference --stage {record['results']['stage']} --publish"
        )
    with Image.open(path) as image:
        sheet = np.array(image.convert("RGB"))
    scale, gap = max(1, 64 // size), 2  # as `base.save_grid` does
    step = size * scale + gap
    if sheet.shape[:2] != (len(names) * step - gap, 8 * step - gap):
        raise ValueError(f"{path.name} is {sheet.shape[:2]}; expected {len(names)} rows of 8 pictures of {size} a side")
    starts = torch.arange(8) * step
    rows = {}
    for i, name in enumerate(names):
        cut = sheet[i * step : i * step + size * scale : scale]
        rows[name] = torch.stack(
            [torch.from_numpy(cut[:, a : a + size * scale : scale].copy()) for a in starts.tolist()]
        )
    return {name: row.permute(0, 3, 1, 2).contiguous() for name, row in rows.items()}


def stored_picture(record: Record, rows: int | None = None, width: int = 784) -> plotting.Picture | None:
    """The picture that a stage stored beside its record, 8 columns, as a JPEG of at most `width` pixels, which weighs a
    third; of its rows only the first `rows`. None: the stage has stored none."""
    path = place_of("picture", record["name"])
    if not path.is_file():
        return None
    with Image.open(path) as image:
        sheet = image.convert("RGB")
    if rows:
        sheet = sheet.crop((0, 0, sheet.width, min(sheet.height, rows * (sheet.width + 2) // 8 - 2)))
    if sheet.width > width:
        sheet = sheet.resize((width, round(sheet.height * width / sheet.width)), Image.Resampling.LANCZOS)
    smaller = io.BytesIO()
    sheet.save(smaller, "JPEG", quality=88, subsampling=0)
    return plotting.Picture(smaller.getvalue(), width, f"Pictures of the stage {record['results']['stage']}")


def show_stored(record: Record, rows: int | None = None) -> None:
    """Puts the picture that a stage stored beside its record on the page, if it has one, and beneath it what its rows
    are; `rows` as for `stored_picture`."""
    picture = stored_picture(record, rows)
    if picture:
        names = record["results"].get("rows_of_the_picture")
        what = f"from the top: {', '.join(names)}" if names else "drawn at its end, not chosen"
        plotting.show(picture, f"{record['results']['stage']}, {what}.", stamp(record))


def overfitting(runs: Mapping[str, Record]) -> Figure:
    """Held-out over training loss; and the share of drawn pictures that are nearer to a training picture than to any of
    as many held-out ones, or in older records the two distances' ratio. Shaded: a half, with twice the standard error
    that it would have if nothing were copied."""
    figure, (left, right) = _drawn(2, figsize=(7.6, 3.2))
    counted = all("copied" in p for record in runs.values() for p in record["results"]["points"])
    for label, record in runs.items():
        points = record["results"]["points"]
        epochs = [p["images"] / record["results"]["data"]["train"] for p in points]
        line = {"color": _colour(label), "marker": "o", "ms": 3, "lw": 1.4, "label": label}
        left.plot(epochs, [p["loss_test"] / p["loss_train"] for p in points], **line)
        if counted:
            right.plot(epochs, [p["copied"] for p in points], **line)
            chance = [[0.5 + k * p["copied_error"] for p in points] for k in (-2, 2)]
            right.fill_between(epochs, *chance, color=_colour(label), alpha=0.12, lw=0)
            right.set_ylim(-0.02, 1.02)
        else:
            right.plot(epochs, [p["nearest_train"] / p["nearest_test"] for p in points], **line)
    near = "nearer to a training picture, share" if counted else "nearest picture: training / held-out"
    for axes, words, even in ((left, "loss: held-out / training", 1), (right, near, 0.5 if counted else 1)):
        axes.axhline(even, color=plotting.NEUTRAL, lw=0.8)
        axes.set(xscale="log", xlabel="epochs", ylabel=words)
    left.legend()
    return figure


def seed_rows(record: Record) -> list[list[str]]:
    """Rows (what, pixel, latent, scatter of a draw) of the stage `seeds`: mean over seeds, and relative spread."""
    r, rows = record["results"], []
    last = {row["space"]: row["points"][-1]["images"] for row in r["runs"] if row["times"] == 1 and row["points"]}
    same = {space: stability.calm(r, space, r["images"]) for space in ("pixel", "latent")}
    usual = {**r, "runs": [row for row in r["runs"] if row["times"] == 1]}
    end = {space: stability.calm(usual, space, last[space]) for space in same}
    for name, found, key in (
        ("KD-E, same images", same, "kd_e"),
        ("KD-E, same seconds", end, "kd_e"),
        ("held-out loss", same, "loss"),
    ):
        cells = [
            f"{fmean(getattr(c, key)):.3g} ± {stability.spread(getattr(c, key)):.1%}" if c else NONE
            for c in found.values()
        ]
        drawn = [f"{c.drawn:.1%}" for c in found.values() if c] if key == "kd_e" else []
        rows.append([name, *cells, " and ".join(drawn) or NONE])
    return rows


def seed_curves(record: Record) -> Figure:
    """Losses of every training of the stage `seeds` against its steps, by space; larger learning rates dashed, and
    those that diverged left out."""
    figure, panels = _drawn(2, figsize=(7.6, 3.3))
    steps = record["results"]["images"] // record["results"]["batch_size"]
    for axes, space in zip(panels, ("pixel", "latent")):
        for row in (row for row in record["results"]["runs"] if row["space"] == space and row["points"]):
            curve, total = row["curves"]["loss"], row["points"][-1]["step"]
            x = [(k + 0.5) * total / len(curve) for k in range(len(curve))]
            line = {"lw": 1.2, "color": _colour(space), "alpha": 0.6}
            if row["times"] > 1:
                styles = ("--", ":")
                others = sorted({r["times"] for r in record["results"]["runs"]} - {1})
                line = {"lw": 1.4, "color": plotting.NEUTRAL, "ls": styles[others.index(row["times"]) % 2]}
            label = f"{row['times']} times the rate" if row["times"] > 1 else "each seed" if row["seed"] == 0 else None
            axes.plot(x, curve, label=label, **line)
        axes.axvline(steps, color=plotting.CLAIMED, lw=0.8)
        axes.set(xscale="log", yscale="log", xlabel="steps", title=space)
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(ScalarFormatter())
        axes.legend(fontsize=8)
    panels[0].set_ylabel("training loss")
    return figure


def texture_curves(record: Record) -> Figure:
    """Content errors of the stage `texture` against images seen, and over those without texture; thin, each seed."""
    r, (figure, (left, right)) = record["results"], _drawn(2, figsize=(7.6, 3.3))
    strengths = sorted({row["strength"] for row in r["runs"]})
    for strength, style, marker in zip(strengths, ("-", "--", ":"), "os^"):
        rows = [row["points"] for row in r["runs"] if row["strength"] == strength]
        images = [point["images"] for point in rows[0]]
        curves = [[point["content"] for point in points] for points in rows]
        line = {"color": plotting.PIXEL if strength else plotting.NEUTRAL, "ls": style}
        for curve in curves:
            left.plot(images, curve, lw=0.5, alpha=0.5, **line)
        grey = r["textures"][f"{strength:g}"]["pixels"] if strength else 0
        label = f"texture {strength:g}, {grey:.0f} grey levels" if strength else "no texture"
        left.plot(images, [fmean(at) for at in zip(*curves)], marker=marker, ms=3, lw=1.4, label=label, **line)
        if strength:
            means, errors = zip(*r["against_plain"][f"{strength:g}"]["ratio"])
            right.errorbar(images, means, errors, marker=marker, ms=3, lw=1.2, capsize=2, label=label, **line)
    right.axhline(1, color=plotting.CLAIMED, lw=0.8)
    left.set(xscale="log", yscale="log", xlabel="images seen", ylabel="content error, grey levels")
    right.set(xscale="log", xlabel="images seen", ylabel="content error: textured / texture-free")
    left.yaxis.set_major_formatter(ScalarFormatter())
    left.yaxis.set_minor_formatter(ScalarFormatter())
    left.legend(fontsize=8)
    return figure


def structure_rows(record: Record) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the stage `fine-structures`: for each f and way, how many kinds are kept at each width."""
    r = record["results"]
    widths = sorted({row["width"] for row in r["rows"]})
    fitting = {w: len({row["kind"] for row in r["rows"] if row["width"] == w}) for w in widths}
    kept = {w: structures.kept_kinds(r["rows"], w) for w in widths}
    body = []
    for way in r["ways"]:
        key = way["f"], way["way"]
        counts = [f"{kept[w][key]}/{fitting[w]}" for w in widths]
        seen = f"{way['images']:,}" if "images" in way else NONE
        psnr = "exact" if way["psnr"] is None else f"{way['psnr']:.1f} dB"  # no record holds an infinite one
        body.append([f"f = {key[0]}, {key[1]}", *counts, psnr, seen])
    return ["passed through", *(f"{w} px" for w in widths), "structures, PSNR", "images seen"], body

"""Chapter 9's record of few steps as tables and figures: levels, steps, seconds (see `tables` and `figures`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from ..page import plotting
from ..page.numbers import NONE, duration, kd_e, seconds, si
from . import records
from .claims.both_spaces import word
from .claims.learnt import SPACES, unlike
from .claims.verdicts import gain, rules
from .figures import pareto, stored_rows
from .stages.calls import Call, measured, seconds_of
from .stages.few_steps import course
from .tables import Record, Table

WAYS = {  # by (method, sampler): how it is called, and its line, told from the others without colour too
    ("teacher", "ddim"): ("DDIM", "o-"),
    ("teacher", "dpmpp"): ("DPM-Solver++", "^--"),
    ("distilled", "multistep"): ("distilled", "s-"),
    ("without a teacher", "multistep"): ("without a teacher", "D:"),
}


def rows_of(record: Record, space: str, method: str, sampler: str = "multistep") -> dict[int, Mapping]:
    """The record's rows of one space, method and sampler, by steps."""
    wanted = (space, method, sampler)
    found = [r for r in record["results"]["rows"] if (r["space"], r["method"], r["sampler"]) == wanted]
    return {row["steps"]: row for row in sorted(found, key=lambda row: row["steps"])}


def by_steps(record: Record) -> Table:
    """KD-E with its error, which may follow on the next line: a row for each space and way, a column for each number of
    steps."""
    every = sorted({row["steps"] for row in record["results"]["rows"]})
    body = []
    for space in SPACES:
        for way, (name, _) in WAYS.items():
            if rows := rows_of(record, space, *way):
                cells = [kd_e(rows[n]["quality"]).replace(" ± ", " ±\u00a0") if n in rows else NONE for n in every]
                body.append([f"{space}, {name}", *cells])
    return ["KD-E after steps", *map(str, every)], body


def _colour(space: str, method: str) -> str:
    return plotting.NEUTRAL if method == "teacher" else plotting.COLOURS[space]


def _kd_axis(axes: plt.Axes) -> None:
    axes.set(yscale="log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _line(axes: plt.Axes, x: Iterable[float], found: Iterable[Mapping], line: str, **look) -> None:
    quality = list(found)
    bars = [2 * (q.get("kd_e_error") or 0) for q in quality]
    axes.errorbar(list(x), [q["kd_e"] for q in quality], bars, fmt=line, ms=4, lw=1.2, capsize=2, **look)


def _finish(panels: Sequence[plt.Axes], xlabel: str, ticks: Sequence[int]) -> None:
    """Axes, names and the legend of a figure with a panel for each space."""
    for axes, space in zip(panels, SPACES):
        axes.set(xscale="log", xlabel=xlabel, title=f"{space} space")
        plotting.ticks(axes, ticks)
        _kd_axis(axes)
    panels[0].set_ylabel("KD-E, lower is better")
    panels[1].legend(fontsize=7)


def steps_figure(record: Record) -> Figure:
    """KD-E against steps by space, with twice its standard error: the teacher's samplers, and either way to train."""
    figure, panels = plotting.subplots(1, 2, figsize=(7.6, 3.3), sharey=True)
    every = sorted({row["steps"] for row in record["results"]["rows"]})
    for axes, space in zip(panels, SPACES):
        for way, (name, line) in WAYS.items():
            if rows := rows_of(record, space, *way):
                _line(axes, rows, (r["quality"] for r in rows.values()), line, color=_colour(space, way[0]), label=name)
    _finish(panels, "steps", every)
    return figure


def levels_figure(record: Record) -> Figure:
    """KD-E of one step at the end of each division of the levels, by space and way, beside the teacher's in as many
    DDIM steps, the best that a perfect pupil could be."""
    figure, panels = plotting.subplots(1, 2, figsize=(7.6, 3.3), sharey=True)
    for axes, space in zip(panels, SPACES):
        teacher = rows_of(record, space, "teacher", "ddim")
        _line(
            axes,
            teacher,
            (r["quality"] for r in teacher.values()),
            "o-",
            color=plotting.NEUTRAL,
            label="DDIM in as many steps",
        )
        for way, (name, line) in list(WAYS.items())[2:]:
            points = record["results"]["trainings"].get(f"{space}, {way[0]}", {}).get("points")
            if points:
                of = (p["quality"] for p in points)
                _line(axes, [p["intervals"] for p in points], of, line, color=_colour(space, way[0]), label=name)
    _finish(panels, "intervals of the levels; DDIM: steps", [1, 2, 4, 8, 16, 32, 64])
    return figure


def trainings(record: Record) -> Table:
    """What each training saw and took, its mean loss and gradient at the first and the last division of the levels, and
    how it went."""
    body = []
    for name, about in record["results"]["trainings"].items():
        points, start = about["points"], rows_of(record, name.split(", ")[0], "teacher", "ddim")[1]["quality"]
        diverged = not points or about["course"].startswith("diverged")
        became = about["course"] if diverged else course(points, start)
        ends = [f"{points[0][of]:.2g} → {points[-1][of]:.2g}" if points else NONE for of in ("loss", "grad_norm")]
        seen = [f"{about['images']:,}", f"{about['epochs']:.3g}", si(about["training_flops"], "FLOP")]
        body.append([name, *seen, duration(about["seconds"]), *ends, became])
    return ["", "images", "epochs", "FLOPs", "took", "loss", "gradient's norm", "one step became"], body


def one_step(record: Record) -> Table:
    """What a picture in one step costs, and the decoder's share of it: in FLOPs, in seconds in a batch, and alone."""
    body = []
    for space, found in record["results"]["one_step"].items():
        for name, words in {"flops": "FLOPs", "seconds": "in a batch", "seconds_alone": "alone"}.items():
            of = found[name]
            cells = [si(of[part], "FLOP") if name == "flops" else seconds(of[part]) for part in ("network", "decoder")]
            body.append([f"{space}, {words}", *cells, f"{of['decoder_share']:.0%}"])
    return ["a picture in one step", "network", "decoder", "decoder's share"], body


def calls(record: Record, row: Mapping) -> dict[Call, float]:
    """How often each network is called for a picture of that row."""
    teacher = record["results"]["teachers"][row["space"]]
    found = {Call.of(teacher["network"], teacher["shape"][-1]): row["steps"]}
    if first := records.load_record(teacher["weights"])["results"]["first_stage"]:
        found[Call.decoder(first["record"], record["results"]["data"]["size"])] = 1
    return found


def timed(record: Record) -> tuple[Record, list[Record]]:
    """The record, its rows with the seconds of a picture as those of the calls that it takes, and the record that has
    measured these: rows that were drawn hours apart, beside other work, do not compare to a millisecond. As it is where
    they have not been measured."""
    r, (known, used) = record["results"], measured()
    found = ((row, seconds_of(calls(record, row), known)) for row in r["rows"])
    rows = [row if of is None else row | {"seconds_picture": of} for row, of in found]
    return {**record, "results": r | {"rows": rows}}, used


def front(record: Record) -> Figure:
    """KD-E against seconds a picture, decoder included (`timed`), of all rows of both spaces, with the number of steps
    at a pupil's and at those on the front, which is the line: what nothing else is both faster and nearer than."""
    record, _ = timed(record)
    best = pareto(record["results"]["rows"])
    figure, axes = plotting.subplots(figsize=(7.6, 4.0))
    for space in SPACES:
        for way, (name, line) in WAYS.items():
            found = rows_of(record, space, *way)
            if not found:
                continue
            x, of = [r["seconds_picture"] for r in found.values()], [r["quality"] for r in found.values()]
            look = {"color": plotting.COLOURS[space], "alpha": 0.45 if way[0] == "teacher" else 1}
            _line(axes, x, of, line[0], label=f"{space}, {name}", **look)
            for n, row in found.items():
                if row in best or way[0] != "teacher":
                    at = row["seconds_picture"], row["quality"]["kd_e"]
                    axes.annotate(str(n), at, (4, 3), textcoords="offset points", fontsize=8)
    axes.step(
        [r["seconds_picture"] for r in best],
        [r["quality"]["kd_e"] for r in best],
        where="post",
        lw=0.9,
        color=plotting.NEUTRAL,
    )
    axes.set(xscale="log", xlabel="time of a picture, decoder included", ylabel="KD-E, lower is better")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: seconds(x)))
    _kd_axis(axes)
    axes.legend(fontsize=7, ncols=2)
    return figure


# ------------------------------------------------------------------------------------------------------- pictures


def _shown(record: Record, space: str) -> dict[str, torch.Tensor]:
    """The stage's rows of pictures of one space, five of each, by short names."""
    rows = {}
    for name, pictures in stored_rows(record).items():
        if name.startswith(f"{space}, "):
            short = (
                name.removeprefix(f"{space}, ").replace("the teacher, ddim", "DDIM").replace(", 1 steps", ", 1 step")
            )
            rows[short] = pictures[:5]
    return rows


def before_and_after(record: Record) -> Figure:
    """The latents' teacher in one step, its pupil in one, and the teacher in many: one noise a column."""
    rows = _shown(record, "latent")
    return plotting.named_rows({n: rows[n] for n in ("DDIM, 1 step", "distilled, 1 step", "DDIM, 50 steps")}, scale=3)


def sheet(record: Record, space: str) -> Figure:
    """The rows of pictures that the stage has stored of one space, under their names, but for one DDIM step."""
    rows = _shown(record, space)
    return plotting.named_rows({name: rows[name] for name in rows if name != "DDIM, 1 step"}, scale=3)


# ------------------------------------------------------------------------------- sentences, as the numbers are


def _ends(record: Record, space: str) -> tuple[dict, dict, dict]:
    """The quality of the teacher's one DDIM step, of the pupil's, empty if there is none, and of the teacher's most."""
    teacher, pupil = rows_of(record, space, "teacher", "ddim"), rows_of(record, space, "distilled")
    return teacher[1]["quality"], pupil[1]["quality"] if pupil else {}, teacher[max(teacher)]["quality"]


def in_a_minute(record: Record) -> str:
    """One sentence: how far one step goes in latents, from the teacher's one towards the teacher's most."""
    fog, pupil, most = _ends(record, "latent")
    if not pupil:
        return "Distilled in latents, it diverged before it could draw."
    steps = max(rows_of(record, "latent", "teacher", "ddim"))
    way = (fog["kd_e"] - pupil["kd_e"]) / (fog["kd_e"] - most["kd_e"])
    helps = (gain(fog, pupil) or 0) > 0
    end = f"that is {way:.0%} of the way" if helps else "which is no better"
    if unlike(pupil):
        end += (
            f", though it covers {pupil['recall']:.1%} of real pictures (recall), and the {steps} steps "
            f"{most['recall']:.1%}, where other real ones cover {most['recall_real']:.0%}"
        )
    return (
        f"In latents of CIFAR-10 the denoiser's KD-E to real pictures is {fog['kd_e']:.2f} in one DDIM step and "
        f"{most['kd_e']:.2f} in {steps}; its distilled pupil has {pupil['kd_e']:.2f} in one, {end}."
    )


def who_is_ahead(record: Record) -> str:
    """At 1, 2 and 4 steps of each space: the pupil against the better of the teacher's samplers, and training without
    a teacher against distillation."""
    said = []
    for space in SPACES:
        pupil, alone = rows_of(record, space, "distilled"), rows_of(record, space, "without a teacher")
        if not pupil:
            said.append(f"In {space} space distillation diverged.")
            continue
        teacher = [rows_of(record, space, "teacher", sampler) for sampler in ("ddim", "dpmpp")]
        best = {n: min((t[n]["quality"] for t in teacher), key=lambda q: q["kd_e"]) for n in pupil}
        against = _compared({n: (best[n], row["quality"]) for n, row in pupil.items()})
        said.append(f"In {space} space the pupil, against the better sampler of its teacher, is {against}.")
        if alone:
            pairs = {n: (pupil[n]["quality"], row["quality"]) for n, row in alone.items() if n in pupil}
            said.append(f"Without a teacher it is, against the distilled one, {_compared(pairs)}.")
        if all(unlike(row["quality"]) for row in (*pupil.values(), *alone.values())):
            said.append("But they cover almost nothing of real pictures, so distances between them prove little.")
    return " ".join(said)


def _compared(pairs: Mapping[int, tuple[Mapping, Mapping]]) -> str:
    """ "better at 1 and 2 steps, not told apart at 4", of pairs (before, after) by steps."""
    words: dict[str, list[int]] = {}
    for n, (before, after) in pairs.items():
        words.setdefault(word(before, after), []).append(n)
    return ", ".join(f"{how} at {_listed(of)}" for how, of in words.items())


def _listed(numbers: list[int]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last} steps" if first else f"{last} step{'s' * (last != '1')}"


def what_is_seen(record: Record, space: str) -> str:
    """What each kind of row of `sheet` lacks, as far as numbers can tell."""
    _, pupil, most = _ends(record, space)
    said = ["DDIM in four steps has things with soft edges."]
    if not pupil:
        return " ".join([*said, "White: distillation diverged."])
    ratio = pupil["kd_e"] / most["kd_e"]
    end = (
        "as good as those of 50" if not gain(pupil, most) else f"{ratio:.1f} times as far from real ones as those of 50"
    )
    said.append(f"Distilled, one step gives pictures {end}, by KD-E.")
    epochs = record["results"]["trainings"][f"{space}, distilled"]["epochs"]
    if gain(pupil, most) and epochs < rules.epochs:
        said.append(f"That is after {epochs:.2g} epochs: as many FLOPs as the other space had, and far too few.")
    for way in ("distilled", "without a teacher"):
        rows = rows_of(record, space, way)
        if rows:
            name = "Its" if way == "distilled" else "Without a teacher,"
            change = gain(rows[1]["quality"], rows[max(rows)]["quality"])
            does = "are no better or worse than" if change is None else "improve on" if change > 0 else "are worse than"
            said.append(f"{name} {max(rows)} steps {does} {'its' if way == 'distilled' else 'the'} one.")
    return " ".join(said)


def on_the_front(record: Record) -> str:
    """Which ways are on the front of quality against seconds, and who is fastest and nearest."""
    best = pareto(timed(record)[0]["results"]["rows"])
    pupils = [row for row in best if row["method"] != "teacher"]
    fast, near = best[0], best[-1]
    of = "none of them a consistency model's" if not pupils else f"{len(pupils)} of them consistency models'"
    return (
        f"By KD-E as measured the front has {len(best)} points, {of}. It begins with {_point(fast)} and ends with "
        f"{_point(near)}; "
        + (
            "all of it is in latents."
            if all(row["space"] == "latent" for row in best)
            else "all of it is in pixels."
            if all(row["space"] == "pixel" for row in best)
            else "it takes both spaces."
        )
    )


def _point(row: Mapping) -> str:
    name, _ = WAYS[row["method"], row["sampler"]]
    steps = f"{row['steps']} step{'s' * (row['steps'] != 1)}"
    return f"{row['space']}, {name}, {steps} ({seconds(row['seconds_picture'])}, KD-E {row['quality']['kd_e']:.2f})"

"""What fewer steps, a cheaper step and the decoder are worth, and which samplers are on the front (chapter 6).

From the records of the comparison and of the stages `sampling`, or from rows of the same form that were made live.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from ..diffusion.samplers import CALLED
from ..page import plotting
from .claims.learnt import SPACES
from .figures import MARKERS, pareto
from .records import only

Bill = Sequence[float]  # per picture: pixel DDPM of 1000 steps, pixel DDIM of 50, latent of 50, and that with decoder
Row = Mapping[str, object]


def bills(results: Mapping) -> dict[str, Bill]:
    """What a picture costs by each `Bill`, from the results of a comparison: in FLOPs, and in seconds by batch, the
    largest first."""
    settings = (("pixel", "ddpm", 1000), ("pixel", "ddim", 50), ("latent", "ddim", 50))
    rows = [only(results["sampling"], space=s, method=m, steps=n) for s, m, n in settings]
    flops = [row["flops_picture"] for row in rows]
    found = {"FLOPs": [*flops[:2], flops[2] - results["cost"]["decode"]["flops"], flops[2]]}
    for batch in sorted(rows[0]["seconds_picture"], key=int, reverse=True):
        taken = [row["seconds_picture"][batch] for row in rows]
        alone = rows[2]["seconds_picture_without_decoder"][batch]
        found[f"seconds, batch {batch}"] = [*taken[:2], alone, taken[2]]
    return found


def factors(bill: Bill) -> dict[str, float]:
    """What each change is worth, as a factor; their product is what the whole way is worth. The decoder's is below
    1."""
    return {"fewer steps": bill[0] / bill[1], "cheaper step": bill[1] / bill[2], "decoder": bill[2] / bill[3]}


def waterfall(found: Mapping[str, Bill]) -> Figure:
    """A panel for each bill: from the whole cost, through what each change takes away or adds, to what is left."""
    figure, panels = plotting.subplots(1, len(found), figsize=(2.9 * len(found), 3.7), sharey=True, squeeze=False)
    for axes, (name, bill) in zip(panels[0], found.items()):
        _waterfall(axes, bill)
        axes.set_title(name)
    panels[0, 0].set_ylabel("cost per picture, DDPM's 1000 steps = 1")
    return figure


def _waterfall(axes: plt.Axes, bill: Bill) -> None:
    steps, step, end = (cost / bill[0] for cost in bill[1:])
    low = 1e-3  # where whole costs begin; a logarithm has no zero
    bars = [(low, 1), (steps, 1), (step, steps), (step, end), (low, end)]
    colours = [plotting.PIXEL, plotting.PIXEL, plotting.LATENT, plotting.CLAIMED, plotting.LATENT]
    for x, ((bottom, top), colour) in enumerate(zip(bars, colours)):
        axes.bar(x, top - bottom, 0.7, bottom, color=colour, alpha=1 if x in (0, 4) else 0.55)
    worth = [f"÷ {v:.3g}" if v > 1 else f"× {1 / v:.2f}" for v in factors(bill).values()]
    for x, text in enumerate(["1", *worth, f"1/{1 / end:.0f}"]):
        axes.text(x, bars[x][1] * 1.2, text, ha="center", fontsize=8)
    axes.set(yscale="log", ylim=(low, 2.5))
    names = ["DDPM, 1000", "fewer steps", "cheaper step", "decoder", "latent, 50"]
    axes.set_xticks(range(5), names, rotation=40, ha="right", fontsize=9)
    axes.grid(axis="x", visible=False)
    axes.minorticks_off()


def levelled(rows: Sequence[Row]) -> list[Row]:
    """The rows with the median of their seconds: at equal steps all samplers of a space call the network equally often,
    so that what their clocks differ by is chance."""
    groups: dict[tuple, list[float]] = {}
    for row in rows:
        groups.setdefault((row["space"], row["steps"]), []).append(row["seconds_picture"])
    return [row | {"seconds_picture": median(groups[row["space"], row["steps"]])} for row in rows]


def of_one_count(rows: Sequence[Row]) -> list[Row]:
    """Those judged on the most pictures, which alone can be compared with each other."""
    most = max(row["quality"]["n_generated"] for row in rows)
    return [row for row in rows if row["quality"]["n_generated"] == most]


def fronts(panels: Mapping[str, Sequence[Row]]) -> Figure:
    """KD-E against seconds per picture, a panel for each set of rows, with its Pareto front, and at the right how much
    two points must differ by to be told apart. Pale: beaten beyond the error; open: judged on fewer pictures."""
    size = (4.1 * len(panels), 4.0)
    figure, drawn = plotting.subplots(1, len(panels), figsize=size, squeeze=False)
    for axes, (name, rows) in zip(drawn[0], panels.items()):
        _front(axes, rows)
        axes.set_title(name)
    drawn[0][0].set_ylabel("KD-E, lower is better")
    keys = [
        plt.Line2D([], [], ls="", marker=MARKERS[m], color=plotting.NEUTRAL, label=name) for m, name in CALLED.items()
    ]
    keys += [plt.Line2D([], [], lw=6, color=plotting.COLOURS[s], label=s) for s in SPACES]
    figure.legend(handles=keys, fontsize=8, loc="outside upper center", ncols=5)
    return figure


def _front(axes: plt.Axes, rows: Sequence[Row]) -> None:
    full = of_one_count(rows)
    maybe, best = pareto(full, beyond_scatter=True), pareto(full)
    for row in rows:
        look = {"color": plotting.COLOURS[row["space"]], "alpha": 1 if row in maybe else 0.3}
        look |= {} if row in full else {"mfc": "none"}
        axes.plot(row["seconds_picture"], row["quality"]["kd_e"], MARKERS[row["method"]], ms=6, mew=0.8, **look)
    x, y = zip(*((row["seconds_picture"], row["quality"]["kd_e"]) for row in best))
    last = max(row["seconds_picture"] for row in full)
    axes.step([*x, last], [*y, y[-1]], where="post", color=plotting.NEUTRAL, lw=1)
    top = 1.15 * max(row["quality"]["kd_e"] for row in rows)
    axes.set(xscale="log", xlabel="seconds per picture", ylim=(0, top))
    errors = [row["quality"].get("kd_e_error", math.nan) for row in full]
    bar = 2 * math.sqrt(2) * median(errors)  # what two points must differ by
    place = {"color": plotting.NEUTRAL, "transform": axes.get_yaxis_transform()}
    axes.plot([1.02, 1.02], [0.04 * top, 0.04 * top + bar], lw=3, clip_on=False, **place)
    axes.text(0.99, 0.04 * top, "what it takes to be told apart", fontsize=8, ha="right", **place)
    axes.xaxis.set_minor_formatter(NullFormatter())

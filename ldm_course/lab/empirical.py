"""Chapter 2's plumbing: a step timed in both spaces, what could explain the source's table, the bill, equal budgets.

The source's own figures stand in `tables.SOURCE`; its clock is the cost of a pixel step by its DDIM row. What goes with
the work is carried over to that clock in pixel steps; what happens once, such as a first call, stays in seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from ..checkpoints import pretrained
from ..data.loaders import cifar10_is_here
from ..denoiser import Denoiser
from ..device import computed_in, default_device
from ..diffusion.samplers import sample
from ..measure.cost_model import BUILT_UP_TO
from ..measure.timing import time_call, training_step
from ..networks.unet import UNet
from ..page import plotting
from ..page.numbers import kd_e, plus_minus, si, times
from ..training.recipes import seeded
from .claims import lead
from .claims.ch2_results import EPOCHS, training_bill
from .claims.learnt import SPACES, at_equal_budget, nearer, seeds_of
from .claims.rates import Rates, picture_seconds
from .profiles import Profile
from .stages.base import Run
from .stages.cost import first_stage
from .tables import SOURCE, Record, Table

DDPM, DDIM, LATENT = SOURCE  # the source's rows
SOURCE_STEP = SOURCE[DDIM][0] / DDIM[2]  # seconds of a pixel step, all pictures at once, by the source's clock
WIDER = (4, 10)  # times all widths


def denoisers() -> tuple[str, dict[str, Denoiser]]:
    """A data set and its two denoisers by space: photographs where CIFAR-10 is at hand, else drawings."""
    device = default_device()
    data = "cifar10" if cifar10_is_here() else "emoji"
    return data, {space: pretrained(f"{data}-32-{space}", device) for space in SPACES}


# ------------------------------------------------------------------------------------------------ a step


def step(d: Denoiser, batch: int, steps: int = 1, **sampler) -> Callable[[], object]:
    """A function that draws `batch` samples in the denoiser's own space, ready to be timed."""
    noise = torch.randn(batch, *d.space.shape, device=d.device)
    chance = torch.Generator(d.device).manual_seed(0)
    return lambda: d.sample(noise, steps=steps, generator=chance, **sampler)


def drawing(d: Denoiser, batch: int, steps: int) -> Callable[[], object]:
    """The same to finished pictures, decoder included."""
    run = step(d, batch, steps)
    return lambda: d.space.to_pictures(run())


def parts(pixel: Denoiser, latent: Denoiser, batch: int) -> dict[str, Callable[[], object]]:
    """What is timed, by name: a step in either space, two of DDPM in pixels, decoding; and what a latent step would
    cost otherwise: ten without a network, one of a single picture, of twice as many (guidance), of wider networks."""
    shape, schedule = latent.space.shape, latent.schedule
    z = torch.randn(batch, *shape, device=latent.device)
    widths = latent.model.config.block_out_channels

    def wider(k: int) -> Denoiser:
        config = replace(latent.model.config, block_out_channels=tuple(k * width for width in widths))
        return replace(latent, model=seeded(0, UNet, config).to(latent.device).eval())

    return {
        "pixel": step(pixel, batch),
        "latent": step(latent, batch),
        "two of DDPM": step(pixel, batch, 2, method="ddpm"),
        "decode": lambda: latent.space.to_pictures(z),
        "no network": lambda: sample(lambda xt, t: xt, z, schedule, steps=10),
        "one picture": step(latent, 1),
        "guided": step(latent, 2 * batch),
        **{f"wider {k}": step(wider(k), batch) for k in WIDER},
    }


def run_seconds(T: Mapping[str, float], space: str, steps: int) -> float:
    """Of a batch of pictures by the chapter's equation: steps, and in latent space one decoding."""
    return steps * T[space] + (T["decode"] if space == "latent" else 0.0)


def speedups(T: Mapping[str, float]) -> dict[str, float]:
    """The source's two speed-ups, and the two comparisons that it leaves out, from seconds of `parts`."""
    fifty = run_seconds(T, "latent", 50)
    ddpm, ddim, same = 500 * T["two of DDPM"], run_seconds(T, "pixel", 100), run_seconds(T, "pixel", 50)
    return _speedups(ddpm, ddim, same, fifty)


def claimed_speedups() -> dict[str, float]:
    """The same by the source's table; 50 pixel steps, which it does not have, at half of its 100."""
    ddpm, ddim, latent = (taken for taken, _ in SOURCE.values())
    return _speedups(ddpm, ddim, ddim / 2, latent)


def recorded_speedups(cost: Record) -> dict[str, float]:
    """The same from the record of the stage `cost`, decoder included."""
    one, four = (_row(cost, f) for f in (1, 4))
    ddpm, ddim, same = (picture_seconds(one, steps) for steps in (1000, 100, 50))
    return _speedups(ddpm, ddim, same, picture_seconds(four, 50))


def _speedups(ddpm: float, ddim: float, same: float, latent: float) -> dict[str, float]:
    return {
        "pixel, 1000 steps → 100": ddpm / ddim,
        "pixel, 1000 → latent, 50": ddpm / latent,
        "pixel, 100 → latent, 50": ddim / latent,
        "pixel, 50 → latent, 50": same / latent,
    }


def _row(cost: Record, f: int) -> Mapping:
    return next(row for row in cost["results"]["rows"] if (row["side"], row["f"]) == (32, f))


def beside(here: float, recorded: float | None, unit: str = "x", within: float = 2.0) -> str:
    """What was recorded, to be said beside a reader's own number; and whether the two are far apart."""
    if recorded is None:
        return "there is no record to compare with"
    far = max(here / recorded, recorded / here) > within
    note = ", so your machine differs: go by the record" if far else ""
    return f"recorded: {recorded:.3g}{unit}{note}"


def cost_by_steps(T: Mapping[str, float]) -> Figure:
    """Seconds of a batch in pixel steps, against steps: a line for each space, and the source's three rows."""
    figure, axes = plotting.subplots(figsize=(7.0, 3.4))
    counts = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    for space, marker in zip(SPACES, "os"):
        costs = [run_seconds(T, space, steps) / T["pixel"] for steps in counts]
        axes.plot(counts, costs, marker=marker, ms=4, color=plotting.COLOURS[space], label=f"{space}, your machine")
    for (space, method, steps), (taken, _) in SOURCE.items():
        at = (steps, taken / SOURCE_STEP)
        axes.plot(*at, "X", ms=9, color=plotting.CLAIMED, label="claimed" if space == "latent" else None)
        place = {"ha": "right", "xytext": (-8, 4)} if method == "ddpm" or space == "latent" else {"xytext": (8, -10)}
        axes.annotate(f"{space}, {method.upper()}", at, textcoords="offset points", fontsize=8, **place)
    axes.set(xscale="log", yscale="log", xlabel="steps S", ylabel="time of a batch, in pixel steps")
    axes.legend(loc="lower right")
    return figure


# ------------------------------------------------------------------------------------------------ the suspects


def first_calls(name: str, batch: int, calls: int = 6) -> list[float]:
    """Seconds of the first `calls` steps of a pretrained denoiser in a process of its own, where nothing is warm yet;
    import, loading and the way to the device come before the clock. RuntimeError: the process failed."""
    code = f"from ldm_course.lab.empirical import _cold; _cold({name!r}, {batch}, {calls})"
    known = os.pathsep.join(filter(None, [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")]))
    env = os.environ | {"PYTHONPATH": known}  # the package that runs here
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError(f"the first calls could not be timed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def _cold(name: str, batch: int, calls: int) -> None:
    """Prints the seconds of the first calls in this process."""
    d = pretrained(name, default_device())
    d.model.eval()
    print(json.dumps(time_call(step(d, batch), repeats=calls, warmup=0).times))


def start_up(record: Record) -> float:
    """Seconds that a recorded training took at its start beyond its pace: what happens only once."""
    first, second = record["results"]["history"][:2]
    pace = (second["seconds"] - first["seconds"]) / (second["step"] - first["step"])
    return first["seconds"] - first["step"] * pace


@dataclass(frozen=True)
class Suspect:
    """What the source's latent row may have paid for: its seconds by the source's clock."""

    name: str
    seconds: float


def missing(T: Mapping[str, float]) -> float:
    """Seconds of the source's latent row that its steps do not explain, at this machine's ratio of a step."""
    return SOURCE[LATENT][0] - LATENT[2] * SOURCE_STEP * T["latent"] / T["pixel"]


def suspects(T: Mapping[str, float], batch: int, fixed: Mapping[str, float]) -> list[Suspect]:
    """What each would add to the source's 50 latent steps: from `parts` in pixel steps times the source's, and `fixed`
    costs, in seconds as they are."""
    steps, unit = LATENT[2], SOURCE_STEP / T["pixel"]
    work = {
        "the sampler's arithmetic": steps * T["no network"] / 10,
        "decoding": T["decode"],
        "guidance": steps * (T["guided"] - T["latent"]),
        "pictures one by one": steps * (batch * T["one picture"] - T["latent"]),
    } | {f"a U-Net {k} times as wide": steps * (T[f"wider {k}"] - T["latent"]) for k in WIDER}
    carried = {name: max(taken * unit, 1e-6) for name, taken in work.items()}
    return [Suspect(name, taken) for name, taken in (carried | dict(fixed)).items()]


def suspects_figure(found: Sequence[Suspect], needed: float) -> Figure:
    """Bars of seconds by the source's clock, and how many times too short each is; a line at what is missing."""
    figure, axes = plotting.subplots(figsize=(7.0, 0.36 * len(found) + 0.9))
    for at, one in enumerate(found):
        enough = one.seconds >= needed
        axes.barh(at, one.seconds, color=plotting.LATENT if enough else plotting.NEUTRAL, height=0.6)
        short = float(f"{needed / one.seconds:.2g}")
        words = "enough" if enough else f"{short:,.{0 if short > 10 else 1}f} times too short"
        place = {"textcoords": "offset points", "va": "center", "fontsize": 8}
        axes.annotate(words, (one.seconds, at), (4, 0), bbox={"color": plotting.CARD, "pad": 1}, **place)
    axes.axvline(needed, color=plotting.CLAIMED, ls="--", zorder=0)
    axes.set_yticks(range(len(found)), [one.name for one in found])
    axes.set(xscale="log", xlabel="seconds on the source's clock")
    axes.set_xlim(max(1e-5, min(one.seconds for one in found) / 2), 20 * needed)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.grid(axis="y", visible=False)
    axes.invert_yaxis()
    return figure


# ------------------------------------------------------------------------------------------------ the bill


def live_rates(p: Profile) -> Rates:
    """Seconds an image in training on this machine: a step of the profile's U-Net in pixels and in latents, one of the
    autoencoder with its perceptual loss, and encoding."""
    device = default_device()
    batch, longest, precision = p.batch_size, p.scale.call_seconds / 4, computed_in(device)

    def denoiser(channels: int, side: int) -> float:
        model = seeded(0, UNet, p.unet.for_channels(channels)).to(device)
        x, t = torch.randn(batch, channels, side, side, device=device), torch.zeros(batch, dtype=int, device=device)
        fn = training_step(model, x, t, torch.randn_like(x), half=precision == "bf16")
        return time_call(fn, repeats=7, warmup=1, seconds=longest).median / batch

    first = first_stage(Run("training-speed", p, Path(), 0.0, device), 4)
    trained, encoded = (first[f"{what}_seconds_image"] for what in ("training", "encode"))
    return Rates(denoiser(3, 32), denoiser(4, 8), trained, encoded, f"{precision}, batches of {batch}")


def rates_table(found: Mapping[str, Rates]) -> Table:
    """Seconds an image by machine, and pixel over latent."""
    head = ["ms per image in training", "pixel", "latent", "autoencoder", "encoding", "pixel / latent"]
    body = []
    for where, r in found.items():
        each = [f"{1000 * s:.3g}" for s in (r.pixel, r.latent, r.first_stage, r.encode)]
        body.append([where, *each, times(r.pixel, r.latent)])
    return head, body


def bill_figure(found: Mapping[str, Sequence[float]], claimed: float, allowed: Mapping[str, float]) -> Figure:
    """Speed-ups in training by epochs of the autoencoder, 0 on, a line for each machine; `allowed`: where a line
    comes down to the `claimed` factor."""
    figure, axes = plotting.subplots(figsize=(7.0, 3.2))
    for (where, values), line in zip(found.items(), ("-", "--", ":")):
        colour = plotting.LIVE if where == "your machine" else plotting.RECORDED
        axes.plot(range(len(values)), values, line, color=colour, label=where)
        if allowed[where] > 0:
            axes.plot(allowed[where], claimed, "o", ms=6, color=colour)
    axes.axhline(claimed, color=plotting.CLAIMED, ls="-.", label="claimed")
    axes.axhline(1, color=plotting.NEUTRAL, lw=0.8)
    axes.set(yscale="log", xlabel="epochs of the autoencoder, e", ylabel="pixel / latent, all seconds")
    axes.set_xlim(0, max(map(len, found.values())) - 1)
    axes.set_yticks([0.5, 1, 2, 5, 10], ["0.5", "1", "2", "5", "10"])
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.legend()
    return figure


NETWORKS = {"one for all sizes": float("inf"), "built for the size": BUILT_UP_TO}


def bill_rows(side: int, epochs: int, network: str) -> list[list]:
    """A frame of the widget on pictures' sizes: FLOPs of EPOCHS epochs for each picture, by part."""
    pixel, latent, first = training_bill(side, epochs, NETWORKS[network])
    counted = {"pixel denoiser": pixel, "latent denoiser": latent, "autoencoder": first}
    counted["latent, in all"] = latent + first
    most = max(counted.values())
    rows = [[name, si(EPOCHS * n, "FLOP"), f"{n / pixel:.2f}", n / most] for name, n in counted.items()]
    return [*rows, ["speed-up", times(pixel, latent + first), "", ""]]


# ------------------------------------------------------------------------------------------------ equal budgets


@dataclass(frozen=True)
class Match:
    """Two trainings where both have spent the same, the most that both have: points with images and quality, and the
    space that is `nearer` to real pictures."""

    name: str
    pixel: Mapping
    latent: Mapping
    nearer: str


def matched(pixel: Record, latent: Record, first: Record, found: Rates, seeds: Record | None = None) -> list[Match]:
    """Five ways to say “the same budget”: images, FLOPs and seconds, these two without the first stage and with it.
    What the seeds scatter is that of the record `seeds`."""
    p, z = pixel["results"], latent["results"]
    budgets = {
        "images": lead.IMAGES,
        "FLOPs": lead.flops(),
        "seconds": lead.seconds(found),
        "FLOPs, autoencoder included": lead.flops(z["first_stage"]),
        "seconds, autoencoder included": lead.seconds(found, first["results"]),
    }
    known, matches = seeds_of(seeds and seeds["results"]), []
    for name, budget in budgets.items():
        if pair := at_equal_budget(budget, p["points"], z["points"]):
            matches.append(Match(name, *pair, nearer(*(point["quality"] for point in pair), known)))
    return matches


def matched_table(found: Sequence[Match]) -> Table:
    """A row for each match: images and KD-E of either, and which is nearer."""
    head = ["at the same", "pixel, images", "KD-E", "latent, images", "KD-E", "nearer"]
    body = []
    for m in found:
        cells = []
        for point in (m.pixel, m.latent):
            q = point["quality"]
            cells += [si(point["images"]), kd_e(q)]
        body.append([m.name, *cells, m.nearer])
    return head, body


def overview(found: Sequence[Match], recorded: float) -> Figure:
    """The chapter in one picture. Left: a latent step in pixel steps, by the source's theory, by its table, and
    recorded. Right: KD-E of both spaces at equal budgets."""
    figure, (left, right) = plotting.subplots(1, 2, figsize=(9.0, 3.0), width_ratios=(1, 1.25))
    table = SOURCE[LATENT][0] / LATENT[2] / SOURCE_STEP
    bars = {
        "claimed,\nby its theory": (1 / 12, plotting.CLAIMED),
        "claimed,\nby its table": (table, plotting.CLAIMED),
        "recorded": (recorded, plotting.RECORDED),
    }
    for at, (value, colour) in enumerate(bars.values()):
        left.plot([1, value], [at, at], color=colour, lw=3)
        left.plot(value, at, "D", ms=8, color=colour)
        left.annotate(f"{value:.2g}", (value, at), (0, 8), textcoords="offset points", ha="center", fontsize=9)
    left.set_yticks(range(len(bars)), list(bars))
    left.axvline(1, color=plotting.NEUTRAL, lw=0.8)
    left.set(xscale="log", xlim=(0.03, 20), xlabel="a latent step, in pixel steps: left is cheaper")
    left.set_title("Speed", loc="left")
    left.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    left.grid(axis="y", visible=False)
    left.set_ylim(len(bars) - 0.5, -0.6)
    _dumbbells(right, found)
    right.set_title("Quality", loc="left")
    return figure


def _dumbbells(axes: plt.Axes, found: Sequence[Match]) -> None:
    for at, m in enumerate(found):
        ends = [point["quality"]["kd_e"] for point in (m.pixel, m.latent)]
        axes.plot(ends, [at, at], color=plotting.NEUTRAL, lw=1, zorder=1)
        for space, marker, x in zip(SPACES, "os", ends):
            axes.plot(x, at, marker, ms=8, color=plotting.COLOURS[space], label=space if at == 0 else None)
    names = [m.name.replace(", autoencoder", ",\nautoencoder") for m in found]
    axes.set_yticks(range(len(found)), [f"same {name}" for name in names])
    axes.set(xscale="log", xlabel="KD-E: left is nearer to real pictures")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks([0.1, 0.2, 0.4, 0.8])
    axes.grid(axis="y", visible=False)
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.legend(loc="lower right", fontsize=8)


def by_count(record: Record, method: str, steps: int) -> dict[int, Mapping]:
    """The quality of one row of a sampling stage by the number of pictures that it was judged at."""
    row = next(r for r in record["results"]["rows"] if (r["method"], r["steps"]) == (method, steps))
    return {q["n_generated"]: q for q in (row["quality_few"], row["quality"])}


def samplers_table(records: Mapping[str, Record]) -> Table:
    """The source's rows, and 50 steps in pixels, judged on several numbers of pictures: FD-E with its floor, and KD-E
    at the largest count."""
    rows = [DDPM, DDIM, ("pixel", "ddim", 50), LATENT]
    found = {row: by_count(records[row[0]], *row[1:]) for row in rows}
    counts = sorted({n for of in found.values() for n in of})
    floors = {n: next(of[n]["fd_e_floor"] for of in found.values() if n in of) for n in counts}
    head = ["", "steps", "claimed: FID", *(f"FD-E of {n:,} (floor {floors[n]:.0f})" for n in counts)]
    body = []
    for (space, method, steps), of in found.items():
        claimed = SOURCE.get((space, method, steps), (None, "–"))[1]
        shown = [plus_minus(of[n]["fd_e"], of[n].get("fd_e_error"), 0) if n in of else "–" for n in counts]
        body.append([f"{space}, {method.upper()}", str(steps), claimed, *shown])
    return head, body

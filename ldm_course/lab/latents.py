"""Chapter 9's autoencoders as tables and figures: what is rebuilt, what is drawn in their latents, and what may tell it
beforehand (see `tables` and `figures`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..page import plotting
from ..page.numbers import kd_e
from .claims import ch9_whats_next
from .claims.both_spaces import word
from .claims.verdicts import rules
from .figures import stored_rows
from .stages.latents import NEAR, REBUILT, SHOWN, STANDARD, ranks_of
from .tables import Record, Table

CALLED = {  # the measures, as a reader finds them
    REBUILT: "KD-E of reconstructions",
    "perceptual distance": "perceptual distance of reconstructions",
    NEAR: "error of reconstructions, as PSNR",
    "fine share": "share of fine waves in the latent",
    "half the size": "latent changes when the picture is halved",
    "one pixel": "latent changes when it is shifted by a pixel",
}
LINES = (plotting.PIXEL, plotting.LATENT, plotting.NEUTRAL, plotting.LIVE, plotting.RECORDED, plotting.CLAIMED)
# rFID and gFID on ImageNet at 256, without guidance, by autoencoder: Yao et al. 2025, Table 2 (LightningDiT-XL, gFID of
# 10,000 pictures; aligned: to DINOv2), and Kouzelis et al. 2025, Table 1 (DiT-B)
PUBLISHED = {
    "f16, plain": {"c16": (0.49, 8.28), "c32": (0.26, 10.92), "c64": (0.17, 17.24)},
    "f16, aligned": {"c16": (0.55, 8.71), "c32": (0.28, 8.22), "c64": (0.14, 11.98)},
    "published, plain": {"SD": (0.90, 43.8), "SDXL": (0.67, 46.0), "SD3": (0.20, 58.9), "KL f16": (0.87, 64.1)},
    "published, equivariant": {"SD": (0.82, 34.1), "SDXL": (0.65, 35.9), "SD3": (0.19, 54.0), "KL f16": (0.82, 49.7)},
}


def autoencoders(record: Record) -> Table:
    """A row for each autoencoder, the best rebuilt first: what it keeps, its latents, what is drawn in them."""
    body = []
    for row in record["results"]["rows"]:
        rebuilt, of = row["reconstruction"], row["latents"]
        kd = [kd_e(q) for q in (rebuilt["quality"], row["quality"])]
        shape = " × ".join(map(str, row["shape"]))
        half = f"{of['smoothness']['half the size']:.2f}"
        body.append([row["method"], shape, f"{rebuilt['psnr']:.1f} dB", kd[0], f"{_fine(row):.1f}x", half, kd[1]])
    return ["", "shape", "PSNR", "KD-E, rebuilt", "fine waves", "halved", "KD-E, drawn"], body


def _fine(row: Mapping) -> float:
    """The share of fine waves in the latents, as a multiple of the pictures' own."""
    return row["latents"]["fine_share"] / row["latents"]["fine_share_of_pictures"]


def budget(record: Record) -> str:
    """What each autoencoder and each denoiser was trained on, in a sentence."""
    r = record["results"]
    crops = f"{r['crops']:,} crops ({r['crops'] / r['data']['train']:.1f} of a picture)"
    return (
        f"One training each: an autoencoder on {crops}, a denoiser on {r['images']:,} pictures "
        f"({r['epochs']:.0f} epochs)."
    )


def ranks(record: Record) -> Table:
    """How each measure orders the autoencoders, beside what is drawn: all, and those of one shape."""
    one_shape, body = of_one_shape(record), []
    alike = ranks_of(one_shape)["drawn"]
    for name, of in record["results"]["ranks"]["drawn"].items():
        cells = [f"{x[key]:{form}}" for x in (of, alike[name]) for key, form in (("tau", "+.2f"), ("chance", ".1%"))]
        body.append([CALLED[name], *cells])
    counts = [len(rows) for rows in (record["results"]["rows"], one_shape)]
    titles = [[f"tau, {which} {n}", "by chance"] for which, n in zip(("all", "one shape,"), counts)]
    return ["lower is better", *titles[0], *titles[1]], body


def of_one_shape(record: Record) -> list[dict]:
    """The rows whose latents have the shape that most have. Only between these do the guides compare: what is fine, or
    a pixel's shift, is another thing on another grid."""
    rows = record["results"]["rows"]
    shapes = [row["shape"] for row in rows]
    usual = max(shapes, key=shapes.count)
    return [row for row in rows if row["shape"] == usual]


def orders(record: Record) -> Figure:
    """What is drawn against what is rebuilt, by KD-E with twice its error, each autoencoder by its name."""
    figure, axes = plotting.subplots(figsize=(7.0, 4.2))
    rows = record["results"]["rows"]
    of = [(row["reconstruction"]["quality"], row["quality"], row["method"]) for row in rows]
    x, y = [q["kd_e"] for q, _, _ in of], [q["kd_e"] for _, q, _ in of]
    bars = {f"{side}err": [2 * pair[i]["kd_e_error"] for pair in of] for i, side in enumerate("xy")}
    axes.errorbar(x, y, fmt="o", color=plotting.LATENT, ms=5, lw=1, capsize=2, **bars)
    axes.set(xlabel="KD-E of what is rebuilt, lower is better", ylabel="KD-E of what is drawn")
    axes.margins(x=0.15)
    _name(axes, {name: at for at, (*_, name) in zip(zip(x, y), of)})
    return figure


def _name(axes: plt.Axes, points: Mapping[str, tuple[float, float]], letter: float = 4.5, high: float = 10) -> None:
    """Each point's name at its right or, where that would touch another's, at its left; and as far up as it must."""
    axes.figure.draw_without_rendering()  # which places the axes
    taken: list[tuple[float, float, float]] = []  # of names, in points: centre, half the width, height
    for name, at in sorted(points.items(), key=lambda item: item[1][1]):
        (x, y), half = axes.transData.transform(at) * 72 / axes.figure.dpi, letter * len(name) / 2
        places = [(side, side * (6 + half), up) for up in range(2, 60, 3) for side in (1, -1)]
        side, aside, up = next(
            (side, aside, up)
            for side, aside, up in places
            if all(abs(x + aside - a) >= half + b or abs(y + up - c) >= high for a, b, c in taken)
        )
        taken.append((x + aside, half, y + up))
        look = {"textcoords": "offset points", "fontsize": 8, "ha": "left" if side > 0 else "right"}
        axes.annotate(name, at, (6 * side, up), **look)


def relative_power(power: Tensor, size: int) -> Tensor:
    """Spectra as `diffusability.channel_spectra` gives them, (C, rings), to their mean over channels times the number
    of positions, up to the highest complete ring: white noise has 1 everywhere."""
    return (power.double().mean(0) * size**2)[: size // 2 + 1]


def spectrum_lines(
    axes: plt.Axes, spectra: Mapping[str, tuple[Tensor, int]], cycles: int, one_grid: bool = True
) -> None:
    """Draws `relative_power` of each (spectrum, side of its grid), the constant left out, up to `cycles` a picture; the
    first is of pictures. Not of `one_grid`: the part of the variance in a wave, which needs no number of positions."""
    for i, (name, (power, size)) in enumerate(spectra.items()):
        shown = relative_power(power, size)[1 : cycles + 1] / (1 if one_grid else size**2)
        look = {"lw": 1.2, "marker": "os^vd"[i - 1], "ms": 4, "mfc": "none"} if i else {"lw": 2.2}
        axes.plot(range(1, len(shown) + 1), shown, color=LINES[i], label=name, **look)
    if one_grid:
        axes.axhline(1, color=plotting.CLAIMED, ls=":", lw=1)
    ticks = [2**i for i in range(cycles.bit_length())]
    axes.set(xscale="log", yscale="log", xlabel="cycles a picture")
    axes.set_ylabel("power, white noise is 1" if one_grid else "part of the variance in a wave")
    axes.set_xticks(ticks, labels=map(str, ticks))
    axes.xaxis.minorticks_off()
    axes.legend(fontsize=8)


def spectra(record: Record, names: Sequence[str]) -> Figure:
    """The spectra of these autoencoders' latents and of the pictures' own."""
    r = record["results"]
    by_name = {row["method"]: row for row in r["rows"]}
    found = {"pictures": (torch.tensor(r["pictures_spectrum"]), r["data"]["size"])}
    for name in names:
        found[name] = (torch.tensor(by_name[name]["latents"]["spectrum"]), by_name[name]["shape"][-1])
    figure, axes = plotting.subplots(figsize=(7.0, 3.6))
    spectrum_lines(axes, found, max(size for _, size in list(found.values())[1:]) // 2, one_grid=False)
    return figure


def sheet(record: Record, names: Sequence[str]) -> plotting.Picture:
    """Unseen pictures, and for each of these autoencoders the first half of them rebuilt and as many drawn, a JPEG."""
    stored = {key.partition(":")[0]: row for key, row in stored_rows(record).items()}
    rows = {"unseen pictures": stored["held-out pictures"]} | {name: stored[name] for name in names}
    above = ["rebuilt"] * SHOWN + ["drawn"] * SHOWN
    alt = "Held-out pictures; rebuilt and drawn: " + ", ".join(names)
    return plotting.Picture.of(plotting.named_rows(rows, above, scale=1), alt, 1.5)


def extremes(record: Record) -> dict[str, dict]:
    """The rows that are rebuilt best and worst, and drawn best."""
    return ch9_whats_next.extremes(record["results"]["rows"])


def in_a_minute(record: Record) -> str:
    """What the run says of the two orders, in three sentences."""
    r, ends = record["results"], extremes(record)
    rebuilt, drawn = ends["best rebuilt"], ends["best drawn"]
    said = f"Of {len(r['rows'])} autoencoders, all trained on equally many crops, *{rebuilt['method']}* rebuilds best"
    if rebuilt["method"] == drawn["method"]:
        said += " and is the best to draw in"
    else:
        said += f" ({_values(rebuilt)}), and *{drawn['method']}* is the best to draw in ({_values(drawn)})"
    return f"{said}. The order of what is rebuilt and that of what is drawn {_word(r['ranks']['drawn'][REBUILT])}."


def _values(row: Mapping) -> str:
    return f"{' × '.join(map(str, row['shape']))} values"


def _word(rank: Mapping[str, float]) -> str:
    """Whether two orders agree, by `rank_correlation` and the ledger's `chance`."""
    if rank["chance"] > rules.chance:
        return "cannot be told to agree or to disagree"
    return "agree" if rank["tau"] > 0 else "are opposed"


def agreement(rank: Mapping[str, float]) -> str:
    """Whether two orders agree, with the numbers."""
    number = f"Kendall's tau {rank['tau']:+.2f} ± {rank['error']:.2f}"
    return f"{_word(rank)} ({number}, as far from 0 by chance in {rank['chance']:.0%} of cases)"


def best_guide(record: Record) -> str:
    """Which measure goes best with what is drawn, in two sentences, beside what is rebuilt."""
    found = record["results"]["ranks"]["drawn"]
    name = max(found, key=lambda name: found[name]["tau"])
    said = (
        f"Of the {len(found)} measures, “{CALLED[name]}” goes best with what is drawn: the orders "
        f"{agreement(found[name])}."
    )
    return said if name == REBUILT else said + f" By “{CALLED[REBUILT]}” they {agreement(found[REBUILT])}."


GUIDES = {"fine waves": "fine share", "halving": "half the size", "a shift by a pixel": "one pixel"}


def against_the_lesson(record: Record) -> str:
    """Whether what the page teaches of latents orders what is drawn in them, over all and among those of one shape, and
    how two autoencoders that each turn one knob compare with the standard one, in sentences."""
    rows, alike = {row["method"]: row for row in record["results"]["rows"]}, of_one_shape(record)
    of_all = record["results"]["ranks"]["drawn"]
    said = [f"Over all {len(rows)}, {_guided(of_all)}."]
    if len(alike) > 2:
        said.append(
            f"Among the {len(alike)} of one shape, between which alone the guides compare, "
            f"{_guided(ranks_of(alike)['drawn'])}. (Counted after the fact, and each was trained once.)"
        )
    usual = rows[STANDARD]
    for name in ("more KL", "equivariant"):
        row = rows[name]
        db = row["reconstruction"]["psnr"] - usual["reconstruction"]["psnr"]
        how = word(usual["quality"], row["quality"])
        kd = " against ".join(f"{of['quality']['kd_e']:.3f}" for of in (row, usual))
        said.append(
            f"*{name}* has {_fine(row):.1f} times the pictures' fine share, *standard* {_fine(usual):.1f}; it rebuilds "
            f"{abs(db):.1f} dB {'better' if db > 0 else 'worse'}, and what is drawn is {how} ({kd})."
        )
    return " ".join(said)


def _guided(ranks: Mapping[str, Mapping[str, float]]) -> str:
    """How the page's guides order what is drawn, as a part of a sentence."""
    parts = []
    for found, says in {"agree": "in the order of the lesson", "are opposed": "in the opposite order"}.items():
        names = [name for name, key in GUIDES.items() if _word(ranks[key]) == found]
        listed = " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
        parts += [f"by {listed} what is drawn comes {says}"] if names else []
    numbers = "; ".join(f"{n} {ranks[k]['tau']:+.2f}, by chance {ranks[k]['chance']:.1%}" for n, k in GUIDES.items())
    return f"{', '.join(parts) or 'none of the guides orders what is drawn'} (tau of {numbers})"


def row_by_row(record: Record, names: Sequence[str]) -> list[str]:
    """A sentence for each of these rows: how much of the distance of what is drawn is the autoencoder's own."""
    by_name, said = {row["method"]: row for row in record["results"]["rows"]}, []
    for name in names:
        row = by_name[name]
        rebuilt, drawn = row["reconstruction"]["quality"]["kd_e"], row["quality"]["kd_e"]
        psnr = row["reconstruction"]["psnr"]
        whose = (
            "reconstructions alone have less than half of that"
            if rebuilt < drawn / 2
            else "reconstructions alone have half of that or more"
        )
        said.append(f"**{name}**: {psnr:.1f} dB; KD-E {rebuilt:.3f} rebuilt, {drawn:.3f} drawn: {whose}.")
    return said


def published() -> Figure:
    """rFID against gFID in two papers: plain autoencoders, and the same made easier to diffuse."""
    figure, panels = plotting.subplots(1, 2, figsize=(8.2, 3.6))
    titles = {"f16": "f = 16, LightningDiT-XL", "published": "four of others, DiT-B"}
    for axes, (group, title) in zip(panels, titles.items()):
        for name in (name for name in PUBLISHED if name.startswith(group)):
            plain = name.endswith("plain")
            look = {"color": plotting.NEUTRAL, "marker": "s"} if plain else {"color": plotting.LATENT, "marker": "o"}
            x, y = zip(*PUBLISHED[name].values())
            axes.plot(x, y, ls="-" if group == "f16" else "", label=name.split(", ")[1], **look)
            for called, at in PUBLISHED[name].items():
                place = {"xytext": (6, 4), "ha": "left"} if plain else {"xytext": (0, -14), "ha": "center"}
                axes.annotate(called, at, textcoords="offset points", fontsize=8, color=look["color"], **place)
        axes.set(title=title, xlabel="rFID of reconstructions", ylabel="gFID of what is drawn")
        axes.legend(fontsize=8)
        axes.margins(x=0.15, y=0.12)
        axes.set_ylim(0, None)
    return figure

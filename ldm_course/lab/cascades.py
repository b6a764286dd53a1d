"""Chapter 9's cascade as tables and figures: what each stage costs, and how near its pictures come (see `tables` and
`figures`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from matplotlib.figure import Figure

from ..page import plotting
from ..page.numbers import kd_e, plus_minus, si
from .claims import both_spaces
from .claims.learnt import resolved
from .figures import stored_rows
from .tables import Record, Table

SHADES = ("#E9B48A", "#D17F3B", plotting.PIXEL)  # of a cascade's stages, the smallest first


def bars(bills: Mapping[str, Mapping[str, float]]) -> Figure:
    """What a picture costs by each way to draw it, FLOPs by part, one bar each on one axis."""
    figure, axes = plotting.subplots(figsize=(7.4, 0.75 * len(bills) + 0.9))
    for y, (way, parts) in enumerate(bills.items()):
        start = 0.0
        for i, (part, flops) in enumerate(parts.items()):
            one = plotting.LATENT if "latent" in way else plotting.PIXEL
            look = {"color": SHADES[i] if len(parts) == 3 else one, "hatch": ("", "//", "..")[i], "edgecolor": "white"}
            axes.barh(y, flops / 1e9, left=start / 1e9, height=0.6, label=f"{way}: {part}", **look)
            start += flops
        axes.text(start / 1e9, y, f" {si(start, 'FLOP')}", va="center", fontsize=9)
    axes.set_yticks(range(len(bills)), labels=list(bills))
    axes.invert_yaxis()
    axes.set(xlabel="GFLOP a picture")
    axes.set_xlim(0, 1.2 * max(sum(of.values()) for of in bills.values()) / 1e9)
    axes.grid(axis="y", visible=False)
    axes.legend(fontsize=7, loc="lower right")
    return figure


def stages(record: Record) -> Table:
    """The stages of the cascade: what each was trained on, and what that cost."""
    r = record["results"]
    body = [
        [
            f"{of['size']} × {of['size']}",
            si(of["parameters"]),
            f"{of['images']:,}",
            f"{of['epochs']:.1f}",
            si(of["training_flops"], "FLOP"),
            f"{of['training_flops'] / r['training']['flops']:.0%}",
        ]
        for of in r["stages"]
    ]
    return ["stage", "parameters", "images seen", "epochs", "FLOPs of training", "of all"], body


def rows(record: Record) -> Table:
    """Steps and augmentation: what a picture costs, and how near the pictures are; the larger stages on real ones."""
    body = []
    for row in record["results"]["rows"]:
        options, q = row["options"], row["quality"]
        steps = " + ".join(map(str, options["steps"][1:] if options.get("real") else options["steps"]))
        of = "real pictures of 16 × 16" if options.get("real") else "noise"
        near = [kd_e(q), plus_minus(q["fd_e"], q["fd_e_error"], 0)]
        body.append([f"{steps} from {of}", f"{options['augmentation']:g}", si(row["flops"], "FLOP"), *near])
    return ["steps", "augmentation", "FLOPs a picture", "KD-E", "FD-E"], body


def drawn(record: Record) -> list[Mapping]:
    """The rows that begin with noise."""
    return both_spaces.from_noise(record["results"])


def best(record: Record) -> Mapping:
    """The drawn row that is nearest to real pictures, by KD-E."""
    return both_spaces.nearest(drawn(record))


_UNEQUAL = "; but that one was trained in batches of another size, so that equal FLOPs are unequal updates."


def beside_one(record: Record, one: Record) -> str:
    """What the cascade has come to beside one pixel network that was trained on no more FLOPs, and where that ends, in
    a sentence; empty where it has no mark at so few."""
    spent, last = record["results"]["training"]["flops"], one["results"]["points"][-1]
    if (point := both_spaces.last_within(one["results"], spent)) is None:
        return ""
    return (
        f"After training of {si(spent, 'FLOP')} the cascade has a KD-E of {best(record)['quality']['kd_e']:.3f}, one "
        f"pixel network of no more {point['quality']['kd_e']:.3f}, and after {last['flops'] / spent:.1f} times as many "
        f"{last['quality']['kd_e']:.3f}"
        + ("." if both_spaces.equal_batches(record["results"], one["results"]) else _UNEQUAL)
    )


def augmentations(record: Record) -> str:
    """What augmentation does in drawing at the usual steps, in a sentence: which comes nearest, and which others can be
    told from it."""
    usual = record["results"]["rows"][0]["options"]["steps"]
    of = {row["options"]["augmentation"]: row["quality"] for row in drawn(record) if row["options"]["steps"] == usual}
    best, farther = resolved(of)
    alike = [level for level in of if level not in (best, *farther)]
    said = [f"Of the augmentations in drawing, {best:g} comes nearest (KD-E {of[best]['kd_e']:.3f})"]
    said += [f"not told apart from it: {_levels(alike)}"] if alike else []
    said += [f"resolvably farther: {_levels(farther)}"] if farther else []
    return "; ".join(said) + "."


def _levels(of: Iterable[float]) -> str:
    return ", ".join(f"{level:g}" for level in of)


def where_it_is_lost(record: Record) -> str:
    """What becomes of the distance where real small pictures take the place of the base's, all else equal, in a
    sentence: of the augmentations tried on both, at the one that is best on real ones."""
    real = both_spaces.nearest(row for row in record["results"]["rows"] if row["options"].get("real"))
    same = {key: value for key, value in real["options"].items() if key != "real"}
    before = next(row["quality"]["kd_e"] for row in drawn(record) if row["options"] == same)
    after = real["quality"]["kd_e"]
    limit = "the base is" if after < before / 2 else "the larger stages are"
    return (
        "Put real pictures of 16 × 16 in the place of those that the base has drawn, and KD-E goes from "
        f"{before:.3f} to {after:.3f}: {after / before:.0%} of it is left, so {limit} the main limit here."
    )


def sheet(record: Record) -> Figure:
    """The stage's stored rows under their names, six pictures of each."""
    return plotting.named_rows({name: row[:6] for name, row in stored_rows(record).items()}, scale=2)


def by_training(record: Record, one: Record, of_latents: Record | None = None) -> Figure:
    """KD-E against FLOPs of training, first stage included: one pixel network on its way, the cascade, and where there
    is a record of it, the latent network of the standard autoencoder."""
    figure, axes = plotting.subplots(figsize=(7.0, 3.6))
    points = one["results"]["points"]
    bars = [2 * (p["quality"].get("kd_e_error") or 0) for p in points]
    look = {"capsize": 2, "ms": 5}
    x, y = [p["flops"] for p in points], [p["quality"]["kd_e"] for p in points]
    axes.errorbar(x, y, bars, fmt="o-", color=plotting.PIXEL, label="one network, pixels", **look)
    spent = {"cascade, pixels": (record["results"]["training"]["flops"], best(record)["quality"], "D", SHADES[1])}
    if of_latents:
        row = next(row for row in of_latents["results"]["rows"] if row["method"] == "standard")
        spent["latents, a smaller network"] = row["training_flops"], row["quality"], "s", plotting.LATENT
    for label, (flops, q, mark, colour) in spent.items():
        axes.errorbar([flops], [q["kd_e"]], [2 * q["kd_e_error"]], fmt=mark, color=colour, label=label, **look)
    axes.set(xscale="log", xlabel="FLOPs of training", ylabel="KD-E, lower is better")
    axes.set_ylim(0, None)
    axes.legend(fontsize=8)
    return figure

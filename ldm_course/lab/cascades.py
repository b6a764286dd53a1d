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
    """The stages of the cascade, and the one network beside it: what each was trained on, and what that cost."""
    r = record["results"]
    names = [f"{of['size']} × {of['size']}" for of in r["stages"]] + [f"one network, {r['one']['size']} alone"]
    body = [
        [
            name,
            si(of["parameters"]),
            f"{of['images']:,}",
            f"{of['epochs']:.1f}",
            si(of["training_flops"], "FLOP"),
            f"{of['training_flops'] / r['training']['flops']:.0%}",
        ]
        for name, of in zip(names, [*r["stages"], r["one"]], strict=True)
    ]
    return ["stage", "parameters", "images seen", "epochs", "FLOPs of training", "of the cascade's"], body


def rows(record: Record) -> Table:
    """Steps and augmentation: what a picture costs, and how near the pictures are; the larger stages on real ones; and
    the one network."""
    body = []
    for row in record["results"]["rows"]:
        options = row["options"]
        steps = " + ".join(map(str, options["steps"][1:] if options.get("real") else options["steps"]))
        of = "real pictures of 16 × 16" if options.get("real") else "noise"
        body.append([f"{steps} from {of}", f"{options['augmentation']:g}", *_cost_and_quality(row)])
    one = record["results"]["one"]
    body.append([f"{one['steps']} of one network", "", *_cost_and_quality(one)])
    return ["steps", "augmentation", "FLOPs a picture", "KD-E", "FD-E", "recall"], body


def _cost_and_quality(row: Mapping) -> list[str]:
    q = row["quality"]
    return [si(row["flops"], "FLOP"), kd_e(q), plus_minus(q["fd_e"], q["fd_e_error"], 0), f"{q['recall']:.1%}"]


def drawn(record: Record) -> list[Mapping]:
    """The rows that begin with noise."""
    return both_spaces.from_noise(record["results"])


def best(record: Record) -> Mapping:
    """The drawn row that is nearest to real pictures, by KD-E."""
    return both_spaces.nearest(drawn(record))


def beside_one(record: Record) -> str:
    """What the cascade has come to beside one network of as many FLOPs, in a sentence."""
    r = record["results"]
    one = r["one"]["quality"]["kd_e"]
    return (
        f"After training of {si(r['training']['flops'], 'FLOP')} each, in equal batches, the cascade has a KD-E of "
        f"{best(record)['quality']['kd_e']:.3f} and one pixel network {one:.3f}."
    )


def coverage(record: Record) -> str:
    """Recall and precision of the cascade and of the one network, beside real pictures' own, in a sentence."""
    mine, other = best(record)["quality"], record["results"]["one"]["quality"]
    recall, precision = (
        f"{mine[of]:.1%} for the cascade and {other[of]:.1%} for the one network ({mine[of + '_real']:.0%} for other "
        "real pictures)"
        for of in ("recall", "precision")
    )
    return (
        f"Recall, the share of real pictures near which something is drawn, is {recall}; precision, the share of what "
        f"is drawn that lies near real pictures, is {precision}."
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


def by_training(record: Record, longer: Record, of_latents: Record | None = None) -> Figure:
    """KD-E against FLOPs of training, first stage included: the cascade, the one network of as many FLOPs, one like it
    on its way that was trained for `longer`, and where there is a record of it, the latent network of the standard
    autoencoder."""
    figure, axes = plotting.subplots(figsize=(7.0, 3.6))
    r, look = record["results"], {"capsize": 2, "ms": 5}
    points = longer["results"]["points"]
    bars = [2 * (p["quality"].get("kd_e_error") or 0) for p in points]
    label = f"one network, batches of {longer['results']['training']['batch_size']}"
    x, y = [p["flops"] for p in points], [p["quality"]["kd_e"] for p in points]
    axes.errorbar(x, y, bars, fmt="o--", color=plotting.NEUTRAL, label=label, **look)
    batch = r["one"]["batch_size"]
    spent = {
        f"one network, batches of {batch}": (r["one"]["training_flops"], r["one"]["quality"], "o", plotting.PIXEL),
        f"cascade, batches of {batch}": (r["training"]["flops"], best(record)["quality"], "D", SHADES[1]),
    }
    if of_latents:
        row = next(row for row in of_latents["results"]["rows"] if row["method"] == "standard")
        spent["latents, a smaller network"] = row["training_flops"], row["quality"], "s", plotting.LATENT
    for label, (flops, q, mark, colour) in spent.items():
        axes.errorbar([flops], [q["kd_e"]], [2 * q["kd_e_error"]], fmt=mark, color=colour, label=label, **look)
    axes.set(xscale="log", xlabel="FLOPs of training", ylabel="KD-E, lower is better")
    axes.set_ylim(0, None)
    axes.legend(fontsize=8)
    return figure

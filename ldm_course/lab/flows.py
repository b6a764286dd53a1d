"""Section 9.5's record and networks as tables and figures: flows, transformers, patches (see `tables`, `figures`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from matplotlib.figure import Figure

from ..config import DiTConfig, UNetConfig
from ..measure.complexity import count_parameters, dit_flops, unet_flops
from ..networks.dit import DiT
from ..networks.unet import UNet
from ..page import plotting
from ..page.numbers import plus_minus, si
from .report import QUALITY_HEAD, quality
from .tables import Record, Table

PIXELS, LATENTS = (3, 32), (4, 8)  # channels and side of what is denoised, at 32 pixels a side and f = 4
PREDICTED = {"x0": ("o", "x₀"), "eps": ("s", "ε"), "u": ("^", "u")}
LOOKS = {  # of the methods in latents: line, marker
    "latent U-Net by DDPM": (":", "o"),
    "latent U-Net as a flow": ("-", "s"),
    "latent U-Net as a flow at logit-normal times": ("--", "D"),
    "latent DiT/2 as a flow": ("-.", "^"),
}


def networks(unet: UNetConfig | None = None, dit: DiTConfig | None = None) -> Table:
    """The course's U-Net and DiT in both spaces, counted: tokens or positions, numbers in each of them, parameters, and
    FLOPs of an evaluation, also as a multiple of the U-Net's in latents."""
    unet, dit = unet or UNetConfig(), dit or DiTConfig()
    every = [("U-Net", *LATENTS, None), ("DiT/2", *LATENTS, 2), ("U-Net", *PIXELS, None)]
    every += [(f"DiT/{patch}", *PIXELS, patch) for patch in (2, 4, 8)]
    body, usual = [], None
    for name, channels, side, patch in every:
        if patch is None:
            network = unet.for_channels(channels)
            flops, built, tokens, each = unet_flops(network, side).total, UNet(network), side**2, channels
        else:
            network = replace(dit, patch_size=patch).for_channels(channels)
            flops, built = dit_flops(network, side).total, DiT(network)
            tokens, each = (side // patch) ** 2, patch**2 * channels
        usual = usual or flops
        space = "latent" if (channels, side) == LATENTS else "pixel"
        cells = [f"{tokens:,}", str(each), si(count_parameters(built)), si(flops, "FLOP"), f"{flops / usual:.2g}x"]
        body.append([f"{space}, {name}", *cells])
    return ["", "tokens or positions", "numbers in each", "parameters", "a call", "of the first"], body


def last_rows(record: Record, sampler: str = "ddim") -> dict[str, Mapping]:
    """Each method's row with the most evaluations by that sampler, in the record's order."""
    found: dict[str, Mapping] = {}
    for row in record["results"]["rows"]:
        if row["sampler"] == sampler:
            before = found.get(row["method"])
            found[row["method"]] = row if before is None or row["evaluations"] > before["evaluations"] else before
    return found


def methods(record: Record) -> Table:
    """All methods of the stage at their most evaluations by Euler's method: what each took and draws, and how straight
    its paths are, as a share of the square of what they cross."""
    body = []
    for name, row in last_rows(record).items():
        of = record["results"]["methods"][name]
        bend = of["straightness"]
        share = plus_minus(100 * bend["s"] / bend["span"], 100 * bend["error"] / bend["span"], 1)
        cells = [si(of["parameters"]), si(of["training_flops"], "FLOP"), si(row["picture_flops"], "FLOP"), share]
        body.append([name, *cells, *quality(row["quality"])])
    return ["", "parameters", "training", "a picture", "bend, %", *QUALITY_HEAD], body


def samplers(record: Record) -> Figure:
    """KD-E of the methods in latents by evaluations of the network: Euler's method at the left, Heun's at the right,
    with twice the standard error."""
    figure, panels = plotting.subplots(1, 2, figsize=(7.6, 3.3), sharex=True, sharey=True)
    for axes, (sampler, title) in zip(panels, {"ddim": "Euler's method, DDIM", "heun": "Heun's method"}.items()):
        for i, (method, (line, marker)) in enumerate(LOOKS.items()):
            rows = [r for r in record["results"]["rows"] if (r["method"], r["sampler"]) == (method, sampler)]
            x, y = ([r["evaluations"] for r in rows], [r["quality"]["kd_e"] for r in rows])
            bars = [2 * (r["quality"].get("kd_e_error") or 0) for r in rows]
            look = {"ls": line, "marker": marker, "ms": 4, "capsize": 2, "color": plotting.LATENT, "alpha": 1 - i / 6}
            axes.errorbar(x, y, bars, label=method.removeprefix("latent "), **look)
        axes.set(title=title, xlabel="calls of the network", xscale="log")
        ticks = sorted({r["evaluations"] for r in record["results"]["rows"] if r["sampler"] == "ddim"})
        plotting.ticks(axes, ticks)
    panels[0].set_ylabel("KD-E, lower is better")
    panels[1].legend(fontsize=7)
    return figure


def _on_pixels(record: Record) -> dict[int, dict[str, str]]:
    """The transformers on pixels, small patches first: by the side of a patch and by what they predict, their names."""
    found: dict[int, dict[str, str]] = {}
    for name, of in record["results"]["methods"].items():
        if of["space"] == "pixel" and of["patch"]:
            found.setdefault(of["patch"], {})[of["prediction"]] = name
    return dict(sorted(found.items()))


def _unlearnt(record: Record) -> set[str]:
    """Of the transformers on pixels, those whose error of u is more than twice the least of as large patches."""
    methods_of, found = record["results"]["methods"], set()
    for names in _on_pixels(record).values():
        loss = {name: methods_of[name]["loss"] for name in names.values()}
        found |= {name for name in loss if loss[name] > 2 * min(loss.values())}
    return found


def predictions(record: Record) -> Figure:
    """The transformers on pixels by the numbers in a patch and by what they predict. Left: the error of u that their
    training ended with. Right: KD-E at the most evaluations, with twice the standard error; lines: the transformer in
    latents, and both U-Nets by DDPM."""
    figure, (left, right) = plotting.subplots(1, 2, figsize=(7.6, 3.2))
    rows, methods_of, named = last_rows(record), record["results"]["methods"], _on_pixels(record)
    for i, (prediction, (marker, says)) in enumerate(PREDICTED.items()):
        names = [of[prediction] for of in named.values()]
        kd = [rows[name]["quality"] for name in names]
        look = {"fmt": marker, "ms": 7, "capsize": 3, "color": plotting.PIXEL, "alpha": 1 - i / 4}
        look |= {"label": f"predicts {says}"}
        at = [k + 0.12 * (i - 1) for k in range(len(named))]
        left.errorbar(at, [methods_of[name]["loss"] for name in names], **look)
        right.errorbar(at, [q["kd_e"] for q in kd], [2 * (q.get("kd_e_error") or 0) for q in kd], **look)
    lines = {"latent DiT/2 as a flow": "-", "latent U-Net by DDPM": ":", "pixel U-Net by DDPM": "--"}
    for name, line in lines.items():
        colour = plotting.LATENT if name.startswith("latent") else plotting.PIXEL
        right.axhline(rows[name]["quality"]["kd_e"], ls=line, lw=1.2, color=colour, label=name)
    for axes, label in ((left, "error of u, lower is better"), (right, "KD-E, lower is better")):
        axes.set_xticks(range(len(named)), [f"{3 * patch**2}\n({patch} × {patch} pixels)" for patch in named])
        axes.set(xlabel="numbers in a patch", ylabel=label, xlim=(-0.5, len(named) - 0.5))
    left.set(title="what is learnt", yscale="log")
    left.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    right.set(title="what is drawn")
    right.set_ylim(0, None)
    right.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def what_patches_ask_for(record: Record) -> str:
    """What the transformers on pixels show, in sentences: by the error of u, on which all of them were trained, and by
    KD-E, which may order them otherwise."""
    rows, methods_of, named = last_rows(record), record["results"]["methods"], _on_pixels(record)
    patch, large = max(named.items())
    width = methods_of[large["x0"]]["network"]["width"]

    def each(names: Mapping[str, str], value: Callable[[str], float], digits: int) -> str:
        return ", ".join(f"{value(names[x]):.{digits}f} ({says})" for x, (_, says) in PREDICTED.items())

    def loss(name: str) -> float:
        return methods_of[name]["loss"]

    def kd(name: str) -> float:
        return rows[name]["quality"]["kd_e"]

    learnt = "; with ".join(f"{3 * side**2} numbers in a patch {each(of, loss, 2)}" for side, of in named.items())
    said = [f"The network is {width} wide. Its error of u ends, with {learnt}."]
    unlearnt = _unlearnt(record)
    if {large["eps"], large["u"]} <= unlearnt:
        said.append("So what is published happens here too: with large patches, only predicting x₀ learns.")
    else:
        said.append("What is published does not happen here to its full extent.")
    said.append(f"KD-E of what those with {patch} × {patch} pixels draw: {each(large, kd, 2)}.")
    best = min(large.values(), key=kd)
    if best in unlearnt:
        first = PREDICTED[methods_of[best]["prediction"]][1]
        said.append(
            f"**It puts {first} first, and the rows below say that it is wrong.** Features of what looks like no "
            "photograph lie nowhere near those of photographs, and their distances order nothing. Where all is bad, "
            "trust the loss and your eyes, and look before you quote a number."
        )
    return " ".join(said)


def in_a_minute(record: Record) -> str:
    """What the run says of transformers with as many tokens in either space, in a sentence."""
    rows, methods_of = last_rows(record), record["results"]["methods"]
    large = max(_on_pixels(record).items())[1]
    latent, *drawn = [rows[name]["quality"]["kd_e"] for name in ("latent DiT/2 as a flow", *large.values())]
    learnt = ", ".join(f"{methods_of[large[x]]['loss']:.2g} ({says})" for x, (_, says) in PREDICTED.items())
    return (
        f"At that cost the one in latents reaches KD-E {latent:.2f}, those on pixels {min(drawn):.2f} to "
        f"{max(drawn):.2f}; and there it matters what is predicted: u is learnt to an error of {learnt}."
    )


def published() -> Table:
    """FID of 50,000 pictures of ImageNet, by what a transformer predicts and the numbers in a patch (Li & He 2025,
    JiT, Table 2, their v-loss), as the figure of our own has it."""
    rows = {"16 × 16 of 256 × 256": (768, 8.62, 372.38, 96.53), "4 × 4 of 64 × 64": (48, 3.55, 3.63, 3.46)}
    body = [[name, str(numbers), *(f"{fid:.2f}" for fid in fids)] for name, (numbers, *fids) in rows.items()]
    return ["a patch", "numbers in it", "predicts x₀", "predicts ε", "predicts u"], body


def recorded_as(record: Record) -> str:
    """What all methods of the stage share, in a sentence."""
    r = record["results"]
    return (
        f"{r['images']:,} pictures of {r['data']['name']} seen by each, {r['data']['train']:,} different ones; "
        f"{r['evaluations_of_the_picture']} calls for a picture"
    )


def flaws(record: Record) -> str:
    """A sentence for each method on what is wrong with what it draws, as far as numbers tell: the error that it shares
    with others on as large patches; the share of its pictures that lie where real ones do, and the share of real ones
    that lie where its own do, beside those of real pictures."""
    said, unlearnt = [], _unlearnt(record)
    for name, row in last_rows(record).items():
        q = row["quality"]
        near, covered = q["precision"] / q["precision_real"], q["recall"] / q["recall_real"]
        if name in unlearnt:
            flaw = "it has hardly learnt: noise goes in, and noise comes out"
        elif min(near, covered) > 0.9:
            flaw = "no fault that these numbers see"
        elif max(near, covered) < 0.5:
            flaw = "its pictures neither look real nor vary as real ones do"
        elif near < covered:
            flaw = "first of all, its pictures do not look real"
        else:
            flaw = "first of all, it lacks variety"
        said.append(f"- {name}: {flaw} (precision {q['precision']:.2f}, recall {q['recall']:.2f})")
    q = row["quality"]
    return "\n".join([*said, f"- real pictures: precision {q['precision_real']:.2f}, recall {q['recall_real']:.2f}"])

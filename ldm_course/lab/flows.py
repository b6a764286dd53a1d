"""Section 9.5's record and networks as tables and figures: flows, transformers, patches (see `tables`, `figures`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from matplotlib.figure import Figure

from ..config import DiTConfig, UNetConfig
from ..measure.complexity import count_parameters, dit_flops, unet_flops
from ..networks.dit import DiT
from ..networks.unet import UNet
from ..page import plotting
from ..page.numbers import plus_minus, si
from .claims import both_spaces, verdicts
from .claims.learnt import unlike
from .figures import stored_rows
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
SHEET = {  # methods whose pictures tell something, and their names beside them
    "latent U-Net as a flow": "latent U-Net as a flow",
    **{f"pixel DiT/8 predicting {x}": f"pixel DiT/8: {says}" for x, (_, says) in PREDICTED.items()},
    "pixel DiT/4 predicting u": "pixel DiT/4: u",
    "pixel U-Net by DDPM": "pixel U-Net by DDPM",
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
    with twice the standard error; each method a little further to the right, so that bars do not overlap."""
    figure, panels = plotting.subplots(1, 2, figsize=(7.6, 3.8), sharex=True, sharey=True)
    for axes, (sampler, title) in zip(panels, {"ddim": "Euler's method, DDIM", "heun": "Heun's method"}.items()):
        for i, (method, (line, marker)) in enumerate(LOOKS.items()):
            judged = _judged(record, method, sampler)
            x, y = [n * 1.06 ** (i - 1.5) for n in judged], [q["kd_e"] for q in judged.values()]
            bars = [2 * (q.get("kd_e_error") or 0) for q in judged.values()]
            look = {"ls": line, "lw": 1.2, "marker": marker, "ms": 5, "capsize": 2, "elinewidth": 1}
            look |= {"color": plotting.LATENT, "mfc": "white" if i % 2 else plotting.LATENT}
            axes.errorbar(x, y, bars, label=method.removeprefix("latent "), **look)
        axes.set(title=title, xlabel="calls of the network", xscale="log")
        ticks = sorted({r["evaluations"] for r in record["results"]["rows"] if r["sampler"] == "ddim"})
        plotting.ticks(axes, ticks)
    panels[0].set_ylabel("KD-E, lower is better")
    panels[1].legend(fontsize=7)
    return figure


def _judged(record: Record, method: str, sampler: str) -> dict[int, Mapping]:
    """How a method's pictures by that sampler were judged, by the evaluations of each, few first."""
    rows = [row for row in record["results"]["rows"] if (row["method"], row["sampler"]) == (method, sampler)]
    return {row["evaluations"]: row["quality"] for row in sorted(rows, key=lambda row: row["evaluations"])}


def nearer(calls: Sequence[int], euler: Sequence[float], heun: Sequence[float]) -> str:
    """At which numbers of calls Heun's samples end nearer to a path than Euler's, by a tenth or more, in a sentence."""
    sides: dict[bool, list[int]] = {True: [], False: []}
    for n, x, y in zip(calls, euler, heun, strict=True):
        sides[y < 0.9 * x].append(n)
    yes, no = (" and ".join(map(str, sides[side])) for side in (True, False))
    if not yes:
        return f"By distance to that path Heun's second call pays at none of {no} calls."
    return f"By distance to that path Heun's second call pays at {yes} calls" + (f", and not at {no}." if no else ".")


def second_call(record: Record) -> str:
    """Where Heun's second call in each step pays by KD-E of the methods in latents, in a sentence: Euler's method and
    Heun's with as many evaluations, or one fewer."""
    lower: dict[int, list[float]] = {}
    words: dict[int, set[str]] = {}
    for method in LOOKS:
        euler, heun = (_judged(record, method, sampler) for sampler in ("ddim", "heun"))
        for n, q in euler.items():
            other = heun[n if n in heun else n - 1]
            lower.setdefault(n, []).append(q["kd_e"] - other["kd_e"])
            words.setdefault(n, set()).add(both_spaces.word(q, other))
    said = f"By KD-E of the {len(LOOKS)} networks in latents of the long run below, it pays"
    if not any(both_spaces.BETTER in of for of in words.values()):
        return f"{said} at no number of calls."
    most = max(lower, key=lambda n: fmean(lower[n]))
    alike = [str(n) for n, of in words.items() if of == {both_spaces.ALIKE}]
    even = f", and makes no difference that can be told at {' and '.join(alike)}" if alike else ""
    return f"{said} most at {most} calls: KD-E is lower by {_span(lower[most], 3)} there{even}."


def what_calls_buy(record: Record) -> str:
    """With how few calls Heun's method does what Euler's does with most, and what logit-normal times change with the
    fewest and with most, by KD-E of the methods in latents, in two sentences."""
    euler, heun = ({m: _judged(record, m, sampler) for m in LOOKS} for sampler in ("ddim", "heun"))
    uniform, logit = (euler[name] for name in list(LOOKS)[1:3])
    few, most = min(uniform), max(uniform)
    words = {n: {m: both_spaces.word(euler[m][most], heun[m][n]) for m in LOOKS} for n in next(iter(heun.values()))}
    enough = next((n for n in words if n < most - 1 and both_spaces.WORSE not in words[n].values()), None)
    if enough is None:
        said = f"With fewer calls Heun's method is behind Euler's with {most}."
    else:
        ahead = [m.removeprefix("latent ") for m, word in words[enough].items() if word == both_spaces.BETTER]
        said = f"Heun's method with {enough} calls is nowhere behind Euler's with {most}"
        said += f", and better for {' and '.join(ahead)}." if ahead else "."
    times = [
        f"{both_spaces.word(uniform[n], logit[n])} with {n} ({logit[n]['kd_e']:.3f} against {uniform[n]['kd_e']:.3f})"
        for n in (few, most)
    ]
    return f"{said} Beside uniform times, by Euler's method, logit-normal ones are {' and '.join(times)} calls."


def _span(values: Sequence[float], digits: int) -> str:
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


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
        first, other = (
            PREDICTED[methods_of[name]["prediction"]][1]
            for name in (best, min(large.values(), key=lambda name: rows[name]["quality"]["fd_e"]))
        )
        beside = ", as FD-E does," if first == other else f" (FD-E {other}),"
        said.append(
            f"**It puts {first} first{beside} and the pictures below say that it is wrong.** Features of what looks "
            "like no photograph lie far from those of photographs, and their distances need not agree. Where all is "
            "bad, trust the loss and your eyes, and look before you quote a number."
        )
    return " ".join(said)


def in_a_minute(record: Record) -> str:
    """What the run says of large patches and of what is predicted, in a sentence."""
    methods_of = record["results"]["methods"]
    large = max(_on_pixels(record).items())[1]
    learnt = [f"{methods_of[large[x]]['loss']:.2g} {{}} {says}" for x, (_, says) in PREDICTED.items()]
    first, *others = (text.format("if" if i else "if the network predicts") for i, text in enumerate(learnt))
    return f"On pixels it then matters what is predicted: the error of u is {', '.join([first, *others])}."


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


def sheet(record: Record) -> Figure:
    """Pictures of the methods in SHEET, six of each, the same seeds in every row, 96 screen pixels a side."""
    stored = stored_rows(record)
    return plotting.named_rows({shown: stored[name][:6] for name, shown in SHEET.items()}, scale=3)


def coverage(record: Record) -> str:
    """Precision and recall of all methods, beside real pictures' own, and how many of the methods cover almost nothing
    of real pictures, in three sentences."""
    of = [row["quality"] for row in last_rows(record).values()]
    near, found = ([q[name] for q in of] for name in ("precision", "recall"))
    few = sum(map(bool, map(unlike, of)))
    who = f"**All {len(of)} networks cover" if few == len(of) else f"**{few} of {len(of)} networks cover"
    return (
        f"Precision, the share of what is drawn that lies near real pictures, is {_span(near, 2)} "
        f"({of[0]['precision_real']:.2f} for other real pictures). Recall, the share of real pictures near which "
        f"something is drawn, is {_span(found, 3)} ({of[0]['recall_real']:.3f}). "
        f"{who} almost nothing of real pictures**, less than {verdicts.rules.covered:.0%} of what other real ones do."
    )


ALONE = "At equal FLOPs of the denoiser alone"
PAYS = {  # by the ledger's word for this setting
    both_spaces.BETTER: f"{ALONE} the latents are nearer to real pictures at some pixel network's budget, and further "
    "at none.",
    both_spaces.WORSE: f"{ALONE} the latents are further from real pictures at some pixel network's budget, and nearer "
    "at none.",
    both_spaces.MIXED: f"{ALONE} it depends on the budget: latents lead at some, pixels at others.",
    both_spaces.ALIKE: f"{ALONE} the two cannot be told apart.",
    verdicts.NOT_HERE: "Here too little was learnt, or judged, to tell.",
}


def does_it_pay(record: Record, first: Record, word: str) -> str:
    """What the run says of compression, in sentences: by the ledger's `word` for it (`both_spaces.word_of`), what KD-E
    is worth where nobody covers real pictures, and the bill with the first stage, whose record is `first`."""
    r, rows = record["results"], last_rows(record).values()
    said = [PAYS[word]]
    if all(unlike(row["quality"]) for row in rows):
        latent, pixel = (
            _span([row["quality"]["kd_e"] for row in rows if row["space"] == space], 2) for space in ("latent", "pixel")
        )
        said.append(
            f"KD-E is {latent} in latents and {pixel} on pixels, but where almost nothing of real pictures is covered, "
            "a distance proves little."
        )
    paid, seen = r["first_stage"]["training_flops"], first["results"]["data"]["train"]
    least = min(of["training_flops"] for of in r["methods"].values() if of["space"] == "latent")
    largest = max(of["training_flops"] for of in r["methods"].values() if of["space"] == "pixel")
    said.append(
        f"The latents' first stage, not counted so far, took {paid / 1e12:,.0f} TFLOP on {seen:,} pictures, "
        f"{paid / largest:.2g} times the largest pixel budget here; "
        + (
            "with it on the bill this run does not show a lead."
            if paid + least > largest
            else "with it on the bill the cheapest latent network still costs less."
        )
    )
    return " ".join(said)

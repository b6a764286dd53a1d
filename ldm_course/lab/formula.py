"""Chapter 8's records and network as tables and figures: parts, words, obedience (see `tables` and `figures`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from ..data.pictures import to_float, to_uint8
from ..denoiser import Denoiser
from ..diffusion.samplers import CALLED
from ..measure.complexity import count_flops, count_parameters
from ..measure.published import GIB, SYSTEMS
from ..measure.retrieval import CLASSES
from ..measure.timing import time_call
from ..networks.autoencoder import Autoencoder
from ..page import plotting
from ..page.numbers import NONE, kd_e, plus_minus, seconds, si
from . import systems as counted
from .claims.ch8_formula import TOGETHER, above
from .claims.learnt import resolved
from .claims.verdicts import gain
from .stages.prompts import KINDS, METHODS, STEPS, USUAL
from .tables import Record, Table

ASKED = {  # attributes in a table's columns, and how they are called
    "count": "count",
    "shape": "shapes",
    "colour": "colours",
    "shape and colour": "shape with colour",
    "size, shape and colour": "with size",
    "relation": "relation",
    "everything": "everything",
}


def parts_of(d: Denoiser, steps: int, guided: bool = True) -> Table:
    """The four parts of a latent denoiser that reads texts: what each takes and gives, its parameters, and for one
    picture how often it is called, its FLOPs, and its part of all of them; seconds are measured now."""
    model, device = d.model, d.device
    tokens = model.tokenizer(["a red star"]).to(device)
    zt = torch.zeros(1, *d.space.shape, device=device)
    t = torch.zeros(1, dtype=torch.int64, device=device)
    with torch.no_grad():
        context, first = model.encode(tokens), d.space.autoencoder
        calls = {
            "text encoder": (model.text, lambda: model.encode(tokens), 2 if guided else 1),
            "U-Net": (model.unet, lambda: model.unet(zt, t, context), steps * (2 if guided else 1)),
            "decoder": (first.decoder, lambda: first.from_latents(zt), 1),
        }
        flops = {name: count * count_flops(fn).total for name, (_, fn, count) in calls.items()}
        taken = {name: count * time_call(fn, repeats=5).median for name, (_, fn, count) in calls.items()}
    shapes = {
        "text encoder": f"{tokens.shape[1]} tokens to {' × '.join(map(str, context.shape[1:]))}",
        "U-Net": f"{' × '.join(map(str, d.space.shape))}, time and context to the same",
        "decoder": f"{' × '.join(map(str, d.space.shape))} to 3 × {d.space.size} × {d.space.size}",
    }
    body = []
    for name, (part, _, count) in calls.items():
        cost = [str(count), si(flops[name], "FLOP"), f"{flops[name] / sum(flops.values()):.1%}", seconds(taken[name])]
        body.append([name, shapes[name], si(count_parameters(part)), *cost])
        if name == "U-Net":
            body.append(["sampler", "two latents to the next one", "0", str(steps), *[NONE] * 3])
    return ["", "from, to", "parameters", "calls", "FLOPs", "part of all", "alone, here"], body


def word_maps(picture: Tensor, tokens: Sequence[str], maps: Tensor) -> Figure:
    """A picture, uint8 (3, H, W), and beside it where each token was read, (tokens, h, w), each scaled by itself."""
    size, columns = picture.shape[-1], 6
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    bright = ((maps - low) / (high - low).clamp(min=1e-9))[:, None]
    large = F.interpolate(bright, size=(size, size), mode="bilinear", align_corners=False)
    shown = (0.25 + 0.75 * large) * picture  # the picture shines through
    images = torch.cat([picture[None], shown.round().to(torch.uint8)])
    return plotting.grid(images, columns, ["the picture", *tokens], scale=max(1, round(96 / size)))


def marks(record: Record) -> Table:
    """A network that reads captions, on its way: the distances of what it draws to real pictures, by kind of picture,
    after so many images; their floors in the last row."""
    points = record["results"]["points"]
    body = []
    for point in points:
        found = [[plus_minus(q["fd_e"], q["fd_e_error"], 0), kd_e(q)] for q in point["quality"].values()]
        body.append([f"{point['images']:,}", *(cell for cells in found for cell in cells)])
    last = points[-1]["quality"]
    floors = [[f"{q['fd_e_floor']:.0f}", plus_minus(q["kd_e_floor"], None)] for q in last.values()]
    body.append(["as many real ones", *(cell for cells in floors for cell in cells)])
    return ["images", *(f"{name}: {measure}" for name in last for measure in ("FD-E", "KD-E"))], body


# --------------------------------------------------------------------------------------------- obedience


def _cell(share: Mapping | None) -> str:
    """A share with its standard error, in per cent, in one line."""
    return NONE if share is None else f"{100 * share['right']:.0f}\u00a0±\u00a0{100 * share['error']:.0f}"


def _shares(rows: Iterable[tuple[str, Mapping]], names: Mapping[str, str] = ASKED) -> Table:
    """A row for each set of shares by attribute, in per cent, and a column for each attribute that any has."""
    rows = list(rows)
    present = [name for name in names if any(name in of for _, of in rows)]
    counts = [max((share["n"] for share in of.values()), default=0) for _, of in rows]
    body = [[what, f"{n:,}", *(_cell(of.get(name)) for name in present)] for (what, of), n in zip(rows, counts)]
    return ["", "pictures", *(names[name] for name in present)], body


def detector(record: Record) -> Table:
    """How far to trust the detector: on real scenes, through the first stage, and where it must fail."""
    r = record["results"]
    known = {"real scenes": r["real"], "of new pairs": r["held_out_pairs"], "encoded and decoded": r["decoded"]}
    return _shares([*known.items(), *r["controls"].items()])


def _row(record: Record, kind: str, **sampler) -> Mapping | None:
    """The record's row for that kind of prompt, by USUAL's sampler but for what is given; None if there is none."""
    wanted = USUAL | sampler
    rows = record["results"]["rows"]
    return next((row for row in rows if row["kind"] == kind and row["sampler"] == wanted), None)


def obedience(record: Record, reader: Record) -> Table:
    """What pictures have right, by kind of prompt, plain and guided; first what the detector of the record `reader`
    finds right by chance, in scenes of other prompts."""
    rows = [("chance", reader["results"]["controls"]["another prompt"])]
    for kind in ("known", "new"):
        for scale in (1.0, USUAL["guidance_scale"]):
            row = _row(record, kind, guidance_scale=scale)
            if row:
                rows.append((f"{kind}, s = {scale:g}", row["obeyed"]))
    return _shares(rows)


def named(record: Record) -> Table:
    """Emoji by the drawing that is nearest, among all: the one that was asked for, the same drawing, the same tone."""
    names = {"name": "the one asked for", "drawing": "the same drawing", "tone": "the same tone"}
    found = {kind: of for kind, of in record["results"]["emoji"].items() if of["count"]}
    return _shares([(kind, {k: v for k, v in of.items() if k != "count"}) for kind, of in found.items()], names)


WHOLE = "everything"  # that a prompt says
AGAINST = {-1: "resolvably less", 0: "not told apart", 1: "resolvably more"}  # what `above` found


def _right(of: Mapping, name: str = WHOLE) -> str:
    return f"{of[name]['right']:.0%}"


def what_is_obeyed(record: Record, reader: Record) -> str:
    """The table of obedience in words: known pairs plain and guided, then new ones; what of one thing succeeds and
    fails most, beside chance."""
    plain, known, new = (
        _row(record, kind, guidance_scale=s)["obeyed"]
        for kind, s in (("known", 1.0), ("known", USUAL["guidance_scale"]), ("new", USUAL["guidance_scale"]))
    )
    parts, chance = ("count", "shape", "colour"), reader["results"]["controls"]["another prompt"]
    best, *_, worst = sorted(parts, key=lambda name: -known[name]["right"])
    said = {name: f"{ASKED[name]} ({_right(known, name)}, by chance {_right(chance, name)})" for name in (best, worst)}
    return (
        f"Of known pairs, {_right(known)} of the guided pictures have the whole prompt right, without guidance "
        f"{_right(plain)}. Of new pairs it is {_right(new)} (**{AGAINST[above(new[WHOLE], known[WHOLE])]}**). "
        f"Best understood is {said[best]}, least {said[worst]}."
    )


def what_is_named(record: Record) -> str:
    """The table of emoji in a sentence: how often the one that was asked for is the nearest, of tones seen with that
    drawing and never seen with it."""
    known, new = (record["results"]["emoji"][kind] for kind in ("known", "new"))
    told = AGAINST[above(new["name"], known["name"])]
    return (
        f"In tones that were trained on, {_right(known, 'name')} come out as the drawing that was asked for, in tones "
        f"never seen on that drawing {_right(new, 'name')} (**{told}**). Of these "
        f"the tone alone is right in {_right(new, 'tone')}; guessed, it would be in one of five."
    )


def _by(record: Record, option: str, kind: str = "known", **sampler) -> dict[float, Mapping]:
    """Rows of that kind of prompts by one option of the sampler, in order."""
    wanted = USUAL | sampler
    rows = [row for row in record["results"]["rows"] if row["kind"] == kind]
    rows = {row["sampler"][option]: row for row in rows if row["sampler"] == wanted | {option: row["sampler"][option]}}
    return dict(sorted(rows.items()))


def what_guidance_does(record: Record) -> str:
    """The figure of guidance in words: where obedience is greatest, where KD-E is least, from which other scales these
    cannot be told apart, and what variety is left."""
    rows = _by(record, "guidance_scale")
    obeys = max(rows, key=lambda s: rows[s]["obeyed"][WHOLE]["right"])
    near, farther = resolved({s: row["quality"] for s, row in rows.items()})
    less = [s for s in rows if above(rows[s]["obeyed"][WHOLE], rows[obeys]["obeyed"][WHOLE]) == -1]
    first, last = min(rows), max(rows)
    spread = [f"{rows[s]['diversity']['ratio']:.2f}" for s in (first, last)]
    return (
        f"Most prompts are obeyed at s = {obeys:g} ({_right(rows[obeys]['obeyed'])}{_alike(rows, {obeys, *less})}); "
        f"the set is nearest to real pictures at s = {near:g} ({kd_e(rows[near]['quality'])}"
        f"{_alike(rows, {near, *farther})}). From s = {first:g} to {last:g} two pictures of one prompt go from "
        f"{spread[0]} to {spread[1]} times as far apart as pictures of two prompts."
    )


def _alike(rows: Iterable[float], apart: Iterable[float]) -> str:
    """Which scales are not `apart` from the best, as the rest of a bracket."""
    alike = sorted(set(rows) - set(apart))
    return f"; not told apart from s = {', '.join(f'{s:g}' for s in alike)}" if alike else ""


def _enough(rows: Mapping[float, Mapping], worse: Callable[[Mapping, Mapping], bool]) -> float:
    """The fewest steps from which on no row is worse than that of the most."""
    best = rows[max(rows)]
    return max((a for a, b in zip(list(rows)[1:], rows) if worse(rows[b], best)), default=min(rows))


def what_steps_give(record: Record) -> str:
    """The figure of steps in words: for either sampler, from how many on obedience and KD-E are not resolvably worse
    than at the most; and where the fewest that were tried are not either, that this shows nothing."""
    found, fewest = [], set()
    for method in METHODS:
        rows = _by(record, "steps", method=method)
        obeyed = _enough(rows, lambda row, best: above(row["obeyed"][WHOLE], best["obeyed"][WHOLE]) == -1)
        near = _enough(rows, lambda row, best: (gain(row["quality"], best["quality"]) or 0) > 0)
        found.append(f"with {CALLED[method]} from {obeyed} steps on for obedience and from {near} for KD-E")
        fewest |= {min(rows)} & {obeyed, near}
    blind = f" Where even {min(fewest)} steps are not worse, the pictures are too few to tell." if fewest else ""
    return f"Not resolvably worse than at {max(rows)} steps: {'; '.join(found)}.{blind}"


def what_conditions_give(record: Record) -> str:
    """The table of conditions in words, guided, of known pairs: shape and colour of one thing together, which needs to
    be known what belongs to what, and colours, which need no order."""
    r = record["results"]
    guided = {row["condition"]: row["obeyed"] for row in r["rows"] if row["kind"] == "known" and row["guidance"] != 1}
    shares = [f"{name} {_right(of, TOGETHER)}" for name, of in guided.items()]
    lead = above(guided["frozen CLIP"][TOGETHER], guided["learnt encoder"][TOGETHER])
    bag, clip = (guided[name]["colour"] for name in ("bag of words", "frozen CLIP"))
    images = min(about["images"] for about in r["conditions"].values())
    return (
        f"After {images:,} pictures each, shape with colour is right in: {', '.join(shares)} (chance "
        f"{_right(r['chance']['known'], TOGETHER)}, the scenes themselves {_right(r['most']['known'], TOGETHER)}). "
        f"Frozen CLIP against an encoder that learns with the network: **{AGAINST[lead]}**. Colours, where order "
        f"does not matter, are right in {bag['right']:.0%} with the bag of words, in {clip['right']:.0%} with CLIP: "
        f"**{AGAINST[above(bag, clip)]}**."
    )


def conditions(record: Record) -> Table:
    """What pictures have right by what the network reads, guided, between the limits: of other captions, and of the
    scenes themselves."""
    r = record["results"]
    guided = {(row["condition"], row["kind"]): row["obeyed"] for row in r["rows"] if row["guidance"] != 1}
    rows = [(f"chance, {kind}", of) for kind, of in r["chance"].items()]
    rows += [(", ".join(key), of) for key, of in guided.items()]
    return _shares(rows + [(f"the scenes themselves, {kind}", of) for kind, of in r["most"].items()])


def clip(record: Record) -> Table:
    """What a CLIP knows, by the encoder of its texts, beside chance: of pictures that nobody was trained on."""
    found = record["results"]["encoders"]
    questions = {}  # by its name: a share for each encoder, and chance
    for group in ("scenes", "drawings in new tones", "new drawings"):
        of = [encoder[group]["retrieval"] for encoder in found.values()]
        n = of[0]["picture of a text"]["at_1"]["n"]
        name = f"{group}: which of {n:,} belongs to the text"
        questions[name] = [each["picture of a text"]["at_1"] for each in of], of[0]["chance"]["at_1"]
    for name, values in CLASSES.items():
        questions[f"scenes of one thing: its {name}"] = (
            [encoder["scenes"]["classes"][name] for encoder in found.values()],
            1 / len(values),
        )
    for name, what in {"colours": "two colours exchanged", "things": "two things exchanged"}.items():
        questions[f"the caption, or that with {what}"] = (
            [encoder["scenes"]["binding"][name] for encoder in found.values()],
            0.5,
        )
    body = [[name, *map(_cell, shares), f"{100 * chance:.1f}"] for name, (shares, chance) in questions.items()]
    return ["", *found, "chance"], body


LINES = {  # told apart without colour too
    "known": ("o-", plotting.LATENT),
    "new": ("s--", plotting.PIXEL),
    "ddim": ("D:", plotting.NEUTRAL),
    "dpmpp": ("o-", plotting.LATENT),
}


def _curves(record: Record, option: str, methods: Sequence[str], kinds: Sequence[str] = KINDS) -> Figure:
    """Obedience, KD-E and diversity by one option of the sampler, for these kinds of prompts; bars are two errors."""
    figure, panels = plotting.subplots(1, 3, figsize=(8.6, 3.2))
    for method in methods:
        for kind in kinds:
            line, colour = LINES[kind if len(methods) == 1 else method]
            found = _by(record, option, kind, method=method)
            x, rows = list(found), list(found.values())
            label = kind if len(methods) == 1 else f"{kind}, {CALLED[method]}"
            look = {"color": colour, "ms": 4, "label": label, "capsize": 2}
            of = [row["obeyed"]["everything"] for row in rows]
            panels[0].errorbar(x, [s["right"] for s in of], [2 * s["error"] for s in of], fmt=line, **look)
            quality = [row["quality"] for row in rows]
            bars = [2 * (q.get("kd_e_error") or 0) for q in quality]
            panels[1].errorbar(x, [q["kd_e"] for q in quality], bars, fmt=line, **look)
            spread = [row["diversity"] for row in rows]
            panels[2].errorbar(x, [s["ratio"] for s in spread], [2 * s["error"] for s in spread], fmt=line, **look)
    for axes, title in zip(panels, ("everything right, share", "KD-E, lower is better", "diversity of one prompt")):
        axes.set(title=title, xlabel={"guidance_scale": "guidance scale s", "steps": "steps S"}[option])
    for axes in panels:
        axes.set_ylim(0, None)
    panels[0].legend(fontsize=7)
    return figure


def guidance(record: Record) -> Figure:
    """Obedience, KD-E and diversity by the guidance scale."""
    return _curves(record, "guidance_scale", [USUAL["method"]])


def steps(record: Record) -> Figure:
    """The same by the number of steps, for either sampler, of known prompts."""
    figure = _curves(record, "steps", METHODS, ["known"])
    for axes in figure.axes:
        axes.set_xscale("log")
        plotting.ticks(axes, STEPS)
    return figure


# --------------------------------------------------------------------------------------------- the published systems


@torch.no_grad()
def channels(first: Autoencoder, picture: Tensor, shown: int = 256) -> Figure:
    """A picture, uint8 (1, 3, H, H), what an autoencoder makes of it, and the channels of the latents in between, each
    from its least value, black, to its greatest; all `shown` pixels a side."""
    z = first.to_latents(to_float(picture).to(next(first.parameters()).device))
    both = torch.cat([picture, to_uint8(first.from_latents(z)).cpu()])
    small = F.interpolate(both.float(), size=(shown, shown), mode="area").round().to(torch.uint8)
    images = torch.cat([small, plotting.channel_images(z, shown)[0]])
    named = [f"channel {i}" for i in range(1, z.shape[1] + 1)]
    sizes = f"{picture.shape[2]} × {picture.shape[3]}", f"{' × '.join(map(str, z.shape[1:]))}"
    return plotting.grid(images, 3, [f"the picture, {sizes[0]}", f"decoded from {sizes[1]}", *named], scale=1)


def systems() -> Table:
    """Stable Diffusion 1.5, SDXL and SD 3 by the lines of `ldm-course cost --system all` that the claims are about."""
    every = list(SYSTEMS.values())
    lines = {
        "parameters": ("in all", "parameters, all parts"),
        "FLOPs": ("denoiser, a pass", "FLOPs of a pass of the denoiser"),
        "share of a picture's FLOPs: the decoder's, the text encoders'": (
            "20 steps, guided",
            "decoder's, text encoders' share of a picture's FLOPs, 20 guided steps",
        ),
        "memory in GiB, at least: in half precision, in float32": (
            "sampling, guided, 512",
            "GiB to draw 512 × 512 with guidance, in half precision and in float32",
        ),
        "time of a picture: its FLOPs over a rate, an estimate": ("RTX 3090", "a picture on an RTX 3090, an estimate"),
    }
    body = [["a picture of", *(f"{s.size} × {s.size}" for s in every)]]
    body.append(["is denoised as", *(" × ".join(map(str, s.latent())) for s in every)])
    for title, rows in counted.sections(every):
        of = dict(rows)
        if title == "pixels over latents":
            names = {"values": "fewer values", "a pass, the same network": "a pass of the same network in pixels"}
            names["a pass, built for the size"] = "a pass in pixels of one built for that"
            body += [[words, *of[label]] for label, words in names.items()]
        elif title in lines:
            start, words = lines[title]
            body.append([words, *next(cells for label, cells in rows if label.startswith(start))])
    return ["counted by formula", *(s.name for s in every)], body


def stable_diffusion_step(record: Record) -> Table:
    """Networks of SD 1.5's sizes with random weights, timed: each part's parameters, FLOPs, seconds, memory beside the
    weights, and largest difference to what diffusers' and transformers' networks make of the same weights, as a part of
    the largest value."""
    r = record["results"]
    parts = {
        "text encoder, 77 tokens": (r["text"], "text"),
        "U-Net, a pass": (r["step"], "unet"),
        "U-Net, guided": (r["guided"], "unet"),
        "decoder": (r["decode"], "autoencoder"),
        "encoder": (r["encode"], "autoencoder"),
    }
    body = []
    for name, (of, network) in parts.items():
        gap = {None: NONE, 0.0: "0"}.get(of["difference"], f"{of['difference'] or 0:.0e}")
        spent = [seconds(of["seconds_alone"]), f"{of['peak_bytes'] / GIB:.2f} GiB", gap]
        body.append([name, si(r["parameters"][network]), si(of["flops"], "FLOP"), *spent])
    return ["", "parameters", "FLOPs", "seconds", "memory beside weights", "difference to the published code"], body

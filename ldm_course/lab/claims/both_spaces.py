"""Latents beside pixels under one budget, wherever chapter 9 has both (C9.5).

By KD-E, at equal counts of pictures. First stages are on no bill here, and `first_stage` says how large that of few
steps and flows is; the decoder is on that of every picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from ...page.numbers import si
from ..records import NotRecorded
from .learnt import ALIKE, SEEDS, Seeds, lacking, seeds_of, unlike
from .verdicts import NOT_HERE, NOT_YET, Evidence, gain, rules

BETTER, WORSE = "better", "worse"
MIXED = "better at some budgets, worse at others"
FEW_STEPS, FLOW, VIDEO = "few-steps-cifar10-32", "flow-cifar10-32", "video-scenes-64"
CASCADE, LATENT_64 = "cascade-emoji-64", "denoiser-emoji-64-latent"


def word(before: Mapping, after: Mapping, seeds: float = 0.0) -> str:
    """How the second of two judged sets stands beside the first: BETTER, WORSE or ALIKE, as `verdicts.gain` tells."""
    change = gain(before, after, seeds)
    return ALIKE if change is None else BETTER if change > 0 else WORSE


def copied(row: Mapping) -> bool:
    """Whether more clips of a row are nearer to training clips than to held-out ones than chance gives."""
    return row["copied"]["share"] - 0.5 > rules.scatter * row["copied"]["error"]


def nearest(rows: Iterable[Mapping]) -> Mapping | None:
    """The row whose pictures are nearest to real ones, by KD-E; None of none."""
    return min(rows, key=lambda row: row["quality"]["kd_e"], default=None)


def from_noise(results: Mapping) -> list[Mapping]:
    """A cascade's rows that begin with noise, not with real small pictures."""
    return [row for row in results["rows"] if not row["options"].get("real")]


def last_within(results: Mapping, flops: float) -> Mapping | None:
    """The last mark of a denoiser's training at which that had spent no more FLOPs; None if there is none."""
    return max((p for p in results["points"] if p["flops"] <= flops), key=lambda p: p["flops"], default=None)


@dataclass(frozen=True)
class Side:
    """What one space has at a budget: its `quality`, after so many `epochs`, by so many `pictures`; `flaw`, what speaks
    against it as evidence, or empty."""

    quality: Mapping
    epochs: float
    pictures: int
    flaw: str = ""


@dataclass(frozen=True)
class Compared:
    """Both spaces at one budget, and how the latents stand: a `word`, or NOT_HERE with what is `missing`."""

    budget: str
    pixel: Side
    latent: Side
    word: str
    missing: str = ""

    def __str__(self) -> str:
        return f"{self.budget} {self.pixel.quality['kd_e']:.3f} to {self.latent.quality['kd_e']:.3f}, {self.word}"


def compared(budget: str, pixel: Side, latent: Side, seeds: Seeds) -> Compared:
    """At one budget, with the scatter of the seeds.

    Not testable here where pictures or seeds are too few; where what is ahead has a flaw, such as copies, or pictures
    that cover next to nothing of real ones; and where what is behind has been trained for less than `rules.epochs`,
    since it may be on its way. Two that cannot be told apart must both be without flaw, and trained for so long.
    """
    found = word(pixel.quality, latent.quality, seeds.between(pixel.quality, latent.quality))
    ahead, behind = {
        BETTER: ((latent,), (pixel,)),
        WORSE: ((pixel,), (latent,)),
        ALIKE: ((pixel, latent), (pixel, latent)),
    }[found]
    pictures = [(0, min(pixel.pictures, latent.pictures))]
    missing = [lacking(min(side.epochs for side in behind), pictures, seeds.count), *(side.flaw for side in ahead)]
    missing = "; ".join(filter(None, missing))
    return Compared(budget, pixel, latent, NOT_HERE if missing else found, missing)


def together(found: Iterable[Compared]) -> str:
    """One word for a setting, from all its budgets: BETTER or WORSE where it is so at one and the opposite at none,
    MIXED where at some each, ALIKE where at all; NOT_HERE where one budget cannot be judged."""
    words = {each.word for each in found}
    if NOT_HERE in words:
        return NOT_HERE
    if {BETTER, WORSE} <= words:
        return MIXED
    return next(w for w in (BETTER, WORSE, ALIKE) if w in words)


def told(found: list[Compared] | str) -> str:
    """A setting in words: what latents are there, and each of its budgets; or what is missing."""
    if isinstance(found, str):
        return "no record"
    missing = list(dict.fromkeys(part for each in found if each.missing for part in each.missing.split("; ")))
    shown = "; ".join(missing) if missing else "; ".join(map(str, found))
    return f"{together(found)} ({shown})"


def settings(seen: Evidence) -> dict[str, list[Compared] | str]:
    """By setting, its comparisons; or, where there is no record of it, a line that says so."""
    try:
        known = seeds_of(seen.results(SEEDS))
    except NotRecorded:
        known = seeds_of(None)
    found: dict[str, list[Compared] | str] = {}
    for name, compare in SETTINGS.items():
        try:
            found[name] = compare(seen, known)
        except NotRecorded as missing:
            found[name] = str(missing)
    return found


def word_of(setting: str, seen: Evidence) -> str:
    """One setting's word, or NOT_YET. ValueError: no such setting."""
    if setting not in SETTINGS:
        raise ValueError(f"setting {setting!r}; expected one of {', '.join(SETTINGS)}")
    found = settings(seen)[setting]
    return NOT_YET if isinstance(found, str) else together(found)


def first_stage(seen: Evidence) -> str:
    """How large the bill is that few steps and flows leave out, in a sentence; empty where it is not recorded."""
    try:
        r = seen.results(FLOW)
    except NotRecorded:
        return ""
    first = r["first_stage"]["training_flops"]
    most = max(of["training_flops"] for of in r["methods"].values())
    return f"That of CIFAR-10 took {si(first, 'FLOP')}, {first / most:.2g} times the dearest of the flows' networks."


# The settings -------------------------------------------------------------------------------------------------------


def _side(row: Mapping, epochs: float) -> Side:
    return Side(row["quality"], epochs, row["quality"]["n_generated"], unlike(row["quality"]))


def _few_steps(seen: Evidence, seeds: Seeds) -> list[Compared]:
    """Distilled networks, at the FLOPs of a picture in each number of steps in pixels: the best row of either space
    that costs no more."""
    r = seen.results(FEW_STEPS)
    rows = {s: [x for x in r["rows"] if (x["space"], x["method"]) == (s, "distilled")] for s in ("pixel", "latent")}
    if not r["finished"] or not all(rows.values()):
        raise NotRecorded("few steps have not been judged in both spaces yet")
    epochs = {s: min(r["teachers"][s]["epochs"], r["trainings"][f"{s}, distilled"]["epochs"]) for s in rows}
    found: list[Compared] = []
    for row in sorted(rows["pixel"], key=lambda x: x["steps"]):
        most = row["flops_picture"]
        pair = {s: nearest(x for x in of if x["flops_picture"] <= most) for s, of in rows.items()}
        if pair["latent"] is not None:
            sides = [_side(pair[s], epochs[s]) for s in ("pixel", "latent")]
            found.append(compared(f"{row['steps']} pixel steps", *sides, seeds))
    return found


def _flow(seen: Evidence, seeds: Seeds) -> list[Compared]:
    """Each kind of network on pixels, by the prediction that it has learnt best, the loss of all being one, against the
    best latent row that costs no more, by `tie`, in training and for a picture; both by the sampler that both have."""
    r = seen.results(FLOW)
    methods, rows = r["methods"], [row for row in r["rows"] if row["sampler"] == "ddim"]
    found = []
    patches = dict.fromkeys(of["patch"] for of in methods.values() if of["space"] == "pixel")
    for patch in patches:
        of_kind = {name: of for name, of in methods.items() if (of["space"], of["patch"]) == ("pixel", patch)}
        learnt = min(of_kind, key=lambda name: of_kind[name]["loss"])
        tried = [row for row in rows if row["method"] == learnt]
        pixel = nearest(tried)
        costs = [(1 + rules.tie) * max(row[cost] for row in tried) for cost in ("training_flops", "picture_flops")]
        latent = nearest(
            row
            for row in rows
            if row["space"] == "latent" and row["training_flops"] <= costs[0] and row["picture_flops"] <= costs[1]
        )
        if latent is not None:
            sides = [_side(row, methods[row["method"]]["epochs"]) for row in (pixel, latent)]
            found.append(compared("the U-Net's" if patch is None else f"DiT/{patch}'s", *sides, seeds))
    return found


def _video(seen: Evidence, seeds: Seeds) -> list[Compared]:
    """Clips of 32 a side, their frames and their changes: at equal frames of training, and at equal FLOPs."""
    r = seen.results(VIDEO)
    rows = {row["method"]: row for row in r["rows"] if row["size"] == 32}
    found = []
    for budget, name in (("images", "latent video"), ("FLOPs", "latent video of as many FLOPs")):
        for part in ("frames", "changes"):
            sides = []
            for row in (rows["pixel video"], rows[name]):
                flaw = "its clips are copies" if copied(row) else unlike(row["quality"]["frames"])
                count = r["data"]["frames"] * row["clips"]
                sides.append(Side(row["quality"][part], row["epochs"], count, flaw))
            found.append(compared(f"equal {budget}, {part}", *sides, seeds))
    return found


def _cascade(seen: Evidence, seeds: Seeds) -> list[Compared]:
    """Emoji at 64: the cascade, in pixels, at its best number of steps, against one latent network at the last mark of
    its training at which that had spent no more FLOPs. Both are counted, not timed, so that records of two kinds of
    machine may stand side by side; not so networks trained in unequal batches, whose equal FLOPs are unequal numbers of
    updates."""
    stages, one = seen.results(CASCADE), seen.results(LATENT_64)
    best, point = nearest(from_noise(stages)), last_within(one, stages["training"]["flops"])
    if point is None:
        raise NotRecorded("the latent network at 64 has no mark at so few training FLOPs as the cascade's")
    sides = _side(best, stages["training"]["epochs"]), _side(point, point["images"] / one["data"]["train"])
    if {stage["batch_size"] for stage in stages["stages"]} != {one["training"]["batch_size"]}:
        sides = (replace(side, flaw="trained in batches of unequal size") for side in sides)
    return [compared("training FLOPs", *sides, seeds)]


SETTINGS: dict[str, Callable[[Evidence, Seeds], list[Compared]]] = {
    "few steps": _few_steps,
    "video": _video,
    "flow": _flow,
    "cascade": _cascade,
}

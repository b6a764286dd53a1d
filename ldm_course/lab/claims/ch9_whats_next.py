"""The claims of chapter 9, what comes next."""

from __future__ import annotations

import math

from ..records import NotRecorded
from .learnt import lacking
from .verdicts import CONFIRMED, NOT_HERE, REFINED, REFUTED, Evidence, Finding, claim, gain, rules, worst

LATENTS = "latents-emoji-64"
REBUILT, NEAR = "KD-E of reconstructions", "PSNR, turned round"


@claim("C9.1", "Better autoencoders give fewer artefacts.", "what is rebuilt and what is drawn, of eleven autoencoders")
def _better_autoencoders(seen: Evidence) -> Finding:
    """Two questions, of autoencoders that saw as many crops, with KD-E for artefacts.

    Of what is rebuilt: do those that are nearer to each held-out picture, by PSNR, leave fewer artefacts? Of what one
    denoiser draws in their latents, after as many pictures: do those whose reconstructions have fewer artefacts, as the
    literature compares by FID, draw better pictures too? Each is confirmed if the two orders go the same way, and
    refuted if they go opposite ways, where orders that have nothing to do with each other would be as far from no
    correlation no more often than `chance`; else it cannot be told. Single pairs decide nothing, since each autoencoder
    and each denoiser was trained once.
    """
    found = seen.results(LATENTS)
    if not found["finished"]:
        raise NotRecorded(f"of the autoencoders, only {len(found['rows'])} have been judged so far")
    rows = found["rows"]
    judged = [q for row in rows for q in (row["quality"], row["reconstruction"]["quality"])]
    epochs = min(row["denoiser"]["epochs"] for row in rows)
    missing = lacking(epochs, [(found["steps"], quality["n_generated"]) for quality in judged])
    if missing:
        return Finding(NOT_HERE, missing)
    of_rebuilt, of_drawn = found["ranks"]["rebuilt"][NEAR], found["ranks"]["drawn"][REBUILT]
    ends = {
        "best rebuilt": rows[0],
        "worst rebuilt": rows[-1],
        "best drawn": min(rows, key=lambda row: row["quality"]["kd_e"]),
    }
    same, other = _pairs(rows)
    return Finding(
        worst(_order(of_rebuilt), _order(of_drawn)),
        f"of {len(rows)} autoencoders, PSNR and what is rebuilt: {_tau(of_rebuilt)}; what is rebuilt and what is "
        f"drawn: {_tau(of_drawn)}; " + "; ".join(f"{name}: {_told(row)}" for name, row in ends.items()),
        f"Of the pairs that differ resolvably in both, {same} are drawn in the order in which they are rebuilt, "
        f"{other} in the opposite one; by one training of each.",
    )


def _order(rank: dict) -> str:
    if rank["chance"] > rules.chance:
        return NOT_HERE
    return CONFIRMED if rank["tau"] > 0 else REFUTED


def _tau(rank: dict) -> str:
    return f"tau {rank['tau']:+.2f} ± {rank['error']:.2f} (by chance in {rank['chance']:.1%} of cases)"


def _told(row: dict) -> str:
    rebuilt = row["reconstruction"]
    return (
        f"{row['method']}, {rebuilt['psnr']:.1f} dB, KD-E {rebuilt['quality']['kd_e']:.3f} rebuilt, "
        f"{row['quality']['kd_e']:.3f} drawn"
    )


def _pairs(rows: list[dict]) -> tuple[int, int]:
    """How many pairs differ resolvably in what is rebuilt and in what is drawn: the same way, and opposite ways."""
    signs = []
    for i, row in enumerate(rows):
        for after in rows[i + 1 :]:
            rebuilt = gain(after["reconstruction"]["quality"], row["reconstruction"]["quality"])
            drawn = gain(after["quality"], row["quality"])
            signs += [] if None in (rebuilt, drawn) else [math.copysign(1, rebuilt * drawn)]
    return signs.count(1), signs.count(-1)


CASCADE, ONE_NETWORK = "cascade-emoji-64", "denoiser-emoji-64-pixel"


@claim("C9.2", "Cascades reach high resolution in several stages.", "emoji at 64, in three stages and in one")
def _in_stages(seen: Evidence) -> Finding:
    """By KD-E of emoji at 64 pixels a side, the cascade at its best number of steps against one pixel network, at the
    last mark of its training at which that had spent no more FLOPs than the whole cascade.

    Confirmed if the cascade is resolvably nearer to real pictures, refuted if it is resolvably further, and refined if
    the two cannot be told apart: then it reaches the size, and saves nothing.
    """
    stages, one = seen.together(CASCADE, ONE_NETWORK)
    spent = stages["training"]["flops"]
    rows = [row for row in stages["rows"] if not row["options"].get("real")]
    best = min(rows, key=lambda row: row["quality"]["kd_e"])
    point = max((p for p in one["points"] if p["flops"] <= spent), key=lambda p: p["flops"], default=None)
    if point is None:
        return Finding(NOT_HERE, "one network has no mark at so few training FLOPs")
    epochs = min(stages["training"]["epochs"], point["images"] / one["data"]["train"])
    missing = lacking(epochs, [(0, of["quality"]["n_generated"]) for of in (best, point)])
    if missing:
        return Finding(NOT_HERE, missing)
    mine, other = best["quality"], point["quality"]
    change = mine["kd_e"] - other["kd_e"]
    told = abs(change) > rules.scatter * math.hypot(mine["kd_e_error"], other["kd_e_error"])
    steps = " + ".join(map(str, best["options"]["steps"]))
    return Finding(
        REFINED if not told else CONFIRMED if change < 0 else REFUTED,
        f"KD-E {mine['kd_e']:.3f} by {steps} steps, against {other['kd_e']:.3f} by one network that had spent "
        f"{point['flops'] / spent:.0%} of the training FLOPs",
        "For these sizes, three equal U-Nets, and one training of each.",
    )


_SPACE = "Through all of these, a compressed, semantically meaningful space stays the more efficient one."
for _id, _says in {
    "C9.3": "Consistency models generate in one step.",
    "C9.4": "Video adds temporal coherence.",
    "C9.5": _SPACE,
}.items():
    claim(_id, _says, "chapter 9")(None)

"""The claims of chapter 9, what comes next."""

from __future__ import annotations

import math

from ..records import NotRecorded
from .learnt import lacking
from .verdicts import CONFIRMED, NOT_HERE, REFUTED, Evidence, Finding, claim, gain, rules, worst

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


for _id, _says in {
    "C9.2": "Cascades reach high resolution in several stages.",
    "C9.3": "Consistency models generate in one step.",
    "C9.4": "Video adds temporal coherence.",
    "C9.5": "Through all of these, a compressed, semantically meaningful space stays the more efficient one.",
}.items():
    claim(_id, _says, "chapter 9")(None)

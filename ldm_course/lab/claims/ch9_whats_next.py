"""The claims of chapter 9, what comes next."""

from __future__ import annotations

import math

from .learnt import lacking
from .verdicts import CONFIRMED, NOT_HERE, REFINED, REFUTED, Evidence, Finding, claim, rules

CASCADE, ONE_NETWORK = "cascade-emoji-64", "denoiser-emoji-64-pixel"


claim("C9.1", "Better autoencoders give fewer artefacts.", "chapter 9")(None)


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

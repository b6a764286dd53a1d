"""The claims of chapter 9, what comes next."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ...measure.coherence import MEASURES
from .learnt import lacking
from .verdicts import CONFIRMED, NOT_HERE, REFINED, REFUTED, Evidence, Finding, claim, gain, rules, worst

for _id, _says in {
    "C9.1": "Better autoencoders give fewer artefacts.",
    "C9.2": "Cascades reach high resolution in several stages.",
    "C9.3": "Consistency models generate in one step.",
}.items():
    claim(_id, _says, "chapter 9")(None)


# Video ---------------------------------------------------------------------------------------------------------------

VIDEO = "video-scenes-64"
SIGNS = ("kept", "bend", "flicker")  # of coherence, among `coherence.MEASURES`


@claim("C9.4", "Video adds temporal coherence.", "tracks, flicker and changes of clips of scenes at 64, in latents")
def _video(seen: Evidence) -> Finding:
    """A network of clips against an image network whose frames are drawn alone, after as many frames of training.

    Three signs of coherence, each beside real clips through the same first stage: things kept from frame to frame, the
    bend of their tracks, the flicker of the ground. Each is confirmed if the network of clips is nearer to real ones,
    resolvably and by more than `half` of the way; refuted if it is not resolvably nearer; else refined. All three
    refuted refute the claim. A still is coherent too, so that clips must move: things go, a frame, more than `half` of
    what real ones go, and the changes' KD-E is resolvably below that of stills, which is an image network's frames of
    one noise. If they do not, the claim is refined.

    Not testable before 20 epochs and 1,000 frames; where clips are copies, nearer to training clips than to held-out
    ones, since what is copied is coherent; where the detector finds no track; and where the instruments let pass what
    must fail: frames in wrong order by their bend and changes, frames of different clips by all signs.
    """
    found = seen.results(VIDEO)
    rows = {row["method"]: row for row in found["rows"] if row["size"] == 64}
    real, alone, still, video = (
        rows[name] for name in ("encoded and decoded", "images alone", "images of one noise", "video from scratch")
    )
    epochs = min(row["epochs"] for row in (alone, video))
    missing = lacking(epochs, [(found["steps"], found["data"]["frames"] * video["clips"])]) or _let_pass(rows)
    if not missing and any(row["coherence"][sign]["mean"] is None for row in (real, alone, video) for sign in SIGNS):
        missing = "the detector finds no tracks"
    if not missing and _copied(video):
        missing = (
            f"clips are copies: nearer to training clips in {video['copied']['share']:.0%}, where 50% are expected"
        )
    if missing:
        return Finding(NOT_HERE, missing)
    signs = {sign: _nearer(*(row["coherence"][sign] for row in (real, alone, video))) for sign in SIGNS}
    if set(signs.values()) == {REFUTED}:
        coherent = REFUTED
    else:
        coherent = CONFIRMED if set(signs.values()) == {CONFIRMED} else REFINED
    far = video["coherence"]["step"]["mean"] > rules.half * real["coherence"]["step"]["mean"]
    beyond = (gain(still["quality"]["changes"], video["quality"]["changes"]) or 0) > 0
    shown = (
        f"{MEASURES[sign].split(',')[0].removesuffix(' from frame to frame')}: {_values(rows, sign)}" for sign in SIGNS
    )
    moves = "things move as in real clips" if far and beyond else "they do not move as real ones do"
    return Finding(
        worst(coherent, CONFIRMED if far and beyond else REFINED),
        "frames alone, network of clips, real clips: " + "; ".join(shown) + f"; {moves}",
        f"With an image network's weights to begin with: {_values(rows, 'kept', 'video from images')} kept. "
        + _spaces(found["rows"]),
    )


def _values(rows: Mapping[str, dict], sign: str, *methods: str) -> str:
    """The means of one measure, of the usual three methods or of others."""
    methods = methods or ("images alone", "video from scratch", "encoded and decoded")
    return ", ".join(f"{rows[method]['coherence'][sign]['mean']:.2g}" for method in methods)


def _apart(one: dict, other: dict) -> bool:
    """Whether two means differ by more than `scatter` errors of the difference; not where one is not known."""
    known = (one["mean"], one["error"], other["mean"], other["error"])
    if None in known:
        return False
    return abs(one["mean"] - other["mean"]) > rules.scatter * math.hypot(one["error"], other["error"])


def _nearer(real: dict, alone: dict, video: dict) -> str:
    """Whether clips are nearer to real ones than frames drawn alone, and by how much of the way."""
    way, left = (abs(row["mean"] - real["mean"]) for row in (alone, video))
    if not _apart(alone, video) or left >= way:
        return REFUTED
    return CONFIRMED if way - left > rules.half * way else REFINED


def _copied(row: dict) -> bool:
    """Whether more clips are nearer to training clips than to held-out ones than chance gives."""
    return row["copied"]["share"] - 0.5 > rules.scatter * row["copied"]["error"]


def _let_pass(rows: Mapping[str, dict]) -> str:
    """What the instruments do not tell from real clips although they must; empty where there is nothing."""
    real, shuffled, mixed = (rows[name] for name in ("real clips", "frames shuffled", "frames of different clips"))
    passed = [
        f"{name} pass by {sign}"
        for name, row, signs in (("shuffled frames", shuffled, ("bend",)), ("frames of different clips", mixed, SIGNS))
        for sign in signs
        if not _apart(real["coherence"][sign], row["coherence"][sign])
    ]
    passed += [
        f"{name} pass by changes"
        for name, row in (("shuffled frames", shuffled), ("frames of different clips", mixed))
        if not (gain(row["quality"]["changes"], real["quality"]["changes"]) or 0) > 0
    ]
    return "; ".join(passed)


def _spaces(rows: list[dict]) -> str:
    """What the clips of 32 a side say of the two spaces: KD-E of frames and of changes; an observation, no verdict."""
    small = {row["method"]: row for row in rows if row["size"] == 32}
    pixel = small["pixel video"]["quality"]
    said = []
    for name, budget in (("latent video", "images"), ("latent video of as many FLOPs", "FLOPs")):
        latent = small[name]["quality"]
        leads = {part: gain(pixel[part], latent[part]) for part in ("frames", "changes")}
        words = (
            f"{part} {'not told apart' if lead is None else 'better' if lead > 0 else 'worse'}"
            for part, lead in leads.items()
        )
        copies = ", and copied" if _copied(small[name]) else ""
        said.append(f"at equal {budget} {', '.join(words)}{copies}")
    return f"At 32, latents against pixels: {'; '.join(said)}."


claim(
    "C9.5",
    "Through all of these, a compressed, semantically meaningful space stays the more efficient one.",
    "chapter 9",
)(None)

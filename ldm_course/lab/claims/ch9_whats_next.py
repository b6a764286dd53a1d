"""The claims of chapter 9, what comes next."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ...page.numbers import kd_e, si
from ..records import NotRecorded
from . import both_spaces
from .both_spaces import CASCADE, FEW_STEPS, VIDEO, copied, from_noise, nearest
from .ch6_three_stages import cannot_tell, enough_steps, fewest
from .learnt import SPACES, as_good, lacking, unlike
from .verdicts import CONFIRMED, NOT_HERE, REFINED, REFUTED, Evidence, Finding, claim, gain, rules, worst

EITHER = (CONFIRMED, REFINED, NOT_HERE, REFUTED)  # of a claim that holds if it holds in one space
LATENTS = "latents-emoji-64"
REBUILT, NEAR = "KD-E of reconstructions", "PSNR, turned round"


@claim("C9.1", "Better autoencoders give fewer artefacts.", "what is rebuilt and what is drawn, of eleven autoencoders")
def _better_autoencoders(seen: Evidence) -> Finding:
    """Two questions, of autoencoders that saw as many crops, with KD-E for artefacts.

    Of what is rebuilt: do those that are nearer to each held-out picture, by PSNR, leave fewer artefacts? Of what one
    denoiser draws in their latents, after as many pictures: do those whose reconstructions have fewer artefacts, as the
    literature compares by FID, draw better pictures too? Each is confirmed if the two orders go the same way, and
    refuted if they go opposite ways, where orders that have nothing to do with each other would be as far from no
    correlation no more often than `chance`; else it cannot be told, as of what is drawn where even the best covers next
    to nothing of real pictures. Single pairs decide nothing, since each autoencoder and each denoiser was trained once.
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
    same, other = _pairs(rows)
    unlearnt = unlike(nearest(rows)["quality"])
    return Finding(
        worst(_order(of_rebuilt), NOT_HERE if unlearnt else _order(of_drawn)),
        f"of {len(rows)} autoencoders, PSNR and what is rebuilt: {_tau(of_rebuilt)}; what is rebuilt and what is "
        f"drawn: {_tau(of_drawn)}; "
        + "; ".join(f"{name}: {_told(row)}" for name, row in extremes(rows).items())
        + (f"; of the best, {unlearnt}" if unlearnt else ""),
        f"Of the pairs that differ resolvably in both, {same} are drawn in the order in which they are rebuilt, "
        f"{other} in the opposite one; by one training of each.",
    )


def extremes(rows: list[dict]) -> dict[str, dict]:
    """Of the autoencoders' rows, the best rebuilt first: those rebuilt best and worst, and drawn best."""
    return {"best rebuilt": rows[0], "worst rebuilt": rows[-1], "best drawn": nearest(rows)}


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


@claim("C9.2", "Cascades reach high resolution in several stages.", "emoji at 64, in three stages and in one")
def _in_stages(seen: Evidence) -> Finding:
    """By KD-E of emoji at 64 pixels a side, the cascade at its best number of steps against one pixel network like its
    base, trained in the same batches on as many FLOPs as the whole cascade.

    Confirmed if the cascade is resolvably nearer to real pictures, refuted if it is resolvably further, and refined if
    the two cannot be told apart: then it reaches the size, and saves nothing. Not testable here where what is nearer
    covers next to nothing of real pictures.
    """
    stages = seen.results(CASCADE)
    best, one = nearest(from_noise(stages)), stages["one"]
    epochs = min(stages["training"]["epochs"], one["epochs"])
    missing = lacking(epochs, [(0, of["quality"]["n_generated"]) for of in (best, one)])
    if missing:
        return Finding(NOT_HERE, missing)
    mine, other = best["quality"], one["quality"]
    change = gain(other, mine)
    steps = " + ".join(map(str, best["options"]["steps"]))
    shown = (
        f"KD-E {mine['kd_e']:.3f} by {steps} steps, against {other['kd_e']:.3f} by {one['steps']} of one network, "
        f"trained on {si(stages['training']['flops'], 'FLOP')} each, in equal batches"
    )
    if unlearnt := unlike(nearest((best, one))["quality"]):
        return Finding(NOT_HERE, f"{shown}; of the nearer {unlearnt}")
    return Finding(
        REFINED if change is None else CONFIRMED if change > 0 else REFUTED,
        shown,
        "For these sizes, three equal U-Nets, and one training of each.",
    )


@claim("C9.3", "Consistency models generate in one step.", "KD-E of one step against its teacher's, in both spaces")
def _one_step(seen: Evidence) -> Finding:
    """In either space, of the distilled network against its teacher at as many DDIM steps as are enough, the fewest
    from which on KD-E is not resolvably above that of the most (`enough_steps`), and against the teacher at one step.

    Confirmed: one step is as good as enough (`as_good`). Refined: one step is resolvably better than the teacher's one,
    and within a factor of `off` of enough, or more steps, fewer than the teacher's, are as good but for a `tie`.
    Refuted: neither. Not testable where the teacher has not learnt, where pictures are too few to tell one of its steps
    from the most, where a network that falls short has been distilled for less than `epochs`, since it may be on its
    way, and where what it draws at its best covers next to nothing of real pictures. A network that does not fall short
    has shown that it can, however soon.
    """
    found = seen.results(FEW_STEPS)
    sides = {space: _one_step_in(found, space) for space in SPACES}
    return Finding(
        min((side.verdict for side in sides.values()), key=EITHER.index),
        "; ".join(f"in {space} space {side.found}" for space, side in sides.items()),
        _what_is_left(found),
    )


def _one_step_in(found: dict, space: str) -> Finding:
    rows = [row for row in found["rows"] if row["space"] == space]
    teacher = {(r["sampler"], r["steps"]): r for r in rows if r["method"] == "teacher" and r["sampler"] == "ddim"}
    taught = {r["steps"]: r for r in rows if r["method"] == "distilled"}
    training = found["trainings"].get(f"{space}, distilled")
    if training is None:
        raise NotRecorded(f"one step in {space} space has not been judged yet")
    if not taught:
        return Finding(NOT_HERE, f"distilling {training['course']}")
    most, one = teacher["ddim", max(steps for _, steps in teacher)], taught[1]
    missing = lacking(found["teachers"][space]["epochs"], [(1, one["quality"]["n_generated"])])
    if missing:
        return Finding(NOT_HERE, missing)
    steps = enough_steps(teacher, most)
    if steps is None:
        return Finding(NOT_HERE, cannot_tell(fewest(teacher), most).found)
    enough = teacher["ddim", steps]
    word = _judged(teacher["ddim", 1], enough, taught)
    shown = (
        f"KD-E {_kd(one)} in one step; the teacher {_kd(teacher['ddim', 1])} in one, {_kd(enough)} in {steps} DDIM "
        f"steps, which are enough"
    )
    if others := [f"{_kd(r)} in {n}" for n, r in taught.items() if n > 1]:
        shown += f"; more steps of it {', '.join(others)}"
    missing = lacking(training["epochs"], [])
    if word in (REFINED, REFUTED) and missing:
        return Finding(NOT_HERE, f"{shown}; it falls short, after {missing}")
    unlearnt = unlike(nearest(taught.values())["quality"])
    if word in (CONFIRMED, REFINED) and unlearnt:
        return Finding(NOT_HERE, f"{shown}; {unlearnt}")
    return Finding(word, shown)


def _judged(start: dict, enough: dict, taught: dict[int, dict]) -> str:
    """One step against the teacher's one and its `enough`."""
    like = {n: as_good(enough["quality"], r["quality"]) for n, r in taught.items() if n < enough["steps"]}
    if like[1] in (CONFIRMED, NOT_HERE):
        return like[1]
    one = taught[1]["quality"]
    helps = (gain(start["quality"], one) or 0) > 0
    near = one["kd_e"] <= rules.off * enough["quality"]["kd_e"]
    return REFINED if helps and (near or {CONFIRMED, REFINED} & set(like.values())) else REFUTED


def _kd(row: dict) -> str:
    return kd_e(row["quality"])


def _what_is_left(found: dict) -> str:
    """What the latents' lead is in one step, where the decoder is paid for by one call instead of many."""
    if not found["one_step"]:
        return ""
    pixel, latent = (found["one_step"][space]["flops"] for space in SPACES)
    call, whole = latent["network"], latent["network"] + latent["decoder"]
    return (
        f"The decoder is {latent['decoder_share']:.0%} of the FLOPs of a picture in one latent step: a call is "
        f"{pixel['network'] / call:.0f}x cheaper than in pixels, the picture {pixel['network'] / whole:.1f}x."
    )


SIGNS = {  # of coherence, among `coherence.MEASURES`, in short
    "kept": "share of things found again",
    "bend": "widths by which a step differs from the one before it",
    "flicker": "grey levels by which the calmer half of the pixels changes",
}


@claim("C9.4", "Video adds temporal coherence.", "tracks, flicker and changes of clips of scenes at 64, in latents")
def _video(seen: Evidence) -> Finding:
    """A network of clips against an image network whose frames are drawn alone, after as many frames of training.

    Three signs of coherence, each beside real clips through the same first stage: things kept from frame to frame, the
    bend of their tracks, the flicker of the ground. Each is confirmed if the network of clips is nearer to real ones,
    resolvably and by more than `half` of the way; refuted if it is not resolvably nearer; else refined. All three
    refuted refute the claim. A still is coherent too, so that clips must move: things go, a frame, more than `half` of
    what real ones go and less than twice as far, and the changes' KD-E is resolvably below that of stills, which is an
    image network's frames of one noise. If they do not, the claim is refined.

    Not testable before 20 epochs and 1,000 frames; where frames cover next to nothing of real ones, since what is no
    thing cannot stay one; where clips are copies, nearer to training clips than to held-out
    ones, since what is copied is coherent; where the detector finds no track; and where the instruments let pass what
    must fail: frames in wrong order by their bend and changes, frames of different clips by all signs.
    """
    found = seen.results(VIDEO)
    rows = {row["method"]: row for row in found["rows"] if row["size"] == 64}
    real, alone, still, video = (
        rows[name] for name in ("encoded and decoded", "images alone", "images of one noise", "video from scratch")
    )
    epochs = min(row["epochs"] for row in (alone, video))
    missing = lacking(epochs, [(found["steps"], found["data"]["frames"] * video["clips"])])
    missing = missing or _let_pass(rows)
    if not missing and any(row["coherence"][sign]["mean"] is None for row in (real, alone, video) for sign in SIGNS):
        missing = "the detector finds no tracks"
    if not missing and copied(video):
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
    far = rules.half < video["coherence"]["step"]["mean"] / real["coherence"]["step"]["mean"] < 1 / rules.half
    beyond = (gain(still["quality"]["changes"], video["quality"]["changes"]) or 0) > 0
    shown = (f"{words}: {_values(rows, sign)}" for sign, words in SIGNS.items())
    moves = "things move as in real clips" if far and beyond else "they do not move as real ones do"
    unlearnt = unlike(video["quality"]["frames"])
    return Finding(
        NOT_HERE if unlearnt else worst(coherent, CONFIRMED if far and beyond else REFINED),
        "; ".join(("frames alone, network of clips, real clips: " + "; ".join(shown), unlearnt or moves)),
        f"With an image network's weights to begin with: {_values(rows, 'kept', 'video from images')} kept.",
    )


def _values(rows: Mapping[str, dict], sign: str, *methods: str) -> str:
    """The means of one measure, of the usual three methods or of others."""
    methods = methods or ("images alone", "video from scratch", "encoded and decoded")
    return ", ".join(f"{rows[method]['coherence'][sign]['mean']:.2g}" for method in methods)


def apart(one: dict, other: dict) -> bool:
    """Whether two means differ by more than `scatter` errors of the difference; not where one is not known."""
    known = (one["mean"], one["error"], other["mean"], other["error"])
    if None in known:
        return False
    return abs(one["mean"] - other["mean"]) > rules.scatter * math.hypot(one["error"], other["error"])


def _nearer(real: dict, alone: dict, video: dict) -> str:
    """Whether clips are nearer to real ones than frames drawn alone, and by how much of the way."""
    way, left = (abs(row["mean"] - real["mean"]) for row in (alone, video))
    if not apart(alone, video) or left >= way:
        return REFUTED
    return CONFIRMED if way - left > rules.half * way else REFINED


def _let_pass(rows: Mapping[str, dict]) -> str:
    """What the instruments do not tell from real clips although they must; empty where there is nothing."""
    real, shuffled, mixed = (rows[name] for name in ("real clips", "frames shuffled", "frames of different clips"))
    passed = [
        f"{name} pass by {sign}"
        for name, row, signs in (("shuffled frames", shuffled, ("bend",)), ("frames of different clips", mixed, SIGNS))
        for sign in signs
        if not apart(real["coherence"][sign], row["coherence"][sign])
    ]
    passed += [
        f"{name} pass by changes"
        for name, row in (("shuffled frames", shuffled), ("frames of different clips", mixed))
        if not (gain(row["quality"]["changes"], real["quality"]["changes"]) or 0) > 0
    ]
    return "; ".join(passed)


@claim(
    "C9.5",
    "Through all of these, a compressed, semantically meaningful space stays the more efficient one.",
    "both spaces under one budget: in few steps, in clips, as a flow, beside a cascade",
)
def _space(seen: Evidence) -> Finding:
    """In each setting of `both_spaces` where the two spaces stand under one budget, are the latents' pictures nearer to
    real ones by KD-E, beyond `scatter` errors, the scatter of chapter 5's seeds included?

    The settings: distilled networks at the FLOPs of a picture in one, two and four pixel steps, decoder included; clips
    at 32, at equal frames and equal FLOPs of training; flows and transformers at the training and the picture's FLOPs
    of each kind of pixel network; and at 64 a cascade in pixels against one latent network, at equal training FLOPs.
    A setting is confirmed if latents are better at some of its budgets and worse at none; refined if better at some,
    worse at others; refuted if worse at some and better at none. Not told apart at any, recorded in one space alone, or
    with too little learnt (`both_spaces.compared`), it cannot be tested here. "Through all": the worst setting decides.
    """
    found = both_spaces.settings(seen)
    if all(isinstance(of, str) for of in found.values()):
        raise NotRecorded(next(iter(found.values())))
    words = {name: NOT_HERE if isinstance(of, str) else both_spaces.together(of) for name, of in found.items()}
    return Finding(
        worst(*(BY_SPACE[w] for w in words.values())),
        "KD-E, pixels to latents. " + "; ".join(f"{name}: {both_spaces.told(of)}" for name, of in found.items()),
        f"First stages are on no bill. {both_spaces.first_stage(seen)} Each network was "
        "trained once, and what another seed would change is taken from chapter 5's.",
    )


BY_SPACE = {
    both_spaces.BETTER: CONFIRMED,
    both_spaces.MIXED: REFINED,
    both_spaces.WORSE: REFUTED,
    both_spaces.ALIKE: NOT_HERE,
    NOT_HERE: NOT_HERE,
}

"""The claims of chapter 9, what comes next."""

from __future__ import annotations

from ...page.numbers import plus_minus
from ..records import NotRecorded
from .ch6_three_stages import cannot_tell, enough_steps, fewest
from .learnt import SPACES, as_good, lacking
from .verdicts import CONFIRMED, NOT_HERE, REFINED, REFUTED, Evidence, Finding, claim, gain, rules

FEW_STEPS = "few-steps-cifar10-32"
EITHER = (CONFIRMED, REFINED, NOT_HERE, REFUTED)  # of a claim that holds if it holds in one space

claim("C9.1", "Better autoencoders give fewer artefacts.", "chapter 9")(None)
claim("C9.2", "Cascades reach high resolution in several stages.", "chapter 9")(None)


@claim("C9.3", "Consistency models generate in one step.", "KD-E of one step against its teacher's, in both spaces")
def _one_step(seen: Evidence) -> Finding:
    """In either space, of the distilled network against its teacher at as many DDIM steps as are enough, the fewest
    from which on KD-E is not resolvably above that of the most (`enough_steps`), and against the teacher at one step.

    Confirmed: one step is as good as enough (`as_good`). Refined: one step is resolvably better than the teacher's one,
    and within a factor of `off` of enough, or more steps, fewer than the teacher's, are as good but for a `tie`.
    Refuted: neither. Not testable where the teacher has not learnt, where pictures are too few to tell one of its steps
    from the most, and where a network that falls short has been distilled for less than `epochs`: it may be on its way.
    A network that does not fall short has shown that it can, however soon.
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
    return plus_minus(row["quality"]["kd_e"], row["quality"].get("kd_e_error"))


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


claim("C9.4", "Video adds temporal coherence.", "chapter 9")(None)
claim(
    "C9.5",
    "Through all of these, a compressed, semantically meaningful space stays the more efficient one.",
    "chapter 9",
)(None)

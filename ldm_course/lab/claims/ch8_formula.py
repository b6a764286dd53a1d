"""The claims of chapter 8, the formula."""

from __future__ import annotations

import math
from itertools import product

from ...measure.complexity import values
from ...measure.published import CARDS, GIB, SD3, SD15, SDXL, SYSTEMS
from ...page.numbers import duration, si, times
from ..records import NotRecorded, place
from .ch6_three_stages import cannot_tell, enough_steps, fewest
from .learnt import DENOISERS, SAMPLERS, UP_TO_100, all_rows, epochs_of, lacking
from .verdicts import CONFIRMED, NOT_HERE, REFINED, REFUTED, Evidence, Finding, claim, rules, verdict, worst

MEASURED = "stable-diffusion-step"  # times networks of SD 1.5's sizes; where it has no record, counts alone judge
CARD = CARDS["RTX 3090"]  # the largest that consumers had when SD 1 came out
YEAR = 365.25 * 24 * 3600  # seconds
TOGETHER = "shape and colour"  # of one thing: what is asked of a text and more than its words


@claim("C8.1", "The VAE compresses each side 8x (512x512 to 64x64).", "arithmetic, of SD 1.5, SDXL and SD 3")
def _eightfold(seen: Evidence) -> Finding:
    latents = {s.name: s.latent(512) for s in SYSTEMS.values()}
    fewer = {name: values(512, 512, 3) / values(h, w, c) for name, (c, h, w) in latents.items()}
    return Finding(
        CONFIRMED if all(h == 64 for _, h, _ in latents.values()) else REFUTED,
        "512 a side becomes "
        + ", ".join(f"{' x '.join(map(str, shape))} in {name}" for name, shape in latents.items()),
        f"By values that is {times(fewer[SD15.name])}, and with SD 3's channels {times(fewer[SD3.name])}.",
    )


@claim("C8.2", "20 to 50 DDIM steps are enough.", "KD-E by steps, in latents")
def _enough(seen: Evidence) -> Finding:
    denoiser, sampling = seen.together(DENOISERS[1], SAMPLERS[1])
    rows = {
        (r["method"], r["steps"]): r for r in all_rows(sampling, *product(["ddim"], UP_TO_100)) if r["steps"] <= 100
    }
    missing = lacking(epochs_of(denoiser), [(100, rows["ddim", 100]["quality"]["n_generated"])])
    if missing:
        return Finding(NOT_HERE, missing)
    steps = enough_steps(rows, rows["ddim", 100])
    if steps is None:
        return cannot_tell(fewest(rows), rows["ddim", 100])
    return Finding(
        CONFIRMED if steps <= 50 else REFUTED,
        f"not resolvably worse than at 100 steps from {steps} steps on",
        "For this network, and as far as so many pictures can tell.",
    )


@claim("C8.3", "CLIP text embeddings give control.", "prompts obeyed under four conditions, scenes at 64")
def _control(seen: Evidence) -> Finding:
    """Two questions about captions that nobody was trained on, with guidance 3.

    Does text give control? For each attribute that captions ask for, and for shape and colour of one thing together:
    with frozen CLIP, a share of obeying pictures that is more than half of the way from chance to what the scenes
    themselves reach through the first stage, and resolvably above that of a network that is told a label. Confirmed if
    so for all, refuted if for none. Is it CLIP that gives it? By shape and colour together, confirmed if frozen CLIP
    does resolvably better than the same encoder learnt with the network, refuted if worse by more than `off`.
    """
    found = seen.results("conditions-scenes-64")
    obeyed = {r["condition"]: r["obeyed"] for r in found["rows"] if (r["kind"], r["guidance"]) == ("known", 3)}
    clip, learnt, label = (obeyed[name] for name in ("frozen CLIP", "learnt encoder", "label"))
    epochs = min(about["epochs"] for about in found["conditions"].values())
    missing = lacking(epochs, [(found["steps"], clip[TOGETHER]["n"])])
    if missing:
        return Finding(NOT_HERE, missing)
    chance, most = (found[name]["known"] for name in ("chance", "most"))
    asked = [name for name in clip if name != "everything"]
    given = [name for name in asked if _controls(clip[name], label[name], chance[name], most[name])]
    control = CONFIRMED if given == asked else REFINED if given else REFUTED
    lead = above(clip[TOGETHER], learnt[TOGETHER])
    half = learnt[TOGETHER]["right"] > rules.off * clip[TOGETHER]["right"]
    origin = CONFIRMED if lead > 0 else REFUTED if lead < 0 and half else REFINED
    shares = {**obeyed, "chance": chance, "the scenes themselves": most}
    shown = (f"{name} {of[TOGETHER]['right']:.0%}, {of['everything']['right']:.0%}" for name, of in shares.items())
    than = {1: "gives less than", 0: "is not told from", -1: "gives more than"}[lead]
    return Finding(
        worst(control, origin),
        f"frozen CLIP controls {len(given)} of {len(asked)} attributes; shape with colour right, and all of the "
        f"caption: {'; '.join(shown)}",
        f"An encoder that learns with the network {than} frozen CLIP, by one training of each.",
    )


def above(one: dict, other: dict) -> int:
    """1 where a share is resolvably above another, -1 where below, else 0."""
    change = one["right"] - other["right"]
    resolved = abs(change) > rules.scatter * math.hypot(one["error"], other["error"])
    return (1 if change > 0 else -1) if resolved else 0


def _controls(text: dict, label: dict, chance: dict, most: dict) -> bool:
    """Whether what texts reach is more than half of the way from chance to the most, and above what labels reach."""
    way = most["right"] - chance["right"]
    return text["right"] - chance["right"] > rules.half * way and above(text, label) == 1


@claim("C8.4", "A step is 12x cheaper than in pixel space.", "FLOPs by formula, of SD 1.5, SDXL and SD 3")
def _step(seen: Evidence) -> Finding:
    """Of each system's denoiser at its own size, against one built for pixels of that size."""
    built, same = ([s.pixels_over_latents(built=how) for s in SYSTEMS.values()] for how in (True, False))
    networks = ", ".join(f"{s.name} at {s.size}" for s in SYSTEMS.values())
    return Finding(
        worst(*(verdict(ratio, 12) for ratio in built)),
        f"{networks}: {', '.join(f'{ratio:.1f}x' for ratio in built)} with networks built for the size, "
        f"{', '.join(f'{ratio:,.0f}x' for ratio in same)} with the same ones",
        "It depends on what one would have in pixels: a U-Net's convolutions go with f² = 64, its attention with f⁴; a "
        "transformer whose patches grow with the picture costs the same.",
    )


@claim(
    "C8.5",
    "Consumer GPUs can train and run it; a 512x512 image takes seconds.",
    "counted: memory, and the time that a GPU of known speed needs",
)
def _consumer(seen: Evidence) -> Finding:
    """Four parts, of SD 1.5: what sampling and what training hold, in GiB; how long a picture takes, in latents and in
    pixels; and how many years the published training. Seconds are FLOPs over what such a GPU was measured to give."""
    run, train = SD15.running_bytes() / GIB, SD15.training_bytes() / GIB
    steps = 2 * SD15.steps  # guided: two passes each
    latent = sum(flops.total for flops in SD15.picture().values()) / CARD.rate
    pixel = steps * SD15.pixel_pass(built=True).flops.total / CARD.rate
    years = SD15.training_flops() / CARD.rate / YEAR
    by_card = SD15.training.hours * 3600 * CARDS["A100"].rate / CARD.rate / YEAR
    quick = CONFIRMED if latent < rules.wait <= pixel else REFINED if pixel > rules.off * latent else REFUTED
    larger = [f"{s.name} {s.running_bytes() / GIB:.1f} and {s.training_bytes() / GIB:.0f}" for s in (SDXL, SD3)]
    return Finding(
        worst(_fits(run), _fits(train), quick, CONFIRMED if years <= rules.card_years else REFUTED),
        f"SD 1.5 at 512: sampling holds {run:.1f} GiB, training on one picture {train:.1f}; on an {CARD.name} "
        f"({si(CARD.rate, 'FLOP/s')}) a picture takes {latent:.1f} s, in pixels {duration(pixel)}, and its training "
        f"{years:.1f} years at least, {by_card:.0f} by its model card's A100-hours{_measured(seen)}",
        f"They run it, and can fine-tune it; it was not trained on one. GiB for either: {', '.join(larger)}.",
    )


def _fits(gib: float) -> str:
    return CONFIRMED if gib <= rules.small_card else REFINED if gib <= rules.large_card else REFUTED


def _measured(seen: Evidence) -> str:
    """What MEASURED has recorded, for C8.5's line; empty where there is nothing yet."""
    try:
        record = seen.records(MEASURED)[0]
    except NotRecorded:
        return ""
    r = record["results"]
    if not r["true_size"]:
        return ""
    parts = {"guided": SD15.steps, "decode": 1, "text": 2}  # a text and the empty one
    taken = sum(count * r[part]["seconds_alone"] for part, count in parts.items())
    return f"; measured, {place(record)}, {r['precision']}: {duration(taken)} a picture"

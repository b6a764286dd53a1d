"""The claims of chapter 10, the conclusion."""

from __future__ import annotations

from ...measure.cost_model import STANDARD
from .ch3_scaling import grows
from .ch4_perceptual import compared_at
from .lead import IMAGES
from .learnt import DENOISERS, SEEDS, seeds_of
from .rates import FIRST_STAGE, both, measured_as, picture_seconds
from .verdicts import CONFIRMED, NOT_HERE, REFUTED, Evidence, Finding, above_floor, claim, more, rules, worst


@claim("C10.1", "12x compression with quality kept.", "KD-E of reconstructions beside its floor")
def _kept(seen: Evidence) -> Finding:
    r = seen.results(FIRST_STAGE)
    v = r["variants"]["perceptual"]
    q, epochs = v["reconstruction"], v["training_images"] / r["data"]["train"]
    lost, few = above_floor(q) or 0, q["n_generated"] < rules.pictures
    blind = None in (q.get("kd_e_error"), q.get("kd_e_floor_error"))  # older records hold no errors
    return Finding(
        NOT_HERE if few or blind else REFUTED if lost > 0 else CONFIRMED,
        f"KD-E of reconstructions {q['kd_e']:.3g}, floor {q['kd_e_floor']:.2g}, {q['n_generated']} pictures"
        + (f", where {rules.pictures:g} are asked for" if few else "")
        + f", after {epochs:.3g} epochs",
        "An autoencoder of this size and training loses what can be seen; LDM's at f = 4 lose little.",
    )


@claim("C10.2", "A constant speed-up at every image size.", "seconds of a step, by side")
def _constant(seen: Evidence) -> Finding:
    growth, shown = grows(seen)
    return Finding(
        NOT_HERE if growth is None else REFUTED if more(max(growth, 1 / growth)) == CONFIRMED else CONFIRMED,
        shown,
        "It contradicts C3.3, by which the speed-up grows. Constant is only the ratio of values.",
    )


@claim("C10.3", "Less memory, faster training, faster inference.", "memory and seconds at 32 a side, f = 4")
def _all_three(seen: Evidence) -> Finding:
    pixel, latent = both(seen, STANDARD, 32, 4)
    pairs = {
        "kept in training": [row["kept_for_backward"] for row in (pixel, latent)],
        "seconds of training": [row["training"].get("seconds_image") for row in (pixel, latent)],
        "seconds of 50 steps, decoded,": [picture_seconds(row, 50) for row in (pixel, latent)],
    }
    if any(None in pair for pair in pairs.values()):
        return Finding(NOT_HERE, "memory or a time at 32 a side was left out")
    shown = {name: one / other for name, (one, other) in pairs.items()}
    return Finding(
        worst(*(more(ratio) for ratio in shown.values())),
        ", ".join(f"{name} {ratio:.1f}x" for name, ratio in shown.items())
        + f" ({measured_as(pixel)} in pixels, {measured_as(latent)} in latents)",
        "The autoencoder's own training apart.",
    )


@claim("C10.4", "Compression helps learning.", "KD-E at the same images seen")
def _helps(seen: Evidence) -> Finding:
    (pixel, latent), seeds = seen.together(*DENOISERS), seen.results(SEEDS)
    words, parts = compared_at([IMAGES], pixel, latent, seeds_of(seeds))
    return Finding(
        words[0],
        f"KD-E on CIFAR-10, pixel to latent, at the same {parts[0]}",
        "With what the autoencoder had learnt before; C4.5 has it on the bill.",
    )

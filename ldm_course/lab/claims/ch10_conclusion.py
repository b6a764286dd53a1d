"""The claims of chapter 10, the conclusion."""

from __future__ import annotations

from ..records import only
from .ch3_scaling import speedups
from .verdicts import (
    CONFIRMED,
    NOT_HERE,
    REFUTED,
    Evidence,
    Finding,
    above_floor,
    claim,
    gain,
    rules,
    seconds_a_picture,
    worst,
)


@claim("C10.1", "12x compression with quality kept.", "FD-E of reconstructions beside its floor")
def _kept(seen: Evidence) -> Finding:
    q = seen.results("autoencoder-cifar10-32-f4")["variants"]["perceptual"]["reconstruction"]
    lost = above_floor(q) or 0
    return Finding(
        NOT_HERE if q.get("kd_e_error") is None else REFUTED if lost > 0 else CONFIRMED,
        f"KD-E of reconstructions {q['kd_e']:.2f}, floor {q['kd_e_floor']:.2f}, {q['n_generated']} pictures",
        "An autoencoder of this size and training loses what can be seen; LDM's at f = 4 lose little.",
    )


@claim("C10.2", "A constant speed-up at every image size.", "seconds of a step, by side")
def _constant(seen: Evidence) -> Finding:
    faster = speedups(seen)
    small, large = min(faster), max(faster)
    return Finding(
        CONFIRMED if faster[large] < (1 + rules.tie) * faster[small] else REFUTED,
        f"{faster[small]:.1f}x at {small}, {faster[large]:.0f}x at {large}",
        "It contradicts C3.3, by which the speed-up grows. Constant is only the ratio of values.",
    )


@claim("C10.3", "Less memory, faster training, faster inference.", "the comparison, at 32 a side")
def _all_three(seen: Evidence) -> Finding:
    r = seen.results("compare-cifar10-32")
    ratios = {
        "kept in training": [r["cost"][s]["activation_bytes_image"] for s in ("pixel", "latent")],
        "seconds of training": [r["cost"][s]["training_seconds_image"] for s in ("pixel", "latent")],
        "seconds of 50 steps": [seconds_a_picture(r, s, "ddim", 50) for s in ("pixel", "latent")],
    }
    shown = {name: pixel / latent for name, (pixel, latent) in ratios.items()}
    return Finding(
        CONFIRMED if min(shown.values()) > 1 + rules.tie else REFUTED,
        ", ".join(f"{name} {ratio:.1f}x" for name, ratio in shown.items()),
        "The autoencoder's own training apart.",
    )


@claim("C10.4", "Compression helps learning.", "KD-E at the same images seen")
def _helps(seen: Evidence) -> Finding:
    found = []
    for data in ("emoji", "cifar10"):
        row = only(seen.results(f"compare-{data}-32")["matched"], match="images")
        found.append(gain(row["pixel"]["quality"], row["latent"]["quality"]))
    words = [NOT_HERE if g is None else CONFIRMED if g > 0 else REFUTED for g in found]
    shown = ", ".join("no resolved difference" if g is None else f"KD-E {-g:+.2f}" for g in found)
    return Finding(worst(*words), f"latent against pixel at the same images: {shown} (emoji, CIFAR-10)", "Early on.")

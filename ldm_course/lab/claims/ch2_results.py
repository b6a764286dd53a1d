"""The claims of chapter 2, empirical results."""

from __future__ import annotations

from ...measure.complexity import autoencoder_flops, unet_flops
from ...measure.cost_model import BUILT_UP_TO, STANDARD, networks_at
from .learnt import DENOISERS, SAMPLERS, SEEDS, as_good, at_equal_counts, epochs_of, lacking, seeds_of
from .rates import Rates, both, measured_as, picture_seconds, rates
from .verdicts import (
    CONFIRMED,
    FIRST,
    NOT_HERE,
    PIXEL,
    REFINED,
    REFUTED,
    Evidence,
    Finding,
    claim,
    more,
    rules,
    verdict,
    worst,
)

EPOCHS = 100  # the source's, of CIFAR-10's 50,000 pictures
EPOCH = 50_000


@claim("C2.1", "100 epochs on CIFAR-10: DDPM 4 h, latent diffusion 3 h, 1.3x faster.", "seconds an image in training")
def _training(seen: Evidence) -> Finding:
    found = rates(seen.results("training-speed"))
    epochs = epochs_left(found, 4 / 3)
    return Finding(
        included(epochs),
        f"{found.pixel / found.latent:.1f}x for the denoiser ({found.says}); 1.3x is left if the autoencoder trains "
        f"for {epochs:.0f} epochs",
        "How much faster it trains depends on how long the autoencoder is trained, which the source leaves out.",
    )


def epochs_left(found: Rates, factor: float) -> float:
    """For how many epochs the autoencoder may train until `factor` is left of the denoiser's gain in EPOCHS."""
    return (EPOCHS * (found.pixel / factor - found.latent) - found.encode) / found.first_stage


def included(epochs: float) -> str:
    """The verdict on a factor that is left, with the autoencoder on the bill, while that trains for so many epochs."""
    return CONFIRMED if epochs >= EPOCHS else REFINED if epochs > 0 else REFUTED


@claim("C2.2", "That includes the autoencoder, and the gap widens for larger images.", "FLOPs of training, by formula")
def _widens(seen: Evidence) -> Finding:
    """The second half, with the networks that one would build for each size; the first half is C2.1's."""
    built, kept = (widening(most) for most in (BUILT_UP_TO, float("inf")))
    return Finding(
        more(built[512] / built[32]),
        f"{built[32]:.1f}x at 32, {built[512]:.1f}x at 512 with networks built for the size, {kept[512]:.1f}x with the "
        f"one that attends at every size; an autoencoder of {rules.first_stage:g} epochs to {EPOCHS}",
        "What widens it is attention on large grids, which one would leave out; the ratio of values stays the same.",
    )


def widening(most: float, sides: tuple[int, ...] = (32, 512)) -> dict[int, float]:
    """By side: a pixel training's FLOPs over those of a latent one at f = 4 with its autoencoder, by networks with
    attention on grids of at most `most` a side."""

    bills = {side: training_bill(side, rules.first_stage, most) for side in sides}
    return {side: pixel / (latent + first) for side, (pixel, latent, first) in bills.items()}


def training_bill(side: int, epochs: float, most: float) -> tuple[float, float, float]:
    """FLOPs of training on one picture once: of the pixel denoiser, of the latent one at f = 4, and the autoencoder's
    part where it trains for so many epochs to the denoiser's EPOCHS."""
    (pixel, _), (latent, first) = (networks_at(PIXEL, FIRST, side, f, most) for f in (1, 4))
    one, four = (unet_flops(net, n, backward=True).total for net, n in ((pixel, side), (latent, side // 4)))
    return one, four, epochs / EPOCHS * autoencoder_flops(first, side, "both", backward=True).total


@claim(
    "C2.3",
    "64 images: DDPM 1000 steps 11.10 s; DDIM 100 steps 0.82 s, 13.5x; latent DDIM 50 steps 1.41 s, 7.9x.",
    "seconds a picture, decoder included",
)
def _sampling(seen: Evidence) -> Finding:
    pixel, latent = both(seen, STANDARD, 32, 4)
    ddpm, ddim, fifty = (picture_seconds(pixel, steps) for steps in (1000, 100, 50))
    decoded = picture_seconds(latent, 50)
    if None in (ddpm, decoded):
        return Finding(NOT_HERE, "a part of a picture was left out as too slow")
    theirs = (0.82 / 100) / (1.41 / 50)
    return Finding(
        worst(verdict(ddpm / ddim, 13.5), verdict(ddpm / decoded, 7.9)),
        f"{ddpm / ddim:.1f}x and {ddpm / decoded:.0f}x; at 50 steps in both, {fifty / decoded:.1f}x "
        f"({measured_as(pixel)} in pixels, {measured_as(latent)} in latents)",
        f"By the source's own figures a latent step costs {1 / theirs:.1f} pixel steps, where its C1.4 says a twelfth.",
    )


PARTS = {  # what must have kept the quality of what, as (space, method, steps)
    "DDIM for DDPM": (("pixel", "ddpm", 1000), ("pixel", "ddim", 100)),
    "latent, half the steps": (("pixel", "ddim", 100), ("latent", "ddim", 50)),
    "latent, 100 steps": (("pixel", "ddim", 100), ("latent", "ddim", 100)),
    "latent, 50 steps": (("pixel", "ddim", 50), ("latent", "ddim", 50)),
}


@claim("C2.4", "FID 90.93 (DDPM), 88.91 (DDIM), 85 to 90 (latent): compression keeps quality.", "KD-E at equal counts")
def _quality(seen: Evidence) -> Finding:
    """Each of PARTS must be as good; between the spaces the scatter of seeds counts as well."""
    *denoisers, pixel, latent = seen.together(*DENOISERS, *SAMPLERS)
    rows = {(s, r["method"], r["steps"]): r for s, t in (("pixel", pixel), ("latent", latent)) for r in t["rows"]}
    known = seeds_of(seen.results(SEEDS))
    words, shown, counts = [], [], []
    for name, (one, other) in PARTS.items():
        pair = at_equal_counts(rows[one], rows[other]) if {one, other} <= set(rows) else None
        if pair is None:
            return Finding(NOT_HERE, f"{name}: not judged at equal counts")
        before, after = pair
        across = known.between(before, after) if one[0] != other[0] else 0.0
        words.append(as_good(before, after, across))
        counts.append((max(one[2], other[2]), before["n_generated"]))
        shown.append(f"{name} {before['kd_e']:.3g} to {after['kd_e']:.3g}")
    missing = lacking(epochs_of(*denoisers), counts, known.count)
    trained = f"after {epochs_of(*denoisers):.3g} epochs"
    return Finding(
        NOT_HERE if missing else worst(*words),
        f"KD-E {trained}: {'; '.join(shown)}" + (f" ({missing})" if missing else ""),
        "A difference of 2 % in FID, without a count, orders nothing.",
    )

"""The claims of chapter 5, quality."""

from __future__ import annotations

import math
from itertools import pairwise

from ...measure import stability
from .verdicts import CONFIRMED, NOT_HERE, REFINED, REFUTED, Evidence, Finding, claim, gain, rules, sampled, worst


@claim(
    "C5.1",
    "Compression acts as a regulariser: the autoencoder filters noise.",
    "PSNR of rebuilt noisy pictures beside the best linear map's, and overfitting on 1,000 pictures",
)
def _regularises(seen: Evidence) -> Finding:
    """Two things in one: that it filters, and that so it regularises."""
    word, shown = filters_noise(seen.results("noise-cifar10-32")["rows"])
    gaps = overfits(seen)
    return Finding(
        worst(word, gaps.verdict),
        f"{shown}; {gaps.found}",
        "To take noise out of the data is one thing, to close the gap to new data another; neither proves the other.",
    )


def filters_noise(rows: list[dict]) -> tuple[str, str]:
    """Of `denoising.against_noise`: confirmed if rebuilt noisy pictures are nearer to the clean ones than both the
    noisy ones and, by more than `Rules.scatter` standard errors, what the best linear map makes of them, at some noise
    level; refined if only nearer than the noisy ones, else refuted. With the numbers at the level where it does best
    against the map, and what it loses of clean pictures, on which it was trained."""
    noisy, clean = [row for row in rows if row["std"]], next(row for row in rows if not row["std"])
    best = max(noisy, key=lambda row: row["lead"])
    helps = [row for row in noisy if row["autoencoder"] > row["noisy"]]
    beats = any(row["lead"] > rules.scatter * row["lead_error"] for row in helps)
    shown = (
        f"noise of {best['std']:g}: PSNR {best['noisy']:.1f} dB, rebuilt {best['autoencoder']:.1f}, best linear map "
        f"{best['linear']:.1f} ({best['lead']:+.2f} ± {best['lead_error']:.2f}); without noise, rebuilt "
        f"{clean['autoencoder']:.1f}"
    )
    return CONFIRMED if beats else REFINED if helps else REFUTED, shown


@claim("C5.2", "It prevents overfitting to pixel detail.", "held-out over training loss, on 1,000 pictures")
def _prevents(seen: Evidence) -> Finding:
    return overfits(seen)


def overfits(seen: Evidence) -> Finding:
    """By the gap, held-out over training loss less one, at the same number of images seen."""
    points = {space: seen.results(f"few-cifar10-32-{space}")["points"] for space in ("pixel", "latent")}
    images = min(found[-1]["images"] for found in points.values())
    gaps = {space: gap_at(found, images) for space, found in points.items()}
    if max(gaps.values()) < 0.02:
        word, holds = NOT_HERE, "Neither has begun to overfit after so few images."
    else:
        ratio = gaps["latent"] / max(gaps["pixel"], 1e-3)
        word = CONFIRMED if ratio < 0.5 else REFINED if ratio < 1 - rules.tie else REFUTED
        holds = "A latent is no protection against learning a small set by heart; held-out loss tells."
    shown = ", ".join(f"{space} {gap:+.1%}" for space, gap in gaps.items())
    return Finding(word, f"held-out loss over training loss after {images:,} images: {shown}", holds)


def gap_at(points: list[dict], images: int) -> float:
    """Between the two points around `images`, along a line in log images."""
    gaps = [(math.log(p["images"]), p["loss_test"] / p["loss_train"] - 1) for p in points]
    x = math.log(images)
    for (a, low), (b, high) in pairwise(gaps):
        if a <= x <= b:
            return low + (high - low) * (x - a) / (b - a)
    return gaps[-1][1] if x >= gaps[-1][0] else gaps[0][1]


@claim(
    "C5.3", "Training is more stable.", "over seeds: spread of KD-E, spikes of the loss, effect of the learning rate"
)
def _stable(seen: Evidence) -> Finding:
    """By three tests (`stability.calmer`) at the same images: confirmed if all are for the latent, refined if some are,
    refuted if some are for pixels and none for the latent; else nothing is resolved."""
    r = seen.results("seeds-cifar10-32")
    images = r["images"]
    pixel, latent = (stability.calm(r, space, images) for space in ("pixel", "latent"))
    if pixel is None or latent is None:
        return Finding(NOT_HERE, "the two spaces were not judged at the same images")
    tests = stability.calmer(pixel, latent).values()
    word = CONFIRMED if all(tests) else REFINED if any(tests) else REFUTED if False in tests else NOT_HERE
    shown = (
        f"KD-E varies by {stability.spread(pixel.kd_e):.0%} and {stability.spread(latent.kd_e):.0%} over "
        f"{len(pixel.kd_e)} seeds, {pixel.leaps} and {latent.leaps} spikes in {pixel.steps} steps, "
        f"and it stands {pixel.stands} and {latent.stands} times the learning rate"
    )
    return Finding(
        word,
        f"pixel and latent after {images:,} images: {shown}",
        f"So few seeds resolve only spreads that are {stability.resolved(len(pixel.kd_e)):.1f}x apart.",
    )


@claim("C5.4", "With fewer steps and less computation the latent's quality is comparable or better.", "KD-E and FLOPs")
def _cheaper(seen: Evidence) -> Finding:
    r = seen.results("compare-cifar10-32")
    before, after = (sampled(r, *row) for row in (("pixel", "ddim", 100), ("latent", "ddim", 50)))
    change, less = gain(before["quality"], after["quality"]), before["flops_picture"] / after["flops_picture"]
    counts = {row["quality"]["n_generated"] for row in (before, after)}
    if len(counts) > 1:
        return Finding(NOT_HERE, "the two were judged by different numbers of pictures")
    worse = change is not None and change < 0
    kd = [row["quality"]["kd_e"] for row in (before, after)]
    beside = "not resolved" if change is None else "resolved"
    return Finding(
        REFUTED if worse or less < 1 else CONFIRMED,
        f"KD-E {kd[0]:.2f} to {kd[1]:.2f}, {beside}, with {less:.0f}x fewer FLOPs a picture",
        "At this budget of minutes; at convergence on small pictures the literature's best models are in pixels.",
    )

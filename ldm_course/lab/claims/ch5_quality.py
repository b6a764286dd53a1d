"""The claims of chapter 5, quality."""

from __future__ import annotations

import math
from itertools import pairwise

from ...measure import stability
from ...measure.complexity import autoencoder_flops
from ...measure.cost_model import networks
from ..records import only
from .learnt import DENOISERS, SAMPLERS, SEEDS, as_good, at_equal_counts, epochs_of, lacking, seeds_of
from .verdicts import CONFIRMED, NOT_HERE, REFINED, REFUTED, Evidence, Finding, claim, more, rules, worst


@claim(
    "C5.1",
    "Compression acts as a regulariser: the autoencoder filters noise.",
    "PSNR of rebuilt noisy pictures beside a linear filter's, and overfitting on 1,000 pictures",
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
    """Of `spectra.against_noise`: confirmed if rebuilt noisy pictures are nearer to the clean ones than both the
    noisy and the linearly filtered ones are at some noise level, refined if only nearer than the noisy ones, else
    refuted. With the numbers at the level where it does best against the filter."""
    best = max((row for row in rows if row["std"]), key=lambda row: row["autoencoder"] - row["wiener"])
    helps = [row for row in rows if row["std"] and row["autoencoder"] > row["noisy"]]
    beats = any(row["autoencoder"] > row["wiener"] for row in helps)
    shown = f"noise of {best['std']:g}: PSNR {best['noisy']:.1f} dB, rebuilt {best['autoencoder']:.1f}"
    return CONFIRMED if beats else REFINED if helps else REFUTED, f"{shown}, linear filter {best['wiener']:.1f}"


@claim("C5.2", "It prevents overfitting to pixel detail.", "held-out over training loss, on 1,000 pictures")
def _prevents(seen: Evidence) -> Finding:
    return overfits(seen)


def overfits(seen: Evidence) -> Finding:
    """By the gap, held-out over training loss less one, at the same number of images seen."""
    points = {space: seen.results(f"few-cifar10-32-{space}")["points"] for space in ("pixel", "latent")}
    images = min(found[-1]["images"] for found in points.values())
    gaps = {space: gap_at(found, images) for space, found in points.items()}
    if max(gaps.values()) < rules.overfit:
        word, holds = NOT_HERE, "Neither has begun to overfit after so few images."
    else:
        ratio = gaps["latent"] / max(gaps["pixel"], 1e-3)
        word = CONFIRMED if ratio < rules.half else REFINED if ratio < 1 - rules.tie else REFUTED
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
    """By three tests (`calm_tests`) at the same images: confirmed if all are for the latent, refined if some are,
    refuted if some are for pixels and none for the latent; else nothing is resolved."""
    r = seen.results(SEEDS)
    images = r["images"]
    pixel, latent, tests = calm_tests(r)
    if tests is None:
        return Finding(NOT_HERE, "the two spaces were not judged at the same images")
    word = calmer_in_all(list(tests.values()))
    counts = [(0, p["quality"]["n_generated"]) for row in r["runs"] for p in row["points"] if p["images"] == images]
    missing = lacking(images / r["data"]["train"], counts, min(len(c.kd_e) for c in (pixel, latent)))
    stands = [c.stands(rules.failed) for c in (pixel, latent)]
    shown = (
        f"KD-E varies by {stability.spread(pixel.kd_e):.0%} and {stability.spread(latent.kd_e):.0%} over "
        f"{len(pixel.kd_e)} seeds, {pixel.leaps} and {latent.leaps} spikes in {pixel.steps} steps, "
        f"and it stands {stands[0]} and {stands[1]} times the learning rate"
    )
    return Finding(
        NOT_HERE if missing else word,
        f"pixel and latent after {images:,} images: {shown}" + (f" ({missing})" if missing else ""),
        f"So few seeds resolve only spreads that are {stability.resolved(len(pixel.kd_e), rules.chance):.1f}x apart.",
    )


def calm_tests(results: dict) -> tuple[stability.Calm | None, stability.Calm | None, dict[str, bool | None] | None]:
    """What the stage found in pixels and in latents at the same images, and which is calmer by each of the three tests
    (`stability.calmer`) under the rules in force; None where one was not judged there."""
    pixel, latent = (stability.calm(results, space, results["images"]) for space in ("pixel", "latent"))
    if pixel is None or latent is None:
        return pixel, latent, None
    options = {"chance": rules.chance, "deviations": rules.scatter, "worse": rules.failed}
    return pixel, latent, stability.calmer(pixel, latent, **options)


def calmer_in_all(tests: list[bool | None]) -> str:
    return CONFIRMED if all(tests) else REFINED if any(tests) else REFUTED if False in tests else NOT_HERE


@claim("C5.4", "With fewer steps and less computation the latent's quality is comparable or better.", "KD-E and FLOPs")
def _cheaper(seen: Evidence) -> Finding:
    found = seen.records(*DENOISERS, *SAMPLERS, SEEDS)
    *denoisers, pixel, latent, seeds = (record["results"] for record in found)
    before, after = (only(t["rows"], method="ddim", steps=s) for t, s in ((pixel, 100), (latent, 50)))
    pair, known = at_equal_counts(before, after), seeds_of(seeds)
    if pair is None:
        return Finding(NOT_HERE, "the two were judged by different numbers of pictures")
    decode = decode_flops(found[1])
    less = 100 * denoisers[0]["flops_step"] / (50 * denoisers[1]["flops_step"] + decode)
    missing = lacking(epochs_of(*denoisers), [(100, pair[0]["n_generated"])], known.count)
    word = as_good(*pair, known.between(*pair))
    return Finding(
        NOT_HERE if missing else worst(word, more(less)),
        f"KD-E {pair[0]['kd_e']:.3g} to {pair[1]['kd_e']:.3g} after {epochs_of(*denoisers):.3g} epochs, with "
        f"{less:.0f}x fewer FLOPs a picture" + (f" ({missing})" if missing else ""),
        "Half of the saving in steps is not the latent's: pixels may take 50 steps too (C2.4).",
    )


def decode_flops(record: dict) -> int:
    """Of a picture of a latent denoiser's record at 32 a side, f = 4."""
    _, first = networks(record)
    return autoencoder_flops(first.for_downsample(4), 32, "decode").total

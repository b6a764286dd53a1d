"""The claims of chapter 5, quality."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from operator import itemgetter

from ...measure import stability
from ...measure.complexity import autoencoder_flops
from ...measure.cost_model import networks
from ..records import NotRecorded
from .learnt import DENOISERS, SAMPLERS, SEEDS, SPACES, as_good, at_equal_counts, epochs_of, lacking, row_of, seeds_of
from .verdicts import CONFIRMED, NOT_HERE, REFINED, REFUTED, Evidence, Finding, claim, more, rules, worst

FEW = tuple(f"few-cifar10-32-{space}" for space in SPACES)


@claim(
    "C5.1",
    "Compression acts as a regulariser: the autoencoder filters noise.",
    "PSNR of rebuilt noisy pictures beside the best linear map's, and overfitting on few pictures",
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
    against the map, and what it loses of clean pictures, on which it was trained. NotRecorded: rows of an older record,
    without that map."""
    noisy, clean = [row for row in rows if row["std"]], next(row for row in rows if not row["std"])
    if "lead" not in noisy[0]:
        raise NotRecorded(
            "noise-cifar10-32 has no best linear map yet; run: ldm-course reference --stage noise-cifar10-32"
        )
    best = max(noisy, key=lambda row: row["lead"])
    helps = [row for row in noisy if row["autoencoder"] > row["noisy"]]
    beats = any(row["lead"] > rules.scatter * row["lead_error"] for row in helps)
    shown = (
        f"noise of {best['std']:g}: PSNR {best['noisy']:.1f} dB, rebuilt {best['autoencoder']:.1f}, best linear map "
        f"{best['linear']:.1f} ({best['lead']:+.2f} ± {best['lead_error']:.2f}); without noise, rebuilt "
        f"{clean['autoencoder']:.1f}"
    )
    return CONFIRMED if beats else REFINED if helps else REFUTED, shown


@claim("C5.2", "It prevents overfitting to pixel detail.", "held-out over training loss, and copies, on few pictures")
def _prevents(seen: Evidence) -> Finding:
    return overfits(seen)


def overfits(seen: Evidence) -> Finding:
    """Two parts, both at the same number of images seen: the gap, held-out over training loss less one, and, where it
    was recorded, the share of drawn pictures that are nearer to training pictures than to held-out ones."""
    found = dict(zip(SPACES, seen.together(*FEW)))
    images, at = at_equal_images({space: r["points"] for space, r in found.items()})
    gaps = at["gap"]
    words, shown = [gap_smaller(**gaps)], ["held-out loss over training loss" + _by_space(gaps, "+.1%")]
    if "copied" in at:
        shares, errors = at["copied"], at["copied_error"]
        words.append(copies_fewer(shares, errors))
        shown.append(f"nearer to training pictures{_by_space(shares, '.0%')}, ± {max(errors.values()):.0%}")
    word = worst(*words)
    holds = {CONFIRMED: "", NOT_HERE: "These trainings do not tell the two apart."}
    return Finding(
        word,
        f"{found['pixel']['data']['train']:,} pictures, after {images:,} images: {'; '.join(shown)}",
        holds.get(word, "A latent is no protection against learning a small set by heart; held-out loss tells."),
    )


def at_equal_images(points: dict[str, list[dict]]) -> tuple[int, dict[str, dict[str, float]]]:
    """The most images that all trainings have seen; and what was judged there, by training: the `gap`, held-out over
    training loss less one, and, where all have it, `copied` and `copied_error` (see `value_at`)."""
    images = min(of[-1]["images"] for of in points.values())
    parts: dict[str, Callable[[dict], float]] = {"gap": lambda p: p["loss_test"] / p["loss_train"] - 1}
    if all("copied" in p for of in points.values() for p in of):
        parts |= {name: itemgetter(name) for name in ("copied", "copied_error")}
    return images, {name: {s: value_at(of, images, part) for s, of in points.items()} for name, part in parts.items()}


def _by_space(values: dict[str, float], form: str) -> str:
    return "".join(f", {space} {value:{form}}" for space, value in values.items())


def gap_smaller(pixel: float, latent: float) -> str:
    """Of two gaps: not testable here while neither exceeds `Rules.overfit`; confirmed if the latent's is under half of
    the other, refined if it is smaller, beyond a tie."""
    if max(pixel, latent) < rules.overfit:
        return NOT_HERE
    ratio = latent / max(pixel, 1e-3)
    return CONFIRMED if ratio < rules.half else REFINED if ratio < 1 - rules.tie else REFUTED


def copies_fewer(share: dict[str, float], error: dict[str, float]) -> str:
    """Of the shares by space, of which 1/2 is expected where nothing is copied: confirmed if the latent's excess over
    that is resolvably the smaller one and under half of the other, refined if only smaller, refuted if larger, or if
    nothing is resolved although half of the excess would have been; else not testable here."""
    pixel, latent = (share[space] - 0.5 for space in SPACES)
    resolved = rules.scatter * math.hypot(*error.values())
    if pixel - latent > resolved:
        return CONFIRMED if latent < rules.half * pixel else REFINED
    if latent - pixel > resolved or (1 - rules.half) * pixel > resolved:
        return REFUTED
    return NOT_HERE


def value_at(points: list[dict], images: int, value: Callable[[dict], float]) -> float:
    """Between the two points around `images`, along a line in log images."""
    known = [(math.log(p["images"]), value(p)) for p in points]
    x = math.log(images)
    for (a, low), (b, high) in pairwise(known):
        if a <= x <= b:
            return low + (high - low) * (x - a) / (b - a)
    return known[-1][1] if x >= known[-1][0] else known[0][1]


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
        return Finding(NOT_HERE, "the two spaces were not judged at the same images from two seeds or more")
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
    (`stability.calmer`) under the rules in force; None where one was not judged there from two seeds or more."""
    pixel, latent = (stability.calm(results, space, results["images"]) for space in SPACES)
    if pixel is None or latent is None or min(len(pixel.kd_e), len(latent.kd_e)) < 2:
        return pixel, latent, None
    options = {"chance": rules.chance, "deviations": rules.scatter, "worse": rules.failed}
    return pixel, latent, stability.calmer(pixel, latent, **options)


def calmer_in_all(tests: list[bool | None]) -> str:
    return CONFIRMED if all(tests) else REFINED if any(tests) else REFUTED if False in tests else NOT_HERE


@claim("C5.4", "With fewer steps and less computation the latent's quality is comparable or better.", "KD-E and FLOPs")
def _cheaper(seen: Evidence) -> Finding:
    found = seen.records(*DENOISERS, *SAMPLERS)
    *denoisers, pixel, latent = (record["results"] for record in found)
    pair = at_equal_counts(row_of(pixel, "ddim", 100), row_of(latent, "ddim", 50))
    known = seeds_of(seen.results(SEEDS))
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
        "Half as many steps are no merit of the latent: pixels may take 50 too (C2.4).",
    )


def decode_flops(record: dict) -> int:
    """Of a picture of a latent denoiser's record at 32 a side, f = 4."""
    _, first = networks(record)
    return autoencoder_flops(first.for_downsample(4), 32, "decode").total

"""The claims of chapter 3, scaling."""

from __future__ import annotations

from ...measure.complexity import values
from .verdicts import CONFIRMED, NOT_HERE, REFINED, REFUTED, Evidence, Finding, claim, rules


@claim(
    "C3.1",
    "At 1/8 compression the latent has 256 values at 32, 16,384 at 256, 65,536 at 512, 262,144 at 1024, 12x fewer.",
    "arithmetic, f = 8 and c = 4",
)
def _table(seen: Evidence) -> Finding:
    theirs = {32: 256, 256: 16_384, 512: 65_536, 1024: 262_144}
    ours = {side: values(side // 8, side // 8, 4) for side in theirs}
    at_4 = all(values(side // 4, side // 4, 4) == n for side, n in theirs.items())
    return Finding(
        CONFIRMED if ours == theirs else REFUTED,
        ", ".join(f"{n:,} at {side}" for side, n in ours.items()) + f": {values(32, 32, 3) / ours[32]:g}x fewer",
        "The table is that of f = 4." if at_4 else "",
    )


@claim("C3.2", "512x512x3, 786 thousand values, becomes 64x64x4, 16 thousand.", "arithmetic")
def _at_512(seen: Evidence) -> Finding:
    pixel, latent = values(512, 512, 3), values(64, 64, 4)
    right = round(pixel / 1000) == 786 and round(latent / 1000) == 16
    return Finding(
        CONFIRMED if right else REFUTED,
        f"{pixel:,} and {latent:,}: {pixel / latent:g}x",
        "It contradicts C3.1, whose table has 65,536 at 512: here f is 8, there 4.",
    )


@claim("C3.3", "The ratio of values is constant, so the speed-up grows with image size.", "seconds of a step, by side")
def _grows(seen: Evidence) -> Finding:
    faster = speedups(seen)
    small, large = min(faster), max(faster)
    return Finding(
        REFINED if faster[large] > (1 + rules.tie) * faster[small] else REFUTED,
        f"a sampling step, f = 4: {faster[small]:.1f}x at {small}, {faster[large]:.0f}x at {large}",
        "A constant cannot be why: attention on large grids is, and idle small kernels. Without both, f² is left.",
    )


def speedups(seen: Evidence) -> dict[int, float]:
    """Pixel over latent seconds of a sampling step at f = 4, by side, for the sides at which both were measured."""
    rows, found = seen.cost(), {}
    for side in {side for side, _ in rows}:
        pixel, latent = (rows.get((side, f), {}).get("step", {}).get("seconds_image") for f in (1, 4))
        if pixel and latent:
            found[side] = pixel / latent
    return found


@claim("C3.4", "A latent model fits larger batches and trains faster at high resolution.", "batch and seconds, by side")
def _fits(seen: Evidence) -> Finding:
    rows = seen.cost()
    side = max(s for s, f in rows if f == 1 and "seconds_image" in rows[s, 1]["training"])
    pixel, latent = rows[side, 1]["training"], rows[side, 4]["training"]
    batch, faster = latent["largest_batch"] / pixel["largest_batch"], pixel["seconds_image"] / latent["seconds_image"]
    return Finding(
        CONFIRMED if min(batch, faster) > 1 + rules.tie else REFUTED,
        f"at {side}, f = 4: {batch:g}x the batch, {faster:.0f}x faster, the autoencoder apart",
        "The autoencoder's training and encoding come on top, once.",
    )


@claim("C3.5", "50 DDIM steps in latent space take seconds, where pixel space takes minutes.", "cost at 512 a side")
def _minutes(seen: Evidence) -> Finding:
    rows = seen.cost()
    one, eight = rows[512, 1]["step"], rows[512, 8]
    if "seconds_image" not in one:
        return Finding(NOT_HERE, "a pixel step at 512 was left out as too slow")
    pixel, latent = 50 * one["seconds_image"], 50 * eight["step"]["seconds_image"] + eight["decode"]["seconds_image"]
    word = CONFIRMED if latent < 60 <= pixel else REFINED if pixel > 2 * latent else REFUTED
    return Finding(
        word,
        f"512 a side, f = 8, decoded: {latent:.2g} s against {pixel:.3g} s",
        "With the same network, which attends on large grids; a network made for large pixels would not.",
    )


@claim(
    "C3.6",
    "The VAE keeps the semantic content in spite of the compression.",
    "probes of a scene's factors: what latents hold, as they are or decoded, against pixels",
)
def _keeps(seen: Evidence) -> Finding:
    probes = seen.results("perception-scenes-32")["probes"]
    lost = lost_factors(probes)
    kept = [f for f in probes["kept"] if f not in lost]
    shown = [
        f"{f} {probes['clean']['pixels'][f]:.0%}, {of['read']:.0%} ({probes['clean']['decoded'][f]:.0%})"
        for f, of in probes["kept"].items()
    ]
    return Finding(
        REFUTED if not kept else REFINED if lost else CONFIRMED,
        f"kept: {', '.join(kept) or 'nothing'}; read from pixels, latents (of it in decoded pictures): "
        + "; ".join(shown),
        "It is trained to rebuild, not to understand: which content it keeps must be measured, factor by factor.",
    )


def lost_factors(probes: dict) -> list[str]:
    """The factors of which less is read from what latents keep than from pixels, beyond the error of the difference.

    Decoded pictures are a function of the latents, so that a factor read from either is kept (`Readings.kept`)."""
    differences = {f: of["against_pixels"] for f, of in probes["kept"].items()}
    return [f for f, (mean, error) in differences.items() if mean < -error]

"""The claims of chapter 3, scaling."""

from __future__ import annotations

from ...measure.complexity import values
from ...measure.cost_model import BUILT, STANDARD
from ..records import NotRecorded
from .rates import both, measured_as, picture_seconds
from .verdicts import CONFIRMED, NOT_HERE, REFINED, REFUTED, Evidence, Finding, claim, margin, more, rules, worst


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
    growth, shown = grows(seen)
    return Finding(
        NOT_HERE if growth is None else REFINED if more(growth) == CONFIRMED else REFUTED,
        shown,
        "A constant cannot be why: attention on large grids is, which one would leave out, and idle small kernels. "
        "Without both, f² is left.",
    )


def grows(seen: Evidence) -> tuple[float | None, str]:
    """By what factor the speed-up of a sampling step at f = 4 grows from the smallest side to the largest, with the
    networks that one would build for each size, and what to say of it, at every side; None where only one side was
    measured."""
    found = {network: speedups(seen, network) for network in (BUILT, STANDARD)}
    parts = []
    for network, faster in found.items():
        if len(faster) > 1:
            parts.append(f"{network}: " + ", ".join(f"{times:.3g}x at {side}" for side, times in faster.items()))
    faster = found[BUILT]
    if len(faster) < 2:
        return None, "a sampling step was measured in both spaces at fewer than two sides"
    says = measured_as(seen.cost(BUILT)[min(faster), 1])
    growth = faster[max(faster)] / faster[min(faster)]
    return growth, f"a sampling step, f = 4, by network: {'; '.join(parts)} ({says} at {min(faster)} in pixels)"


def speedups(seen: Evidence, network: str) -> dict[int, float]:
    """Pixel over latent seconds of a sampling step at f = 4, by side, for the sides at which both were measured."""
    rows, found = seen.cost(network), {}
    for side in sorted({side for side, _ in rows}):
        pixel, latent = (rows.get((side, f), {}).get("step", {}).get("seconds_image") for f in (1, 4))
        if pixel and latent:
            found[side] = pixel / latent
    return found


@claim("C3.4", "A latent model fits larger batches and trains faster at high resolution.", "batch and seconds, by side")
def _fits(seen: Evidence) -> Finding:
    rows = seen.cost(BUILT)
    measured = {at for at, row in rows.items() if {"seconds_image", "largest_batch"} <= set(row["training"])}
    sides = [side for side, f in measured if f == 1 and (side, 4) in measured]
    if not sides:
        return Finding(NOT_HERE, "no training step was measured in both spaces")
    pixel, latent = (rows[max(sides), f]["training"] for f in (1, 4))
    batch, faster = latent["largest_batch"] / pixel["largest_batch"], pixel["seconds_image"] / latent["seconds_image"]
    return Finding(
        worst(more(batch), more(faster)),
        f"at {max(sides)}, f = 4, networks built for the size: {batch:g}x the batch, {faster:.0f}x faster "
        f"({measured_as(rows[max(sides), 1], 'training')} in pixels), the autoencoder apart",
        "The autoencoder's training and encoding come on top, once.",
    )


@claim("C3.5", "50 DDIM steps in latent space take seconds, where pixel space takes minutes.", "cost at 512 a side")
def _minutes(seen: Evidence) -> Finding:
    one, eight = both(seen, BUILT, 512, 8)
    pixel, latent = picture_seconds(one, 50), picture_seconds(eight, 50)
    if pixel is None or latent is None:
        return Finding(NOT_HERE, "a picture at 512 was left out as too slow")
    word = CONFIRMED if latent < rules.wait <= pixel else REFINED if pixel > rules.off * latent else REFUTED
    return Finding(
        word,
        f"512 a side, f = 8, decoded: {latent:.2g} s against {pixel:.3g} s, networks built for the size "
        f"({measured_as(one)} in pixels)",
        "How long a pixel network takes at that size depends on what it attends to, and on the machine.",
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

    Decoded pictures are a function of the latents, so that a factor read from either is kept (`Readings.kept`).
    NotRecorded: an older record, which does not say."""
    if "kept" not in probes:
        raise NotRecorded(
            "perception-scenes-32 has not read decoded pictures yet; run: ldm-course reference --stage "
            "perception-scenes-32"
        )
    differences = {f: of["against_pixels"] for f, of in probes["kept"].items()}
    return [f for f, (mean, error) in differences.items() if mean < -margin(error)]

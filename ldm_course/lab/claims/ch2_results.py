"""The claims of chapter 2, empirical results."""

from __future__ import annotations

from ...measure.complexity import autoencoder_flops, unet_flops
from .verdicts import (
    CONFIRMED,
    FIRST,
    LATENT,
    NOT_HERE,
    PIXEL,
    REFINED,
    REFUTED,
    Evidence,
    Finding,
    claim,
    gain,
    rules,
    sampled,
    seconds_a_picture,
    verdict,
    worst,
)


@claim("C2.1", "100 epochs on CIFAR-10: DDPM 4 h, latent diffusion 3 h, 1.3x faster.", "seconds an image in training")
def _training(seen: Evidence) -> Finding:
    alone, epochs = epochs_left(seen.results("compare-cifar10-32"), 4 / 3)
    word = CONFIRMED if epochs >= 100 else REFINED if epochs > 0 else REFUTED
    return Finding(
        word,
        f"{alone:.1f}x for the denoiser; 1.3x is left if the autoencoder trains for {epochs:.0f} epochs",
        "How much faster it trains depends on how long the autoencoder is trained, which the source leaves out.",
    )


def epochs_left(results: dict, factor: float) -> tuple[float, float]:
    """The denoiser's own gain, and for how many epochs the autoencoder may train until `factor` is left in 100."""
    pixel, latent = (results["cost"][s]["training_seconds_image"] for s in ("pixel", "latent"))
    a, pictures = results["autoencoder"], results["data"]["train"]
    an_image = a["training_seconds"] / a["training_images"]
    return pixel / latent, (100 * (pixel / factor - latent) - a["encode_seconds"] / pictures) / an_image


@claim("C2.2", "That includes the autoencoder, and the gap widens for larger images.", "FLOPs of training, by formula")
def _widens(seen: Evidence) -> Finding:
    def gap(size: int, epochs: int = 50) -> float:
        pixel, latent = (unet_flops(n, s, backward=True).total for n, s in ((PIXEL, size), (LATENT, size // 4)))
        return pixel / (latent + epochs / 100 * autoencoder_flops(FIRST, size, "both", backward=True).total)

    return Finding(
        CONFIRMED if gap(512) > (1 + rules.tie) * gap(32) else REFUTED,
        f"{gap(32):.1f}x at 32, {gap(512):.1f}x at 512, with an autoencoder of 50 epochs to 100",
        "It widens because attention grows with positions squared; the ratio of values stays the same.",
    )


@claim(
    "C2.3",
    "64 images: DDPM 1000 steps 11.10 s; DDIM 100 steps 0.82 s, 13.5x; latent DDIM 50 steps 1.41 s, 7.9x.",
    "seconds a picture, decoder included",
)
def _sampling(seen: Evidence) -> Finding:
    r = seen.results("compare-cifar10-32")
    ddpm, ddim, latent = (
        seconds_a_picture(r, *row) for row in (("pixel", "ddpm", 1000), ("pixel", "ddim", 100), ("latent", "ddim", 50))
    )
    same = seconds_a_picture(r, "pixel", "ddim", 50) / latent
    theirs = (0.82 / 100) / (1.41 / 50)
    return Finding(
        worst(verdict(ddpm / ddim, 13.5), verdict(ddpm / latent, 7.9)),
        f"{ddpm / ddim:.1f}x and {ddpm / latent:.0f}x; at 50 steps in both, {same:.1f}x",
        f"By the source's own figures a latent step costs {1 / theirs:.1f} pixel steps, where its C1.4 says a twelfth.",
    )


@claim("C2.4", "FID 90.93 (DDPM), 88.91 (DDIM), 85 to 90 (latent): compression keeps quality.", "KD-E at equal counts")
def _quality(seen: Evidence) -> Finding:
    r = seen.results("compare-cifar10-32")
    before, after = (sampled(r, *row)["quality"] for row in (("pixel", "ddim", 100), ("latent", "ddim", 50)))
    change = gain(before, after)
    word = NOT_HERE if change is None else CONFIRMED if change > 0 else REFUTED
    return Finding(
        word,
        f"KD-E {before['kd_e']:.2f} in pixels, {after['kd_e']:.2f} in latents, {before['n_generated']} pictures each",
        "After minutes of training at equal seconds. A difference of 2 % in FID, without a count, orders nothing.",
    )

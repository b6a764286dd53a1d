"""The claims of chapter 8, the formula."""

from __future__ import annotations

from ...config import AutoencoderConfig
from ...measure.complexity import unet_flops
from .ch6_three_stages import cannot_tell, enough_steps, fewest
from .verdicts import CONFIRMED, LATENT, PIXEL, REFUTED, Evidence, Finding, claim, verdict


@claim("C8.1", "The VAE compresses each side 8x (512x512 to 64x64).", "arithmetic")
def _eightfold(seen: Evidence) -> Finding:
    f = AutoencoderConfig(block_out_channels=(128, 256, 512, 512), norm_num_groups=32).downsample
    return Finding(CONFIRMED if 512 // f == 64 else REFUTED, f"Stable Diffusion's autoencoder has f = {f}")


@claim("C8.2", "20 to 50 DDIM steps are enough.", "KD-E by steps, in latents")
def _enough(seen: Evidence) -> Finding:
    table = seen.results("sampling-cifar10-32-latent")["rows"]
    rows = {(r["method"], r["steps"]): r for r in table if r["steps"] <= 100}
    steps = enough_steps(rows, rows["ddim", 100])
    if steps is None:
        return cannot_tell(fewest(rows), rows["ddim", 100])
    return Finding(
        CONFIRMED if steps <= 50 else REFUTED,
        f"not resolvably worse than at 100 steps from {steps} steps on",
        "For this network, and as far as these few pictures can tell.",
    )


claim("C8.3", "CLIP text embeddings give control.", "chapter 8")(None)


@claim("C8.4", "A step is 12x cheaper than in pixel space.", "FLOPs by formula, 512 a side, f = 8")
def _step_at_512(seen: Evidence) -> Finding:
    ratio = unet_flops(PIXEL, 512).total / unet_flops(LATENT, 64).total
    return Finding(
        verdict(ratio, 12), f"{ratio:.0f}x fewer FLOPs", "At least f² = 64, and more where the network attends."
    )


claim("C8.5", "Consumer GPUs can train and run it; a 512x512 image takes seconds.", "chapter 8")(None)

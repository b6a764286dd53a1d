"""The claims of chapter 8, the formula."""

from __future__ import annotations

from ...config import AutoencoderConfig
from ...measure.complexity import unet_flops
from ...measure.cost_model import BUILT_UP_TO, networks_at
from .ch6_three_stages import cannot_tell, enough_steps, fewest
from .learnt import DENOISERS, SAMPLERS, all_rows, epochs_of, lacking
from .verdicts import CONFIRMED, FIRST, NOT_HERE, PIXEL, REFUTED, Evidence, Finding, claim, verdict


@claim("C8.1", "The VAE compresses each side 8x (512x512 to 64x64).", "arithmetic")
def _eightfold(seen: Evidence) -> Finding:
    f = AutoencoderConfig(block_out_channels=(128, 256, 512, 512), norm_num_groups=32).downsample
    return Finding(CONFIRMED if 512 // f == 64 else REFUTED, f"Stable Diffusion's autoencoder has f = {f}")


@claim("C8.2", "20 to 50 DDIM steps are enough.", "KD-E by steps, in latents")
def _enough(seen: Evidence) -> Finding:
    denoiser, sampling = seen.together(DENOISERS[1], SAMPLERS[1])
    rows = {(r["method"], r["steps"]): r for r in all_rows(sampling) if r["steps"] <= 100}
    missing = lacking(epochs_of(denoiser), [(100, rows["ddim", 100]["quality"]["n_generated"])])
    if missing:
        return Finding(NOT_HERE, missing)
    steps = enough_steps(rows, rows["ddim", 100])
    if steps is None:
        return cannot_tell(fewest(rows), rows["ddim", 100])
    return Finding(
        CONFIRMED if steps <= 50 else REFUTED,
        f"not resolvably worse than at 100 steps from {steps} steps on",
        "For this network, and as far as so many pictures can tell.",
    )


claim("C8.3", "CLIP text embeddings give control.", "chapter 8")(None)


@claim("C8.4", "A step is 12x cheaper than in pixel space.", "FLOPs by formula, 512 a side, f = 8")
def _step_at_512(seen: Evidence) -> Finding:
    (built, kept) = (
        unet_flops(pixel, 512).total / unet_flops(latent, 64).total
        for most in (BUILT_UP_TO, float("inf"))
        for (pixel, _), (latent, _) in [[networks_at(PIXEL, FIRST, 512, f, most) for f in (1, 8)]]
    )
    return Finding(
        verdict(built, 12),
        f"{built:.0f}x fewer FLOPs with networks built for the size, {kept:.0f}x with one that attends at every size",
        "About f² = 64, and more where the network attends on large grids.",
    )


claim("C8.5", "Consumer GPUs can train and run it; a 512x512 image takes seconds.", "chapter 8")(None)

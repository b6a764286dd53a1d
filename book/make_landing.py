"""The landing page's film: drawings drown in noise and new ones come out of it, in pixel space and in latent space.

    python book/make_landing.py

makes `assets/landing_*.webp` anew from the weights that come with the course (half a minute on one core). Each sheet is
one row of frames: the forward process (`schedules.add_noise`) at t = 0, 50, ... 1000, then DDIM's way back with as many
steps. t counts as in the papers, so that 0 is the clean picture. Both ways share their noise: the way back starts from
the noise that the way there ended in, and knows of each drawing only its kind. `landing_still.webp` has nine of the
frames, for readers without scripts and for print. The seed is fixed, and what comes out was not chosen.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm_course.checkpoints import pretrained
from ldm_course.data import emoji
from ldm_course.data.pictures import to_float, to_uint8
from ldm_course.denoiser import Denoiser
from ldm_course.diffusion.schedules import add_noise
from ldm_course.files import written_whole
from ldm_course.page.plotting import grid_image

ASSETS = Path(__file__).parent.parent / "assets"
STEPS = 20  # DDIM steps, and so the frames of each way
DRAWINGS = ("grinning face", "teacher", "watermelon", "flag of Brazil")  # what the way there starts from
KINDS = ("smileys-emotion", "people-body", "food-drink", "flags")  # what the way back is asked for
GUIDANCE = 2.0
SEED = 0
STILLS = range(0, 2 * STEPS + 1, STEPS // 4)
BLUES = np.array([[0x00, 0x33, 0x55], [0x2F, 0x7F, 0xB0], [0xEA, 0xF4, 0xFB]], float)  # at -2.5, 0 and 2.5


def path(d: Denoiser, clean: Tensor, eps: Tensor) -> list[Tensor]:
    """x_t or z_t on the way there and back: 2 * STEPS + 1 states, each like `clean` `(B, C, H, W)`."""
    levels = range(d.schedule.T // STEPS, d.schedule.T + 1, d.schedule.T // STEPS)
    states = [clean, *(add_noise(clean, eps, t - 1, d.schedule) for t in levels)]
    back: list[Tensor] = []
    label = torch.tensor([d.classes.index(kind) for kind in KINDS])
    options = {"label": label, "guidance_scale": GUIDANCE, "steps": STEPS}
    end = d.sample(eps, callback=lambda i, t, xt, x0_hat: back.append(xt), **options)
    return [*states, *back[1:], end]  # back[0] is the noise, where the way there has just ended


def tiles(z: Tensor) -> Tensor:
    """A latent `(B, 4, h, w)` as it is: four channels as four small grids, uint8 `(B, 3, 2h + 1, 2w + 1)`, light is
    high."""
    at = ((z.clamp(-2.5, 2.5) + 2.5) / 2.5).numpy()
    shade = np.stack([np.interp(at, [0, 1, 2], BLUES[:, i]) for i in range(3)], axis=2).astype(np.uint8)
    h, w = z.shape[-2:]
    sheet = np.full((len(z), 3, 2 * h + 1, 2 * w + 1), 255, np.uint8)
    for i in range(4):
        y, x = i // 2 * (h + 1), i % 2 * (w + 1)
        sheet[:, :, y : y + h, x : x + w] = shade[:, i]
    return torch.from_numpy(sheet)


def row(frames: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(frames, axis=1)


def save(name: str, image: np.ndarray, levels: int = 256) -> None:
    """Without loss, but for the shades: noise in 256 of them cannot be made small."""
    step = 256 // levels
    image = image if step == 1 else np.minimum(np.round(image / step) * step, 255).astype(np.uint8)
    with written_whole(ASSETS / name) as temporary:
        Image.fromarray(image).save(temporary, "WEBP", lossless=True, quality=100, method=6)


def main() -> None:
    known = {drawing.name: drawing for drawing in emoji.drawings()}
    pictures = np.stack([emoji.render(known[name], 32).transpose(2, 0, 1) for name in DRAWINGS])
    x0 = to_float(torch.from_numpy(pictures))
    pixel, latent = pretrained("emoji-32-pixel"), pretrained("emoji-32-latent")
    with torch.inference_mode():
        z0 = latent.space.autoencoder.to_latents(x0)
    generator = torch.Generator().manual_seed(SEED)
    xs = path(pixel, x0, torch.randn(x0.shape, generator=generator))
    zs = path(latent, z0, torch.randn(z0.shape, generator=generator))

    sheets = {
        "pixel": [grid_image(to_uint8(x), 2, gap=0) for x in xs],
        "latent": [grid_image(tiles(z), 2, gap=2) for z in zs],
        "decoded": [grid_image(latent.space.to_pictures(z), 2, gap=0) for z in zs],
    }
    for name, frames in sheets.items():
        save(f"landing_{name}.webp", row(frames), levels=32)
    gap = np.full((64, 4, 3), 255, np.uint8)
    strips = [row([part for i in STILLS for part in (sheets[name][i], gap)][:-1]) for name in ("pixel", "decoded")]
    save("landing_still.webp", np.concatenate([strips[0], np.full_like(strips[0][:4], 255), strips[1]]), levels=32)


if __name__ == "__main__":
    main()

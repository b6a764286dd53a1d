"""A cascade: small pictures from noise, then larger ones from noise and the smaller ones (chapter 9).

The other way to large pictures, beside a compressed space (Ho et al. 2022, Cascaded diffusion models): all stages are
in pixels, and each but the first is told what the one before has drawn (`diffusion.superresolution`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .data.pictures import to_float
from .denoiser import Condition, Denoiser, Label
from .diffusion.samplers import sample
from .diffusion.superresolution import doubled, hint


@dataclass(frozen=True)
class Cascade:
    """A denoiser that draws small pictures, and super-resolution denoisers, each for twice the side of the one before.

    ValueError: sides that do not double, or a stage that is not in pixels.
    """

    base: Denoiser
    ups: tuple[Denoiser, ...]

    def __post_init__(self):
        sides = [d.space.size for d in (self.base, *self.ups)]
        if any(after != 2 * before for before, after in pairwise(sides)):
            raise ValueError(f"stages for {sides} pixels a side; expected each twice the one before")
        for d in (self.base, *self.ups):
            if d.space.shape[1] != d.space.size:
                raise ValueError("a stage of the cascade draws latents; expected denoisers in pixels")

    def generate(
        self,
        count: int,
        *,
        steps: Sequence[int],
        augmentation: float = 0.1,
        method: str = "ddim",
        label: Label = None,
        guidance_scale: float = 1.0,
        seed: int = 0,
        batch_size: int = 64,
    ) -> Tensor:
        """`count` pictures, uint8 (count, 3, H, W), of the last stage's side; `steps` has a number for each stage.

        Each stage's picture is noised before the next one is told it, to `augmentation` of the T levels. `label` and
        `guidance_scale` are the base's. ValueError: not one number of steps a stage, or another augmentation than 0 to
        1.
        """
        if len(steps) != 1 + len(self.ups):
            raise ValueError(f"{len(steps)} numbers of steps for {1 + len(self.ups)} stages; give one for each")
        if not 0 <= augmentation <= 1:
            raise ValueError(f"augmentation={augmentation}; expected the share of the noise levels, 0 to 1")
        options = {"method": method, "seed": seed, "batch_size": batch_size}
        made = self.base.generate(count, steps=steps[0], label=label, guidance_scale=guidance_scale, **options)
        for d, n in zip(self.ups, steps[1:], strict=True):
            made = enlarged(d, made, steps=n, augmentation=augmentation, **options)
        return made


def enlarged(d: Denoiser, pictures: Tensor, *, augmentation: float = 0.0, seed: int = 0, **options) -> Tensor:
    """Uint8 pictures (count, 3, H, W) at twice the side, drawn by a super-resolution denoiser; `options` as for
    `Denoiser.generate`. ValueError also for pictures of another size than half of the denoiser's."""
    if 2 * pictures.shape[-1] != d.space.size or pictures.shape[-2] != pictures.shape[-1]:
        raise ValueError(f"pictures of shape {tuple(pictures.shape)}; expected {d.space.size // 2} a side")
    schedule, rng = d.schedule, torch.Generator().manual_seed(~seed % 2**32)
    small = to_float(pictures)
    levels = torch.full((len(small),), round(augmentation * schedule.T))
    told = hint(small, levels, torch.randn(doubled(small).shape, generator=rng), schedule)

    def draw(_, noise: Tensor, rows: slice, **sampler) -> Tensor:
        part = told[rows].to(noise.device)
        return sample(d.predictor(Condition(part, part)), noise, schedule, **sampler)

    return d.generate(len(small), draw=draw, seed=seed + 1, **options)

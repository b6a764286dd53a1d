"""A trained denoiser as one object: it knows all that drawing needs, and draws (chapters 0 and 2).

Which schedule, which prediction, which space, which conditions: whoever trains decides that, and a wrong choice later
draws rubbish without a word. So nobody has to choose again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .device import native_precision
from .diffusion.samplers import sample, x0_predictor
from .diffusion.schedules import Schedule
from .networks.unet import UNet
from .spaces import LatentSpace, PixelSpace

Label = str | int | Tensor | None


@dataclass(frozen=True)
class Denoiser:
    """A network, the space it works in, its schedule and what it predicts; `meta` is what its file says beside that.

    `label`, in all methods: for each picture a class, int64 (count,); or one class for all, by name or number; or None,
    for no class in particular.
    """

    model: UNet
    space: PixelSpace | LatentSpace
    schedule: Schedule
    prediction: str
    meta: dict = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def num_classes(self) -> int | None:
        """How many classes it knows; None: it was trained without."""
        return self.model.config.num_classes

    @property
    def classes(self) -> list[str]:
        """Their names, where its file has them."""
        return list(self.meta.get("classes") or [])

    def labels(self, label: Label, count: int) -> Tensor | None:
        """Classes as int64 (count,) on the network's device. ValueError: there is no such class, or there are not
        `count`. (The numbers in a tensor are not looked at, since that would make a GPU wait.)"""
        if label is None:
            return None
        if self.num_classes is None:
            raise ValueError("this model was trained without classes; leave the label out")
        if isinstance(label, (str, int)):
            label = torch.full((count,), self._number(label))
        if len(label) != count:
            raise ValueError(f"{len(label)} labels for {count} pictures; expected one for each")
        return label.to(self.device)

    def classes_in_turn(self, count: int) -> Tensor | None:
        """All classes one after another, int64 (count,); None: it was trained without."""
        return None if self.num_classes is None else torch.arange(count) % self.num_classes

    def _number(self, label: str | int) -> int:
        names = {name: i for i, name in enumerate(self.classes)} | {str(i): i for i in range(self.num_classes)}
        if str(label) not in names:
            known = f", or one of {', '.join(self.classes)}" if self.classes else ""
            raise ValueError(f"no class {str(label)!r}; expected 0 to {self.num_classes - 1}{known}")
        return names[str(label)]

    def predictor(self, label: Tensor | None = None, guidance_scale: float = 1.0) -> Callable[[Tensor, int], Tensor]:
        """predict_x0(xt, t), which `samplers.sample` calls at each step; `label` is int64 (B,) or None."""
        return x0_predictor(
            self.model,
            self.schedule,
            prediction=self.prediction,
            clip_x0=self.space.clip_x0,
            condition=label,
            no_condition=None if label is None else torch.full_like(label, self.num_classes),
            guidance_scale=guidance_scale,
        )

    def sample(self, noise: Tensor, *, label: Label = None, guidance_scale: float = 1.0, **sampler) -> Tensor:
        """From noise (B, *space.shape) to samples like it, in the denoiser's space; `sampler` are the options of
        `samplers.sample`: steps, method, eta, generator, callback."""
        noise = noise.to(self.device)
        predict_x0 = self.predictor(self.labels(label, len(noise)), guidance_scale)
        return sample(predict_x0, noise, self.schedule, **sampler)

    def generate(
        self,
        count: int,
        *,
        steps: int = 50,
        method: str = "ddim",
        eta: float = 0.0,
        label: Label = None,
        guidance_scale: float = 1.0,
        seed: int = 0,
        batch_size: int = 64,
        show: bool = False,
    ) -> Tensor:
        """`count` new pictures, uint8 (count, 3, H, W), on the CPU: noise, the sampler's steps, the way to pictures.

        The same seed gives the same noise for every method and number of steps. The network computes in bf16 where the
        hardware does; the sampler's own arithmetic and the decoder stay in float32. `show` draws a progress bar.
        ValueError: no picture is asked for, or what `labels` or `samplers.sample` refuse.
        """
        if count < 1:
            raise ValueError(f"count={count}; expected 1 or more")
        labels, device = self.labels(label, count), self.device
        self.model.eval()
        pictures = []
        for first in range(0, count, batch_size):
            n = min(batch_size, count - first)
            # One generator a batch, on the CPU: the pictures do not depend on the device. It takes 32 bits of a seed,
            # and training counts up in them (`BatchRandom`), so here they are counted down.
            rng = torch.Generator().manual_seed(~(seed * 1_000_003 + first) % 2**32)
            noise = torch.randn(n, *self.space.shape, generator=rng).to(device)
            # for the sampler's own noise; its seed is drawn, so that it is not the next batch's
            chance = torch.Generator(device).manual_seed(torch.randint(2**62, (), generator=rng).item())
            options = {"steps": steps, "method": method, "eta": eta, "generator": chance, "progress": show}
            some = None if labels is None else labels[first : first + n]
            with torch.autocast(device.type, torch.bfloat16, enabled=native_precision(device) == "bf16"):
                x0 = self.sample(noise, label=some, guidance_scale=guidance_scale, **options)
            pictures.append(self.space.to_pictures(x0).cpu())
        return torch.cat(pictures)

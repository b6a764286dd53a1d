"""Pixels and latents side by side: everything that differs between the two spaces is in this module (chapter 1).

The U-Net, the trainer, the sampler and the evaluator are the same for both. What differs: the shape of what is
denoised, whether x̂₀ may be clipped to [-1, 1] (pixels have that range, latents have none), and the way to pictures.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from .autoencoder import Autoencoder
from .config import native_precision
from .data import Pictures, to_uint8
from .records import written_whole
from .samplers import sample
from .schedules import Schedule


@dataclass(frozen=True)
class PixelSpace:
    """Pictures of `size` a side, denoised as they are."""

    size: int
    channels: int = 3
    name: str = "pixel"
    clip_x0: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.channels, self.size, self.size)

    def to_pictures(self, x: Tensor) -> Tensor:
        """Samples `(B, 3, H, W)` to uint8."""
        return to_uint8(x)


@dataclass(frozen=True)
class LatentSpace:
    """The latents of pictures of `size` a side; `to_pictures` decodes."""

    size: int
    autoencoder: Autoencoder
    name: str = "latent"
    clip_x0: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        config = self.autoencoder.config
        side = self.size // config.downsample
        return (config.latent_channels, side, side)

    @torch.inference_mode()
    def to_pictures(self, z: Tensor) -> Tensor:
        """Scaled latents `(B, c, h, w)` to uint8 pictures `(B, 3, H, W)`."""
        return to_uint8(self.autoencoder.from_latents(z))


@dataclass(frozen=True)
class Latents:
    """A data set encoded once: the posterior's mean and standard deviation `(N, c, h, w)`, already scaled.

    `seconds` is what the encoding cost when it was done; a comparison must count it. `fingerprint` tells the latents
    of one autoencoder and one set of pictures from all others.
    """

    mean: Tensor
    std: Tensor
    labels: Tensor | None
    name: str
    split: str
    seconds: float
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def size(self) -> int:
        return self.mean.shape[-1]

    def batch(self, indices: Tensor, normal: Callable[..., Tensor]) -> Tensor:
        """A fresh draw from the posteriors of these pictures, float32 `(B, c, h, w)`."""
        mean, std = self.mean[indices], self.std[indices]
        noise = normal(*mean.shape[1:])
        return mean.to(noise.device) + std.to(noise.device) * noise


@torch.no_grad()  # and not inference mode, whose tensors no later training step may keep
def encode_pictures(
    autoencoder: Autoencoder,
    pictures: Pictures,
    *,
    batch_size: int = 128,
    cache: str | Path | None = None,
    show: bool = False,
) -> Latents:
    """Encodes every picture once. With `cache`, a folder, the result is kept there and found again if neither the
    autoencoder's weights nor the pictures have changed; `seconds` is then what it cost the first time."""
    fingerprint = _fingerprint(autoencoder, pictures)
    path = None if cache is None else Path(cache) / f"latents-{fingerprint}.safetensors"
    if path is not None and path.exists():
        try:
            with safe_open(path, "pt") as file:
                mean, std = file.get_tensor("mean"), file.get_tensor("std")
                seconds = json.loads(file.metadata()["seconds"])
            return Latents(mean, std, pictures.labels, pictures.name, pictures.split, seconds, fingerprint)
        except Exception:  # broken, in one of the ways that safetensors has: made again below
            pass
    device = next(autoencoder.parameters()).device
    autoencoder.eval()
    means, stds = [], []
    started = time.perf_counter()
    for part in tqdm(torch.arange(len(pictures)).split(batch_size), desc="encode", disable=not show):
        posterior = autoencoder.encode(pictures.batch(part, device))
        means.append((autoencoder.latent_scale * posterior.z_mean).cpu())
        stds.append((autoencoder.latent_scale * (0.5 * posterior.z_logvar).exp()).cpu())
    mean, std = torch.cat(means), torch.cat(stds)
    seconds = time.perf_counter() - started
    if path is not None:
        with written_whole(path) as temporary:
            save_file({"mean": mean, "std": std}, temporary, metadata={"seconds": json.dumps(seconds)})
    return Latents(mean, std, pictures.labels, pictures.name, pictures.split, seconds, fingerprint)


def _fingerprint(autoencoder: Autoencoder, pictures: Pictures) -> str:
    digest = hashlib.sha256()
    for tensor in (*autoencoder.state_dict().values(), pictures.images):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def generate(
    model: nn.Module,
    space: PixelSpace | LatentSpace,
    count: int,
    schedule: Schedule,
    *,
    prediction: str,
    method: str = "ddim",
    steps: int = 50,
    eta: float = 0.0,
    label: Tensor | None = None,
    guidance_scale: float = 1.0,
    seed: int = 0,
    batch_size: int = 64,
    show: bool = False,
) -> Tensor:
    """`count` new pictures, uint8 `(count, 3, H, W)`, on the CPU: noise, the sampler's steps, and the way to pictures.

    `label` is int64 `(count,)` or None. The same seed gives the same noise for every method and number of steps. The
    network computes in bf16 where the hardware does; the sampler's own arithmetic and the decoder stay in float32.
    ValueError: no picture is asked for, not a label for each, or what `samplers.sample` refuses.
    """
    if count < 1:
        raise ValueError(f"count={count}; expected 1 or more")
    if label is not None and len(label) != count:
        raise ValueError(f"{len(label)} labels for {count} pictures; expected one for each")
    device = next(model.parameters()).device
    model.eval()
    pictures = []
    for first in range(0, count, batch_size):
        n = min(batch_size, count - first)
        # One generator a batch, on the CPU: the pictures do not depend on the device. It takes 32 bits of a seed,
        # and training counts up in them (`BatchRandom`), so here they are counted down.
        generator = torch.Generator().manual_seed(~(seed * 1_000_003 + first) % 2**32)
        noise = torch.randn(n, *space.shape, generator=generator).to(device)
        # for the sampler's own noise; its seed is drawn, so that it is not the next batch's
        steps_seed = torch.randint(2**62, (), generator=generator).item()
        steps_generator = torch.Generator(device).manual_seed(steps_seed)
        labels = None if label is None else label[first : first + n].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=native_precision(device) == "bf16"):
            x0 = sample(
                model,
                noise,
                schedule,
                method=method,
                steps=steps,
                eta=eta,
                prediction=prediction,
                clip_x0=space.clip_x0,
                label=labels,
                null_label=model.config.num_classes,
                guidance_scale=guidance_scale,
                generator=steps_generator,
                progress=show,
            )
        pictures.append(space.to_pictures(x0).cpu())
    return torch.cat(pictures)

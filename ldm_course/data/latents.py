"""A data set encoded once: the latents that a denoiser is trained on (chapter 2)."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..checks import Count, Seconds, check, describe, from_json
from ..files import all_finite, cached_tensors, fingerprint
from ..networks.autoencoder import Autoencoder
from .pictures import Chance, Pictures

LARGEST = 1e4  # of a scaled latent, which are near 1


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

    def subset(self, indices: Tensor) -> Latents:
        """The latents at `indices`, int64 (M,), in that order, with their labels; one may be there several times."""
        indices = torch.as_tensor(indices)
        labels = None if self.labels is None else self.labels[indices]
        told = fingerprint(self.fingerprint, indices)
        return replace(self, mean=self.mean[indices], std=self.std[indices], labels=labels, fingerprint=told)

    def draw(self, indices: Tensor, rng: Chance) -> Tensor:
        """A fresh draw from the posteriors of these pictures, float32 `(B, c, h, w)`."""
        mean, std = self.mean[indices], self.std[indices]
        noise = rng.normal(*mean.shape[1:])
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
    autoencoder's weights nor the pictures have changed; `seconds` is then what it cost the first time. ValueError:
    latents that are not finite, or no `Pictures` to encode."""
    check(Count, batch_size, "batch_size")
    if not (isinstance(autoencoder, Autoencoder) and isinstance(pictures, Pictures)):
        raise ValueError(f"got {describe(autoencoder)} and {describe(pictures)}; expected an Autoencoder and Pictures")
    if not len(pictures):
        raise ValueError("got no pictures to encode; expected one or more")
    told = fingerprint(*autoencoder.state_dict().values(), pictures.fingerprint)

    def make() -> tuple[dict[str, Tensor], dict[str, str]]:
        started = time.perf_counter()
        tensors = _encoded(autoencoder, pictures, batch_size, show)
        return tensors, {"seconds": json.dumps(time.perf_counter() - started)}

    if cache is None:
        tensors, about = make()
    else:
        side = pictures.size // autoencoder.config.downsample
        shape = (len(pictures), autoencoder.config.latent_channels, side, side)
        path = Path(cache) / f"latents-{told}.safetensors"
        tensors, about = cached_tensors(path, {"mean": shape, "std": shape}, make)
    seconds = from_json(Seconds, about.get("seconds", "0"), "seconds of a cache of latents, which may be deleted")
    mean, std = tensors["mean"], tensors["std"]
    return Latents(mean, std, pictures.labels, pictures.name, pictures.split, seconds, told)


def _encoded(autoencoder: Autoencoder, pictures: Pictures, batch_size: int, show: bool) -> dict[str, Tensor]:
    device = next(autoencoder.parameters()).device
    autoencoder.eval()
    means, stds = [], []
    for part in tqdm(torch.arange(len(pictures)).split(batch_size), desc="encode", disable=not show):
        posterior = autoencoder.encode(pictures.batch(part, device))
        means.append((autoencoder.latent_scale * posterior.z_mean).cpu())
        stds.append((autoencoder.latent_scale * (0.5 * posterior.z_logvar).exp()).cpu())
    tensors = {"mean": torch.cat(means), "std": torch.cat(stds)}
    if not all_finite(tensors) or tensors["mean"].abs().max() > LARGEST:
        raise ValueError(
            f"the latents are NaN or infinite, or above {LARGEST:g}: this autoencoder has failed; train it again"
        )
    return tensors

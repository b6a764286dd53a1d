"""A data set encoded once: the latents that a denoiser is trained on (chapter 2)."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ..files import written_whole
from ..networks.autoencoder import Autoencoder
from .pictures import Chance, Pictures


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
        labels = None if self.labels is None else self.labels[indices]
        digest = hashlib.sha256(self.fingerprint.encode() + indices.numpy().tobytes()).hexdigest()[:16]
        return replace(self, mean=self.mean[indices], std=self.std[indices], labels=labels, fingerprint=digest)

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

"""The literature's FID, by pytorch-fid's network; `distances` has the course's own (chapter 5)."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor
from tqdm import tqdm

from ..device import default_device
from ..files import expanded
from ..networks.features import check_pictures
from .distances import frechet_distance


def fid(
    generated, reference, weights: str | os.PathLike | None = None, *, batch_size=50, device=None, progress=False
) -> float:
    """Fréchet Inception Distance (Heusel et al. 2017), as pytorch-fid computes it from the same pictures.

    generated, reference: uint8 (N, 3, H, W) or a `Pictures`; all are used. weights: the file
    pt_inception-2015-12-05-6726825d.pth; without it, the one in torch hub's cache, else it is downloaded (91 MB).
    The network is pytorch-fid's; the distance is `frechet_distance`. Compare only numbers of equal counts: papers use
    50,000. ValueError for pictures of another kind and, in one line that says what to do, for missing weights.
    """
    sets = [getattr(pictures, "images", pictures) for pictures in (generated, reference)]
    for name, images in zip(("generated", "reference"), sets):
        check_pictures(images, name)
    device = torch.device(device) if device is not None else default_device()
    net = network(weights, device)
    return frechet_distance(*(_inception_features(net, images, batch_size, device, progress) for images in sets))


def fid_floor(reference, n: int, weights: str | os.PathLike | None = None, *, seed: int = 0, **options) -> float:
    """The FID of n real pictures, drawn at random, against the rest: what a perfect model would get at that count.

    reference, weights and options as for `fid`. ValueError when n is more than half of the reference.
    """
    images = getattr(reference, "images", reference)
    if not 2 <= n <= len(images) // 2:
        raise ValueError(f"got n={n} for a reference of {len(images)}; expected 2 to half of it, {len(images) // 2}")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return fid(images[order[:n]], images[order[n:]], weights, **options)


@torch.no_grad()
def _inception_features(net, images: Tensor, batch_size: int, device: torch.device, progress: bool) -> Tensor:
    """The network's last average pooling, (N, 2048), for pictures in [0, 1]; it resizes them to 299 itself."""
    batches = tqdm(images.split(batch_size), desc="inception", disable=not progress)
    return torch.cat([net(batch.to(device).float() / 255)[0].flatten(1).cpu() for batch in batches])


def network(weights: str | os.PathLike | None = None, device=None) -> torch.nn.Module:
    """pytorch-fid's Inception, loaded once; weights as for `fid`, and its errors."""
    return _inception(inception_weights(weights), str(device if device is not None else default_device()))


@cache
def _inception(path: Path, device: str) -> torch.nn.Module:
    from pytorch_fid import inception  # here, since importing it takes seconds

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        with patch.object(inception, "load_state_dict_from_url", lambda *args, **kwargs: state):
            net = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
    except Exception as error:
        raise ValueError(f"{path} does not hold pytorch-fid's Inception weights ({_one_line(error)})") from error
    return net.eval().to(device)


def inception_weights(weights: str | os.PathLike | None = None) -> Path:
    """The file of Inception's weights: the one given, else torch hub's cached one, else downloaded to there."""
    from pytorch_fid.inception import FID_WEIGHTS_URL as url

    cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    path = expanded(weights) if weights is not None else cached
    if path.is_file():
        return path
    if weights is not None:
        raise ValueError(f"no file {path}; expected Inception's weights, to be had from {url}")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(15)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(cached), hash_prefix=cached.stem.rsplit("-", 1)[1], progress=False)
    except Exception as error:
        raise ValueError(
            f"FID needs Inception's weights, and they could not be downloaded ({_one_line(error)}): "
            f"get {url} elsewhere and pass its path as weights, or save it as {cached}"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    return cached


def _one_line(error: Exception) -> str:
    """The first sentence of another library's message, and, where it is hardly one, the kind of its error."""
    said = " ".join(str(error).split()).split(". ")[0][:160]
    return said if " " in said else f"{type(error).__name__} {said}".strip()

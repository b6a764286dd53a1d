"""Published weights from a folder, a file, or the Hugging Face hub, as networks of ours (chapter 8).

Read as they lie, a `config.json` beside safetensors, without diffusers and transformers. Nothing is downloaded unless
one asks for it, and a pickle, which could run any code, is never read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from ..files import expanded
from . import foreign, interop
from .autoencoder import Autoencoder
from .text import TextEncoder
from .unet import UNet

# Stable Diffusion's autoencoder, its decoder trained further: 335 MB, the smallest that can be had by itself.
AUTOENCODER = "stabilityai/sd-vae-ft-mse"
TOKENS = 77  # of a text, CLIP's

_STEMS = ("diffusion_pytorch_model", "model")  # diffusers', transformers'
_VARIANTS = ("", ".fp16")
_TOKENIZER = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def published_autoencoder(
    path_or_name: str | os.PathLike = AUTOENCODER, *, latent_scale: float | None = None, download: bool = False
) -> Autoencoder:
    """A published KL autoencoder, such as Stable Diffusion's: `to_latents` takes pictures (B, 3, 512, 512) in [-1, 1]
    to (B, 4, 64, 64), `from_latents` takes them back.

    `path_or_name`: a folder with `config.json` and weights, or one that has it as `vae`; one `.safetensors` file; or a
    name in the hub, whose files are taken from its cache, or with `download` from the network. A file without a
    `config.json` beside it is read as Stable Diffusion's shape, and needs `latent_scale`: 0.18215 for versions 1 and 2,
    0.13025 for SDXL's, which has the same shape.

    ValueError, in one line: it is not there, is of another kind, or has parts that ours has not.
    """
    place = located(path_or_name, "vae", download=download)
    config = _config(place)
    if config is not None:
        shape, scale = foreign.autoencoder_config(config)
    elif latent_scale is None:
        raise ValueError(f"{place.name} has no config.json beside it, which would say the latent_scale; give it")
    else:
        shape, scale = foreign.STABLE_DIFFUSION_AUTOENCODER, latent_scale
    return interop.autoencoder_from_state(shape, _state(place), scale if latent_scale is None else latent_scale)


def published_unet(path_or_name: str | os.PathLike, *, download: bool = False) -> UNet:
    """A published U-Net, such as Stable Diffusion 1's or 2's, from a folder with `config.json` and weights, in one file
    or in several with an index, or from one that has it as `unet`; or by its name in the hub. ValueError as above."""
    place = located(path_or_name, "unet", download=download)
    return interop.unet_from_state(foreign.unet_config(_needed(place)), _state(place))


def published_text_encoder(path_or_name: str | os.PathLike, *, download: bool = False) -> TextEncoder:
    """A published text tower of CLIP's in transformers' format, from such a folder, or from one that has it as
    `text_encoder`; or by its name in the hub. ValueError as above."""
    place = located(path_or_name, "text_encoder", download=download)
    return interop.text_from_state(foreign.text_config(_needed(place)), _state(place))


def published_tokenizer(
    path_or_name: str | os.PathLike, *, length: int = TOKENS, download: bool = False
) -> Callable[[Iterable[str]], Tensor]:
    """CLIP's tokenizer, transformers' own, from a folder with `vocab.json` and `merges.txt`, or one that has it as
    `tokenizer`; or by its name in the hub: texts to int64 (B, length), with its start, end and padding, longer ones
    cut. ValueError as above; it needs the package transformers."""
    place = located(path_or_name, "tokenizer", holds=_TOKENIZER[0], download=download)
    try:
        from transformers import CLIPTokenizer
    except ImportError as error:
        raise ValueError("a published tokenizer needs the package transformers; pip install transformers") from error
    tokenizer = CLIPTokenizer.from_pretrained(place, local_files_only=True)

    def tokens(texts: Iterable[str]) -> Tensor:
        options = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
        return tokenizer(list(texts), **options).input_ids

    return tokens


# ------------------------------------------------------------------------------------------------------ places


def located(path_or_name: str | os.PathLike, part: str, *, holds: str = "config.json", download: bool = False) -> Path:
    """The file, or the folder that `holds` that file, for one part of a published system: `vae`, `unet`, `text_encoder`
    or `tokenizer`. ValueError, in one line: there is none."""
    path = expanded(path_or_name)
    if path.is_file():
        return path
    root = path if path.is_dir() else _from_hub(str(path_or_name), part, download)
    for folder in (root / part, root):
        if (folder / holds).is_file():
            return folder
    raise ValueError(f"{path_or_name} has no {holds}, nor has its folder {part}; expected a published {part}")


def _from_hub(name: str, part: str, download: bool) -> Path:
    """The hub's cached folder of that name; with `download`, what the part needs is fetched."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name}: no such file or folder; expected one, or a name of the hub's, such as {AUTOENCODER}")
    from huggingface_hub import snapshot_download

    weights = [name for stem in _STEMS for name in (f"{stem}.safetensors", f"{stem}.*.json", f"{stem}-*.safetensors")]
    wanted = [f"{folder}{file}" for folder in ("", f"{part}/") for file in ("config.json", *weights, *_TOKENIZER)]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted, local_files_only=not download))
    except Exception as error:  # of several libraries, by version
        reason = " ".join(str(error).split()).split(". ")[0][:160] or type(error).__name__
        if download:
            raise ValueError(f"{name} could not be downloaded ({reason})") from error
        raise ValueError(
            f"{name} is not in the Hugging Face cache; fetch it once with download=True, or give the path of a copy"
        ) from error


# ------------------------------------------------------------------------------------------------------- files


def _config(place: Path) -> dict[str, Any] | None:
    """What the `config.json` in a folder, or beside a file, holds."""
    path = place / "config.json" if place.is_dir() else place.with_name("config.json")
    return _json(path) if path.is_file() else None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}; expected entries with names")
    return found


def _needed(place: Path) -> dict[str, Any]:
    config = _config(place)
    if config is None:
        raise ValueError(f"{place} has no config.json beside it; expected one, for the weights do not say all")
    return config


def weight_files(place: Path) -> list[Path]:
    """The safetensors of a folder, several where an index names them, in full precision if both are there; or that one
    file. ValueError: there are none, or not all."""
    if place.is_file():
        if place.suffix != ".safetensors":
            raise ValueError(f"{place}: expected a .safetensors file; a pickle could run any code, and is not read")
        return [place]
    for variant in _VARIANTS:
        for stem in _STEMS:
            if (whole := place / f"{stem}{variant}.safetensors").is_file():
                return [whole]
            if (index := place / f"{stem}.safetensors.index{variant}.json").is_file():
                files = [place / Path(name).name for name in sorted(set(_json(index).get("weight_map", {}).values()))]
                for file in files:
                    if not file.is_file():
                        raise ValueError(f"{place} lacks {file.name}, which its index names; copy or fetch it again")
                return files
    raise ValueError(
        f"{place} has no {_STEMS[0]}.safetensors and no {_STEMS[1]}.safetensors; other formats are not read"
    )


def _state(place: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for file in weight_files(place):
        try:
            state |= load_file(file)
        except Exception as error:  # safetensors raises its own class for broken files
            raise ValueError(f"{file}: broken or no safetensors file ({error})") from error
    return state

"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

DATA_HELP = "emoji, scenes, cifar10, a folder of pictures, or an .npz file (default: emoji)"


def which_data(parser: argparse.ArgumentParser, default: str | None = "emoji") -> None:
    parser.add_argument("--data", default=default, help=DATA_HELP)
    parser.add_argument("--size", type=int, help="side of the pictures, in pixels (default: the profile's)")
    parser.add_argument("--limit", type=int, help="use only so many pictures")


def which_model(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--pretrained", metavar="NAME", help="one of the course's checkpoints, such as emoji-32-latent")
    which.add_argument("--checkpoint", type=Path, metavar="FILE", help="a denoiser's .safetensors file")


def positive(**numbers: float | None) -> None:
    for name, number in numbers.items():
        if number is not None and not number > 0:
            raise ValueError(f"--{name.replace('_', '-')} {number}; expected more than 0")


def no_folder(out: Path) -> None:
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; expected the name of a picture, such as {out}/pictures.png")

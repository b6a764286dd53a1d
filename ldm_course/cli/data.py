"""`ldm-course data`: what a data set holds."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..checks import Count, number
from ..data.loaders import load_data
from ..files import shown, writable_picture
from ..lab import profiles
from ..page import plotting
from .options import apart, named, which_data


def data_options(parser: argparse.ArgumentParser) -> None:
    which_data(parser)
    parser.add_argument("--split", choices=("train", "test"), default="train")
    parser.add_argument("--count", type=number(Count), default=64)
    parser.add_argument("--out", type=named, default=Path("data.png"))


def data(args: argparse.Namespace) -> int:
    """`ldm-course data`."""
    apart(writable_picture(args.out), args.data)
    size = profiles.profile().size if args.size is None else args.size
    pictures = load_data(args.data, size, args.split, limit=args.limit)
    print(f"{pictures.name}, {args.split}: {len(pictures)} pictures of {pictures.size} x {pictures.size}")
    print(f"source: {pictures.source}")
    if pictures.classes is not None:
        counts = torch.bincount(pictures.labels, minlength=len(pictures.classes)).tolist()
        print("classes: " + ", ".join(f"{name} {n}" for name, n in zip(pictures.classes, counts)))
    spread = torch.linspace(0, len(pictures) - 1, min(args.count, len(pictures))).long()
    plotting.save_png(args.out, plotting.grid_image(pictures.images[spread], scale=max(1, 64 // pictures.size)))
    print(f"wrote {shown(args.out)}")
    return 0

"""`ldm-course edit`: one's own picture, redrawn by a trained model, or filled in where a mask says (chapter 8)."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from PIL import Image

from ..data.loaders import middle_square, open_picture
from ..diffusion.editing import descent
from ..files import writable_folder
from ..page import plotting
from .options import asked, chosen_model, guidance, no_folder, positive, what_to_draw, which_model

COVERED = 160  # the grey that stands for what is to be drawn


def edit_options(parser: argparse.ArgumentParser) -> None:
    which_model(parser)
    picture = "of any size: its middle square is taken, and resized to the model's"
    parser.add_argument("--picture", type=Path, required=True, metavar="FILE", help=picture)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--strength", type=float, help="redraw all: from near 0, the picture, to 1, nothing of it is kept")
    how.add_argument("--mask", type=Path, metavar="FILE", help="as large as the picture: draw anew where it is white")
    what_to_draw(parser, label_default="none in particular")
    parser.add_argument("--count", type=int, default=4, help="how many ways of doing it")
    parser.add_argument("--method", choices=("ddpm", "ddim", "dpmpp"), help="(default: dpmpp; with a mask ddpm)")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--resamplings", type=int, help="with a mask: how often each step is made (default: 4)")
    parser.add_argument("--out", type=Path, default=Path("edited.png"))


def edit(args: argparse.Namespace) -> int:
    """`ldm-course edit`: the picture as it was given, and beside it `count` ways of drawing it anew."""
    positive(count=args.count, resamplings=args.resamplings)
    no_folder(args.out)
    if args.mask is None and args.resamplings is not None:
        raise ValueError("--resamplings goes with --mask")
    d = chosen_model(args)
    descent(1.0 if args.strength is None else args.strength, d.schedule, args.steps)  # refuses, before any work
    image = open_picture(args.picture)
    given = middle_square(image, d.space.size)[None]
    mask = None if args.mask is None else _mask(args.mask, image, d.space.size)
    options = {**asked(d, args), "guidance_scale": guidance(args), "seed": args.seed, "steps": args.steps, "show": True}
    writable_folder(args.out.parent)

    started = time.perf_counter()
    many, method = given.expand(args.count, -1, -1, -1), args.method or ("dpmpp" if mask is None else "ddpm")
    if mask is None:
        before, made = [given], d.redraw(many, args.strength, method=method, **options)
        captions = ["given", *[f"strength {args.strength:g}"] * args.count]
    else:
        before = [given, given.masked_fill(mask, COVERED)]
        made = d.inpaint(many, mask, method=method, resamplings=args.resamplings or 4, **options)
        captions = ["given", "kept", *["filled in"] * args.count]
    seconds = time.perf_counter() - started
    plotting.save_png(args.out, plotting.grid(torch.cat([*before, made]), captions=captions))
    print(f"wrote {args.out}: {args.count} pictures in {seconds:.1f} s ({method}, {args.steps} steps)")
    return 0


def _mask(path: Path, picture: Image.Image, size: int) -> torch.Tensor:
    """Bool (1, 1, size, size): where the file is white, or white in part."""
    mask = open_picture(path).convert("L")
    if mask.size != picture.size:
        given, expected = (f"{width} x {height}" for width, height in (mask.size, picture.size))
        raise ValueError(f"--mask {path} is {given} pixels; expected {expected}, as large as the picture")
    white = mask.point(lambda grey: 255 * (grey > 127))
    square = middle_square(white, size, Image.Resampling.BOX)[None] > 0
    if not square.any():
        raise ValueError(f"--mask {path} is black all over the picture's middle square; make white what is to be drawn")
    return square

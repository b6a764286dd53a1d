"""`ldm-course edit`: one's own picture redrawn, filled in where a mask says, or made another class's (chapter 8)."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from PIL import Image

from ..checks import Count, Levels, Strength, number
from ..data.loaders import middle_square, open_picture
from ..denoiser import Denoiser
from ..diffusion.editing import descent
from ..files import shown, writable_picture
from ..page import plotting
from .options import asked, chosen_model, file, guidance, named, what_to_draw, which_model

COVERED = 160  # the grey that stands for what is to be drawn
USUAL = {  # count, method and steps
    "strength": (4, "dpmpp", 25),
    "mask": (4, "ddpm", 25),  # and each step four times
    "source": (1, "dpmpp", 50),
}


def edit_options(parser: argparse.ArgumentParser) -> None:
    which_model(parser)
    picture = "of any size: its middle square is taken, and resized to the model's"
    parser.add_argument("--picture", type=file, required=True, metavar="FILE", help=picture)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument(
        "--strength", type=number(Strength), help="redraw all: from near 0, the picture, to 1, nothing of it is kept"
    )
    how.add_argument("--mask", type=file, metavar="FILE", help="as large as the picture: draw anew where it is white")
    how.add_argument("--source", help="the class, or prompt, that the picture shows: exchange it for the one asked for")
    what_to_draw(parser, label_default="none in particular")
    parser.add_argument(
        "--count", type=number(Count), help="how many ways of doing it (default: 4; with --source there is one)"
    )
    parser.add_argument("--method", choices=("ddpm", "ddim", "dpmpp"), help="(default: dpmpp; with --mask ddpm)")
    parser.add_argument("--steps", type=number(Levels), help="(default: 25; with --source 50, up and down)")
    parser.add_argument(
        "--resamplings", type=number(Count), help="with --mask: how often each step is made (default: 4)"
    )
    parser.add_argument("--out", type=named, default=Path("edited.png"))


def edit(args: argparse.Namespace) -> int:
    """`ldm-course edit`: the picture as it was given, and beside it `count` ways of drawing it anew."""
    way = _way(args)
    d = chosen_model(args)
    image = open_picture(args.picture)
    given = middle_square(image, d.space.size)[None]
    mask = _mask(args.mask, image, d.space.size) if way == "mask" else None
    options = _options(d, args)

    started, many = time.perf_counter(), given.expand(args.count, -1, -1, -1)
    made, captions = [given], ["given"]
    if way == "strength":
        made += [d.redraw(many, args.strength, **options)]
        captions += [f"strength {args.strength}"] * args.count
    elif way == "mask":
        made += [
            given.masked_fill(mask, COVERED),
            d.inpaint(many, mask, resamplings=args.resamplings or 4, **options),
        ]
        captions += ["kept", *["filled in"] * args.count]
    else:
        made += [d.translate(many, args.source, **options)]
        captions += ["edited"]
    seconds = time.perf_counter() - started
    plotting.save_png(args.out, plotting.grid(torch.cat(made), captions=captions))
    print(f"wrote {shown(args.out)}: {args.count} in {seconds:.1f} s ({args.method}, {args.steps} steps)")
    return 0


def _way(args: argparse.Namespace) -> str:
    """Which edit it is; `args` gets what is usual for it. ValueError: what does not go with it."""
    writable_picture(args.out, args.picture, args.mask)
    way = next(name for name in USUAL if getattr(args, name) is not None)
    for name, usual in zip(("count", "method", "steps"), USUAL[way]):
        if getattr(args, name) is None:
            setattr(args, name, usual)
    if way != "mask" and args.resamplings is not None:
        raise ValueError("--resamplings goes with --mask")
    if way == "source" and args.count > 1:
        raise ValueError(f"--count {args.count} with --source, which leaves nothing to chance; expected 1")
    if way == "source" and args.method == "ddpm":
        raise ValueError("--method ddpm with --source, which leaves nothing to chance; expected ddim or dpmpp")
    return way


def _options(d: Denoiser, args: argparse.Namespace) -> dict:
    """Those of `Denoiser.generate`. ValueError, before any work: what this model does not take."""
    descent(1.0 if args.strength is None else args.strength, d.schedule, args.steps)
    d.condition(1, **{"prompt" if d.reads else "label": args.source})
    sampler = {"method": args.method, "steps": args.steps, "seed": args.seed, "show": True}
    return {**asked(d, args), "guidance_scale": guidance(args), **sampler}


def _mask(path: Path, picture: Image.Image, size: int) -> torch.Tensor:
    """Bool (1, 1, size, size): where the file is white, or white in part; what is transparent counts as black."""
    mask = open_picture(path, over="black").convert("L")
    if mask.size != picture.size:
        given, expected = (f"{width} x {height}" for width, height in (mask.size, picture.size))
        raise ValueError(f"--mask {path} is {given} pixels; expected {expected}, as large as the picture")
    white = mask.point(lambda grey: 255 * (grey > 127))
    square = middle_square(white, size, Image.Resampling.BOX)[None] > 0
    if not square.any():
        raise ValueError(f"--mask {path} is black all over the picture's middle square; make white what is to be drawn")
    return square

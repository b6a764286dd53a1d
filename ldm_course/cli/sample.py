"""`ldm-course sample`, `gallery` and `evaluate`: pictures from trained weights, and how good they are."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from ..checks import Count, Guidance, Levels, Seed, Share, number
from ..data.loaders import load_data
from ..data.pictures import Pictures
from ..denoiser import Denoiser
from ..files import shown, writable_picture
from ..lab import gallery
from ..lab.report import quality
from ..measure import distances, inception
from ..page import plotting
from .options import asked, chosen_model, file, guidance, named, what_to_draw, which_data, which_model


def _made(d: Denoiser, args: argparse.Namespace, **condition) -> torch.Tensor:
    return d.generate(
        args.count,
        method=args.method,
        steps=args.steps,
        eta=args.eta,
        guidance_scale=args.guidance,
        seed=args.seed,
        show=True,
        **condition,
    )


def sample_options(parser: argparse.ArgumentParser) -> None:
    which_model(parser)
    parser.add_argument("--count", type=number(Count), default=16)
    parser.add_argument("--method", choices=("ddpm", "ddim", "dpmpp"), default="dpmpp")
    parser.add_argument("--steps", type=number(Levels), default=25)
    parser.add_argument("--eta", type=number(Share), default=0.0)
    what_to_draw(parser, label_default="classes in turn")
    parser.add_argument("--out", type=named, default=Path("samples.png"))


def sample(args: argparse.Namespace) -> int:
    """`ldm-course sample`."""
    writable_picture(args.out)
    d = chosen_model(args)
    args.guidance = guidance(args)
    condition, captions, columns = _asked(d, args)
    started = time.perf_counter()
    made = _made(d, args, **condition)
    seconds = time.perf_counter() - started
    plotting.save_png(args.out, plotting.grid(made, columns, captions))
    pictures = "1 picture" if args.count == 1 else f"{args.count} pictures"
    print(f"wrote {shown(args.out)}: {pictures} in {seconds:.1f} s ({args.method}, {args.steps} steps)")
    return 0


def _asked(d: Denoiser, args: argparse.Namespace) -> tuple[dict, list[str] | None, int | None]:
    """What `generate` is asked for, the captions of the pictures, and the columns that they stand in."""
    condition = asked(d, args)
    if d.reads:
        return condition, None, None
    in_turn = args.label is None and d.num_classes is not None
    label = d.labels(d.classes_in_turn(args.count) if in_turn else args.label, args.count)
    classes = [name.replace("$", r"\$") for name in d.classes or ()]  # else read as a formula
    captions = [classes[i] for i in label.tolist()] if label is not None and classes else None
    columns = d.num_classes if in_turn and captions and d.num_classes <= 12 else None
    return {"label": label}, captions, columns


def gallery_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="the course's networks (default: all of them)")
    parser.add_argument("--count", type=number(Count), default=32)
    parser.add_argument("--steps", type=number(Levels), default=gallery.STEPS)
    parser.add_argument("--out", type=named, default=Path("runs/gallery"))


def show_gallery(args: argparse.Namespace) -> int:
    """`ldm-course gallery`."""
    print(f"wrote {gallery.gallery(args.out, args.names, args.count, args.steps)}, and a picture of each network")
    return 0


def evaluate_options(parser: argparse.ArgumentParser) -> None:
    which_model(parser)
    which_data(parser, default=None)
    parser.add_argument("--count", type=number(Count), default=256)
    parser.add_argument("--method", choices=("ddpm", "ddim", "dpmpp"), default="ddim")
    parser.add_argument("--steps", type=number(Levels), default=50)
    parser.add_argument("--eta", type=number(Share), default=0.0)
    parser.add_argument("--guidance", type=number(Guidance), default=1.0)
    parser.add_argument("--seed", type=number(Seed), default=0)
    parser.add_argument("--fid", action="store_true", help="also the Inception FID, if its weights can be had")
    parser.add_argument("--inception", type=file, help="a file with pytorch-fid's Inception weights")


def evaluate(args: argparse.Namespace) -> int:
    """`ldm-course evaluate`."""
    if args.fid or args.inception:
        inception.network(args.inception)  # now, not after the pictures
    d = chosen_model(args)
    if args.data is None and "data" not in d.meta:
        raise ValueError("this checkpoint does not say what it was trained on; give --data")
    if args.size not in (None, d.space.size):
        raise ValueError(f"--size {args.size}; this model makes pictures of {d.space.size} a side")
    real = _to_judge_by(d, args)
    condition = {}
    # classes, or captions, as often as in the data
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(args.seed))
    some = order[torch.arange(args.count) % len(order)]
    if d.num_classes is not None:
        condition = {"label": _labels(d, real)[some]}
    elif d.reads:
        if real.captions is None:
            raise ValueError(f"{real.name} has no captions, but the model was trained with texts")
        condition = {"prompt": real.subset(some).captions}
    reference = distances.Reference(real, seed=args.seed)
    made = _made(d, args, **condition)
    result = distances.evaluate(made, reference)
    fd_e, kd_e, count = quality(result)
    print(f"{args.method}, {args.steps} steps, against {len(real)} pictures of {real.name}")
    print(f"FD-E (floor)  {fd_e}\nKD-E (floor)  {kd_e}\npictures      {count}")
    if args.fid or args.inception:
        n = min(args.count, len(real) // 2)
        floor = inception.fid_floor(real, n, args.inception, seed=args.seed)
        print(f"FID (floor)   {inception.fid(made, real, args.inception):.2f} ({floor:.2f}; {n} real pictures)")
    return 0


def _to_judge_by(d: Denoiser, args: argparse.Namespace) -> Pictures:
    """The pictures that --data names, else those that the network learnt from. ValueError: there are none, or too few,
    or too few are to be drawn."""
    if args.count < 2:
        raise ValueError(f"--count {args.count}; a distance between sets of pictures needs 2 or more")
    name = d.meta["data"] if args.data is None else args.data
    try:
        real = load_data(name, d.space.size, limit=args.limit, seed=args.seed)
    except ValueError as error:
        if args.data is None:
            raise ValueError(f"{error}; this network learnt from it: say where it is now by --data") from error
        raise
    if len(real) < distances.FEWEST:
        has = f"{len(real)} pictures to train on" if args.limit is None else f"--limit {args.limit}"
        raise ValueError(f"{has}; pictures are judged by {distances.FEWEST}: give as many, or others by --data")
    return real


def _labels(d: Denoiser, real: Pictures) -> torch.Tensor:
    """The pictures' classes by the network's numbers: by their names, since data may number them otherwise than the
    data of its training did. ValueError: they are not the same classes."""
    if real.labels is None:
        raise ValueError(f"{real.name} has no labels, but the model was trained with {d.num_classes} classes")
    theirs = d.classes or list(real.classes)  # a file without names knows them by their numbers
    if len(theirs) != len(real.classes) or len(real.classes) != d.num_classes:
        has = f"{len(real.classes)} classes"
        raise ValueError(f"{real.name} has {has}, but the model was trained with {d.num_classes} classes")
    other = [name for name in real.classes if name not in theirs]
    if other:
        known = ", ".join(theirs)
        raise ValueError(f"{real.name} has the class {other[0]!r}, which the model was not trained with: {known}")
    return torch.tensor([theirs.index(name) for name in real.classes])[real.labels]

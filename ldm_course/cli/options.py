"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import checkpoints
from ..checks import Count, Guidance, PictureSide, Seed, number
from ..data.loaders import LOADERS
from ..denoiser import Denoiser
from ..device import default_device
from ..files import expanded, is_text

DATA_HELP = "emoji, scenes, cifar10, a folder of pictures, or an .npz file (default: emoji)"


def which_data(parser: argparse.ArgumentParser, default: str | None = "emoji") -> None:
    parser.add_argument("--data", default=default, help=DATA_HELP)
    parser.add_argument(
        "--size", type=number(PictureSide), help="side of the pictures, in pixels (default: the profile's)"
    )
    parser.add_argument("--limit", type=number(Count), help="use only so many pictures")


def which_model(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--pretrained", metavar="NAME", help="one of the course's checkpoints, such as emoji-32-latent")
    which.add_argument("--checkpoint", type=file, metavar="FILE", help="a denoiser's .safetensors file")


def chosen_model(args: argparse.Namespace) -> Denoiser:
    """What `which_model` asked for."""
    device = default_device()
    if args.pretrained:
        return checkpoints.pretrained(args.pretrained, device)
    return checkpoints.load_denoiser(args.checkpoint, device)


def what_to_draw(parser: argparse.ArgumentParser, label_default: str) -> None:
    parser.add_argument("--label", help=f"a class, by name or number (default: {label_default})")
    parser.add_argument("--prompt", help="what to draw, in words, for a model that reads; emoji count as their names")
    parser.add_argument("--negative", metavar="PROMPT", help="what guidance is to lead away from")
    parser.add_argument(
        "--guidance",
        type=number(Guidance),
        help="classifier-free; 1 is none (default: 3 with a prompt or a negative one, else 1)",
    )
    parser.add_argument("--seed", type=number(Seed), default=0)


def asked(d: Denoiser, args: argparse.Namespace) -> dict:
    """The condition that `what_to_draw` asked for, as `Denoiser.generate` takes it; the model's notes on its words are
    printed. ValueError: what this model does not take."""
    if d.reads or args.prompt is not None or args.negative is not None:
        for name in ("source", "prompt", "negative"):
            for note in d.notes(getattr(args, name, None) or ""):
                print(f"--{name}: {note}")
    condition = {"label": args.label, "prompt": args.prompt, "negative_prompt": args.negative}
    d.condition(args.count, **condition)
    return condition


def guidance(args: argparse.Namespace) -> float:
    """What was asked for; else 3 with a prompt or a negative one, and none without. ValueError: a negative prompt for
    guidance that does not look at it."""
    if args.negative is not None and args.guidance == 1:
        raise ValueError("--negative with --guidance 1, which does not look at it; ask for more, or leave one out")
    words = args.prompt is not None or args.negative is not None
    return args.guidance if args.guidance is not None else 3.0 if words else 1.0


def named(text: str) -> Path:
    """The type of an option that names where to write: a place on this machine."""
    if "://" in text or "$" in text:
        what = "an address" if "://" in text else "a name with a shell variable in it, which nobody has filled in"
        raise argparse.ArgumentTypeError(f"{text} is {what}; name a place on this machine")
    return _expanded(text)


def run_folder(text: str) -> Path:
    """The type of an option that names a folder to write weights into, which can be read from no other names."""
    if not is_text(text):
        raise argparse.ArgumentTypeError(f"{text} has bytes that are no text, so weights could not be read from it")
    return named(text)


def file(text: str) -> Path:
    """The type of an option that names what is to be read: a file on this machine."""
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text} is an address; download it, and name the file")
    return _expanded(text)


def _expanded(text: str) -> Path:
    try:
        return expanded(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def apart(out: Path, data: str) -> None:
    """ValueError: the pictures that a command writes would be read as data the next time."""
    folder = expanded(data)
    if data not in LOADERS and folder.is_dir() and folder.resolve() in (at := out.resolve(), *at.parents):
        raise ValueError(f"--out {out} lies in the folder of the data, {data}; name one outside of it")

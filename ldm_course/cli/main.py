"""`ldm-course`: compare, train, sample, edit, gallery, evaluate, cost, reference, claims, data and doctor.

Each command is a thin layer over the package. A mistake in what was typed, or in a file, is one line on standard
error and exit code 2.
"""

from __future__ import annotations

import argparse
import sys

import torch

from . import compare, cost, data, doctor, edit, reference, sample, train

COMMANDS = (  # name, what it does, its options, and itself
    ("compare", "train, sample and measure both spaces under one budget", compare.compare_options, compare.compare),
    (
        "train",
        "train an autoencoder, or a denoiser in pixel or latent space; resumes what it finds",
        train.train_options,
        train.train,
    ),
    ("sample", "make pictures with a trained model", sample.sample_options, sample.sample),
    (
        "edit",
        "redraw a picture, fill in a part of it, or exchange what it shows, with a trained model",
        edit.edit_options,
        edit.edit,
    ),
    ("gallery", "draw with each of the course's own networks, timed", sample.gallery_options, sample.show_gallery),
    ("evaluate", "measure a trained model's pictures against data", sample.evaluate_options, sample.evaluate),
    ("cost", "count and time a denoising step in both spaces, or a published system", cost.cost_options, cost.cost),
    (
        "reference",
        "run the stages that the course's recorded numbers come from",
        reference.reference_options,
        reference.reference,
    ),
    (
        "claims",
        "the ledger: each claim under test, and its verdict by the stored records",
        reference.claims_options,
        reference.claims,
    ),
    ("data", "say what a data set holds, and draw some of it", data.data_options, data.data),
    ("doctor", "check the installation, the machine and the data", lambda parser: None, doctor.doctor),
)


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except (ValueError, OSError, ImportError, torch.cuda.OutOfMemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = "; what was saved is kept, and the same command goes on from there" if args.command == "train" else ""
        print(f"\nstopped{goes_on}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ldm-course", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, text, options, run in COMMANDS:
        command = commands.add_parser(name, help=text, description=text)
        options(command)
        command.set_defaults(run=run)
    return parser

"""`ldm-course compare`: both spaces end to end, under one budget."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..checks import Positive, Seed, number
from ..lab import profiles, report
from ..lab.compare import compare as run
from .options import apart, run_folder, which_data


def compare_options(parser: argparse.ArgumentParser) -> None:
    which_data(parser)
    parser.add_argument("--profile", help="smoke, cpu, gpu or reference (default: by hardware, or $LDM_PROFILE)")
    parser.add_argument(
        "--budget", type=number(Positive), help="seconds of training for each space, the autoencoder included"
    )
    parser.add_argument("--seed", type=number(Seed), default=0)
    parser.add_argument(
        "--out", type=run_folder, default=Path("runs/compare"), help="folder for record, weights, report"
    )


def compare(args: argparse.Namespace) -> int:
    """`ldm-course compare`."""
    apart(args.out, args.data)
    record = run(
        args.data,
        profiles.profile(args.profile),
        size=args.size,
        budget=args.budget,
        limit=args.limit,
        seed=args.seed,
        out=args.out,
        command=sys.argv,
    )
    print(f"\n{report.as_text(record)}\n\nwrote {args.out}/: report.md, the record, the weights and the pictures")
    return 0

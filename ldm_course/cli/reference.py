"""`ldm-course reference` and `claims`: the stages behind the recorded numbers, and what they decide."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import torch

from ..checks import Chapter, Positive, number
from ..data.folders import LeftOut
from ..files import home
from ..lab import profiles
from ..lab.claims.ledger import as_text
from ..lab.reference import collect, find, run_stages, status
from .options import run_folder


def reference_options(parser: argparse.ArgumentParser) -> None:
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--status", action="store_true", help="say what is done and what is missing, and run nothing")
    parser.add_argument(
        "--stage", action="append", metavar="NAME", help="only this one (may be given again), and, to run it, its needs"
    )
    parser.add_argument(
        "--minutes", type=number(Positive), help="of training for each network (default: the stage's own)"
    )
    parser.add_argument("--profile", help="whose sizes to take (default: reference with a GPU, cpu without)")
    parser.add_argument(
        "--out", type=run_folder, default=Path("runs/reference"), help="folder for records, weights and states"
    )
    one.add_argument(
        "--publish", action="store_true", help="also put records, and small weights, into the course's own"
    )
    one.add_argument("--collect", action="store_true", help="publish what is in --out so far, and run nothing")


def reference(args: argparse.Namespace) -> int:
    """`ldm-course reference`; the exit code is 1 if a stage failed."""
    for name in args.stage or []:
        find(name)
    if args.minutes is not None and (args.status or args.collect):
        raise ValueError("--minutes is of training, and --status and --collect train nothing; leave it out")
    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f"--out {args.out} is no folder; name one")
    name = args.profile or ("reference" if torch.cuda.is_available() else "cpu")
    if args.status:
        for each in [args.profile] if args.profile else ["reference", "hours", "cpu"]:
            print(f"profile {each}\n" + "\n".join(status(profiles.profile(each), args.out, args.stage)) + "\n")
        return 0
    if args.collect:
        collect(profiles.profile(name), args.out, args.stage)
        return 0
    options = {"minutes": args.minutes, "publish": args.publish}
    failed = run_stages(args.stage, profiles.profile(name), args.out, **options)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def claims_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--chapter", type=number(Chapter), help="only the claims of this chapter, 1 to 10")


def claims(args: argparse.Namespace) -> int:
    """`ldm-course claims`."""
    if not (home() / "records").is_dir():
        warnings.warn(
            f"there are no records in {home()}; point LDM_HOME to the folder that has them", LeftOut, stacklevel=2
        )
    print(as_text(args.chapter))
    return 0

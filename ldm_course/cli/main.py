"""`ldm-course`: compare, train, sample, edit, gallery, evaluate, cost, reference, claims, data and doctor.

Each command is a thin layer over the package. A mistake in what was typed, or in a file, and what can happen to a disk,
to memory and to a device, are one line on standard error and exit code 2 (`mishaps`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable
from itertools import pairwise

from . import mishaps

WHAT = "Why image generation moved from pixels to latents: the course's commands."


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    args, interrupts = None, _Interrupts()
    try:
        sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # closed: >&-
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # what an encoding lacks is shown as a code, and never an error
                stream.reconfigure(errors="backslashreplace")
        with interrupts, warnings.catch_warnings():
            parser = _parser()
            interrupts.loading = False
            args = _parsed(parser, argv)
            _notes_in_one_line()
            return _flushed(args.run(args) or 0)
    except KeyboardInterrupt as stopped:
        return _stopped(str(stopped), interrupts.seen or signal.SIGINT)
    except BrokenPipeError:  # whoever read the output has seen enough, as `head` has
        mishaps.silence(sys.stdout)
        return 141
    except Exception as error:
        if interrupts.seen:  # what some libraries make of an interrupt
            return _stopped("", interrupts.seen)
        if os.environ.get("LDM_TRACEBACK", "").lower() not in ("", "0", "no", "off", "false"):
            raise
        mishaps.say(f"error: {mishaps.one_line(error, args)}")
        return 2


def _stopped(kept: str, by: int) -> int:
    mishaps.say("\n" + mishaps.one_line(ValueError(f"stopped; {kept}" if kept else "stopped")))
    return 128 + by


class _Interrupts:
    """Ctrl-C, the end of a session (SIGHUP) and of a job's time (SIGTERM), which stop a command alike. While packages
    are `loading`, which would be left half made, the process ends at once; else the signal is noted, as `seen`."""

    def __init__(self):
        self.loading, self.seen, self._before = True, 0, {}

    def __enter__(self):
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            sort = getattr(signal, name, None)  # Windows has no SIGHUP
            if sort is None or (name == "SIGHUP" and signal.getsignal(sort) == signal.SIG_IGN):  # as nohup has it
                continue
            with contextlib.suppress(ValueError):  # signals are the main thread's alone
                self._before[sort] = signal.signal(sort, self._interrupt)

    def __exit__(self, *_):
        for sort, before in self._before.items():
            signal.signal(sort, before)

    def _interrupt(self, sort, *_) -> None:
        self.seen = sort
        if self.loading:
            os.write(2, b"\nstopped\n")
            os._exit(128 + sort)
        raise KeyboardInterrupt


def _flushed(code: int) -> int:
    sys.stdout.flush()  # now, where an error is still told in one line
    return code


def _notes_in_one_line() -> None:
    """The package's own warnings, as one reads them; other libraries' as they are."""
    from ..data.folders import LeftOut

    usual, said = warnings.showwarning, set()

    def show(message, category, *where, **options) -> None:
        if "missing from font" in str(message):
            message, category = LeftOut("the picture's font lacks letters of these names, and shows boxes"), LeftOut
        if issubclass(category, LeftOut):
            line = f"note: {mishaps.one_line(message)}"
            if line not in said:  # the same folder is read for training and for testing
                mishaps.say(line)
            said.add(line)
        else:
            usual(message, category, *where, **options)

    warnings.showwarning = show
    warnings.simplefilter("always", LeftOut)


def _commands() -> tuple[tuple[str, str, Callable, Callable], ...]:
    """Name, what it does, its options, and itself; loaded here, so that an interrupt finds `main` at work."""
    from . import compare, cost, data, doctor, edit, reference, sample, train

    return (
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


class _Parser(argparse.ArgumentParser):
    """Says a mistake in one line; -1e-3 is a number too."""

    def __init__(self, *given, **options):
        super().__init__(*given, **options)
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$", re.IGNORECASE)

    def error(self, message: str):
        option, _, said = message.removeprefix("argument ").partition(": ")
        if message.startswith("argument "):
            message = f"{option} {said}" if option.startswith("-") else said
        raise ValueError(f"{message} (see {self.prog} --help)")


def _parsed(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """ValueError: what the command does not take; an option with nothing for a value, which no file is called."""
    words = sys.argv[1:] if argv is None else argv
    for option, value in pairwise(word for given in words for word in given.split("=", 1)):
        if option.startswith("--") and not value and option not in ("--prompt", "--negative", "--source"):
            raise ValueError(f"{option} is empty, as a shell variable is that was never set; give it a value")
    args, unknown = parser.parse_known_args(argv)
    if unknown:  # told by the command, whose help has the options
        raise ValueError(f"unrecognized arguments: {' '.join(unknown)} (see {parser.prog} {args.command} --help)")
    return args


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ldm-course", description=WHAT)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, text, options, run in _commands():
        command = commands.add_parser(name, help=text, description=text)
        options(command)
        command.set_defaults(run=run)
    return parser

"""What can happen to a disk, to memory, to a device and to a text, each in one line for the reader."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import re
import sys
import traceback
from typing import TextIO

DEVICE = re.compile(r"\b(CUDA|cuDNN|CUDNN|cuBLAS|CUBLAS|NCCL|NVML|MPS|HIP)\b")
DISK = {
    errno.ENOSPC: "make room there, or name another place",
    errno.EDQUOT: "make room there, or name another place",
    errno.EFBIG: "make room there, or name another place",
    errno.EACCES: "name another place, or change its permissions",
    errno.EPERM: "name another place, or change its permissions",
    errno.EROFS: "name another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "close other programs, or raise the limit with: ulimit -n 4096",
    errno.EIO: "the disk may be failing; name another place",
}


def one_line(error: BaseException, args: argparse.Namespace | None = None) -> str:
    """What went wrong and what to do, without a line break or anything that a terminal would obey."""
    text = _said(error, args)
    return "".join(c if c.isprintable() else _escaped(c) for c in " ".join(text.split()))


def _said(error: BaseException, args: argparse.Namespace | None) -> str:
    if isinstance(error, (MemoryError, RuntimeError)) and _out_of_memory(error):
        where = "the GPU" if DEVICE.search(str(error)) else "this machine"
        return f"{where} has too little memory for this; {_lower(args)}"
    if isinstance(error, OSError):
        what = str(error)
        if error.errno and type(error).__str__ is OSError.__str__:
            what = f"{os.strerror(error.errno)}: {error.filename}" if error.filename else os.strerror(error.errno)
        advice = DISK.get(error.errno)
        return f"{what}; {advice}" if advice else what
    if isinstance(error, RuntimeError) and DEVICE.search(str(error)):
        first = str(error).splitlines()[0]
        return f"the GPU failed ({first}); try again, or put CUDA_VISIBLE_DEVICES= before the command to do without it"
    if isinstance(error, ImportError) and "failed to map" in str(error):
        return f"too little memory to load the packages ({error}); close other programs, or raise ulimit -v"
    if isinstance(error, (ValueError, ImportError, Warning)):
        return f"{error}{_variable(error)}" or type(error).__name__
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" at {os.path.basename(last[0].filename)}:{last[0].lineno}" if last else ""
    return f"unforeseen, {type(error).__name__}{where}: {error} (LDM_TRACEBACK=1 before the command shows all of it)"


def _variable(error: BaseException) -> str:
    """The variable of the environment whose value another package could not use, if it quotes one."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    ours = not last or "ldm_course" in last[0].filename
    names = () if ours else (name for name, value in os.environ.items() if value and repr(value) in str(error))
    return "".join(f"; the environment has it in {name}" for name in names)


def _out_of_memory(error: BaseException) -> bool:
    from ..device import out_of_memory  # here, so that an interrupt while torch is loaded finds `main` at work

    return out_of_memory(error)


def _lower(args: argparse.Namespace | None) -> str:
    """Which option to lower, and to what."""
    for name in ("batch_size", "count", "limit", "size"):
        value = getattr(args, name, None)
        if isinstance(value, int) and value > 1:
            return f"lower --{name.replace('_', '-')} from {value} to {value // 2}"
    known = {"train": "--batch-size", "compare": "--profile smoke, or a smaller --size", "cost": "--size"}
    return f"lower it with {known.get(getattr(args, 'command', None), '--count, or close other programs')}"


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a file's name that is no text
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def say(line: str) -> None:
    """On standard error, on a line of its own: below a progress bar that was interrupted."""
    tqdm = sys.modules.get("tqdm")
    for bar in list(getattr(getattr(tqdm, "tqdm", None), "_instances", ())):
        bar.close()
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:  # a full disk; the exit status is to tell of it
        silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """What is left to be written to a stream that takes no more is thrown away, so that Python can end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

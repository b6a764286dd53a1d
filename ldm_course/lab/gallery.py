"""What the networks that come with the course draw on this machine, and how long that takes (`ldm-course gallery`).

They were trained for longer than a reader has; the page "On your machine" shows them beside the comparison of minutes.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .. import checkpoints
from ..data.folders import LeftOut
from ..denoiser import Denoiser
from ..device import computed_in, default_device
from ..files import check_free, home, writable_folder, written_whole
from ..measure.complexity import count_parameters
from ..page import plotting
from ..page.numbers import duration, seconds, si
from . import tables
from .records import load_record, place

COLUMNS = 8
SHOWN = 96  # screen pixels of a picture's side, at least
STEPS = 25  # of DPM-Solver++


@dataclass(frozen=True)
class Drawn:
    """Pictures of one shipped network: uint8 (N, 3, H, W), and the seconds that each took here, decoder included."""

    name: str
    denoiser: Denoiser
    pictures: Tensor
    seconds: float


def drawn(name: str, count: int = 32, steps: int = STEPS, seed: int = 0) -> Drawn:
    """Draws `count` pictures with the shipped denoiser `name`, classes in turn, not chosen."""
    d = checkpoints.pretrained(name, default_device())
    d.generate(1, steps=1)  # a first call is slow
    started = time.perf_counter()
    pictures = d.generate(count, method="dpmpp", steps=steps, label=d.classes_in_turn(count), seed=seed)
    return Drawn(name, d, pictures, (time.perf_counter() - started) / count)


def trained(d: Denoiser) -> str:
    """How long a network was trained, and on what machine, as far as its record says."""
    try:
        record = load_record(d.meta["record"])
    except (KeyError, ValueError):
        return "not recorded"
    of = tables.trained(record)
    epochs = "" if of.epochs is None else f", {of.epochs:.3g} epochs"
    return f"{si(of.images)} images{epochs}, in {duration(of.seconds)}, on {place(record)}"


def gallery(out: str | Path, names: list[str] | None = None, count: int = 32, steps: int = STEPS) -> Path:
    """Draws with every shipped denoiser, or with those of these `names`; writes a picture of each and `gallery.md` into
    the folder `out`, and returns the latter's path. ValueError: no such network, or `out` takes no files."""
    for path in [] if names else checkpoints.broken():
        warnings.warn(f"{path} cannot be read, and is left out; restore it", LeftOut, stacklevel=2)
    out, names = writable_folder(out), names or checkpoints.pretrained_names()
    if not names:
        raise ValueError(
            f"no networks to draw with in {home() / 'checkpoints'}; point LDM_HOME to the folder that has them"
        )
    for name in names:
        checkpoints.pretrained_path(name, checkpoints.pretrained_names())  # now, not after having drawn with others
    check_free(out / "gallery.md", *(out / f"{name}.png" for name in names))
    found = [drawn(name, count, steps) for name in names]
    rows = []
    for one in found:
        scale = -(-SHOWN // one.pictures.shape[-1])
        plotting.save_png(out / f"{one.name}.png", plotting.grid_image(one.pictures, COLUMNS, scale=scale))
        size = f"{si(count_parameters(one.denoiser.model))} parameters"
        rows.append(
            f"| {one.name} | {one.denoiser.space.name} | {size} | {trained(one.denoiser)} | {seconds(one.seconds)} |"
        )
    head = ["| network | space | size | trained | a picture, here |", "|---|---|---|---|---|"]
    shown = [f"**{one.name}**\n\n![{count} pictures by {one.name}, not chosen]({one.name}.png)" for one in found]
    how = f"DPM-Solver++ with {steps} steps, in {computed_in(default_device())}; classes in turn; nothing was chosen."
    with written_whole(out / "gallery.md") as path:
        path.write_text("\n".join([*head, *rows, "", how, "", "\n\n".join(shown), ""]), encoding="utf-8")
    return out / "gallery.md"

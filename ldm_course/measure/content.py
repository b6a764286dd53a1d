"""Detail and content: how much of a change gets through an autoencoder, if it is one or the other (chapter 4).

`passed` compares changes frequency by frequency, `answer_to_grain` counts what comes out of texture, in place or not.
Both take any map of pictures, `Autoencoder.reconstruct` or a control such as `averaged`. Errors are twice a standard
error. Here too are the pictures and the stored networks that chapter 4 and its stages measure with; `bits` and
`probes` do so from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import checkpoints
from ..data import scenes
from ..data.loaders import load_data
from ..data.pictures import Pictures, to_float
from ..networks.autoencoder import Autoencoder
from . import spectra
from .spectra import transfer

VISIBLE = 2.0  # grey levels of 255: a root mean squared error below this counts as invisible
SIZE = 32
HELD_OUT = 2**40  # no network was trained on scenes from this number on


def grid_of(size: int, f: int = 4) -> int:
    """Cycles a side that the latent's grid can carry: half of its size / f positions a side."""
    return size // f // 2


GRID = grid_of(SIZE)


def grey(x):
    """A difference of values in [-1, 1], in grey levels of 255."""
    return 127.5 * x


def rms(x: Tensor) -> float:
    """The root of the mean square of all values."""
    return x.double().square().mean().sqrt().item()


def jackknife(n: int, value: Callable[[Tensor], float], blocks: int = 8) -> tuple[float, float]:
    """`value` of all n rows (given as int64 indices), and twice its standard error by leaving out a block at a time."""
    rows = torch.arange(n)
    parts = rows.chunk(min(blocks, n))
    without = torch.tensor([value(rows[(rows < part[0]) | (rows > part[-1])]) for part in parts])
    spread = (len(parts) - 1) / len(parts) * (without - without.mean()).square().sum()
    return value(rows), 2 * spread.sqrt().item()


def held_out_drawings(limit: int | None = None, size: int = SIZE) -> Pictures:
    """The drawings that the stored networks were not trained on, in a mixed order: neighbours are alike."""
    emoji = load_data("emoji", size, "test")
    return emoji.subset(torch.randperm(len(emoji), generator=torch.Generator().manual_seed(0))[:limit])


def first_stage(device: str | torch.device = "cpu") -> Autoencoder:
    """The course's autoencoder for drawings and scenes at every size, f = 4."""
    return checkpoints.load_model(checkpoints.pretrained_path("first-stage-f4"), device)[0]


def averaged(x: Tensor, f: int = 4) -> Tensor:
    """The plainest way through a grid of H / f: averages of blocks, interpolated. A control."""
    return F.interpolate(F.avg_pool2d(x, f), scale_factor=f, mode="bilinear")


def changed_scenes(count: int, size: int = SIZE) -> tuple[Tensor, dict[str, Tensor]]:
    """Held-out scenes without texture (N, 3, H, H), and the same with one thing changed. The movement is so small that
    it is as faint as the texture of strength 1; "another scene" is what the next one looks like."""

    def scene(**changed) -> Tensor:
        which = range(HELD_OUT, HELD_OUT + count)
        return to_float(scenes.render(0, which, size, **({"texture": 0} | changed)))

    plain, textured = scene(), scene(texture=1)
    moment = 0.01  # of the motion, so short that what changes grows in proportion
    moment *= rms(textured - plain) / rms(scene(time=moment) - plain)
    return plain, {
        "texture 1": textured,
        "texture 4": scene(texture=4),
        "a small movement": scene(time=moment),
        "another scene": plain.roll(1, 0),
    }


@dataclass(frozen=True)
class Passed:
    """How changes of `plain` (N, 3, H, H) get through a map of pictures: both given before and after it.

    Gains beyond the grid are means over rings above `grid`, all with the weight of the fine texture's power there:
    with weights of their own, changes would be compared at different frequencies.
    """

    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    grid: int = GRID

    @cached_property
    def gains(self) -> dict[str, Tensor]:
        return {name: transfer(change, self.after[name])[0] for name, change in self.before.items()}

    def beyond_grid(self, name: str, rows: Tensor | None = None) -> float:
        x, y, grain = (c if rows is None else c[rows] for c in (self.before[name], self.after[name], self.texture))
        fine = slice(self.grid + 1, x.shape[-1] // 2 + 1)
        s = spectra.power_spectrum(grain)
        weight = (s.power * s.modes)[fine]
        return ((transfer(x, y)[0][fine] * weight).sum() / weight.sum()).item()

    @property
    def texture(self) -> Tensor:
        return self.before["texture 1"]

    def texture_to_movement(self) -> tuple[float, float]:
        """The texture's gain beyond the grid over that of the equally faint movement, and its error."""

        def ratio(rows: Tensor) -> float:
            return self.beyond_grid("texture 1", rows) / self.beyond_grid("a small movement", rows)

        return jackknife(len(self.texture), ratio)

    def results(self) -> dict:
        """For a record, and for the judge of C4.3."""
        found = {
            name: {
                "strength": grey(rms(change)),
                "decoded": grey(rms(self.after[name])),
                "gain": self.gains[name],
                "beyond_grid": self.beyond_grid(name),
            }
            for name, change in self.before.items()
        }
        ratio, error = self.texture_to_movement()
        return {"changes": found, "texture_to_movement": ratio, "texture_to_movement_error": error}


def passed(through: Callable[[Tensor], Tensor], plain: Tensor, changed: Mapping[str, Tensor], grid=GRID) -> Passed:
    """Sends plain and changed pictures `through` a map, and takes the differences."""
    out = through(plain)
    before = {name: x - plain for name, x in changed.items()}
    return Passed(before, {name: through(x) - out for name, x in changed.items()}, grid)


def detail(x: Tensor) -> Tensor:
    """What each pixel of (N, C, H, W) differs by from the mean of its 3 x 3 neighbourhood."""
    return x - F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def smooth_paper(plain: Tensor) -> Tensor:
    """Where texture-free pictures have no detail at all within two pixels, bool like `plain`."""
    largest = F.max_pool2d(detail(plain).abs().amax(1, keepdim=True), 5, stride=1, padding=2)
    return (grey(largest) < 1.5).expand_as(plain)


def answer_to_grain(through: Callable[[Tensor], Tensor], plain: Tensor, textured: Tensor) -> dict:
    """On smooth paper, how much detail there is before and after a map, in grey levels; and `answer`, the detail that
    the texture adds to what comes out, over the texture's own. It need not be in place to count."""
    smooth, after = smooth_paper(plain), {"with texture": through(textured), "without texture": through(plain)}
    before = {"with texture": textured, "without texture": plain}

    def answer(rows: Tensor) -> float:
        come, gone = (x["with texture"][rows] - x["without texture"][rows] for x in (after, before))
        return rms(detail(come)[smooth[rows]]) / rms(detail(gone)[smooth[rows]])

    found, error = jackknife(len(plain), answer)
    return {
        "smooth": smooth.double().mean().item(),
        "before": {name: grey(rms(detail(x)[smooth])) for name, x in before.items()},
        "after": {name: grey(rms(detail(x)[smooth])) for name, x in after.items()},
        "answer": found,
        "answer_error": error,
    }


def lost_in_scenes(through: Callable[[Tensor], Tensor], count: int, size: int = SIZE) -> float:
    """RMSE in grey levels of held-out scenes as they are (texture 1)."""
    x = to_float(scenes.render(0, range(HELD_OUT, HELD_OUT + count), size))
    return grey(rms(through(x) - x))

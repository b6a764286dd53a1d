"""Fine structures that are known to the pixel, and what is left of them after an autoencoder (chapter 7).

Each picture is a smooth grey ground with some grain, and on it, brighter by CONTRAST, one structure whose every pixel
is known. So three things can be measured that a PSNR hides: how much of the contrast is left, whether the structure can
still be told from its absence, and how far off it is found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.pictures import Pictures, to_uint8

CONTRAST = 0.6  # of the range [-1, 1]: 77 grey levels
GRAIN = 0.03
LOCAL = ("line", "dots", "vessel", "digits")  # those that are somewhere; the others fill the picture
KINDS = (*LOCAL, "checkerboard", "grating")
_DIGITS = (  # 3 x 5, read row by row
    "111101101101111 010110010010111 111001111100111 111001111001111 101101111001001 "
    "111100111001111 111100111101111 111001010010010 111101111101111 111101111001111"
).split()
TRAINED = "trained on structures"  # the ways through an autoencoder that saw nothing else,
GENERAL = "general autoencoder"  # and through one that saw none
_AROUND = 3  # pixels: what is that near to a structure is what it is compared with
FADED, TOLD, ASTRAY = 0.5, 0.9, 1.0  # by how much contrast, from which AUC and within how many pixels it is kept


def masks(kind: str, width: int, count: int, size: int, seed: int = 0) -> Tensor:
    """Where the structure is: float32 `(count, 1, size, size)`, each pixel's covered part, 0 to 1.

    `width` is in pixels: of a line or a vessel, the side of a dot or of a checkerboard's cell, a digit's stroke, one
    stripe of a grating (half its period). Lines, vessels are antialiased, the others lie on whole pixels.
    The same `seed` gives the same places. ValueError: an unknown kind, or a structure too large for the picture.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}; expected one of {', '.join(KINDS)}")
    if not 1 <= width <= _widest(kind, size):
        raise ValueError(f"width={width}: {kind} in {size} pixels have a width of 1 to {_widest(kind, size)}")
    rng = torch.Generator().manual_seed(1_000_003 * seed + 101 * KINDS.index(kind) + width)
    draw = {"line": _line, "vessel": _vessel, "dots": _stamps, "digits": _stamps}.get(kind, _pattern)
    return draw(kind, width, count, size, rng)[:, None]


def _uniform(rng: torch.Generator, low: float, high: float, count: int) -> Tensor:
    return low + (high - low) * torch.rand(count, 1, 1, generator=rng)


def _axes(size: int) -> tuple[Tensor, Tensor]:
    at = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
    return at[None, :].expand(size, size), at[:, None].expand(size, size)


def _band(distance: Tensor, width: int) -> Tensor:
    """A stroke of that width, antialiased, from each pixel's distance to its middle."""
    return ((width + 1) / 2 - distance.abs()).clamp(0, min(1, width))


def _line(kind: str, width: int, count: int, size: int, rng: torch.Generator) -> Tensor:
    x, y = _axes(size)
    angle, off = _uniform(rng, 0, math.pi, count), _uniform(rng, -size / 4, size / 4, count)
    return _band(x * angle.cos() + y * angle.sin() - off, width)


def _vessel(kind: str, width: int, count: int, size: int, rng: torch.Generator) -> Tensor:
    """A curve of two sines, and its distance to first order: |y - g(x)| / |(1, g'(x))|."""
    x = _axes(size)[0][:1]  # the curve is a function of the column
    g, slope = _uniform(rng, -size / 8, size / 8, count), torch.zeros(count, 1, size)
    for waves in (1, 2):
        amplitude = _uniform(rng, 0.06, 0.16, count) * size / waves
        phase = _uniform(rng, 0, 2 * math.pi, count)
        k = 2 * math.pi * waves / size
        g, slope = g + amplitude * (k * x + phase).sin(), slope + amplitude * k * (k * x + phase).cos()
    curve = _band((_axes(size)[1] - g) / (1 + slope.square()).sqrt(), width)
    return torch.where(_uniform(rng, 0, 1, count) < 0.5, curve.mT, curve)


def _stamps(kind: str, width: int, count: int, size: int, rng: torch.Generator) -> Tensor:
    """Dots or digits, one in each cell of a grid of up to 3 x 3, somewhere in it."""
    high, wide = (5 * width, 3 * width) if kind == "digits" else (width, width)
    pictures, cells = torch.zeros(count, size, size), max(1, min(3, size // (high + 2 * _AROUND)))
    bits = torch.tensor([[float(bit) for bit in digit if bit != " "] for digit in _DIGITS]).view(-1, 5, 3)
    digits = bits.repeat_interleave(width, 1).repeat_interleave(width, 2)
    side, which = size // cells, torch.arange(count)[:, None, None]
    for i in range(cells**2):
        stamp = torch.ones(1, high, wide)
        if kind == "digits":
            stamp = digits[torch.randint(len(digits), (count,), generator=rng)]
        top, left = (torch.randint(side - n + 1, (count, 1, 1), generator=rng) for n in (high, wide))
        rows = top + i // cells * side + torch.arange(high)[:, None]
        columns = left + i % cells * side + torch.arange(wide)
        pictures[which, rows, columns] = stamp
    return pictures


def _pattern(kind: str, width: int, count: int, size: int, rng: torch.Generator) -> Tensor:
    shifts = torch.randint(2 * width, (2, count, 1), generator=rng)
    along, across = (torch.arange(size) + shifts) // width % 2
    if kind == "checkerboard":
        return (along[:, None, :] ^ across[:, :, None]).float()
    stripes = along[:, None, :].expand(-1, size, -1).float()
    return torch.where(_uniform(rng, 0, 1, count) < 0.5, stripes.mT, stripes)


def grounds(count: int, size: int, seed: int = 0) -> Tensor:
    """What structures are drawn on: float32 `(count, 3, size, size)`, grey, smooth, with grain, within [-0.9, 0.3]."""
    return _grey_grounds(count, size, seed).expand(-1, 3, -1, -1).contiguous()


def _grey_grounds(count: int, size: int, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    coarse = 0.15 * torch.randn(count, 1, 4, 4, generator=rng) - 0.5 + 0.3 * torch.rand(count, 1, 1, 1, generator=rng)
    smooth = F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    grain = GRAIN * torch.randn(count, 1, size, size, generator=rng)
    return (smooth + grain).clamp(-0.9, 0.3)


def fitting(widths: Sequence[int], size: int) -> list[tuple[str, int]]:
    """Each kind at each of the widths at which it fits into pictures of `size` a side."""
    return [(kind, width) for width in widths for kind in KINDS if width <= _widest(kind, size)]


def _widest(kind: str, size: int) -> int:
    return size // (8 if kind == "digits" else 4)


def training_set(count: int, size: int, widths: Sequence[int], seed: int = 1) -> Pictures:
    """Structures of every kind and width in turn, on grounds of their own, to train an autoencoder on.

    No two are the same draw, so an autoencoder that sees each of them once cannot have learnt them by heart.
    """
    kinds = fitting(widths, size)
    images = torch.empty(count, 3, size, size, dtype=torch.uint8)
    for i, (kind, width) in enumerate(kinds[:count]):
        own = images[i :: len(kinds)]  # a view
        ground = _grey_grounds(len(own), size, 1000 * seed + i)
        own.copy_(to_uint8(ground + CONTRAST * masks(kind, width, len(own), size, seed)))
    return Pictures(images, name="structures", source="drawn by ldm_course.measure.structures")


Passed = Callable[[Tensor], Tensor]  # a map of pictures, float32 (N, 3, H, W), near [-1, 1], to such pictures


def bicubic(f: int) -> Passed:
    """The plain control: down by f and up again, by an antialiased bicubic filter. Sides must be multiples of f."""

    def passed(x: Tensor) -> Tensor:
        down = F.interpolate(x, scale_factor=1 / f, mode="bicubic", antialias=True)
        return F.interpolate(down, size=x.shape[-2:], mode="bicubic", antialias=True)

    return passed


def linear_code(pictures: Pictures, f: int, c: int) -> Passed:
    """The best that a linear code of blocks can do: each f x f block as c numbers, its first principal components.

    They are those of `pictures` (up to 1024 of them). Of all maps of blocks to c numbers and back that are linear, it
    leaves the least squared error there (Eckart & Young). What it keeps, a latent of that size has room for.
    """
    blocks = _blocks(pictures.batch(range(min(1024, len(pictures)))), f)
    mean = blocks.mean(0)
    basis = torch.linalg.eigh((blocks - mean).T @ (blocks - mean)).eigenvectors[:, -c:]

    def passed(x: Tensor) -> Tensor:
        middle, directions = mean.to(x), basis.to(x)
        code = (_blocks(x, f) - middle) @ directions
        blocks = (middle + code @ directions.T).view(len(x), x.shape[-2] // f, x.shape[-1] // f, -1)
        return F.pixel_shuffle(blocks.permute(0, 3, 1, 2), f)

    return passed


def _blocks(x: Tensor, f: int) -> Tensor:
    """`(N, C, H, W)` to `(N·H/f·W/f, C·f·f)`."""
    return F.pixel_unshuffle(x, f).permute(0, 2, 3, 1).flatten(0, 2)


# -------------------------------------------------------------------------------------------------- read-outs


def standing_out(images: Tensor, mask: Tensor) -> Tensor:
    """By how much the structure's pixels are brighter than those within _AROUND pixels of it, float32 `(N,)`.

    images `(N, C, H, W)`, mask `(N, 1, H, W)` from `masks`; means weighted by the covered and the uncovered part.
    """
    grey, near = images.mean(1, keepdim=True), F.max_pool2d(mask, 2 * _AROUND + 1, 1, _AROUND) > 0
    out = (1 - mask) * near
    return (grey * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)) - (grey * out).sum((1, 2, 3)) / out.sum((1, 2, 3))


def auc(present: Tensor, absent: Tensor) -> float:
    """The area under the ROC curve of a score: the chance that one of `present` is above one of `absent`; ties half.

    0.5 is guessing, 1 a threshold that never errs (Mann & Whitney's U over the number of pairs).
    """
    difference = present.double()[:, None] - absent.double()[None, :]
    return ((difference > 0).double() + 0.5 * (difference == 0).double()).mean().item()


def brightest(images: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """What a local threshold marks: of each picture the `counts[i]` pixels that exceed their surround most, a square
    half as wide as the picture.

    Returns the marks, bool `(N, H·W)`, and by how much these pixels exceed it on average, `(N,)`: a score for "there is
    something", which does not know where.
    """
    grey, reach = images.mean(1, keepdim=True), images.shape[-1] // 4 - 1
    padded, side = F.pad(grey, (reach,) * 4, mode="replicate"), 2 * reach + 1
    above = (grey - F.avg_pool2d(F.avg_pool2d(padded, (side, 1), 1), (1, side), 1)).flatten(1)
    first = torch.arange(above.shape[1], device=above.device) < counts[:, None]
    marks = torch.zeros_like(first).scatter_(1, above.argsort(1, descending=True), first)
    return marks, (above * marks).sum(1) / counts


def distances(mask: Tensor) -> Tensor:
    """From each pixel to the nearest one that is covered by half or more, in pixels, `(N, H·W)`."""
    at = torch.cartesian_prod(*(torch.arange(n) for n in mask.shape[2:])).to(mask)
    between = torch.cdist(at, at, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.stack([between[true].amin(0) for true in mask.flatten(1) >= 0.5])


@dataclass(frozen=True)
class Left:
    """What is left of a structure. `contrast`: how much brighter it makes its pixels, as a part of what it was.

    `auc`: told from pictures without it by a threshold that does not know where it is (`brightest`). `off_by`: pixels
    from what that threshold marks to the nearest true pixel, on average, and `blind`: from any pixel; None where the
    structure fills the picture.
    """

    contrast: float
    auc: float
    off_by: float | None
    blind: float | None

    def kept(self, *, faded: float = FADED, told: float = TOLD, astray: float = ASTRAY) -> bool:
        """The course's rule: half to one and a half times the contrast, an AUC of 0.9, and found within a pixel."""
        near = self.off_by is None or self.off_by <= astray
        return abs(self.contrast - 1) <= faded and self.auc >= told and near


def survey(
    passed: Passed,
    widths: Sequence[int],
    *,
    count: int,
    size: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, dict[int, Left]]:
    """What `passed` leaves of every kind at every width, by kind and width.

    From `count` pictures each, on the same `count` grounds, which are also those without a structure: where nothing is
    left the AUC is 0.5, whatever the grounds. `device`: where the pictures are passed and read; it changes no number.
    """
    ground = grounds(count, size, seed).to(device)
    bare = passed(ground)
    found: dict[str, dict[int, Left]] = {kind: {} for kind in KINDS}
    for kind, width in fitting(widths, size):
        mask = masks(kind, width, count, size, seed).to(device)
        after = passed(ground + CONTRAST * mask)
        left = (standing_out(after, mask) - standing_out(bare, mask)).mean() / CONTRAST
        left = left / standing_out(mask, mask).mean()
        counts = (mask.flatten(1) >= 0.5).sum(1)
        marks, score = brightest(after, counts)
        off_by = blind = None
        if kind in LOCAL:
            far = distances(mask)
            off_by, blind = ((far * marks).sum(1) / counts).mean().item(), far.mean().item()
        found[kind][width] = Left(left.item(), auc(score, brightest(bare, counts)[1]), off_by, blind)
    return found


def kept_kinds(rows: Sequence[Mapping], width: int, **rule: float) -> dict[tuple[int, str], int]:
    """How many KINDS are kept at that width, by (f, way), from the rows of the stage `fine-structures-32`; by the
    thresholds of `Left.kept`, or those of `rule`."""
    names = [field.name for field in fields(Left)]
    found: dict[tuple[int, str], int] = {}
    for row in (row for row in rows if row["width"] == width):
        key = row["f"], row["way"]
        found[key] = found.get(key, 0) + Left(**{name: row[name] for name in names}).kept(**rule)
    return found

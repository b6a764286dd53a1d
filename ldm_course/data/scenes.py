"""Captioned procedural pictures, whose every factor is known, at any resolution and in motion (chapter 4).

One to three objects lie on a patterned sheet of paper. What the caption says (shapes, colours, sizes, places, pattern)
is the picture's meaning; the paper's grain, whose strength is a parameter, is its perceptually irrelevant detail.

Picture i is a pure function of (seed, i, size, texture, time): all randomness is a hash of (seed, i), so that a picture
is the same alone or in a batch, and the same scene, sampled more finely, at each size.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil, pi

import torch

from .shapes import SHAPES

COLOURS = {
    "red": (224, 60, 56),
    "orange": (243, 132, 40),
    "yellow": (250, 205, 50),
    "green": (64, 170, 92),
    "blue": (52, 112, 214),
    "purple": (136, 78, 190),
    "pink": (242, 122, 172),
    "white": (250, 249, 245),
}
TINTS = {  # the paper, and what is printed on it
    "cream": ((245, 232, 204), (232, 212, 172)),
    "sky": ((190, 222, 240), (162, 203, 230)),
    "mint": ((190, 228, 206), (161, 211, 184)),
    "lilac": ((214, 204, 236), (194, 181, 224)),
    "grey": ((205, 207, 212), (186, 189, 197)),
    "navy": ((44, 55, 88), (58, 71, 109)),
}
PATTERNS = ("plain", "shaded", "striped", "wavy", "checkered", "dotted")
SIZES = ("small", "large")
RELATIONS = ("left of", "right of", "above", "below")
PLACES = {
    "in the centre": (0, 0),
    "at the left": (-1, 0),
    "at the right": (1, 0),
    "at the top": (0, -1),
    "at the bottom": (0, 1),
}
MOTION = 0.045  # how far a thing moves from its place, in widths of the picture
_MARGIN, _GAP = 0.05, 0.05  # between objects and the border, and between objects, in widths
_RADIUS = ((0.115, 0.195), (0.115, 0.195), (0.105, 0.165))  # small and large, by the number of objects
_OF_A_THING = ("shape", "colour", "x", "y", "radius", "tilt", "sway", "heading")
_OCTAVES = (24, 48, 96, 192, 384, 768)  # the grain's lattices, in points per side; a picture shows those it can


@dataclass(frozen=True)
class Thing:
    """One object. `x`, `y` (its middle, from the top left) and `radius` in widths of the picture, `tilt` in radians."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    tilt: float

    def __str__(self) -> str:
        return f"a {self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """The factors of one picture: what its caption tells, and where exactly the things are.

    `place` is that of a thing alone; `relation` that of the first thing to the second; `both` that of these two to the
    third. What does not apply is None.
    """

    things: tuple[Thing, ...]
    place: str | None
    relation: str | None
    both: str | None
    pattern: str
    tint: str


def caption(scene: Scene) -> str:
    """One sentence: "a small red star left of a large blue circle on a striped mint background"."""
    first, *others = map(str, scene.things)
    if not others:
        text = f"{first} {scene.place}"
    else:
        text = f"{first} {scene.relation} {others[0]}"
    if len(others) == 2:
        text += f", both {scene.both} {others[1]},"
    return f"{text} on a {scene.pattern} {scene.tint} background"


def factors(seed: int, i: int) -> Scene:
    """The factors of picture i."""
    return factors_of(seed, [i])[0]


def factors_of(seed: int, indices: Sequence[int] | torch.Tensor) -> list[Scene]:
    """The factors of several pictures at once, which is faster than one by one."""
    drawn = {name: value.tolist() for name, value in _draw(seed, _as_indices(indices)).items()}
    shapes, colours, tints, places = map(tuple, (SHAPES, COLOURS, TINTS, PLACES))
    scenes = []
    for k, count in enumerate(drawn["count"]):
        things = tuple(
            Thing(
                shapes[drawn["shape"][k][j]],
                colours[drawn["colour"][k][j]],
                SIZES[drawn["large"][k][j]],
                *(drawn[name][k][j] for name in ("x", "y", "radius", "tilt")),
            )
            for j in range(count)
        )
        scenes.append(
            Scene(
                things,
                place=places[drawn["place"][k]] if count == 1 else None,
                relation=RELATIONS[drawn["relation"][k]] if count > 1 else None,
                both=RELATIONS[drawn["both"][k]] if count == 3 else None,
                pattern=PATTERNS[drawn["pattern"][k]],
                tint=tints[drawn["tint"][k]],
            )
        )
    return scenes


def render(
    seed: int,
    indices: Sequence[int] | torch.Tensor,
    size: int,
    texture: float | torch.Tensor = 1.0,
    time: float | torch.Tensor = 0.0,
) -> torch.Tensor:
    """The pictures `indices`, uint8 (B, 3, size, size).

    `texture`, one number or (B,), scales the grain: 0 is none, 1 is fine paper (best seen from 128 pixels on), 4 is
    rough plaster. `time`, one number or (B,), is in periods of the motion: times 0 and 1 are the same picture.
    """
    texture, time = (torch.as_tensor(value, dtype=torch.float64) for value in (texture, time))
    if size < 1 or not (texture >= 0).all() or not torch.isfinite(texture + time).all():
        given = f"size={size}, texture={texture.min().item():g}, time={time.min().item():g}"
        raise ValueError(f"{given}; expected a size of at least 1, a texture of at least 0, and a finite time")
    indices = _as_indices(indices)
    texture, time = texture.expand(len(indices)), time.expand(len(indices))
    chunk = max(1, 2**19 // size**2)  # few calls, and temporaries that stay near the processor
    images = torch.empty(len(indices), 3, size, size, dtype=torch.uint8)

    def paint(start: int) -> None:
        part = slice(start, start + chunk)
        images[part] = _render(seed, indices[part], size, texture[part], time[part])

    # A chunk per core is quicker than all cores on each small operation, and much quicker on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(paint, range(0, len(indices), chunk)))
    finally:
        torch.set_num_threads(threads)
    return images


def clip(seed: int, i: int, size: int, frames: int, texture: float = 1.0) -> torch.Tensor:
    """Picture i in motion, uint8 (frames, 3, size, size): one period, so that the clip loops without a seam.

    Each thing goes round a small ellipse through its place and sways; the paper, and so its grain, stays.
    """
    if frames < 1:
        raise ValueError(f"frames={frames}; expected at least 1")
    return render(seed, [i] * frames, size, texture, torch.arange(frames, dtype=torch.float64) / frames)


def tracks(seed: int, indices: Sequence[int] | torch.Tensor, frames: int) -> torch.Tensor:
    """Where the things are in each picture of the `clip` of each of these scenes: float64 (B, frames, 3, 2), x and y of
    their middles in widths of the picture; NaN for the things that a scene does not have."""
    drawn = _draw(seed, _as_indices(indices))
    thing = {name: drawn[name][:, None] for name in _OF_A_THING}
    x, y, _ = _moved(thing, torch.arange(frames, dtype=torch.float64)[:, None] / frames)
    there = torch.arange(3) < drawn["count"][:, None, None]
    return torch.stack([x, y], -1).masked_fill(~there[..., None], torch.nan)


def _as_indices(indices: Sequence[int] | torch.Tensor) -> torch.Tensor:
    indices = torch.as_tensor(list(indices) if isinstance(indices, range) else indices)
    whole = not indices.is_floating_point() or not len(indices)
    indices = indices.to(torch.int64)
    if indices.ndim != 1 or (indices < 0).any() or not whole:
        raise ValueError("scenes are numbered from 0 up; expected a list of such numbers")
    return indices


# Randomness ----------------------------------------------------------------------------------------------------------


def _hash(x: torch.Tensor) -> torch.Tensor:
    """splitmix64's finaliser (Steele, Lea and Flood, 2014): int64 to int64, well mixed."""
    x = (x ^ (x >> 30 & (1 << 34) - 1)) * -0x40A7B892E31B1A47
    x = (x ^ (x >> 27 & (1 << 37) - 1)) * -0x6B2FB644ECCEEE15
    return x ^ (x >> 31 & (1 << 33) - 1)


def _uniform(seed: int, indices: torch.Tensor, stream: int, count: int) -> torch.Tensor:
    """Float32 (B, count) in [0, 1): entry k of row b depends on (seed, indices[b], stream, k) alone."""
    key = _hash(_hash(indices + _hash(torch.tensor(seed))) + stream)
    return (_hash(key[:, None] + torch.arange(1, count + 1)) >> 40 & (1 << 24) - 1).float() / 2**24


def _draw(seed: int, indices: torch.Tensor) -> dict[str, torch.Tensor]:
    """All factors of all pictures: integers, and float64 for what is continuous; (B,), or (B, 3) of each object."""
    u = _uniform(seed, indices, 0, 48).double()
    pick = lambda column, options: (u[:, column] * options).long()  # noqa: E731
    trio = slice(12, 15), slice(15, 18), slice(18, 21), slice(21, 24), slice(24, 27), slice(27, 30), slice(30, 33)
    drawn = {
        "count": 1 + pick(0, 3),
        "relation": pick(1, 4),
        "place": pick(2, len(PLACES)),
        "pattern": pick(3, len(PATTERNS)),
        "tint": pick(4, len(TINTS)),
        "shape": pick(trio[0], len(SHAPES)),
        "colour": pick(trio[1], len(COLOURS)),
        "large": pick(trio[2], 2),
        "tilt": 0.6 * (u[:, trio[3]] - 0.5),
        "sway": 2 * u[:, trio[4]] - 1,
        "heading": 2 * pi * u[:, trio[5]],
        "angle": 2 * pi * u[:, 5],
        "offset": u[:, 6:8],
    }
    drawn["both"] = (drawn["relation"] // 2 + 1) % 2 * 2 + pick(8, 2)  # across the first relation
    radius = torch.tensor(_RADIUS, dtype=torch.float64)[drawn["count"] - 1]
    drawn["radius"] = radius.gather(1, drawn["large"]) * (0.94 + 0.12 * u[:, trio[6]])
    drawn["x"], drawn["y"] = _places(drawn, u[:, 33:42])
    return drawn


def _places(drawn: dict[str, torch.Tensor], u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the things are, (B, 3) each, so that the relations hold and nothing touches; u is uniform (B, 9)."""
    radius, count = drawn["radius"], drawn["count"]
    low, high = _MARGIN + radius, 1 - _MARGIN - radius
    # Lay out "A left of B, both above C" and turn the sheet afterwards. Along the relation A and B share what is free.
    free = 1 - 2 * _MARGIN - _GAP - 2 * radius[:, 0] - 2 * radius[:, 1]
    cut = u[:, 0:2].sort(1).values * free[:, None]
    along = torch.stack(
        [low[:, 0] + cut[:, 0], high[:, 1] - free + cut[:, 1], low[:, 2] + u[:, 2] * (high - low)[:, 2]], 1
    )
    # Across it, a pair keeps near the middle; with C, the pair has the upper part and C the lower.
    tall = torch.maximum(radius[:, 0], radius[:, 1])
    spare = 1 - 2 * _MARGIN - _GAP - 2 * tall - 2 * radius[:, 2]
    share = u[:, 3:5].sort(1).values * spare[:, None]
    upper = (_MARGIN + tall + share[:, 0])[:, None] + (u[:, 5:7] - 0.5) * (tall[:, None] - radius[:, :2])
    near = 0.5 + 0.24 * (u[:, 5:7] - 0.5)
    lower = high[:, 2] - spare + share[:, 1]
    across = torch.cat([torch.where(count[:, None] == 3, upper, near), lower[:, None]], 1)
    # Mirror for "right of" and "below", and for both; swap the axes for "above" and "below".
    relation, both = drawn["relation"][:, None], drawn["both"][:, None]
    along = torch.where(relation % 2 == 1, 1 - along, along)
    across = torch.where((both % 2 == 0) | (count[:, None] < 3), across, 1 - across)
    upright = relation >= 2
    x, y = torch.where(upright, across, along), torch.where(upright, along, across)
    # A thing alone is in the centre, or well to one side of it.
    side = torch.tensor(list(PLACES.values()), dtype=torch.float64)[drawn["place"]]
    reach = 0.5 - _MARGIN - radius[:, :1]
    alone = 0.5 + side * reach * (0.75 + 0.25 * u[:, 7:8]) + 0.1 * (u[:, 7:9] - 0.5) * (side == 0)
    single = count == 1
    x[:, 0], y[:, 0] = torch.where(single, alone[:, 0], x[:, 0]), torch.where(single, alone[:, 1], y[:, 0])
    return x, y


# Painting ------------------------------------------------------------------------------------------------------------


def _render(seed: int, indices: torch.Tensor, size: int, texture: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    drawn = _draw(seed, indices)
    canvas = _paper(drawn, size)
    for j in range(3):
        for large in (0, 1):
            chosen = ((drawn["count"] > j) & (drawn["large"][:, j] == large)).nonzero()[:, 0]
            if len(chosen):
                thing = {name: drawn[name][chosen, j] for name in _OF_A_THING}
                _add_things(canvas, chosen, thing, time[chosen], reach=1.35 * 1.06 * _RADIUS[0][large])
    if texture.any():
        strength = (0.05 * texture).float()[:, None, None]
        canvas *= (1 + strength * _grain(seed, indices, size))[:, None]
    return (canvas * 255).round_().clamp_(0, 255).to(torch.uint8)


def _paper(drawn: dict[str, torch.Tensor], size: int) -> torch.Tensor:
    """The patterned sheet, float32 (B, 3, size, size) in [0, 1], lit from the top left."""
    tints = torch.tensor(list(TINTS.values()))[drawn["tint"]] / 255
    centres = (torch.arange(size) + 0.5) / size
    x, y = centres[None, None, :], centres[None, :, None]
    ink = torch.zeros(len(tints), size, size)
    for pattern in range(1, len(PATTERNS)):
        chosen = (drawn["pattern"] == pattern).nonzero()[:, 0]
        if len(chosen):
            ink[chosen] = _ink(PATTERNS[pattern], drawn, chosen, x, y, 1 / size)
    sheet = tints[:, 0, :, None, None] + ink[:, None] * (tints[:, 1] - tints[:, 0])[..., None, None]
    return sheet * (1.04 - 0.04 * (x + y))


def _ink(pattern: str, drawn: dict[str, torch.Tensor], chosen: torch.Tensor, x, y, pixel: float) -> torch.Tensor:
    """How much of the second tint a pixel gets, (B, size, size) in [0, 1], anti-aliased over one `pixel`."""
    column = lambda value: value[chosen].float()[:, None, None]  # noqa: E731
    cos, sin = column(drawn["angle"].cos()), column(drawn["angle"].sin())
    dx, dy = column(drawn["offset"][:, 0]), column(drawn["offset"][:, 1])
    u, v = cos * (x - 0.5) + sin * (y - 0.5), cos * (y - 0.5) - sin * (x - 0.5)
    if pattern == "shaded":
        return (0.5 + 1.1 * u).clamp(0, 1) * 1.5
    if pattern == "striped":
        return _cover(_zigzag(6 * u + dx) / 6, pixel)
    if pattern == "wavy":
        bend = _zigzag(2 * v + dy)
        bend = bend * (1 - 2 * bend.abs()) * 0.4  # parabolas for a sine
        return _cover(_zigzag(6 * (u + bend) + dx) / 6, pixel)
    if pattern == "checkered":
        a, b = _cover(_zigzag(4 * x + dx) / 4, pixel), _cover(_zigzag(4 * y + dy) / 4, pixel)
        return a + b - 2 * a * b
    assert pattern == "dotted"
    p, q = 6 * u + dx, 6 * v + dy
    p, q = p - p.floor() - 0.5, q - q.floor() - 0.5
    return _cover(0.3 / 6 - (p * p + q * q).sqrt() / 6, pixel)


def _zigzag(t: torch.Tensor) -> torch.Tensor:
    """Of period 1, between -1/4 and 1/4, with slopes of -1 and 1."""
    return (t - t.floor() - 0.5).abs() - 0.25


def _cover(depth: torch.Tensor, pixel: float) -> torch.Tensor:
    """The part of a pixel that lies inside, from the depth below the edge: the anti-aliasing."""
    return (0.5 + depth / pixel).clamp(0, 1)


def _moved(thing: dict[str, torch.Tensor], time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where a thing's middle is at that time, x and y, and its tilt: it goes round an ellipse through its place, once
    in one period, and sways."""
    along, aside = MOTION * (2 * pi * time).sin(), MOTION / 2 * (1 - (2 * pi * time).cos())
    x = thing["x"] + along * thing["heading"].cos() - aside * thing["heading"].sin()
    y = thing["y"] + along * thing["heading"].sin() + aside * thing["heading"].cos()
    return x, y, thing["tilt"] + 0.4 * thing["sway"] * (2 * pi * time).sin()


def _add_things(canvas, chosen, thing: dict[str, torch.Tensor], time, reach: float) -> None:
    """One thing of each picture `chosen`, with its shadow, painted in place on the canvas (B, 3, size, size).

    Only a window is touched: `reach` is how far, in widths, a thing of this size and its shadow extend.
    """
    column = lambda value: value.float()[:, None, None]  # noqa: E731
    size = canvas.shape[-1]
    x, y, tilt = _moved(thing, time)
    width = min(size, 2 * ceil(reach * size) + 1)
    columns, rows = (
        (middle * size - width / 2).round().long().clamp(0, size - width)[:, None] + torch.arange(width)
        for middle in (x, y)
    )
    window = chosen[:, None, None, None], torch.arange(3)[:, None, None], rows[:, None, :, None], columns[:, None, None]
    # Pixels in radii from the thing's middle; u and v turn with it, x and y (and so the light) do not.
    radius = column(thing["radius"])
    x = ((columns + 0.5) / size - x[:, None]).float()[:, None, :] / radius
    y = ((rows + 0.5) / size - y[:, None]).float()[:, :, None] / radius
    cos, sin = column(tilt.cos()), column(tilt.sin())
    distance = _distance(thing["shape"], cos * x + sin * y, cos * y - sin * x)

    falling = (0.6 + 0.5 * (x + y)).clamp_(0, 1)  # the light comes from the top left
    shadow = (1 - distance / 0.35).clamp_(0, 1).square_() * falling * 0.45
    body = (
        1 - 0.13 * (x + y) - 0.22 * (1 + distance / 0.3).clamp_(0, 1).square_()
    )  # darker away from it, and at the rim
    gloss = 0.35 * (1 - ((x + 0.33).square() + (y + 0.36).square()) / 0.3).clamp_(min=0).square_()
    colour = (torch.tensor(list(COLOURS.values()))[thing["colour"]] / 255)[..., None, None]
    painted = colour * (body * (1 - gloss))[:, None] + gloss[:, None]
    cover = _cover(-distance * radius, 1 / size)
    ground = (1 - cover) * (1 - shadow)
    canvas[window] = canvas[window] * ground[:, None] + painted * cover[:, None]


def _distance(shape: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The signed distance of each picture's own shape, (K, size, size)."""
    distance = torch.empty_like(x)
    for k, function in enumerate(SHAPES.values()):
        chosen = (shape == k).nonzero()[:, 0]
        if len(chosen):
            distance[chosen] = function(x[chosen], y[chosen])
    return distance


def _grain(seed: int, indices: torch.Tensor, size: int) -> torch.Tensor:
    """The paper's grain, (B, size, size), about -1 to 1: value noise of each octave that `size` pixels can show."""
    total = torch.zeros(len(indices), size, size)
    for octave, points in enumerate(_OCTAVES):
        if points > size:
            break
        lattice = _uniform(seed, indices, 1 + octave, points * points).view(-1, points, points) - 0.5
        place = (torch.arange(size) + 0.5) / size * points - 0.5
        low = place.floor()
        t = place - low
        t = t * t * (3 - 2 * t)
        low, high = low.long().clamp(0, points - 1), (low.long() + 1).clamp(0, points - 1)
        rows = lattice[:, low] + (lattice[:, high] - lattice[:, low]) * t[:, None]
        total += rows[:, :, low] + (rows[:, :, high] - rows[:, :, low]) * t
    return total

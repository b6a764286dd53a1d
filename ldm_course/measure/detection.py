"""What is to be seen in a picture of a scene: a small network that finds the things and reads the ground (chapter 8).

It is trained on scenes of which no two are the same, clean and worn (`worn`), so that it also reads what came out of a
decoder or a sampler. How well it does, its own stage of `lab.reference` says, beside what must fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import checkpoints
from ..config import DetectorConfig, TrainConfig
from ..data import scenes
from ..data.pictures import Chance, to_float
from ..data.scenes import COLOURS, PATTERNS, SHAPES, SIZES, TINTS, Scene
from ..diffusion.objectives import Objective
from ..networks.detector import STRIDE, Detector
from ..training.recipes import seeded
from ..training.trainer import Trainer

NETWORK = DetectorConfig(tuple(SHAPES), tuple(COLOURS), PATTERNS, tuple(TINTS))
SIDE = 64  # of the pictures that it learns from
SURE = 0.3  # from this probability on there is a thing; of one between two cells, either has a part of the heat
MOST = 8  # things that are looked for, at most
LARGE = 0.138  # widths: from this radius on a thing is large; small ones have up to 0.122, large ones 0.155 and more
_SPREAD = 1.0  # of the heat around a middle, in cells
_NEAR = 2  # cells: of heat so near together one is the middle; things lie twice as far apart


@dataclass(frozen=True)
class Found:
    """A thing in a picture, in `scenes.Thing`'s terms: its middle and radius in widths; `sure` is a probability."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    sure: float = 1.0

    def __str__(self) -> str:
        return f"{self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Seen:
    """What a picture shows: its things, the surest first, and its ground."""

    things: tuple[Found, ...]
    pattern: str
    tint: str

    def __str__(self) -> str:
        return f"{', '.join(map(str, self.things)) or 'nothing'}; {self.pattern} {self.tint}"


def detector(device: str | torch.device = "cpu") -> Detector:
    """The course's own, trained by the stage `scene-detector-64`."""
    return checkpoints.load_model(checkpoints.pretrained_path("scene-detector-64"), device)[0]


@torch.no_grad()
def detect(model: Detector, pictures: Tensor) -> list[Seen]:
    """What each of these pictures shows: uint8 `(N, 3, H, W)`, of SIDE a side, as `Denoiser.generate` gives them.

    A thing is where the heat is at its highest within _NEAR cells, and at least SURE. ValueError: other pictures.
    """
    if pictures.ndim != 4 or pictures.shape[1:] != (3, SIDE, SIDE):
        raise ValueError(f"pictures of shape {tuple(pictures.shape)}; the detector reads (N, 3, {SIDE}, {SIDE})")
    device = next(model.parameters()).device
    seen = []
    for part in pictures.split(256):
        seen += _read({k: v.float().cpu() for k, v in model(to_float(part.to(device))).items()}, model.config)
    return seen


def _read(maps: dict[str, Tensor], names: DetectorConfig) -> list[Seen]:
    heat = maps["middle"].sigmoid()
    highest = F.max_pool2d(heat[:, None], 2 * _NEAR + 1, 1, _NEAR)[:, 0]
    sure, cells = torch.where(heat == highest, heat, 0.0).flatten(1).topk(MOST, dim=1)

    def there(values: Tensor) -> list:
        """Of `(N, h, w)`, what is at each of these cells."""
        return values.flatten(1).gather(1, cells).tolist()

    grid = torch.arange(heat.shape[-1]) + 0.5
    x, y = maps["offset"].unbind(1)
    x, y = (x + grid) / len(grid), (y + grid[:, None]) / len(grid)
    kinds = there(maps["shape"].argmax(1)), there(maps["colour"].argmax(1))
    rows = zip(*kinds, there(x), there(y), there(maps["radius"].exp()), sure.tolist())
    grounds = zip(maps["pattern"].argmax(1).tolist(), maps["tint"].argmax(1).tolist())
    return [
        Seen(
            tuple(
                Found(names.shapes[shape], names.colours[colour], SIZES[radius >= LARGE], *at, radius, p)
                for shape, colour, *at, radius, p in zip(*row)
                if p >= SURE
            ),
            names.patterns[pattern],
            names.tints[tint],
        )
        for row, (pattern, tint) in zip(rows, grounds)
    ]


# Training ------------------------------------------------------------------------------------------------------------


def worn(x: Tensor, rng: Chance) -> Tensor:
    """Pictures `(B, 3, H, W)` in [-1, 1] as they may come out of a decoder or a sampler: half of them blurred, more or
    less, off in colour and contrast, with smooth and with fine noise; the others as they are."""
    column = lambda value: value[:, None, None, None]  # noqa: E731
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    y = x + column(rng.uniform()) * (soft - x)
    y = y * (1 + 0.05 * column(rng.uniform() - 0.5)) + 0.03 * rng.normal(3, 1, 1)
    smooth = F.interpolate(rng.normal(3, x.shape[-1] // 4, x.shape[-1] // 4), size=x.shape[-2:], mode="bilinear")
    y = y + 0.06 * column(rng.uniform()) * smooth + 0.06 * column(rng.uniform()) * rng.normal(*x.shape[1:])
    return torch.where(column(rng.uniform() < 0.5), y.clamp(-1, 1), x)


class DetectorObjective(Objective):
    """Scenes 0 to `size` - 1 of `seed`, each with a texture between 0 and 1, and worn: to be read.

    The loss of the middles is CenterNet's (Zhou et al. 2019, equation 1, with alpha = 2, beta = 4). Beside them every
    cell near a middle is asked what lies there, as much as it is warm: cross-entropies of shape and colour, absolute
    errors of offset and log radius; and every picture for its pattern and tint.
    """

    def __init__(self, size: int, seed: int = 0):
        self.size, self.seed, self.device = size, seed, torch.device("cpu")

    def to(self, device: torch.device) -> DetectorObjective:
        self.device = device
        return self

    def learns_from(self) -> str:
        return f"scenes {self.size} of seed {self.seed} at {SIDE}"

    def describe(self) -> str:
        return "find things"

    def __call__(self, model, indices, rng, critic=None):
        texture = rng.uniform().cpu()
        x = to_float(scenes.render(self.seed, indices, SIDE, texture)).to(self.device)
        truth = {
            k: v.to(self.device) for k, v in targets(scenes.factors_of(self.seed, indices), SIDE // STRIDE).items()
        }
        maps = {k: v.float() for k, v in model(worn(x, rng)).items()}
        warm = truth["heat"] / truth["heat"].sum()
        apart = (maps["offset"] - truth["offset"]).abs().sum(1) + (maps["radius"] - truth["radius"]).abs()
        losses = {"middle": focal_loss(maps["middle"], truth["heat"]), "place": (warm * apart).sum()}
        for name in ("shape", "colour"):
            losses[name] = (warm * F.cross_entropy(maps[name], truth[name], reduction="none")).sum()
        for name in ("pattern", "tint"):
            losses[name] = F.cross_entropy(maps[name], truth[name])
        return {"loss": sum(losses.values()), **losses}


def focal_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """Zhou et al. 2019, equation 1: a middle where the heat is 1, and near one it is no grave error to claim one.

    logits and heat `(B, h, w)`, heat in [0, 1]; the sum over all cells, for each middle.
    """
    p = logits.sigmoid()
    here = (1 - p).square() * F.logsigmoid(logits)
    elsewhere = (1 - heat).pow(4) * p.square() * F.logsigmoid(-logits)
    return -torch.where(heat == 1, here, elsewhere).sum() / (heat == 1).sum()


def targets(known: Sequence[Scene], grid: int) -> dict[str, Tensor]:
    """What the network is to say of these scenes, in the shapes of its output; `heat` `(B, h, w)` is 1 in the cell that
    holds a middle and falls off around it, and the rest is that of the nearest thing."""
    config, n = NETWORK, max(len(scene.things) for scene in known)
    things = [[scene.things[min(j, len(scene.things) - 1)] for j in range(n)] for scene in known]  # the last one again

    def each(read, dtype=torch.float32) -> Tensor:
        return torch.tensor([[read(thing) for thing in of] for of in things], dtype=dtype)[..., None, None]

    x, y = each(lambda t: t.x * grid), each(lambda t: t.y * grid)
    cell = torch.arange(grid) + 0.5
    from_cell = (x.floor() + 0.5 - cell).square() + (y.floor() + 0.5 - cell[:, None]).square()  # (B, things, h, w)
    nearest = from_cell.argmin(1, keepdim=True)

    def of_nearest(value: Tensor) -> Tensor:
        return value.expand(from_cell.shape).gather(1, nearest)[:, 0]

    return {
        "heat": of_nearest((-from_cell / (2 * _SPREAD**2)).exp()),
        "offset": torch.stack([of_nearest(x - cell), of_nearest(y - cell[:, None])], 1),
        "radius": of_nearest(each(lambda t: t.radius)).log(),
        "shape": of_nearest(each(lambda t: config.shapes.index(t.shape), torch.int64)),
        "colour": of_nearest(each(lambda t: config.colours.index(t.colour), torch.int64)),
        "pattern": torch.tensor([config.patterns.index(scene.pattern) for scene in known]),
        "tint": torch.tensor([config.tints.index(scene.tint) for scene in known]),
    }


def detector_trainer(scenes: int, config: TrainConfig, network: DetectorConfig = NETWORK, **trainer) -> Trainer:
    """A trainer for a detector that sees so many scenes; initial weights, scenes and wear come from `config.seed`."""
    return Trainer(seeded(config.seed, Detector, network), DetectorObjective(scenes, config.seed), config, **trainer)

"""What can be read from pixels and from latents: small probes of a scene's known factors (chapter 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import scenes
from ..data.pictures import to_float
from ..diffusion.schedules import Schedule, add_noise
from ..networks.autoencoder import Autoencoder
from .content import SIZE


class Probe(nn.Module):
    """Reads factors from a noisy picture or latent: two convolutions on a grid of `grid` a side, one hidden layer.

    A picture of k x grid a side is first folded, each k x k block to the channels of one position, which loses
    nothing. `noise_scale` (B,) says how noisy the input is. `factors` has the number of values of each factor; the
    output its logits (B, values). ValueError: the side is no multiple of `grid`.
    """

    def __init__(self, channels: int, size: int, factors: Mapping[str, int], *, grid: int = 8, width: int = 48):
        super().__init__()
        if size % grid:
            raise ValueError(f"a side of {size} cannot be folded onto a grid of {grid}; give a multiple of it")
        self.fold = nn.PixelUnshuffle(size // grid)
        self.first = nn.Conv2d(channels * (size // grid) ** 2 + 1, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.hidden = nn.Linear(width * grid**2, 2 * width)
        self.factors = tuple(factors)
        self.heads = nn.ModuleList([nn.Linear(2 * width, values) for values in factors.values()])

    def forward(self, x: Tensor, noise_scale: Tensor) -> dict[str, Tensor]:
        x = self.fold(x)
        level = noise_scale.to(x.dtype).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
        x = F.relu(self.second(F.relu(self.first(torch.cat([x, level], 1)))))
        x = F.relu(self.hidden(x.flatten(1)))
        return {name: head(x) for name, head in zip(self.factors, self.heads)}


def train_probe(
    x: Tensor,
    factors: Mapping[str, Tensor],
    schedule: Schedule,
    *,
    steps: int,
    grid: int = 8,
    batch_size: int = 128,
    lr: float = 4e-3,
    seed: int = 0,
) -> Probe:
    """A `Probe` of x (N, C, H, H) for all noise levels at once: each batch has fresh noise, at levels drawn evenly.

    `factors` are int64 (N,) each, values counted from 0. The cross-entropies are summed; AdamW, its rate rising and
    falling over the `steps`. The same seed draws the same rows and levels, whatever the space of x.
    """
    values = {name: int(target.max()) + 1 for name, target in factors.items()}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        probe = Probe(x.shape[1], x.shape[-1], values, grid=grid).to(x.device)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=lr, weight_decay=0.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    drawn, noise = (torch.Generator().manual_seed(2 * seed + i) for i in range(2))  # spaces need unequal much noise
    scale = schedule.noise_scale.float().to(x.device)
    for _ in range(steps):
        rows = torch.randint(len(x), (batch_size,), generator=drawn).to(x.device)
        t = torch.randint(schedule.T, (batch_size,), generator=drawn).to(x.device)
        eps = torch.randn(batch_size, *x.shape[1:], generator=noise).to(x.device)
        logits = probe(add_noise(x[rows], eps, t, schedule), scale[t])
        loss = sum(F.cross_entropy(logits[name], target[rows]) for name, target in factors.items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return probe.eval()


@torch.no_grad()
def probe_hits(
    probe: Probe, x: Tensor, factors: Mapping[str, Tensor], t: int | None, schedule: Schedule, *, seed: int = 0
) -> dict[str, Tensor]:
    """Whether each factor of each x (N, C, H, H) is read rightly at index t (None: without noise): 0 or 1, (N,)."""
    level, xt = 0.0, x
    if t is not None:
        level = schedule.noise_scale[t].item()
        xt = add_noise(x, torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x.device), t, schedule)
    logits = probe(xt, torch.full((len(x),), level, device=x.device))
    return {name: (logits[name].argmax(1) == target).float().cpu() for name, target in factors.items()}


PROBE_LEVELS = tuple(range(25, 1000, 50))


def alone(first: int, n: int) -> tuple[Tensor, dict[str, Tensor]]:
    """n scenes with one thing each, from number `first` on: pictures (n, 3, H, H), and factors as numbers (n,)."""
    numbers = torch.arange(first, first + 5 * n)
    known = [(i, s) for i, s in zip(numbers.tolist(), scenes.factors_of(0, numbers)) if len(s.things) == 1][:n]
    names = {"shape": list(scenes.SHAPES), "colour": list(scenes.COLOURS), "place": list(scenes.PLACES)}
    read = {"shape": lambda s: s.things[0].shape, "colour": lambda s: s.things[0].colour, "place": lambda s: s.place}
    factors = {k: torch.tensor([names[k].index(read[k](s)) for _, s in known]) for k in names}
    return to_float(scenes.render(0, [i for i, _ in known], SIZE)), factors


@torch.no_grad()
def probe_inputs(model: Autoencoder, seen: Tensor, new: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """What probes are trained on and tested by, for each input: pixels as they are; latents, of unit variance; 4 x 4
    averages, to unit variance; all pixels, to unit variance; and decoded pictures."""
    device = next(model.parameters()).device

    def latents(x: Tensor) -> Tensor:
        return torch.cat([model.to_latents(part.to(device)) for part in x.split(128)])

    found = {"pixels": (seen.to(device), new.to(device)), "latents": (latents(seen), latents(new))}
    for name, make in {"coarse pixels": lambda x: F.avg_pool2d(x, 4), "scaled pixels": lambda x: x}.items():
        mean, std = make(seen).mean((0, 2, 3), keepdim=True), make(seen).std()
        found[name] = tuple(((make(x) - mean) / std).to(device) for x in (seen, new))
    decoded = [torch.cat([model.from_latents(z) for z in of.split(128)]).clamp(-1, 1) for of in found["latents"]]
    return found | {"decoded": tuple(decoded)}


@dataclass(frozen=True)
class Readings:
    """Whether probes read rightly, 0 or 1: clean[input][factor] (seeds, scenes), without noise, and
    noisy[input][factor] (seeds, levels, scenes). `chance` by factor."""

    levels: Sequence[int]
    clean: Mapping[str, Mapping[str, Tensor]]
    noisy: Mapping[str, Mapping[str, Tensor]]
    chance: Mapping[str, float]

    @property
    def shape(self) -> tuple[int, int]:
        """Seeds and scenes."""
        return tuple(self.clean["pixels"][next(iter(self.chance))].shape)

    def difference(self, one: str, other: str, factor: str, *, noisy: bool = False) -> tuple[float, float]:
        """How much oftener `one` is right than `other`, scene by scene and seed by seed, and its error, which covers
        the choice of scenes and, where there are several, of seeds. `noisy`: the mean over all levels."""
        right = {
            name: (self.noisy[name][factor].mean(1) if noisy else self.clean[name][factor]) for name in (one, other)
        }
        d = (right[one] - right[other]).double()  # (seeds, scenes)
        variance = d.mean(0).var() / d.shape[1] + (d.mean(1).var() / len(d) if len(d) > 1 else 0)
        return d.mean().item(), 2 * variance.sqrt().item()

    def undecided(self, name: str, drawn: tuple[Tensor, Tensor] | None = None) -> dict[str, float]:
        """By factor, the part of levels at which less than 9/10 of what is read without noise, beyond chance, is read;
        of all seeds and scenes, or of those `drawn`."""
        found = {}
        for factor, chance in self.chance.items():
            clean, noisy = self.clean[name][factor], self.noisy[name][factor]
            if drawn is not None:
                clean, noisy = (x[drawn[0]][..., drawn[1]] for x in (clean, noisy))
            less = noisy.double().mean((0, 2)) - chance < 0.9 * (clean.double().mean() - chance)
            found[factor] = less.double().mean().item()
        return found

    def lead(self, one: str = "latents", other: str = "pixels", draws: int = 200) -> tuple[float, float]:
        """By how much more levels, on average over factors, content is undecided in `one`; its error by drawing
        scenes and seeds anew, with repetition."""
        rng = torch.Generator().manual_seed(0)

        def found(drawn=None) -> float:
            ours, theirs = (self.undecided(name, drawn) for name in (one, other))
            return (sum(ours.values()) - sum(theirs.values())) / len(ours)

        again = [found(tuple(torch.randint(n, (n,), generator=rng) for n in self.shape)) for _ in range(draws)]
        return found(), 2 * torch.tensor(again).std().item()

    def results(self) -> dict:
        """For a record, and for the judges of C3.6, C4.3 and C4.4."""
        factors = list(self.chance)
        against = {
            name: {f: self.difference(name, "pixels", f) for f in factors} for name in self.clean if name != "pixels"
        }
        lead, error = self.lead()
        return {
            "seeds": self.shape[0],
            "scenes": self.shape[1],
            "levels": list(self.levels),
            "chance": dict(self.chance),
            "clean": {n: {f: v.mean().item() for f, v in c.items()} for n, c in self.clean.items()},
            "noisy": {n: {f: v.mean((0, 2)) for f, v in c.items()} for n, c in self.noisy.items()},
            "against_pixels": against,
            "undecided": {name: self.undecided(name) for name in self.clean},
            "lead": lead,
            "lead_error": error,
        }


def read_factors(
    inputs: Mapping[str, tuple[Tensor, Tensor]],
    seen: Mapping[str, Tensor],
    new: Mapping[str, Tensor],
    schedule: Schedule,
    *,
    steps: int,
    seeds: int = 1,
    levels: Sequence[int] = PROBE_LEVELS,
) -> Readings:
    """Trains a probe of each input for each seed, on all factors (N,) of what is `seen`, and reads what is `new`."""
    clean: dict[str, dict[str, Tensor]] = {}
    noisy: dict[str, dict[str, Tensor]] = {}
    for name, (train, test) in inputs.items():
        seen, new = ({f: v.to(train.device) for f, v in truth.items()} for truth in (seen, new))
        found = []
        for seed in range(seeds):
            probe = train_probe(train, seen, schedule, steps=steps, seed=seed)
            found.append([probe_hits(probe, test, new, t, schedule, seed=t or 0) for t in (None, *levels)])
        by_factor = {f: torch.stack([torch.stack([hits[f] for hits in of]) for of in found]) for f in seen}
        clean[name] = {f: hits[:, 0] for f, hits in by_factor.items()}
        noisy[name] = {f: hits[:, 1:] for f, hits in by_factor.items()}
    return Readings(levels, clean, noisy, {f: 1 / (int(v.max()) + 1) for f, v in seen.items()})

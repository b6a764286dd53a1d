"""What can be read from pixels and from latents: small probes of a scene's known factors (chapter 4).

A probe is to tell inputs by what they hold, and not by how it is written down: so each input is whitened, and each gets
the best of the same learning rates, chosen by scenes that are neither learnt from nor counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import scenes
from ..data.pictures import to_float
from ..diffusion.schedules import Schedule, add_noise
from ..networks.autoencoder import Autoencoder
from .content import SIZE

MOMENTS = 1024  # pictures, at most, that an input's mean and covariance are taken from


class Whitening(nn.Module):
    """Brings the channels of noisy x0, `xt` (B, C, H, W) at index t (B,), to mean 0 and unit covariance, by the moments
    of `x` (N, C, H, H) and of the noise: with covariance S of x, that of xt is alpha_bar S + (1 - alpha_bar) 1.

    So a probe cannot tell x from a * x + b, which whitens to the very same (but for rounding), nor, but for a rotation,
    from another invertible mixture of its channels. Without a `schedule` there is one level, 0, that of no noise.
    """

    def __init__(self, x: Tensor, schedule: Schedule | None = None):
        super().__init__()
        flat = x[:MOMENTS].double().transpose(0, 1).flatten(1)  # (C, all positions of these pictures)
        mean, covariance = flat.mean(1), torch.cov(flat).view(len(flat), len(flat))
        known = covariance.diagonal()
        covariance = covariance + torch.diag(torch.where(known > 0, 1e-9 * known, 1.0))  # none is singular
        signal, noise = (torch.tensor([v], dtype=torch.float64, device=x.device) for v in (1.0, 0.0))
        if schedule is not None:
            signal, noise = (v.double().to(x.device) for v in (schedule.signal_scale, schedule.noise_scale))
        one = torch.eye(len(flat), dtype=torch.float64, device=x.device)
        root = torch.linalg.cholesky(signal.square()[:, None, None] * covariance + noise.square()[:, None, None] * one)
        skew = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), flat - mean[:, None], upper=False)
        sign = torch.where(skew.pow(3).mean(1) < 0, -1.0, 1.0)  # so that -x whitens to the same as x
        weight = sign[:, None] * torch.linalg.solve_triangular(root, one.expand_as(root), upper=False)
        self.register_buffer("weight", weight.float())
        self.register_buffer("centre", (signal[:, None] * mean).float()[..., None])
        self.register_buffer("noise_scale", noise.float())

    def forward(self, xt: Tensor, t: Tensor) -> Tensor:
        return torch.bmm(self.weight[t], xt.flatten(2) - self.centre[t]).view(xt.shape)


class Probe(nn.Module):
    """Reads factors from a noisy picture or latent: two convolutions on a grid of `grid` a side, one hidden layer.

    The input (B, C, H, H) at index t (B,) is whitened; then a picture of k x grid a side is folded, each k x k block to
    the channels of one position, which loses nothing; and the network is told how noisy it is. `factors` has the number
    of values of each factor; the output its logits (B, values). ValueError: the side is no multiple of `grid`.
    """

    def __init__(self, whiten: Whitening, size: int, factors: Mapping[str, int], *, grid: int = 8, width: int = 48):
        super().__init__()
        if size % grid:
            raise ValueError(f"a side of {size} cannot be folded onto a grid of {grid}; give a multiple of it")
        self.whiten, self.fold = whiten, nn.PixelUnshuffle(size // grid)
        channels = whiten.weight.shape[1]
        self.first = nn.Conv2d(channels * (size // grid) ** 2 + 1, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.hidden = nn.Linear(width * grid**2, 2 * width)
        self.factors = tuple(factors)
        self.heads = nn.ModuleList([nn.Linear(2 * width, values) for values in factors.values()])

    def forward(self, xt: Tensor, t: Tensor) -> dict[str, Tensor]:
        x = self.fold(self.whiten(xt, t))
        level = self.whiten.noise_scale[t].view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
        x = F.relu(self.second(F.relu(self.first(torch.cat([x, level], 1)))))
        x = F.relu(self.hidden(x.flatten(1)))
        return {name: head(x) for name, head in zip(self.factors, self.heads)}


RATES = (1e-3, 4e-3, 1.6e-2)  # learning rates that are tried for each input alike
CHECKED = 0.15  # the part of the seen scenes that tells which rate is best, and is not learnt from


def train_probe(
    x: Tensor,
    factors: Mapping[str, Tensor],
    schedule: Schedule | None = None,
    *,
    steps: int,
    grid: int = 8,
    batch_size: int = 256,
    lr: float = RATES[1],
    seed: int = 0,
) -> Probe:
    """A `Probe` of x (N, C, H, H): of clean x; or, with a `schedule`, for all noise levels at once, where each batch
    has fresh noise, at levels drawn evenly.

    `factors` are int64 (N,) each, values counted from 0. The cross-entropies are summed; AdamW, its rate rising and
    falling over the `steps`. The same seed draws the same rows and levels, whatever the space of x.
    """
    values = {name: int(target.max()) + 1 for name, target in factors.items()}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        probe = Probe(Whitening(x, schedule).cpu(), x.shape[-1], values, grid=grid).to(x.device)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=lr, weight_decay=0.05, fused=True)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    drawn, noise = torch.Generator().manual_seed(2 * seed), torch.Generator(x.device).manual_seed(2 * seed + 1)
    rows = torch.randint(len(x), (steps, batch_size), generator=drawn).to(x.device)
    levels = torch.randint(1 if schedule is None else schedule.T, rows.shape, generator=drawn).to(x.device)
    for some, t in zip(rows, levels):
        xt = x[some]
        if schedule is not None:
            xt = add_noise(xt, torch.randn(xt.shape, generator=noise, device=x.device), t, schedule)
        logits = probe(xt, t)
        loss = sum(F.cross_entropy(logits[name], target[some]) for name, target in factors.items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return probe.eval()


@torch.no_grad()
def probe_hits(
    probe: Probe, x: Tensor, factors: Mapping[str, Tensor], t: int = 0, schedule: Schedule | None = None
) -> dict[str, Tensor]:
    """Whether each factor of each x (N, C, H, H) is read rightly, 0 or 1, (N,): of clean x; or, with the `schedule`
    that the probe was trained with, at index t, with noise that depends on t and the device alone."""
    rng, hits = torch.Generator(x.device).manual_seed(t), {name: [] for name in factors}
    for k, xt in enumerate(x.split(1024)):
        if schedule is not None:
            xt = add_noise(xt, torch.randn(xt.shape, generator=rng, device=x.device), t, schedule)
        logits = probe(xt, torch.full((len(xt),), t, device=x.device))
        for name, target in factors.items():
            hits[name].append(logits[name].argmax(1) == target[1024 * k : 1024 * (k + 1)])
    return {name: torch.cat(parts).float().cpu() for name, parts in hits.items()}


PROBE_LEVELS = tuple(range(25, 1000, 50))


def alone(first: int, n: int, size: int = SIZE) -> tuple[Tensor, dict[str, Tensor]]:
    """n scenes with one thing each, from number `first` on: pictures (n, 3, size, size); factors as numbers (n,)."""
    numbers = torch.arange(first, first + 5 * n)
    known = [(i, s) for i, s in zip(numbers.tolist(), scenes.factors_of(0, numbers)) if len(s.things) == 1][:n]
    names = {"shape": list(scenes.SHAPES), "colour": list(scenes.COLOURS), "place": list(scenes.PLACES)}
    read = {"shape": lambda s: s.things[0].shape, "colour": lambda s: s.things[0].colour, "place": lambda s: s.place}
    factors = {k: torch.tensor([names[k].index(read[k](s)) for _, s in known]) for k in names}
    return to_float(scenes.render(0, [i for i, _ in known], size)), factors


DECODED = "decoded"  # the input that is read without noise only: no diffusion model ever sees it noisy


@torch.no_grad()
def probe_inputs(model: Autoencoder, seen: Tensor, new: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """What probes are trained on and tested by, for each input: pixels as they are; latents, as a latent model has
    them; averages of f x f, to unit variance; all pixels, to unit variance; and decoded pictures."""
    device = next(model.parameters()).device

    def latents(x: Tensor) -> Tensor:
        return torch.cat([model.to_latents(part.to(device)) for part in x.split(128)])

    found = {"pixels": (seen.to(device), new.to(device)), "latents": (latents(seen), latents(new))}
    coarse = {"coarse pixels": lambda x: F.avg_pool2d(x, model.config.downsample), "scaled pixels": lambda x: x}
    for name, make in coarse.items():
        mean, std = make(seen).mean((0, 2, 3), keepdim=True), make(seen).std()
        found[name] = tuple(((make(x) - mean) / std).to(device) for x in (seen, new))
    decoded = [torch.cat([model.from_latents(z) for z in of.split(128)]).clamp(-1, 1) for of in found["latents"]]
    return found | {DECODED: tuple(decoded)}


@dataclass(frozen=True)
class Readings:
    """Whether probes read rightly, 0 or 1: clean[input][factor] (seeds, scenes), by probes of clean inputs; and
    noisy[input][factor] (seeds, levels, scenes), by probes of noisy ones, which at index 0, where hardly any noise is,
    read nearly_clean[input][factor] (seeds, scenes). `checked`: the part of the clean seen scenes that were kept from a
    probe that it reads rightly. `chance` by factor; `rates`: the learning rates that were chosen."""

    levels: Sequence[int]
    clean: Mapping[str, Mapping[str, Tensor]]
    noisy: Mapping[str, Mapping[str, Tensor]]
    nearly_clean: Mapping[str, Mapping[str, Tensor]]
    checked: Mapping[str, Mapping[str, float]]
    chance: Mapping[str, float]
    rates: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

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

    def kept(self, factor: str) -> dict:
        """What latents keep of a factor. Decoded pictures are a function of the latents, so that what can be read from
        them is in the latents too (the data-processing inequality): the better of the two counts, `read_from`, chosen
        by the scenes that were kept from the probes. `read`, and how much more than from pixels, with its error."""
        best = max(("latents", DECODED), key=lambda name: self.checked[name][factor])
        return {
            "read_from": best,
            "read": self.clean[best][factor].mean().item(),
            "against_pixels": self.difference(best, "pixels", factor),
        }

    def undecided(self, name: str, drawn: tuple[Tensor, Tensor] | None = None) -> dict[str, float]:
        """By factor, the part of levels at which less than 9/10 of what is read with hardly any noise, beyond chance,
        is read; of all seeds and scenes, or of those `drawn`."""
        found = {}
        for factor, chance in self.chance.items():
            clean, noisy = self.nearly_clean[name][factor], self.noisy[name][factor]
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
            "rates": self.rates,
            "clean": {n: {f: v.mean().item() for f, v in c.items()} for n, c in self.clean.items()},
            "noisy": {n: {f: v.mean((0, 2)) for f, v in c.items()} for n, c in self.noisy.items()},
            "kept": {f: self.kept(f) for f in factors},
            "against_pixels": against,
            "undecided": {name: self.undecided(name) for name in self.noisy},
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
    rates: Sequence[float] = RATES,
) -> Readings:
    """Trains probes of each input for each seed, on all factors (N,) of what is `seen`, and reads what is `new`: some
    probes of clean inputs, some of noisy ones, at the best of the `rates` (see `_probes`)."""
    found = {name: {} for name in ("clean", "noisy", "nearly_clean", "checked", "rates")}
    for name, (train, test) in inputs.items():
        seen, new = ({f: v.to(train.device) for f, v in truth.items()} for truth in (seen, new))
        options = {"steps": steps, "seeds": seeds, "rates": rates}
        trained, found["checked"][name], best = _probes(train, seen, None, **options)
        found["rates"][name] = {"clean": best}
        hits = [probe_hits(probe, test, new) for probe in trained]
        found["clean"][name] = {f: torch.stack([h[f] for h in hits]) for f in seen}
        if name == DECODED:
            continue
        trained, _, found["rates"][name]["noisy"] = _probes(train, seen, schedule, **options)
        hits = [[probe_hits(probe, test, new, t, schedule) for t in (0, *levels)] for probe in trained]
        all_levels = {f: torch.stack([torch.stack([h[f] for h in of]) for of in hits]) for f in seen}
        found["nearly_clean"][name] = {f: h[:, 0] for f, h in all_levels.items()}
        found["noisy"][name] = {f: h[:, 1:] for f, h in all_levels.items()}
    return Readings(levels, chance={f: 1 / (int(v.max()) + 1) for f, v in seen.items()}, **found)


def _probes(
    x: Tensor, factors: Mapping[str, Tensor], schedule: Schedule | None, *, steps: int, seeds: int, rates: Sequence
) -> tuple[list[Probe], dict[str, float], float]:
    """A probe for each seed at the best of the `rates`; the share of each factor that the first of them reads rightly
    of the CHECKED part of x, from which none learns; and that rate, which is the one that reads most of this part."""
    cut = len(x) - max(1, round(CHECKED * len(x)))
    learnt, checked = ({f: v[part] for f, v in factors.items()} for part in (slice(cut), slice(cut, None)))
    tried = {}
    for lr in rates:
        probe = train_probe(x[:cut], learnt, schedule, steps=steps, lr=lr)
        hits = [probe_hits(probe, x[cut:], checked, t, schedule) for t in (PROBE_LEVELS[::3] if schedule else (0,))]
        tried[lr] = probe, {f: torch.stack([h[f] for h in hits]).mean().item() for f in factors}
    best = max(tried, key=lambda lr: sum(tried[lr][1].values()))
    first, right = tried[best]
    others = [train_probe(x[:cut], learnt, schedule, steps=steps, lr=best, seed=seed) for seed in range(1, seeds)]
    return [first, *others], right, best

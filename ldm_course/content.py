"""Detail and content: what chapter 4 measures on the stored networks, and what two reference stages record of it.

What a pixel denoiser spends on detail that nobody can see (`errors_of`); how much of a change gets through an
autoencoder, if it is detail and if it is equally faint content (`passed`, `answer_to_grain`); which of a scene's
factors a probe reads from pixels, latents and controls while noise grows (`read_factors`). Errors are twice a
standard error. The stages' results, recorded or made live in the chapter, are what `claims` judges by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from . import checkpoints, evaluation, plotting, scenes
from .autoencoder import Autoencoder
from .checkpoints import Denoiser
from .config import Profile
from .data import Pictures, load_data, to_float, to_uint8
from .perception import (
    at_every_level,
    decoder_bits,
    denoised,
    prior_bits,
    probe_hits,
    train_probe,
    transfer,
    transition_bits,
)
from .schedules import Schedule, make_schedule
from .stages import Run

VISIBLE = 2.0  # grey levels of 255: a root mean squared error below this counts as invisible
GRID = 4  # cycles a side: what the 8 x 8 grid of an f = 4 latent of 32 x 32 pixels can carry
SIZE = 32
HELD_OUT = 2**40  # no network was trained on scenes from this number on
LEVELS = (0, 2, 5, 12, 25, 50, 90, 150, 250, 350, 450, 550, 650, 750, 850, 930, 970, 999)
PROBE_LEVELS = tuple(range(25, 1000, 50))
SEEDS = 3  # probes for each input, in a record


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


# -------------------------------------------------------------------------------------- what a denoiser spends


@dataclass(frozen=True)
class Errors:
    """A pixel denoiser's guesses at held-out pictures x0 (N, 3, H, H), one for each picture at some levels t.

    As frequencies, as the loss of v and as bits, at these levels or, (T,), at all of them (`at_every_level`). An error
    of v is one of x0_hat over sqrt(1 - alpha_bar), so the loss of v is (1 + SNR) |x0 - x0_hat|^2.
    """

    x0: Tensor
    guesses: Mapping[int, Tensor]
    schedule: Schedule
    grid: int = GRID

    @cached_property
    def mse(self) -> Tensor:
        return torch.tensor([(guess - self.x0).double().square().mean() for guess in self.guesses.values()])

    @cached_property
    def all_mse(self) -> Tensor:
        return at_every_level(list(self.guesses), self.mse, self.schedule)

    @cached_property
    def spectra(self) -> dict[int, evaluation.Spectrum]:
        return {t: evaluation.power_spectrum(guess - self.x0) for t, guess in self.guesses.items()}

    @cached_property
    def above_grid(self) -> Tensor:
        """The part of the squared error that lies above `grid` cycles a side, at each measured level."""
        parts = [_above(s, self.grid) for s in self.spectra.values()]
        return torch.tensor(parts, dtype=torch.float64)

    @property
    def distortion(self) -> Tensor:
        """The error of x0_hat at all levels, RMSE in grey levels."""
        return grey(self.all_mse.sqrt())

    @property
    def v_loss(self) -> Tensor:
        return self.all_mse * (1 + self.schedule.snr)

    @cached_property
    def bits(self) -> Tensor:
        return transition_bits(self.all_mse, self.schedule)

    @cached_property
    def last_bits(self) -> float:
        """L_0, the exact bytes from the best guess."""
        return decoder_bits(self.x0, self.guesses[0], self.schedule.noise_scale[0].item())

    @property
    def rate(self) -> float:
        return self.bits.sum().item() + prior_bits(self.x0, self.schedule)

    @property
    def total_bits(self) -> float:
        return self.rate + self.last_bits

    def loss_above_grid(self) -> float:
        high = at_every_level(list(self.guesses), self.mse * self.above_grid, self.schedule)
        return ((high * (1 + self.schedule.snr)).sum() / self.v_loss.sum()).item()

    def finer_than(self, grey_levels: float) -> dict[str, float]:
        """What is spent where the guess is already better than so much, so that only finer detail is undecided: the
        part of the noise levels, of the training loss and of the code, where L_0 belongs to the first level."""
        below = self.distortion < grey_levels
        parts = {
            "noise levels": below.double().mean(),
            "training loss": self.v_loss[below].sum() / self.v_loss.sum(),
            "bits": (self.bits[below].sum() + (self.last_bits if below[0] else 0)) / self.total_bits,
        }
        return {name: float(value) for name, value in parts.items()}

    def results(self, visible: float = VISIBLE) -> dict:
        """For a record, and for the judges of C4.1."""
        clean = evaluation.power_spectrum(self.x0)
        return {
            "pictures": len(self.x0),
            "visible": visible,
            "grid": self.grid,
            "finer_than_visible": self.finer_than(visible),
            "loss_above_grid": self.loss_above_grid(),
            "waves_above_grid": (clean.modes[self.grid + 1 :].sum() / clean.modes.sum()).item(),
            "variation_above_grid": _above(clean, self.grid, first=1),
            "rate": self.rate,
            "last_bits": self.last_bits,
            "levels": list(self.guesses),
            "rmse": grey(self.mse.sqrt()),
            "above_grid": self.above_grid,
        }


def _above(s: evaluation.Spectrum, grid: int, first: int = 0) -> float:
    power = s.power * s.modes
    return (power[grid + 1 :].sum() / power[first:].sum()).item()


def errors_of(denoiser: Denoiser, x0: Tensor, levels: Iterable[int] = LEVELS, *, grid: int = GRID) -> Errors:
    """One draw of noise for each picture of x0 (N, 3, H, H) at each level, and the network's clipped guess.

    ValueError: it predicts something else than v, or not in pixels.
    """
    if denoiser.prediction != "v" or denoiser.space.name != "pixel":
        raise ValueError(f"got {denoiser.prediction} in {denoiser.space.name} space; expected v in pixel space")
    device, rng = next(denoiser.model.parameters()).device, torch.Generator().manual_seed(0)
    options = {"prediction": "v", "clip_x0": True, "generator": rng}
    guesses = {t: denoised(denoiser.model, x0.to(device), t, denoiser.schedule, **options).cpu() for t in levels}
    return Errors(x0, guesses, denoiser.schedule, grid)


def held_out_drawings(limit: int | None = None) -> Pictures:
    """The drawings that the stored networks were not trained on, in a mixed order: neighbours are alike."""
    emoji = load_data("emoji", SIZE, "test")
    return emoji.subset(torch.randperm(len(emoji), generator=torch.Generator().manual_seed(0))[:limit])


# ------------------------------------------------------------------------------------ what an autoencoder passes


def first_stage(name: str, device: str | torch.device = "cpu") -> Autoencoder:
    """The stored autoencoder of that data set, f = 4 at 32 a side."""
    return checkpoints.load_model(checkpoints.pretrained_path(f"{name}-{SIZE}-autoencoder"), device)[0]


@torch.no_grad()
def rebuilt(model: Autoencoder, x: Tensor, batch_size: int = 128) -> Tensor:
    """Pictures (N, 3, H, H), decoded from the mean of their posterior, in [-1, 1], on the CPU."""
    device = next(model.parameters()).device
    parts = [model.decode(model.encode(part.to(device)).z_mean).cpu() for part in x.split(batch_size)]
    return torch.cat(parts).clamp(-1, 1)


def averaged(x: Tensor, f: int = 4) -> Tensor:
    """The plainest way through a grid of H / f: averages of blocks, interpolated. A control."""
    return F.interpolate(F.avg_pool2d(x, f), scale_factor=f, mode="bilinear")


def changed_scenes(count: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Held-out scenes without texture (N, 3, H, H), and the same with one thing changed. The movement is so small that
    it is as faint as the texture of strength 1; "another scene" is what the next one looks like."""

    def scene(**changed) -> Tensor:
        which = range(HELD_OUT, HELD_OUT + count)
        return to_float(scenes.render(0, which, SIZE, **({"texture": 0} | changed)))

    plain = scene()
    return plain, {
        "texture 1": scene(texture=1),
        "texture 4": scene(texture=4),
        "a small movement": scene(time=0.012),
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
        s = evaluation.power_spectrum(grain)
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


# ----------------------------------------------------------------------------------------- what can be read


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


# ------------------------------------------------------------------------------------------------- the stages


@dataclass(frozen=True)
class Sizes:
    """How much the chapter measures in a profile: drawings and scenes; scenes that probes learn from and read; their
    steps. The stages measure more: four times the drawings, and of all that the probes take."""

    drawings: int
    scenes: int
    seen: int
    new: int
    steps: int

    @classmethod
    def of(cls, p: Profile) -> Sizes:
        count = min(p.reference_count, 4096)
        return cls(max(16, p.eval_count), max(32, 2 * p.eval_count), count, max(64, count // 2), min(count, 2048) // 4)


def stage_of_drawings(run: Run) -> dict:
    """What the stored pixel denoiser of drawings spends, and what their autoencoder loses."""
    pictures = held_out_drawings(4 * Sizes.of(run.profile).drawings)
    x0 = to_float(pictures.images)
    errors = errors_of(checkpoints.pretrained("emoji-32-pixel", run.device), x0)
    after = rebuilt(first_stage("emoji", run.device), x0)
    shown = (970, 850, 650, 350, 90)
    rows = [x0[:8], *(errors.guesses[t][:8] for t in shown), after[:8]]
    _save_rows(run, rows)
    return {
        "data": _about("emoji", pictures.source, len(x0)),
        "networks": ["emoji-32-pixel", "emoji-32-autoencoder"],
        **errors.results(),
        "lost": grey(rms(after - x0)),
        "rows_of_the_picture": ["held-out drawings", *(f"guess at t = {t}" for t in shown), "decoded"],
    }


def stage_of_scenes(run: Run) -> dict:
    """What gets through the stored autoencoder of scenes, and what SEEDS probes of each input read."""
    sizes, model = Sizes.of(run.profile), first_stage("scenes", run.device)

    def through(x: Tensor) -> Tensor:
        return rebuilt(model, x)

    plain, changed = changed_scenes(sizes.scenes)
    seen, truth = alone(0, 4 * sizes.seen)
    new, new_truth = alone(HELD_OUT, 4 * sizes.new)
    readings = read_factors(
        probe_inputs(model, seen, new), truth, new_truth, make_schedule("cosine"), steps=4 * sizes.steps, seeds=SEEDS
    )
    strong = changed["texture 4"]
    _save_rows(run, [strong[:8], through(strong[:8]), plain[:8], through(plain[:8])])
    return {
        "data": _about("scenes", "procedural scenes", len(new)),
        "networks": ["scenes-32-autoencoder"],
        "visible": VISIBLE,
        "grid": GRID,
        "lost": lost_in_scenes(through, 4 * run.profile.eval_count),
        **passed(through, plain, changed).results(),
        "average": passed(averaged, plain, changed).results()["changes"],
        "grain": answer_to_grain(through, plain, changed["texture 1"]),
        "probes": readings.results(),
        "rows_of_the_picture": ["scenes, texture 4", "decoded", "without texture", "decoded"],
    }


def lost_in_scenes(through: Callable[[Tensor], Tensor], count: int) -> float:
    """RMSE in grey levels of held-out scenes as they are (texture 1)."""
    x = to_float(scenes.render(0, range(HELD_OUT, HELD_OUT + count), SIZE))
    return grey(rms(through(x) - x))


def _about(name: str, source: str, test: int) -> dict:
    return {"name": name, "source": source, "size": SIZE, "test": test}


def _save_rows(run: Run, rows: Sequence[Tensor]) -> None:
    images = to_uint8(torch.cat([row.cpu() for row in rows]))
    plotting.save_png(run.picture, plotting.grid_image(images, 8, scale=2))

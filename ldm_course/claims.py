"""The claims under test, each with what counts as evidence and a verdict computed from it (the ledger; all chapters).

A claim is a function: it reads stored records (`recorded`), or counts by formula, and returns a `Finding`. What has not
been recorded is "not measured yet", never a guess. The claims are a short comparison's, in our words, with its figures;
a figure stands in the call that judges it, beside nothing else.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from . import breakeven, records, stability, structures
from .complexity import autoencoder_flops, unet_flops, values
from .config import AutoencoderConfig, UNetConfig
from .records import NotRecorded
from .samplers import sample
from .schedules import make_schedule

CONFIRMED, REFINED, REFUTED = "confirmed", "refined", "refuted"
NOT_HERE, NOT_YET = "not testable here", "not measured yet"
ORDER = (CONFIRMED, REFINED, REFUTED, NOT_HERE, NOT_YET)
TIE = 0.1  # a ratio nearer to another than that is the same
SCATTER = 2.0  # standard deviations below which a difference of distances is none
HALF = 0.5  # "most" is more than this part
PIXEL, LATENT, FIRST = UNetConfig(), UNetConfig().for_channels(4), AutoencoderConfig()  # the course's standard networks


@dataclass(frozen=True)
class Finding:
    """A verdict, one of ORDER; what was found; what holds instead or besides; and the records that it is read from."""

    verdict: str
    found: str
    holds: str = ""
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim:
    """What is asserted, and what would count as evidence; `judge()` looks at it."""

    id: str
    says: str
    evidence: str
    look: Callable[[Evidence], Finding] | None

    def judge(self, live: Mapping[str, dict] | None = None) -> Finding:
        """The finding; "not measured yet" where a record is missing, or no chapter measures it yet.

        `live` holds results of stages that were made just now; they take the place of these stages' records.
        """
        if self.look is None:
            return Finding(NOT_YET, self.evidence)
        seen = Evidence(live or {})
        try:
            found = self.look(seen)
        except NotRecorded as missing:
            return Finding(NOT_YET, str(missing))
        return Finding(found.verdict, found.found, found.holds, tuple(seen.names))


@dataclass
class Evidence:
    """Reads records, and remembers which; `live` results take the place of a record."""

    live: Mapping[str, dict] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def records(self, *stages: str) -> list[dict]:
        """All from one kind of machine."""
        found = records.recorded_together(*stages)
        self.names += [record["name"] for record in found]
        return found

    def results(self, stage: str) -> dict:
        if stage in self.live:
            return self.live[stage]
        return self.records(stage)[0]["results"]

    def cost(self) -> dict[tuple[int, int], dict]:
        """The rows of the stage `cost` by (side, f)."""
        return {(row["side"], row["f"]): row for row in self.results("cost")["rows"]}


CLAIMS: dict[str, Claim] = {}


def claim(id: str, says: str, evidence: str) -> Callable:
    """Registers the decorated function as the judge of a claim."""

    def register(look: Callable[[Evidence], Finding] | None):
        CLAIMS[id] = Claim(id, says, evidence, look)
        return look

    return register


# ------------------------------------------------------------------------------------------------ rules


def verdict(found: float, claimed: float, neutral: float = 1.0) -> str:
    """Of a ratio: confirmed within 10 % of what is claimed, refined within a factor of two, else refuted; refuted as
    well on the other side of `neutral`, where the other space is ahead."""
    off = max(found / claimed, claimed / found)
    same_side = (found - neutral) * (claimed - neutral) > 0
    return CONFIRMED if off <= 1 + TIE else REFINED if off <= 2 and same_side else REFUTED


def worst(*verdicts: str) -> str:
    """A claim of several parts is as good as its worst."""
    return max(verdicts, key=ORDER.index)


def gain(before: dict, after: dict) -> float | None:
    """By how much KD-E falls from one judged set of pictures to another of the same count, or None where the change is
    within twice the scatter of the two estimates, or the counts differ. KD-E, since it has no bias from the count."""
    if before["n_generated"] != after["n_generated"]:
        return None
    change = before["kd_e"] - after["kd_e"]
    return change if abs(change) > SCATTER * math.hypot(before["kd_e_std"], after["kd_e_std"]) else None


def _sampled(results: dict, space: str, method: str, steps: int) -> dict:
    return next(r for r in results["sampling"] if (r["space"], r["method"], r["steps"]) == (space, method, steps))


def _seconds(results: dict, space: str, method: str, steps: int) -> float:
    """Of a picture, decoder included, at the largest batch that was timed."""
    of = _sampled(results, space, method, steps)["seconds_picture"]
    return of[max(of, key=int)]


# ---------------------------------------------------------------------------------------- 1 complexity


@claim("C1.1", "The pixel input has 3,072 values, the latent 256: a factor of 12.", "arithmetic")
def _values(seen: Evidence) -> Finding:
    ratio = values(32, 32, 3) / values(8, 8, 4)
    return Finding(verdict(ratio, 12), f"{ratio:g}x", "Values say how large an input is, not what it costs.")


@claim("C1.2", "A sample costs 12 MB, values times 1000 timesteps; a latent one 1 MB.", "states that the sampler holds")
def _memory(seen: Evidence) -> Finding:
    held = states_held(1000)
    return Finding(
        verdict(held, 1000),
        f"{held} states held in 1000 steps",
        "Memory is weights and activations; timesteps are no factor in it.",
    )


def states_held(steps: int) -> int:
    """How many of a sample's states are in memory at once, at most, while DDPM makes so many steps: by watching it."""
    shown: list[weakref.ref] = []
    most = 0

    def watch(xt, t):
        nonlocal most
        shown[:] = [ref for ref in shown if ref() is not None] + [weakref.ref(xt)]
        most = max(most, len(shown))
        return torch.zeros_like(xt)

    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 3, 8, 8, generator=generator)
    sample(watch, noise, make_schedule("linear"), method="ddpm", steps=steps, clip_x0=True, generator=generator)
    return most


@claim("C1.3", "A step costs O(HWC), in proportion to the input's values.", "FLOPs by formula, 16 times the values")
def _proportion(seen: Evidence) -> Finding:
    base = unet_flops(PIXEL, 32).total
    channels, positions = (unet_flops(PIXEL.for_channels(48), 32).total / base, unet_flops(PIXEL, 128).total / base)
    return Finding(
        worst(verdict(channels, 16), verdict(positions, 16)),
        f"16x the channels: {channels:.2f}x; 16x the positions: {positions:.1f}x",
        "Positions times widths squared, and positions squared for attention; the input's channels hardly count.",
    )


@claim("C1.4", "So a forward pass in the latent space takes 12x less computation.", "FLOPs by formula")
def _step(seen: Evidence) -> Finding:
    ratio = unet_flops(PIXEL, 32).total / unet_flops(LATENT, 8).total
    return Finding(
        verdict(ratio, 12), f"{ratio:.1f}x fewer FLOPs", "It follows f², the ratio of positions, not that of values."
    )


# ------------------------------------------------------------------------------------------- 2 results


@claim("C2.1", "100 epochs on CIFAR-10: DDPM 4 h, latent diffusion 3 h, 1.3x faster.", "seconds an image in training")
def _training(seen: Evidence) -> Finding:
    alone, epochs = _epochs_left(seen.results("compare-cifar10-32"), 4 / 3)
    word = CONFIRMED if epochs >= 100 else REFINED if epochs > 0 else REFUTED
    return Finding(
        word,
        f"{alone:.1f}x for the denoiser; 1.3x is left if the autoencoder trains for {epochs:.0f} epochs",
        "How much faster it trains depends on how long the autoencoder is trained, which the source leaves out.",
    )


def _epochs_left(results: dict, factor: float) -> tuple[float, float]:
    """The denoiser's own gain, and for how many epochs the autoencoder may train until `factor` is left in 100."""
    pixel, latent = (results["cost"][s]["training_seconds_image"] for s in ("pixel", "latent"))
    a, pictures = results["autoencoder"], results["data"]["train"]
    an_image = a["training_seconds"] / a["training_images"]
    return pixel / latent, (100 * (pixel / factor - latent) - a["encode_seconds"] / pictures) / an_image


@claim("C2.2", "That includes the autoencoder, and the gap widens for larger images.", "FLOPs of training, by formula")
def _widens(seen: Evidence) -> Finding:
    def gap(size: int, epochs: int = 50) -> float:
        pixel, latent = (unet_flops(n, s, backward=True).total for n, s in ((PIXEL, size), (LATENT, size // 4)))
        return pixel / (latent + epochs / 100 * autoencoder_flops(FIRST, size, "both", backward=True).total)

    return Finding(
        CONFIRMED if gap(512) > (1 + TIE) * gap(32) else REFUTED,
        f"{gap(32):.1f}x at 32, {gap(512):.1f}x at 512, with an autoencoder of 50 epochs to 100",
        "It widens because attention grows with positions squared; the ratio of values stays the same.",
    )


@claim(
    "C2.3",
    "64 images: DDPM 1000 steps 11.10 s; DDIM 100 steps 0.82 s, 13.5x; latent DDIM 50 steps 1.41 s, 7.9x.",
    "seconds a picture, decoder included",
)
def _sampling(seen: Evidence) -> Finding:
    r = seen.results("compare-cifar10-32")
    ddpm, ddim, latent = (
        _seconds(r, *row) for row in (("pixel", "ddpm", 1000), ("pixel", "ddim", 100), ("latent", "ddim", 50))
    )
    same = _seconds(r, "pixel", "ddim", 50) / latent
    theirs = (0.82 / 100) / (1.41 / 50)
    return Finding(
        worst(verdict(ddpm / ddim, 13.5), verdict(ddpm / latent, 7.9)),
        f"{ddpm / ddim:.1f}x and {ddpm / latent:.0f}x; at 50 steps in both, {same:.1f}x",
        f"By the source's own figures a latent step costs {1 / theirs:.1f} pixel steps, where its C1.4 says a twelfth.",
    )


@claim("C2.4", "FID 90.93 (DDPM), 88.91 (DDIM), 85 to 90 (latent): compression keeps quality.", "KD-E at equal counts")
def _quality(seen: Evidence) -> Finding:
    r = seen.results("compare-cifar10-32")
    before, after = (_sampled(r, *row)["quality"] for row in (("pixel", "ddim", 100), ("latent", "ddim", 50)))
    change = gain(before, after)
    word = NOT_HERE if change is None else CONFIRMED if change > 0 else REFUTED
    return Finding(
        word,
        f"KD-E {before['kd_e']:.2f} in pixels, {after['kd_e']:.2f} in latents, {before['n_generated']} pictures each",
        "After minutes of training at equal seconds. A difference of 2 % in FID, without a count, orders nothing.",
    )


# ------------------------------------------------------------------------------------------- 3 scaling


@claim(
    "C3.1",
    "At 1/8 compression the latent has 256 values at 32, 16,384 at 256, 65,536 at 512, 262,144 at 1024, 12x fewer.",
    "arithmetic, f = 8 and c = 4",
)
def _table(seen: Evidence) -> Finding:
    theirs = {32: 256, 256: 16_384, 512: 65_536, 1024: 262_144}
    ours = {side: values(side // 8, side // 8, 4) for side in theirs}
    at_4 = all(values(side // 4, side // 4, 4) == n for side, n in theirs.items())
    return Finding(
        CONFIRMED if ours == theirs else REFUTED,
        ", ".join(f"{n:,} at {side}" for side, n in ours.items()) + f": {values(32, 32, 3) / ours[32]:g}x fewer",
        "The table is that of f = 4." if at_4 else "",
    )


@claim("C3.2", "512x512x3, 786 thousand values, becomes 64x64x4, 16 thousand.", "arithmetic")
def _at_512(seen: Evidence) -> Finding:
    pixel, latent = values(512, 512, 3), values(64, 64, 4)
    right = round(pixel / 1000) == 786 and round(latent / 1000) == 16
    return Finding(
        CONFIRMED if right else REFUTED,
        f"{pixel:,} and {latent:,}: {pixel / latent:g}x",
        "It contradicts C3.1, whose table has 65,536 at 512: here f is 8, there 4.",
    )


@claim("C3.3", "The ratio of values is constant, so the speed-up grows with image size.", "seconds of a step, by side")
def _grows(seen: Evidence) -> Finding:
    first, last = _speedups(seen)
    return Finding(
        REFINED if last[1] > (1 + TIE) * first[1] else REFUTED,
        f"a sampling step, f = 4: {first[1]:.1f}x at {first[0]}, {last[1]:.0f}x at {last[0]}",
        "A constant cannot be why: attention on large grids is, and idle small kernels. Without both, f² is left.",
    )


def _speedups(seen: Evidence) -> tuple[tuple[int, float], tuple[int, float]]:
    """(side, pixel over latent seconds of a sampling step at f = 4), at the smallest and the largest side measured."""
    rows, found = seen.cost(), []
    for side in sorted({side for side, _ in rows}):
        pair = [rows.get((side, f), {}).get("step", {}).get("seconds_image") for f in (1, 4)]
        if None not in pair:
            found.append((side, pair[0] / pair[1]))
    return found[0], found[-1]


@claim("C3.4", "A latent model fits larger batches and trains faster at high resolution.", "batch and seconds, by side")
def _fits(seen: Evidence) -> Finding:
    rows = seen.cost()
    side = max(s for s, f in rows if f == 1 and "seconds_image" in rows[s, 1]["training"])
    pixel, latent = rows[side, 1]["training"], rows[side, 4]["training"]
    batch, faster = latent["largest_batch"] / pixel["largest_batch"], pixel["seconds_image"] / latent["seconds_image"]
    return Finding(
        CONFIRMED if min(batch, faster) > 1 + TIE else REFUTED,
        f"at {side}, f = 4: {batch:g}x the batch, {faster:.0f}x faster, the autoencoder apart",
        "The autoencoder's training and encoding come on top, once.",
    )


@claim("C3.5", "50 DDIM steps in latent space take seconds, where pixel space takes minutes.", "cost at 512 a side")
def _minutes(seen: Evidence) -> Finding:
    rows = seen.cost()
    one, eight = rows[512, 1]["step"], rows[512, 8]
    if "seconds_image" not in one:
        return Finding(NOT_HERE, "a pixel step at 512 was left out as too slow")
    pixel, latent = 50 * one["seconds_image"], 50 * eight["step"]["seconds_image"] + eight["decode"]["seconds_image"]
    word = CONFIRMED if latent < 60 <= pixel else REFINED if pixel > 2 * latent else REFUTED
    return Finding(
        word,
        f"512 a side, f = 8, decoded: {latent:.2g} s against {pixel:.3g} s",
        "With the same network, which attends on large grids; a network made for large pixels would not.",
    )


@claim(
    "C3.6",
    "The VAE keeps the semantic content in spite of the compression.",
    "probes of a scene's factors, latents and decoded pictures against pixels",
)
def _keeps(seen: Evidence) -> Finding:
    probes, of = seen.results("perception-scenes-32")["probes"], ("pixels", "latents", "decoded")
    worse = {f for name in of[1:] for f in _read_worse(probes, name)}
    kept = [f for f in probes["chance"] if f not in worse]
    shown = [f"{f} " + ", ".join(f"{probes['clean'][name][f]:.0%}" for name in of) for f in probes["chance"]]
    return Finding(
        REFUTED if not kept else REFINED if worse else CONFIRMED,
        f"kept: {', '.join(kept) or 'nothing'}; read from pixels, latents, decoded pictures: {'; '.join(shown)}",
        "It is trained to rebuild, not to understand: which content it keeps must be measured, factor by factor.",
    )


def _read_worse(probes: dict, name: str) -> list[str]:
    """The factors that are read from `name` less often than from pixels, beyond the error of the difference."""
    return [f for f, (mean, error) in probes["against_pixels"][name].items() if mean < -error]


# ----------------------------------------------------------------------------- 4 perceptual compression


@claim(
    "C4.1",
    "A pixel DDPM treats all pixels alike and spends capacity on imperceptible high frequencies.",
    "noise levels, loss and bits at which only invisible detail is undecided",
)
def _imperceptible(seen: Evidence) -> Finding:
    r = seen.results("perception-emoji-32")
    parts = r["finer_than_visible"]
    sides = [part > HALF for part in parts.values()]
    shown = ", ".join(f"{part:.0%} of the {name}" for name, part in parts.items())
    return Finding(
        CONFIRMED if all(sides) else REFINED if any(sides) else REFUTED,
        f"below {r['visible']:g} grey levels: {shown}; {r['loss_above_grid']:.0%} of the loss above f = {r['grid']}",
        "The loss weighs all waves alike. The bound's bits go to invisible detail; a reweighted loss does not.",
    )


@claim(
    "C4.2",
    "That makes semantic structure harder to learn and convergence slower.",
    "KD-E at the same images; the cause would have to be varied alone",
)
def _harder(seen: Evidence) -> Finding:
    row = next(m for m in seen.results("compare-emoji-32")["matched"] if m["match"] == "images")
    ahead = gain(row["pixel"]["quality"], row["latent"]["quality"])
    who = {None: "no resolved difference", True: "latent nearer", False: "pixel nearer"}[ahead and ahead > 0]
    return Finding(
        REFUTED if ahead is not None and ahead < 0 else NOT_HERE,
        f"by KD-E at the same images: {who}; the cause is not isolated",
        "Faster per image early on would be compatible with it; a test must change the detail alone.",
    )


@claim(
    "C4.3",
    "The autoencoder takes away perceptually irrelevant detail and leaves semantic features.",
    "texture against faint content beyond the grid; a probe of every factor; what is lost, in grey levels",
)
def _irrelevant(seen: Evidence) -> Finding:
    emoji, r = seen.results("perception-emoji-32"), seen.results("perception-scenes-32")
    worse, lost = _read_worse(r["probes"], "latents"), [emoji["lost"], r["lost"]]
    ratio, error = r["texture_to_movement"], r["texture_to_movement_error"]
    tests = [ratio + error < HALF, not worse, max(lost) <= r["visible"]]
    return Finding(
        CONFIRMED if all(tests) else REFINED if any(tests) else REFUTED,
        f"beyond the grid texture passes {ratio:.0%} as well as a faint movement; from latents are read worse: "
        f"{', '.join(worse) or 'nothing'}; off by {lost[0]:.0f} grey levels on drawings, {lost[1]:.0f} on scenes",
        "It drops what is dear to code, fine grain before edges, and at 32 pixels also what one sees.",
    )


@claim(
    "C4.4",
    "The diffusion model learns layout, and the decoder restores texture: a separation of concerns.",
    "noise levels at which content is undecided; the decoder's answer to grain",
)
def _layout(seen: Evidence) -> Finding:
    r = seen.results("perception-scenes-32")
    probes, answer = r["probes"], r["grain"]["answer"]
    tests = [probes["lead"] > probes["lead_error"], answer >= HALF]
    levels = {n: sum(found.values()) / len(found) for n, found in probes["undecided"].items()}
    shown = ", ".join(f"{n} {levels[n]:.0%}" for n in ("pixels", "latents", "coarse pixels"))
    return Finding(
        CONFIRMED if all(tests) else REFINED if any(tests) else REFUTED,
        f"levels at which content is undecided: {shown}; the answer to grain is {answer:.0%}",
        "This decoder smooths. More levels for layout come with a coarse grid, autoencoder or not.",
    )


@claim(
    "C4.5", "A latent model converges faster to meaningful pictures.", "KD-E at the same images and the same seconds"
)
def _converges(seen: Evidence) -> Finding:
    rows = {row["match"]: row for row in seen.results("compare-emoji-32")["matched"]}
    found = {m: gain(rows[m]["pixel"]["quality"], rows[m]["latent"]["quality"]) for m in ("images", "all_seconds")}
    words = [NOT_HERE if g is None else CONFIRMED if g > 0 else REFUTED for g in found.values()]
    shown = {
        m: f"{rows[m]['pixel']['quality']['kd_e']:.2f} to {rows[m]['latent']['quality']['kd_e']:.2f}" for m in found
    }
    return Finding(
        worst(*words),
        f"KD-E, pixel to latent: {shown['images']} at the same images, {shown['all_seconds']} at the same seconds",
        "Early in training, with the autoencoder on the bill.",
    )


# ------------------------------------------------------------------------------------------- 5 quality


@claim(
    "C5.1",
    "Compression acts as a regulariser: the autoencoder filters noise.",
    "PSNR of rebuilt noisy pictures beside a linear filter's, and overfitting on 1,000 pictures",
)
def _regularises(seen: Evidence) -> Finding:
    """Two things in one: that it filters, and that so it regularises."""
    word, shown = filters_noise(seen.results("noise-cifar10-32")["rows"])
    gaps = _overfits(seen)
    return Finding(
        worst(word, gaps.verdict),
        f"{shown}; {gaps.found}",
        "To take noise out of the data is one thing, to close the gap to new data another; neither proves the other.",
    )


def filters_noise(rows: list[dict]) -> tuple[str, str]:
    """Of `perception.against_noise`: confirmed if rebuilt noisy pictures are nearer to the clean ones than both the
    noisy and the linearly filtered ones are at some noise level, refined if only nearer than the noisy ones, else
    refuted. With the numbers at the level where it does best against the filter."""
    best = max((row for row in rows if row["std"]), key=lambda row: row["autoencoder"] - row["wiener"])
    helps = [row for row in rows if row["std"] and row["autoencoder"] > row["noisy"]]
    beats = any(row["autoencoder"] > row["wiener"] for row in helps)
    shown = f"noise of {best['std']:g}: PSNR {best['noisy']:.1f} dB, rebuilt {best['autoencoder']:.1f}"
    return CONFIRMED if beats else REFINED if helps else REFUTED, f"{shown}, linear filter {best['wiener']:.1f}"


@claim("C5.2", "It prevents overfitting to pixel detail.", "held-out over training loss, on 1,000 pictures")
def _prevents(seen: Evidence) -> Finding:
    return _overfits(seen)


def _overfits(seen: Evidence) -> Finding:
    """By the gap, held-out over training loss less one, at the same number of images seen."""
    points = {space: seen.results(f"few-cifar10-32-{space}")["points"] for space in ("pixel", "latent")}
    images = min(found[-1]["images"] for found in points.values())
    gaps = {space: _gap_at(found, images) for space, found in points.items()}
    if max(gaps.values()) < 0.02:
        word, holds = NOT_HERE, "Neither has begun to overfit after so few images."
    else:
        ratio = gaps["latent"] / max(gaps["pixel"], 1e-3)
        word = CONFIRMED if ratio < 0.5 else REFINED if ratio < 1 - TIE else REFUTED
        holds = "A latent is no protection against learning a small set by heart; held-out loss tells."
    shown = ", ".join(f"{space} {gap:+.1%}" for space, gap in gaps.items())
    return Finding(word, f"held-out loss over training loss after {images:,} images: {shown}", holds)


def _gap_at(points: list[dict], images: int) -> float:
    """Between the two points around `images`, along a line in log images."""
    gaps = [(math.log(p["images"]), p["loss_test"] / p["loss_train"] - 1) for p in points]
    x = math.log(images)
    for (a, low), (b, high) in pairwise(gaps):
        if a <= x <= b:
            return low + (high - low) * (x - a) / (b - a)
    return gaps[-1][1] if x >= gaps[-1][0] else gaps[0][1]


@claim(
    "C5.3", "Training is more stable.", "over seeds: spread of KD-E, spikes of the loss, effect of the learning rate"
)
def _stable(seen: Evidence) -> Finding:
    """By three tests (`stability.calmer`) at the same images: confirmed if all are for the latent, refined if some are,
    refuted if some are for pixels and none for the latent; else nothing is resolved."""
    r = seen.results("seeds-cifar10-32")
    images = r["images"]
    pixel, latent = (stability.calm(r, space, images) for space in ("pixel", "latent"))
    if pixel is None or latent is None:
        return Finding(NOT_HERE, "the two spaces were not judged at the same images")
    tests = stability.calmer(pixel, latent).values()
    word = CONFIRMED if all(tests) else REFINED if any(tests) else REFUTED if False in tests else NOT_HERE
    shown = (
        f"KD-E varies by {stability.spread(pixel.kd_e):.0%} and {stability.spread(latent.kd_e):.0%} over "
        f"{len(pixel.kd_e)} seeds, {pixel.leaps} and {latent.leaps} spikes in {pixel.steps} steps, "
        f"and it stands {pixel.stands} and {latent.stands} times the learning rate"
    )
    return Finding(
        word,
        f"pixel and latent after {images:,} images: {shown}",
        f"So few seeds resolve only spreads that are {stability.resolved(len(pixel.kd_e)):.1f}x apart.",
    )


@claim("C5.4", "With fewer steps and less computation the latent's quality is comparable or better.", "KD-E and FLOPs")
def _cheaper(seen: Evidence) -> Finding:
    r = seen.results("compare-cifar10-32")
    before, after = (_sampled(r, *row) for row in (("pixel", "ddim", 100), ("latent", "ddim", 50)))
    change, less = gain(before["quality"], after["quality"]), before["flops_picture"] / after["flops_picture"]
    counts = {row["quality"]["n_generated"] for row in (before, after)}
    if len(counts) > 1:
        return Finding(NOT_HERE, "the two were judged by different numbers of pictures")
    worse = change is not None and change < 0
    kd = [row["quality"]["kd_e"] for row in (before, after)]
    beside = "not resolved" if change is None else "resolved"
    return Finding(
        REFUTED if worse or less < 1 else CONFIRMED,
        f"KD-E {kd[0]:.2f} to {kd[1]:.2f}, {beside}, with {less:.0f}x fewer FLOPs a picture",
        "At this budget of minutes; at convergence on small pictures the literature's best models are in pixels.",
    )


# -------------------------------------------------------------------------------------- 6 three stages


@claim(
    "C6.1",
    "DDPM (2020): high quality, but slow (1000 steps) and in pixels.",
    "KD-E at one count, and seconds a picture, of every sampler on one pixel network",
)
def _good_but_slow(seen: Evidence) -> Finding:
    rows = _at_one_count(seen, "pixel")
    full, few = (pick(s for m, s in rows if m == "ddpm") for pick in (max, min))
    ddpm, best = rows["ddpm", full], min(rows.values(), key=lambda r: r["quality"]["kd_e"])
    if not _nearer(ddpm, rows["ddpm", few]):
        return _cannot_tell(rows["ddpm", few], ddpm)
    others = [r for (m, s), r in rows.items() if m != "ddpm" and s < full and not _nearer(ddpm, r)]
    cheapest = min(others, key=lambda r: r["seconds_picture"], default=ddpm)
    times = ddpm["seconds_picture"] / cheapest["seconds_picture"]
    needs = ("ddpm", cheapest["steps"]) in rows and _nearer(cheapest, rows["ddpm", cheapest["steps"]])
    kd, least = ddpm["quality"]["kd_e"], best["quality"]["kd_e"]
    good = CONFIRMED if not _nearer(best, ddpm, TIE) else REFINED if kd <= 2 * least else REFUTED
    slow = REFUTED if others and times < 10 else CONFIRMED if needs else REFINED
    than = f"{times:.0f}x the seconds of {_called(cheapest)}, where DDPM is {'' if needs else 'not '}resolvably worse"
    return Finding(
        worst(good, slow),
        f"KD-E {kd:.2f} at {full} steps, the best {least:.2f}; {than if others else 'no other is as good'}",
        "Slow is the sampler, and not the model: the same weights serve every row.",
    )


@claim(
    "C6.2", "DDIM (2020): deterministic, 10 to 50x faster at the same quality, still in pixels.", "KD-E at one count"
)
def _fewer_steps(seen: Evidence) -> Finding:
    rows = _at_one_count(seen, "pixel")
    full = max(s for m, s in rows if m == "ddpm")
    ddpm, steps = rows["ddpm", full], _enough_steps(rows, rows["ddpm", full])
    if steps is None:
        return _cannot_tell(_fewest(rows), ddpm)
    factor = full / steps
    if not draws_alike("ddim") or draws_alike("ddpm"):
        return Finding(REFUTED, "DDIM does not draw the same picture twice from the same noise")
    return Finding(
        CONFIRMED if 10 <= factor <= 50 else REFINED if factor > 50 else REFUTED,
        f"not resolvably worse than DDPM's {full} steps from {steps} DDIM steps on: {factor:.0f}x fewer"
        if factor
        else f"resolvably worse than DDPM's {full} steps at every number of DDIM steps",
        "How few steps are enough depends on how good the network is: a weak one hides what few steps lose.",
    )


def draws_alike(method: str) -> bool:
    """Whether a sampler makes the same of the same noise, whatever further chance it is given: by trying it."""
    noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    options = {"method": method, "steps": 5, "clip_x0": False}
    generators = (torch.Generator().manual_seed(seed) for seed in (1, 2))
    a, b = (sample(lambda x, t: 0.9 * x, noise, make_schedule("linear"), generator=g, **options) for g in generators)
    return torch.equal(a, b)


def _at_one_count(seen: Evidence, space: str) -> dict[tuple[str, int], dict]:
    """The rows of the sampling stage by (method, steps), all judged on as many pictures as DDPM's longest is; a row
    that was not judged at that count is left out."""
    rows = seen.results(f"sampling-cifar10-32-{space}")["rows"]
    count = max((r for r in rows if r["method"] == "ddpm"), key=lambda r: r["steps"])["quality"]["n_generated"]
    found = {}
    for r in rows:
        for quality in (r["quality"], r.get("quality_few")):
            if quality and quality["n_generated"] == count:
                found[r["method"], r["steps"]] = r | {"quality": quality}
    return found


def _nearer(a: dict, b: dict, by: float = 0.0) -> bool:
    """Whether row a's KD-E is resolvably below row b's, and by more than that part of b's."""
    change = gain(b["quality"], a["quality"])
    return change is not None and change > by * abs(b["quality"]["kd_e"])


def _called(row: dict) -> str:
    return f"{row['method'].upper().replace('DPMPP', 'DPM-Solver++')}, {row['steps']} steps"


def _cannot_tell(few: dict, target: dict) -> Finding:
    """What a comparison finds that could not have failed: no difference proves nothing where none can be seen."""
    shown = " against ".join(
        f"{_called(r)}, KD-E {r['quality']['kd_e']:.2f} ± {r['quality']['kd_e_std']:.2f}" for r in (few, target)
    )
    return Finding(
        NOT_HERE,
        f"{target['quality']['n_generated']} pictures do not even resolve the fewest steps judged on so many: {shown}",
        "In published FIDs of 50,000 pictures (DDIM, Table 1, and chapter 6) the order is clear.",
    )


def _fewest(rows: dict) -> dict:
    return rows["ddim", min(s for m, s in rows if m == "ddim")]


def _enough_steps(rows: dict, target: dict) -> float | None:
    """The fewest DDIM steps from which on KD-E is not resolvably above the target's; infinite where it always is.

    None where not even the fewest steps are resolvably worse: then the pictures are too few, or the network too weak,
    for the test to fail, and it shows nothing.
    """
    if not _nearer(target, _fewest(rows)):
        return None
    steps = sorted(s for m, s in rows if m == "ddim")
    last = max(s for s in steps if _nearer(target, rows["ddim", s]))
    return min((s for s in steps if s > last), default=math.inf)


@claim(
    "C6.3",
    "Latent diffusion (2022): makes 512x512 and 1024x1024 practical.",
    "a decoded picture and a training step, at f = 8 and in pixels",
)
def _practical(seen: Evidence) -> Finding:
    """Practical is: 50 steps and the decoder within a minute, and training steps at a tenth of the pixels' cost, by the
    clock and, since a pixel network may leave out attention on large grids, by FLOPs without any attention."""
    rows, words, shown = seen.cost(), [], []
    for side in (512, 1024):
        one, eight = rows.get((side, 1)), rows.get((side, 8))
        parts = [eight and eight[what].get("seconds_image") for what in ("training", "step", "decode")]
        if one is None or None in parts:
            return Finding(NOT_HERE, f"latents at {side} a side were left out as too slow, or not tried")
        training, step, decode = parts
        picture, pixel = 50 * step + decode, one["training"].get("seconds_image")
        plain = unet_flops(PIXEL, side)
        less = (plain.total - plain.attention) / unet_flops(LATENT, side // 8).total
        cheaper = (pixel is None or pixel > 10 * training) and less > 10
        words.append(CONFIRMED if cheaper and picture < 60 else REFINED if cheaper else REFUTED)
        left = "left out as too slow" if pixel is None else f"{pixel:.3g} s"
        shown.append(f"{side}: a picture in {picture:.2g} s, a training step in {training:.2g} s (in pixels {left})")
    return Finding(
        worst(*words),
        "; ".join(shown),
        "Of cost alone, on this machine; how good such pictures would be is not measured at these sizes.",
    )


# ------------------------------------------------------------------------------------ 7 when to use which


@claim(
    "C7.1", "Pixel space suits images up to about 128; latent space 256 and above.", "break-even side by a cost model"
)
def _crossover(seen: Evidence) -> Finding:
    """Two bills (`breakeven.READY`, `FROM_NOTHING`) at f = 4 and 8: is pixel space cheaper at 64, and are latents from
    256 on? Confirmed if on all four, refuted if on none."""
    model = breakeven.cost_model(*seen.records("cost", "compare-cifar10-32"))
    bills = {"there already": breakeven.READY, "trained first": breakeven.FROM_NOTHING}
    found = {
        (f, name): breakeven.break_even_side(model, f, work, breakeven.SIDES)
        for f in (4, 8)
        for name, work in bills.items()
    }
    fits = [side is not None and 64 < side <= 256 for side in found.values()]
    shown = {name: ", ".join(f"{found[f, name] or 'none'} at f = {f}" for f in (4, 8)) for name in bills}
    return Finding(
        CONFIRMED if all(fits) else REFINED if any(fits) else REFUTED,
        f"latents are cheaper from this side on ({min(breakeven.SIDES)} is the smallest asked): "
        + "; ".join(f"autoencoder {name}, {sides}" for name, sides in shown.items()),
        "By cost alone. How long the autoencoder is trained moves the crossover more than the side does.",
    )


@claim("C7.2", "Latent space suits little GPU memory and fast inference.", "memory and seconds at 32 a side")
def _suits(seen: Evidence) -> Finding:
    rows = seen.cost()
    kept = rows[32, 1]["kept_for_backward"] / rows[32, 4]["kept_for_backward"]
    r = seen.results("compare-cifar10-32")
    faster = _seconds(r, "pixel", "ddim", 50) / _seconds(r, "latent", "ddim", 50)
    one, other = (_sampled(r, space, "ddim", 50)["seconds_picture"]["1"] for space in ("pixel", "latent"))
    return Finding(
        CONFIRMED if min(kept, faster, one / other) > 1 + TIE else REFUTED,
        f"{kept:.0f}x less kept in training; a picture of 50 steps, decoded, {faster:.1f}x faster in a batch, "
        f"{one / other:.1f}x alone",
        "Weights, their gradients and averages do not shrink, and the decoder is added.",
    )


@claim("C7.3", "Latent space suits neither pixel-precise work nor very small images.", "fine structures; cost at 32")
def _unsuited(seen: Evidence) -> Finding:
    """Two parts. One-pixel structures: confirmed if less than half of the kinds are kept (`Left.kept`) by each
    autoencoder, and by a linear code of each size, so that the latents have no room for them; refuted if each
    autoencoder keeps half. 32 pixels, f = 4: confirmed if pixel space is cheaper on both bills of C7.1, refuted if on
    none."""
    kept = structures.kept_kinds(seen.results("fine-structures-64")["rows"], 1)
    half, fs = len(structures.KINDS) / 2, sorted({f for f, _ in kept})
    by = {way: [kept[f, way] for f in fs] for way in ("as trained", "longer, on structures", "linear code")}
    lost, room = (sum(n < half for n in by["as trained"]), sum(n >= half for n in by["linear code"]))
    precise = CONFIRMED if lost == len(fs) and not room else REFUTED if not lost else REFINED
    model = breakeven.cost_model(*seen.records("cost", "compare-cifar10-32"))
    pixel, latent = (model.prices(32, f) for f in (1, 4))
    ratios = [
        breakeven.total(pixel, work) / breakeven.total(latent, work)
        for work in (breakeven.READY, breakeven.FROM_NOTHING)
    ]
    dear = sum(ratio < 1 for ratio in ratios)
    counts = ", ".join(f"{way} {'/'.join(map(str, n))}" for way, n in by.items())
    return Finding(
        worst(precise, (REFUTED, REFINED, CONFIRMED)[dear]),
        f"of {len(structures.KINDS)} one-pixel structures, kept at f = {'/'.join(map(str, fs))}: {counts}; at 32 "
        f"pixels all costs {ratios[0]:.1f}x what it does in latents, {ratios[1]:.2f}x if the autoencoder is trained",
        "What is lost is the autoencoder's doing, by f, c and what it was trained on, not any latent's.",
    )


# ---------------------------------------------------------------------------------------- 8 the formula


@claim("C8.1", "The VAE compresses each side 8x (512x512 to 64x64).", "arithmetic")
def _eightfold(seen: Evidence) -> Finding:
    f = AutoencoderConfig(block_out_channels=(128, 256, 512, 512), norm_num_groups=32).downsample
    return Finding(CONFIRMED if 512 // f == 64 else REFUTED, f"Stable Diffusion's autoencoder has f = {f}")


@claim("C8.2", "20 to 50 DDIM steps are enough.", "KD-E by steps, in latents")
def _enough(seen: Evidence) -> Finding:
    table = seen.results("sampling-cifar10-32-latent")["rows"]
    rows = {(r["method"], r["steps"]): r for r in table if r["steps"] <= 100}
    steps = _enough_steps(rows, rows["ddim", 100])
    if steps is None:
        return _cannot_tell(_fewest(rows), rows["ddim", 100])
    return Finding(
        CONFIRMED if steps <= 50 else REFUTED,
        f"not resolvably worse than at 100 steps from {steps} steps on",
        "For this network, and as far as these few pictures can tell.",
    )


claim("C8.3", "CLIP text embeddings give control.", "chapter 8")(None)


@claim("C8.4", "A step is 12x cheaper than in pixel space.", "FLOPs by formula, 512 a side, f = 8")
def _step_at_512(seen: Evidence) -> Finding:
    ratio = unet_flops(PIXEL, 512).total / unet_flops(LATENT, 64).total
    return Finding(
        verdict(ratio, 12), f"{ratio:.0f}x fewer FLOPs", "At least f² = 64, and more where the network attends."
    )


claim("C8.5", "Consumer GPUs can train and run it; a 512x512 image takes seconds.", "chapter 8")(None)

# ------------------------------------------------------------------------------------------ 9 what's next

for _id, _says in {
    "C9.1": "Better autoencoders give fewer artefacts.",
    "C9.2": "Cascades reach high resolution in several stages.",
    "C9.3": "Consistency models generate in one step.",
    "C9.4": "Video adds temporal coherence.",
    "C9.5": "Through all of these, a compressed, semantically meaningful space stays the more efficient one.",
}.items():
    claim(_id, _says, "chapter 9")(None)

# ----------------------------------------------------------------------------------------- 10 conclusion


@claim("C10.1", "12x compression with quality kept.", "FD-E of reconstructions beside its floor")
def _kept(seen: Evidence) -> Finding:
    q = seen.results("autoencoder-cifar10-32-f4")["variants"]["perceptual"]["reconstruction"]
    excess = q["kd_e"] - q["kd_e_floor"]
    lost = excess > SCATTER * math.hypot(q["kd_e_std"], q["kd_e_floor_std"])
    return Finding(
        REFUTED if lost else CONFIRMED,
        f"KD-E of reconstructions {q['kd_e']:.2f}, floor {q['kd_e_floor']:.2f}, {q['n_generated']} pictures",
        "An autoencoder of this size and training loses what can be seen; LDM's at f = 4 lose little.",
    )


@claim("C10.2", "A constant speed-up at every image size.", "seconds of a step, by side")
def _constant(seen: Evidence) -> Finding:
    first, last = _speedups(seen)
    return Finding(
        CONFIRMED if last[1] < (1 + TIE) * first[1] else REFUTED,
        f"{first[1]:.1f}x at {first[0]}, {last[1]:.0f}x at {last[0]}",
        "It contradicts C3.3, by which the speed-up grows. Constant is only the ratio of values.",
    )


@claim("C10.3", "Less memory, faster training, faster inference.", "the comparison, at 32 a side")
def _all_three(seen: Evidence) -> Finding:
    r = seen.results("compare-cifar10-32")
    ratios = {
        "kept in training": [r["cost"][s]["activation_bytes_image"] for s in ("pixel", "latent")],
        "seconds of training": [r["cost"][s]["training_seconds_image"] for s in ("pixel", "latent")],
        "seconds of 50 steps": [_seconds(r, s, "ddim", 50) for s in ("pixel", "latent")],
    }
    shown = {name: pixel / latent for name, (pixel, latent) in ratios.items()}
    return Finding(
        CONFIRMED if min(shown.values()) > 1 + TIE else REFUTED,
        ", ".join(f"{name} {ratio:.1f}x" for name, ratio in shown.items()),
        "The autoencoder's own training apart.",
    )


@claim("C10.4", "Compression helps learning.", "KD-E at the same images seen")
def _helps(seen: Evidence) -> Finding:
    found = []
    for data in ("emoji", "cifar10"):
        row = next(m for m in seen.results(f"compare-{data}-32")["matched"] if m["match"] == "images")
        found.append(gain(row["pixel"]["quality"], row["latent"]["quality"]))
    words = [NOT_HERE if g is None else CONFIRMED if g > 0 else REFUTED for g in found]
    shown = ", ".join("no resolved difference" if g is None else f"KD-E {-g:+.2f}" for g in found)
    return Finding(worst(*words), f"latent against pixel at the same images: {shown} (emoji, CIFAR-10)", "Early on.")


# ------------------------------------------------------------------------------------------- the ledger


def ledger(chapter: int | None = None) -> Iterator[tuple[Claim, Finding]]:
    """Every claim, or those of one chapter, with its finding."""
    for each in CLAIMS.values():
        if chapter is None or each.id.startswith(f"C{chapter}."):
            yield each, each.judge()


def as_text(chapter: int | None = None) -> str:
    """The ledger for a terminal: a paragraph for each claim, and the count of each verdict."""
    found = list(ledger(chapter))
    parts = []
    for c, f in found:
        lines = [f"{c.id:6} {f.verdict.upper()}: {c.says}", f"       found: {f.found}"]
        lines += [f"       holds: {f.holds}"] if f.holds else []
        lines += [f"       from:  {', '.join(f.sources)}"] if f.sources else []
        parts.append("\n".join(lines))
    counts = {word: sum(f.verdict == word for _, f in found) for word in ORDER}
    return "\n\n".join(parts) + "\n\n" + ", ".join(f"{n} {word}" for word, n in counts.items())

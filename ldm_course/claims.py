"""The claims under test, each with what counts as evidence and a verdict computed from it (the ledger; all chapters).

A claim is a function: it reads stored records (`recorded`), or counts by formula, and returns a `Finding`. What has not
been recorded is "not measured yet", never a guess. The claims are a short comparison's, in our words, with its figures;
a figure stands in the call that judges it, beside nothing else.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from . import records, stability
from .complexity import autoencoder_flops, unet_flops, values
from .config import AutoencoderConfig, UNetConfig
from .records import NotRecorded
from .samplers import sample
from .schedules import make_schedule

CONFIRMED, REFINED, REFUTED = "confirmed", "refined", "refuted"
NOT_HERE, NOT_YET = "not testable here", "not measured yet"
ORDER = (CONFIRMED, REFINED, REFUTED, NOT_HERE, NOT_YET)
TIE = 0.1  # a difference of less is none
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

    def judge(self) -> Finding:
        """The finding; "not measured yet" where a record is missing, or no chapter measures it yet."""
        if self.look is None:
            return Finding(NOT_YET, self.evidence)
        seen = Evidence()
        try:
            found = self.look(seen)
        except NotRecorded as missing:
            return Finding(NOT_YET, str(missing))
        return Finding(found.verdict, found.found, found.holds, tuple(seen.names))


@dataclass
class Evidence:
    """Reads records, and remembers which."""

    names: list[str] = field(default_factory=list)

    def results(self, stage: str) -> dict:
        record = records.recorded(stage)
        self.names.append(record["name"])
        return record["results"]

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
    return change if abs(change) > 2 * math.hypot(before["kd_e_std"], after["kd_e_std"]) else None


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


claim(
    "C3.6",
    "The VAE keeps the semantic content in spite of the compression.",
    "chapter 4 measures it as it runs; nothing of it is recorded yet",
)(None)

# ----------------------------------------------------------------------------- 4 perceptual compression

for _id, _says in {
    "C4.1": "A pixel DDPM treats all pixels alike and spends capacity on imperceptible high frequencies.",
    "C4.2": "That makes semantic structure harder to learn and convergence slower.",
    "C4.3": "The autoencoder takes away perceptually irrelevant detail and leaves semantic features.",
    "C4.4": "The diffusion model learns layout, and the decoder restores texture: a separation of concerns.",
}.items():
    claim(_id, _says, "chapter 4 measures it as it runs; nothing of it is recorded yet")(None)


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

claim("C6.1", "DDPM (2020): high quality, but slow (1000 steps) and in pixels.", "quality against seconds, chapter 6")(
    None
)


@claim("C6.2", "DDIM (2020): deterministic, 10 to 50x faster at the same quality, still in pixels.", "KD-E by steps")
def _fewer_steps(seen: Evidence) -> Finding:
    steps = _enough_steps(seen, "pixel")
    factor = 1000 / steps
    return Finding(
        CONFIRMED if 10 <= factor <= 50 else REFINED if factor > 50 else REFUTED,
        f"no worse than at 100 steps from {steps} steps on: {factor:.0f}x fewer than 1000",
        "How few steps are enough depends on how good the network is: a weak one hides what few steps lose.",
    )


def _enough_steps(seen: Evidence, space: str) -> int:
    """The fewest DDIM steps whose KD-E is not resolvably above that at 100."""
    rows = {
        r["steps"]: r["quality"] for r in seen.results(f"sampling-cifar10-32-{space}")["rows"] if r["method"] == "ddim"
    }
    return min(s for s, q in rows.items() if s <= 100 and (s == 100 or (gain(q, rows[100]) or 0) <= 0))


@claim("C6.3", "Latent diffusion (2022): makes 512x512 and 1024x1024 practical.", "cost by side")
def _practical(seen: Evidence) -> Finding:
    rows, shown = seen.cost(), []
    for side in (512, 1024):
        pixel, latent = (rows[side, f]["training"].get("seconds_image") for f in (1, 8))
        shown.append((side, pixel, latent))
    if any(latent is None for _, _, latent in shown):
        return Finding(NOT_HERE, "a latent training step at these sizes was left out as too slow")
    words = [
        f"{side}: {'too slow to measure' if p is None else f'{p:.3g} s'} against {z:.2g} s" for side, p, z in shown
    ]
    return Finding(
        CONFIRMED if all(p is None or p > 10 * z for _, p, z in shown) else REFINED,
        "a training step, an image, pixels against f = 8: " + "; ".join(words),
        "On this machine and with this U-Net.",
    )


# ------------------------------------------------------------------------------------ 7 when to use which

claim("C7.1", "Pixel space suits images up to about 128; latent space 256 and above.", "a cost model, chapter 7")(None)


@claim("C7.2", "Latent space suits little GPU memory and fast inference.", "memory and seconds at 32 a side")
def _suits(seen: Evidence) -> Finding:
    rows = seen.cost()
    kept = rows[32, 1]["kept_for_backward"] / rows[32, 4]["kept_for_backward"]
    r = seen.results("compare-cifar10-32")
    faster = _seconds(r, "pixel", "ddim", 50) / _seconds(r, "latent", "ddim", 50)
    return Finding(
        CONFIRMED if min(kept, faster) > 1 + TIE else REFUTED,
        f"{kept:.0f}x less kept in training, {faster:.1f}x faster at 50 steps, decoder included",
        "Weights, their gradients and averages do not shrink, and the decoder is added.",
    )


claim("C7.3", "Latent space suits neither pixel-precise work nor very small images.", "fine structures, chapter 7")(
    None
)

# ---------------------------------------------------------------------------------------- 8 the formula


@claim("C8.1", "The VAE compresses each side 8x (512x512 to 64x64).", "arithmetic")
def _eightfold(seen: Evidence) -> Finding:
    f = AutoencoderConfig(block_out_channels=(128, 256, 512, 512), norm_num_groups=32).downsample
    return Finding(CONFIRMED if 512 // f == 64 else REFUTED, f"Stable Diffusion's autoencoder has f = {f}")


@claim("C8.2", "20 to 50 DDIM steps are enough.", "KD-E by steps, in latents")
def _enough(seen: Evidence) -> Finding:
    steps = _enough_steps(seen, "latent")
    return Finding(
        CONFIRMED if steps <= 50 else REFUTED,
        f"no worse than at 100 steps from {steps} steps on",
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
    lost = excess > 2 * math.hypot(q["kd_e_std"], q["kd_e_floor_std"])
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

"""Which space is cheaper in total, autoencoder on the bill: a cost model fitted to the stage `cost` (chapter 7).

The model of one call on a batch of n pictures is a line in what the call has to do,

    seconds = overhead + n (products / their rate + attention / its rate),

with FLOPs from `complexity`, where *products* are convolutions and linear layers, and *attention* is the two products
of each attention. Three numbers a kind of call, no grid and no side among them: what depends on the side does so
through the FLOPs. `held_out` says how well a model predicts sides that it was not fitted to; one that has not been
asked is a guess.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..checks import from_stored
from ..config import AutoencoderConfig, UNetConfig
from .complexity import Flops, autoencoder_flops, unet_flops

STANDARD, BUILT = "standard", "built for the size"  # the networks that the stage `cost` measured
BUILT_UP_TO = 32  # a network built for the size attends on grids of at most so many positions a side
BATCH = 64  # pictures a call, where a bill is reckoned; on large pictures the batch hardly matters


# ---------------------------------------------------------------------------------------- one kind of call


@dataclass(frozen=True)
class Call:
    """A measured call: the FLOPs of one picture in it, how many pictures it had, and the seconds that it took in all.

    `side` and `f` say which row of the record it is from.
    """

    flops: Flops
    batch: int
    seconds: float
    side: int
    f: int

    def work(self) -> tuple[float, float, float]:
        """What the three numbers of a `CallModel` are multiplied by."""
        attention = self.flops.attention
        return 1.0, float(self.batch * (self.flops.total - attention)), float(self.batch * attention)


@dataclass(frozen=True)
class CallModel:
    """Seconds a call (`overhead`), seconds a FLOP of convolutions and linear layers (`product`), and of attention."""

    overhead: float
    product: float
    attention: float

    def seconds(self, flops: Flops, batch: int = BATCH) -> float:
        """Seconds a picture, in calls on `batch` of them, with `flops` for each."""
        return self.overhead / batch + self.product * (flops.total - flops.attention) + self.attention * flops.attention


def fit(calls: Sequence[Call]) -> CallModel:
    """The least sum of squared *relative* errors, over models none of whose numbers is negative.

    Relative, since the calls span four orders of magnitude and the small ones are half of the story.
    ValueError: fewer than three calls.
    """
    from scipy.optimize import nnls  # here, since importing it takes longer than all the rest

    if len(calls) < 3:
        raise ValueError(f"{len(calls)} calls for a model of three numbers; expected 3 or more")
    parts = np.array([c.work() for c in calls]) / np.array([[c.seconds] for c in calls])
    unit = parts.max(0).clip(min=1e-300)  # a FLOP takes 1e-11 s and a call 1e-2: put them on one scale
    found, _ = nnls(parts / unit, np.ones(len(calls)))
    return CallModel(*(found / unit).tolist())


def held_out(calls: Sequence[Call]) -> list[tuple[Call, float]]:
    """Each call, and its seconds as predicted by a fit to the calls of all *other* sides. ValueError: only one side."""
    found = []
    for side in sorted({c.side for c in calls}):
        model = fit([c for c in calls if c.side != side])
        found += [(c, c.batch * model.seconds(c.flops, c.batch)) for c in calls if c.side == side]
    return found


def off_by(predicted: Iterable[tuple[Call, float]]) -> list[float]:
    """The factors by which predictions miss, 1 or more each, in rising order: too much and too little count alike."""
    return sorted(max(seconds / c.seconds, c.seconds / seconds) for c, seconds in predicted)


# ------------------------------------------------------------------------------------------------ from records


def networks_at(
    unet: UNetConfig, autoencoder: AutoencoderConfig, side: int, f: int, attention_up_to: float
) -> tuple[UNetConfig, AutoencoderConfig]:
    """The two networks for pictures of `side` x `side` in the space of f, f = 1 being pixels, where only the first is
    used: with its attention on grids of at most `attention_up_to` a side (`UNetConfig.attending_up_to`), and none in
    an autoencoder whose latent is larger. ValueError: a side that is no multiple of f."""
    if side % f:
        raise ValueError(f"a side of {side} is no multiple of f={f}")
    first = autoencoder.for_downsample(f)
    network = unet if f == 1 else unet.for_channels(first.latent_channels)
    attends = first.mid_attention and f > 1 and side // f <= attention_up_to
    return network.attending_up_to(attention_up_to, side // f), replace(first, mid_attention=attends)


def rows(results: Mapping[str, Any], network: str = STANDARD) -> dict[tuple[int, int], Mapping[str, Any]]:
    """The rows of the stage `cost` by (side, f), measured with the STANDARD network, or with the one BUILT for the size
    where that is another. Records from before there were two have the standard one only."""
    return {
        (row["side"], row["f"]): {"precision": results.get("precision")} | row
        for row in results["rows"]
        if row.get("network", STANDARD) == network or row.get("serves_both", False)
    }


def kept_per_position(rows: Mapping[tuple[int, int], Mapping[str, Any]]) -> dict[int, dict[int, float]]:
    """By f and side, the bytes that a training step keeps for the backward pass, for each position of the network's
    input: nearly the same at every side, where attention keeps no weights. Of f that were measured at one side only
    there is none, since nothing says whether it would hold at another."""
    found: dict[int, dict[int, float]] = {}
    for (side, f), row in sorted(rows.items()):
        if row["kept_for_backward"]:
            found.setdefault(f, {})[side] = row["kept_for_backward"] / (side // f) ** 2
    return {f: sides for f, sides in found.items() if len(sides) > 1}


def networks(record: Mapping[str, Any]) -> tuple[UNetConfig, AutoencoderConfig]:
    """The U-Net and the autoencoder of a record's profile."""
    profile = record["config"]["profile"]
    return from_stored(UNetConfig, profile["unet"]), from_stored(AutoencoderConfig, profile["autoencoder"])


def calls(record: Mapping[str, Any], what: str) -> list[Call]:
    """What the stage `cost` measured of `what`, "training", "step" or "decode": each row alone and in its batch.

    What was left out there is left out here.
    """
    if what not in ("training", "step", "decode"):
        raise ValueError(f"what={what!r}; expected 'training', 'step' or 'decode'")
    unet, autoencoder = networks(record)
    found = []
    for row in record["results"]["rows"]:
        side, f, entry = row["side"], row["f"], row.get(what, {})
        if "seconds_image" not in entry:
            continue
        most = BUILT_UP_TO if row.get("network") == BUILT else math.inf
        net, first = networks_at(unet, autoencoder, side, f, most)
        if what == "decode":
            flops = autoencoder_flops(first, side, "decode")
        else:
            flops = unet_flops(net, side // f, backward=what == "training")
        measured = {1: entry["seconds_alone"], entry["batch"]: entry["seconds_image"] * entry["batch"]}
        found += [Call(flops, batch, seconds, side, f) for batch, seconds in measured.items()]
    return found


@dataclass(frozen=True)
class Prices:
    """Seconds a picture in one space: a training step, a sampling step, a decoding, an encoding, and a step of the
    autoencoder's own training (0, 0, 0 in pixels)."""

    training: float
    step: float
    decode: float = 0.0
    encode: float = 0.0
    autoencoder: float = 0.0


@dataclass(frozen=True)
class CostModel:
    """Prices at any side, in pixels (f = 1) and in latents.

    `training`, `step` and `decode` are fitted. Of the autoencoder's training and of encoding only one rate each was
    recorded (`first_stage_rates`, in FLOP/s), so they are FLOPs over that rate. With `attention_up_to` both networks
    are those that keep their attention on such grids (`networks_at`), in both spaces.
    """

    unet: UNetConfig
    autoencoder: AutoencoderConfig
    training: CallModel
    step: CallModel
    decode: CallModel
    first_stage_rates: tuple[float, float]

    def prices(self, side: int, f: int, *, batch: int = BATCH, attention_up_to: float = math.inf) -> Prices:
        """Seconds a picture of `side` x `side`, in calls on `batch`. ValueError: a side that the networks refuse."""
        network, first = networks_at(self.unet, self.autoencoder, side, f, attention_up_to)
        training, step = (unet_flops(network, side // f, backward=backward) for backward in (True, False))
        found = self.training.seconds(training, batch), self.step.seconds(step, batch)
        if f == 1:
            return Prices(*found)
        decode = self.decode.seconds(autoencoder_flops(first, side, "decode"), batch)
        trains, encodes = self.first_stage_rates
        encode = autoencoder_flops(first, side, "encode").total / encodes
        own = autoencoder_flops(first, side, "both", backward=True).total / trains
        return Prices(*found, decode, encode, own)


def first_stage_rates(record: Mapping[str, Any]) -> tuple[float, float]:
    """FLOP/s of an autoencoder's training and of encoding, by a record of `training-speed`, or of `compare`, whose
    clock also counts what its trainings have to wait for.

    The perceptual loss takes its part of the seconds, and none of the FLOPs that are counted.
    """
    if "first_stage" in record["results"]:
        spent = record["results"]["first_stage"]
        network = from_stored(AutoencoderConfig, spent["network"])
        both, encode = autoencoder_flops(network, 32, "both", backward=True), autoencoder_flops(network, 32, "encode")
        return both.total / spent["training_seconds_image"], encode.total / spent["encode_seconds_image"]
    spent = record["results"]["autoencoder"]
    return spent["training_flops"] / spent["training_seconds"], spent["encode_flops"] / spent["encode_seconds"]


def cost_model(cost: Mapping[str, Any], first_stage: Mapping[str, Any]) -> CostModel:
    """The model fitted to a record of the stage `cost`, with the first stage's rates from one of `training-speed` or
    `compare`; both are to be from one kind of machine (`records.recorded_together`)."""
    fitted = (fit(calls(cost, what)) for what in ("training", "step", "decode"))
    return CostModel(*networks(cost), *fitted, first_stage_rates(first_stage))


# ---------------------------------------------------------------------------------------------------- the bill


@dataclass(frozen=True)
class Work:
    """What is to be done: the denoiser sees `trained` pictures, `sampled` are made in `steps` steps each.

    For a latent, `data` pictures are encoded once, and the autoencoder is trained on `autoencoder` pictures before: 0
    where it exists already.
    """

    trained: int
    sampled: int = 0
    steps: int = 50
    data: int = 0
    autoencoder: int = 0


# What a small study does: a million pictures seen, ten thousand made, of fifty thousand. Once with an autoencoder that
# is there, once with one that must first see as many pictures as the denoiser.
READY = Work(trained=1_000_000, sampled=10_000, steps=50, data=50_000)
FROM_NOTHING = replace(READY, autoencoder=1_000_000)
SIDES = range(32, 1025, 32)  # multiples of 32, which the course's networks take for every f


def bill(prices: Prices, work: Work) -> dict[str, float]:
    """Seconds by item; in pixels the last three are 0."""
    return {
        "training": work.trained * prices.training,
        "sampling": work.sampled * work.steps * prices.step,
        "decoding": work.sampled * prices.decode,
        "encoding": work.data * prices.encode,
        "autoencoder": work.autoencoder * prices.autoencoder,
    }


def total(prices: Prices, work: Work) -> float:
    """Seconds of all items."""
    return sum(bill(prices, work).values())


def break_even_side(model: CostModel, f: int, work: Work, sides: Sequence[int], **options) -> int | None:
    """The smallest of `sides` from which on the latent is cheaper in total at every larger one too; None: at none.

    `options` are those of `CostModel.prices`.
    """
    found = None
    for side in sorted(sides, reverse=True):
        pixel, latent = (total(model.prices(side, g, **options), work) for g in (1, f))
        if latent >= pixel:
            break
        found = side
    return found


def break_even(once: float, saved: float) -> float:
    """How often something must be done until what it saves each time has paid for what was spent once: 0 where nothing
    was spent, infinite where nothing is saved."""
    if once <= 0:
        return 0.0
    return once / saved if saved > 0 else math.inf


def break_even_sampled(pixel: Prices, latent: Prices, work: Work) -> float:
    """Pictures to be sampled until the latent is cheaper, all else as in `work`; 0 where it is from the start."""
    before = Work(work.trained, 0, work.steps, work.data, work.autoencoder)
    saved = work.steps * (pixel.step - latent.step) - latent.decode
    return break_even(total(latent, before) - total(pixel, before), saved)


def break_even_trained(pixel: Prices, latent: Prices, work: Work) -> float:
    """Pictures that the denoiser has to see until the latent is cheaper, all else as in `work`."""
    before = Work(0, work.sampled, work.steps, work.data, work.autoencoder)
    return break_even(total(latent, before) - total(pixel, before), pixel.training - latent.training)


def allowance(pixel: Prices, latent: Prices, work: Work) -> float:
    """How many pictures the autoencoder may be trained on until the latent's saving is used up; 0: it saves nothing."""
    free = Work(work.trained, work.sampled, work.steps, work.data, 0)
    return max(0.0, total(pixel, free) - total(latent, free)) / latent.autoencoder

"""Stages: time and memory of a step, by side, and a training step from float32 to compiled (chapters 1 and 3)."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ...config import AutoencoderConfig, UNetConfig
from ...device import native_precision
from ...measure.complexity import autoencoder_flops, count_parameters, latent_shape, unet_flops
from ...measure.timing import activation_memory, time_call, training_step
from ...networks.autoencoder import Autoencoder
from ...networks.unet import UNet
from ...training.recipes import seeded
from .base import Run, Stage, autoencoder_of, matrix_rates, minutes, timed


def cost(run: Run) -> dict:
    """A training step, a sampling step and a decoding, in pixels and in latents of f = 2, 4 and 8, at every side.

    Each at batch 1 and in a large batch (a power of two, at most 1024). Peak memory is what a GPU reports; on a CPU,
    for training, it is reckoned from what the backward pass keeps. What would take too long is left out, and says so.
    """
    rows = []
    for side in run.scale.sides:
        for f in (1, 2, 4, 8):
            channels, here = (3, side) if f == 1 else (run.profile.autoencoder.latent_channels, side // f)
            network = run.profile.unet.for_channels(channels)
            if here % 2 ** (len(network.block_out_channels) - 1):
                continue
            row = {"side": side, "f": f, "shape": [channels, here, here]}
            row |= _cost_of_denoiser(run, network, here)
            if f > 1:
                row["decode"] = _cost_of_decoding(run, autoencoder_of(run.profile, f), side)
            rows.append(row)
            print(f"  {side} a side, {'pixels' if f == 1 else f'f = {f}'}: {_brief(row)}", flush=True)
    return {"precision": native_precision(run.device), "rows": rows, "matmul_flop_per_s": matrix_rates(run.device)}


def _brief(row: dict) -> str:
    shown = []
    for what in ("training", "step"):
        entry = row[what]
        shown.append(f"{what} " + (f"{entry['seconds_image']:.3g} s" if "seconds_image" in entry else entry["why"]))
    return ", ".join(shown)


def _cost_of_denoiser(run: Run, network: UNetConfig, side: int) -> dict:
    forward, both = (unet_flops(network, side, backward=b).total for b in (False, True))
    row = {"flops_step": forward, "flops_training": both}
    model = seeded(0, UNet, network).to(run.device)

    def training(batch: int) -> Callable[[], None]:
        x = torch.randn(batch, network.in_channels, side, side, device=run.device)
        t = torch.zeros(batch, dtype=torch.int64, device=run.device)
        return training_step(model, x, t, torch.randn_like(x), half=native_precision(run.device) == "bf16")

    def sampling(batch: int) -> Callable[[], Tensor]:
        x = torch.randn(batch, network.in_channels, side, side, device=run.device)
        t = torch.zeros(batch, dtype=torch.int64, device=run.device)
        return _inference(lambda: model(x, t), run.device)

    row["kept_for_backward"] = kept = _kept(run, model, both, side)
    # weights, their gradients, two moments and the average, in float32
    row["training"] = _at_batches(run, training, both, state=20 * count_parameters(model), each=kept)
    row["step"] = _at_batches(run, sampling, forward)
    return row


def _kept(run: Run, model: UNet, flops: int, side: int) -> int | None:
    """Bytes that a picture's training keeps from the forward for the backward pass, in float32; None if too dear."""
    if _expected(run, flops) > run.scale.call_seconds:
        return None
    x = torch.randn(1, model.config.in_channels, side, side, device=run.device)
    try:
        return activation_memory(model, x, torch.zeros(1, dtype=torch.int64, device=run.device)).saved
    except torch.cuda.OutOfMemoryError:
        return None


def _cost_of_decoding(run: Run, config: AutoencoderConfig, side: int) -> dict:
    model = seeded(0, Autoencoder, config).to(run.device).eval()
    c, here, _ = latent_shape(config, side)
    flops = autoencoder_flops(config, side, "decode").total

    def decoding(batch: int) -> Callable[[], Tensor]:
        z = torch.randn(batch, c, here, here, device=run.device)
        return _inference(lambda: model.decode(z), run.device)

    return {"flops": flops} | _at_batches(run, decoding, flops)


def _inference(fn: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, native_precision(device) == "bf16"):
            return fn()

    return call


def _expected(run: Run, flops: int) -> float:
    """Seconds, by a rate that is low for a large GPU, or for two cores."""
    return flops / (1.5e14 if run.device.type == "cuda" else 5e10)


def _at_batches(run: Run, make: Callable[[int], Callable], flops: int, state: int = 0, each: int | None = None) -> dict:
    """Seconds an image, alone and in a large batch: on a GPU the largest that fits, found by trying, with the peak of
    its memory; on a CPU one as large as the time allows. There, a picture that takes `each` bytes, beside `state` for
    all of them, fits as often as `Scale.memory` says.
    """
    expected, found = _expected(run, flops), {}
    if expected > run.scale.call_seconds:
        return {"why": f"left out: about {expected:.0f} s a call here"}
    if run.device.type == "cuda":
        batch, peak = _largest_batch(make)
        found = {"largest_batch": batch, "peak_bytes": peak}
    else:
        batch = _power(min(64, max(1, run.scale.call_seconds / 4 / expected)))
        if each:
            fits = _power(min(1024, (run.scale.memory - state) / each))
            batch, found = min(batch, fits), {"largest_batch": fits, "peak_bytes": state + fits * each}
    if not batch:
        return {"why": "left out: not even one picture fits into the memory"}
    timings = {b: timed(make(b), run) for b in sorted({1, batch})}
    return found | {
        "batch": batch,
        "seconds_image": timings[batch].median / batch,
        "spread": [timings[batch].low / batch, timings[batch].high / batch],
        "seconds_alone": timings[1].median,
        "flop_per_s": flops * batch / timings[batch].median,
    }


def _power(most: float) -> int:
    """The largest power of two up to `most`; 0 where there is none."""
    return 2 ** int(math.log2(most)) if most >= 1 else 0


def _largest_batch(make: Callable[[int], Callable]) -> tuple[int, int]:
    """By trying, doubling: the largest batch that a GPU takes, and the bytes that it then holds at most."""
    batch, found = 1, (0, 0)
    while batch <= 1024:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            make(batch)()
            torch.cuda.synchronize()
        except torch.cuda.OutOfMemoryError:
            break
        found = batch, torch.cuda.max_memory_allocated()
        batch *= 2
    gc.collect()
    torch.cuda.empty_cache()
    return found


def speed(run: Run) -> dict:
    """A training step of the profile's U-Net at its size: float32, then half precision, channels_last, compiled.

    Rungs of one ladder, each keeping what the one before had. Images a second, FLOP/s, and their part of the matrix
    rate in the same precision, measured in the same run.
    """
    p, half = run.profile, native_precision(run.device) == "bf16"
    network, batch = p.unet, p.batch_size
    flops = batch * unet_flops(network, p.size, backward=True).total
    x = torch.randn(batch, 3, p.size, p.size, device=run.device)
    t = torch.randint(1000, (batch,), device=run.device)
    rates, rungs = matrix_rates(run.device), []
    for name, in_half, order, compiled in (
        ("float32", False, torch.contiguous_format, False),
        ("half precision", True, torch.contiguous_format, False),
        ("channels_last", True, torch.channels_last, False),
        ("compiled", True, torch.channels_last, True),
    ):
        if in_half and not half:
            continue
        model = seeded(0, UNet, network).to(run.device, memory_format=order)
        if compiled:
            model.compile()
        step = training_step(model, x.contiguous(memory_format=order), t, torch.randn_like(x), half=in_half)
        started = time.perf_counter()
        step()
        first = time.perf_counter() - started
        taken = time_call(step, repeats=9, warmup=2, seconds=run.scale.call_seconds)
        rungs.append(
            {
                "rung": name,
                "seconds": taken.summary(),
                "first_call_seconds": first,
                "images_per_s": batch / taken.median,
                "flop_per_s": flops / taken.median,
                "share_of_matmul": flops / taken.median / rates["bf16" if in_half else "float32"],
            }
        )
        print(f"  {name}: {batch / taken.median:.0f} images/s, {rungs[-1]['share_of_matmul']:.0%}", flush=True)
    return {
        "network": network,
        "parameters": count_parameters(model),
        "batch": batch,
        "shape": list(x.shape[1:]),
        "matmul_flop_per_s": rates,
        "rungs": rungs,
    }


STAGES = (
    Stage(
        "cost",
        "time and memory of a step, pixels and f = 2, 4, 8, from 32 to 1024 a side",
        cost,
        minutes(6, 6),
        shows={"matrix products, FLOP/s": "matmul_flop_per_s.float32"},
    ),
    Stage(
        "training-speed",
        "a training step, from float32 to compiled half precision",
        speed,
        minutes(4, 4),
        shows={"images/s": "rungs[last].images_per_s", "of the matrix rate": "rungs[last].share_of_matmul"},
    ),
)

"""Stages: time and memory of a step, by side, and a training step from float32 to compiled (chapters 1 and 3)."""

from __future__ import annotations

import gc
import json
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ...config import AutoencoderConfig, UNetConfig
from ...data.pictures import Pictures
from ...device import computed_in
from ...files import written_whole
from ...measure.complexity import autoencoder_flops, count_parameters, latent_shape, unet_flops
from ...measure.cost_model import BUILT, BUILT_UP_TO, STANDARD, networks_at
from ...measure.timing import Timing, activation_memory, time_call, training_step
from ...networks.autoencoder import Autoencoder
from ...networks.unet import UNet
from ...training.graphs import WARM_STEPS, recorded
from ...training.recipes import autoencoder_trainer, seeded
from .base import Run, Stage, matrix_rates, minutes, timed

LARGEST = 1024  # pictures a batch


def cost(run: Run) -> dict:
    """A training step, a sampling step and a decoding, in pixels and in latents of f = 2, 4 and 8, at every side.

    With the profile's networks, "standard", and where it is another, with those that one would build for the size
    (`cost_model.networks_at`); a row that `serves_both` says that it is not. Each at batch 1 and in a large batch (a
    power of two, at most 1024), in the row's `precision`. Peak memory is what a GPU reports; on a CPU, for training, it
    is worked out from what the backward pass keeps. What would take too long is left out, and says so.
    """
    kept, rows = run.folder / "rows.json", []
    known = json.loads(kept.read_text()) if kept.is_file() else []  # of a run that was stopped
    for side in run.scale.sides:
        for f in (1, 2, 4, 8):
            before = [row for row in known if (row["side"], row["f"]) == (side, f)]
            rows += before or _said(_rows(run, side, f))
            with written_whole(kept) as path:
                path.write_text(json.dumps(rows))
    free = torch.cuda.mem_get_info(run.device)[0] if run.device.type == "cuda" else None
    rates = matrix_rates(run.device)
    return {"precision": computed_in(run.device), "rows": rows, "matmul_flop_per_s": rates, "gpu_bytes_free": free}


def _rows(run: Run, side: int, f: int) -> list[dict]:
    """The row of one space at one side, or two, if one would build other networks for it; none if it is too small."""
    p, grid, rows, known = run.profile, side // f, [], {}
    if grid % p.unet.multiple:
        return rows
    standard, built = (networks_at(p.unet, p.autoencoder, side, f, most) for most in (math.inf, BUILT_UP_TO))
    networks = {STANDARD: standard} | ({} if built == standard else {BUILT: built})
    for name, (unet, first) in networks.items():
        row = {
            "side": side,
            "f": f,
            "network": name,
            "serves_both": built == standard,
            "precision": computed_in(run.device),
            "shape": [unet.in_channels, grid, grid],
        }
        if unet not in known:
            known[unet] = _cost_of_denoiser(run, unet, grid)
        row |= known[unet]
        if f > 1:
            row["decode"] = _cost_of_decoding(run, first, side)
        rows.append(row)
    return rows


def _said(rows: list[dict]) -> list[dict]:
    for row in rows:
        what = "pixels" if row["f"] == 1 else f"f = {row['f']}"
        print(f"  {row['side']} a side, {what}, {row['network']} network: {_brief(row)}", flush=True)
    return rows


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
        return training_step(model, x, t, torch.randn_like(x), half=computed_in(run.device) == "bf16")

    def sampling(batch: int) -> Callable[[], Tensor]:
        x = torch.randn(batch, network.in_channels, side, side, device=run.device)
        t = torch.zeros(batch, dtype=torch.int64, device=run.device)
        return _inference(lambda: model(x, t), run.device)

    row["kept_for_backward"] = kept = _kept(run, model, both, side)
    # weights, their gradients, two moments and the average, in float32
    fits = _largest_batch(run, training, both, state=20 * count_parameters(model), each=kept)
    row["training"] = _at_batches(run, training, both, fits)
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
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, computed_in(device) == "bf16"):
            return fn()

    return call


def _expected(run: Run, flops: int) -> float:
    """Seconds, by a rate that is low for so small a network on a large GPU, or on two cores."""
    return flops / (2e13 if run.device.type == "cuda" else 5e10)


def _at_batches(run: Run, make: Callable[[int], Callable], flops: int, fits: dict | None = None) -> dict:
    """Seconds an image, alone and in a batch as large as the time allows, and `fits`, what `_largest_batch` found."""
    expected = _expected(run, flops)
    if expected > run.scale.call_seconds:
        return {"why": f"left out: about {expected:.0f} s a call here"}
    batch = _power(min(_most(run), max(1, run.scale.call_seconds / 4 / expected)))
    if fits:
        batch = min(batch, fits["largest_batch"])
    batch, in_batch = _timed_in_batch(run, make, batch)
    if not batch:
        return {"why": "left out: not even one picture fits into the memory"}
    alone = in_batch if batch == 1 else timed(make(1), run)
    return (fits or {}) | {
        "batch": batch,
        "seconds_image": in_batch.median / batch,
        "spread": [in_batch.low / batch, in_batch.high / batch],
        "seconds_alone": alone.median,
        "flop_per_s": flops * batch / in_batch.median,
    }


def _most(run: Run) -> int:
    """The largest batch that is timed."""
    return LARGEST if run.device.type == "cuda" else 64


def _power(most: float) -> int:
    """The largest power of two up to `most`; 0 where there is none."""
    return 2 ** int(math.log2(most)) if most >= 1 else 0


def _timed_in_batch(run: Run, make: Callable[[int], Callable], batch: int) -> tuple[int, Timing | None]:
    """A batch of the size asked for, or the largest half of it that a GPU holds, and its times; (0, None) if none."""
    while batch:
        try:
            return batch, timed(make(batch), run)
        except torch.cuda.OutOfMemoryError:
            batch //= 2
        _free()
    return 0, None


def _largest_batch(run: Run, make: Callable[[int], Callable], flops: int, state: int, each: int | None) -> dict:
    """The largest power of two, up to LARGEST, of pictures that one training step takes, and its bytes at most.

    On a GPU by trying, from where the peaks of one picture and of two point. On a CPU a picture that takes `each`
    bytes, beside `state` for all of them, fits as often as `Scale.memory` says. Empty where it is not known.
    """
    if _expected(run, flops) > run.scale.call_seconds:
        return {}
    if run.device.type != "cuda":
        batch = _power(min(LARGEST, (run.scale.memory - state) / each)) if each else 0
        return {"largest_batch": batch, "peak_bytes": state + batch * each} if each else {}
    one, two = (_peak(make, n) for n in (1, 2))
    if not (one and two):
        return {"largest_batch": 1 if one else 0, "peak_bytes": one or 0}
    space = torch.cuda.get_device_properties(run.device).total_memory
    batch = max(2, _power(min(LARGEST, (space - one) / max(1, two - one))))
    found = 2, two
    while batch > found[0] and not (peak := _peak(make, batch)):
        batch //= 2
    while batch > found[0] and peak:
        found = batch, peak
        batch *= 2
        peak = _peak(make, batch) if batch <= LARGEST else None
    return {"largest_batch": found[0], "peak_bytes": found[1]}


def _peak(make: Callable[[int], Callable], batch: int) -> int | None:
    """The bytes that a GPU holds at most in a call on so many pictures, or None where it cannot hold them."""
    torch.cuda.reset_peak_memory_stats()
    try:
        make(batch)()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    except torch.cuda.OutOfMemoryError:
        pass
    _free()
    return None


def _free() -> None:
    gc.collect()
    torch.cuda.empty_cache()


AT_ONCE = 4  # steps of a trainer that are timed together
SHAPES = ((3, 32), (4, 8), (4, 16), (3, 64))  # channels and side of what the trainings' networks are given


def speed(run: Run) -> dict:
    """A training step of the profile's U-Net at the profile's batch, for each of SHAPES: pixels and latents.

    Rungs of one ladder, each keeping what the one before had: float32, half precision, channels_last; and on a GPU,
    compiled, where the profile compiles, and half precision as one CUDA graph. Seconds an image, FLOP/s, and their part
    of the matrix rate in the same precision, measured in the same run. `as_trained` is the rung that the trainer runs
    on, and its seconds an image by shape, and `first_stage` the autoencoder's: the rates by which images become
    seconds. To be run alone on the machine.
    """
    rates, rungs = matrix_rates(run.device), []
    for channels, side in SHAPES:
        rungs += _ladder(
            run, run.profile.unet.for_channels(channels), side, rates, compiled=(channels, side) == SHAPES[0]
        )
    first, measured = rungs[0], {r["rung"] for r in rungs}
    rung_of = ["CUDA graph"] * run.scale.cuda_graph + ["half precision", "float32"]
    trained = next(rung for rung in rung_of if rung in measured)
    return {
        "network": run.profile.unet,
        "parameters": first["parameters"],
        "batch": run.profile.batch_size,
        "shape": first["shape"],
        "matmul_flop_per_s": rates,
        "tf32_convolutions": run.device.type == "cuda" and torch.backends.cudnn.allow_tf32,
        "as_trained": {
            "rung": trained,
            "precision": computed_in(run.device),
            "seconds_image": {r["input"]: r["seconds_image"] for r in rungs if r["rung"] == trained},
        },
        "first_stage": first_stage(run, 4),
        "rungs": rungs,
    }


def first_stage(run: Run, f: int) -> dict:
    """Seconds an image of the autoencoder's own training at 32 a side, perceptual loss included, and of encoding."""
    batch = run.profile.autoencoder_batch_size or run.profile.batch_size
    network = run.profile.autoencoder.for_downsample(f)
    data = Pictures(torch.randint(256, (batch, 3, 32, 32), dtype=torch.uint8))
    config = run.train_config(batch_size=batch, steps=10**6, seconds=None, compile=False)
    trainer = autoencoder_trainer(data, network, config)
    trainer.run(until=2 * WARM_STEPS)
    trained = timed(lambda: trainer.run(until=trainer.progress.step + AT_ONCE), run).median / (AT_ONCE * batch)
    model, x = trainer.snapshot(), trainer.objective.data.batch(torch.arange(batch), run.device)
    with torch.no_grad():
        encoded = timed(lambda: model.encode(x), run).median / batch
    return {
        "f": f,
        "network": network,
        "batch": batch,
        "precision": computed_in(run.device),
        "training_seconds_image": trained,
        "encode_seconds_image": encoded,  # in float32, as `encode_pictures` does it
    }


def _ladder(run: Run, network: UNetConfig, side: int, rates: dict[str, float], compiled: bool) -> list[dict]:
    """The rungs of `speed` for one network; `compiled`: with the last one, where that is a GPU's."""
    batch, shape = run.profile.batch_size, (network.in_channels, side, side)
    flops = batch * unet_flops(network, side, backward=True).total
    x, t = torch.randn(batch, *shape, device=run.device), torch.randint(1000, (batch,), device=run.device)
    ladder, rungs = [("float32", False, torch.contiguous_format)], []
    if computed_in(run.device) == "bf16":
        ladder += [("half precision", True, torch.contiguous_format), ("channels_last", True, torch.channels_last)]
        if run.device.type == "cuda":
            ladder += [("compiled", True, torch.channels_last)] if compiled and run.scale.compile else []
            ladder += [("CUDA graph", True, torch.contiguous_format)]
    for name, half, order in ladder:
        model = seeded(0, UNet, network).to(run.device, memory_format=order)
        if name == "compiled":
            model.compile()
        step = training_step(model, x.contiguous(memory_format=order), t, torch.randn_like(x), half=half)
        started = time.perf_counter()
        step()
        if run.device.type == "cuda":
            torch.cuda.synchronize(run.device)
        first = time.perf_counter() - started
        if name == "CUDA graph":
            step = recorded(step)
        taken = time_call(step, repeats=9, warmup=2, seconds=run.scale.call_seconds)
        precision = "bf16" if half else "float32"
        rungs.append(
            {
                "input": f"{shape[0]}x{side}x{side}",
                "shape": list(shape),
                "parameters": count_parameters(model),
                "rung": name,
                "precision": precision,
                "seconds": taken.summary(),
                "first_call_seconds": first,
                "seconds_image": taken.median / batch,
                "images_per_s": batch / taken.median,
                "flop_per_s": flops / taken.median,
                "share_of_matmul": flops / taken.median / rates[precision],
            }
        )
        print(f"  {rungs[-1]['input']}, {name}: {batch / taken.median:.0f} images/s", flush=True)
    return rungs


STAGES = (
    Stage(
        "cost",
        "time and memory of a step, pixels and f = 2, 4, 8, from 32 to 1024 a side",
        cost,
        minutes(1.5, 6),
        shows={"matrix products, FLOP/s": "matmul_flop_per_s.float32"},
    ),
    Stage(
        "training-speed",
        "a training step in both spaces, from float32 to compiled half precision",
        speed,
        minutes(1, 4),
        shows={"s an image, pixels": "as_trained.seconds_image.3x32x32", "latents": "as_trained.seconds_image.4x8x8"},
    ),
)

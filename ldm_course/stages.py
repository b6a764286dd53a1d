"""What each reference stage does, from the cost of a step to what is left of fine structures (chapters 2 to 7).

A stage is a function of a `Run`, which says how far to go and where to put things, and returns results for a record.
`reference` names the stages, runs them and keeps their records. A run that was stopped is found again in its folder.
"""

from __future__ import annotations

import gc
import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from . import checkpoints, evaluation, plotting, stability, structures
from .autoencoder import Autoencoder
from .complexity import autoencoder_flops, count_parameters, latent_shape, unet_flops
from .config import AutoencoderConfig, Profile, TrainConfig, UNetConfig, native_precision
from .data import Crops, Pictures, load_data, to_float, to_uint8
from .measure import Timing, activation_memory, machine_rates, time_call, training_step
from .objectives import DenoisingObjective, mean_loss
from .perception import against_noise
from .recipes import (
    autoencoder_trainer,
    denoiser_of,
    denoiser_trainer,
    finished_autoencoder,
    further_trainer,
    seeded,
)
from .records import home, load_record, written_whole
from .runs import AutoencoderRun
from .schedules import make_schedule
from .spaces import LatentSpace, PixelSpace, encode_pictures, generate
from .training import STATE_FILE, Progress, Trainer, thinned
from .unet import UNet

SCHEDULE, PREDICTION = "cosine", "v"
POINTS = 12  # at which a denoiser is judged on its way, each √2 times as far as the one before
STEPS = (5, 10, 20, 50, 100, 250, 1000)  # of the sampling tables
FIRST_MARK = 50_000  # images, of trainings that go on for hours; √2 times as many at each further mark
FEW = 1000  # pictures to train on, for the claims about overfitting
RATES = (4, 16)  # times the learning rate, for the claim about stability
WARM_UP = 25  # steps for these trainings: short, so that it is the rate that is tested
PUBLISHED = (("checkpoints", "safetensors"), ("records", "json"))  # folders, and the files in them
BLOCKS = 60  # points of a stored training curve
LOSSES = {  # the autoencoder's, each with one term more
    "l1": {"perceptual_weight": 0.0},
    "perceptual": {},
    "adversarial": {"adversarial_weight": 0.01},
}
LR_FIRST_STAGE = 1e-3  # falling to zero, in small batches: tried on crops of emoji
USED = "perceptual"  # the one of these whose latents the denoisers get


@dataclass(frozen=True)
class Scale:
    """How far the stages go on one kind of machine.

    `images`: what CIFAR-10's pixel denoiser sees; the latent one gets the same FLOPs. `crops`: what the first stage for
    all sizes sees. `long`: trainings go on for hours, so they end after their images and not by the clock, are judged at
    marks that do not depend on the end, leave a record at each, and know classes where the data has some. `seeds` trainings tell how much a
    seed matters, each of `seed_images` at most in pixels. `limit`: the most pictures of a
    data set that are used, None for all. `sides` of the cost stage, where no call may be expected to take more than
    `call_seconds`, and on a CPU, no batch more than `memory` bytes.
    """

    images: int
    compile: bool
    crops: int = 400_000
    long: bool = False
    seeds: int = 5
    seed_images: int = 200_000
    limit: int | None = None
    sides: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)
    call_seconds: float = 20.0
    memory: float = 8 * 2**30


SCALES = {
    "smoke": Scale(
        images=64,
        compile=False,
        crops=64,
        seeds=2,
        seed_images=48,
        limit=256,
        sides=(32, 64),
        call_seconds=1.0,
        memory=2**28,
    ),
    "cpu": Scale(images=48_000, compile=False, seeds=3, seed_images=4000),
    "hours": Scale(images=1_500_000, compile=False, long=True, seeds=3),
    "gpu": Scale(images=1_000_000, compile=False),
    "reference": Scale(images=5_000_000, compile=True),
}


@dataclass(frozen=True)
class Run:
    """One run of one stage: `seconds` of training at most (for each network that it trains), files below `out`.

    `keep(results)` makes a record of what there is before the end, for stages that go on for hours.
    """

    stage: str
    profile: Profile
    out: Path
    seconds: float
    device: torch.device
    keep: Callable[[dict], object] = lambda results: None

    @property
    def scale(self) -> Scale:
        return SCALES[self.profile.name]

    @property
    def name(self) -> str:
        return record_name(self.stage, self.profile)

    @property
    def folder(self) -> Path:
        """For what lets the run go on after a stop."""
        return self.out / "states" / self.name

    def has_ended(self, progress: Progress, images: int | None) -> bool:
        """Whether a training is over: it has seen its images, or its time is up."""
        return progress.seconds >= self.seconds or (images is not None and progress.images >= images)

    @property
    def picture(self) -> Path:
        return self.out / "records" / f"{self.name}.png"

    def weights(self, stage: str | None = None) -> Path:
        """Where this stage's weights go, or where those of another one are; ValueError if they are not there."""
        name = f"{record_name(stage or self.stage, self.profile)}.safetensors"
        here = self.out / "checkpoints" / name
        if stage is None or here.is_file():
            return here
        if (stored := home() / "checkpoints" / name).is_file():
            return stored
        raise ValueError(f"{self.stage} needs the weights of {stage}; run: ldm-course reference --stage {stage}")

    def train_config(self, **options) -> TrainConfig:
        p = self.profile
        common = {"batch_size": p.batch_size, "lr": p.lr, "ema_decay": p.ema_decay, "compile": self.scale.compile}
        return TrainConfig(**(common | {"seconds": self.seconds} | options))


def record_name(stage: str, profile: Profile) -> str:
    """A stage's record in one profile: runs on a CPU and on a GPU never share a name."""
    return f"{stage}-{profile.name}"


def autoencoder_of(profile: Profile, f: int) -> AutoencoderConfig:
    """The profile's autoencoder with as many levels as f needs."""
    return profile.autoencoder.for_downsample(f)


# ----------------------------------------------------------------------------------------------- cost


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
    return {"precision": native_precision(run.device), "rows": rows, "matmul_flop_per_s": _rate(run.device)}


def _brief(row: dict) -> str:
    shown = []
    for what in ("training", "step"):
        entry = row[what]
        shown.append(f"{what} " + (f"{entry['seconds_image']:.3g} s" if "seconds_image" in entry else entry["why"]))
    return ", ".join(shown)


def _rate(device: torch.device) -> dict[str, float]:
    """The machine's FLOP/s in matrix products, by precision."""
    kinds = {"float32": torch.float32} | ({"bf16": torch.bfloat16} if native_precision(device) == "bf16" else {})
    return {name: machine_rates(device, dtype, seconds=4.0).matmul for name, dtype in kinds.items()}


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
    timings = {b: _timed(make(b), run) for b in sorted({1, batch})}
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


def _timed(fn: Callable, run: Run) -> Timing:
    return time_call(fn, repeats=7, warmup=1, seconds=run.scale.call_seconds / 8)


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
    rates, rungs = _rate(run.device), []
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


# ------------------------------------------------------------------------------------------ autoencoders


def autoencoder(run: Run, data: str, size: int, f: int, *, few: bool = False) -> dict:
    """One autoencoder for each entry of LOSSES, on the same pictures for the same time; `few`: on FEW of them.

    PSNR, SSIM and FD-E of held-out reconstructions. The weights that are kept are those with the loss USED.
    """
    p = run.profile
    if run.scale.long and not few:
        return autoencoder_of_photographs(run, data, f, p.autoencoder.latent_channels)
    train, test = (load_data(data, size, split, limit=_limit(run, split, few)) for split in ("train", "test"))
    network, variants, rows = autoencoder_of(p, f), {}, [test.images[:8]]
    for name, losses in LOSSES.items():
        if few and name != USED:
            continue
        config = run.train_config(batch_size=p.autoencoder_batch_size or p.batch_size)
        trainer = autoencoder_trainer(train, network, config, losses=losses, out=run.folder / name)
        progress = trainer.run(show=True, label=f"{run.stage}, {name}")
        judged = AutoencoderRun(trainer, test)
        variants[name] = {
            "training_seconds": progress.seconds,
            "training_images": progress.images,
            "images_per_s": steady_rate(progress.history),
            "precision": trainer.precision,
            "history": thinned(progress.history, 60),
            **judged.results(4 * p.eval_count),
        }
        rows.append(judged.rebuilt(trainer.snapshot(), 8)[1])
        if name == USED:
            model = finished_autoencoder(trainer)
            origin = {"record": run.name, "data": train.name}
            checkpoints.save_model(run.weights(), model, half=True, **origin)
    _save_grid(run, torch.cat(rows))
    return {
        "data": _about(train, test),
        "f": f,
        "parameters": count_parameters(model),
        "encode_flops": autoencoder_flops(network, size, "encode").total,
        "decode_flops": autoencoder_flops(network, size, "decode").total,
        "training_flops_image": autoencoder_flops(network, size, "both", backward=True).total,
        "network": network,
        "rows_of_the_picture": ["held-out pictures", *variants],
        "variants": variants,
    }


FIRST_STAGE_SETS = (("emoji", 64), ("emoji", 128), ("scenes", 64))  # what the first stage for all sizes is made of
FIRST_STAGE_SCENES = 4000


def first_stage(run: Run, f: int, channels: int) -> dict:
    """One autoencoder for emoji and scenes at every size: trained on crops, judged on whole held-out pictures.

    It sees `Scale.crops` windows of 32 x 32, at a rate that falls to zero; after each twice as many it is judged.
    """
    p, wanted = run.profile, run.scale.crops
    limits = {"emoji": run.scale.limit, "scenes": run.scale.limit or FIRST_STAGE_SCENES}
    train = Crops(tuple(load_data(data, size, limit=limits[data]) for data, size in FIRST_STAGE_SETS))
    tests = {
        f"{data} at {size}": load_data(data, size, "test", limit=min(256, p.eval_count))
        for data, size in FIRST_STAGE_SETS
    }
    return _autoencoder_for_hours(run, train, tests, f, channels, wanted)


def autoencoder_of_photographs(run: Run, data: str, f: int, channels: int) -> dict:
    """An autoencoder of whole pictures of 32 a side, for as many images as the first stage for all sizes, or more."""
    train, test = (load_data(data, 32, split, limit=run.scale.limit) for split in ("train", "test"))
    test = test.subset(range(min(len(test), run.profile.eval_count)))
    return _autoencoder_for_hours(run, train, {f"{data} at 32": test}, f, channels, 5 * run.scale.crops // 2)


def _autoencoder_for_hours(run: Run, train: Pictures | Crops, tests: dict, f: int, channels: int, wanted: int) -> dict:
    p = run.profile
    network = replace(autoencoder_of(p, f), latent_channels=channels, mid_attention=False)
    batch = p.autoencoder_batch_size or p.batch_size
    config = run.train_config(batch_size=batch, lr=LR_FIRST_STAGE, images=wanted, decay="cosine")
    trainer = autoencoder_trainer(train, network, config, losses=LOSSES[USED], out=run.folder)
    kept = run.folder / "points.json"
    points = _points_so_far(run, trainer, kept)

    def results() -> dict:
        progress = trainer.progress
        model = finished_autoencoder(trainer)
        checkpoints.save_model(run.weights(), model, half=True, record=run.name, data=train.name)
        judges = {name: AutoencoderRun(trainer, test) for name, test in tests.items()}
        rows = [part for judge in judges.values() for part in judge.rebuilt(model, 8)]
        largest = max(len(row[0, 0]) for row in rows)
        _save_grid(run, torch.cat([F.interpolate(row, scale_factor=largest // row.shape[-1]) for row in rows]))
        return {
            "finished": run.has_ended(progress, wanted),
            "data": {"name": train.name, "source": train.source, "size": train.size, "train": len(train)},
            "f": f,
            "parameters": count_parameters(model),
            "training_flops_image": autoencoder_flops(network, train.size, "both", backward=True).total,
            "network": network,
            "rows_of_the_picture": [f"{name}, {what}" for name in tests for what in ("held out", "rebuilt")],
            "variants": {
                USED: {
                    "training_seconds": progress.seconds,
                    "training_images": progress.images,
                    "wanted_images": wanted,
                    "images_per_s": steady_rate(progress.history),
                    "precision": trainer.precision,
                    "history": thinned(progress.history, 60),
                    "latent_scale": model.latent_scale.item(),
                    "held_out": {name: judge.results(len(judge.test)) for name, judge in judges.items()},
                }
            },
            "points": points,
        }

    for part in (32, 16, 8, 4, 2, 1):
        progress = trainer.run(until=-(-wanted // part // batch), show=True, label=run.stage)
        if points and points[-1]["step"] >= progress.step:
            continue
        model = trainer.snapshot()
        found = {}
        for name, test in tests.items():
            originals, rebuilt = AutoencoderRun(trainer, test).rebuilt(model, len(test))
            found[name] = evaluation.psnr(rebuilt, originals)
        point = {"step": progress.step, "images": progress.images, "seconds": progress.seconds, "psnr": found}
        points.append(point)
        print(f"  {progress.images} crops: " + ", ".join(f"{k} {v:.1f} dB" for k, v in found.items()), flush=True)
        with written_whole(kept) as path:
            path.write_text(json.dumps(points))
        run.keep(results())
    return results()


def _limit(run: Run, split: str, few: bool) -> int | None:
    limit = run.scale.limit
    return min(FEW, limit or FEW) if few and split == "train" else limit


def _about(train: Pictures, test: Pictures) -> dict:
    return {"name": train.name, "source": train.source, "size": train.size, "train": len(train), "test": len(test)}


def steady_rate(history: list[dict]) -> float | None:
    """Images a second from a run's history, without its first entry, in which things are loaded and compiled."""
    if len(history) < 2:
        return None
    first, last = history[0], history[-1]
    return (last["images"] - first["images"]) / (last["seconds"] - first["seconds"])


def _save_grid(run: Run, images: Tensor) -> None:
    plotting.save_png(run.picture, plotting.grid_image(images, 8, scale=max(1, 64 // images.shape[-1])))


# ------------------------------------------------------------------------------------------- denoisers


def denoiser(
    run: Run,
    data: str,
    size: int,
    *,
    autoencoder: str | None = None,
    width: int = 1,
    images: Callable[[Scale], int] | None = None,
    few: bool = False,
) -> dict:
    """A denoiser in pixels, or in the latents of the stage `autoencoder`, judged at POINTS points on its way; above 32
    a side, where pictures are dear, at a third of them, and by half as many pictures.

    All widths are multiplied by `width`. It ends after `images(scale)` pictures, or with the stage's time. With `few`
    it trains on FEW pictures, and each point also says how it does on those and on others (`_overfitting`).
    """
    p = run.profile
    train, test = (load_data(data, size, split, limit=_limit(run, split, few)) for split in ("train", "test"))
    space, source, first_stage = _space(run, train, autoencoder)
    network = replace(p.unet, block_out_channels=tuple(width * w for w in p.unet.block_out_channels))
    network = network.for_channels(space.shape[0])
    if run.scale.long and train.classes:
        network = replace(network, num_classes=len(train.classes))
    flops = unet_flops(network, space.shape[1], backward=True).total
    wanted = None if images is None else images(run.scale)
    if wanted is not None and autoencoder is not None:  # the same FLOPs as in pixels
        wanted = round(wanted * unet_flops(p.unet, size, backward=True).total / flops)
    config = run.train_config(images=wanted)
    trainer = denoiser_trainer(
        source, network, config, make_schedule(SCHEDULE), PREDICTION, out=run.folder, save_every=250
    )
    reference = evaluation.Reference(train, limit=p.reference_count)
    extra = _overfitting(space, trainer, train, test, p) if few else None
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    marks = _marks(run, wanted, config.batch_size, POINTS // 3 if space.size > 32 else POINTS)

    def results(points: list[dict]) -> dict:
        return _denoiser_results(run, trainer, space, train, test, network, first_stage, autoencoder, wanted, points)

    points = _train_and_judge(
        run, trainer, space, marks, flops, reference, extra, lambda points: run.keep(results(points))
    )
    return results(points)


def _denoiser_results(run, trainer, space, train, test, network, first_stage, autoencoder, wanted, points) -> dict:
    """Weights and picture of a denoiser as it is now, and its entry in the records."""
    p, size = run.profile, train.size
    flops = unet_flops(network, space.shape[1], backward=True).total
    peak = torch.cuda.max_memory_allocated() if run.device.type == "cuda" else None
    config, model, progress = trainer.config, trainer.snapshot(), trainer.progress
    stored = {"record": run.name, "data": train.name, "autoencoder": None, "classes": train.classes}
    if autoencoder is not None:
        beside = run.weights().with_name(run.weights(autoencoder).name)
        if beside != run.weights(autoencoder):
            shutil.copy(run.weights(autoencoder), beside)
        stored["autoencoder"] = beside.name
    schedule = trainer.objective.schedule
    checkpoints.save_denoiser(
        run.weights(), model, size=size, schedule=schedule, prediction=PREDICTION, half=True, **stored
    )
    _save_grid(run, _made(trainer, space, 32, p.match_steps, seed=1))
    rate = steady_rate(progress.history)
    limit = _rate(run.device)["float32" if trainer.precision == "no" else "bf16"]
    return {
        "finished": run.has_ended(progress, wanted),
        "data": _about(train, test),
        "space": space.name,
        "shape": list(space.shape),
        "network": network,
        "parameters": count_parameters(model),
        "flops_step": unet_flops(network, space.shape[1]).total,
        "training_flops_image": flops,
        "first_stage": first_stage,
        "sampler": f"ddim, {p.match_steps} steps",
        "training": {
            "steps": progress.step,
            "images": progress.images,
            "wanted_images": wanted,
            "epochs": progress.images / len(train),
            "seconds": progress.seconds,
            "flops": flops * progress.images,
            "batch_size": config.batch_size,
            "precision": trainer.precision,
            "compiled": config.compile,
            "images_per_s": rate,
            "flop_per_s": rate and rate * flops,
            "share_of_matmul": rate and rate * flops / limit,
            "peak_bytes": peak,
        },
        "points": points,
        "history": thinned(progress.history),
    }


def _space(run: Run, train: Pictures, autoencoder: str | None):
    """The space, the data in it, and what its first stage cost."""
    if autoencoder is None:
        return PixelSpace(train.size), train, None
    model, _ = checkpoints.load_model(run.weights(autoencoder), run.device)
    latents = encode_pictures(model, train, cache=run.folder)
    weights = run.weights(autoencoder)
    record = load_record(weights.stem, weights.parents[1] / "records")
    paid = record["results"]["variants"][USED]
    each = record["results"]["training_flops_image"]
    first_stage = {
        "record": record["name"],
        "training_seconds": paid["training_seconds"],
        "training_flops": each * paid["training_images"],
        "encode_seconds": latents.seconds,
    }
    return LatentSpace(train.size, model), latents, first_stage


def _marks(run: Run, images: int | None, batch_size: int, points: int) -> list[dict]:
    """Where to judge, as arguments of `Trainer.run`: by pictures seen where their number is known, else by seconds."""
    if run.scale.long and images is not None:  # the same marks, however far the run is to go
        counts = [FIRST_MARK * 2 ** (k / 2) for k in range(40)]
        return [{"until": round(n / batch_size)} for n in (*(n for n in counts if n < 0.9 * images), images)]
    parts = [2 ** (-k / 2) for k in reversed(range(points))]
    if images is None:
        return [{"until_seconds": part * run.seconds} for part in parts]
    return [{"until": max(1, round(part * images / batch_size))} for part in parts]


def _points_so_far(run: Run, trainer: Trainer, kept: Path) -> list[dict]:
    """What was judged before a stop. Where a run of hours left no state, but a record and weights among the published
    ones, the trainer goes on from those: the averaged weights, and an optimizer that begins anew."""
    if kept.is_file():
        return json.loads(kept.read_text())
    weights, record = (home() / kind / f"{run.name}.{end}" for kind, end in PUBLISHED)
    if not (run.scale.long and trainer.progress.step == 0 and weights.is_file() and record.is_file()):
        return []
    points = load_record(run.name)["results"]["points"]
    model, _ = checkpoints.load_model(weights)
    last = points[-1]
    trainer.start_from(model.state_dict(), Progress(last["step"], last["images"], last["seconds"]))
    print(f"  goes on from the published weights, {last['images']} images", flush=True)
    return points


def _train_and_judge(run, trainer: Trainer, space, marks, flops: int, reference, extra, kept_so_far=None) -> list[dict]:
    """Trains from mark to mark; what was judged before a stop is read back, so that each mark is judged once.
    `kept_so_far(points)` is called after each."""
    kept = trainer.out / "points.json"
    points = _points_so_far(run, trainer, kept)
    for mark in marks:
        progress = trainer.run(**mark, show=True, label=run.stage)
        if points and points[-1]["step"] >= progress.step:
            continue
        count = run.profile.eval_count // (2 if space.size > 32 else 1)
        made = _made(trainer, space, count, run.profile.match_steps)
        points.append(
            {
                "step": progress.step,
                "images": progress.images,
                "seconds": progress.seconds,
                "flops": flops * progress.images,
                "loss": progress.history[-1]["loss"],
                "quality": evaluation.evaluate(made, reference),
                **(extra(made) if extra else {}),
            }
        )
        quality = points[-1]["quality"]
        print(f"  {progress.images} images: FD-E {quality['fd_e']:.0f} ({quality['fd_e_floor']:.0f})", flush=True)
        with written_whole(kept) as path:
            path.write_text(json.dumps(points))
        if kept_so_far is not None:
            kept_so_far(points)
    return points


def _made(trainer: Trainer, space, count: int, steps: int, seed: int = 0) -> Tensor:
    """New pictures, of classes as often as in the data, where the network knows classes."""
    d = denoiser_of(trainer, space)
    label = None
    if d.model.config.num_classes is not None:
        labels = trainer.objective.data.labels.cpu()
        label = labels[torch.randint(len(labels), (count,), generator=torch.Generator().manual_seed(seed))]
    return generate(d.model, space, count, d.schedule, prediction=PREDICTION, steps=steps, label=label, seed=seed)


def _overfitting(space, trainer: Trainer, train: Pictures, test: Pictures, p: Profile) -> Callable[[Tensor], dict]:
    """What tells learning from copying: the loss on seen and on held-out pictures, and the nearest of either.

    The losses are of the same times and noises for both. The distances are medians in feature space, from generated
    pictures to the nearest training picture, and to the nearest of as many held-out ones: a model that copies is nearer
    to what it was trained on. Both fall alike where pictures are blurred, which so are near to everything.
    """
    count, device = min(4 * p.eval_count, len(train), len(test)), trainer.accelerator.device
    sets = {"train": train, "test": test}
    if isinstance(space, LatentSpace):
        sets = {k: encode_pictures(space.autoencoder, v) for k, v in sets.items()}
    objective = trainer.objective
    losses = {k: DenoisingObjective(v, objective.schedule, PREDICTION).to(device) for k, v in sets.items()}
    size = min(len(train), len(test))
    known = {name: evaluation.as_features(part.images[:size]) for name, part in (("train", train), ("test", test))}

    def judge(made: Tensor) -> dict:
        model, found = trainer.snapshot(), {}
        for name, loss in losses.items():
            found[f"loss_{name}"] = mean_loss(model, loss, count)
        features = evaluation.as_features(made)
        for name, those in known.items():
            near = evaluation.nearest_neighbours(features, those, space="features")
            found[f"nearest_{name}"] = near.distance.median().item()
        return found

    return judge


# ----------------------------------------------------------------------------------------------- seeds


def seeds(run: Run, data: str, size: int, autoencoder: str) -> dict:
    """The same training from several seeds in both spaces, and from the first one at RATES times the learning rate.

    The first pixel training lasts `seed_images` or the stage's seconds, and all others see as many images. The latent
    ones are judged there; with the usual rate they go on for as many images as take a pixel training's seconds, by
    steps of both that are timed in turns. A seed decides the initial weights, the order of the pictures, times and
    noises. One autoencoder serves all.
    """
    p, rows = run.profile, []
    train = load_data(data, size, limit=run.scale.limit)
    test = load_data(data, size, "test", limit=4 * p.eval_count)
    latent, latents, first_stage = _space(run, train, autoencoder)
    reference = evaluation.Reference(train, limit=p.reference_count)
    places = {
        "pixel": (PixelSpace(size), train, test),
        "latent": (latent, latents, encode_pictures(latent.autoencoder, test)),
    }
    shapes = [place[0].shape for place in places.values()]
    for seed, times in [(seed, 1) for seed in range(run.scale.seeds)] + [(0, times) for times in RATES]:
        for name, place in places.items():
            row = {"space": name, "seed": seed, "times": times}
            rows.append(row | _one_seed(run, *place, reference, row, _marks_of_seed(run, shapes, rows, row)))
            last = rows[-1]["points"][-1]
            print(f"  {row}: {last['images']} images, KD-E {last['quality']['kd_e']:.2f}", flush=True)
    shown = [load_file(_folder_of(run, row) / "samples.safetensors")["images"] for row in rows]
    _save_grid(run, torch.cat(shown))
    return {
        "data": _about(train, test),
        "first_stage": first_stage,
        "images": rows[0]["points"][-1]["images"],
        "seconds": rows[0]["points"][-1]["seconds"],
        "batch_size": p.batch_size,
        "lr": p.lr,
        "warmup_steps": WARM_UP,
        "sampler": f"ddim, {p.match_steps} steps",
        "rows_of_the_picture": [f"{r['space']}, seed {r['seed']}, {r['times']} times the rate" for r in rows],
        "runs": rows,
    }


def _folder_of(run: Run, row: dict) -> Path:
    return run.folder / f"{row['space']}-{row['seed']}-x{row['times']}"


def _marks_of_seed(run: Run, shapes: list[tuple[int, ...]], rows: list[dict], row: dict) -> list[dict]:
    """Where to judge one of the trainings of `seeds`, after those in `rows`: as arguments of `Trainer.run`."""
    if not rows:
        return [{"until": run.scale.seed_images // run.profile.batch_size, "until_seconds": run.seconds}]
    first = next((r for r in rows if r["space"] == row["space"]), None)
    same = rows[0]["points"][-1]["step"]
    steps = (
        [point["step"] for point in first["points"]] if first else [same, round(same * max(1, _faster(run, shapes)))]
    )
    return [{"until": step} for step in (steps if row["times"] == 1 else steps[:1])]


def _faster(run: Run, shapes: list[tuple[int, ...]]) -> float:
    """How many training steps of the second of two spaces take as long as one of the first: the two timed in turns."""
    batch, half = run.profile.batch_size, native_precision(run.device) == "bf16"
    steps = []
    for shape in shapes:
        model = seeded(0, UNet, run.profile.unet.for_channels(shape[0])).to(run.device)
        x, t = torch.randn(batch, *shape, device=run.device), torch.zeros(batch, dtype=torch.int64, device=run.device)
        steps.append(training_step(model, x, t, torch.randn_like(x), half=half))
    seconds = [[_timed(step, run).median for step in steps] for _ in range(3)]
    return sorted(pixel / latent for pixel, latent in seconds)[1]


def _one_seed(run: Run, space, source, test, reference, row: dict, marks: list[dict]) -> dict:
    """One of the trainings of `seeds`, or what was kept of it: spikes, norms, and how it does at each mark.

    Each network is judged by its loss on held-out pictures, and by two sets of drawn ones, `quality` and `again`: so
    what a draw changes is told from what a training does.
    """
    p, folder = run.profile, _folder_of(run, row)
    if (folder / "row.json").is_file():
        return json.loads((folder / "row.json").read_text())
    options = {"seconds": marks[-1].get("until_seconds"), "steps": marks[-1].get("until"), "warmup_steps": WARM_UP}
    config = run.train_config(seed=row["seed"], lr=row["times"] * p.lr, compile=False, **options)
    network, schedule = p.unet.for_channels(space.shape[0]), make_schedule(SCHEDULE)
    trainer = denoiser_trainer(source, network, config, schedule, PREDICTION, out=folder, log_every=1)
    new = DenoisingObjective(test, schedule, PREDICTION).to(trainer.accelerator.device)

    def extra(made: Tensor) -> dict:
        again = evaluation.evaluate(_made(trainer, space, len(made), p.match_steps, seed=1), reference)
        return {"loss_test": mean_loss(trainer.snapshot(), new, len(test)), "again": again}

    flops = unet_flops(network, space.shape[1], backward=True).total
    points = _train_and_judge(run, trainer, space, marks, flops, reference, extra)
    history = trainer.progress.history
    curves = {name: [entry[name] for entry in history] for name in ("loss", "grad_norm")}
    found = {
        "lr": config.lr,
        "points": points,
        "spikes": {name: [k + 1 for k in stability.spikes(curve)] for name, curve in curves.items()},
        "clipped": sum(not norm <= config.grad_clip for norm in curves["grad_norm"]) / len(history),
        "curves": {name: _in_blocks(curve) for name, curve in curves.items()},
    }
    save_file({"images": _made(trainer, space, 8, p.match_steps)}, folder / "samples.safetensors")
    with written_whole(folder / "row.json") as path:
        path.write_text(json.dumps(found))
    (folder / STATE_FILE).unlink()  # large, and of no more use
    return found


def _in_blocks(curve: list[float]) -> list[float]:
    """The means of BLOCKS equal parts of a curve, or the curve itself where it is shorter."""
    return [part.mean().item() for part in torch.tensor(curve).tensor_split(min(BLOCKS, len(curve)))]


# ----------------------------------------------------------------------------------------------- noise


def noise(run: Run, data: str, size: int, autoencoder: str) -> dict:
    """What the autoencoder, and linear filters, make of pictures with noise added (`perception.against_noise`)."""
    train, test = (load_data(data, size, split, limit=4 * run.profile.eval_count) for split in ("train", "test"))
    model, _ = checkpoints.load_model(run.weights(autoencoder), run.device)
    rows = against_noise(model, to_float(test.images), evaluation.power_spectrum(train.images))
    return {"data": _about(train, test), "autoencoder": run.weights(autoencoder).stem, "rows": rows}


# -------------------------------------------------------------------------------------------- sampling


def sampling(run: Run, trained: str) -> dict:
    """Every sampler at every number of steps of STEPS, from the weights of the stage `trained`: quality and time."""
    p = run.profile
    d = checkpoints.load_denoiser(run.weights(trained), run.device)
    train = load_data(d.meta["data"], d.space.size, limit=run.scale.limit)
    reference = evaluation.Reference(train, limit=p.reference_count)
    kept, rows, shown = run.folder / "rows.json", [], []
    if kept.is_file():
        rows = json.loads(kept.read_text())
    options = {"prediction": d.prediction}
    generate(d.model, d.space, min(64, p.eval_count), d.schedule, steps=1, **options)  # the first call is slow
    done = {(row["method"], row["steps"]) for row in rows}
    for steps in STEPS:
        count = p.eval_count if steps <= 100 else p.ddpm_count
        for method in ("ddpm", "ddim", "dpmpp"):
            if (method, steps) in done:
                continue
            started = time.perf_counter()
            made = generate(d.model, d.space, count, d.schedule, method=method, steps=steps, **options)
            seconds = time.perf_counter() - started
            quality = evaluation.evaluate(made, reference)
            few = quality if count == p.ddpm_count else evaluation.evaluate(made[: p.ddpm_count], reference)
            rows.append(
                {
                    "method": method,
                    "steps": steps,
                    "seconds_picture": seconds / count,
                    "made": count,
                    "quality": quality,
                    "quality_few": few,  # of as many as the slowest sampler makes: only equal counts compare
                }
            )
            print(
                f"  {method}, {steps} steps: FD-E {quality['fd_e']:.0f}, {seconds / count:.3g} s a picture", flush=True
            )
            with written_whole(kept) as path:
                path.write_text(json.dumps(rows))
    for method in ("ddpm", "ddim", "dpmpp"):
        shown += [generate(d.model, d.space, 8, d.schedule, method=method, steps=s, **options) for s in (5, 20, 100)]
    _save_grid(run, torch.cat(shown))
    return {
        "trained": record_name(trained, p),
        "space": d.space.name,
        "data": {"name": train.name, "size": train.size},
        "batch": min(64, p.eval_count),
        "rows": rows,
        "rows_of_the_picture": [f"{m}, {s} steps" for m in ("ddpm", "ddim", "dpmpp") for s in (5, 20, 100)],
    }


# ---------------------------------------------------------------------------------------- fine structures


def fine_structures(run: Run, size: int) -> dict:
    """What the emoji's autoencoders of f = 2, 4 and 8 leave of fine structures, by kind and width (chapter 7).

    Each as it was trained; then trained further for the stage's time, once on its own emoji and once on structures,
    which tells what more training does from what other pictures do. Two controls without any network: a bicubic
    filter, and the best linear code with as many numbers a position. The picture has the narrowest width.
    """
    p, widths = run.profile, (1, 2, 3, 4, 6)
    count = p.eval_count // 4
    emoji = load_data("emoji", size, limit=run.scale.limit)
    test = load_data("emoji", size, "test", limit=count)
    sets = {"emoji": emoji, "structures": structures.training_set(len(emoji), size, widths)}
    grounds = structures.grounds(len(structures.KINDS), size)
    drawn = torch.cat([structures.masks(kind, widths[0], 1, size) for kind in structures.KINDS])
    shown = grounds + structures.CONTRAST * drawn
    rows, about, pictures, lines = [], [], [to_uint8(shown)], ["as drawn"]
    for f in (2, 4, 8):
        first, _ = checkpoints.load_model(run.weights(f"autoencoder-emoji-{size}-f{f}"), run.device)
        c = first.config.latent_channels
        ways = {"bicubic": structures.bicubic(f), "linear code": structures.linear_code(sets["structures"], f, c)}
        ways["as trained"], spent = structures.through(first), {}
        for name, data in sets.items():
            config = run.train_config(
                batch_size=p.autoencoder_batch_size or p.batch_size, warmup_steps=10, compile=False
            )
            trainer = further_trainer(first, data, config, losses=LOSSES["l1"], out=run.folder / f"f{f}-{name}")
            progress = trainer.run(show=True, label=f"{run.stage}, f = {f}, on {name}")
            ways[f"longer, on {name}"] = structures.through(trainer.snapshot())
            spent[f"longer, on {name}"] = {"images": progress.images, "seconds": progress.seconds}
        for way, passed in ways.items():
            left = structures.survey(passed, widths, count=count, size=size)
            for kind, by_width in left.items():
                rows += [{"f": f, "way": way, "kind": kind, "width": w, **vars(v)} for w, v in by_width.items()]
            rebuilt = to_uint8(passed(test.batch(range(len(test)))))
            about.append(
                {"f": f, "way": way, "psnr_emoji": evaluation.psnr(rebuilt, test.images), **spent.get(way, {})}
            )
            pictures.append(to_uint8(passed(shown)))
            lines.append(f"f = {f}, {way}")
            thin = [left[kind][widths[0]].kept() for kind in structures.KINDS]
            print(f"  f = {f}, {way}: {sum(thin)} of {len(thin)} kinds kept at {widths[0]} pixel", flush=True)
    plotting.save_png(run.picture, plotting.grid_image(torch.cat(pictures), len(shown), scale=max(1, 64 // size)))
    return {
        "size": size,
        "widths": widths,
        "count": count,
        "contrast": structures.CONTRAST,
        "ways": about,
        "rows": rows,
        "rows_of_the_picture": lines,
    }

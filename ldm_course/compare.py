"""The course's experiment: pixel space and latent space end to end, under one budget (chapter 2).

Same pictures in the same order, same U-Net, same loss, same trainer, same sampler, same evaluator. The budget is
seconds of training; the latent side pays for its autoencoder out of its own. Because "the same budget" can mean
several things, snapshots are compared at equal images seen, equal FLOPs and equal seconds, each a row of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from . import checkpoints, config, evaluation, report
from .autoencoder import Autoencoder
from .checkpoints import Denoiser
from .complexity import autoencoder_flops, count_parameters, unet_flops
from .config import Profile, TrainConfig
from .data import Pictures, load_data, to_uint8
from .features import SMALLEST, default_device
from .measure import activation_memory, time_call, time_together
from .recipes import autoencoder_trainer, denoiser_of, denoiser_trainer, finished_autoencoder
from .records import code_state, duration, make_record, save_record, slug
from .samplers import sample
from .schedules import Schedule, make_schedule
from .spaces import Latents, LatentSpace, PixelSpace, encode_pictures, generate
from .training import Trainer

SCHEDULE, PREDICTION = "cosine", "v"
MARGIN = 0.85  # of the steps that each side is expected to make: budgets are matched there, so that both get there
MATCHES = {
    "images": "the same images seen",
    "flops": "the same FLOPs of the denoiser",
    "denoiser_seconds": "the same seconds of the denoiser",
    "all_seconds": "the same seconds, autoencoder included",
}


@dataclass(frozen=True)
class Setting:
    """What both sides share."""

    profile: Profile
    train: Pictures
    test: Pictures
    budget: float
    seed: int
    schedule: Schedule
    device: torch.device

    def train_config(self, seconds: float, batch_size: int | None = None) -> TrainConfig:
        p = self.profile
        return TrainConfig(
            batch_size=batch_size or p.batch_size, seconds=seconds, lr=p.lr, ema_decay=p.ema_decay, seed=self.seed
        )


@dataclass(frozen=True)
class Snapshot:
    """A denoiser at one point of its training, and what it had cost by then, the autoencoder apart."""

    denoiser: Denoiser
    step: int
    images: int
    seconds: float
    flops: int


def compare(
    data: str = "emoji",
    profile: Profile | None = None,
    *,
    size: int | None = None,
    budget: float | None = None,
    limit: int | None = None,
    seed: int = 0,
    out: str | Path = "runs/compare",
    command: str | list[str] = "ldm-course compare",
    say: Callable[[str], None] = print,
    show: bool = True,
) -> dict:
    """Trains, samples and measures both spaces; returns the record and writes it, a report and pictures into `out`.

    `budget` is each space's training time in seconds (default: the profile's). ValueError, before anything runs:
    data that cannot be read, a size that is too small or that the networks cannot halve often enough, too few pictures
    to measure with.
    """
    started = time.perf_counter()
    if Path(out).exists() and not Path(out).is_dir():
        raise ValueError(f"out={str(out)!r} is a file; expected a folder, which need not be there yet")
    setting = make_setting(data, profile or config.profile(), size, budget, limit, seed)
    Path(out).mkdir(parents=True, exist_ok=True)  # now, not after minutes of training
    code = code_state()
    say(_announcement(setting))
    autoencoder, ledger = _train_autoencoder(setting, show)
    latents = encode_pictures(autoencoder, setting.train, show=show)
    ledger["encode_seconds"] = latents.seconds
    spaces = {"pixel": PixelSpace(setting.train.size), "latent": LatentSpace(setting.train.size, autoencoder)}
    snapshots = _train_denoisers(setting, spaces, latents, ledger, show)
    last = {space: marks["all_seconds"].denoiser for space, marks in snapshots.items()}

    say("measuring: seconds and bytes, then pictures")
    results = {
        "data": {k: getattr(setting.train, k) for k in ("name", "size")}
        | {"train": len(setting.train), "test": len(setting.test)},
        "budget_seconds": setting.budget,
        "training_precision": config.native_precision(setting.device),
        "parameters": {space: count_parameters(d.model) for space, d in last.items()}
        | {"autoencoder": count_parameters(autoencoder)},
        "cost": _costs(setting, last, snapshots),
    }
    reference = evaluation.Reference(setting.train.images[: setting.profile.reference_count])
    results["autoencoder"] = {**ledger, **_judge_autoencoder(setting, autoencoder)}
    results["matched"] = _judge_matched(setting, snapshots, reference)
    results["sampling"], pictures = _judge_samplers(setting, last, reference, results["cost"])
    results["break_even"] = break_even(results)
    record = make_record(
        f"compare-{slug(setting.train.name)}-{setting.train.size}-{setting.profile.name}",
        "compare",
        results,
        command=command,
        seconds=time.perf_counter() - started,
        data_source=setting.train.source,
        profile=setting.profile.name,
        seed=seed,
        config=asdict(setting.profile) | {"schedule": SCHEDULE, "prediction": PREDICTION},
        device=setting.device,
        code=code,
    )
    _write(Path(out), record, setting, last, pictures)
    return record


def make_setting(
    data: str, profile: Profile, size: int | None, budget: float | None, limit: int | None, seed: int
) -> Setting:
    """Reads the data and checks that everything fits together; see `compare` for what is refused."""
    size = profile.size if size is None else size
    limit = profile.limit if limit is None else limit
    budget = profile.budget if budget is None else budget
    divisor = profile.autoencoder.downsample * 2 ** (len(profile.unet.block_out_channels) - 1)
    if not 0 < budget < float("inf"):
        raise ValueError(f"budget={budget}; expected seconds of training for each space, more than 0")
    if size < SMALLEST:
        raise ValueError(f"size={size}; the autoencoder's perceptual loss takes {SMALLEST} or more")
    if size % divisor:
        raise ValueError(f"size={size}; the latent's U-Net needs a multiple of {divisor} in profile {profile.name!r}")
    train, test = (load_data(data, size, split, limit=limit, seed=seed) for split in ("train", "test"))
    if len(train) < 2 * profile.eval_count or len(test) < 4:
        raise ValueError(
            f"{data} has {len(train)} training and {len(test)} test pictures; profile {profile.name!r} measures "
            f"with {profile.eval_count} and needs {2 * profile.eval_count} training pictures, and 4 to test with"
        )
    # shuffled once: the first pictures are then a fair sample, to measure against and to show
    train = train.subset(torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)))
    return Setting(profile, train, test, float(budget), seed, make_schedule(SCHEDULE), default_device())


# ------------------------------------------------------------------------------------------- training


def _train_autoencoder(setting: Setting, show: bool) -> tuple[Autoencoder, dict]:
    """The autoencoder within its share of the latent side's budget, and its entry in the ledger."""
    p = setting.profile
    seconds = p.autoencoder_share * setting.budget
    training = setting.train_config(seconds, p.autoencoder_batch_size)
    trainer = autoencoder_trainer(setting.train, p.autoencoder, training)
    progress = trainer.run(show=show, label="autoencoder")
    flops = autoencoder_flops(p.autoencoder, setting.train.size, "both", backward=True).total
    encode = autoencoder_flops(p.autoencoder, setting.train.size, "encode").total
    return finished_autoencoder(trainer), {
        "training_seconds": progress.seconds,
        "training_images": progress.images,
        "training_flops": flops * progress.images,  # without the perceptual loss's network
        "encode_flops": encode * len(setting.train),
    }


def _train_denoisers(
    setting: Setting, spaces: dict, latents: Latents, ledger: dict, show: bool
) -> dict[str, dict[str, Snapshot]]:
    """Both denoisers, with a snapshot for each way to match their budgets."""
    overhead = ledger["training_seconds"] + ledger["encode_seconds"]
    latent_seconds = max(setting.budget - overhead, 0.1 * setting.budget)
    # where the autoencoder has left too little, the latent side goes over the budget, and the pixel side with it
    seconds = {"pixel": overhead + latent_seconds, "latent": latent_seconds}
    data = {"pixel": setting.train, "latent": latents}
    flops = {space: _training_flops(setting, spaces[space]) for space in spaces}
    rate = {space: 1 / _seconds_a_step(setting, data[space]) for space in spaces}
    steps = {space: MARGIN * seconds[space] * rate[space] for space in spaces}
    same_step = max(1, int(min(steps.values())))  # batches are equal, so at the same step the same images
    budget = min(steps[space] * flops[space] for space in spaces)
    snapshots = {}
    for space in spaces:
        at_step = {"images": same_step, "flops": max(1, round(budget / flops[space]))}
        at_second = {"denoiser_seconds": seconds["latent"], "all_seconds": seconds[space]}
        trainer = _denoiser_trainer(setting, data[space])
        snapshots[space] = _run_with_snapshots(trainer, spaces[space], at_step, at_second, flops[space], show)
    return snapshots


def _denoiser_trainer(setting: Setting, data: Pictures | Latents) -> Trainer:
    training = setting.train_config(seconds=float("inf"))
    return denoiser_trainer(data, setting.profile.unet, training, setting.schedule, PREDICTION)


def _training_flops(setting: Setting, space: PixelSpace | LatentSpace) -> int:
    """FLOPs of the denoiser's forward and backward pass on one picture."""
    channels, side, _ = space.shape
    return unet_flops(setting.profile.unet.for_channels(channels), side, backward=True).total


def _seconds_a_step(setting: Setting, data: Pictures | Latents) -> float:
    """Of a training step, by trying a few on a network that is then thrown away."""
    trainer = _denoiser_trainer(setting, data)
    warm = trainer.run(until=2).seconds
    return (trainer.run(until=6).seconds - warm) / 4


def _run_with_snapshots(trainer, space, at_step: dict, at_second: dict, flops: int, show: bool) -> dict[str, Snapshot]:
    """Runs until every mark is passed; two marks of the same step share a snapshot."""
    made: dict[str, Snapshot] = {}
    while len(made) < len(at_step) + len(at_second):
        steps = [n for mark, n in at_step.items() if mark not in made]
        seconds = [s for mark, s in at_second.items() if mark not in made]
        p = trainer.run(
            until=min(steps, default=None), until_seconds=min(seconds, default=None), show=show, label=space.name
        )
        passed = [m for m, n in at_step.items() if m not in made and p.step >= n]
        passed += [m for m, s in at_second.items() if m not in made and p.seconds >= s]
        snapshot = Snapshot(denoiser_of(trainer, space), p.step, p.images, p.seconds, flops * p.images)
        made |= dict.fromkeys(passed, snapshot)
    return made


# ------------------------------------------------------------------------------------------ measuring


def _costs(setting: Setting, last: dict[str, Denoiser], snapshots: dict) -> dict:
    """What one picture costs in each space: FLOPs, bytes kept for the backward pass, seconds a step, to decode."""
    calls = {}
    for space, d in last.items():
        for batch in setting.profile.timing_batches:
            calls[space, batch] = _steps_call(d, batch, setting.device)
    decoder = last["latent"].space
    for batch in setting.profile.timing_batches:
        z = torch.randn(batch, *decoder.shape, device=setting.device)
        calls["decode", batch] = lambda z=z: decoder.to_pictures(z)
    timings = time_together(calls, repeats=9, warmup=1, seconds=0.15 * setting.budget)
    costs = {}
    for space, d in last.items():
        channels, side, _ = d.space.shape
        network = setting.profile.unet.for_channels(channels)
        x = torch.randn(1, *d.space.shape, device=setting.device)
        t = torch.zeros(1, dtype=torch.int64, device=setting.device)
        end = snapshots[space]["all_seconds"]
        costs[space] = {
            "shape": list(d.space.shape),
            "flops_step": unet_flops(network, side).total,
            "attention_share": unet_flops(network, side).share("attention"),
            "training_flops_image": _training_flops(setting, d.space),
            "training_seconds_image": end.seconds / end.images,
            "activation_bytes_image": activation_memory(d.model, x, t).saved,
            "step_seconds": {str(b): _per_step(timings[space, b].summary()) for b in setting.profile.timing_batches},
        }
    decode = {str(b): timings["decode", b].summary() for b in setting.profile.timing_batches}
    return costs | {"decode": {"seconds": decode, "flops": _decode_flops(setting)}}


_STEPS_TIMED = 2


def _steps_call(d: Denoiser, batch: int, device: torch.device) -> Callable[[], Tensor]:
    """A few DDIM steps, sampler and network together, ready to be timed."""
    noise = torch.randn(batch, *d.space.shape, device=device)
    return lambda: sample(
        d.model, noise, d.schedule, steps=_STEPS_TIMED, clip_x0=d.space.clip_x0, prediction=d.prediction
    )


def _per_step(summary: dict) -> dict:
    return {k: v / _STEPS_TIMED if k != "repeats" else v for k, v in summary.items()}


def _decode_flops(setting: Setting) -> int:
    return autoencoder_flops(setting.profile.autoencoder, setting.train.size, "decode").total


def _judge_autoencoder(setting: Setting, autoencoder: Autoencoder) -> dict:
    """Fidelity on held-out pictures: what is lost before any diffusion model has done anything."""
    count = min(len(setting.test), setting.profile.eval_count)
    originals = setting.test.images[:count]
    with torch.inference_mode():
        x = setting.test.batch(torch.arange(count), setting.device)
        rebuilt = torch.cat([to_uint8(autoencoder.decode(autoencoder.encode(b).z_mean)).cpu() for b in x.split(64)])
    return {
        "psnr": evaluation.psnr(rebuilt, originals),
        "ssim": evaluation.ssim(rebuilt, originals),
        "reconstruction": evaluation.evaluate(rebuilt, originals),
        "latent_scale": autoencoder.latent_scale.item(),
        "held_out": count,
    }


def _judge_matched(setting: Setting, snapshots: dict, reference) -> list[dict]:
    """A row for each way to match the budgets: what each side had cost, and how good its pictures were."""
    p, judged = setting.profile, {}

    def entry(space: str, mark: str) -> dict:
        snapshot = snapshots[space][mark]
        key = (space, snapshot.step)
        if key not in judged:
            made = _pictures(setting, snapshot.denoiser, p.eval_count, "ddim", p.match_steps)
            judged[key] = evaluation.evaluate(made, reference)
        return {k: getattr(snapshot, k) for k in ("step", "images", "seconds", "flops")} | {"quality": judged[key]}

    return [
        {"match": mark, "says": says, "sampler": f"ddim, {p.match_steps} steps"}
        | {space: entry(space, mark) for space in snapshots}
        for mark, says in MATCHES.items()
    ]


def _judge_samplers(setting: Setting, last: dict[str, Denoiser], reference, costs: dict):
    """The sampling table: the source's three rows, then each space at the other's steps."""
    p = setting.profile
    rows, pictures = [], {}
    plan = [
        ("pixel", "ddpm", p.ddpm_steps, p.ddpm_count),
        ("pixel", "ddim", p.ddim_steps, p.eval_count),
        ("latent", "ddim", p.latent_steps, p.eval_count),
        ("pixel", "ddim", p.latent_steps, p.eval_count),
        ("latent", "ddim", p.ddim_steps, p.eval_count),
        ("latent", "ddpm", p.ddpm_steps, p.ddpm_count),
    ]
    for space, method, steps, count in plan:
        started = time.perf_counter()
        made = _pictures(setting, last[space], count, method, steps)
        took = time.perf_counter() - started
        pictures[f"{space}-{method}-{steps}"] = made
        steps_alone, whole = {}, {}
        for batch in map(str, p.timing_batches):
            decode = costs["decode"]["seconds"][batch]["median"] if space == "latent" else 0.0
            steps_alone[batch] = steps * costs[space]["step_seconds"][batch]["median"] / int(batch)
            whole[batch] = steps_alone[batch] + decode / int(batch)
        rows.append(
            {
                "space": space,
                "method": method,
                "steps": steps,
                "seconds_picture": whole,  # from the median step, and the median decoding
                "seconds_picture_without_decoder": steps_alone,
                "flops_picture": steps * costs[space]["flops_step"]
                + (costs["decode"]["flops"] if space == "latent" else 0),
                "made": count,
                "made_seconds": took,
                "quality": evaluation.evaluate(made, reference),
            }
        )
    return rows, pictures


def _pictures(setting: Setting, d: Denoiser, count: int, method: str, steps: int) -> Tensor:
    return generate(
        d.model, d.space, count, d.schedule, prediction=d.prediction, method=method, steps=steps, seed=setting.seed
    )


def break_even(results: dict) -> dict:
    """After how many training images, and how many pictures made, the autoencoder's training is earned back.

    None where the latent side saves nothing. Saved in training: the difference of the denoisers' seconds an image.
    Saved in sampling: that of a whole picture, decoding included, at the source's 50 steps and the largest batch.
    """
    cost, ledger, table = results["cost"], results["autoencoder"], results["sampling"]
    paid = ledger["training_seconds"] + ledger["encode_seconds"]
    seconds = {
        row["space"]: row["seconds_picture"][max(row["seconds_picture"], key=int)]
        for row in table
        if row["method"] == "ddim" and row["steps"] == table[2]["steps"]
    }
    saved = {
        "training_image": cost["pixel"]["training_seconds_image"] - cost["latent"]["training_seconds_image"],
        "picture": seconds["pixel"] - seconds["latent"],
    }
    return {
        "autoencoder_seconds": paid,
        "saved_seconds": saved,
        "after": {k: paid / s if s > 0 else None for k, s in saved.items()},
    }


# ------------------------------------------------------------------------------------- before and after


def _announcement(setting: Setting) -> str:
    """What will be done and about how long it will take, from a few timed steps in pixel space."""
    p = setting.profile
    pixel = denoiser_of(_denoiser_trainer(setting, setting.train), PixelSpace(setting.train.size))
    batch = min(p.eval_count, 64)
    few = time_call(lambda: _pictures(setting, pixel, batch, "ddim", _STEPS_TIMED), repeats=2, warmup=1)
    a_call = few.median / _STEPS_TIMED / batch
    calls = p.ddpm_count * p.ddpm_steps + p.eval_count * (p.ddim_steps + p.latent_steps + len(MATCHES) * p.match_steps)
    expected = 2.2 * setting.budget + 1.2 * calls * a_call + 10
    return (
        f"{setting.train.name}: {len(setting.train)} pictures of {setting.train.size} x {setting.train.size}, "
        f"profile {p.name}, on {setting.device.type}\n"
        f"{duration(setting.budget)} of training for each space; all in all about {duration(expected)} on this machine"
    )


def _write(out: Path, record: dict, setting: Setting, last: dict[str, Denoiser], pictures: dict) -> None:
    """Record, weights, pictures and report, in that order: the dearest first."""
    save_record(record, out)
    origin = {"record": record["name"], "data": setting.train.name}
    checkpoints.save_model(out / "autoencoder.safetensors", last["latent"].space.autoencoder, **origin)
    about = {"size": setting.train.size, "schedule": setting.schedule, "prediction": PREDICTION, **origin}
    for space, d in last.items():
        autoencoder = None if space == "pixel" else "autoencoder.safetensors"
        checkpoints.save_denoiser(out / f"{space}.safetensors", d.model, **about, autoencoder=autoencoder)
    report.write(out, record, setting.train, setting.test, last, pictures)

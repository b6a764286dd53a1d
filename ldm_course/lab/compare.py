"""The course's experiment: pixel space and latent space end to end, under one budget (chapter 2).

Same pictures in the same order, same U-Net, same loss, same trainer, same sampler, same evaluator. The budget is
seconds of training; the latent side pays for its autoencoder out of its own. Because "the same budget" can mean
several things, snapshots are compared at equal images seen, equal FLOPs and equal seconds, each a row of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from .. import checkpoints, device
from ..checks import Positive, check
from ..config import TrainConfig
from ..data.latents import Latents, encode_pictures
from ..data.loaders import load_data
from ..data.pictures import Pictures
from ..denoiser import Denoiser
from ..device import default_device
from ..diffusion.schedules import Schedule, make_schedule
from ..files import at_work_in, written_together
from ..measure import distances
from ..measure.complexity import autoencoder_flops, count_parameters, unet_flops
from ..measure.timing import activation_memory, time_call, time_together
from ..networks.autoencoder import Autoencoder
from ..networks.features import SMALLEST
from ..networks.unet import UNet
from ..page.numbers import duration
from ..spaces import LatentSpace, PixelSpace
from ..training.recipes import autoencoder_trainer, denoiser_of, denoiser_trainer, finished_autoencoder, seeded
from ..training.trainer import Trainer
from . import profiles, report
from .profiles import Profile
from .records import code_state, load_record, make_record, save_record, slug
from .runs import judged

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
    show: bool = False  # progress bars

    def train_config(self, seconds: float, batch_size: int | None = None) -> TrainConfig:
        p = self.profile
        return TrainConfig(
            batch_size=batch_size or p.batch_size, seconds=seconds, lr=p.lr, ema_decay=p.ema_decay, seed=self.seed
        )


@dataclass(frozen=True)
class Side:
    """What the two sides do not share: a space, the data in it, and the seconds that its denoiser has to train."""

    space: PixelSpace | LatentSpace
    data: Pictures | Latents
    seconds: float


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

    `budget` is each space's training time in seconds (default: the profile's). All files appear together at the end, or
    none does. ValueError, before anything runs: data that cannot be read, a size that is too small or that the networks
    cannot halve often enough, too few pictures to measure with; an `out` that takes no files, that another run is at
    work in, or that holds another comparison, or anything else under the names of this one's files.
    """
    with at_work_in(out) as folder:
        setting = make_setting(data, profile or profiles.profile(), size, budget, limit, seed)
        _check_may_replace(folder, setting)
        return _compare(replace(setting, show=show), folder, command, say)


def _compare(setting: Setting, out: Path, command: str | list[str], say: Callable[[str], None]) -> dict:
    started, show = time.perf_counter(), setting.show
    code = code_state()
    say(_announcement(setting))
    autoencoder, ledger = _train_autoencoder(setting)
    latents = encode_pictures(autoencoder, setting.train, show=show)
    ledger["encode_seconds"] = latents.seconds
    sides = _sides(setting, autoencoder, latents, ledger["training_seconds"] + latents.seconds)
    snapshots = _train_denoisers(setting, sides)
    last = {space: marks["all_seconds"].denoiser for space, marks in snapshots.items()}

    say("measuring: seconds and bytes, then pictures")
    results = {
        "data": {k: getattr(setting.train, k) for k in ("name", "size")}
        | {"train": len(setting.train), "test": len(setting.test)},
        "budget_seconds": setting.budget,
        "training_precision": device.native_precision(setting.device),
        "parameters": {space: count_parameters(d.model) for space, d in last.items()}
        | {"autoencoder": count_parameters(autoencoder)},
        "cost": _costs(setting, last, snapshots),
        "computed_in": {"step": device.computed_in(setting.device), "decode": "float32"},
    }
    reference = distances.Reference(setting.train.images[: setting.profile.reference_count])
    results["autoencoder"] = {**ledger, **_judge_autoencoder(setting, autoencoder)}
    results["matched"] = _judge_matched(setting, snapshots, reference)
    results["sampling"], pictures = _judge_samplers(setting, last, reference, results["cost"])
    results["break_even"] = break_even(results)
    record = make_record(
        _name(setting),
        "compare",
        results,
        command=command,
        seconds=time.perf_counter() - started,
        data_source=setting.train.source,
        profile=setting.profile.name,
        seed=setting.seed,
        config=asdict(setting.profile) | {"schedule": SCHEDULE, "prediction": PREDICTION},
        device=setting.device,
        code=code,
    )
    _write(out, record, setting, last, pictures)
    return record


def make_setting(
    data: str, profile: Profile, size: int | None, budget: float | None, limit: int | None, seed: int
) -> Setting:
    """Reads the data and checks that everything fits together; see `compare` for what is refused."""
    size = profile.size if size is None else size
    limit = profile.limit if limit is None else limit
    budget = profile.budget if budget is None else budget
    divisor = profile.autoencoder.downsample * profile.unet.multiple
    check(Positive, budget, "budget")
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


def _train_autoencoder(setting: Setting) -> tuple[Autoencoder, dict]:
    """The autoencoder within its share of the latent side's budget, and its entry in the ledger."""
    p = setting.profile
    seconds = p.autoencoder_share * setting.budget
    training = setting.train_config(seconds, p.autoencoder_batch_size)
    trainer = autoencoder_trainer(setting.train, p.autoencoder, training)
    progress = trainer.run(show=setting.show, label="autoencoder")
    flops = autoencoder_flops(p.autoencoder, setting.train.size, "both", backward=True).total
    encode = autoencoder_flops(p.autoencoder, setting.train.size, "encode").total
    return finished_autoencoder(trainer), {
        "training_seconds": progress.seconds,
        "training_images": progress.images,
        "training_flops": flops * progress.images,  # without the perceptual loss's network
        "encode_flops": encode * len(setting.train),
    }


def _sides(setting: Setting, autoencoder: Autoencoder, latents: Latents, paid: float) -> dict[str, Side]:
    """Both sides: the latent one has spent `paid` seconds of its budget on the autoencoder.

    Where that has left too little, the latent side goes over the budget, and the pixel side with it.
    """
    size, left = setting.train.size, max(setting.budget - paid, 0.1 * setting.budget)
    return {
        "pixel": Side(PixelSpace(size), setting.train, paid + left),
        "latent": Side(LatentSpace(size, autoencoder), latents, left),
    }


def _train_denoisers(setting: Setting, sides: dict[str, Side]) -> dict[str, dict[str, Snapshot]]:
    """Both denoisers, with a snapshot for each way to match their budgets."""
    flops = {name: _training_flops(setting, side.space) for name, side in sides.items()}
    steps = {name: MARGIN * side.seconds / _seconds_a_step(setting, side) for name, side in sides.items()}
    same_step = max(1, int(min(steps.values())))  # batches are equal, so at the same step the same images
    budget = min(steps[name] * flops[name] for name in sides)
    snapshots = {}
    for name, side in sides.items():
        at_step = {"images": same_step, "flops": max(1, round(budget / flops[name]))}
        at_second = {"denoiser_seconds": sides["latent"].seconds, "all_seconds": side.seconds}
        snapshots[name] = _run_with_snapshots(setting, side, at_step, at_second)
    return snapshots


def _trainer(setting: Setting, side: Side) -> Trainer:
    training = setting.train_config(seconds=float("inf"))
    return denoiser_trainer(side.data, setting.profile.unet, training, setting.schedule, PREDICTION)


def _training_flops(setting: Setting, space: PixelSpace | LatentSpace) -> int:
    """FLOPs of the denoiser's forward and backward pass on one picture."""
    channels, side, _ = space.shape
    return unet_flops(setting.profile.unet.for_channels(channels), side, backward=True).total


def _seconds_a_step(setting: Setting, side: Side) -> float:
    """Of a training step: four of them, after two to warm up, on a network that is then thrown away."""
    probe = _trainer(setting, side)
    warm = probe.run(until=2).seconds
    return (probe.run(until=6).seconds - warm) / 4


def _run_with_snapshots(setting: Setting, side: Side, at_step: dict, at_second: dict) -> dict[str, Snapshot]:
    """Trains until every mark is passed; two marks of the same step share a snapshot."""
    trainer, flops = _trainer(setting, side), _training_flops(setting, side.space)
    made: dict[str, Snapshot] = {}
    while len(made) < len(at_step) + len(at_second):
        steps = [n for mark, n in at_step.items() if mark not in made]
        seconds = [s for mark, s in at_second.items() if mark not in made]
        until = {"until": min(steps, default=None), "until_seconds": min(seconds, default=None)}
        p = trainer.run(**until, show=setting.show, label=side.space.name)
        passed = [m for m, n in at_step.items() if m not in made and p.step >= n]
        passed += [m for m, s in at_second.items() if m not in made and p.seconds >= s]
        snapshot = Snapshot(denoiser_of(trainer, side.space), p.step, p.images, p.seconds, flops * p.images)
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


def _steps_call(d: Denoiser, batch: int, where: torch.device) -> Callable[[], Tensor]:
    """A few DDIM steps, sampler and network together, in the precision that pictures are made in, ready to be timed."""
    noise = torch.randn(batch, *d.space.shape, device=where)

    def call() -> Tensor:
        with torch.autocast(where.type, torch.bfloat16, enabled=device.computed_in(where) == "bf16"):
            return d.sample(noise, steps=_STEPS_TIMED)

    return call


def _per_step(summary: dict) -> dict:
    return {k: v / _STEPS_TIMED if k != "repeats" else v for k, v in summary.items()}


def _decode_flops(setting: Setting) -> int:
    return autoencoder_flops(setting.profile.autoencoder, setting.train.size, "decode").total


def _judge_autoencoder(setting: Setting, autoencoder: Autoencoder) -> dict:
    """Fidelity on held-out pictures."""
    count = min(len(setting.test), setting.profile.eval_count)
    return judged(autoencoder, setting.test, count) | {
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
            judged[key] = distances.evaluate(made, reference)
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
                "quality": distances.evaluate(made, reference),
            }
        )
    return rows, pictures


def _pictures(setting: Setting, d: Denoiser, count: int, method: str, steps: int) -> Tensor:
    return d.generate(count, method=method, steps=steps, seed=setting.seed)


def break_even(results: dict) -> dict:
    """After how many training images, and how many pictures made, the autoencoder's training is earned back.

    None where the latent side saves nothing. Saved in training: the difference of the denoisers' seconds an image.
    Saved in sampling: that of a whole picture, decoding included, at the fewest DDIM steps of the table (the source's
    50) and the largest batch.
    """
    cost, ledger = results["cost"], results["autoencoder"]
    paid = ledger["training_seconds"] + ledger["encode_seconds"]
    few = min(row["steps"] for row in results["sampling"] if row["method"] == "ddim")
    seconds = {}
    for space in ("pixel", "latent"):
        seconds[space] = report.seconds_a_picture(results, space, "ddim", few)
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
    untrained = seeded(setting.seed, UNet, p.unet).to(setting.device)  # a step takes as long as a trained one's
    pixel = Denoiser(untrained, PixelSpace(setting.train.size), setting.schedule, PREDICTION)
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


def _name(setting: Setting) -> str:
    """Of the record."""
    return f"compare-{slug(setting.train.name)}-{setting.train.size}-{setting.profile.name}"


WRITTEN = ("autoencoder.safetensors", "pixel.safetensors", "latent.safetensors", "report.md")


def _check_may_replace(out: Path, setting: Setting) -> None:
    """ValueError: the folder holds what another comparison, or somebody else, has put there."""
    again = f"; name another folder than {out}, or delete it"
    there = sorted(path.stem for path in out.glob("compare-*.json"))
    for name in there:
        record = load_record(name, out)
        counts = {"train": len(setting.train), "test": len(setting.test)}
        differs = {
            "the data": (record["data_source"], setting.train.source),
            "the budget": (record["results"].get("budget_seconds"), setting.budget),
            "the seed": (record["seed"], setting.seed),
            "the number of pictures": ({k: record["results"].get("data", {}).get(k) for k in counts}, counts),
        }
        changed = [what for what, (theirs, ours) in differs.items() if theirs != ours]
        if name != _name(setting):
            raise ValueError(f"{out} holds the comparison {name}, and this one is {_name(setting)}{again}")
        if changed:
            raise ValueError(f"{out} holds a comparison that differs in {' and '.join(changed)}{again}")
    if not there and (found := next((name for name in WRITTEN if (out / name).exists()), None)):
        raise ValueError(f"{out / found} is there, and is of no comparison{again}")


def _write(out: Path, record: dict, setting: Setting, last: dict[str, Denoiser], pictures: dict) -> None:
    """Record, weights, pictures and report."""
    origin = {"record": record["name"], "data": setting.train.name}
    with written_together(out) as new:
        save_record(record, new)
        checkpoints.save_model(new / "autoencoder.safetensors", last["latent"].space.autoencoder, **origin)
        for space, d in last.items():
            autoencoder = None if space == "pixel" else "autoencoder.safetensors"
            checkpoints.save_denoiser(new / f"{space}.safetensors", d, autoencoder=autoencoder, **origin)
        report.write(new, record, setting.train, setting.test, last, pictures)

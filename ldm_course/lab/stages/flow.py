"""Stage: flow matching and transformers beside the U-Net that predicts v, in latents and in pixels (chapter 9)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ... import checkpoints
from ...config import DiTConfig, UNetConfig
from ...data.latents import Latents
from ...data.loaders import load_data
from ...data.pictures import Pictures
from ...denoiser import Denoiser
from ...diffusion import flow
from ...diffusion.objectives import DenoisingObjective
from ...diffusion.schedules import make_schedule
from ...measure import distances
from ...measure.complexity import Flops, autoencoder_flops, count_parameters, dit_flops, unet_flops
from ...spaces import LatentSpace, PixelSpace
from ...training.recipes import denoiser_of, denoiser_trainer
from ...training.trainer import Trainer
from .base import (
    PREDICTION,
    SCHEDULE,
    Run,
    Stage,
    found_once,
    labels_as_in,
    minutes,
    reference_for,
    save_grid,
    steady_rate,
)
from .denoisers import network_for, put_beside, space_and_data

DATA, SIZE, FIRST = "cifar10", 32, "autoencoder-cifar10-32-f4"
EPOCHS, LEAST_PICTURES = 20, 256  # of so many pictures that the images make so many epochs
LATENT_PATCH, SMALL_PATCH, LARGE_PATCH = 2, 4, 8  # a side: in pixels 48 values, fewer than a DiT is wide, and 192
PATHS = 64  # that the straightness is measured on
SHOWN = 8  # pictures of each method


@dataclass(frozen=True)
class Method:
    """A network, a U-Net or a DiT with patches of `patch` a side, and what it learns: `prediction`, on `schedule`, as a
    flow at `times`, or, where that is None, by DDPM's loss."""

    name: str
    space: str
    patch: int | None = None
    schedule: str = "flow"
    prediction: str = "u"
    times: str | None = "uniform"

    @property
    def objective(self) -> Callable[..., DenoisingObjective]:
        return DenoisingObjective if self.times is None else partial(flow.FlowObjective, times=self.times)


def _ddpm(space: str) -> Method:
    """The course's own."""
    return Method(f"{space} U-Net by DDPM", space, None, SCHEDULE, PREDICTION, None)


def _pixel_dit(patch: int, prediction: str) -> Method:
    """All on one loss, that of the velocity, whatever they predict."""
    return Method(f"pixel DiT/{patch} predicting {prediction}", "pixel", patch, prediction=prediction)


# from DDPM to a flow schedule, prediction and weights change; then the times, or the network; on pixels the DiT's
# space, patch and prediction, among themselves patch or prediction
METHODS = (
    _ddpm("latent"),
    Method("latent U-Net as a flow", "latent"),
    Method("latent U-Net as a flow at logit-normal times", "latent", times="logit-normal"),
    Method(f"latent DiT/{LATENT_PATCH} as a flow", "latent", LATENT_PATCH),
    *(_pixel_dit(patch, prediction) for patch in (LARGE_PATCH, SMALL_PATCH) for prediction in ("x0", "eps", "u")),
    _ddpm("pixel"),
)
SHIPPED = METHODS[3]


@dataclass(frozen=True)
class Setting:
    """What all methods share: the pictures, both spaces, the data in them, and what new pictures are judged by."""

    run: Run
    train: Pictures
    spaces: dict[str, PixelSpace | LatentSpace]
    data: dict[str, Pictures | Latents]
    reference: distances.Reference

    def network(self, method: Method) -> UNetConfig | DiTConfig:
        """The profile's U-Net or DiT, for that space; it knows classes where `denoisers.network_for`'s does."""
        space = self.spaces[method.space]
        network = network_for(self.run, self.train, space)
        if method.patch is None:
            return network
        dit = replace(self.run.profile.dit, patch_size=method.patch, num_classes=network.num_classes)
        return dit.for_channels(space.shape[0])

    def trainer(self, method: Method, **options) -> Trainer:
        config = self.run.train_config(images=self.run.scale.flow_images, seconds=None, compile=False)
        network, levels = self.network(method), make_schedule(method.schedule)
        how = {"objective": method.objective, **options}
        return denoiser_trainer(self.data[method.space], network, config, levels, method.prediction, **how)

    def flops(self, method: Method, backward: bool = False) -> Flops:
        """Of one evaluation, or of training on one picture."""
        network, side = self.network(method), self.spaces[method.space].shape[1]
        count = unet_flops if method.patch is None else dit_flops
        return count(network, side, backward=backward)

    def decoding(self, method: Method) -> int:
        """FLOPs from a sample to its picture."""
        space = self.spaces[method.space]
        return autoencoder_flops(space.autoencoder.config, SIZE, "decode").total if method.space == "latent" else 0


def flows(run: Run) -> dict:
    """Every method of METHODS from the same seed: in each space the same samples in the same order under the same
    noise, `Scale.flow_images` of them, however long that takes; then pictures by so many evaluations of the network,
    and how straight the paths are.

    Its `rows` are the table: method, space, parameters, training FLOPs, the sampler and its evaluations, KD-E and FD-E.
    """
    setting, first_stage = _setting(run)
    found = {m.name: found_once(_folder(run, m), partial(_one, setting, m)) for m in METHODS}
    save_grid(run, torch.cat([pictures for _, pictures in found.values()]))
    put_beside(run, run.weights(FIRST))
    return {
        "finished": True,
        "data": {"name": setting.train.name, "source": setting.train.source, "size": SIZE, "train": len(setting.train)},
        "images": run.scale.flow_images,
        "evaluations": list(run.scale.flow_evaluations),
        "first_stage": first_stage,
        "methods": {name: of["about"] for name, (of, _) in found.items()},
        "rows": [row for of, _ in found.values() for row in of["rows"]],
        "rows_of_the_picture": list(found),
        "evaluations_of_the_picture": run.scale.flow_evaluations[-1],
    }


def _setting(run: Run) -> tuple[Setting, dict]:
    count = max(LEAST_PICTURES, run.scale.flow_images // EPOCHS)
    train = load_data(DATA, SIZE, limit=min(count, run.scale.limit or count))
    pixel, pictures, _ = space_and_data(run, train, None)
    latent, latents, first_stage = space_and_data(run, train, FIRST)
    spaces, data = {"pixel": pixel, "latent": latent}, {"pixel": pictures, "latent": latents}
    return Setting(run, train, spaces, data, reference_for(run, train)), first_stage


def _folder(run: Run, method: Method) -> Path:
    return run.folder / method.name.replace(" ", "-").replace("/", "")


def _one(setting: Setting, method: Method) -> tuple[dict, Tensor]:
    """One training: what is to be said of it with its rows, and pictures to be shown."""
    run = setting.run
    trainer = setting.trainer(method, out=_folder(run, method), save_every=run.save_every)
    progress = trainer.run(show=True, label=f"{run.stage}, {method.name}")
    d = denoiser_of(trainer, setting.spaces[method.space])
    about = {
        **asdict(method),
        "network": asdict(d.model.config),
        "patch_values": method.patch and method.patch**2 * d.model.config.in_channels,
        "parameters": count_parameters(d.model),
        "evaluation_flops": setting.flops(method).total,
        "decoding_flops": setting.decoding(method),
        "training_flops_image": setting.flops(method, backward=True).total,
        "steps": progress.step,
        "images": progress.images,
        "epochs": progress.images / len(setting.train),
        "seconds": progress.seconds,
        "batch_size": trainer.config.batch_size,
        "lr": trainer.config.lr,
        "precision": trainer.precision,
        "images_per_s": steady_rate(progress.history),
        "loss": progress.history[-1]["loss"],
        "straightness": _straightness(run, d, setting.train)._asdict(),
    }
    about["training_flops"] = about["training_flops_image"] * progress.images
    rows, shown = _rows(setting, d, about)
    if method == SHIPPED:
        stored = {"record": run.name, "data": setting.train.name, "classes": setting.train.classes}
        first = run.weights(FIRST).name
        checkpoints.save_denoiser(run.weights(), d, autoencoder=first, eight_bit=True, **stored)
    return {"about": about, "rows": rows}, shown


def _rows(setting: Setting, d: Denoiser, about: dict) -> tuple[list[dict], Tensor]:
    """Pictures judged at each number of evaluations: by DDIM, which is Euler's method on the flow, and in latents by
    Heun's too, with as many evaluations or one fewer; some of the last by DDIM are shown. One noise for all rows."""
    run, rows, shown = setting.run, [], None
    count = run.profile.eval_count
    options = {"label": labels_as_in(setting.train.labels, d, count), "batch_size": run.at_once}
    for sampler in ("ddim", "heun") if d.space.name == "latent" else ("ddim",):
        draw = partial(_by_heun, d) if sampler == "heun" else None
        for most in run.scale.flow_evaluations:
            steps = (most + 1) // 2 if sampler == "heun" else most
            made = d.generate(count, steps=steps, draw=draw, **options)
            calls = flow.evaluations(sampler, steps)
            quality = distances.evaluate(made, setting.reference)
            print(f"  {about['name']}, {sampler}, {calls} evaluations: KD-E {quality['kd_e']:.3g}", flush=True)
            row = {"method": about["name"], "space": about["space"], "sampler": sampler}
            row |= {"steps": steps, "evaluations": calls}
            row |= {name: about[name] for name in ("parameters", "training_flops")}
            row["picture_flops"] = calls * about["evaluation_flops"] + about["decoding_flops"]
            rows.append(row | {"quality": quality})
            shown = made[:SHOWN] if sampler == "ddim" else shown
    return rows, shown


def _by_heun(d: Denoiser, predict_x0: Callable, noise: Tensor, rows: slice, *, steps: int, **sampler) -> Tensor:
    """A way for `Denoiser.generate`, whose other choices of a sampler Heun's method does not have."""
    return flow.heun(predict_x0, noise, d.schedule, steps=steps)


def _straightness(run: Run, d: Denoiser, train: Pictures) -> flow.Straightness:
    """Of PATHS paths, by twice as many steps as the longest sampling makes."""
    count = min(PATHS, run.profile.eval_count)
    noise = torch.randn(count, *d.space.shape, generator=torch.Generator().manual_seed(0)).to(d.device)
    condition = d.condition(count, label=labels_as_in(train.labels, d, count))
    steps = 2 * run.scale.flow_evaluations[-1]
    return flow.straightness(d.predictor(condition), noise, d.schedule, steps=steps)


STAGES = (
    Stage(
        "flow-cifar10-32",
        "flow matching and transformers in latents and pixels: U-Net and DiT, v and velocity, small and large patches",
        flows,
        minutes(2, 3, hours=110),
        networks=len(METHODS),
        needs=(FIRST,),
        shows={
            f"KD-E of {method.name}": f"rows[method={method.name},sampler=ddim,evaluations=50].quality.kd_e"
            for method in (*METHODS[:5], METHODS[-1])
        },
    ),
)

"""Stage: eleven autoencoders, and what one denoiser makes of the latents of each (chapter 9)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ...config import AutoencoderConfig
from ...data.latents import encode_pictures
from ...data.loaders import load_data
from ...data.pictures import Crops, Pictures, to_float, to_uint8
from ...diffusion.schedules import make_schedule
from ...measure import diffusability, distances, fidelity
from ...measure.complexity import autoencoder_flops, count_parameters, values
from ...measure.ranks import rank_correlation
from ...networks.autoencoder import Autoencoder
from ...networks.features import perceptual_distance
from ...networks.quantise import perplexity
from ...spaces import LatentSpace
from ...training.recipes import denoiser_trainer, finished_autoencoder
from .autoencoders import LOSSES, convolutional, trainer_of_images
from .base import PREDICTION, SCHEDULE, Run, Stage, about, found_once, minutes, reference_for, save_grid, steady_rate
from .denoisers import Training

SIZE = 64
CODES = 512  # vectors of the codebook
HELD_OUT = 256  # pictures, at most, that latents are looked at by
SHOWN = 4  # rebuilt, and as many drawn, in a row of the picture


@dataclass(frozen=True)
class Variant:
    """An autoencoder: f, channels of its latents, vectors of a codebook (None: KL), and `AutoencoderObjective`'s
    weights, where they are not its own."""

    f: int = 4
    channels: int = 4
    codes: int | None = None
    losses: Mapping[str, float] = field(default_factory=dict)


STANDARD = "standard"
VARIANTS = {  # each differs from the standard one in one thing; or in f and channels, so that values are as many
    STANDARD: Variant(),
    "f2": Variant(f=2),
    "f2 c1": Variant(f=2, channels=1),
    "f8": Variant(f=8),
    "f8 c16": Variant(f=8, channels=16),
    "more KL": Variant(losses={"kl_weight": 1e-2}),
    "less KL": Variant(losses={"kl_weight": 1e-6}),
    "codebook": Variant(codes=CODES),
    "not perceptual": Variant(losses=LOSSES["l1"]),
    "adversarial": Variant(losses=LOSSES["adversarial"]),
    "equivariant": Variant(losses={"equivariant": 0.5}),  # EQ-VAE's share
}

REBUILT, NEAR = "KD-E of reconstructions", "PSNR, turned round"
# what may tell how well a latent is diffused, the lower the better: of a row
MEASURES = {
    REBUILT: lambda row: row["reconstruction"]["quality"]["kd_e"],
    "perceptual distance": lambda row: row["reconstruction"]["perceptual"],
    NEAR: lambda row: -row["reconstruction"]["psnr"],
    "fine share": lambda row: row["latents"]["fine_share"],
    "half the size": lambda row: row["latents"]["smoothness"]["half the size"],
    "one pixel": lambda row: row["latents"]["smoothness"]["one pixel"],
}


@dataclass(frozen=True)
class Judge:
    """What all autoencoders are trained on and judged by: `train`; `test`, which none has seen; and the `reference` of
    all that is drawn, made of `known` training pictures. Reconstructions are of those that it puts aside, so they are
    held against the same pictures, in the same number, as what is drawn."""

    run: Run
    train: Pictures
    test: Pictures
    known: Pictures
    reference: distances.Reference

    @classmethod
    def of(cls, run: Run) -> Judge:
        train, test = (load_data("emoji", SIZE, split, limit=run.scale.limit) for split in ("train", "test"))
        test = test.subset(range(min(len(test), HELD_OUT, run.profile.eval_count)))
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
        known = train.subset(order[: run.profile.reference_count])
        return cls(run, train, test, known, reference_for(run, known))

    def reconstruction(self, model: Autoencoder) -> dict:
        """Of held-out pictures, what is lost of each; of seen ones, how the set of them looks."""
        x = to_float(self.test.images).to(self.run.device)
        rebuilt = model.reconstruct(x)
        with torch.no_grad():
            perceptual = [perceptual_distance(*pair) for pair in zip(rebuilt.split(64), x.split(64))]
        aside = self.reference.order[: self.reference.count(self.run.profile.eval_count)]
        seen = to_uint8(model.reconstruct(to_float(self.known.images[aside])))
        decoded = to_uint8(rebuilt).cpu()
        return {
            "psnr": fidelity.psnr(decoded, self.test.images),
            "ssim": fidelity.ssim(decoded, self.test.images),
            "perceptual": torch.cat(perceptual).mean().item(),
            "pictures": len(x),
            "quality": distances.evaluate(seen, self.reference),
        }

    @torch.no_grad()
    def latents(self, model: Autoencoder) -> tuple[dict, Tensor]:
        """What may make the latents of held-out pictures easy to diffuse (`diffusability`), and these latents, as the
        denoiser is shown them: drawn from their posteriors, of which `noise_share` is the part of the variance."""
        device = self.run.device
        f, x = model.config.downsample, to_float(self.test.images).to(device)
        z = model.to_latents(x, torch.Generator(device).manual_seed(0))
        power, _ = diffusability.channel_spectra(z)
        noise = (model.latent_scale**2 * model.encode(x).z_logvar.exp()).mean().item()
        found = {
            "spectrum": power,
            "fine_share": diffusability.fine_share(z),
            "fine_share_of_pictures": diffusability.fine_share(diffusability.pooled(x, f)),
            "smoothness": diffusability.smoothness(model.to_latents, x, f),
            "smoothness_of_pictures": diffusability.smoothness(lambda u: diffusability.pooled(u, f), x, f),
            "noise_share": noise / z.var().item(),
        }
        if model.config.codes is not None:
            codes = model.quantize(model.encode(x).z_mean).codes
            found["perplexity"] = perplexity(codes, model.config.codes)
            found["vectors_used"] = len(codes.unique())
        return found, z


def latents(run: Run) -> dict:
    """For each variant an autoencoder, on `Scale.latent_crops` crops, and a denoiser of its latents, on
    `Scale.latent_images` pictures: the same in the same order, from the same seed, however long that takes.

    The rows are sorted by the KD-E of reconstructions. `ranks` says of each of MEASURES how it orders the rows beside
    the KD-E of what is `drawn`: tau above 0 where what is better by the measure is drawn better; and of the two that
    compare each picture with its own, beside the KD-E of what is `rebuilt`.
    """
    judge, found = Judge.of(run), {}
    power, _ = diffusability.channel_spectra(to_float(judge.test.images))
    for name, variant in VARIANTS.items():
        folder = run.folder / name.replace(" ", "-")
        found[name] = found_once(folder, partial(_one, judge, name, variant, folder))
        for part in ("autoencoder", "denoiser"):  # large, and of no more use
            shutil.rmtree(folder / part, ignore_errors=True)
        if run.scale.long and len(found) < len(VARIANTS):
            run.keep(_results(judge, power, {k: row for k, (row, _) in found.items()}))
    rows = [judge.test.images[: 2 * SHOWN], *(pictures for _, pictures in found.values())]
    save_grid(run, torch.cat(rows))
    return _results(judge, power, {k: row for k, (row, _) in found.items()})


def _results(judge: Judge, power: Tensor, found: dict[str, dict]) -> dict:
    rows = sorted(found.values(), key=MEASURES[REBUILT])
    run = judge.run
    return {
        "finished": len(found) == len(VARIANTS),
        "data": about(judge.train, judge.test),
        "crops": run.scale.latent_crops,
        "images": run.scale.latent_images,
        "epochs": run.scale.latent_images / len(judge.train),
        "sampler": f"ddim, {run.profile.match_steps} steps",
        "steps": run.profile.match_steps,
        "network": run.profile.latents_unet,
        "pictures_spectrum": power,
        "rows": rows,
        "ranks": ranks_of(rows) if len(rows) > 1 else None,
        "rows_of_the_picture": ["held-out pictures", *(f"{name}: {SHOWN} rebuilt, {SHOWN} drawn" for name in found)],
    }


def ranks_of(rows: list[dict]) -> dict[str, dict[str, dict]]:
    """`rank_correlation`s of each measure with what is drawn, or rebuilt; of KD-E alone the errors are known."""
    judged = {"drawn": [r["quality"] for r in rows], "rebuilt": [r["reconstruction"]["quality"] for r in rows]}
    errors = {of: [quality["kd_e_error"] for quality in each] for of, each in judged.items()}

    def rank(name: str, of: str) -> dict:
        own = errors["rebuilt"] if name == REBUILT else None
        measured = [MEASURES[name](row) for row in rows]
        return rank_correlation(measured, [quality["kd_e"] for quality in judged[of]], own, errors[of])._asdict()

    return {
        "drawn": {name: rank(name, "drawn") for name in MEASURES},
        "rebuilt": {name: rank(name, "rebuilt") for name in (NEAR, "perceptual distance")},
    }


def _one(judge: Judge, name: str, variant: Variant, folder: Path) -> tuple[dict, Tensor]:
    """One row, and pictures to be shown: trained and judged."""
    run = judge.run
    network = convolutional(run, variant.f, variant.channels, variant.codes)
    model, first = _autoencoder(run, judge.train, name, variant, network, folder / "autoencoder")
    reconstruction = judge.reconstruction(model)
    measured, z = judge.latents(model)
    training, denoiser = _denoiser(judge, name, model, folder / "denoiser")
    made = training.drawn(run.profile.eval_count)
    quality = distances.evaluate(made, judge.reference)
    levels = diffusability.loss_by_level(training.trainer.snapshot(), z, make_schedule(SCHEDULE), PREDICTION)
    shown = to_uint8(model.reconstruct(to_float(judge.test.images[:SHOWN])))
    row = {
        "method": name,
        "space": "latent",
        "f": variant.f,
        "shape": list(training.space.shape),
        "values": values(*training.space.shape[1:], variant.channels),
        "codes": variant.codes,
        "autoencoder": first,
        "reconstruction": reconstruction,
        "latents": {**measured, "spectrum": measured["spectrum"].tolist(), "loss_by_level": levels},
        "denoiser": denoiser,
        "training_flops": first["training_flops"] + denoiser["training_flops"],
        "evaluations": run.profile.match_steps,
        "quality": quality,
    }
    print(
        f"  {name}: {reconstruction['psnr']:.1f} dB; KD-E of reconstructions {reconstruction['quality']['kd_e']:.3f}, "
        f"of what is drawn {quality['kd_e']:.3f}",
        flush=True,
    )
    return row, torch.cat([shown, made[:SHOWN]])


def _autoencoder(
    run: Run, pictures: Pictures, name: str, variant: Variant, network: AutoencoderConfig, out: Path
) -> tuple[Autoencoder, dict]:
    train, losses = Crops((pictures,)), LOSSES["perceptual"] | variant.losses
    trainer = trainer_of_images(run, train, network, run.scale.latent_crops, losses, out, seconds=None)
    progress = trainer.run(show=True, label=f"{run.stage}, {name}, autoencoder")
    model = finished_autoencoder(trainer)
    each = autoencoder_flops(network, train.size, "both", backward=True).total
    return model, {
        "network": asdict(network),
        "parameters": count_parameters(model),
        "training_images": progress.images,
        "training_flops": each * progress.images,  # without those of the networks that judge
        "training_seconds": progress.seconds,
        "images_per_s": steady_rate(progress.history),
        "latent_scale": model.latent_scale.item(),
        **trainer.objective.weights,
        **({} if variant.codes is None else {"kl_weight": None}),  # a codebook has a loss of its own
    }


def _denoiser(judge: Judge, name: str, model: Autoencoder, out: Path) -> tuple[Training, dict]:
    run, space = judge.run, LatentSpace(SIZE, model.to(judge.run.device))
    source = encode_pictures(model, judge.train, batch_size=run.at_once)
    config = run.train_config(images=run.scale.latent_images, seconds=None, compile=False)
    classes = len(judge.train.classes) if run.scale.long else None
    network = replace(run.profile.latents_unet, num_classes=classes)
    trainer = denoiser_trainer(
        source, network, config, make_schedule(SCHEDULE), PREDICTION, out=out, save_every=run.save_every
    )
    progress = trainer.run(show=True, label=f"{run.stage}, {name}")
    training = Training(run, trainer, space, judge.reference)
    return training, {
        "parameters": count_parameters(trainer.ema.module),
        "training_images": progress.images,
        "epochs": progress.images / len(judge.train),
        "training_flops": training.flops_image * progress.images,
        "training_seconds": progress.seconds,
        "encode_seconds": source.seconds,
        "images_per_s": steady_rate(progress.history),
        "loss": progress.history[-1]["loss"],
    }


STAGES = (
    Stage(
        "latents-emoji-64",
        "eleven autoencoders at equal crops, and one denoiser of the latents of each at equal images",
        latents,
        minutes(2, hours=75),
        networks=2 * len(VARIANTS),
        shows={
            "tau of rebuilt and drawn": f"ranks.drawn.{REBUILT}.tau",
            "KD-E, standard": f"rows[method={STANDARD}].quality.kd_e",
            "equivariant": "rows[method=equivariant].quality.kd_e",
        },
    ),
)

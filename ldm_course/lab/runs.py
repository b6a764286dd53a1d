"""One training run from start to finish: the trainer, sample grids on the way, the checkpoint, and its record."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from .. import checkpoints
from ..config import AutoencoderConfig, CLIPConfig, TextConfig, TrainConfig, UNetConfig
from ..data.latents import encode_pictures
from ..data.pictures import Pictures, to_uint8
from ..denoiser import Denoiser
from ..device import default_device
from ..diffusion.schedules import Schedule, check_invertible
from ..files import PLACES, check_free, home, place_of, writable_folder, written_together
from ..measure import distances, fidelity, retrieval
from ..measure.complexity import count_parameters
from ..networks.autoencoder import Autoencoder
from ..networks.clip import CLIP
from ..page import plotting
from ..spaces import LatentSpace, PixelSpace
from ..training.recipes import autoencoder_trainer, clip_trainer, denoiser_of, denoiser_trainer, finished_autoencoder
from ..training.trainer import STATE_FILE, planned_steps, thinned
from .profiles import Profile
from .records import checked_name, code_state, load_record, make_record, save_record

GRID = 32  # pictures in a sample grid
EVALUATED = 256  # pictures, at most, that a finished run is judged by
REFERENCE = 4096  # training pictures, at most, that they are held against


class AutoencoderRun:
    """What differs for an autoencoder: its pictures are reconstructions of held-out ones, above each its original.

    `losses` are `AutoencoderObjective`'s weights, `trainer` the options of `Trainer`.
    """

    def __init__(
        self,
        pictures: Pictures,
        test: Pictures,
        network: AutoencoderConfig,
        config: TrainConfig,
        *,
        losses: dict | None = None,
        **trainer,
    ):
        self.data, self.test = pictures, test
        self.trainer = autoencoder_trainer(pictures, network, config, losses=losses, **trainer)

    def pictures(self) -> Tensor:
        originals, rebuilt = rebuilt_pictures(self.trainer.snapshot(), self.test, GRID // 2)
        return torch.cat([t for pair in zip(originals.split(8), rebuilt.split(8)) for t in pair])

    def results(self, count: int) -> dict:
        return self.trainer.objective.weights | judged(self.trainer.snapshot(), self.test, count)

    def save(self, path: Path, *, beside: Path, half: bool = False, **meta) -> Path:
        return checkpoints.save_model(path, finished_autoencoder(self.trainer), half=half, **meta)


class DenoiserRun:
    """What differs for a denoiser: its pictures are new ones, asked for as the training pictures are: by their classes,
    or with `text` by their captions. With `autoencoder`, the file of one, it works in its latents; `trainer` are the
    options of `Trainer`.

    ValueError: the file holds no autoencoder, or the pictures have no captions.
    """

    def __init__(
        self,
        pictures: Pictures,
        network: UNetConfig,
        config: TrainConfig,
        schedule: Schedule,
        prediction: str,
        *,
        autoencoder: Path | None = None,
        text: TextConfig | None = None,
        **trainer,
    ):
        self.data, self.autoencoder = pictures, autoencoder
        if text is not None and pictures.captions is None:
            raise ValueError(f"{pictures.name} has no captions; train on emoji, scenes, or an .npz file with captions")
        if len(pictures) < distances.FEWEST:
            raise ValueError(
                f"{len(pictures)} pictures to train on; what is drawn is judged by {distances.FEWEST}: give as many"
            )
        check_invertible(schedule, prediction, clip_x0=autoencoder is None)  # before pictures are encoded
        self.space, source = PixelSpace(pictures.size), pictures
        self.encode_seconds = 0.0
        if autoencoder is not None:
            model, _ = checkpoints.load_model(autoencoder, default_device())
            if not isinstance(model, Autoencoder):
                raise ValueError(f"{autoencoder}: expected an autoencoder's checkpoint")
            self.space = LatentSpace(pictures.size, model)
            if pictures.size % (multiple := model.config.downsample * network.multiple):
                f = model.config.downsample
                raise ValueError(
                    f"pictures of {pictures.size} a side; with f={f} this U-Net needs multiples of {multiple}, "
                    "so take another size"
                )
            source = encode_pictures(model, pictures, cache=trainer.get("out"), show=True)
            self.encode_seconds = source.seconds
        told = {} if text is None else {"captions": pictures.captions, "text": text}
        self.trainer = denoiser_trainer(source, network, config, schedule, prediction, **told, **trainer)

    def denoiser(self) -> Denoiser:
        return denoiser_of(self.trainer, self.space)

    def made(self, count: int, method: str, steps: int) -> Tensor:
        """`count` new pictures; asked for are the captions, or classes, of as many training pictures, at random."""
        d = self.denoiser()
        order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(0))
        some = self.data.subset(order[torch.arange(count) % len(order)])
        asked = {"prompt": some.captions} if d.reads else {"label": some.labels if d.num_classes is not None else None}
        return d.generate(count, method=method, steps=steps, **asked)

    def pictures(self) -> Tensor:
        return self.made(GRID, "dpmpp", 25)

    def results(self, count: int) -> dict:
        reference = distances.Reference(self.data.images.cpu(), limit=REFERENCE)
        return {
            "encode_seconds": self.encode_seconds,
            "sampler": "ddim, 50 steps",
            "quality": distances.evaluate(self.made(count, "ddim", 50), reference),
        }

    def save(self, path: Path, *, beside: Path, half: bool = False, **meta) -> Path:
        """The denoiser, and with it its autoencoder, unless that is in the folder `beside` already."""
        name = None
        if self.autoencoder is not None:
            name = self.autoencoder.name
            if not (beside / name).is_file():
                model, old = checkpoints.load_model(self.autoencoder)
                checkpoints.save_model(path.with_name(name), model, half=half, **old)
        return checkpoints.save_denoiser(
            path, self.denoiser(), autoencoder=name, half=half, classes=self.data.classes, **meta
        )


class ClipRun:
    """What differs for a CLIP: its pictures are held-out ones, in rows: a picture, and the seven nearest to its
    caption.

    ValueError: what `clip_trainer` refuses, or held-out pictures without captions.
    """

    def __init__(self, pictures: Pictures, test: Pictures, network: CLIPConfig, config: TrainConfig, **trainer):
        self.data, self.test = pictures, test
        self.trainer = clip_trainer(pictures, network, config, **trainer)

    def pictures(self) -> Tensor:
        return nearest_to_captions(self.trainer.snapshot(), self.test, -(-GRID // 8))

    def results(self, count: int) -> dict:
        model, some = self.trainer.snapshot(), self.test.subset(range(min(count, len(self.test))))
        pairs = retrieval.of_pictures(model, some.images), retrieval.of_texts(model, some.captions)
        return {"scale": model.log_scale.exp().item(), "retrieval": retrieval.retrieval(*pairs)}

    def save(self, path: Path, *, beside: Path, half: bool = False, **meta) -> Path:
        return checkpoints.save_model(path, self.trainer.snapshot(), half=half, **meta)


def nearest_to_captions(model: CLIP, pictures: Pictures, rows: int) -> Tensor:
    """Rows of eight, uint8 (8 rows, 3, H, W): the first of these pictures, each before those that lie nearest to its
    caption, the nearest first; where there are fewer pictures, they are repeated."""
    found = retrieval.of_texts(model, pictures.captions[:rows]) @ retrieval.of_pictures(model, pictures.images).T
    nearest = found.argsort(dim=1, descending=True)[:, torch.arange(7) % len(pictures)]
    return pictures.images[torch.cat([torch.arange(len(nearest))[:, None], nearest], 1).flatten()].cpu()


def check_name(name: str, out: Path, autoencoder: Path | None = None, *, publish: bool) -> None:
    """What can be known before a run is made. ValueError: a name that is none, or that of the autoencoder's file; a
    record there of another kind of run; another autoencoder under the name of this one's file in `out`, or, where it is
    to be published, in `checkpoints/`; a folder that takes no files. Unwritten: what is no file is in a file's way."""
    checked_name(name)
    for file in filter(None, (Path(name), autoencoder)):
        if file.stem == Path(STATE_FILE).stem:
            raise ValueError(f"{file} is called as a run's state is, {STATE_FILE}; choose another name")
    records = [out / f"{name}.json", *([place_of("record", name)] if publish else [])]
    for record in records:
        writable_folder(record.parent)
        if not record.is_file():
            continue
        try:
            kind = load_record(name, record.parent)["kind"]
        except ValueError as error:
            raise ValueError(f"{record} is there and broken; delete it, or choose another name or folder") from error
        if kind != "train":
            raise ValueError(f"{record} is the record of another kind of run, {kind!r}; choose another name or folder")
    published = [place_of(kind, name) for kind in PLACES] if publish else []
    samples = out / "samples"
    check_free(*records, out / f"{name}.safetensors", samples / "0000000.png", *samples.glob("*.png"), *published)
    if autoencoder is None:
        return
    if autoencoder.name == f"{name}.safetensors":
        raise ValueError(f"--name {name} is that of the autoencoder's file, which goes beside it; choose another name")
    for there in (out / autoencoder.name, *([place_of("weights", autoencoder.stem)] if publish else [])):
        if there.exists():
            ours, theirs = (checkpoints.load_model(path)[0] for path in (autoencoder, there))
            if checkpoints.fingerprint(ours) != checkpoints.fingerprint(theirs):
                raise ValueError(
                    f"{autoencoder} is not the autoencoder that lies at {there}, where it would go; "
                    "take that one, rename this one, or name another folder"
                )


def train_run(
    run: AutoencoderRun | DenoiserRun | ClipRun,
    *,
    name: str,
    out: Path,
    profile: Profile,
    sample_every: int = 1000,
    publish: bool = False,
) -> Path | None:
    """Trains, and returns the checkpoint, `out`/`name`.safetensors; of several processes, the first does, and the
    others return None.

    Beside it lie the record, judged as the `profile` says, and `samples/`, a grid each `sample_every` steps; the run's
    state too, where its trainer has the same `out`. `publish` puts the weights in half precision into the course's
    `checkpoints/`, the record into `records/`, and beside a latent denoiser its autoencoder.
    Weights and record appear together, or not at all; if the judging fails, then without it, before the error goes on.
    ValueError, before the training: what `check_name` refuses; a file of that name that holds something else.
    """
    check_name(name, out, getattr(run, "autoencoder", None), publish=publish)
    trainer = run.trainer
    for path in (out / f"{name}.safetensors", *([place_of("weights", name)] if publish else [])):
        checkpoints.check_may_replace(path, trainer.ema.module, Path(run.data.name).name)
    trainer.check_memory()
    code = code_state()

    def grid(trainer) -> None:
        if trainer.accelerator.is_main_process:
            step = trainer.progress.step
            plotting.save_png(out / "samples" / f"{step:07d}.png", plotting.grid_image(run.pictures(), 8, scale=2))

    asked = planned_steps(trainer.config)
    if (record := out / f"{name}.json").is_file() and trainer.progress.step == 0 and asked is not None:
        if (learnt := load_record(name, out)["results"].get("steps", 0)) > asked:
            raise ValueError(
                f"{record} is of {learnt} steps, whose state is gone, and {asked} are asked for; choose another name "
                "or folder, or ask for as many"
            )
    if asked is not None and trainer.progress.step >= asked and trainer.accelerator.is_main_process:
        print(f"{name} has learnt for {trainer.progress.step} steps already, and {asked} are asked for: none is added")
    progress = trainer.run(every=(sample_every, grid), show=True, label=name)
    if not trainer.accelerator.is_main_process:
        return None
    with trainer.kept_if_interrupted(), written_together(out) as new:
        grid(trainer)
        run.save(new / f"{name}.safetensors", beside=out, record=name, data=run.data.name)
        results = {
            "steps": progress.step,
            "images": progress.images,
            "seconds": progress.seconds,
            "processes": trainer.accelerator.num_processes,
            "precision": trainer.precision,
            "history": thinned(progress.history),
            "parameters": count_parameters(trainer.ema.module),
        }
        failed = None
        try:
            results |= run.results(min(EVALUATED, 4 * profile.eval_count))
        except Exception as error:  # what was trained is kept, and its record says that nobody has judged it
            failed, results["not_judged"] = error, " ".join(str(error).split())
        record = make_record(
            name,
            "train",
            results,
            command=sys.argv,
            seconds=progress.seconds,
            data_source=run.data.source,
            profile=profile.name,
            seed=trainer.config.seed,
            config={"train": asdict(trainer.config), "network": asdict(trainer.ema.module.config)},
            device=trainer.accelerator.device,
            code=code,
        )
        save_record(record, new)
    if isinstance(failed, ValueError):
        raise ValueError(f"{out / name}.safetensors is written, but could not be judged: {failed}") from failed
    if failed is not None:
        raise failed
    if publish:
        with written_together(home()) as new:
            weights = place_of("weights", name, new)
            about = {"record": name, "data": Path(run.data.name).name}
            run.save(weights, beside=place_of("weights", name).parent, half=True, **about)
            save_record(record, place_of("record", name, new).parent)
            plotting.save_png(place_of("picture", name, new), plotting.grid_image(run.pictures(), 8, scale=2))
    return out / f"{name}.safetensors"


def rebuilt_pictures(model: Autoencoder, pictures: Pictures, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` pictures and their reconstructions, uint8 (count, 3, H, W), on the CPU."""
    some = pictures.subset(range(min(count, len(pictures))))
    return some.images.cpu(), to_uint8(model.reconstruct(some.batch(range(len(some)), "cpu")))


def judged(model: Autoencoder, pictures: Pictures, count: int) -> dict:
    """What an autoencoder loses of the first `count` pictures, before any diffusion model has done anything."""
    originals, rebuilt = rebuilt_pictures(model, pictures, count)
    return {
        "psnr": fidelity.psnr(rebuilt, originals),
        "ssim": fidelity.ssim(rebuilt, originals) if pictures.size >= fidelity.SSIM_WINDOW else None,
        "reconstruction": distances.evaluate(rebuilt, originals) if len(originals) >= 4 else None,
    }


def with_classes(network: UNetConfig, pictures: Pictures) -> UNetConfig:
    """The network, told as many classes as the pictures have."""
    return replace(network, num_classes=len(pictures.classes) if pictures.classes else None)

"""Stage: what a network of clips adds to a network of images, and whether the compressed space pays there (chapter 9).

At 64, in latents: the frames of an image network, drawn alone or all from one noise, and two networks of clips, one
from scratch and one from the image network's weights. At 32: clips in pixels and in latents. Real clips stand beside
them, also in wrong order and mixed, which must fail.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from ... import checkpoints
from ...config import UNetConfig
from ...data.clips import Clips, encode_clips, frames_of, load_clips
from ...data.latents import Latents
from ...data.pictures import to_float, to_uint8
from ...denoiser import Denoiser
from ...diffusion.schedules import make_schedule
from ...files import load_tensors, save_tensors, written_whole
from ...measure import coherence
from ...measure.clip_cost import ClipCounts, savings, video_unet_flops
from ...measure.complexity import autoencoder_flops, count_parameters, unet_flops
from ...measure.copying import copying
from ...networks.autoencoder import Autoencoder
from ...networks.detector import Detector
from ...networks.video import VideoUNetConfig
from ...page import films, plotting
from ...spaces import LatentSpace, PixelSpace
from ...training.clips import ClipSpace, clip_trainer, save_clip_denoiser
from ...training.recipes import denoiser_trainer
from ...training.trainer import STATE_FILE, Trainer
from .autoencoders import FIRST_STAGE
from .base import PREDICTION, SCHEDULE, Run, Stage, minutes, save_grid, steady_rate
from .denoisers import put_beside
from .prompts import READER

SIZE, SMALL, FRAMES = 64, 32, 8
METHOD = "dpmpp"
COMPARED = 1000  # clips of either kind, at most, among which the nearest to a new one is looked for
SHOWN = 6  # clips of each row of the film
REAL, DECODED, SHUFFLED, MIXED = "real clips", "encoded and decoded", "frames shuffled", "frames of different clips"
ALONE, ONE_NOISE = "images alone", "images of one noise"
SCRATCH, ALIGNED = "video from scratch", "video from images"
PIXEL, LATENT, LATENT_LONGER = "pixel video", "latent video", "latent video of as many FLOPs"
ON_FILM = (DECODED, ALONE, ONE_NOISE, ALIGNED)


@dataclass
class Side:
    """All that is the same for the methods of one size: clips to learn from and others that are held out, the first
    stage, and who judges. `count` clips of each method are judged."""

    run: Run
    size: int
    first: Autoencoder
    reader: Detector
    train: Clips
    held_out: Clips
    count: int

    @classmethod
    def of(cls, run: Run, size: int, first: Autoencoder, reader: Detector) -> Side:
        count = max(FRAMES, run.profile.eval_count // FRAMES)
        clips = run.scale.video_clips
        counts = {"train": clips, "test": max(count, min(clips, COMPARED))}
        sets = (load_clips(size, split, frames=FRAMES, limit=n) for split, n in counts.items())
        return cls(run, size, first, reader, *sets, count)

    @property
    def test(self) -> Tensor:
        """The real clips that are judged: so many of those held out."""
        return self.held_out.clips[: self.count]

    @cached_property
    def latents(self) -> Latents:
        return encode_clips(self.first, self.train, cache=self.run.folder, batch_size=self.run.at_once)

    @cached_property
    def reference(self) -> coherence.ClipReference:
        """Of clips that were trained on, as far as the profile's pictures go; their features are kept."""
        most = max(2 * self.count, self.run.profile.reference_count // FRAMES)
        path = self.run.folder / f"features-{self.size}.safetensors"
        if not path.is_file():
            found = coherence.clip_features(self.train.clips[:most], device=self.run.device)
            save_tensors(path, vars(found))
        return coherence.ClipReference(coherence.ClipFeatures(**load_tensors(path)[0]), device=self.run.device)

    def row(self, method: str, make: Callable[[], tuple[dict, Tensor]]) -> tuple[dict, Tensor]:
        """What is to be said of a method and of its clips, and some of them; or what was kept of that. `make` gives the
        method's own entries, and the clips."""
        folder = self.run.folder / "rows"
        name = f"{method.replace(' ', '-')}-{self.size}"
        kept, samples = folder / f"{name}.json", folder / f"{name}.safetensors"
        if kept.is_file():
            return json.loads(kept.read_text()), load_tensors(samples)[0]["clips"]
        about, clips = make()
        found = coherence.coherence(clips, self.reader)
        row = {
            "method": method,
            "size": self.size,
            **about,
            "clips": len(clips),
            "coherence": {k: _told(v) for k, v in found.items()},
            "quality": coherence.clip_distances(clips, self.reference),
        }
        if row.get("network") == "clips":
            known = (of.clips[:COMPARED] for of in (self.train, self.held_out))
            row["copied"] = copying(*map(_tall, (clips, *known)), space="pixels", device=self.run.device)
        said = ", ".join(f"{k} {v.mean:.3g}" for k, v in found.items())
        print(f"  {self.size}, {method}: {said}, KD-E of changes {row['quality']['changes']['kd_e']:.3f}", flush=True)
        some = clips[:SHOWN].contiguous()
        save_tensors(samples, {"clips": some})
        with written_whole(kept) as path:
            path.write_text(json.dumps(row))
        return row, some

    def real(self) -> list[tuple[dict, Tensor]]:
        """Rows of real clips that nobody was trained on; those that must fail at the larger size alone."""
        clips = self.test
        ways = {REAL: lambda: clips, DECODED: self.decoded}
        if self.size == SIZE:
            ways |= {SHUFFLED: lambda: coherence.shuffled(clips), MIXED: lambda: coherence.mixed(clips)}
        return [self.row(method, lambda make=make: ({"space": "pixel"}, make())) for method, make in ways.items()]

    @torch.no_grad()
    def decoded(self) -> Tensor:
        parts = self.test.flatten(0, 1).split(self.run.at_once)
        return torch.cat(
            [to_uint8(self.first.reconstruct(to_float(part.to(self.run.device)))).cpu() for part in parts]
        ).unflatten(0, (self.count, FRAMES))


def _tall(clips: Tensor) -> Tensor:
    """A clip as one picture, its frames below each other, so that whole clips are compared: (N, 3, F·H, W)."""
    return clips.transpose(1, 2).flatten(2, 3)


def _told(mean: coherence.Mean) -> dict:
    """As an entry of a record; None for what too few clips tell."""
    return {k: v if math.isfinite(v) else None for k, v in asdict(mean).items()}


def video(run: Run) -> dict:
    """All trainings and rows, each kept when it is done.

    At 64 every method's networks have seen `Scale.video_images` frames in all, as many in each step: the network of
    clips that begins with the image network's weights takes those of half the way, and sees the other half itself. At
    32 the networks in pixels and in latents have seen half as many; that in latents goes on until it has taken the
    FLOPs of that in pixels, with those of encoding the clips once. The first stage's training, which all of the course
    shares, is not counted.
    """
    p = run.profile
    first, reader = (checkpoints.load_model(run.weights(stage), run.device)[0] for stage in (FIRST_STAGE.name, READER))
    large, small = (Side.of(run, size, first, reader) for size in (SIZE, SMALL))
    steps = max(2, run.scale.video_images // p.batch_size)
    image = _trained(run, "image", False, large, "latent", {"half": steps // 2, "whole": steps})
    scratch = _trained(run, "scratch", True, large, "latent", {"whole": steps})
    aligned = _trained(run, "aligned", True, large, "latent", {"whole": steps - steps // 2}, before=image["half"])
    rows = large.real()
    rows.append(large.row(ALONE, lambda: _drawn(large, image["whole"])))
    rows.append(large.row(ONE_NOISE, lambda: _drawn(large, image["whole"], one_noise=True)))
    rows.append(large.row(SCRATCH, lambda: _drawn(large, scratch["whole"])))
    rows.append(large.row(ALIGNED, lambda: _drawn(large, aligned["whole"])))
    rows += small.real()
    few = max(1, steps // 2)
    pixel = _trained(run, "pixel", True, small, "pixel", {"whole": few})
    rows.append(small.row(PIXEL, lambda: _drawn(small, pixel["whole"])))
    spent = pixel["whole"].about["training_flops"] - _encoding(small)
    longer = max(few + 1, round(spent / (p.batch_size * _flops(small, "latent", True, backward=True))))
    latent = _trained(run, "latent", True, small, "latent", {"few": few, "whole": longer})
    rows.append(small.row(LATENT, lambda: _drawn(small, latent["few"])))
    rows.append(small.row(LATENT_LONGER, lambda: _drawn(small, latent["whole"])))
    _show(run, rows)
    put_beside(run, run.weights(FIRST_STAGE.name))
    save_clip_denoiser(
        run.weights(),
        _denoiser(large, aligned["whole"]),
        autoencoder=run.weights(FIRST_STAGE.name).name,
        eight_bit=True,
        record=run.name,
        data=large.train.name,
    )
    return {
        "finished": True,
        "data": {"name": large.train.name, "source": large.train.source, "clips": len(large.train), "frames": FRAMES},
        "network": p.unet,
        "method": METHOD,
        "steps": p.match_steps,
        "measures": coherence.MEASURES,
        "batch_frames": p.batch_size,
        "encoding_flops": {str(side.size): _encoding(side) for side in (large, small)},
        "rows": [row for row, _ in rows],
        "rows_of_the_picture": [row["method"] for row, _ in rows],
        "rows_of_the_film": list(ON_FILM),
        "compressing_time": _compressing_time(first),
    }


# Training ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """A network as it was after so many steps, and what is to be said of it in its rows."""

    model: nn.Module
    about: dict


def _network(side: Side, space: str) -> UNetConfig:
    return side.run.profile.unet.for_channels(3 if space == "pixel" else side.first.config.latent_channels)


def _flops(side: Side, space: str, clips: bool, backward: bool = False) -> float:
    """FLOPs of one pass on one frame, its share of a clip's where the network is one of clips."""
    network, size = _network(side, space), side.size // (1 if space == "pixel" else side.first.config.downsample)
    if not clips:
        return unet_flops(network, size, backward=backward).total
    return video_unet_flops(VideoUNetConfig(network, FRAMES), size, backward=backward).total / FRAMES


def _encoding(side: Side) -> int:
    return autoencoder_flops(side.first.config, side.size, "encode", len(side.train) * FRAMES).total


def _trained(
    run: Run, name: str, clips: bool, side: Side, space: str, marks: dict[str, int], before: Trained | None = None
) -> dict[str, Trained]:
    """One training, of a network of `clips` or of images, and its averaged weights at the `marks`, in steps; they are
    kept, and read back after a stop. It begins with the weights of `before`, whose costs are its own then."""
    folder, found = run.folder / name, {}
    files = {mark: folder / f"{mark}.safetensors" for mark in marks}
    if not all(path.is_file() for path in files.values()):
        trainer = _trainer(run, clips, side, space, max(marks.values()), before, folder)
        for mark, steps in marks.items():
            trainer.run(until=steps, show=True, label=f"{run.stage}, {name}")
            if not files[mark].is_file():
                about = _about(run, trainer, clips, side, space, before)
                checkpoints.save_model(files[mark], trainer.snapshot(), about=about)
        (folder / STATE_FILE).unlink(missing_ok=True)  # large, and of no more use
    for mark, path in files.items():
        model, meta = checkpoints.load_model(path, run.device)
        found[mark] = Trained(model, meta["about"])
    return found


def _trainer(run: Run, clips: bool, side: Side, space: str, steps: int, before: Trained | None, folder) -> Trainer:
    """So many frames a step for either kind of network: some alone, or clips of them."""
    each = max(1, run.profile.batch_size // FRAMES) if clips else run.profile.batch_size
    config = run.train_config(batch_size=each, images=steps * each, seconds=None, compile=False)
    network, levels = _network(side, space), make_schedule(SCHEDULE)
    options = {"out": folder, "save_every": run.save_every}
    if not clips:
        return denoiser_trainer(frames_of(side.latents), network, config, levels, PREDICTION, **options)
    data = side.train if space == "pixel" else side.latents
    image = None if before is None else before.model
    return clip_trainer(data, network, config, levels, PREDICTION, image=image, **options)


def _about(run: Run, trainer: Trainer, clips: bool, side: Side, space: str, before: Trained | None) -> dict:
    progress, frames = trainer.progress, FRAMES if clips else 1
    earlier = before.about if before else {"images": 0, "seconds": 0.0, "training_flops": 0.0}
    images, rate = progress.images * frames, steady_rate(progress.history)
    return {
        "space": space,
        "network": "clips" if clips else "images",
        "parameters": count_parameters(trainer.model),
        "images": earlier["images"] + images,
        "epochs": (earlier["images"] + images) / (len(side.train) * FRAMES),
        "steps_of_training": progress.step,
        "seconds": earlier["seconds"] + progress.seconds,
        "images_per_s": rate and rate * frames,
        "training_flops": earlier["training_flops"] + images * _flops(side, space, clips, backward=True),
        "loss": progress.history[-1]["loss"],
        "precision": trainer.precision,
    }


# Drawing -------------------------------------------------------------------------------------------------------------


def _denoiser(side: Side, trained: Trained) -> Denoiser:
    frame = PixelSpace(side.size) if trained.about["space"] == "pixel" else LatentSpace(side.size, side.first)
    space = ClipSpace(frame, FRAMES) if trained.about["network"] == "clips" else frame
    return Denoiser(trained.model, space, make_schedule(SCHEDULE), PREDICTION)


def _drawn(side: Side, trained: Trained, one_noise: bool = False) -> tuple[dict, Tensor]:
    """A method's entries of its row, and its clips: from an image network frame by frame, each from a noise of its own,
    or all from `one_noise`; since the sampler adds none, that is one picture, FRAMES times."""
    run, d, clips = side.run, _denoiser(side, trained), trained.about["network"] == "clips"
    sampler = {"method": METHOD, "steps": run.profile.match_steps}
    if clips:
        made = d.generate(side.count, batch_size=max(1, run.at_once // FRAMES), **sampler)
    elif one_noise:
        made = d.generate(side.count, batch_size=run.at_once, **sampler)[:, None].expand(-1, FRAMES, -1, -1, -1)
    else:
        made = d.generate(side.count * FRAMES, batch_size=run.at_once, **sampler).unflatten(0, (side.count, FRAMES))
    pictures = 1 if one_noise else FRAMES
    space = trained.about["space"]
    cost = run.profile.match_steps * _flops(side, space, clips)
    if space == "latent":
        cost += autoencoder_flops(side.first.config, side.size, "decode").total
    about = {"evaluations": run.profile.match_steps, "clip_flops": pictures * cost}
    return trained.about | about, made


# Shown ---------------------------------------------------------------------------------------------------------------


def _show(run: Run, rows: list[tuple[dict, Tensor]]) -> None:
    """The grid, a clip of each method from left to right; and the film, SHOWN clips of each of ON_FILM, frame by frame
    side by side."""
    strips = [_enlarged(clips[0]) for _, clips in rows]
    save_grid(run, torch.cat(strips))
    shown = {row["method"]: clips for row, clips in rows if row["size"] == SIZE}
    clips = torch.cat([shown[method] for method in ON_FILM])  # (rows x SHOWN, F, 3, H, W)
    frames = np.stack([np.asarray(plotting.grid_image(frame, SHOWN, scale=1)) for frame in clips.unbind(1)])
    with written_whole(run.written("film")) as path:
        path.write_bytes(films.sheet(frames))


def _enlarged(pictures: Tensor) -> Tensor:
    """To SIZE a side, by repetition."""
    times = SIZE // pictures.shape[-1]
    return pictures.repeat_interleave(times, -1).repeat_interleave(times, -2)


def _compressing_time(first: Autoencoder) -> dict:
    """What a first stage that compresses time fourfold as well would save, counted: of this stage's clips, in groups of
    four; and of 17 frames of 256 a side at f = 8, of which the first is encoded alone."""
    c, side = first.config.latent_channels, SIZE // first.config.downsample
    here, usual = ClipCounts(FRAMES, c, side, side), ClipCounts(17, 4, 32, 32)
    after = {"here": (here, here.in_time(4, first_alone=False)), "17 frames of 256": (usual, usual.in_time(4))}
    return {
        name: {"before": asdict(one), "after": asdict(other), "times fewer": savings(one, other)}
        for name, (one, other) in after.items()
    }


STAGES = (
    Stage(
        "video-scenes-64",
        "clips of scenes: an image network's frames, networks of clips in latents and in pixels",
        video,
        minutes(4, 4, hours=85),
        networks=5,
        needs=(FIRST_STAGE.name, READER),
        shows={
            "things kept": f"rows[method={SCRATCH}].coherence.kept.mean",
            "frames alone": f"rows[method={ALONE}].coherence.kept.mean",
        },
    ),
)

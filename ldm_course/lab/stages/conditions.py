"""Stage: what a denoiser must be told to draw what is asked: four conditions of one network (chapter 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ... import checkpoints
from ...data.latents import Latents, encode_pictures
from ...data.loaders import load_data
from ...data.pictures import Pictures, to_float, to_uint8
from ...data.prompts import held_out, parse, without_held_out
from ...denoiser import Denoiser
from ...diffusion.schedules import make_schedule
from ...measure import distances, obedience
from ...measure.complexity import count_parameters
from ...networks.clip import CLIP
from ...networks.detector import Detector
from ...spaces import LatentSpace
from ...training.recipes import denoiser_of, denoiser_trainer
from ...training.trainer import Trainer
from .autoencoders import FIRST_STAGE
from .base import PREDICTION, SCHEDULE, Run, Stage, found_once, minutes, reference_for, save_grid, steady_rate
from .prompts import KINDS, READER
from .text2image import SIZE

ENCODER = "clip-64"
CONDITIONS = {  # what the network reads
    "frozen CLIP": "the caption, through the encoder of a CLIP that was trained before and stays as it is",
    "learnt encoder": "the caption, through an encoder of the same build that is trained with the network",
    "bag of words": "the caption's words without their order, trained with the network",
    "label": "one word, the first thing's shape, through an encoder of the same build, trained with the network",
}
GUIDANCE, METHOD = (1.0, 3.0), "dpmpp"
BATCH, LR, EMA = 32, 1e-3, 0.999  # few at a time: words take many steps to be learnt
SCENES = 10_000  # of which some three quarters have no held-out pair
MOST = dict(zip(KINDS, (1000, 500), strict=True))  # prompts
SHOWN = 4  # prompts of each kind in the picture, drawn with the stronger guidance


@dataclass(frozen=True)
class Judge:
    """What the networks are asked for, the scenes of either kind (`prompts.KINDS`), of which none was trained on; and
    who judges what they draw."""

    run: Run
    asked: dict[str, Pictures]
    reader: Detector
    reference: distances.Reference

    def obeyed(self, pictures: Tensor, captions: Sequence[str]) -> dict[str, dict]:
        return {name: asdict(of) for name, of in obedience.score(pictures, captions, self.reader).items()}

    def row(self, d: Denoiser, kind: str, scale: float, told: Sequence[str]) -> tuple[dict, Tensor]:
        """Judged by the whole captions, whatever the network is `told`; KD-E where training scenes are alike."""
        sampler = {"method": METHOD, "steps": self.run.profile.match_steps, "guidance_scale": scale}
        made = d.generate(len(told), prompt=told, batch_size=self.run.at_once, **sampler)
        row = {"kind": kind, "guidance": scale, "obeyed": self.obeyed(made, self.asked[kind].captions)}
        if kind == KINDS[0]:
            row["quality"] = distances.evaluate(made, self.reference)
        return row, made[:SHOWN]


def conditions(run: Run) -> dict:
    """One network for each condition, from the same weights, trained on the same latents in the same order at the same
    times and noises, all on `Scale.condition_images`, however long that takes; then the same prompts and noises.

    `most` is what the scenes of these captions reach themselves, encoded and decoded; `chance` what they reach by each
    other's captions.
    """
    scenes = load_data("scenes", SIZE, limit=min(SCENES, run.scale.limit or SCENES))
    scenes = scenes.subset(without_held_out(scenes.captions))
    needed = (FIRST_STAGE.name, ENCODER, READER)
    first, clip, reader = (checkpoints.load_model(run.weights(stage), run.device)[0] for stage in needed)
    latents = encode_pictures(first, scenes, cache=run.folder, batch_size=run.at_once)
    asked = captioned({kind: min(n, 4 * run.profile.eval_count) for kind, n in MOST.items()}, run.scale.limit)
    judge, space = Judge(run, asked, reader, reference_for(run, scenes)), LatentSpace(SIZE, first)
    found = {
        name: found_once(_folder(run, name), partial(_one, run, name, scenes, latents, clip, judge, space))
        for name in CONDITIONS
    }
    decoded = {kind: to_uint8(first.reconstruct(to_float(of.images))) for kind, of in asked.items()}
    shown = [torch.cat([decoded[kind][:SHOWN] for kind in KINDS]), *(pictures for _, pictures in found.values())]
    save_grid(run, torch.cat(shown))
    return {
        "finished": True,
        "data": {"name": scenes.name, "source": scenes.source, "size": SIZE, "train": len(scenes)},
        "weights": {stage: run.weights(stage).stem for stage in needed},
        "network": run.profile.condition_unet,
        "method": METHOD,
        "steps": run.profile.match_steps,
        "prompts": {kind: len(of) for kind, of in asked.items()},
        "images": run.scale.condition_images,
        "conditions": {name: of["about"] | {"reads": CONDITIONS[name]} for name, (of, _) in found.items()},
        "rows": [{"condition": name} | row for name, (of, _) in found.items() for row in of["rows"]],
        "most": {kind: judge.obeyed(decoded[kind], of.captions) for kind, of in asked.items()},
        "chance": {kind: judge.obeyed(decoded[kind], _turned(of.captions)) for kind, of in asked.items()},
        "rows_of_the_picture": ["the scenes of these captions, encoded and decoded", *CONDITIONS],
        "prompts_of_the_picture": [caption for of in asked.values() for caption in of.captions[:SHOWN]],
    }


def captioned(counts: dict[str, int], limit: int | None) -> dict[str, Pictures]:
    """So many scenes of either kind that nobody was trained on, or as many as there are among `limit`."""
    enough = 8 * max(counts.values())
    test = load_data("scenes", SIZE, "test", limit=min(enough, limit or enough))
    new = torch.tensor([held_out(parse(caption)) for caption in test.captions])
    return {kind: test.subset((new == (kind != KINDS[0])).nonzero()[:n, 0]) for kind, n in counts.items()}


def _turned(captions: Sequence[str]) -> list[str]:
    return [*captions[1:], captions[0]]


def _told(name: str, scenes: Pictures) -> Sequence[str]:
    """What the network reads of scenes: their captions, or the names of their labels."""
    return [scenes.classes[i] for i in scenes.labels.tolist()] if name == "label" else scenes.captions


def _trainer(run: Run, name: str, scenes: Pictures, latents: Latents, clip: CLIP, **options) -> Trainer:
    text = clip.config.text
    how = {"encoder": clip.text, "words": clip.config.words} if name == "frozen CLIP" else {"text": text}
    if name == "bag of words":
        how = {"text": text.as_bag()}
    few = {"batch_size": min(BATCH, run.profile.batch_size), "images": run.scale.condition_images, "seconds": None}
    config = run.train_config(lr=LR, ema_decay=EMA, decay="cosine", compile=False, **few)
    levels, told = make_schedule(SCHEDULE), _told(name, scenes)
    return denoiser_trainer(
        latents, run.profile.condition_unet, config, levels, PREDICTION, captions=told, **how, **options
    )


def _folder(run: Run, name: str) -> Path:
    return run.folder / name.replace(" ", "-")


def _one(
    run: Run, name: str, scenes: Pictures, latents: Latents, clip: CLIP, judge: Judge, space: LatentSpace
) -> tuple[dict, Tensor]:
    """One training: what is to be said of it with its rows, and pictures to be shown."""
    trainer = _trainer(run, name, scenes, latents, clip, out=_folder(run, name), save_every=run.save_every)
    progress = trainer.run(show=True, label=f"{run.stage}, {name}")
    d, rows, shown = denoiser_of(trainer, space), [], []
    for kind in KINDS:
        for scale in GUIDANCE:
            row, made = judge.row(d, kind, scale, _told(name, judge.asked[kind]))
            rows.append(row)
            print(f"  {name}, {kind}, guidance {scale:g}: {_said(row)}", flush=True)
        shown.append(made)
    about = {
        "text": asdict(d.model.config.text),
        "parameters": count_parameters(d.model),
        "trained_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "steps": progress.step,
        "images": progress.images,
        "epochs": progress.images / len(latents),
        "seconds": progress.seconds,
        "batch_size": trainer.config.batch_size,
        "images_per_s": steady_rate(progress.history),
        "loss": progress.history[-1]["loss"],
    }
    return {"about": about, "rows": rows}, torch.cat(shown)


def _said(row: dict) -> str:
    right = (
        f"{name} {of['right']:.2f}" for name, of in row["obeyed"].items() if name in ("shape and colour", "everything")
    )
    return ", ".join(right)


STAGES = (
    Stage(
        "conditions-scenes-64",
        "one denoiser of scenes with four conditions: frozen CLIP, an encoder learnt with it, a bag of words, a label",
        conditions,
        minutes(4, 8, hours=240),
        networks=len(CONDITIONS),
        needs=(FIRST_STAGE.name, ENCODER, READER),
        shows={
            f"right with {name}": f"rows[condition={name},kind=known,guidance=3].obeyed.everything.right"
            for name in CONDITIONS
        },
    ),
)

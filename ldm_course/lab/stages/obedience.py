"""Stage: the detector that holds pictures of scenes against their prompts, and how far to trust it (chapter 8)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ... import checkpoints
from ...data.loaders import load_data
from ...data.pictures import Pictures, to_float, to_uint8
from ...data.prompts import Prompt, exchanged, held_out, parse
from ...measure import detection, obedience
from ...measure.complexity import count_parameters
from ...measure.detection import Seen
from ...networks.detector import Detector
from ...page import plotting
from ...training.trainer import thinned
from .autoencoders import FIRST_STAGE
from .base import Run, Stage, minutes, steady_rate

COUNT = 2048  # scenes that it is judged by, none of them seen: load_data's test split
BATCH, LR = 64, 3e-3  # at most so many pictures a step, falling to zero: it is steps that so small a network wants
SHOWN, COLUMNS = 12, 6  # scenes in the picture: the first ones


def scene_detector(run: Run) -> dict:
    """Trains the detector on `Scale.detector_scenes`, each seen once, and judges it by what it reads of new ones.

    By the prompts of real scenes, of those with held-out pairs alone, and of the same scenes through the first stage,
    which is the most that pictures from latents can reach; and by what must fail (`controls`). What is judged is the
    file that is shipped, in half precision.
    """
    first, _ = checkpoints.load_model(run.weights(FIRST_STAGE.name), run.device)
    test = load_data("scenes", detection.SIDE, "test", limit=min(run.scale.limit or COUNT, COUNT))
    batch = min(BATCH, run.profile.autoencoder_batch_size or run.profile.batch_size)
    scenes = run.scale.detector_scenes
    config = run.train_config(batch_size=batch, lr=LR, images=scenes, decay="cosine", compile=False, cuda_graph=False)
    trainer = detection.detector_trainer(scenes, config, out=run.folder, save_every=run.save_every)
    progress = trainer.run(show=True, label=run.stage)
    checkpoints.save_model(run.weights(), trainer.snapshot(), half=True, record=run.name, data="scenes")
    model, _ = checkpoints.load_model(run.weights(), run.device)

    prompts = [parse(caption) for caption in test.captions]
    decoded = to_uint8(first.reconstruct(to_float(test.images)))
    seen, again = detection.detect(model, test.images), detection.detect(model, decoded)
    new = [i for i, prompt in enumerate(prompts) if held_out(prompt)]
    _save_picture(run, torch.cat([test.images[:SHOWN], decoded[:SHOWN]]), seen[:SHOWN] + again[:SHOWN])
    return {
        "finished": run.has_ended(progress, scenes),
        "data": {"name": test.name, "source": test.source, "size": test.size, "train": scenes, "test": len(test)},
        "parameters": count_parameters(model),
        "network": model.config,
        "training": {
            "seconds": progress.seconds,
            "images": progress.images,
            "images_per_s": steady_rate(progress.history),
            "batch_size": batch,
            "lr": LR,
            "precision": trainer.precision,
            "history": thinned(progress.history, 60),
        },
        "first_stage": run.weights(FIRST_STAGE.name).stem,
        "real": obedience.shares(seen, prompts),
        "held_out_pairs": obedience.shares([seen[i] for i in new], [prompts[i] for i in new]),
        "decoded": obedience.shares(again, prompts),
        "controls": controls(model, test, seen, prompts),
        "rows_of_the_picture": ["held-out scenes, and what was found", "the same, encoded and decoded"],
    }


def controls(model: Detector, test: Pictures, seen: Sequence[Seen], prompts: Sequence[Prompt]) -> dict[str, dict]:
    """What must fail: another scene's prompt, which says what chance gives; the prompt with the colours of its first
    two things exchanged, where they differ, as their shapes do; and pictures seen in a mirror, whose prompt speaks of
    left or right."""
    other = {i: exchanged(prompt, "colour") for i, prompt in enumerate(prompts)}
    other = {i: prompt for i, prompt in other.items() if prompt is not None}
    sides = [i for i, prompt in enumerate(prompts) if {"left", "right"} & set(str(prompt).split())]
    mirrored = detection.detect(model, test.subset(sides).images.flip(3))
    return {
        "another prompt": obedience.shares(seen, [*prompts[1:], prompts[0]]),
        "colours exchanged": obedience.shares([seen[i] for i in other], list(other.values())),
        "mirrored": obedience.shares(mirrored, [prompts[i] for i in sides]),
    }


def _save_picture(run: Run, images: Tensor, seen: Sequence[Seen]) -> None:
    circles = [[(thing.x, thing.y, 1.3 * thing.radius) for thing in one.things] for one in seen]  # outlines stay free
    figure = plotting.grid(images, COLUMNS, [str(one) for one in seen], scale=2, circles=circles)
    plotting.save_png(run.picture, figure)


STAGES = (
    Stage(
        "scene-detector-64",
        "the network that tells whether pictures of scenes obey their prompts",
        scene_detector,
        minutes(8, 12),  # hours add nothing: it reads all of the scenes rightly
        needs=(FIRST_STAGE.name,),
        shows={"everything right": "real.everything.right", "decoded": "decoded.everything.right"},
    ),
)

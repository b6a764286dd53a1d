"""Stage: one denoiser for captioned emoji and scenes at 64 pixels, in the latents of the first stage (chapter 8)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ... import checkpoints
from ...data import emoji
from ...data.latents import Latents, encode_pictures
from ...data.loaders import load_data
from ...data.pictures import Pictures, joined
from ...data.prompts import SAID, parse, shortened, without_held_out
from ...diffusion.schedules import make_schedule
from ...measure import distances
from ...measure.complexity import count_parameters
from ...spaces import LatentSpace
from ...training.recipes import denoiser_of, denoiser_trainer
from ...training.trainer import thinned
from .autoencoders import FIRST_STAGE
from .base import PREDICTION, SCHEDULE, Run, Stage, judged_at, minutes, reference_for, save_grid, steady_rate
from .denoisers import marks_of, put_beside

SIZE = 64
SHOWN = (  # prompts of the stage's picture: drawings that are learnt, tones that are not, scenes that are and are not
    "grinning face",
    "red heart",
    "woman firefighter medium skin tone",
    "cat face",
    "rocket",
    "blue heart",
    "flag of France",
    "raised fist medium-dark skin tone",
    "a small red star above a large blue square on a plain cream background",
    "a large yellow circle in the centre on a striped navy background",
)
TEXTS = 4  # of each training picture
LESS = 2  # of each scene's leave some of the caption out, so that prompts may
GUIDANCE = 3.0  # of the pictures that are shown


def training_set(run: Run) -> tuple[Pictures, Pictures]:
    """Emoji and scenes to train on, without those that tests of composition ask for."""
    limit = run.scale.limit
    drawings, scenes = (load_data(name, SIZE, limit=limit) for name in ("emoji", "scenes"))
    known = [i for i, name in enumerate(drawings.captions) if not emoji.held_out(name)]
    return drawings.subset(known), scenes.subset(without_held_out(scenes.captions))


def balanced(drawings: int, scenes: int) -> torch.Tensor:
    """Indices into the two sets, joined, that show each as often as the other: the fewer drawings several times."""
    return torch.cat([torch.arange(drawings).repeat(max(1, scenes // drawings)), drawings + torch.arange(scenes)])


def texts_of(drawings: Sequence[str], scenes: Sequence[str], less: int) -> list[tuple[str, ...]]:
    """TEXTS for each picture: of a drawing its name, of a scene its caption, and `less` others that say a part of it.

    Those who read whole captions alone know no prompt that says less. And a CLIP tells pictures apart by their colours
    and places then, without learning shapes; of "a star and a moon" the shapes are all there is to read.
    """
    lot = torch.Generator().manual_seed(0)

    def part(caption: str) -> str:
        kept = (torch.rand(len(SAID), generator=lot) < 0.5).tolist()
        return str(shortened(parse(caption), [name for name, keep in zip(SAID, kept, strict=True) if keep]))

    named = [(name,) * TEXTS for name in drawings]
    return named + [(text,) * (TEXTS - less) + tuple(part(text) for _ in range(less)) for text in scenes]


def text2image(run: Run) -> dict:
    """Trains, and at marks on the way judges pictures of either kind, whose captions are those of training pictures."""
    p = run.profile
    sets = training_set(run)
    both = joined(*sets)
    first, _ = checkpoints.load_model(run.weights(FIRST_STAGE.name), run.device)
    shown = balanced(*map(len, sets))
    texts = texts_of(*(part.captions for part in sets), LESS)
    latents: Latents = encode_pictures(first, both, cache=run.folder, batch_size=run.at_once).subset(shown)
    space, wanted = LatentSpace(SIZE, first), run.scale.text_images
    config = run.train_config(images=wanted, compile=False)
    trainer = denoiser_trainer(
        latents,
        p.text_unet,
        config,
        make_schedule(SCHEDULE),
        PREDICTION,
        captions=[texts[i] for i in shown.tolist()],
        text=p.text,
        out=run.folder,
        save_every=run.save_every,
    )
    put_beside(run, run.weights(FIRST_STAGE.name))
    references = {part.name: reference_for(run, part) for part in sets}

    def judge() -> dict:
        d, count = denoiser_of(trainer, space), p.eval_count // 4
        quality = {}
        for part in sets:
            some = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))[
                torch.arange(count) % len(part)
            ]
            asked = part.subset(some).captions
            made = d.generate(count, method="dpmpp", steps=20, prompt=asked, batch_size=run.at_once)
            quality[part.name] = distances.evaluate(made, references[part.name])
        said = ", ".join(f"{name} FD-E {q['fd_e']:.0f} ({q['fd_e_floor']:.0f})" for name, q in quality.items())
        print(f"  {trainer.progress.images} images: {said}", flush=True)
        return {"loss": trainer.progress.history[-1]["loss"], "quality": quality}

    def results(points: list[dict]) -> dict:
        progress, d = trainer.progress, denoiser_of(trainer, space)
        stored = {"record": run.name, "data": both.name, "autoencoder": run.weights(FIRST_STAGE.name).name}
        checkpoints.save_denoiser(run.weights(), d, eight_bit=True, **stored)
        asked = [text for text in SHOWN for _ in range(4)]
        options = {"method": "dpmpp", "steps": 25, "guidance_scale": GUIDANCE}
        save_grid(run, d.generate(len(asked), prompt=asked, seed=1, **options))
        return {
            "finished": run.has_ended(progress, wanted),
            "data": {"name": both.name, "source": both.source, "size": SIZE, "train": len(both)},
            "distinct": {part.name: len(part) for part in sets},
            "network": d.model.config.unet,
            "text": d.model.config.text,
            "words": len(d.model.config.words),
            "parameters": count_parameters(d.model),
            "guidance_scale": GUIDANCE,
            "prompts_of_the_picture": SHOWN,
            "training": {
                "steps": progress.step,
                "images": progress.images,
                "wanted_images": wanted,
                "epochs": progress.images / len(latents),
                "seconds": progress.seconds,
                "batch_size": config.batch_size,
                "precision": trainer.precision,
                "images_per_s": steady_rate(progress.history),
            },
            "points": points,
            "history": thinned(progress.history),
        }

    marks = marks_of(run, wanted, config.batch_size, 4, 50_000)
    return results(judged_at(run, trainer, marks, judge, lambda points: run.keep(results(points))))


STAGES = (
    Stage(
        "text2image-64",
        "a denoiser that reads captions, of emoji and scenes at 64, in the latents of the first stage",
        text2image,
        minutes(8, 20, hours=900),
        needs=(FIRST_STAGE.name,),
        shows={"images": "training.images", "FD-E, emoji": "points[last].quality.emoji.fd_e"},
    ),
)

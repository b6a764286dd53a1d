"""Stage: what a latent of f = 2, 4 or 8 can keep of lines, dots, digits and gratings (chapter 7)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from ... import checkpoints
from ...data.pictures import Pictures, to_uint8
from ...measure import fidelity, structures
from ...page import plotting
from ...training.recipes import autoencoder_trainer
from .autoencoders import FIRST_STAGE
from .base import Run, Stage, about, autoencoder_of, minutes

FS = (2, 4, 8)
WIDTHS = (1, 2, 3, 4)  # pixels
# squared, as in the linear code's own criterion: a missing structure is to weigh more than the grain all around it
LOSSES = {"squared": True, "perceptual_weight": 0.0, "kl_weight": 1e-6}
BATCH, LR = 128, 2e-3  # at most so many pictures a step: it is steps that these small networks want
COUNT = 256  # pictures of each kind and width, at most: then an AUC of 0.9 has an error of 0.014


def fine_structures(run: Run, size: int) -> dict:
    """What is left of fine structures, by f, way, kind and width, where it is at its best (chapter 7).

    For each f an autoencoder from scratch that sees nothing but structures, `Scale.structures` of them, each a fresh
    draw. Beside it two codes without any network, a bicubic filter and the best linear code with as many numbers a
    position; and at its own f, where the profile has one, the first stage for all sizes, which never saw a structure.
    The picture has the narrowest width.
    """
    count = min(COUNT, run.profile.eval_count // 4)
    train = structures.training_set(run.scale.structures, size, WIDTHS)
    test = structures.training_set(4 * count, size, WIDTHS, seed=2)
    shown = structures.grounds(len(structures.KINDS), size)
    drawn = torch.cat([structures.masks(kind, WIDTHS[0], 1, size) for kind in structures.KINDS])
    shown = (shown + structures.CONTRAST * drawn).to(run.device)
    rows, ways, pictures, lines = [], [], [to_uint8(shown)], ["as drawn"]
    for f in FS:
        passes, spent = _ways(run, train, f)
        for way, passed in passes.items():
            left = structures.survey(passed, WIDTHS, count=count, size=size, device=run.device)
            for kind, by_width in left.items():
                rows += [{"f": f, "way": way, "kind": kind, "width": w, **vars(v)} for w, v in by_width.items()]
            rebuilt = to_uint8(passed(test.batch(range(len(test)), run.device))).cpu()
            ways.append({"f": f, "way": way, "psnr": fidelity.psnr(rebuilt, test.images), **spent.get(way, {})})
            pictures.append(to_uint8(passed(shown)))
            lines.append(f"f = {f}, {way}")
            thin = [left[kind][WIDTHS[0]].kept() for kind in structures.KINDS]
            print(f"  f = {f}, {way}: {sum(thin)} of {len(thin)} kinds kept at {WIDTHS[0]} pixel", flush=True)
    grid = plotting.grid_image(torch.cat(pictures).cpu(), len(shown), scale=max(1, 64 // size))
    plotting.save_png(run.picture, grid)
    return {
        "data": about(train, test),
        "size": size,
        "widths": WIDTHS,
        "count": count,
        "contrast": structures.CONTRAST,
        "ways": ways,
        "rows": rows,
        "rows_of_the_picture": lines,
    }


def _ways(run: Run, train: Pictures, f: int) -> tuple[dict[str, structures.Passed], dict[str, dict]]:
    """The ways through a latent of this f, by name; and what the training of those that were trained here cost."""
    p = run.profile
    network = replace(autoencoder_of(p, f), mid_attention=False)
    ways = {
        "bicubic": structures.bicubic(f),
        "linear code": structures.linear_code(train, f, network.latent_channels),
    }
    if FIRST_STAGE.is_for(p):
        general, _ = checkpoints.load_model(run.weights(FIRST_STAGE.name), run.device)
        if general.config.downsample == f:
            ways[structures.GENERAL] = general.reconstruct
    batch = min(BATCH, p.autoencoder_batch_size or p.batch_size)
    config = run.train_config(batch_size=batch, lr=LR, images=len(train), decay="cosine", compile=False)
    trainer = autoencoder_trainer(train, network, config, losses=LOSSES, out=run.folder / f"f{f}")
    progress = trainer.run(show=True, label=f"{run.stage}, f = {f}")
    ways[structures.TRAINED] = trainer.snapshot().reconstruct
    spent = {"images": progress.images, "seconds": progress.seconds, "lr": LR, "batch_size": batch}
    return ways, {structures.TRAINED: spent}


STAGES = (
    Stage(
        "fine-structures-32",
        "what autoencoders trained on lines, dots, digits and gratings keep of them, by width",
        partial(fine_structures, size=32),
        minutes(1, 2, hours=180),
        networks=len(FS),
        needs=(FIRST_STAGE.name,),
        shows={f"PSNR, f = {f}": f"ways[f={f},way={structures.TRAINED}].psnr" for f in FS},
    ),
)

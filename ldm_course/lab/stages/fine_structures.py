"""Stage: what autoencoders leave of lines, dots, digits and gratings (chapter 7)."""

from __future__ import annotations

from functools import partial

import torch

from ... import checkpoints
from ...data.loaders import load_data
from ...data.pictures import to_uint8
from ...measure import fidelity, structures
from ...page import plotting
from ...training.recipes import further_trainer
from .autoencoders import LOSSES
from .base import Run, Stage, minutes


def fine_structures(run: Run, size: int) -> dict:
    """What the emoji's autoencoders of f = 2, 4 and 8 leave of fine structures, by kind and width (chapter 7).

    Each as it was trained; then trained further for the stage's time, once on its own emoji and once on structures,
    which tells what more training does from what other pictures do. Two controls without any network: a bicubic
    filter, and the best linear code with as many numbers a position. The picture has the narrowest width.
    """
    p, widths = run.profile, (1, 2, 3, 4, 6)
    count = p.eval_count // 4
    emoji = load_data("emoji", size, limit=run.scale.limit)
    test = load_data("emoji", size, "test", limit=count)
    sets = {"emoji": emoji, "structures": structures.training_set(len(emoji), size, widths)}
    grounds = structures.grounds(len(structures.KINDS), size)
    drawn = torch.cat([structures.masks(kind, widths[0], 1, size) for kind in structures.KINDS])
    shown = grounds + structures.CONTRAST * drawn
    rows, about, pictures, lines = [], [], [to_uint8(shown)], ["as drawn"]
    for f in (2, 4, 8):
        first, _ = checkpoints.load_model(run.weights(f"autoencoder-emoji-{size}-f{f}"), run.device)
        c = first.config.latent_channels
        ways = {"bicubic": structures.bicubic(f), "linear code": structures.linear_code(sets["structures"], f, c)}
        ways["as trained"], spent = first.reconstruct, {}
        for name, data in sets.items():
            config = run.train_config(
                batch_size=p.autoencoder_batch_size or p.batch_size, warmup_steps=10, compile=False
            )
            trainer = further_trainer(first, data, config, losses=LOSSES["l1"], out=run.folder / f"f{f}-{name}")
            progress = trainer.run(show=True, label=f"{run.stage}, f = {f}, on {name}")
            ways[f"longer, on {name}"] = trainer.snapshot().reconstruct
            spent[f"longer, on {name}"] = {"images": progress.images, "seconds": progress.seconds}
        for way, passed in ways.items():
            left = structures.survey(passed, widths, count=count, size=size)
            for kind, by_width in left.items():
                rows += [{"f": f, "way": way, "kind": kind, "width": w, **vars(v)} for w, v in by_width.items()]
            rebuilt = to_uint8(passed(test.batch(range(len(test)))))
            about.append({"f": f, "way": way, "psnr_emoji": fidelity.psnr(rebuilt, test.images), **spent.get(way, {})})
            pictures.append(to_uint8(passed(shown)))
            lines.append(f"f = {f}, {way}")
            thin = [left[kind][widths[0]].kept() for kind in structures.KINDS]
            print(f"  f = {f}, {way}: {sum(thin)} of {len(thin)} kinds kept at {widths[0]} pixel", flush=True)
    plotting.save_png(run.picture, plotting.grid_image(torch.cat(pictures), len(shown), scale=max(1, 64 // size)))
    return {
        "size": size,
        "widths": widths,
        "count": count,
        "contrast": structures.CONTRAST,
        "ways": about,
        "rows": rows,
        "rows_of_the_picture": lines,
    }


STAGES = (
    Stage(
        "fine-structures-64",
        "what autoencoders leave of lines, dots, digits and gratings, by width",
        partial(fine_structures, size=64),
        minutes(1, 3),
        networks=6,
        needs=tuple(f"autoencoder-emoji-64-f{f}" for f in (2, 4, 8)),
    ),
)

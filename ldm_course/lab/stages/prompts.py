"""Stage: does the trained network draw what the words say, and what does guidance do to it? (chapter 8)

Scenes are judged by the detector (`measure.obedience`): with pairs of shape and colour that the network was trained on,
and with pairs that it never saw, in no scene and no drawing. Emoji are judged by the drawing that is nearest: is it the
one that was asked for?
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from ... import checkpoints
from ...data import emoji
from ...data.loaders import load_data
from ...data.pictures import Pictures
from ...data.prompts import HELD_OUT_PAIRS, new_pairs, parse
from ...denoiser import Denoiser
from ...files import written_whole
from ...measure import detection, distances, obedience
from ...measure.distances import nearest_neighbours
from .base import Run, Stage, minutes, record_name, reference_for, save_grid
from .text2image import SIZE, training_set

TRAINED, READER = "text2image-64", "scene-detector-64"
SCALES = (1.0, 1.5, 2.0, 3.0, 5.0, 7.5)  # of guidance, by USUAL's sampler
STEPS = (5, 10, 20, 50, 100)
METHODS = ("ddim", "dpmpp")
USUAL = {"method": "dpmpp", "steps": 20, "guidance_scale": 3.0}
EACH = 2  # pictures of each prompt: how much they differ is the diversity that is left
KINDS = ("known", "new")  # of prompts: with pairs, or tones, that the network was trained on, and with others


def prompts(run: Run) -> dict:
    """For scenes, a row for each guidance scale, kind, and sampler with its number of steps; for emoji, two rows."""
    kept = run.folder / "rows.json"
    d = checkpoints.load_denoiser(run.weights(TRAINED), run.device)
    drawings, scenes = training_set(run)
    reference = reference_for(run, scenes)
    reader, _ = checkpoints.load_model(run.weights(READER), run.device)
    asked = _captions(max(8, run.profile.eval_count // (4 * EACH)), run.scale.limit, new_pairs(drawings.captions))
    rows = json.loads(kept.read_text()) if kept.is_file() else []
    done = [row["sampler"] | {"kind": row["kind"]} for row in rows]

    def results() -> dict:
        return {
            "finished": len(rows) == len(plan),
            "trained": record_name(TRAINED, run.profile),
            "images": run.record_of(TRAINED)["results"]["training"]["images"],
            "data": {"name": scenes.name, "source": scenes.source, "size": SIZE},
            "prompts": {kind: len(of) for kind, of in asked.items()},
            "each": EACH,
            "rows": rows,
            "emoji": names,
            "rows_of_the_picture": [f"{kind}, guidance {scale:g}" for kind in KINDS for scale in (1.0, 3.0)],
        }

    names: dict = {}
    save_grid(run, _shown(d, asked))
    plan = list(_plan())
    for options in plan:
        if options not in done:
            rows.append(_row(run, d, options, asked[options["kind"]], reference, reader))
            with written_whole(kept) as path:
                path.write_text(json.dumps(rows))
            if run.scale.long:
                run.keep(results())
    names |= {kind: _named(run, d, drawings, kind) for kind in KINDS}
    return results()


def _plan() -> Iterator[dict]:
    """The rows' samplers, the usual one first: each guidance scale for either kind of prompt, methods and steps for
    known ones."""
    scales = [USUAL | {"guidance_scale": scale} for scale in SCALES]
    steps = [USUAL | {"method": method, "steps": steps} for method in METHODS for steps in STEPS]
    plan = [sampler | {"kind": kind} for sampler in (USUAL, *scales) for kind in KINDS]
    plan += [sampler | {"kind": KINDS[0]} for sampler in steps]
    yield from {tuple(sorted(row.items())): row for row in plan}.values()


def _captions(count: int, limit: int | None, new: Collection[tuple[str, str]]) -> dict[str, list[str]]:
    """Of scenes that nobody was trained on: `count` with pairs that were seen in others, and `count` with some of the
    pairs `new`; none with a held-out pair that is not."""
    captions = load_data("scenes", SIZE, "test", limit=min(limit or 32 * count, 32 * count)).captions
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for caption in captions:
        apart = {(thing.shape, thing.colour) for thing in parse(caption).things} & HELD_OUT_PAIRS
        if apart <= set(new):
            found["new" if apart else "known"].append(caption)
    return {kind: of[:count] for kind, of in found.items()}


def _row(run: Run, d: Denoiser, options: dict, captions: Sequence[str], reference: distances.Reference, reader) -> dict:
    sampler = {name: value for name, value in options.items() if name != "kind"}
    made = torch.cat(
        [d.generate(len(captions), prompt=captions, seed=i, batch_size=run.at_once, **sampler) for i in range(EACH)]
    )
    features = distances.as_features(made, device=run.device)
    shares = obedience.shares(detection.detect(reader, made), list(captions) * EACH)
    print(f"  {options}: everything right {shares['everything'].right:.2f}", flush=True)
    return {
        "sampler": sampler,
        "kind": options["kind"],
        "obeyed": {name: asdict(share) for name, share in shares.items()},
        "quality": distances.evaluate(features, reference),
        "diversity": _diversity(features),
    }


def _diversity(features: Tensor) -> dict[str, float]:
    """How far apart the EACH = 2 pictures of one prompt are: the mean of their distances, over that of pictures of
    different prompts, with the standard error of the former."""
    one, other = features.chunk(2)
    same = (one - other).norm(dim=1)
    different = (one - other.roll(1, 0)).norm(dim=1).mean()
    return {"ratio": (same.mean() / different).item(), "error": (same.std() / different / math.sqrt(len(same))).item()}


def _named(run: Run, d: Denoiser, known: Pictures, kind: str) -> dict:
    """Emoji by their names: of which the nearest of all drawings is the one that was asked for, of which it is the same
    drawing at least, and of which it has the same tone. New are tones that were never seen with that drawing."""
    every = load_data("emoji", SIZE, limit=run.scale.limit)
    toned = [i for i, name in enumerate(every.captions) if emoji.tone_of(name)[1]]
    chosen = [i for i in toned if emoji.held_out(every.captions[i]) == (kind == "new")]
    order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0)).tolist()
    names = [every.captions[chosen[i]] for i in order[: run.profile.eval_count // 4]]
    if not names:
        return {"count": 0}
    made = d.generate(len(names), prompt=names, batch_size=run.at_once, **USUAL)
    nearest = nearest_neighbours(made, every, space="pixels", device=run.device).index[:, 0].tolist()
    found = [every.captions[i] for i in nearest]
    pairs = [(emoji.tone_of(a), emoji.tone_of(b)) for a, b in zip(names, found)]
    right = {
        "name": [a == b for a, b in pairs],
        "drawing": [a[0] == b[0] for a, b in pairs],
        "tone": [a[1] == b[1] for a, b in pairs],
    }
    return {"count": len(names)} | {what: asdict(obedience.Share.of(of)) for what, of in right.items()}


def _shown(d: Denoiser, asked: dict[str, list[str]]) -> Tensor:
    """Eight pictures of either kind of prompt, plain and guided."""
    return torch.cat(
        [
            d.generate(8, prompt=(asked[kind] * 8)[:8], **(USUAL | {"guidance_scale": scale}))
            for kind in KINDS
            for scale in (1.0, 3.0)
        ]
    )


STAGES = (
    Stage(
        "prompts-64",
        "whether pictures obey their prompts, by guidance, sampler and steps, on pairs seen and never seen",
        prompts,
        minutes(3, 15, hours=45),
        needs=(TRAINED, READER),
        shows={"everything right, guidance 3": "rows[kind=known].obeyed.everything.right"},
    ),
)

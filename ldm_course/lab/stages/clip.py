"""Stage: a CLIP of captioned emoji and scenes, and what its text encoder knows beyond the words (chapter 8)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ... import checkpoints
from ...data import emoji
from ...data.loaders import load_data
from ...data.pictures import Pictures, joined
from ...measure import retrieval
from ...measure.complexity import count_parameters
from ...networks.clip import CLIP
from ...training.recipes import clip_trainer
from ...training.trainer import thinned
from ..runs import nearest_to_captions
from .base import Run, Stage, minutes, save_grid, steady_rate
from .text2image import SIZE, balanced, texts_of, training_set

ENCODERS = ("transformer", "bag of words")  # of texts; that of pictures is the same beside either
LR = 1e-3  # at its highest: it falls to zero
NEW = 1000  # held-out scenes
LESS = 3  # of each scene's texts leave some of the caption out, else shapes are not learnt (`texts_of`)
SHOWN = 6  # rows of the picture


@dataclass(frozen=True)
class Exam:
    """What a CLIP is asked about: `scenes`, none of them seen; drawings that are known, in `tones` that are not; `new`
    drawings. `known` are those that it was trained on: their names say what belongs to a group."""

    scenes: Pictures
    tones: Pictures
    new: Pictures
    known: Pictures

    @classmethod
    def of(cls, run: Run, known: Pictures) -> Exam:
        limit = run.scale.limit
        every, new = (load_data("emoji", SIZE, split, limit=limit) for split in ("train", "test"))
        tones = every.subset([i for i, name in enumerate(every.captions) if emoji.held_out(name)])
        return cls(load_data("scenes", SIZE, "test", limit=min(limit or NEW, NEW)), tones, new, known)

    def results(self, model: CLIP) -> dict[str, dict]:
        """Of scenes, `retrieval.of_scenes`; of drawings, retrieval among either kind, and the group of new ones, which
        is told by the names of known ones."""
        found = {"scenes": retrieval.of_scenes(model, self.scenes)}
        for name, part in {"drawings in new tones": self.tones, "new drawings": self.new}.items():
            pictures = retrieval.of_pictures(model, part.images)
            found[name] = {"retrieval": retrieval.retrieval(pictures, retrieval.of_texts(model, part.captions))}
        groups = self.known.labels.unique()  # of few drawings, not all
        names = [self.known.subset((self.known.labels == group).nonzero()[:, 0]).captions for group in groups]
        of_them = torch.isin(part.labels, groups)
        labels = torch.searchsorted(groups, part.labels[of_them])
        vectors = retrieval.class_vectors(model, names)
        found[name]["classes"] = {"group": retrieval.classified(pictures[of_them], labels, vectors)}
        return found


def clip(run: Run) -> dict:
    """Trains both encoders of texts on `Scale.clip_images` pairs, each beside its own encoder of pictures, however long
    that takes, and examines them.

    What is examined is in 8 bits, as the transformer's file is that is shipped.
    """
    sets = training_set(run)
    exam, both = Exam.of(run, sets[0]), joined(*sets)
    texts, shown = texts_of(*(part.captions for part in sets), LESS), balanced(*map(len, sets))
    pairs, said = both.subset(shown), [texts[i] for i in shown.tolist()]
    found = {encoder: _one(run, encoder, pairs, said, exam) for encoder in ENCODERS}
    model, _ = checkpoints.load_model(run.weights(), run.device)
    save_grid(run, nearest_to_captions(model, exam.scenes, SHOWN))
    return {
        "finished": True,
        "data": {"name": both.name, "source": both.source, "size": SIZE, "train": len(both)},
        "distinct": {part.name: len(part) for part in sets},
        "words": len(model.config.words),
        "encoders": found,
        "rows_of_the_picture": list(exam.scenes.captions[:SHOWN]),
    }


def _one(run: Run, encoder: str, pairs: Pictures, said: list[tuple[str, ...]], exam: Exam) -> dict:
    """One training, and what came of it."""
    wanted, folder = run.scale.clip_images, run.folder / encoder.replace(" ", "-")
    options = {"images": wanted, "seconds": None, "decay": "cosine", "compile": False, "cuda_graph": False}
    config = run.train_config(batch_size=run.profile.clip_batch_size, lr=LR, **options)
    network = run.profile.clip
    if encoder != ENCODERS[0]:
        network = replace(network, text=network.text.as_bag())
    trainer = clip_trainer(pairs, network, config, captions=said, out=folder, save_every=run.save_every)
    progress = trainer.run(show=True, label=f"{run.stage}, {encoder}")
    path = run.weights() if encoder == ENCODERS[0] else folder / "weights.safetensors"
    checkpoints.save_model(path, trainer.snapshot(), eight_bit=True, record=run.name, data=pairs.name)
    model, _ = checkpoints.load_model(path, run.device)
    found = exam.results(model)
    bound = found["scenes"]["binding"]["colours"].right
    print(f"  {encoder}: {progress.images} pairs; of two orders of the words, the right one {bound:.2f}", flush=True)
    return {
        "network": replace(model.config, words=()),
        "parameters": count_parameters(model),
        "scale": model.log_scale.exp().item(),
        "training": {
            "steps": progress.step,
            "images": progress.images,
            "epochs": progress.images / len(pairs),
            "seconds": progress.seconds,
            "batch_size": config.batch_size,
            "lr": config.lr,
            "precision": trainer.precision,
            "images_per_s": steady_rate(progress.history),
        },
        "history": thinned(progress.history, 60),
        **found,
    }


STAGES = (
    Stage(
        "clip-64",
        "a CLIP of captioned emoji and scenes at 64, with a transformer and with a bag of words",
        clip,
        minutes(4, 5, hours=80),
        networks=2,
        shows={
            "right of two orders": "encoders.transformer.scenes.binding.colours.right",
            "bag of words": "encoders[bag of words].scenes.binding.colours.right",
        },
    ),
)

"""What a CLIP knows: which caption belongs to which picture, what it shows, and whether order counts (chapter 8).

Nothing is trained for these questions (Radford et al. 2021, section 3.1): all are answered by cosines of pictures and
texts. A text encoder that knows words and not their order is the control, for many captions can be told apart by their
words alone. Those that cannot, `binding` asks about: "a red star above a blue square", or "a blue star above a red
square"?
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import Count, check, numbered, shaped
from ..data.pictures import Pictures, to_float
from ..data.prompts import Prompt, exchanged, held_out, parse
from ..data.scenes import COLOURS, PATTERNS, SHAPES, TINTS
from ..networks.clip import CLIP
from .obedience import Share

TIE = 1e-5  # cosines nearer than this are the same: sums of the same words in another order differ by some 1e-7


@torch.no_grad()
def of_texts(model: CLIP, texts: Sequence[str]) -> Tensor:
    """Unit vectors (N, D) of these texts, float32, on the CPU."""
    tokens, device = model.tokenizer(texts), next(model.parameters()).device
    return torch.cat([model.of_texts(part.to(device)).cpu() for part in tokens.split(256)])


@torch.no_grad()
def of_pictures(model: CLIP, pictures: Tensor) -> Tensor:
    """Unit vectors (N, D) of these pictures, uint8 (N, 3, H, W), float32, on the CPU."""
    device = next(model.parameters()).device
    return torch.cat([model.of_pictures(to_float(part.to(device))).cpu() for part in pictures.split(256)])


def recall(cosines: Tensor, k: int) -> Tensor:
    """For each row of (N, N), whose right answer is on the diagonal, whether that is among the k best, (N,).

    Of answers that tie with it, those that are in are drawn by lot: then it is the chance to be among them.
    ValueError: k below 1, or another shape.
    """
    check(Count, k, "k")
    shaped(cosines, "cosines", "float", "N", len(cosines))
    right = cosines.diagonal()[:, None]
    better = (cosines > right + TIE).sum(1)
    tied = ((cosines - right).abs() <= TIE).sum(1)  # itself included
    return ((k - better) / tied).clamp(0, 1)


def retrieval(pictures: Tensor, texts: Tensor) -> dict[str, dict]:
    """Recall at 1 and at 5 among N pairs of unit vectors (N, D): of a picture's text, and of a text's picture; and what
    chance gives.

    ValueError: not one text for each picture.
    """
    if pictures.shape != texts.shape:
        raise ValueError(f"pictures of shape {tuple(pictures.shape)} and texts of {tuple(texts.shape)}; expected pairs")
    cosines = pictures @ texts.T
    ways = {"text of a picture": cosines, "picture of a text": cosines.T}
    found = {name: {f"at_{k}": Share.of(recall(of, k).tolist()) for k in (1, 5)} for name, of in ways.items()}
    return found | {"chance": {f"at_{k}": min(1.0, k / len(texts)) for k in (1, 5)}}


def class_vectors(model: CLIP, texts: Iterable[Sequence[str]]) -> Tensor:
    """A unit vector for each class, (K, D): the mean of those of several texts that say so, CLIP's ensemble of prompts
    (section 3.1.4)."""
    return F.normalize(torch.stack([of_texts(model, of).mean(0) for of in texts]), dim=1)


def classified(pictures: Tensor, labels: Tensor, classes: Tensor) -> Share:
    """How often the nearest of `classes` (K, D) is the right one, of unit vectors (N, D) and labels int64 (N,).

    Each class that occurs counts the same, however many pictures it has: always to say the most frequent one gains
    nothing over chance, 1 / K. Ties are shared out. ValueError: not one label below K for each.
    """
    numbered(labels, "labels", len(pictures), len(classes))
    cosines = pictures @ classes.T
    best = cosines >= cosines.amax(1, keepdim=True) - TIE
    hits = best.gather(1, labels[:, None])[:, 0] / best.sum(1)
    each = [Share.of(hits[labels == label].tolist()) for label in labels.unique()]
    k = len(each)
    error = math.sqrt(sum(of.error**2 for of in each)) / k
    return Share(sum(of.right for of in each) / k, error, len(labels))


def binding(pictures: Tensor, right: Tensor, wrong: Tensor) -> Share:
    """How often a picture is nearer to its own caption than to one of the same words in another order, all (N, D).

    Chance, and what any bag of words reaches, is 1/2: a tie counts half.
    """
    lead = ((right - wrong) * pictures).sum(1)
    return Share.of(((lead.sign() * (lead.abs() > TIE) + 1) / 2).tolist())


# Of scenes -----------------------------------------------------------------------------------------------------------

CLASSES = {"shape": tuple(SHAPES), "colour": tuple(COLOURS), "pattern": PATTERNS, "tint": tuple(TINTS)}
TEMPLATES = 32  # prompts that are averaged to one class: they differ from class to class in the one word alone
ORDERS = {"colours": ("colour",), "things": ("size", "colour", "shape")}  # what the first two things exchange


def of_scenes(model: CLIP, scenes: Pictures) -> dict[str, dict]:
    """What a CLIP knows of scenes with captions: `retrieval` among them; `classes`, of those with one thing; `binding`,
    of those whose first two things differ in shape and colour, by what these exchange in the wrong caption.

    "colours, new pairs" are the scenes among them with a pair of shape and colour that was held out
    (`prompts.HELD_OUT_PAIRS`): to a model that was trained without these, the wrong caption has the more usual words.
    """
    pictures, texts = of_pictures(model, scenes.images), of_texts(model, scenes.captions)
    prompts = [parse(caption) for caption in scenes.captions]
    alone = [i for i, prompt in enumerate(prompts) if len(prompt.things) == 1]
    classes = {}
    for name, values in CLASSES.items():
        labels = torch.tensor([[_with(prompts[i], name, value) for value in values].index(prompts[i]) for i in alone])
        saying = [[str(_with(prompts[i], name, value)) for i in alone[:TEMPLATES]] for value in values]
        classes[name] = classified(pictures[alone], labels, class_vectors(model, saying))
    bound = {}
    for name, attributes in ORDERS.items():
        wrong = {i: other for i, prompt in enumerate(prompts) if (other := exchanged(prompt, *attributes))}
        for group, chosen in ((name, list(wrong)), (f"{name}, new pairs", [i for i in wrong if held_out(prompts[i])])):
            if chosen:
                others = of_texts(model, [str(wrong[i]) for i in chosen])
                bound[group] = binding(pictures[chosen], texts[chosen], others)
    return {"retrieval": retrieval(pictures, texts), "classes": classes, "binding": bound}


def _with(prompt: Prompt, name: str, value: str) -> Prompt:
    """The prompt of one thing, with another value of one of CLASSES."""
    if name in ("pattern", "tint"):
        return replace(prompt, **{name: value})
    return replace(prompt, things=(replace(prompt.things[0], **{name: value}),))

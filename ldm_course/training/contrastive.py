"""What CLIP is trained on: which caption of the batch belongs to which picture (Radford et al. 2021; chapter 8)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.pictures import Pictures
from ..diffusion.objectives import Objective, draw, on_device
from ..files import fingerprint


def info_nce(pictures: Tensor, texts: Tensor, scale: Tensor | float) -> Tensor:
    """The symmetric cross-entropy of CLIP's figure 3: pair i is picture i with text i, and all others are wrong.

    pictures, texts: unit vectors (N, D). With logits scale · pictures · textsᵀ, the mean of -log softmax at the right
    text over each picture's row, and at the right picture over each text's column; log N where nothing is known.
    In float32 whatever is around it: of logits up to 100, bf16 would round away up to 1/4.
    """
    with torch.autocast(pictures.device.type, enabled=False):
        logits = scale * pictures.float() @ texts.float().T
        right = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


class ContrastiveObjective(Objective):
    """InfoNCE on pictures and the `tokens` of their texts, int64 (N, K, L): of a picture's K, one is drawn at a time.

    Unlike other losses, that of a batch is no mean over its pictures: each is told from all others. A batch in parts,
    accumulated or one for each process, would be another and an easier task, with fewer wrong captions to choose from,
    and nobody would see it from the loss. So it is refused with ValueError; and as many texts as pictures are expected.
    """

    def __init__(self, data: Pictures, tokens: Tensor):
        if len(tokens) != len(data):
            raise ValueError(f"{len(tokens)} texts for {len(data)} pictures; expected one for each")
        self.data, self.tokens, self.size = data, tokens, len(data)

    def to(self, device: torch.device) -> ContrastiveObjective:
        self.data, self.tokens = on_device(self.data, device), self.tokens.to(device)
        return self

    def describe(self) -> str:
        return f"contrast, texts {fingerprint(self.tokens)}"

    def __call__(self, model, indices, rng, critic=None):
        if len(indices) != rng.batch_size:
            raise ValueError(
                f"{len(indices)} pairs of a batch of {rng.batch_size}; CLIP tells each from all others of its batch: "
                "train on one process, in one part"
            )
        x, one = draw(self.data, indices, rng, flip=False), rng.integers(self.tokens.shape[1])
        pictures, texts, scale = model(x, self.tokens[indices.to(self.tokens.device), one])
        return {"loss": info_nce(pictures, texts, scale), "scale": scale}

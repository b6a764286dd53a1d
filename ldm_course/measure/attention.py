"""Which words looked where: the weights of cross-attention while a picture is drawn (chapter 8).

Each position of a feature map reads a weighted mean of the prompt's tokens. The weights, averaged over heads, layers
and steps, say how much each token was read at each place (Tang et al. 2023, DAAM, 2210.04885). They show what was read,
not what it did: a token can be read everywhere and change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..denoiser import Denoiser
from ..networks.layers import CrossAttention
from ..networks.text import END


@contextmanager
def watched(model: nn.Module) -> Iterator[list[Tensor]]:
    """While it is open, each cross-attention of the model adds its weights to the list, float32 (B, N, L), the mean
    over its heads; they sum to 1 over the L tokens. Attention of positions to each other is left out."""
    seen: list[Tensor] = []

    @torch.no_grad()
    def note(module: CrossAttention, given: tuple, _) -> None:
        x, context = given if len(given) == 2 else (*given, None)
        if context is not None:
            with torch.autocast(x.device.type, enabled=False):
                q, k = module.split(module.to_q(x.float())), module.split(module.to_k(context.float()))
                seen.append((q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1).mean(1))

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, CrossAttention)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def word_maps(d: Denoiser, prompt: str, **options) -> tuple[Tensor, list[str], Tensor]:
    """A picture of the prompt, the tokens it was read as, and where each was read.

    `options` are those of `Denoiser.generate`. Returns uint8 (3, H, W); the tokens' names, the two ends included; and
    float32 (tokens, h, w) at the size of the denoised grid: each a mean over layers and steps, scaled up where a
    layer's grid is coarser; they sum to 1 over the tokens at each place, less what padding got.
    ValueError: a model that reads no texts.
    """
    condition = d.condition(1, prompt=prompt)  # refuses where nothing is read
    with watched(d.model) as seen:
        picture = d.generate(1, prompt=prompt, **options)[0]
    size = d.space.shape[-1]
    total = torch.zeros(condition.asked.shape[1], size, size)
    for weights in seen:
        side = round(weights.shape[1] ** 0.5)
        grid = weights[0].T.reshape(1, -1, side, side).cpu()  # of a guided pair, the half that is told the prompt
        total += F.interpolate(grid, size=(size, size), mode="nearest")[0]
    known = d.model.tokenizer
    tokens = known([prompt])[0].tolist()
    names = ["start", *known.known(prompt)[: tokens.index(END) - 1], "end"]
    return picture, names, total[: len(names)] / len(seen)

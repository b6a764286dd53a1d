"""From words to what a U-Net reads: a tokeniser, a transformer over its tokens, and both networks as one (chapter 8).

The transformer is CLIP's text tower (Radford et al. 2021, section 2.4), so published weights fit it (see `interop`).
Here it is small and learns with the U-Net, as in the latent diffusion paper (Rombach et al. 2022, section 3.3).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import TextConfig, TextUNetConfig
from .layers import attend
from .unet import UNet

PAD, START, END = range(3)  # the tokens before the words
SPECIAL = 3


def words_of(text: str) -> list[str]:
    """The words of a text, in small letters without accents; an emoji counts as the words of its English name."""
    import emoji

    named = emoji.demojize(text, delimiters=(" ", " ")).replace("_", " ").casefold()
    plain = "".join(c for c in unicodedata.normalize("NFKD", named) if not unicodedata.combining(c))
    return re.findall(r"[^\W_]+", plain)


def _several(texts: Iterable[str]) -> Iterable[str]:
    if isinstance(texts, str):
        raise ValueError(f"got one text, {texts[:40]!r}; expected a list of texts")
    return texts


def vocabulary(texts: Iterable[str]) -> tuple[str, ...]:
    """All words of these texts, in alphabetical order. ValueError: one text in place of several."""
    return tuple(sorted({word for text in _several(texts) for word in words_of(text)}))


class Tokenizer:
    """Texts to numbers: a start, a number for each word, an end, then padding. Words that are not in `words`, of which
    a network could know nothing, are passed over.

    Whole words, since the course's captions have less than two thousand. CLIP's byte pairs are parts of words, so that
    none is unknown to it. ValueError: a word twice, or a length below 2.
    """

    def __init__(self, words: Sequence[str], length: int):
        self.number = {word: i for i, word in enumerate(words, SPECIAL)}
        if len(self.number) != len(words) or length < 2:
            raise ValueError(f"{len(words)} words, length={length}; expected no word twice, and room for start and end")
        self.length = length

    def __call__(self, texts: Iterable[str]) -> Tensor:
        """int64 (B, length). A longer text is cut, as Stable Diffusion's is after 75 tokens."""
        rows = []
        for text in _several(texts):
            known = [self.number[word] for word in self.known(text)][: self.length - 2]
            rows.append([START, *known, END] + [PAD] * (self.length - 2 - len(known)))
        return torch.tensor(rows, dtype=torch.int64).view(-1, self.length)

    def known(self, text: str) -> list[str]:
        """Words of the text that it knows."""
        return [word for word in words_of(text) if word in self.number]

    def unknown(self, text: str) -> list[str]:
        """Words of the text that it does not know."""
        return [word for word in words_of(text) if word not in self.number]

    def cut(self, text: str) -> list[str]:
        """Words of the text that it knows, but has no room for."""
        return self.known(text)[self.length - 2 :]


class TextLayer(nn.Module):
    """Tokens read each other, then each is changed by itself: twice x + f(norm(x))."""

    def __init__(self, config: TextConfig):
        super().__init__()
        width = config.width
        self.heads, self.causal, self.quick = config.heads, config.causal, config.activation == "quick_gelu"
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, readable: Tensor | None) -> Tensor:
        """x (B, L, D); `readable` bool (B, 1, 1, L) says which tokens may be read, None: those not after the reader."""
        h = self.layer_norm1(x)
        q, k, v = (f(h).unflatten(2, (self.heads, -1)).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj))
        h = attend(q, k, v, readable, causal=readable is None)
        x = x + self.out_proj(h.transpose(1, 2).flatten(2))
        h = self.fc1(self.layer_norm2(x))
        return x + self.fc2(h * torch.sigmoid(1.702 * h) if self.quick else F.gelu(h))


class TextEncoder(nn.Module):
    """Tokens int64 (B, L) to a vector for each, float (B, L, width), which knows the tokens around it.

    ValueError: not (B, L) with L at most `config.length`.
    """

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Embedding(config.length, config.width) if config.positions else None
        self.layers = nn.ModuleList([TextLayer(config) for _ in range(config.layers)])
        self.final_layer_norm = nn.LayerNorm(config.width)
        for embedding in filter(None, (self.token_embedding, self.position_embedding)):
            nn.init.normal_(embedding.weight, std=0.02)  # CLIP's; the default, 1, would drown the positions

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.ndim != 2 or tokens.shape[1] > self.config.length:
            raise ValueError(f"tokens of shape {tuple(tokens.shape)}; expected (B, up to {self.config.length})")
        x = self.token_embedding(tokens)
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[: tokens.shape[1]]
        readable = None if self.config.causal else (tokens != PAD)[:, None, None]
        for layer in self.layers:
            x = layer(x, readable)
        return self.final_layer_norm(x)


class TextUNet(nn.Module):
    """A U-Net and the encoder of the text that it reads, trained and stored as one network.

    `condition` is tokens, int64 (B, L), or what `encode` has made of them, which need be done once for all steps.
    """

    def __init__(self, config: TextUNetConfig):
        super().__init__()
        self.config = config
        self.text = TextEncoder(config.text)
        self.unet = UNet(config.unet)
        self.tokenizer = Tokenizer(config.words, config.text.length)

    def encode(self, tokens: Tensor) -> Tensor:
        """Tokens int64 (B, L) to the context that the U-Net reads, (B, L, D)."""
        return self.text(tokens)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return self.unet(x, t, condition if condition.is_floating_point() else self.encode(condition))

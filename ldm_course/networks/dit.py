"""The denoiser as a transformer over patches, DiT (Peebles & Xie 2023, 2212.09748; chapter 9).

No convolution but the one that cuts patches out, no levels, no skip connections: every token reads every other one in
each block. Time and class reach it only as adaLN-zero, a scale, a shift and a gate for each half of a block, and with
zeros for weights at first each block is the identity. Parameters have the names that diffusers' `DiTTransformer2DModel`
gives them, but that one embedding of time and class serves all blocks, as in the paper.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import shaped
from ..config import DiTConfig
from .layers import CrossAttention, TimestepEmbedding, timestep_embedding

TIME_WIDTH = 256  # sinusoids of the time


class MLP(nn.Module):
    """Two linear layers, four times as wide between them: out(gelu(proj(x)))."""

    def __init__(self, channels: int):
        super().__init__()
        self.proj = nn.Linear(channels, 4 * channels)
        self.out = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.gelu(self.proj(x), approximate="tanh"))


def modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """norm(x) (1 + scale) + shift: tokens (B, N, C), each normed over C, with one scale and shift (B, C) a picture."""
    return F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale[:, None]) + shift[:, None]


class DiTBlock(nn.Module):
    """Tokens (B, N, C) read each other, then each is changed by itself: twice x + gate f((1 + scale) norm(x) + shift)
    (Figure 3). What time and class say, (B, C), comes after its SiLU, which is the same for all blocks."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.norm1 = nn.ModuleDict({"linear": nn.Linear(channels, 6 * channels)})
        self.attn1 = CrossAttention(channels, heads, bias=True)
        self.ff = MLP(channels)

    def forward(self, x: Tensor, said: Tensor) -> Tensor:
        shift, scale, gate, shift_ff, scale_ff, gate_ff = self.norm1["linear"](said).chunk(6, dim=1)
        x = x + gate[:, None] * self.attn1(modulated(x, shift, scale, 1e-6))
        return x + gate_ff[:, None] * self.ff(modulated(x, shift_ff, scale_ff, 1e-5))  # diffusers' two


class DiT(nn.Module):
    """The denoiser from `(B, C, H, W)` and `(B,)` to `(B, C, H, W)`, called as `UNet` is.

    H and W must be multiples of `config.patch_size`, or ValueError. `condition` are classes, int64 `(B,)`, where
    `config.num_classes` stands for "no label"; left out, no picture has one.
    """

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.config = config
        d, p, classes = config.width, config.patch_size, config.num_classes
        self.pos_embed = nn.ModuleDict({"proj": nn.Conv2d(config.in_channels, d, p, stride=p)})
        self.time_embedding = TimestepEmbedding(TIME_WIDTH, d)
        self.class_embedding = nn.Embedding(classes + 1, d) if classes is not None else None
        self.transformer_blocks = nn.ModuleList([DiTBlock(d, config.heads) for _ in range(config.layers)])
        self.proj_out_1 = nn.Linear(d, 2 * d)
        self.proj_out_2 = nn.Linear(d, p**2 * config.out_channels)
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """The paper's initial weights: a transformer's, and zeros where blocks and output are to say nothing yet."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                nn.init.zeros_(module.bias)
        for embedding in (self.time_embedding.linear_1, self.time_embedding.linear_2, self.class_embedding):
            if embedding is not None:
                nn.init.normal_(embedding.weight, std=0.02)
        for zero in (*(b.norm1["linear"] for b in self.transformer_blocks), self.proj_out_1, self.proj_out_2):
            nn.init.zeros_(zero.weight)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        self._check(x, t, condition)
        said = self.time_embedding(timestep_embedding(t, TIME_WIDTH, last=1).to(x.dtype))
        if self.class_embedding is not None:
            nothing = torch.full_like(t, self.config.num_classes, dtype=torch.int64)
            said = said + self.class_embedding(nothing if condition is None else condition)
        said = F.silu(said)

        x = self.pos_embed["proj"](x)
        rows, columns = x.shape[2:]
        x = x.flatten(2).transpose(1, 2) + positions(rows, columns, self.config.width, x.device).to(x.dtype)
        for block in self.transformer_blocks:
            x = block(x, said)
        x = self.proj_out_2(modulated(x, *self.proj_out_1(said).chunk(2, dim=1), 1e-6))  # (B, tokens, p p c)
        p = self.config.patch_size
        x = x.view(len(x), rows, columns, p, p, -1)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(len(x), -1, p * rows, p * columns)

    def _check(self, x: Tensor, t: Tensor, condition: Tensor | None) -> None:
        c = self.config
        shaped(x, "the DiT's input", "float", "B", c.in_channels, "H", "W", multiple=c.multiple)
        shaped(t, "the DiT's t", "", len(x))
        if condition is not None and c.num_classes is None:
            raise ValueError("labels were given to a DiT without classes; build it with num_classes")
        if condition is not None:
            shaped(condition, "the labels", "int", len(x))


def positions(rows: int, columns: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Where each token is, (rows * columns, width): sines, then cosines of its column, then of its row, at width / 4
    rates from 1 down towards 1e-4, as in DiT's code."""
    rate = 10_000 ** -(torch.arange(width // 4, device=device, dtype=torch.float64) / (width // 4))
    column, row = (torch.arange(n, device=device, dtype=torch.float64)[:, None] * rate for n in (columns, rows))
    column, row = (torch.cat([angle.sin(), angle.cos()], dim=1) for angle in (column, row))
    return torch.cat([column.repeat(rows, 1), row.repeat_interleave(columns, 0)], dim=1).float()

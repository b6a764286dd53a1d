"""What a network costs on paper: values, positions, attention pairs, parameters, FLOPs (chapter 1).

Five quantities that are easily taken for one another, and never are here:

- *values*: the numbers in a tensor, C·H·W. They say how large a picture is, not what it costs.
- *positions*: H·W. A convolution's cost grows with them, times the channels *inside* the network.
- *attention pairs*: (H·W)². The cost of comparing each position with each grows with them.
- *MACs*: multiply-accumulates. *FLOPs*: floating-point operations, a count, two to a MAC.
- *FLOP/s*: a rate, of a machine; see `timing`, which has everything that needs a clock.

FLOPs are had in two ways that must agree to the last one: counted while a network runs (`count_flops`), and
from a formula (`unet_flops`, `dit_flops`, `autoencoder_flops`). Both count the products (convolutions, linear layers,
attention), as is usual, and not what is done to each value once: norms, activations, sums, softmax.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from ..config import AutoencoderConfig, DiTConfig, UNetConfig
from ..networks.dit import TIME_WIDTH

# ---------------------------------------------------------------------------------------------- sizes


def values(height: int, width: int, channels: int) -> int:
    """Numbers in a picture or a latent: 3,072 for 32x32x3."""
    return height * width * channels


def positions(height: int, width: int) -> int:
    """Places in a picture, a latent or a feature map, whatever the channels: 1,024 for 32x32."""
    return height * width


def attention_pairs(height: int, width: int) -> int:
    """Pairs (query position, key position) that one self-attention compares: 1,048,576 for 32x32."""
    return positions(height, width) ** 2


def latent_shape(config: AutoencoderConfig, size: int) -> tuple[int, int, int]:
    """`(c, h, w)` of the latent of a picture of `size` x `size`; ValueError if the autoencoder cannot halve it."""
    side = size // _divisible(size, config.downsample, "the autoencoder")
    return config.latent_channels, side, side


def _divisible(size: int, factor: int, who: str) -> int:
    if size < factor or size % factor:
        raise ValueError(f"{who} was given size={size}; expected a positive multiple of {factor}")
    return factor


def count_parameters(model: nn.Module) -> int:
    """Numbers that the model has learnt or will learn (buffers are none); a shared one counts once."""
    return sum(p.numel() for p in model.parameters())


# ---------------------------------------------------------------------------------------------- FLOPs


@dataclass(frozen=True)
class Flops:
    """A count of floating-point operations by kind; a multiplication and an addition are two."""

    conv: int = 0
    linear: int = 0
    attention: int = 0  # the two products of each attention, Q·Kᵀ and its result times V; not Q's, K's, V's making
    other: int = 0

    @property
    def total(self) -> int:
        return self.conv + self.linear + self.attention + self.other

    @property
    def macs(self) -> int:
        """Multiply-accumulates: half the FLOPs, since all that is counted here is sums of products."""
        return self.total // 2

    def share(self, kind: str) -> float:
        """The part of the total, 0 to 1, that is "conv", "linear", "attention" or "other"."""
        if kind not in ("conv", "linear", "attention", "other"):
            raise ValueError(f"share was asked for {kind!r}; expected 'conv', 'linear', 'attention' or 'other'")
        return getattr(self, kind) / self.total if self.total else 0.0

    def __add__(self, more: Flops) -> Flops:
        return Flops(
            self.conv + more.conv,
            self.linear + more.linear,
            self.attention + more.attention,
            self.other + more.other,
        )

    def __sub__(self, less: Flops) -> Flops:
        return self + less * -1

    def __mul__(self, times: int) -> Flops:
        return Flops(self.conv * times, self.linear * times, self.attention * times, self.other * times)

    __rmul__ = __mul__


# torch's operations by kind. Matrix products of batches are attention's: nothing else here multiplies activations.
_KINDS = {
    "convolution": "conv",
    "_convolution": "conv",
    "convolution_backward": "conv",
    "cudnn_convolution": "conv",
    "mm": "linear",
    "addmm": "linear",
    "_addmm_activation": "linear",
    "bmm": "attention",
    "baddbmm": "attention",
}


class _LinearsBatched(TorchFunctionMode):
    """Adds up the batched products made inside linear layers: torch prefers those when weights are frozen."""

    def __init__(self, counter: FlopCounterMode):
        super().__init__()
        self.counter, self.flops = counter, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        before = self.batched() if func is F.linear else 0
        out = func(*args, **(kwargs or {}))
        self.flops += self.batched() - before if func is F.linear else 0
        return out

    def batched(self) -> int:
        return self.counter.get_flop_counts().get("Global", {}).get(torch.ops.aten.bmm, 0)


def count_flops(fn: Callable[..., Any], *inputs: Any, **named: Any) -> Flops:
    """Runs `fn(*inputs, **named)` once, a model or any function, and counts the FLOPs of all it does.

    A backward pass inside `fn` is counted too. Attention runs unfused meanwhile, since the counter does not see
    into every fused kernel. Tensors may live on the "meta" device: the count is the same, and nothing is computed,
    so that any size can be counted on any machine.
    """
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter, _LinearsBatched(counter) as linears:
        fn(*inputs, **named)
    sums = {"conv": 0, "linear": linears.flops, "attention": -linears.flops, "other": 0}
    for op, flops in counter.get_flop_counts().get("Global", {}).items():
        name = str(op).rpartition(".")[2]
        kind = "attention" if "attention" in name else _KINDS.get(name, "other")
        sums[kind] += flops
    return Flops(**sums)


# ------------------------------------------------------------------------------------------- formulas


def _conv(in_channels: int, out_channels: int, places: int, kernel: int = 3) -> Flops:
    """A MAC for each output position, each pair of channels and each weight of the kernel."""
    return Flops(conv=2 * places * in_channels * out_channels * kernel**2)


def _linear(in_width: int, out_width: int, rows: int = 1) -> Flops:
    return Flops(linear=2 * rows * in_width * out_width)


def _resnet(in_channels: int, out_channels: int, places: int, time_width: int = 0) -> Flops:
    cost = _conv(in_channels, out_channels, places) + _conv(out_channels, out_channels, places)
    if in_channels != out_channels:
        cost += _conv(in_channels, out_channels, places, kernel=1)
    return cost + _linear(time_width, out_channels)


def _attention(channels: int, places: int) -> Flops:
    """Four projections, linear in the positions, and two products, quadratic; the heads' number does not matter."""
    return 4 * _linear(channels, channels, places) + Flops(attention=2 * 2 * places**2 * channels)


def unet_flops(config: UNetConfig, size: int, batch: int = 1, backward: bool = False) -> Flops:
    """FLOPs of one call of `UNet(config)` on `batch` inputs of `size` x `size`; with its `backward` pass if asked.

    The formula: the sum over the parts, in the order in which `unet` builds them. Equal to `count_flops` by kind
    and to the last FLOP. ValueError: a size that the network cannot halve often enough, or a network that reads a
    context, which `closed_forms.UNetPart` counts.
    """
    if config.cross_attention_dim is not None:
        raise ValueError("unet_flops counts no network with a context; take closed_forms.UNetPart or count_flops")
    widths, layers = config.block_out_channels, config.layers_per_block
    _divisible(size, 2 ** (len(widths) - 1), "the U-Net")
    time_width = 4 * widths[0]
    places = [(size // 2**level) ** 2 for level in range(len(widths))]
    first = _conv(config.in_channels, widths[0], places[0]) + _linear(widths[0], time_width)
    cost = first + _linear(time_width, time_width)

    stream, skips = widths[0], [widths[0]]
    for level, (width, here) in enumerate(zip(widths, places)):
        for _ in range(layers):
            cost += _resnet(stream, width, here, time_width)
            if config.attention[level]:
                cost += _attention(width, here)
            stream = width
            skips.append(width)
        if level < len(widths) - 1:
            cost += _conv(width, width, places[level + 1])
            skips.append(width)

    cost += 2 * _resnet(stream, stream, places[-1], time_width) + _attention(stream, places[-1])

    for level in reversed(range(len(widths))):
        width, here = widths[level], places[level]
        for _ in range(layers + 1):
            cost += _resnet(stream + skips.pop(), width, here, time_width)
            if config.attention[level]:
                cost += _attention(width, here)
            stream = width
        if level > 0:
            cost += _conv(width, width, places[level - 1])
    cost += _conv(stream, config.out_channels, places[0])
    return batch * (3 * cost - first if backward else cost)


def dit_flops(config: DiTConfig, size: int, batch: int = 1, backward: bool = False) -> Flops:
    """FLOPs of one call of `DiT(config)` on `batch` inputs of `size` x `size`; with its `backward` pass if asked.

    As exact as `unet_flops`. With N tokens of width d, a block costs 24 N d^2 in linear layers, 4 N^2 d in attention,
    and 12 d^2 for what time and class say to it. ValueError: a size that is no multiple of the patches'.
    """
    d, p, side = config.width, config.patch_size, size // _divisible(size, config.patch_size, "the DiT")
    tokens = side**2
    first = _conv(config.in_channels, d, tokens, kernel=p) + _linear(TIME_WIDTH, d)
    block = _attention(d, tokens) + 2 * _linear(d, 4 * d, tokens) + _linear(d, 6 * d)
    last = _linear(d, 2 * d) + _linear(d, p**2 * config.out_channels, tokens)
    cost = first + _linear(d, d) + config.layers * block + last
    return batch * (3 * cost - first if backward else cost)


def autoencoder_flops(
    config: AutoencoderConfig, size: int, part: str = "both", batch: int = 1, backward: bool = False
) -> Flops:
    """FLOPs of `Autoencoder(config)` on `batch` pictures of `size` x `size`: to "encode", to "decode", or "both".

    `size` is always the picture's side, also for decoding. As exact as `unet_flops`, and refuses the same.
    """
    if part not in ("encode", "decode", "both"):
        raise ValueError(f"part={part!r}; expected 'encode', 'decode' or 'both'")
    widths, layers, c = config.block_out_channels, config.layers_per_block, config.latent_channels
    _divisible(size, config.downsample, "the autoencoder")
    places = [(size // 2**level) ** 2 for level in range(len(widths))]
    middle = 2 * _resnet(widths[-1], widths[-1], places[-1])
    if config.mid_attention:
        middle += _attention(widths[-1], places[-1])

    first = _conv(config.in_channels, widths[0], places[0])
    encode, stream = first, widths[0]
    for level, (width, here) in enumerate(zip(widths, places)):
        encode += _resnet(stream, width, here) + (layers - 1) * _resnet(width, width, here)
        if level < len(widths) - 1:
            encode += _conv(width, width, places[level + 1])
        stream = width
    encoded = config.encoded_channels
    encode += middle + _conv(stream, encoded, places[-1]) + _conv(encoded, encoded, places[-1], kernel=1)

    from_latent = _conv(c, c, places[-1], kernel=1)
    decode = from_latent + _conv(c, stream, places[-1]) + middle
    for level in reversed(range(len(widths))):
        width, here = widths[level], places[level]
        decode += _resnet(stream, width, here) + layers * _resnet(width, width, here)
        if level > 0:
            decode += _conv(width, width, places[level - 1])
        stream = width
    decode += _conv(stream, config.in_channels, places[0])

    cost = {"encode": encode, "decode": decode, "both": encode + decode}[part]
    compared = Flops(linear=2 * places[-1] * c * (config.codes or 0)) if part != "encode" else Flops()
    return batch * (compared + (3 * cost - (from_latent if part == "decode" else first) if backward else cost))


def sampling_flops(
    config: UNetConfig,
    size: int,
    steps: int,
    *,
    autoencoder: AutoencoderConfig | None = None,
    guidance: bool = False,
    batch: int = 1,
) -> Flops:
    """FLOPs of making `batch` pictures of `size` x `size` in `steps` calls of the U-Net, to the finished picture.

    With an `autoencoder` the U-Net works at its latent's size and one decoding is added; `guidance` calls the U-Net
    twice a step, with the label and without.
    """
    side = size if autoencoder is None else latent_shape(autoencoder, size)[1]
    cost = steps * (2 if guidance else 1) * unet_flops(config, side, batch)
    return cost if autoencoder is None else cost + autoencoder_flops(autoencoder, size, "decode", batch)

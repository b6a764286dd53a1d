"""What the networks of published systems cost on paper: U-Nets that read text, transformers, text encoders (chapter 8).

`complexity` counts the course's own networks. Here are the three kinds that Stable Diffusion adds to them, none of
which has to be built to be counted. One walk through a network, in the order in which it is computed, adds up four
numbers at once, a `Cost`: parameters and FLOPs, both exact, and two estimates of memory, in values, by these rules.

- *kept*: what a training step keeps from the forward for the backward pass. A product, a norm and an activation keep
  their input, a gate both factors, attention Q, K, V and its result; a tensor that several need counts once. What has
  one value a picture and channel, such as the time embedding, is left out.
- *live*: what is in memory at once, at most, where nothing is kept. While a layer runs, its input and output are, and
  what a later one still needs: the residual's other branch, the U-Net's skip connections.

Both take attention as fused, so that its weights, queries times keys for each head, are never held; what they would
take is `attention_weights`. Nothing is computed in place. Of what diffusers' modules keep and hold, by watching them,
the first rule is right within 0.4 %, and the second is a lower bound: they hold up to 1.7 times as much, since a name
in their code still stands for what no layer needs any more.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from ..config import AutoencoderConfig
from ..networks.autoencoder import Autoencoder
from .complexity import Flops, autoencoder_flops, count_parameters, latent_shape

# --------------------------------------------------------------------------------------------------- costs


NONE = Flops()


@dataclass(frozen=True)
class Cost:
    """Parameters; FLOPs of a forward pass, and those of them whose input needs no gradient; and, as numbers of values,
    what is `kept` for the backward pass and what is `live` at once at most.

    `a + b` is a, then b: the larger of their peaks. `n * a` is n of them, one after another, each with its own weights.
    """

    parameters: int = 0
    flops: Flops = NONE
    from_inputs: Flops = NONE
    kept: int = 0
    live: int = 0

    @property
    def training(self) -> Flops:
        """FLOPs of a forward and a backward pass: each product again for its weights and, where it needs one, for its
        input's gradient."""
        return 3 * self.flops - self.from_inputs

    def beside(self, values: int) -> Cost:
        """The same, while so many other values are held."""
        return replace(self, live=self.live + values)

    def on(self, batch: int) -> Cost:
        """The same network on `batch` inputs at once."""
        return Cost(self.parameters, batch * self.flops, batch * self.from_inputs, batch * self.kept, batch * self.live)

    def __add__(self, then: Cost) -> Cost:
        return Cost(
            self.parameters + then.parameters,
            self.flops + then.flops,
            self.from_inputs + then.from_inputs,
            self.kept + then.kept,
            max(self.live, then.live),
        )

    def __rmul__(self, times: int) -> Cost:
        return replace(self.on(times), parameters=times * self.parameters, live=self.live if times else 0)


def _product(ins: int, outs: int, rows: int, *, kind: str = "linear", bias: bool = True, first: bool = False) -> Cost:
    """A matrix of `ins` x `outs`, applied to `rows` rows; `first`: to an input of the network."""
    flops = Flops(**{kind: 2 * rows * ins * outs})
    return Cost(ins * outs + bias * outs, flops, flops if first else NONE)


def _conv(ins: int, outs: int, places: int, kernel: int = 3, first: bool = False) -> Cost:
    """A convolution that makes `places` positions: a product with all that its kernel covers."""
    return _product(kernel**2 * ins, outs, places, kind="conv", first=first)


def _attention(queries: int, keys: int, width: int) -> Cost:
    """Q·Kᵀ and its result times V."""
    return Cost(flops=Flops(attention=2 * 2 * queries * keys * width))


def _mlp(ins: int, width: int) -> Cost:
    """Two linear layers that make an embedding of the network's inputs: the time's, or the pooled text's."""
    return _product(ins, width, 1, first=True) + _product(width, width, 1)


def _positive_multiple(size: int, factor: int, who: str) -> None:
    if size < factor or size % factor:
        raise ValueError(f"{who} was given size={size}; expected a positive multiple of {factor}")


# ----------------------------------------------------------------------------------------- U-Net with text


@dataclass(frozen=True)
class UNetPart:
    """Stable Diffusion's U-Net, whose spatial transformers read text, in the terms of diffusers'
    `UNet2DConditionModel`.

    `transformer_layers[i]` is how many transformer blocks stand behind each residual block of level i, counted from the
    full resolution down, `middle_layers` the same in the middle. Each block is self-attention, attention to the text
    (vectors of `context_width`), and a gated linear layer (GEGLU) of four times the width; `heads` are by level.
    `linear_projection`: what leads into and out of the transformers is a linear layer (SDXL), not a 1x1 convolution.
    `added_width`: of the vector that a second embedding reads (SDXL: the pooled text and six sizes), 0 for none.
    """

    block_out_channels: tuple[int, ...]
    transformer_layers: tuple[int, ...]
    middle_layers: int
    context_width: int
    heads: tuple[int, ...]
    in_channels: int = 4
    out_channels: int = 4
    layers_per_block: int = 2
    linear_projection: bool = False
    added_width: int = 0

    def __post_init__(self):
        levels = len(self.block_out_channels)
        if not levels == len(self.transformer_layers) == len(self.heads):
            raise ValueError(
                f"{levels} levels were given {len(self.transformer_layers)} entries of transformer_layers and "
                f"{len(self.heads)} of heads; expected one for each level"
            )

    def for_channels(self, channels: int) -> UNetPart:
        """The same network for pictures, or latents, of another number of channels."""
        return replace(self, in_channels=channels, out_channels=channels)

    def attending_up_to(self, most: float, grid: int) -> UNetPart:
        """The same network as one would build it for inputs of `grid` x `grid`, with transformers only on grids of at
        most `most` a side; itself, where they see no larger one.

        As `UNetConfig.attending_up_to` does it: more levels of the last one's width, if the lowest grid is too large,
        and the levels that attend are the lowest, with the depths that they have here.
        """
        if self.attends_on(grid) <= most:
            return self
        widths, heads = self.block_out_channels, self.heads
        depths = [depth for depth in self.transformer_layers if depth]
        while grid / 2 ** (len(widths) - 1) > most:
            widths, heads = widths + widths[-1:], heads + heads[-1:]
        layers = [0] * (len(widths) - len(depths)) + depths
        layers = tuple(depth if grid // 2**i <= most else 0 for i, depth in enumerate(layers))
        return replace(self, block_out_channels=widths, heads=heads, transformer_layers=layers)

    @property
    def multiple(self) -> int:
        """What the side of its inputs must be a multiple of."""
        return 2 ** (len(self.block_out_channels) - 1)

    def attends_on(self, size: int) -> int:
        """The side of the largest grid that its transformers see, on inputs of `size` x `size`."""
        return size // 2 ** next((i for i, depth in enumerate(self.transformer_layers) if depth), len(self.heads) - 1)

    def cost(self, size: int, batch: int = 1, tokens: int = 77) -> Cost:
        """One call on `batch` inputs of `size` x `size`, each with a text of `tokens` vectors.

        ValueError: a size that cannot be halved often enough.
        """
        _positive_multiple(size, self.multiple, "the U-Net")
        places = [(size // 2**level) ** 2 for level in range(len(self.block_out_channels))]
        return sum(self._walk(places, tokens), Cost()).on(batch)

    def attention_weights(self, size: int, tokens: int = 77) -> int:
        """Values in the largest matrix of attention weights, queries times keys for each head, if it were held."""
        largest = self.attends_on(size)
        level = (size // largest).bit_length() - 1
        return self.heads[level] * largest**2 * max(largest**2, tokens)

    def _walk(self, places: list[int], tokens: int) -> Iterator[Cost]:
        """The parts in order; `skips` holds the values of each feature map that the way up still needs."""
        widths, time = self.block_out_channels, 4 * self.block_out_channels[0]
        layers, skips = self.transformer_layers, [widths[0] * places[0]]

        def reading(level: int, depth: int) -> Cost:
            if not depth:
                return Cost()
            shape = widths[level], places[level], depth, self.context_width, tokens, self.linear_projection
            return _spatial_transformer(*shape).beside(sum(skips))

        yield _mlp(widths[0], time)
        if self.added_width:
            yield _mlp(self.added_width, time)
        pixels = self.in_channels * places[0]
        yield _conv(self.in_channels, widths[0], places[0], first=True) + Cost(kept=pixels, live=pixels + skips[0])

        stream = widths[0]
        for level, (width, here) in enumerate(zip(widths, places)):
            for _ in range(self.layers_per_block):
                yield _resnet(stream, width, here, time).beside(sum(skips[:-1]))
                yield reading(level, layers[level])
                stream = width
                skips.append(width * here)
            if level < len(widths) - 1:
                here, below = width * here, width * places[level + 1]
                yield (_conv(width, width, places[level + 1]) + Cost(kept=here, live=below)).beside(sum(skips))
                skips.append(below)

        yield _resnet(stream, stream, places[-1], time).beside(sum(skips[:-1]))
        yield reading(-1, self.middle_layers)
        yield _resnet(stream, stream, places[-1], time).beside(sum(skips))

        for level in reversed(range(len(widths))):
            width, here = widths[level], places[level]
            for _ in range(self.layers_per_block + 1):
                joined = stream + skips.pop() // here
                yield _resnet(joined, width, here, time).beside(sum(skips))
                yield reading(level, layers[level])
                stream = width
            if level > 0:
                above = width * places[level - 1]
                yield (_conv(width, width, places[level - 1]) + Cost(kept=above, live=2 * above)).beside(sum(skips))
        last, out = stream * places[0], self.out_channels * places[0]
        yield _conv(stream, self.out_channels, places[0]) + Cost(2 * stream, kept=3 * last, live=2 * last + out)


def _resnet(ins: int, outs: int, places: int, time_width: int) -> Cost:
    """The residual block; at its widest it holds its input, and a norm's or an activation's input and output."""
    cost = _conv(ins, outs, places) + _conv(outs, outs, places) + _product(time_width, outs, 1)
    if ins != outs:
        cost += _conv(ins, outs, places, kernel=1)
    norms = 2 * ins + 2 * outs
    return cost + Cost(norms, kept=3 * (ins + outs) * places, live=3 * max(ins, outs) * places)


def _spatial_transformer(width: int, places: int, layers: int, context: int, tokens: int, linear: bool) -> Cost:
    """A norm, a projection, `layers` transformer blocks, and a projection, with a residual connection around.

    A block keeps 28 tensors of its input's size: 6 in self-attention, 4 in attention to the text (besides its keys and
    values), 18 in the gated layer, whose first product makes 8 of them. There it is widest: the block's input, those 8,
    4 that the gate makes of them, and 4 that come out; beside it is held the input of the whole.
    """
    here = width * places
    block = 3 * _product(width, width, places, bias=False) + _product(width, width, places)
    block += _attention(places, places, width)
    block += _product(width, width, places, bias=False) + _product(width, width, places)
    block += 2 * _product(context, width, tokens, bias=False, first=True) + _attention(places, tokens, width)
    block += _product(width, 8 * width, places) + _product(4 * width, width, places)
    block += Cost(3 * 2 * width, kept=28 * here + 2 * width * tokens, live=17 * here)
    ends = 2 * _product(width, width, places, kind="linear" if linear else "conv")
    return (layers * block + ends + Cost(2 * width, kept=3 * here)).beside(here)


# -------------------------------------------------------------------------------------------- transformer


@dataclass(frozen=True)
class TransformerPart:
    """SD 3's transformer, which gives pictures and text weights of their own and lets them attend to one another, in
    the terms of diffusers' `SD3Transformer2DModel` (Esser et al. 2024, section 4).

    A token is a patch of `patch` x `patch` positions; the width is `heads` times 64. `pooled_width`: of the vector of
    the text that is added to the time's embedding.
    """

    layers: int
    heads: int
    patch: int = 2
    in_channels: int = 16
    out_channels: int = 16
    context_width: int = 4096
    pooled_width: int = 2048

    @property
    def width(self) -> int:
        return 64 * self.heads

    def for_channels(self, channels: int) -> TransformerPart:
        """The same network for pictures, or latents, of another number of channels."""
        return replace(self, in_channels=channels, out_channels=channels)

    def attending_up_to(self, most: float, grid: int) -> TransformerPart:
        """The same network as one would build it for inputs of `grid` x `grid`: with patches so large that no more
        than `most` x `most` of them cover the input."""
        patch = self.patch
        while grid / patch > most:
            patch *= 2
        return replace(self, patch=patch)

    @property
    def multiple(self) -> int:
        """What the side of its inputs must be a multiple of."""
        return self.patch

    def attends_on(self, size: int) -> int:
        """The side of the grid of patches, on inputs of `size` x `size`."""
        return size // self.patch

    def cost(self, size: int, batch: int = 1, tokens: int = 154) -> Cost:
        """One call on `batch` inputs of `size` x `size`, each with a text of `tokens` vectors.

        ValueError: a size that patches do not cover.
        """
        _positive_multiple(size, self.multiple, "the transformer")
        w, n = self.width, self.attends_on(size) ** 2
        values = self.patch**2 * self.in_channels
        found = _product(values, w, n, kind="conv", first=True) + _product(self.context_width, w, tokens, first=True)
        found += _mlp(256, w) + _mlp(self.pooled_width, w)
        found += Cost(kept=size**2 * self.in_channels + tokens * self.context_width)
        found += (self.layers - 1) * _joint_block(w, n, tokens) + _joint_block(w, n, tokens, last=True)
        found += _product(w, 2 * w, 1) + _product(w, self.patch**2 * self.out_channels, n)
        return (found + Cost(kept=3 * w * n, live=3 * w * n)).on(batch)

    def attention_weights(self, size: int, tokens: int = 154) -> int:
        """Values in a matrix of attention weights, queries times keys for each head, if it were held."""
        return self.heads * (self.attends_on(size) ** 2 + tokens) ** 2


def _joint_block(w: int, places: int, tokens: int, last: bool = False) -> Cost:
    """Two streams with weights of their own, one attention; the `last` one makes nothing of the text any more.

    A stream keeps 16 tensors of its size (a norm, its shift and its scale before either half, 8 in the MLP, a gate
    behind either half), and 4 in attention. At its widest it holds both streams, what attention made of the text, and
    the MLP's 8 for the picture.
    """

    def stream(rows: int, whole: bool) -> Cost:
        cost = _product(w, (6 if whole else 2) * w, 1) + 3 * _product(w, w, rows)
        if whole:
            cost += _product(w, w, rows) + _product(w, 4 * w, rows) + _product(4 * w, w, rows)
        return cost + Cost(kept=(20 if whole else 7) * w * rows)

    both = stream(places, True) + stream(tokens, not last) + _attention(places + tokens, places + tokens, w)
    return both + Cost(live=max(9 * places + 2 * tokens, 7 * (places + tokens)) * w)


# ------------------------------------------------------------------------------------------- text encoder


@dataclass(frozen=True)
class TextPart:
    """A transformer that reads a prompt of `tokens` tokens: CLIP's, or T5's encoder.

    `hidden` is the MLP's width; `gated` (T5): of two matrices that are multiplied, with norms that only scale, no
    biases, and one table of `relative` distances for each head in place of learnt positions. `projection` (CLIP's
    "with projection"): the pooled vector goes through one more matrix, to that width.
    """

    name: str
    width: int
    layers: int
    heads: int
    hidden: int
    vocabulary: int
    tokens: int = 77
    gated: bool = False
    relative: int = 0
    projection: int = 0

    def cost(self, batch: int = 1) -> Cost:
        """One call on `batch` prompts, each filled up to `tokens`; nothing is kept, since it is not trained."""
        w, n, bias, norm = self.width, self.tokens, not self.gated, self.width if self.gated else 2 * self.width
        layer = 4 * _product(w, w, n, bias=bias) + _attention(n, n, w)
        layer += (1 + self.gated) * _product(w, self.hidden, n, bias=bias) + _product(self.hidden, w, n, bias=bias)
        layer += Cost(2 * norm, live=n * (w + (2 + self.gated) * self.hidden))
        tables = self.vocabulary * w + (self.relative * self.heads if self.gated else n * w)
        found = self.layers * layer + Cost(tables + norm)
        if self.projection:
            found += _product(w, self.projection, 1, bias=False)
        return found.on(batch)


# -------------------------------------------------------------------------------------------- autoencoder


@dataclass(frozen=True)
class AutoencoderPart:
    """The autoencoder of a system. SD 3's has no 1x1 convolutions at the latent (`quant_convs`), which all others and
    the course's own have."""

    config: AutoencoderConfig
    quant_convs: bool = True

    def cost(self, size: int, part: str = "decode", batch: int = 1) -> Cost:
        """To "encode" or to "decode" `batch` pictures of `size` x `size`; parameters are those of this part.

        FLOPs by `autoencoder_flops`, which refuses what it refuses; nothing is kept, since it is not trained here. At
        its widest a residual block holds its input, and a norm's or an activation's input and output.
        """
        flops, (c, side, _) = autoencoder_flops(self.config, size, part), latent_shape(self.config, size)
        parameters, at_latent = _halves(self.config)[part]
        if self.quant_convs:
            parameters += at_latent
        else:
            width = 2 * c if part == "encode" else c
            flops -= _conv(width, width, side**2, kernel=1).flops
        widths = self.config.block_out_channels
        before = widths[:1] + widths[:-1] if part == "encode" else widths[1:] + widths[-1:]
        live = max(3 * max(pair) * (size // 2**level) ** 2 for level, pair in enumerate(zip(before, widths)))
        return Cost(parameters, flops, live=live).on(batch)


@functools.cache
def _halves(config: AutoencoderConfig) -> dict[str, tuple[int, int]]:
    """Parameters of the encoder and the decoder, and of the 1x1 convolution between either and the latent: counted on
    the network itself, built without memory."""
    with torch.device("meta"):
        model = Autoencoder(config)
    halves = {"encode": (model.encoder, model.quant_conv), "decode": (model.decoder, model.post_quant_conv)}
    return {part: (count_parameters(half), count_parameters(conv)) for part, (half, conv) in halves.items()}

"""What can be chosen of the networks and of a training, and what goes together (chapters 1 and 2).

A network carries its configuration, and so does its file. How large it is on which machine, `lab.profiles` says.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from .checks import Count, Layers, PictureSide, Positive, Seed, Several, Share, Weight, Widths, Words, checked


@checked
class UNetConfig:
    """The denoiser, in the terms of diffusers' `UNet2DModel` (chapter 1).

    `attention[i]` says whether level i, counted from the full resolution down, has self-attention;
    `num_classes` adds an embedding of the class, with one row more than classes: the last means "no label".
    `cross_attention_dim` is the width of a context, such as an encoded text, that each attention then reads as well
    (`UNet2DConditionModel`'s name for it, chapter 8); `pooled` adds the mean of its tokens, through a linear layer, to
    the time embedding, so that each residual block is told the whole (as SDXL and SD 3 add a pooled text).
    `attention_heads` gives heads by level, where their width is not `attention_head_dim` everywhere.
    `norm_num_groups` leaves some channels to a group at every level: with one channel to a group, the norm takes
    each channel's mean and spread over the picture away, and colours come out as the average of all colours.
    """

    in_channels: Count = 3
    out_channels: Count = 3
    block_out_channels: Widths = (32, 64, 96)
    layers_per_block: Layers = 1
    attention: tuple[bool, ...] = (False, False, True)
    attention_head_dim: Count = 32
    norm_num_groups: Count = 8
    num_classes: Count | None = None
    cross_attention_dim: Count | None = None
    attention_heads: Widths | None = None
    pooled: bool = False

    def __post_init__(self):
        for name in ("attention", "attention_heads"):
            each = getattr(self, name)
            if each is not None and len(each) != len(self.block_out_channels):
                raise ValueError(
                    f"{name} has {len(each)} entries for {len(self.block_out_channels)} levels; give one for each"
                )
        if self.num_classes is not None and self.cross_attention_dim is not None:
            raise ValueError("num_classes and cross_attention_dim; expected one kind of condition")
        if self.pooled and self.cross_attention_dim is None:
            raise ValueError("pooled without cross_attention_dim; there is no context whose mean could be taken")
        attends = (*self.attention[:-1], True)  # below the last level, the middle always does
        for level, width in enumerate(self.block_out_channels):
            divisor = self.attention_head_dim if self.attention_heads is None else self.attention_heads[level]
            if width % self.norm_num_groups or (attends[level] and width % divisor):
                raise ValueError(
                    f"a level of {width} channels is not a multiple of norm_num_groups={self.norm_num_groups}, "
                    f"or it has attention and is none of attention_head_dim={self.attention_head_dim}, "
                    f"attention_heads={self.attention_heads}"
                )

    @property
    def multiple(self) -> int:
        """What the side of an input must be a multiple of."""
        return 2 ** (len(self.block_out_channels) - 1)

    def heads(self, level: int) -> int:
        """Heads of an attention at that level; level -1, the last one's, is the middle's."""
        if self.attention_heads is not None:
            return self.attention_heads[level]
        return self.block_out_channels[level] // self.attention_head_dim

    def for_channels(self, channels: int) -> UNetConfig:
        """The same network for pictures, or latents, of another number of channels."""
        return replace(self, in_channels=channels, out_channels=channels)

    def attending_up_to(self, most: float, grid: int) -> UNetConfig:
        """The same network as one would build it for inputs of `grid` x `grid`: as many more levels, of the last
        one's width, as keep its attention on grids of at most `most` a side (chapter 3). With `most` infinite, itself.
        """
        widths, attending, heads = self.block_out_channels, sum(self.attention), self.attention_heads
        while grid / 2 ** (len(widths) - 1) > most:
            widths += widths[-1:]
            heads = heads and heads + heads[-1:]
        levels = len(widths)
        attention = tuple(i >= levels - attending and grid // 2**i <= most for i in range(levels))
        return replace(self, block_out_channels=widths, attention=attention, attention_heads=heads)


@checked
class DiTConfig:
    """The denoiser that is a transformer (chapter 9): `layers` blocks of `width` channels and `heads` heads, over
    patches of `patch_size` a side; `num_classes` as in the U-Net."""

    in_channels: Count = 3
    out_channels: Count = 3
    patch_size: Count = 2
    width: Count = 96
    layers: Layers = 10
    heads: Count = 3
    num_classes: Count | None = None

    def __post_init__(self):
        if self.width % 4 or self.width % self.heads:  # the positions take a quarter each
            raise ValueError(f"width={self.width}; expected a multiple of 4 and of heads={self.heads}")

    @property
    def multiple(self) -> int:
        """What the side of an input must be a multiple of."""
        return self.patch_size

    def for_channels(self, channels: int) -> DiTConfig:
        """The same network for pictures, or latents, of another number of channels."""
        return replace(self, in_channels=channels, out_channels=channels)


@checked
class TextConfig:
    """A text encoder, in the terms of CLIP's (chapter 8): a transformer over at most `length` tokens of `vocab_size`.

    `causal`: a token sees only those before it, as in CLIP, so that only the last one knows the whole text. `layers` 0
    without `positions` is a bag of words. `activation` is "gelu", or "quick_gelu" as in OpenAI's weights.
    """

    vocab_size: Annotated[Count, Field(ge=3)] = 3
    length: Annotated[Count, Field(ge=2)] = 24
    width: Count = 128
    layers: Annotated[int, Field(ge=0, le=256)] = 3
    heads: Count = 4
    positions: bool = True
    causal: bool = False
    activation: Literal["gelu", "quick_gelu"] = "gelu"

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"width={self.width} is not a multiple of heads={self.heads}")

    def as_bag(self) -> TextConfig:
        """The same words without their order: a vector for each that knows no other, and no place."""
        return replace(self, layers=0, positions=False, causal=False)


@checked
class TextUNetConfig:
    """A U-Net that reads a text, its encoder, and the `words` that this knows, in the order of their numbers."""

    unet: UNetConfig
    text: TextConfig
    words: Words

    def __post_init__(self):
        if self.unet.cross_attention_dim != self.text.width:
            raise ValueError(
                f"the U-Net reads a context of width {self.unet.cross_attention_dim}, "
                f"the text encoder makes one of {self.text.width}; expected the same"
            )

    @property
    def in_channels(self) -> int:
        return self.unet.in_channels


@checked
class CLIPConfig:
    """Two encoders that lead to one space of `width` numbers (chapter 8): of texts, which knows `words`, in the order
    of their numbers; and of pictures of `size` a side, with its channels at 1/4, 1/8, ... of that.

    A causal text is read at its end token, any other as the mean of its tokens.
    """

    text: TextConfig
    words: Words = ()
    size: PictureSide = 64
    block_out_channels: Widths = (64, 96)
    attention_head_dim: Count = 32
    norm_num_groups: Count = 8
    width: Count = 128

    def __post_init__(self):
        factor = 2 ** (1 + len(self.block_out_channels))
        if self.size % factor:
            raise ValueError(f"size={self.size}; {len(self.block_out_channels)} levels need a multiple of {factor}")
        for channels in self.block_out_channels:
            if channels % self.norm_num_groups:
                raise ValueError(f"{channels} channels are not a multiple of norm_num_groups={self.norm_num_groups}")
        if self.block_out_channels[-1] % self.attention_head_dim:
            last, each = self.block_out_channels[-1], self.attention_head_dim
            raise ValueError(f"{last} channels, which are pooled, are not a multiple of attention_head_dim={each}")
        if self.text.causal and not self.text.layers:
            raise ValueError("a causal text of 0 layers is read at an end that knows no word; leave causal out")


@checked
class AutoencoderConfig:
    """The autoencoder, in the terms of diffusers' `AutoencoderKL` (chapters 1 and 4); or, with a codebook of `codes`
    vectors in place of the KL term, in those of its `VQModel` (chapter 9)."""

    in_channels: Count = 3
    latent_channels: Count = 4
    block_out_channels: Widths = (32, 64, 64)
    layers_per_block: Layers = 1
    norm_num_groups: Count = 8
    mid_attention: bool = True
    codes: Annotated[Count, Field(ge=2)] | None = None

    def __post_init__(self):
        for width in self.block_out_channels:
            if width % self.norm_num_groups:
                raise ValueError(
                    f"a level of {width} channels is not a multiple of norm_num_groups={self.norm_num_groups}"
                )

    @property
    def encoded_channels(self) -> int:
        """What the encoder gives: mean and log-variance of each latent channel, or the latent that is quantised."""
        return self.latent_channels * (2 if self.codes is None else 1)

    @property
    def downsample(self) -> int:
        """f: how many pixels of one side become one latent position."""
        return 2 ** (len(self.block_out_channels) - 1)

    def for_downsample(self, f: int) -> AutoencoderConfig:
        """The same autoencoder with as many levels as f needs: first widths are kept, the last one is repeated.

        ValueError: f is no power of two.
        """
        if f < 1 or f & (f - 1):
            raise ValueError(f"f={f}; expected a power of two")
        widths, levels = self.block_out_channels, f.bit_length()
        return replace(self, block_out_channels=(widths + widths[-1:] * levels)[:levels])


@checked
class DetectorConfig:
    """The network that reads pictures of scenes (chapter 8): the names of what it tells apart, in the order of its
    outputs, and its widths at 1/2, 1/4 and 1/8 of the picture's side."""

    shapes: Words
    colours: Words
    patterns: Words
    tints: Words
    block_out_channels: tuple[Count, Count, Count] = (32, 48, 64)
    norm_num_groups: Count = 8

    def __post_init__(self):
        for width in self.block_out_channels:
            if width % self.norm_num_groups:
                raise ValueError(f"{width} channels are not a multiple of norm_num_groups={self.norm_num_groups}")


@checked
class TrainConfig:
    """One training run. The first of `steps`, `images` and `seconds` to be reached ends it.

    `precision` "auto" is what `native_precision` says. Two things for GPUs: `compile` runs the network through
    torch.compile, which costs a minute at the start; `cuda_graph` records a whole step once and replays it
    (`training.graphs`), without which Python is slower than the GPU where networks are small.
    """

    batch_size: Count = 64
    steps: Several | None = None
    images: Several | None = None
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=True)] | None = None
    lr: Positive = 2e-4
    weight_decay: Weight = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    decay: Literal["none", "cosine", "linear"] = "none"
    ema_decay: Share = 0.999
    grad_clip: Weight = 1.0
    accumulate: Count = 1
    precision: Literal["auto", "no", "fp16", "bf16"] = "auto"
    compile: bool = False
    cuda_graph: bool = False
    label_dropout: Share = 0.1
    flip: bool = False
    seed: Seed = 0

    def __post_init__(self):
        if self.steps is None and self.images is None and self.seconds is None:
            raise ValueError("a training run needs an end: give steps, images or seconds")
        if self.decay != "none" and self.steps is None and self.images is None:
            raise ValueError(f"decay={self.decay!r} needs to know the end: give steps or images")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size={self.batch_size} is not a multiple of accumulate={self.accumulate}")

"""Stable Diffusion 1.5, SDXL and SD 3 as they were published, and what a picture of theirs costs (chapter 8).

Three kinds of part: text encoders, a denoiser that works on latents, an autoencoder. What each costs by itself,
`closed_forms` counts; here is how often each is called, what that adds up to, and what the same denoiser would cost in
pixels. Nothing of it has to be downloaded, or built.

Where the figures are from:

- SD 1.5: `v1-inference.yaml` and the model card of CompVis/stable-diffusion
- SDXL: `configs/inference/sd_xl_base.yaml` of Stability-AI/generative-models (Podell et al. 2023, Table 1)
- SD 3 medium: `mmdit.py`, `sd3_impls.py` and `sd3_infer.py` of Stability-AI/sd3-ref, where the depth is a 64th of the
  width; 24 blocks have 2 billion parameters (Esser et al. 2024, Figure 5), and 77 tokens of CLIP stand before 77 of T5
  (appendix B.2; diffusers fills T5's up to 256)
- text encoders: `sd3_infer.py` has the configurations of all three
- steps and guidance: what diffusers' pipelines do if nothing is said
"""

from __future__ import annotations

from dataclasses import dataclass

from ..config import AutoencoderConfig
from .closed_forms import AutoencoderPart, Cost, TextPart, TransformerPart, UNetPart
from .complexity import Flops, latent_shape

GIB = 2**30
STATE = 20  # bytes a parameter in training: weights, gradients, two moments and the average, in float32
HALF, FULL = 2, 4  # bytes a value, in half precision and in float32


@dataclass(frozen=True)
class Training:
    """How a system was trained: (pictures' side, steps) in turn, on batches of `batch`, in `hours` of one A100."""

    batch: int
    phases: tuple[tuple[int, int], ...]
    hours: float


@dataclass(frozen=True)
class System:
    """A published system. `size` is the side of its pictures, in pixels, and `tokens` the length of the text that the
    denoiser reads; `training` is None where it was not published."""

    name: str
    text_encoders: tuple[TextPart, ...]
    tokens: int
    denoiser: UNetPart | TransformerPart
    autoencoder: AutoencoderPart
    size: int
    steps: int
    guidance_scale: float
    training: Training | None = None

    def latent(self, size: int | None = None) -> tuple[int, int, int]:
        """`(c, h, w)` of the latent of a picture of `size` x `size`, its own if none is given.

        ValueError: a size that its networks cannot halve often enough; the methods below refuse it too.
        """
        size, multiple = self._side(size), self.autoencoder.config.downsample * self.denoiser.multiple
        if size < multiple or size % multiple:
            raise ValueError(f"{self.name} was given size={size}; expected a positive multiple of {multiple}")
        return latent_shape(self.autoencoder.config, size)

    def _side(self, size: int | None) -> int:
        return self.size if size is None else size

    # ------------------------------------------------------------------------------------------------- one call

    def text(self) -> Cost:
        """All text encoders on one prompt."""
        return sum((encoder.cost() for encoder in self.text_encoders), Cost())

    def denoise(self, size: int | None = None, batch: int = 1) -> Cost:
        """The denoiser on the latents of `batch` pictures of `size` x `size`: one pass, of which guidance takes two."""
        return self.denoiser.cost(self.latent(size)[1], batch, self.tokens)

    def decode(self, size: int | None = None) -> Cost:
        return self.autoencoder.cost(self._side(size), "decode")

    def encode(self, size: int | None = None) -> Cost:
        return self.autoencoder.cost(self._side(size), "encode")

    # ----------------------------------------------------------------------------------------------- a picture

    def picture(self, steps: int | None = None, size: int | None = None, guided: bool = True) -> dict[str, Flops]:
        """FLOPs of a picture by part, "text", "denoiser" and "decoder", in `steps` steps, its own number if none is
        given. With guidance (two passes a step, and the empty prompt is encoded too), or without."""
        steps, passes = self.steps if steps is None else steps, 2 if guided else 1
        return {
            "text": passes * self.text().flops,
            "denoiser": steps * passes * self.denoise(size).flops,
            "decoder": self.decode(size).flops,
        }

    def shares(self, steps: int | None = None, size: int | None = None, guided: bool = True) -> dict[str, float]:
        """The parts of a picture's FLOPs, 0 to 1, that its text, its denoising and its decoding are."""
        found = self.picture(steps, size, guided)
        whole = sum(flops.total for flops in found.values())
        return {part: flops.total / whole for part, flops in found.items()}

    # ------------------------------------------------------------------------------------------------ in pixels

    def in_pixels(self, size: int | None = None, built: bool = False) -> UNetPart | TransformerPart:
        """The denoiser for pictures of `size` x `size` themselves: the same network with three channels, or, `built`
        for the size, one that attends to no larger grid than the published one does on the latents of such pictures.
        """
        network, most = self.denoiser.for_channels(3), self.denoiser.attends_on(self.latent(size)[1])
        return network.attending_up_to(most, self._side(size)) if built else network

    def pixel_pass(self, size: int | None = None, built: bool = False) -> Cost:
        """One pass of `in_pixels`, on one picture."""
        return self.in_pixels(size, built).cost(self._side(size), tokens=self.tokens)

    def pixels_over_latents(self, size: int | None = None, built: bool = False) -> float:
        """How many times the FLOPs of a pass in latents one in pixels takes."""
        return self.pixel_pass(size, built).flops.total / self.denoise(size).flops.total

    # --------------------------------------------------------------------------------------------------- memory

    def parameters(self) -> dict[str, int]:
        """By part: "text", "denoiser", "autoencoder"."""
        return {
            "text": self.text().parameters,
            "denoiser": self.denoise().parameters,
            "autoencoder": self.encode().parameters + self.decode().parameters,
        }

    def running_bytes(self, size: int | None = None, each: int = HALF) -> int:
        """All weights, and the most that any part holds besides, `each` bytes a value, for one guided picture whose two
        passes are made at once. By the rule of `closed_forms`, so rather too little than too much."""
        live = max(self.denoise(size, batch=2).live, self.decode(size).live, self.text().live)
        return each * (sum(self.parameters().values()) + live)

    def training_bytes(self, size: int | None = None) -> int:
        """For training the denoiser on one picture at a time: its STATE, what it keeps for the backward pass in half
        precision, and the text encoders and the encoder, which are not trained, in half precision."""
        net = self.denoise(size)
        frozen = self.text().parameters + self.encode(size).parameters
        return STATE * net.parameters + HALF * (net.kept + frozen)

    def training_flops(self) -> int:
        """Of its published training: each picture is encoded, with its text, and takes one forward and one backward
        pass of the denoiser. What was computed twice to save memory is not in it. ValueError: it was not published.
        """
        if self.training is None:
            raise ValueError(f"how {self.name} was trained was not published step by step")
        total = 0
        for size, steps in self.training.phases:
            picture = self.denoise(size).training + self.encode(size).flops + self.text().flops
            total += steps * self.training.batch * picture.total
        return total


# ------------------------------------------------------------------------------------------------- the systems

CLIP_L = TextPart("CLIP ViT-L", width=768, layers=12, heads=12, hidden=3072, vocabulary=49408)
CLIP_L_POOLED = TextPart("CLIP ViT-L", 768, 12, 12, 3072, 49408, projection=768)
CLIP_G = TextPart("OpenCLIP ViT-bigG", 1280, 32, 20, 5120, 49408, projection=1280)
T5_XXL = TextPart("T5 v1.1 XXL", 4096, 24, 64, 10240, vocabulary=32128, gated=True, relative=32)


def _autoencoder(latent_channels: int, quant_convs: bool = True) -> AutoencoderPart:
    """f = 8, 83.7 million parameters: all three systems have this one, with other channels and other weights."""
    config = AutoencoderConfig(
        latent_channels=latent_channels,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        norm_num_groups=32,
    )
    return AutoencoderPart(config, quant_convs)


SD15 = System(
    "SD 1.5",
    text_encoders=(CLIP_L,),
    tokens=77,
    denoiser=UNetPart(
        block_out_channels=(320, 640, 1280, 1280),
        transformer_layers=(1, 1, 1, 0),
        middle_layers=1,
        context_width=768,
        heads=(8, 8, 8, 8),
    ),
    autoencoder=_autoencoder(4),
    size=512,
    steps=50,
    guidance_scale=7.5,
    # The cards: 237k steps at 256 and 194k at 512 (v1-1), 515k (v1-2), 595k (v1-5); 150,000 hours for version 1.
    training=Training(batch=2048, phases=((256, 237_000), (512, 194_000 + 515_000 + 595_000)), hours=150_000),
)

SDXL = System(
    "SDXL",
    text_encoders=(CLIP_L, CLIP_G),
    tokens=77,  # side by side: 768 + 1280 = 2048
    denoiser=UNetPart(
        block_out_channels=(320, 640, 1280),
        transformer_layers=(0, 2, 10),
        middle_layers=10,
        context_width=2048,
        heads=(5, 10, 20),
        linear_projection=True,
        added_width=2816,  # the pooled text's 1280, and six sizes of 256
    ),
    autoencoder=_autoencoder(4),
    size=1024,
    steps=50,
    guidance_scale=5.0,
)

SD3 = System(
    "SD 3 medium",
    text_encoders=(CLIP_L_POOLED, CLIP_G, T5_XXL),
    tokens=77 + 77,  # one after the other: the two CLIPs' side by side, then T5's
    denoiser=TransformerPart(layers=24, heads=24),
    autoencoder=_autoencoder(16, quant_convs=False),
    size=1024,
    steps=28,
    guidance_scale=7.0,
)

SYSTEMS = {"sd15": SD15, "sdxl": SDXL, "sd3": SD3}


# ----------------------------------------------------------------------------------------------------- seconds


@dataclass(frozen=True)
class Card:
    """A GPU that makes `steps` guided steps of SD 1.5 a second, on `pictures` pictures of 512 x 512 at once."""

    name: str
    steps: float
    pictures: int

    @property
    def rate(self) -> float:
        """The FLOP/s that it gives such a network, far below its peak: our FLOPs, its steps."""
        return self.steps * SD15.denoise(batch=2 * self.pictures).flops.total


# Hugging Face's measurements: diffusers' documentation, optimization/torch2.0, "SD - txt2img", batches of 4, half
# precision, PyTorch 2.0, not compiled. Seconds worked out from them are estimates.
CARDS = {name: Card(name, steps, 4) for name, steps in (("RTX 3090", 6.46), ("RTX 4090", 12.62), ("A100", 11.6))}

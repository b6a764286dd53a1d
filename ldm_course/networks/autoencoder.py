"""The autoencoder that opens the latent space: KL-regularised, f = 2, 4 or 8 (Rombach et al. 2022, section 3.1); or
with a codebook (`quantise`), which is then the decoder's first layer, as it is there.

Same parts in the same order as diffusers' `AutoencoderKL` or `VQModel`. Chapter 1 counts its cost, chapter 4 what it
loses, chapter 9 asks which makes latents that are easy to diffuse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import Count, Positive, check, shaped
from ..config import AutoencoderConfig
from .layers import Attention, Downsample, MidBlock, ResnetBlock, Upsample
from .quantise import Codebook, Coded

EPS = 1e-6


@dataclass(frozen=True)
class Posterior:
    """q(z|x) = N(z_mean, exp(z_logvar)), each `(B, c, h, w)`."""

    z_mean: Tensor
    z_logvar: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """z = μ + σ ε (Kingma & Welling 2014, section 2.4)."""
        where = self.z_mean.device if generator is None else generator.device
        noise = torch.randn(self.z_mean.shape, generator=generator, device=where, dtype=self.z_mean.dtype)
        return self.at(noise.to(self.z_mean.device))

    def at(self, noise: Tensor) -> Tensor:
        """The draw that this standard noise gives."""
        return self.z_mean + (0.5 * self.z_logvar).exp() * noise

    def kl(self) -> Tensor:
        """KL(q(z|x) || N(0, 1)) in nats, `(B,)`: ½ Σ (μ² + σ² - 1 - log σ²) (Kingma & Welling 2014, appendix B)."""
        return 0.5 * (self.z_mean**2 + self.z_logvar.exp() - 1 - self.z_logvar).sum(dim=(1, 2, 3))


class _Level(nn.Module):
    """Some residual blocks, then a change of resolution or none."""

    def __init__(self, first: int, out: int, layers: int, groups: int, resample: nn.Module | None, up: bool):
        super().__init__()
        self.resnets = nn.ModuleList(
            [ResnetBlock(first if i == 0 else out, out, None, groups, EPS) for i in range(layers)]
        )
        resamplers = nn.ModuleList([] if resample is None else [resample])
        self.upsamplers, self.downsamplers = (resamplers, ()) if up else ((), resamplers)

    def forward(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        for resample in (*self.upsamplers, *self.downsamplers):
            x = resample(x)
        return x


def _attention(width: int, config: AutoencoderConfig) -> Attention | None:
    """One head at the lowest resolution, where the configuration has it."""
    return Attention(width, 1, config.norm_num_groups, EPS) if config.mid_attention else None


class Encoder(nn.Module):
    """Pictures `(B, 3, H, W)` to `(B, 2c, H/f, W/f)`: mean and log-variance of the posterior; or `(B, c, H/f, W/f)`."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for i, out in enumerate(widths):
            resample = Downsample(out, one_sided=True) if i < len(widths) - 1 else None
            first = widths[max(i - 1, 0)]
            self.down_blocks.append(_Level(first, out, config.layers_per_block, groups, resample, up=False))
        self.mid_block = MidBlock(widths[-1], None, groups, EPS, _attention(widths[-1], config))
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.encoded_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """Latents `(B, c, h, w)` to pictures `(B, 3, f·h, f·w)`; one residual block a level more than the encoder."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], None, groups, EPS, _attention(widths[0], config))
        self.up_blocks = nn.ModuleList()
        for i, out in enumerate(widths):
            resample = Upsample(out) if i < len(widths) - 1 else None
            first = widths[max(i - 1, 0)]
            self.up_blocks.append(_Level(first, out, config.layers_per_block + 1, groups, resample, up=True))
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.in_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


def _as_pictures(x: Tensor) -> Tensor:
    if x.numel() and not x.is_meta and x.abs().amax() > 10:
        raise ValueError(f"values go from {x.amin():g} to {x.amax():g}; pictures are in [-1, 1], as to_float has them")
    return x


class Autoencoder(nn.Module):
    """Encoder ℰ and decoder 𝒟, and the scale of the latents between them.

    `encode` and `decode` work with raw latents; `to_latents` and `from_latents` with those that the diffusion model
    sees, multiplied by `latent_scale` so that their standard deviation is about 1 (LDM, appendix G).
    """

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config = config
        c = config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(config.encoded_channels, config.encoded_channels, 1)
        self.quantize = None if config.codes is None else Codebook(config.codes, c)
        self.post_quant_conv = nn.Conv2d(c, c, 1)
        self.register_buffer("latent_scale", torch.tensor(1.0))

    def encode(self, x: Tensor) -> Posterior:
        """Pictures `(B, 3, H, W)` in [-1, 1] to the posterior over latents `(B, c, H/f, W/f)`; with a codebook, all of
        it at the latent that is still to be quantised."""
        c = self.config
        shaped(x, "the autoencoder's input", "float", "B", c.in_channels, "H", "W", multiple=c.downsample)
        encoded = self.quant_conv(self.encoder(x))
        if self.quantize is not None:
            return Posterior(encoded, torch.full_like(encoded, -torch.inf))
        z_mean, z_logvar = encoded.chunk(2, dim=1)
        return Posterior(z_mean, z_logvar.clamp(-30, 20))

    def decode(self, z: Tensor) -> Tensor:
        """Raw latents `(B, c, h, w)` to pictures `(B, 3, f·h, f·w)`, near [-1, 1] but not clipped to it."""
        shaped(z, "latents to decode", "float", "B", self.config.latent_channels, "h", "w")
        return self._decoded(z if self.quantize is None else self.quantize(z).z)

    def _decoded(self, z: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(z))

    def to_latents(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Scaled latents of pictures: a draw from the posterior with a `generator`, its mean without one. ValueError:
        values that are far outside of [-1, 1]."""
        posterior = self.encode(_as_pictures(x))
        return self.latent_scale * (posterior.z_mean if generator is None else posterior.sample(generator))

    def from_latents(self, z: Tensor) -> Tensor:
        """Pictures of scaled latents."""
        return self.decode(z / self.latent_scale)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, batch_size: int = 64) -> Tensor:
        """Pictures `(N, 3, H, W)` in [-1, 1], decoded from the means of their posteriors and clipped to [-1, 1]; a part
        at a time, the result where x is. ValueError: values that are far outside of [-1, 1]."""
        device, parts = self.latent_scale.device, _as_pictures(x).split(check(Count, batch_size, "batch_size"))
        parts = [self.decode(self.encode(part.to(device)).z_mean).to(x.device) for part in parts]
        return torch.cat(parts).clamp(-1, 1)

    @torch.no_grad()
    def measure_latent_scale(self, x: Tensor, generator: torch.Generator | None = None) -> float:
        """Sets and returns `latent_scale`, one over the deviation of these latents. ValueError: that is 0 or NaN."""
        self.latent_scale.fill_(1.0)
        z = torch.cat([self.to_latents(part, generator) for part in x.split(64)])
        scale = 1.0 / check(Positive, z.std().item(), "standard deviation of the latents")
        self.latent_scale.fill_(scale)
        return scale

    def compile(self, **options) -> None:
        """Compiles the two networks in place, and not the draw between them, whose generator cannot be."""
        self.encoder.compile(**options)
        self.decoder.compile(**options)

    def forward(
        self, x: Tensor, normal: Callable[..., Tensor], transform: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Posterior | Coded]:
        """Reconstruction, and posterior or quantised latent, for training; `normal(c, h, w)` gives the standard noise
        `(B, c, h, w)`, and `transform` takes the latent to the one that is decoded."""
        posterior = self.encode(x)
        z = posterior.at(normal(*posterior.z_mean.shape[1:]))
        z = z if transform is None else transform(z)
        if self.quantize is None:
            return self.decode(z), posterior
        coded = self.quantize(z)
        return self._decoded(coded.z), coded

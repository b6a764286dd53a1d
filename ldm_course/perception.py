"""What noise hides and what an autoencoder drops: frequencies, bits and factors (chapter 4).

Three measuring instruments. In frequency: at which noise level a band drowns, how much of a band an autoencoder passes
on, and what it makes of noise (chapter 5). In bits: what the terms of DDPM's variational bound cost, beside the
distortion that is left. In meaning: a small probe that reads known factors from noisy pictures or noisy latents.

Papers: DDPM, Ho et al. 2020 (2006.11239); variational diffusion models, Kingma et al. 2021 (2107.00630).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .evaluation import Spectrum, psnr
from .schedules import Schedule, add_noise, to_x0

# ---------------------------------------------------------------------------------------------- frequencies


def drowning_level(spectrum: Spectrum, size: int, schedule: Schedule) -> Tensor:
    """The first index t at which each frequency's signal is below its noise, int64 (rings,); T where none is.

    `spectrum` is `evaluation.power_spectrum` of clean pictures of `size` a side. In each mode the noise of DDPM eq. 4
    has the power (1 - alpha_bar) / size^2, the signal alpha_bar S(f). So f drowns where size^2 S(f) SNR(t) < 1.
    """
    below = size**2 * spectrum.power.double()[:, None] * schedule.snr < 1  # (rings, T); the SNR only falls
    return torch.where(below.any(1), below.int().argmax(1), schedule.T)


def transfer(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """What a map of pictures does to each frequency: (gain, power ratio), float64 (rings,) each.

    before, after: float (N, C, H, H). With transforms X and Y, and sums over the modes of a ring as in
    `power_spectrum`, the gain is Re sum(Y X*) / sum(|X|^2): the part of the signal that arrives in place. The power
    ratio is sum(|Y|^2) / sum(|X|^2), which also counts what was put in its stead. A filter that multiplies a ring by
    a real h has the gain h and the ratio h^2, whatever the pictures. ValueError: other shapes.
    """
    if before.shape != after.shape or before.ndim != 4 or before.shape[2] != before.shape[3]:
        raise ValueError(f"got {tuple(before.shape)} and {tuple(after.shape)}; expected (N, C, H, H) twice, one shape")
    size = before.shape[-1]
    wave = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    ring = (wave[:, None].square() + wave[None, :].square()).sqrt().round().long().flatten()
    x, y = (torch.fft.fft2(images.cpu().double()) for images in (before, after))

    def summed(values: Tensor) -> Tensor:
        zeros = torch.zeros(int(ring.max()) + 1, dtype=torch.float64)
        return zeros.index_add_(0, ring, values.sum((0, 1)).flatten())

    power = summed(x.abs().square())
    return summed((y * x.conj()).real) / power, summed(y.abs().square()) / power


def wiener(noisy: Tensor, spectrum: Spectrum, noise_std: float) -> Tensor:
    """The best linear filter against white noise, for pictures of a known power spectrum: like `noisy` (N, C, H, H).

    Each mode is multiplied by S / (S + noise_std^2 / H^2), with S the power of its ring in `spectrum`
    (`evaluation.power_spectrum` of clean pictures, of the same side and range). ValueError: another side.
    """
    size = noisy.shape[-1]
    wave = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    ring = (wave[:, None].square() + wave[None, :].square()).sqrt().round().long()
    if noisy.shape[-2] != size or len(spectrum.power) != int(ring.max()) + 1:
        raise ValueError(
            f"got pictures {tuple(noisy.shape)} and a spectrum of {len(spectrum.power)} rings; sides differ"
        )
    gain = spectrum.power / (spectrum.power + noise_std**2 / size**2)
    return torch.fft.ifft2(torch.fft.fft2(noisy.double()) * gain[ring].to(noisy.device)).real.to(noisy.dtype)


@torch.no_grad()
def against_noise(
    autoencoder: nn.Module, clean: Tensor, spectrum: Spectrum, stds: Sequence[float] = (0.05, 0.1, 0.2, 0.4, 0.8)
) -> list[dict[str, float]]:
    """Does the autoencoder filter noise? A row for each standard deviation of white noise added to the pictures.

    clean: float (N, C, H, H) in [-1, 1]; `spectrum` that of other clean pictures. Each row: `std`; the PSNR in dB
    against the clean pictures of the `noisy` ones, of what the `autoencoder` makes of them (from z_mean), and of what
    `wiener` does; `kept`, the PSNR of the autoencoder's pictures against the noisy ones; `passed`, the power by which
    the noise moves its pictures, over the noise's own. `std` 0 comes first: what is lost without any noise.
    """
    device = next(autoencoder.parameters()).device

    def rebuilt(x: Tensor) -> Tensor:
        parts = [autoencoder.decode(autoencoder.encode(part.to(device)).z_mean).cpu() for part in x.split(64)]
        return torch.cat(parts).clamp(-1, 1)

    plain, rows = rebuilt(clean), []
    for std in (0.0, *stds):
        added = std * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        noisy = clean + added
        again = rebuilt(noisy) if std else plain
        row = {"noisy": noisy, "autoencoder": again, "wiener": wiener(noisy, spectrum, std)}
        found = {name: psnr(x, clean) if std or name == "autoencoder" else None for name, x in row.items()}
        passed = ((again - plain).square().mean() / added.square().mean()).item() if std else None
        rows.append({"std": std, **found, "kept": psnr(again, noisy), "passed": passed})
    return rows


# ------------------------------------------------------------------------------------------------------ bits


@torch.no_grad()
def denoised(
    model: Callable,
    x0: Tensor,
    t: int,
    schedule: Schedule,
    *,
    prediction: str,
    clip_x0: bool,
    generator: torch.Generator,
    batch_size: int = 64,
) -> Tensor:
    """x0_hat like x0 (N, C, H, W): one draw of xt at index t for each picture, and the network's word on it.

    No labels are given. The same `generator` state gives the same noise on every device.
    """
    found = []
    for part in x0.split(batch_size):
        eps = torch.randn(part.shape, generator=generator, device=generator.device).to(part.device)
        xt = add_noise(part, eps, t, schedule)
        x0_hat = to_x0(model(xt, torch.full((len(part),), t, device=part.device)), xt, t, schedule, prediction)
        found.append(x0_hat.clamp(-1, 1) if clip_x0 else x0_hat)
    return torch.cat(found)


def at_every_level(levels: Sequence[int], values: Tensor, schedule: Schedule) -> Tensor:
    """Positive `values` measured at some rising `levels`, read at all T: float64 (T,).

    Straight lines of log value against log SNR; before the first level and after the last, the value there.
    ValueError: not one value for each of at least two rising levels.
    """
    if len(levels) != len(values) or len(levels) < 2 or sorted(set(levels)) != list(levels):
        raise ValueError(f"got levels {list(levels)} for {len(values)} values; expected one for each of 2 or more")
    x, y = -schedule.snr.log(), torch.as_tensor(values, dtype=torch.float64).log()
    at = x[torch.tensor(levels)]
    right = torch.searchsorted(at, x).clamp(1, len(levels) - 1)
    share = ((x - at[right - 1]) / (at[right] - at[right - 1])).clamp(0, 1)
    return torch.lerp(y[right - 1], y[right], share).exp()


def transition_bits(mse: Tensor, schedule: Schedule) -> Tensor:
    """The terms L_{t-1} of DDPM eq. 5 in bits a dimension, float64 (T,), from the error of x0_hat at each index t.

    Where the model's step has the posterior's variance (beta tilde, eq. 7), the KL of two Gaussians is
    |mu(xt, x0) - mu(xt, x0_hat)|^2 / (2 beta tilde) = (SNR(t-1) - SNR(t)) / 2 |x0 - x0_hat|^2 nats
    (Kingma et al. 2021, section 4). Entry 0 is 0: the last step has no such term, but `decoder_bits`.
    mse (T,): mean squared error of values in [-1, 1]. ValueError: another shape.
    """
    if mse.shape != (schedule.T,):
        raise ValueError(f"mse has shape {tuple(mse.shape)}; expected ({schedule.T},), one value for each level")
    bits = torch.zeros(schedule.T, dtype=torch.float64)
    bits[1:] = -0.5 * schedule.snr.diff() * mse[1:].double() / math.log(2)
    return bits


def prior_bits(x0: Tensor, schedule: Schedule) -> float:
    """L_T of DDPM eq. 5, KL(q(x_T | x0) || N(0, 1)), in bits a dimension; x0 (N, C, H, W) in [-1, 1]."""
    left = schedule.alpha_bar[-1].item()
    return 0.5 * (left * x0.double().square().mean().item() - left - math.log1p(-left)) / math.log(2)


def decoder_bits(x0: Tensor, x0_hat: Tensor, std: float) -> float:
    """L_0 of DDPM eq. 5 in bits a dimension: what the exact bytes cost, given x0_hat (N, C, H, W) at index 0.

    The discretised Gaussian of eq. 13: the mass of N(x0_hat, std^2) between x0 - 1/255 and x0 + 1/255, where the
    intervals of the bytes 0 and 255 are open at their outer ends. x0 holds u / 127.5 - 1 for bytes u.
    """
    x, mean, root = x0.double(), x0_hat.double(), std * math.sqrt(2)
    low = torch.where(x < -1 + 1e-3, -torch.inf, (x - 1 / 255 - mean) / root)
    high = torch.where(x > 1 - 1e-3, torch.inf, (x + 1 / 255 - mean) / root)
    mirrored = low + high < 0  # the mass is a difference of tails on the side where they are small
    near, far = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
    mass = 0.5 * (torch.special.erfc(near) - torch.special.erfc(far))
    return -mass.clamp(min=1e-300).log2().mean().item()


# --------------------------------------------------------------------------------------------------- factors


class Probe(nn.Module):
    """Reads factors from a noisy picture or latent: two convolutions on a grid of `grid` a side, one hidden layer.

    A picture of k x grid a side is first folded, each k x k block to the channels of one position, which loses
    nothing. `noise_scale` (B,) says how noisy the input is. `factors` has the number of values of each factor; the
    output its logits (B, values). ValueError: the side is no multiple of `grid`.
    """

    def __init__(self, channels: int, size: int, factors: Mapping[str, int], *, grid: int = 8, width: int = 48):
        super().__init__()
        if size % grid:
            raise ValueError(f"a side of {size} cannot be folded onto a grid of {grid}; give a multiple of it")
        self.fold = nn.PixelUnshuffle(size // grid)
        self.first = nn.Conv2d(channels * (size // grid) ** 2 + 1, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.hidden = nn.Linear(width * grid**2, 2 * width)
        self.factors = tuple(factors)
        self.heads = nn.ModuleList([nn.Linear(2 * width, values) for values in factors.values()])

    def forward(self, x: Tensor, noise_scale: Tensor) -> dict[str, Tensor]:
        x = self.fold(x)
        level = noise_scale.to(x.dtype).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
        x = F.relu(self.second(F.relu(self.first(torch.cat([x, level], 1)))))
        x = F.relu(self.hidden(x.flatten(1)))
        return {name: head(x) for name, head in zip(self.factors, self.heads)}


def train_probe(
    x: Tensor,
    factors: Mapping[str, Tensor],
    schedule: Schedule,
    *,
    steps: int,
    grid: int = 8,
    batch_size: int = 128,
    lr: float = 4e-3,
    seed: int = 0,
) -> Probe:
    """A `Probe` of x (N, C, H, H) for all noise levels at once: each batch has fresh noise, at levels drawn evenly.

    `factors` are int64 (N,) each, values counted from 0. The cross-entropies are summed; AdamW, its rate rising and
    falling over the `steps`. The same seed draws the same rows and levels, whatever the space of x.
    """
    values = {name: int(target.max()) + 1 for name, target in factors.items()}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        probe = Probe(x.shape[1], x.shape[-1], values, grid=grid).to(x.device)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=lr, weight_decay=0.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    drawn, noise = (torch.Generator().manual_seed(2 * seed + i) for i in range(2))  # spaces need unequal much noise
    scale = schedule.noise_scale.float().to(x.device)
    for _ in range(steps):
        rows = torch.randint(len(x), (batch_size,), generator=drawn).to(x.device)
        t = torch.randint(schedule.T, (batch_size,), generator=drawn).to(x.device)
        eps = torch.randn(batch_size, *x.shape[1:], generator=noise).to(x.device)
        logits = probe(add_noise(x[rows], eps, t, schedule), scale[t])
        loss = sum(F.cross_entropy(logits[name], target[rows]) for name, target in factors.items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return probe.eval()


@torch.no_grad()
def probe_hits(
    probe: Probe, x: Tensor, factors: Mapping[str, Tensor], t: int | None, schedule: Schedule, *, seed: int = 0
) -> dict[str, Tensor]:
    """Whether each factor of each x (N, C, H, H) is read rightly at index t (None: without noise): 0 or 1, (N,)."""
    level, xt = 0.0, x
    if t is not None:
        level = schedule.noise_scale[t].item()
        xt = add_noise(x, torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x.device), t, schedule)
    logits = probe(xt, torch.full((len(x),), level, device=x.device))
    return {name: (logits[name].argmax(1) == target).float().cpu() for name, target in factors.items()}

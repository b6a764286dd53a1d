"""The claims of chapter 1, computational complexity."""

from __future__ import annotations

import functools
import weakref

import torch

from ...diffusion.samplers import sample, x0_predictor
from ...diffusion.schedules import make_schedule
from ...measure.complexity import unet_flops, values
from .verdicts import LATENT, PIXEL, Evidence, Finding, claim, verdict, worst


@claim("C1.1", "The pixel input has 3,072 values, the latent 256: a factor of 12.", "arithmetic")
def _values(seen: Evidence) -> Finding:
    ratio = values(32, 32, 3) / values(8, 8, 4)
    return Finding(verdict(ratio, 12), f"{ratio:g}x", "Values say how large an input is, not what it costs.")


@claim("C1.2", "A sample costs 12 MB, values times 1000 timesteps; a latent one 1 MB.", "states that the sampler holds")
def _memory(seen: Evidence) -> Finding:
    held = states_held(1000)
    return Finding(
        verdict(held, 1000),
        f"{held} states held in 1000 steps",
        "Memory is weights and activations; timesteps are no factor in it.",
    )


@functools.cache
def states_held(steps: int) -> int:
    """How many of a sample's states are in memory at once, at most, while DDPM makes so many steps: by watching it."""
    shown: list[weakref.ref] = []
    most = 0

    def watch(xt, t):
        nonlocal most
        shown[:] = [ref for ref in shown if ref() is not None] + [weakref.ref(xt)]
        most = max(most, len(shown))
        return torch.zeros_like(xt)

    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 3, 8, 8, generator=generator)
    schedule = make_schedule("linear")
    predict_x0 = x0_predictor(watch, schedule, prediction="eps", clip_x0=True)
    sample(predict_x0, noise, schedule, method="ddpm", steps=steps, generator=generator)
    return most


@claim("C1.3", "A step costs O(HWC), in proportion to the input's values.", "FLOPs by formula, 16 times the values")
def _proportion(seen: Evidence) -> Finding:
    base = unet_flops(PIXEL, 32).total
    channels, positions = (unet_flops(PIXEL.for_channels(48), 32).total / base, unet_flops(PIXEL, 128).total / base)
    return Finding(
        worst(verdict(channels, 16), verdict(positions, 16)),
        f"16x the channels: {channels:.2f}x; 16x the positions: {positions:.1f}x",
        "Positions times widths squared, and positions squared for attention; the input's channels hardly count.",
    )


@claim("C1.4", "So a forward pass in the latent space takes 12x less computation.", "FLOPs by formula")
def _step(seen: Evidence) -> Finding:
    ratio = unet_flops(PIXEL, 32).total / unet_flops(LATENT, 8).total
    return Finding(
        verdict(ratio, 12), f"{ratio:.1f}x fewer FLOPs", "It follows f², the ratio of positions, not that of values."
    )

"""`ldm-course cost`: one denoising step, counted and timed in both spaces."""

from __future__ import annotations

import argparse

import torch

from ..device import default_device
from ..lab import profiles
from ..measure.complexity import count_parameters, latent_shape, unet_flops
from ..measure.timing import activation_memory, time_together
from ..networks.unet import UNet
from ..training.recipes import seeded
from .options import positive


def cost_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=32, help="side of the picture, in pixels")
    parser.add_argument("--profile")
    parser.add_argument("--batch-size", type=int, default=1)


def cost(args: argparse.Namespace) -> int:
    """`ldm-course cost`."""
    positive(size=args.size, batch_size=args.batch_size)
    profile = profiles.profile(args.profile)
    c, side, _ = latent_shape(profile.autoencoder, args.size)
    shapes = {"pixel": (3, args.size), "latent": (c, side)}
    device = default_device()
    calls, lines = {}, {}
    for space, (channels, size) in shapes.items():
        network = profile.unet.for_channels(channels)
        flops = unet_flops(network, size, args.batch_size)
        model = seeded(0, UNet, network).to(device).eval()
        x = torch.randn(args.batch_size, channels, size, size, device=device)
        t = torch.zeros(args.batch_size, dtype=torch.int64, device=device)
        calls[space] = torch.inference_mode()(lambda model=model, x=x, t=t: model(x, t))
        saved = activation_memory(model, x, t).saved
        lines[space] = (
            f"{space:7}{channels} x {size} x {size}: {count_parameters(model) / 1e6:.2f} M parameters, "
            f"{flops.total / 1e9:.3g} GFLOP a step ({flops.share('attention'):.1%} attention), "
            f"{saved / 2**20:.3g} MiB kept for training"
        )
    timings = time_together(calls, repeats=7, warmup=2, seconds=20)
    for space, line in lines.items():
        print(f"{line}, {1e3 * timings[space].median:.3g} ms a step")
    return 0

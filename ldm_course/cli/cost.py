"""`ldm-course cost`: one denoising step, counted and timed in both spaces; or what a published system costs."""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ..checks import AnySide, Count, number
from ..device import check_room, computed_in, default_device
from ..lab import profiles, systems
from ..measure.complexity import count_parameters, latent_shape, unet_flops
from ..measure.published import SYSTEMS
from ..measure.timing import activation_memory, machine_rates, time_together
from ..networks.unet import UNet
from ..training.recipes import seeded

SIZE = 32  # of the course's own pictures, unless another is asked for


def cost_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size", type=number(AnySide), help=f"side of the picture, in pixels (default: {SIZE}, or the system's own)"
    )
    parser.add_argument("--profile", help="whose networks (default: the machine's)")
    parser.add_argument("--batch-size", type=number(Count), help="pictures a step (default: 1)")
    parser.add_argument(
        "--system",
        choices=[*SYSTEMS, "all"],
        help="count a picture of Stable Diffusion 1.5, SDXL or SD 3 instead, by formula; or of all three",
    )


def cost(args: argparse.Namespace) -> int:
    """`ldm-course cost`. ValueError: a size that the networks refuse; `--profile` or `--batch-size` with `--system`."""
    return _of_course(args) if args.system is None else _of_systems(args)


def _of_course(args: argparse.Namespace) -> int:
    size, batch, profile = args.size or SIZE, args.batch_size or 1, profiles.profile(args.profile)
    c, side, _ = latent_shape(profile.autoencoder, size)
    shapes = {"pixel": (3, size), "latent": (c, side)}
    factor = profile.autoencoder.downsample * profile.unet.multiple
    if size % factor:
        raise ValueError(f"--size {size}; the networks of profile {profile.name!r} need a multiple of {factor}")
    device = default_device()
    calls, lines = {}, {}
    for space, (channels, size) in shapes.items():
        network = profile.unet.for_channels(channels)
        flops = unet_flops(network, size, batch)
        with FakeTensorMode(), torch.device(device):  # shapes alone, by this device's kernels
            planned = activation_memory(
                UNet(network), torch.empty(batch, channels, size, size), torch.zeros(batch, dtype=torch.int64)
            )
        what = f"{batch} x {channels} x {size} x {size} in {space} space"
        check_room(f"a step's activations for {what}", planned.saved, "lower --size or --batch-size", device)
        model = seeded(0, UNet, network).to(device).eval()
        x = torch.randn(batch, channels, size, size, device=device)
        t = torch.zeros(batch, dtype=torch.int64, device=device)
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


def _of_systems(args: argparse.Namespace) -> int:
    for name in ("profile", "batch_size"):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} goes with the course's networks; leave it out with --system")
    chosen = list(SYSTEMS.values()) if args.system == "all" else [SYSTEMS[args.system]]
    chosen = [replace(each, size=args.size or each.size) for each in chosen]
    for each in chosen:
        each.latent()  # refuses a size before anything is measured
    precision = computed_in(device := default_device())
    rate = machine_rates(device, torch.bfloat16 if precision == "bf16" else torch.float32, seconds=4.0).best
    print(systems.as_text(chosen, {f"here, {precision}": rate}))
    print(f"\n{systems.NOTES}")
    return 0

"""How fast is the course's code? Our U-Net beside diffusers', and both beside what the machine can do.

In one run, by turns, after a warm-up, by medians with quartiles:

- a training step (forward, backward, AdamW) and an inference call of our `UNet` and of diffusers' `UNet2DModel`, of
  the same configuration and with the same weights;
- a large matrix product and a channels_last convolution, in the same rounds: the machine's limit;
- `ldm_course.diffusion.samplers.sample` and as many bare calls of the network: the sampler's overhead; and
  `sample` with a network that costs nothing: the sampler alone, which is the same overhead with less noise.

Run it on a quiet machine: `python benchmarks/speed.py`. What the columns mean is in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from pathlib import Path

import torch

from ldm_course.config import UNetConfig
from ldm_course.diffusion.samplers import sample, timesteps, x0_predictor
from ldm_course.diffusion.schedules import make_schedule
from ldm_course.lab.records import machine, make_record, save_record, typed_command
from ldm_course.measure.complexity import count_parameters, unet_flops
from ldm_course.measure.timing import rate_probes, ratio, time_together, training_step
from ldm_course.networks.interop import unet_to_diffusers
from ldm_course.networks.unet import UNet

TIE = 0.10  # two medians closer than this are not told apart
OVERHEAD = 0.03  # what the sampler may add to the network's own time

# name: (network, size, batch)
MODELS = {
    "pixel": (UNetConfig(block_out_channels=(32, 64, 96)), 32, 64),
    "latent": (UNetConfig(block_out_channels=(64, 128, 128)).for_channels(4), 8, 64),
    "ddpm": (
        UNetConfig(
            block_out_channels=(128, 256, 256, 256),
            layers_per_block=2,
            attention=(False, True, False, False),
            attention_head_dim=128,  # the paper has one head of 256: the same count
        ),
        32,
        8,
    ),
}


def batch_for(config, size, batch, device):
    """A batch, its times and its targets."""
    g = torch.Generator().manual_seed(0)
    x, target = (torch.randn(batch, config.in_channels, size, size, generator=g).to(device) for _ in range(2))
    return x, torch.randint(1000, (batch,), generator=g).to(device), target


def inference_call(net, x, t):
    @torch.no_grad()
    def call():
        return net(x, t)

    return call


def against_diffusers(name, options):
    """Both networks, training and inference, by turns with the machine's two probes."""
    config, size, batch = MODELS[name]
    batch = min(batch, options.max_batch or batch)
    torch.manual_seed(0)
    ours = UNet(config).to(options.device)
    theirs = unet_to_diffusers(ours).to(options.device)
    x, t, target = batch_for(config, size, batch, options.device)
    with torch.no_grad():
        difference = (ours(x, t) - theirs(x, t).sample).abs().max().item()
    if not difference < 1e-3:
        raise SystemExit(f"error: {name}: the two networks differ by {difference:.2g}; their speeds mean nothing")

    probes = rate_probes(options.device)
    found = {
        "parameters": count_parameters(ours),
        "input": [batch, config.in_channels, size, size],
        "max_difference": difference,
    }
    for mode in ("training", "inference"):
        for net in (ours, theirs):
            net.train(mode == "training")
        if mode == "training":
            calls = {"ours": training_step(ours, x, t, target), "diffusers": training_step(theirs, x, t, target)}
        else:
            calls = {"ours": inference_call(ours, x, t), "diffusers": inference_call(theirs, x, t)}
        calls |= {probe: fn for probe, (fn, _) in probes.items()}
        taken = time_together(calls, repeats=options.repeats, warmup=options.warmup, seconds=options.seconds)
        flops = unet_flops(config, size, batch, backward=mode == "training").total
        rates = {probe: count / taken[probe].median for probe, (_, count) in probes.items()}
        found[mode] = {
            "flops": flops,
            "ours": taken["ours"].summary(),
            "diffusers": taken["diffusers"].summary(),
            "times_faster": ratio(taken["diffusers"], taken["ours"]).summary(),
            "flop_per_s": {who: flops / taken[who].median for who in ("ours", "diffusers")},
            "machine_flop_per_s": rates,
            "share_of_matmul": flops / taken["ours"].median / rates["matmul"],
            "share_of_conv": flops / taken["ours"].median / rates["conv"],
            "diffusers_share_of_matmul": flops / taken["diffusers"].median / rates["matmul"],
        }
    return found


def sampler_overhead(name, batch, method, options):
    """`sample`, a loop of bare calls, and `sample` of a free network, with the same inputs and number of steps."""
    config, size, _ = MODELS[name]
    torch.manual_seed(0)
    net = UNet(config).to(options.device).eval()
    noise = batch_for(config, size, batch, options.device)[0]
    schedule = make_schedule("linear")
    rows = timesteps(schedule.T, options.steps)[:, None].repeat(1, batch).to(options.device)
    generator = torch.Generator(options.device).manual_seed(0)

    @torch.no_grad()
    def bare():
        for t in rows:
            net(noise, t)

    given = {"steps": options.steps, "method": method, "generator": generator}
    real, free = (
        x0_predictor(model, schedule, prediction="eps", clip_x0=name == "pixel") for model in (net, lambda xt, t: noise)
    )
    calls = {
        "sample": lambda: sample(real, noise, schedule, **given),
        "bare": bare,
        "alone": lambda: sample(free, noise, schedule, **given),
    }
    taken = time_together(calls, repeats=options.repeats, warmup=1, seconds=options.seconds)
    over = ratio(taken["sample"], taken["bare"]).summary()
    return {
        "model": name,
        "batch": batch,
        "method": method,
        "steps": options.steps,
        **{what: timing.summary() for what, timing in taken.items()},
        "overhead": {what: over[what] - 1 for what in ("median", "low", "high")},
        "alone_over_bare": ratio(taken["alone"], taken["bare"]).median,
    }


def spread(timing, scale=1e3, digits=1):
    median, low, high = (f"{timing[what] * scale:.{digits}f}" for what in ("median", "low", "high"))
    return f"{median} [{low}, {high}]"


def verdict(times_faster):
    if abs(times_faster - 1) <= TIE:
        return "tie"
    return "ours faster" if times_faster > 1 else "OURS SLOWER"


def show(cells, widths=(10, 10, 9, 22, 22, 20, 12, 9, 9)):
    print("  ".join(str(cell).ljust(width) for cell, width in zip(cells, widths)).rstrip(), flush=True)


def measure_networks(options):
    """The first table: each network in training and inference."""
    print("medians [quartiles]; times faster: diffusers' time over ours, by rounds; shares of the rates of this run\n")
    show(["model", "what", "GFLOP", "ours, ms", "diffusers, ms", "times faster", "verdict", "of matmul", "of conv"])
    results = {}
    for name in options.models:
        results[name] = found = against_diffusers(name, options)
        for mode in ("training", "inference"):
            row, rates = found[mode], found[mode]["machine_flop_per_s"]
            times = [spread(row["ours"]), spread(row["diffusers"]), spread(row["times_faster"], 1, 2)]
            shares = [f"{row[share]:.0%}" for share in ("share_of_matmul", "share_of_conv")]
            show([name, mode, f"{row['flops'] / 1e9:.1f}", *times, verdict(row["times_faster"]["median"]), *shares])
        print(
            f"  {name}: {found['parameters'] / 1e6:.2f} M parameters, input {tuple(found['input'])}; "
            f"matmul {rates['matmul'] / 1e9:.0f}, conv {rates['conv'] / 1e9:.0f} GFLOP/s"
        )
    return results


def measure_sampler(options):
    """The second table: each method on a pixel and on a latent network."""
    print(f"\nThe sampler's overhead in {options.steps} steps; at most {OVERHEAD:.0%} is wanted at batch 64\n")
    show(["model", "method", "batch", "sample, ms", "bare calls, ms", "overhead, %", "verdict", "alone"])
    results = []
    models = [name for name in ("pixel", "latent") if name in options.models]
    for name, batch, method in product(models, (1, options.max_batch or 64), ("ddim", "ddpm", "dpmpp")):
        row = sampler_overhead(name, batch, method, options)
        results.append(row)
        cells = [spread(row["sample"]), spread(row["bare"]), spread(row["overhead"], 100)]
        within = "within" if row["overhead"]["median"] <= OVERHEAD else "ABOVE"
        show([name, method, batch, *cells, within if batch > 1 else "-", f"{row['alone_over_bare']:.2%}"])
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="three rounds of small batches: shows that it runs")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="which networks")
    parser.add_argument("--repeats", type=int, default=25, help="rounds of each measurement (default 25)")
    parser.add_argument("--seconds", type=float, default=120, help="no round starts later than this (default 120)")
    parser.add_argument("--steps", type=int, default=25, help="sampling steps (default 25)")
    parser.add_argument("--threads", type=int, help="torch's threads (default: torch's choice)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", default="runs", help="folder for the record (default runs)")
    parser.add_argument("--name", help="the record's name (default speed-DEVICE, or speed-quick)")
    options = parser.parse_args()
    options.warmup, options.max_batch = 3, None
    if options.quick:
        options.repeats, options.seconds, options.steps = min(options.repeats, 3), 10, min(options.steps, 5)
        options.warmup, options.max_batch = 1, 4
    if options.threads:
        torch.set_num_threads(options.threads)

    began = time.perf_counter()
    had = machine(options.device)
    print(f"{had['gpu'] or had['cpu']}, {had['threads']} threads, torch {torch.__version__}, float32")
    results = {"networks": measure_networks(options), "sampler": measure_sampler(options)}
    record = make_record(
        options.name or ("speed-quick" if options.quick else f"speed-{torch.device(options.device).type}"),
        "speed",
        results,
        command=typed_command(),
        seconds=time.perf_counter() - began,
        data_source="standard normal noise",
        seed=0,
        config={**vars(options), "networks": {name: MODELS[name][0] for name in options.models}},
        device=options.device,
        packages=["diffusers"],
    )
    print(f"\nrecord: {save_record(record, Path(options.out)).name} in {Path(options.out).name}/")


if __name__ == "__main__":
    main()

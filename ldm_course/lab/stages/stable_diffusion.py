"""A stage: what one step of Stable Diffusion 1 takes in our code, and that diffusers' gives the same (chapter 8).

The weights are random: what a step costs does not depend on what a network has learnt.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ...config import AutoencoderConfig, TextConfig, UNetConfig
from ...device import computed_in
from ...diffusion.samplers import guided_prediction
from ...measure.complexity import count_flops, count_parameters, latent_shape
from ...measure.timing import peak_memory, time_together
from ...networks import interop
from ...networks.autoencoder import Autoencoder
from ...networks.text import TextEncoder
from ...networks.unet import UNet
from ...training.recipes import seeded
from .. import records
from .base import Run, Stage, matrix_rates, minutes

WIDTH = 320  # of the U-Net's first level, as published
GUIDANCE = 7.5  # what makes two passes of a step; any other scale costs the same
Call = Callable[..., Tensor]  # a network, and what it is given


def networks(width: int) -> tuple[UNetConfig, AutoencoderConfig, TextConfig]:
    """Stable Diffusion 1's U-Net, autoencoder and text encoder, 860, 84 and 123 million parameters at `width` 320; at
    another, a multiple of 40, all that is as wide grows or shrinks alike. The text encoder is CLIP ViT-L's."""
    unet = UNetConfig(
        in_channels=4,
        out_channels=4,
        block_out_channels=(width, 2 * width, 4 * width, 4 * width),
        layers_per_block=2,
        attention=(True, True, True, False),
        norm_num_groups=width // 10,
        cross_attention_dim=12 * width // 5,
        attention_heads=(8, 8, 8, 8),
    )
    base = 2 * width // 5
    first = AutoencoderConfig(
        block_out_channels=(base, 2 * base, 4 * base, 4 * base), layers_per_block=2, norm_num_groups=width // 10
    )
    text = TextConfig(
        vocab_size=49408,
        length=77,
        width=12 * width // 5,
        layers=12,
        heads=12,
        causal=True,
        activation="quick_gelu",
    )
    return unet, first, text


def stable_diffusion_step(run: Run) -> dict:
    """One pass of the U-Net, unguided ("step") and guided, one "decode", one "encode", and one prompt's "text".

    Each alone on one picture: FLOPs by our counter; seconds and the peak of memory beyond the weights' in `precision`,
    the weights' too; and `difference`, the largest absolute difference to what diffusers' and transformers' networks
    make of the same weights and inputs in float32, over their largest value, None where those are not installed. The
    result has the fields of a row of the stage `cost`. To be run alone on the machine.
    """
    width, side = run.scale.published_width, run.scale.published_side
    unet, first, text = networks(width)
    shape = latent_shape(first, side)
    results = {
        "width": width,
        "true_size": width == WIDTH,
        "side": side,
        "f": first.downsample,
        "shape": shape,
        "tokens": text.length,
        "networks": {"unet": unet, "autoencoder": first, "text": text},
        "precision": computed_in(run.device),
        "compared_with": {name: records.versions((name,))[name] for name in ("diffusers", "transformers")},
        "matmul_flop_per_s": matrix_rates(run.device),
        "parameters": {},
    }
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(text.vocab_size, (1, text.length), generator=draw)
    x, t = torch.randn(1, *shape, generator=draw), torch.tensor([500])
    context, nothing = (torch.randn(1, text.length, text.width, generator=draw) for _ in range(2))
    picture = torch.rand(1, first.in_channels, side, side, generator=draw) * 2 - 1

    def guided(model: nn.Module, *inputs: Tensor) -> Tensor:
        return guided_prediction(model, *inputs, guidance_scale=GUIDANCE)

    parts = {
        "text": (TextEncoder, text, {"text": (nn.Module.__call__, (tokens,))}),
        "unet": (
            UNet,
            unet,
            {"step": (nn.Module.__call__, (x, t, context)), "guided": (guided, (x, t, context, nothing))},
        ),
        "autoencoder": (
            Autoencoder,
            first,
            {"decode": (Autoencoder.decode, (x,)), "encode": (lambda model, x: model.encode(x).z_mean, (picture,))},
        ),
    }
    for name, (cls, config, calls) in parts.items():
        model = seeded(0, cls, config).eval().requires_grad_(False)
        results["parameters"][name] = count_parameters(model)
        for call, found in _costs(run, model, calls).items():
            results[call] = found
            gap = found["difference"]
            said = "" if gap is None else f", differs from diffusers' by {gap:.1e}"
            print(f"  {call}: {found['seconds_alone']:.3g} s{said}", flush=True)
        del model
        gc.collect()
    return results


def _costs(run: Run, model: nn.Module, calls: Mapping[str, tuple[Call, tuple[Tensor, ...]]]) -> dict[str, dict]:
    """What each call of a network costs; the network is left in the run's precision, on its device."""
    with torch.device("meta"), torch.no_grad():
        empty = type(model)(model.config)
        flops = {
            name: count_flops(call, empty, *(value.to("meta") for value in inputs)).total
            for name, (call, inputs) in calls.items()
        }
    model.to(run.device)
    differs = _differences(run, model, calls)
    dtype = torch.bfloat16 if computed_in(run.device) == "bf16" else torch.float32
    model.to(dtype)

    def ready(call: Call, inputs: tuple[Tensor, ...]) -> Callable[[], Tensor]:
        placed = tuple(value.to(run.device, dtype if value.is_floating_point() else None) for value in inputs)
        return lambda: call(model, *placed)

    with torch.inference_mode():
        functions = {name: ready(*call) for name, call in calls.items()}
        peaks = {name: peak_memory(fn, run.device) for name, fn in functions.items()}  # and warms each of them up
        taken = time_together(functions, repeats=7, warmup=0, seconds=run.scale.call_seconds / 8)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return {
        name: {
            "batch": 1,
            "flops": flops[name],
            "seconds_alone": timing.median,
            "spread": [timing.low, timing.high],
            "repeats": timing.repeats,
            "flop_per_s": flops[name] / timing.median,
            "weight_bytes": weights,
            "peak_bytes": peaks[name],
            "difference": differs.get(name),
        }
        for name, timing in taken.items()
    }


# What theirs makes of the same inputs, by call. A guided step is two of theirs, and nothing new.
_THEIRS = {
    "text": lambda model, tokens: model(input_ids=tokens).last_hidden_state,
    "step": lambda model, x, t, context: model(x, t, encoder_hidden_states=context).sample,
    "decode": lambda model, z: model.decode(z).sample,
    "encode": lambda model, x: model.encode(x).latent_dist.mean,
}
_TO_THEIRS = {
    TextEncoder: interop.text_to_transformers,
    UNet: interop.unet_to_diffusers,
    Autoencoder: interop.autoencoder_to_diffusers,
}


@torch.inference_mode()
def _differences(run: Run, model: nn.Module, calls: Mapping[str, tuple[Call, tuple[Tensor, ...]]]) -> dict[str, float]:
    """By call, in full float32, also where a GPU would round to less."""
    try:
        theirs = _TO_THEIRS[type(model)](model).to(run.device)
    except ImportError:
        return {}
    found = {}
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for name, (call, inputs) in calls.items():
            if name in _THEIRS:
                placed = tuple(value.to(run.device) for value in inputs)
                expected = _THEIRS[name](theirs, *placed)
                found[name] = ((call(model, *placed) - expected).abs().max() / expected.abs().max()).item()
    return found


STAGES = (
    Stage(
        "stable-diffusion-step",
        "a step of Stable Diffusion 1, its decoder and encoder, at their true sizes with random weights",
        stable_diffusion_step,
        minutes(0.5, 4),
        shows={"s a pass": "step.seconds_alone", "s a decoding": "decode.seconds_alone"},
    ),
)

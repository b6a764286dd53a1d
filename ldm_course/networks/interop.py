"""Weights to and from diffusers: what is trained here loads there, and the published autoencoders load here.

Needs the package `diffusers`, and for text encoders `transformers`. Our parameters have their names, but where a list
of a layer and a dropout is one layer here: `to_out.0` is `to_out`, `ff.net.0.proj` and `ff.net.2` are `ff.proj` and
`ff.out`.
"""

from __future__ import annotations

import re

from torch import Tensor

from ..config import AutoencoderConfig, UNetConfig
from .autoencoder import Autoencoder
from .unet import UNet

# The names that attention had in diffusers before 0.15, and in Stable Diffusion's published autoencoder files.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out"}


_THEIR_NAMES = {".to_out.": ".to_out.0.", ".ff.proj.": ".ff.net.0.proj.", ".ff.out.": ".ff.net.2."}


def _to_theirs(state: dict[str, Tensor]) -> dict[str, Tensor]:
    def rename(key: str) -> str:
        for ours, theirs in _THEIR_NAMES.items():
            key = key.replace(ours, theirs)
        return key

    return {rename(k): v for k, v in state.items()}


def _to_ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    def rename(key: str) -> str:
        for old, new in _OLD_NAMES.items():
            key = re.sub(rf"(attentions\.\d+)\.{old}\.", rf"\1.{new}.", key)
        for ours, theirs in _THEIR_NAMES.items():
            key = key.replace(theirs, ours)
        return key

    return {rename(k): v for k, v in state.items()}


def unet_to_diffusers(model: UNet):
    """Our U-Net with the same weights as a `diffusers.UNet2DModel`, or as a `UNet2DConditionModel` where it reads a
    context; in evaluation mode."""
    from diffusers import UNet2DConditionModel, UNet2DModel

    c = model.config
    common = {
        "in_channels": c.in_channels,
        "out_channels": c.out_channels,
        "block_out_channels": c.block_out_channels,
        "layers_per_block": c.layers_per_block,
        "norm_num_groups": c.norm_num_groups,
    }
    if c.cross_attention_dim is None:
        if c.attention_heads is not None:
            raise ValueError(
                "a UNet2DModel has heads of one width; give attention_head_dim in place of attention_heads"
            )
        theirs = UNet2DModel(
            **common,
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in c.attention),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(c.attention)),
            attention_head_dim=c.attention_head_dim,
            num_class_embeds=None if c.num_classes is None else c.num_classes + 1,
        )
    else:
        theirs = UNet2DConditionModel(
            **common,
            down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in c.attention),
            up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(c.attention)),
            cross_attention_dim=c.cross_attention_dim,
            # what they call so, and document as the width of a head, is the number of heads
            attention_head_dim=tuple(c.heads(level) for level in range(len(c.block_out_channels))),
            use_linear_projection=True,
        )
    theirs.load_state_dict(_to_theirs(model.state_dict()))
    return theirs.eval()


_EXPECTED = {  # of both their U-Nets: all that ours can be
    "center_input_sample": False,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "resnet_time_scale_shift": "default",
    "downsample_padding": 1,
    "act_fn": "silu",
    "norm_eps": 1e-5,
    "mid_block_scale_factor": 1,
}
_EXPECTED_2D = {
    "time_embedding_type": "positional",
    "downsample_type": "conv",
    "upsample_type": "conv",
    "add_attention": True,
}
_EXPECTED_CONDITION = {
    "time_embedding_type": "positional",
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "only_cross_attention": False,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "class_embed_type": None,
    "num_class_embeds": None,
    "addition_embed_type": None,
    "transformer_layers_per_block": 1,
    "num_attention_heads": None,
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "time_cond_proj_dim": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_dim": None,
}


def unet_from_diffusers(theirs) -> UNet:
    """A `diffusers.UNet2DModel` or `UNet2DConditionModel`, such as Stable Diffusion 1's or 2's, as our U-Net.

    ValueError: it has parts that ours does not.
    """
    c, name = theirs.config, type(theirs).__name__
    reads = "cross_attention_dim" in c
    for key, value in (_EXPECTED | (_EXPECTED_CONDITION if reads else _EXPECTED_2D)).items():
        if c.get(key, value) != value:
            raise ValueError(f"this {name} has {key}={c[key]!r}; ours has only {value!r}")
    known = {"DownBlock2D", "CrossAttnDownBlock2D" if reads else "AttnDownBlock2D"}
    if not set(c.down_block_types) <= known:
        raise ValueError(f"this {name} has {c.down_block_types}; expected only {sorted(known)}")
    attention = tuple("Attn" in block for block in c.down_block_types)
    if tuple("Attn" in block for block in reversed(c.up_block_types)) != attention:
        raise ValueError(f"this {name} attends at other levels on the way up than on the way down")
    heads = c.attention_head_dim
    condition = (
        {
            "cross_attention_dim": c.cross_attention_dim,
            "attention_heads": tuple(heads) if isinstance(heads, (list, tuple)) else (heads,) * len(attention),
        }
        if reads
        else {
            "attention_head_dim": heads,
            "num_classes": None if c.num_class_embeds is None else c.num_class_embeds - 1,
        }
    )
    config = UNetConfig(
        in_channels=c.in_channels,
        out_channels=c.out_channels,
        block_out_channels=tuple(c.block_out_channels),
        layers_per_block=c.layers_per_block,
        attention=attention,
        norm_num_groups=c.norm_num_groups,
        **condition,
    )
    model = UNet(config)
    # where they project by 1x1 convolutions, the same by linear layers
    state = {
        k: v.flatten(1) if re.search(r"\.proj_(in|out)\.weight$", k) else v for k, v in theirs.state_dict().items()
    }
    model.load_state_dict(_to_ours(state))
    return model.eval()


def autoencoder_to_diffusers(model: Autoencoder):
    """Our autoencoder as a `diffusers.AutoencoderKL` with the same weights; `latent_scale` is its `scaling_factor`."""
    from diffusers import AutoencoderKL

    c = model.config
    levels = len(c.block_out_channels)
    theirs = AutoencoderKL(
        in_channels=c.in_channels,
        out_channels=c.in_channels,
        latent_channels=c.latent_channels,
        block_out_channels=c.block_out_channels,
        layers_per_block=c.layers_per_block,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        norm_num_groups=c.norm_num_groups,
        mid_block_add_attention=c.mid_attention,
        scaling_factor=model.latent_scale.item(),
    )
    state = {k: v for k, v in model.state_dict().items() if k != "latent_scale"}
    theirs.load_state_dict(_to_theirs(state))
    return theirs.eval()


def autoencoder_from_diffusers(theirs) -> Autoencoder:
    """A `diffusers.AutoencoderKL`, such as Stable Diffusion's, as our autoencoder."""
    c = theirs.config
    if c.in_channels != c.out_channels or not (c.use_quant_conv and c.use_post_quant_conv):
        raise ValueError(
            "this AutoencoderKL has no quant_conv, or other output than input channels; ours has both alike"
        )
    config = AutoencoderConfig(
        in_channels=c.in_channels,
        latent_channels=c.latent_channels,
        block_out_channels=tuple(c.block_out_channels),
        layers_per_block=c.layers_per_block,
        norm_num_groups=c.norm_num_groups,
        mid_attention=c.mid_block_add_attention,
    )
    return autoencoder_from_state(config, theirs.state_dict(), c.scaling_factor)


def autoencoder_from_state(config: AutoencoderConfig, state: dict[str, Tensor], latent_scale: float) -> Autoencoder:
    """Our autoencoder from a state dict of diffusers, old or new names, such as the published files hold."""
    model = Autoencoder(config)
    state = {
        k: v.reshape(v.shape[:2]) if ".mid_block.attentions." in k and v.ndim == 4 else v
        for k, v in _to_ours(state).items()
    }
    model.load_state_dict({**state, "latent_scale": model.latent_scale.new_tensor(latent_scale)})
    return model.eval()

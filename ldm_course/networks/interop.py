"""Weights to and from diffusers: what is trained here loads there, and the published autoencoders load here.

Needs the package `diffusers`. Our parameters have diffusers' names, but for one: its attention output is a list of
a linear layer and a dropout (`to_out.0`), ours the linear layer alone (`to_out`).
"""

from __future__ import annotations

import re

from torch import Tensor

from ..config import AutoencoderConfig, UNetConfig
from .autoencoder import Autoencoder
from .unet import UNet

# The names that attention had in diffusers before 0.15, and in Stable Diffusion's published autoencoder files.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out"}


def _to_theirs(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {re.sub(r"\.to_out\.(weight|bias)$", r".to_out.0.\1", k): v for k, v in state.items()}


def _to_ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    def rename(key: str) -> str:
        for old, new in _OLD_NAMES.items():
            key = re.sub(rf"(attentions\.\d+)\.{old}\.", rf"\1.{new}.", key)
        return re.sub(r"\.to_out\.0\.", ".to_out.", key)

    return {rename(k): v for k, v in state.items()}


def unet_to_diffusers(model: UNet):
    """Our U-Net as a `diffusers.UNet2DModel` with the same weights, in evaluation mode."""
    from diffusers import UNet2DModel

    c = model.config
    theirs = UNet2DModel(
        in_channels=c.in_channels,
        out_channels=c.out_channels,
        block_out_channels=c.block_out_channels,
        layers_per_block=c.layers_per_block,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in c.attention),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(c.attention)),
        attention_head_dim=c.attention_head_dim,
        norm_num_groups=c.norm_num_groups,
        num_class_embeds=None if c.num_classes is None else c.num_classes + 1,
    )
    theirs.load_state_dict(_to_theirs(model.state_dict()))
    return theirs.eval()


def unet_from_diffusers(theirs) -> UNet:
    """A `diffusers.UNet2DModel` as our U-Net; ValueError where it has parts that ours does not."""
    c = theirs.config
    known = {"DownBlock2D", "AttnDownBlock2D"}
    expected = {
        "center_input_sample": False,
        "time_embedding_type": "positional",
        "freq_shift": 0,
        "flip_sin_to_cos": True,
        "resnet_time_scale_shift": "default",
        "downsample_type": "conv",
        "upsample_type": "conv",
        "downsample_padding": 1,
        "act_fn": "silu",
        "add_attention": True,
        "norm_eps": 1e-5,
        "mid_block_scale_factor": 1,
    }
    for key, value in expected.items():
        if c[key] != value:
            raise ValueError(f"this UNet2DModel has {key}={c[key]!r}; ours has only {value!r}")
    if not set(c.down_block_types) <= known:
        raise ValueError(f"this UNet2DModel has {c.down_block_types}; expected only {sorted(known)}")
    attention = tuple("Attn" in name for name in c.down_block_types)
    if tuple("Attn" in name for name in reversed(c.up_block_types)) != attention:
        raise ValueError("this UNet2DModel attends at other levels on the way up than on the way down")
    config = UNetConfig(
        in_channels=c.in_channels,
        out_channels=c.out_channels,
        block_out_channels=tuple(c.block_out_channels),
        layers_per_block=c.layers_per_block,
        attention=attention,
        attention_head_dim=c.attention_head_dim,
        norm_num_groups=c.norm_num_groups,
        num_classes=None if c.num_class_embeds is None else c.num_class_embeds - 1,
    )
    model = UNet(config)
    model.load_state_dict(_to_ours(theirs.state_dict()))
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

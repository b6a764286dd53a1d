"""Configurations of diffusers and transformers in the terms of ours, and what ours cannot be (chapter 8).

Weights say nothing of activations, scales and heads: in a network with others they give rubbish, and no error. So each
entry of a `config.json` is read here, or fixed (it must have the one value that ours has), or free (it changes nothing
that is computed), and any other is refused by its name, unless it is null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import AutoencoderConfig, TextConfig, UNetConfig

# what may stand for a value of a kind: JSON has no tuples, and writes 1.0 as 1
_LIKE = {bool: bool, int: int, float: (int, float), str: str, tuple: (list, tuple)}


@dataclass(frozen=True)
class Known:
    """What we know of the entries of one class of theirs: those that are `read`, with the value that it takes where a
    file has none; those that are `fixed`; those that are `free`."""

    name: str
    read: dict[str, Any]
    fixed: dict[str, Any]
    free: frozenset[str] = frozenset()

    def __contains__(self, key: str) -> bool:
        return key in self.read or key in self.fixed or key in self.free

    def values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The entries that are read, lists as tuples. ValueError: the configuration is another class's, or has an
        entry that ours cannot have."""
        if given.get("_class_name", self.name) != self.name:
            raise ValueError(f"this is a configuration of {given['_class_name']}; expected one of {self.name}")
        for key, value in given.items():
            if key in self.fixed and value != self.fixed[key]:
                raise ValueError(f"this {self.name} has {key}={value!r}; ours has only {self.fixed[key]!r}")
            usual = self.read.get(key)
            if usual is not None and not isinstance(value, _LIKE[type(usual)]):
                raise ValueError(f"this {self.name} has {key}={value!r}; expected something like {usual!r}")
        for key, value in given.items():
            if key not in self and not key.startswith("_") and value is not None:
                raise ValueError(f"this {self.name} has {key}={value!r}, an entry that ours does not know")
        found = {key: given.get(key, default) for key, default in self.read.items()}
        return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}


AUTOENCODER_KL = Known(
    "AutoencoderKL",
    read={
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "down_block_types": ("DownEncoderBlock2D",),
        "up_block_types": ("UpDecoderBlock2D",),
        "block_out_channels": (64,),
        "layers_per_block": 1,
        "norm_num_groups": 32,
        "mid_block_add_attention": True,
        "scaling_factor": 0.18215,
    },
    fixed={
        "act_fn": "silu",
        "shift_factor": None,
        "latents_mean": None,
        "latents_std": None,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
    },
    free=frozenset({"sample_size", "force_upcast", "use_tiling", "use_slicing"}),
)

VQ_MODEL = Known(
    "VQModel",
    read={
        **AUTOENCODER_KL.read,
        "latent_channels": 3,
        "num_vq_embeddings": 256,
        "vq_embed_dim": None,
    },
    fixed={"act_fn": "silu", "norm_type": "group", "lookup_from_codebook": False},
    free=frozenset({"sample_size", "force_upcast"}),
)

_BOTH_UNETS = {
    "center_input_sample": False,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "resnet_time_scale_shift": "default",
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "dropout": 0.0,
    "act_fn": "silu",
    "norm_eps": 1e-5,
    "class_embed_type": None,
}
UNET_2D = Known(
    "UNet2DModel",
    read={
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (224, 448, 672, 896),
        "layers_per_block": 2,
        "attention_head_dim": 8,
        "norm_num_groups": 32,
        "num_class_embeds": None,
    },
    fixed={
        **_BOTH_UNETS,
        "mid_block_type": "UNetMidBlock2D",
        "downsample_type": "conv",
        "upsample_type": "conv",
        "attn_norm_num_groups": None,
        "add_attention": True,
    },
    free=frozenset({"sample_size", "num_train_timesteps"}),
)
UNET_2D_CONDITION = Known(
    "UNet2DConditionModel",
    read={
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "cross_attention_dim": 1280,
        "attention_head_dim": 8,  # the number of heads, whatever it is called; one, or one for each level
        "norm_num_groups": 32,
    },
    fixed={
        **_BOTH_UNETS,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "only_cross_attention": False,
        "mid_block_only_cross_attention": None,
        "dual_cross_attention": False,
        "cross_attention_norm": None,
        "transformer_layers_per_block": 1,
        "reverse_transformer_layers_per_block": None,
        "num_attention_heads": None,
        "attention_type": "default",
        "encoder_hid_dim": None,
        "encoder_hid_dim_type": None,
        "num_class_embeds": None,
        "class_embeddings_concat": False,
        "addition_embed_type": None,
        "addition_time_embed_dim": None,
        "projection_class_embeddings_input_dim": None,
        "resnet_skip_time_act": False,
        "resnet_out_scale_factor": 1.0,
        "time_embedding_act_fn": None,
        "timestep_post_act": None,
        "time_cond_proj_dim": None,
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
    },
    # how the projections are stored, in what precision attention runs, and heads of what `addition_embed_type` adds
    free=frozenset({"sample_size", "use_linear_projection", "upcast_attention", "addition_embed_type_num_heads"}),
)
CLIP_TEXT = Known(
    "CLIPTextModel",
    read={
        "vocab_size": 49408,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
    },
    fixed={"model_type": "clip_text_model", "layer_norm_eps": 1e-5, "attention_dropout": 0.0, "dropout": 0.0},
    # its name and version, how it was initialised, what concerns tokens, and the pooled output, which ours has not
    free=frozenset(
        {"architectures", "torch_dtype", "dtype", "transformers_version", "initializer_factor", "initializer_range"}
        | {"bos_token_id", "eos_token_id", "pad_token_id", "projection_dim"}
    ),
)
DIT = Known(
    "DiTTransformer2DModel",
    read={
        "num_attention_heads": 16,
        "attention_head_dim": 72,
        "in_channels": 4,
        "out_channels": None,
        "num_layers": 28,
        "patch_size": 2,
        "num_embeds_ada_norm": 1000,
    },
    fixed={
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-5,
        "dropout": 0.0,
    },
    free=frozenset({"sample_size", "upcast_attention", "norm_num_groups"}),
)

# What one file of weights has without a configuration: the autoencoder of Stable Diffusion 1 and 2, and of SDXL.
STABLE_DIFFUSION_AUTOENCODER = AutoencoderConfig(
    block_out_channels=(128, 256, 512, 512), layers_per_block=2, norm_num_groups=32
)


def autoencoder_config(given: Mapping[str, Any]) -> tuple[AutoencoderConfig, float]:
    """An `AutoencoderKL`'s or a `VQModel`'s configuration as ours, and its latents' scale. ValueError: ours cannot be
    that."""
    known = known_autoencoder(given)
    found = known.values(given)
    widths = found["block_out_channels"]
    for key in ("down_block_types", "up_block_types"):
        if found[key] != known.read[key] * len(widths):
            raise ValueError(
                f"this {known.name} has {key}={found[key]}; expected {len(widths)} times {known.read[key][0]}"
            )
    if found["in_channels"] != found["out_channels"]:
        raise ValueError(
            f"this {known.name} has out_channels={found['out_channels']} and in_channels={found['in_channels']}; "
            f"ours has both alike"
        )
    if found.get("vq_embed_dim") not in (None, found["latent_channels"]):
        raise ValueError(
            f"this VQModel has vq_embed_dim={found['vq_embed_dim']} and latent_channels={found['latent_channels']}; "
            f"ours has both alike"
        )
    config = AutoencoderConfig(
        in_channels=found["in_channels"],
        latent_channels=found["latent_channels"],
        block_out_channels=widths,
        layers_per_block=found["layers_per_block"],
        norm_num_groups=found["norm_num_groups"],
        mid_attention=found["mid_block_add_attention"],
        codes=found.get("num_vq_embeddings"),
    )
    return config, float(found["scaling_factor"])


def known_autoencoder(given: Mapping[str, Any]) -> Known:
    """Which of diffusers' two autoencoders a configuration is of: one with a codebook, or one without."""
    coded = given.get("_class_name") == VQ_MODEL.name or "num_vq_embeddings" in given
    return VQ_MODEL if coded else AUTOENCODER_KL


def known_unet(given: Mapping[str, Any]) -> Known:
    """Which of diffusers' two U-Nets a configuration is of: one with a context, or one without."""
    reads = given.get("_class_name") == UNET_2D_CONDITION.name or "cross_attention_dim" in given
    return UNET_2D_CONDITION if reads else UNET_2D


def unet_config(given: Mapping[str, Any]) -> UNetConfig:
    """A `UNet2DModel`'s or `UNet2DConditionModel`'s configuration as ours. ValueError: ours cannot be that."""
    known = known_unet(given)
    reads = known is UNET_2D_CONDITION
    heads = given.get("attention_head_dim")
    if reads and isinstance(heads, (list, tuple)):
        given = {key: value for key, value in given.items() if key != "attention_head_dim"}
    found = known.values(given)
    down, up, widths = found["down_block_types"], found["up_block_types"], found["block_out_channels"]
    kinds = ("DownBlock2D", "CrossAttnDownBlock2D" if reads else "AttnDownBlock2D")
    if not set(down) <= set(kinds):
        raise ValueError(f"this {known.name} has down_block_types={down}; expected only {', '.join(kinds)}")
    mirrored = tuple(kind.replace("Down", "Up") for kind in reversed(down))
    if up != mirrored:
        raise ValueError(f"this {known.name} has up_block_types={up}; expected {mirrored}, as on the way down")
    if reads:
        each = (found["attention_head_dim"],) * len(widths)
        condition = {
            "cross_attention_dim": found["cross_attention_dim"],
            "attention_heads": tuple(heads) if isinstance(heads, (list, tuple)) else each,
        }
    else:
        classes = found["num_class_embeds"]
        condition = {
            "attention_head_dim": found["attention_head_dim"],
            "num_classes": None if classes is None else classes - 1,  # the last one is "no label"
        }
    return UNetConfig(
        in_channels=found["in_channels"],
        out_channels=found["out_channels"],
        block_out_channels=widths,
        layers_per_block=found["layers_per_block"],
        attention=tuple("Attn" in kind for kind in down),
        norm_num_groups=found["norm_num_groups"],
        **condition,
    )


def text_config(given: Mapping[str, Any]) -> TextConfig:
    """The configuration of a text tower of CLIP's, as transformers has it, as ours. ValueError: ours cannot be that."""
    found = CLIP_TEXT.values({key: value for key, value in given.items() if key != "_class_name"})
    if found["intermediate_size"] != 4 * found["hidden_size"]:
        raise ValueError(
            f"this CLIPTextModel has intermediate_size={found['intermediate_size']}; "
            f"ours has only 4 * hidden_size, {4 * found['hidden_size']}"
        )
    return TextConfig(
        vocab_size=found["vocab_size"],
        length=found["max_position_embeddings"],
        width=found["hidden_size"],
        layers=found["num_hidden_layers"],
        heads=found["num_attention_heads"],
        causal=True,
        activation=found["hidden_act"],
    )

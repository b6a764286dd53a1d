"""Weights to and from diffusers and transformers: what is trained here loads there, and what is published loads here
(chapter 8).

Our parameters have diffusers' names, but where a list of a layer and a dropout is one layer here: `to_out.0` is
`to_out`, `ff.net.0.proj` and `ff.net.2` are `ff.proj` and `ff.out`. The text encoder's have transformers' names, less
the modules that hold nothing but others. `foreign` reads configurations, and says what ours cannot be; `hub` reads
files. Only what makes an object of theirs needs their package.
"""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import Positive, check
from ..config import AutoencoderConfig, DiTConfig, TextConfig, UNetConfig
from . import foreign
from .autoencoder import Autoencoder
from .dit import DiT
from .text import TextEncoder
from .unet import UNet
from .weights import State, filled

# ------------------------------------------------------------------------------------ diffusers' names and objects


_THEIR_NAMES = {".to_out.": ".to_out.0.", ".ff.proj.": ".ff.net.0.proj.", ".ff.out.": ".ff.net.2."}
_POOLED = ("pooled_embedding.", "class_embedding.")

# The names that attention had in diffusers before 0.15, and in Stable Diffusion's published autoencoder files.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out"}


def _to_theirs(state: State) -> dict[str, Tensor]:
    def rename(key: str) -> str:
        for ours, theirs in _THEIR_NAMES.items():
            key = key.replace(ours, theirs)
        return key.replace(*_POOLED)

    return {rename(k): v for k, v in state.items()}


def _to_ours(state: State) -> dict[str, Tensor]:
    def rename(key: str) -> str:
        for old, new in _OLD_NAMES.items():
            key = re.sub(rf"(attentions\.\d+)\.{old}\.", rf"\1.{new}.", key)
        for ours, theirs in _THEIR_NAMES.items():
            key = key.replace(theirs, ours)
        return key

    return {rename(k): v for k, v in state.items()}


def _config_of(theirs, known: foreign.Known) -> dict[str, Any]:
    """The configuration of a network of diffusers'. An entry that is newer than what we know, and was left at its
    default, is left out: with it, older files too must give the network that they always gave."""
    defaults = {name: p.default for name, p in inspect.signature(type(theirs).__init__).parameters.items()}
    config = {k: v for k, v in theirs.config.items() if k in known or k not in defaults or v != defaults[k]}
    return {**config, "_class_name": type(theirs).__name__}


def _copied(theirs: nn.Module) -> dict[str, Tensor]:
    """Its weights, so that a training of the one does not change the other."""
    return {name: value.clone() for name, value in theirs.state_dict().items()}


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
            # our mean of the context is what their network takes as class_labels
            class_embed_type="simple_projection" if c.pooled else None,
            projection_class_embeddings_input_dim=c.cross_attention_dim if c.pooled else None,
        )
    theirs.load_state_dict(_to_theirs(model.state_dict()))
    return theirs.eval()


def unet_from_diffusers(theirs) -> UNet:
    """A `diffusers.UNet2DModel` or `UNet2DConditionModel`, such as Stable Diffusion 1's or 2's, as our U-Net.

    ValueError: it has parts that ours does not.
    """
    config = _config_of(theirs, foreign.known_unet({"_class_name": type(theirs).__name__}))
    return unet_from_state(foreign.unet_config(config), _copied(theirs))


def unet_from_state(config: UNetConfig, state: State) -> UNet:
    """Our U-Net from a state dict of diffusers. ValueError: it does not fit."""
    # where they project by 1x1 convolutions, the same by linear layers
    flat = {k: v.flatten(1) if re.search(r"\.proj_(in|out)\.weight$", k) else v for k, v in state.items()}
    return filled(UNet, config, _to_ours(flat))


# Of a DiT of theirs: each block has an embedding of time and class of its own, ours has one for all.
_THEIR_EMBEDDING = "transformer_blocks.{}.norm1.emb."
_EMBEDDINGS = {"time_embedding.": "timestep_embedder.", "class_embedding.": "class_embedder.embedding_table."}


def dit_to_diffusers(model: DiT, size: int):
    """Our DiT, for inputs of `size` a side, as a `diffusers.DiTTransformer2DModel` with the same weights, in evaluation
    mode. ValueError: it has no classes, as theirs always has."""
    from diffusers import DiTTransformer2DModel

    c = model.config
    if c.num_classes is None:
        raise ValueError("a DiTTransformer2DModel has classes, and this DiT has none; build it with num_classes")
    theirs = DiTTransformer2DModel(
        num_attention_heads=c.heads,
        attention_head_dim=c.width // c.heads,
        in_channels=c.in_channels,
        out_channels=c.out_channels,
        num_layers=c.layers,
        sample_size=size,
        patch_size=c.patch_size,
        num_embeds_ada_norm=c.num_classes,
        **foreign.DIT.fixed,
    )
    state = _to_theirs(model.state_dict())
    for ours, name in _EMBEDDINGS.items():
        for key in [k for k in state if k.startswith(ours)]:
            value = state.pop(key)
            state |= {_THEIR_EMBEDDING.format(i) + name + key.removeprefix(ours): value for i in range(c.layers)}
    theirs.load_state_dict(state)
    return theirs.eval()


def dit_from_diffusers(theirs) -> DiT:
    """A `diffusers.DiTTransformer2DModel`, such as the published DiT-XL/2, as our DiT, for inputs of any size.

    ValueError: it has parts that ours does not, or blocks whose embeddings of time and class differ.
    """
    c = foreign.DIT.values(_config_of(theirs, foreign.DIT))
    config = DiTConfig(
        in_channels=c["in_channels"],
        out_channels=theirs.out_channels,
        patch_size=c["patch_size"],
        width=theirs.inner_dim,
        layers=c["num_layers"],
        heads=c["num_attention_heads"],
        num_classes=c["num_embeds_ada_norm"],
    )
    state = _copied(theirs)
    for ours, name in _EMBEDDINGS.items():
        first = _THEIR_EMBEDDING.format(0) + name
        for key in [k.removeprefix(first) for k in state if k.startswith(first)]:
            each = [state.pop(_THEIR_EMBEDDING.format(i) + name + key) for i in range(config.layers)]
            if not all(torch.equal(value, each[0]) for value in each):
                raise ValueError("the blocks' embeddings of time and class differ; our DiT has one for all")
            state[ours + key] = each[0]
    return filled(DiT, config, _to_ours(state))


def autoencoder_to_diffusers(model: Autoencoder):
    """Our autoencoder as a `diffusers.AutoencoderKL`, or with a codebook as a `VQModel`, with the same weights;
    `latent_scale` is its `scaling_factor`."""
    from diffusers import AutoencoderKL, VQModel

    c = model.config
    levels = len(c.block_out_channels)
    cls, coded = (AutoencoderKL, {}) if c.codes is None else (VQModel, {"num_vq_embeddings": c.codes})
    theirs = cls(
        **coded,
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
    """A `diffusers.AutoencoderKL`, such as Stable Diffusion's, or a `VQModel`, as our autoencoder. ValueError: ours
    cannot be that."""
    known = foreign.known_autoencoder({"_class_name": type(theirs).__name__})
    config, latent_scale = foreign.autoencoder_config(_config_of(theirs, known))
    return autoencoder_from_state(config, _copied(theirs), latent_scale)


def autoencoder_from_state(config: AutoencoderConfig, state: State, latent_scale: float) -> Autoencoder:
    """Our autoencoder from a state dict of diffusers, old or new names, or of the latent diffusion repository, such as
    the published files hold. ValueError: it does not fit."""
    state = _to_ours(_from_ldm(state))
    state = {
        k: v.reshape(v.shape[:2]) if ".mid_block.attentions." in k and v.ndim == 4 else v for k, v in state.items()
    }
    scale = torch.tensor(check(Positive, latent_scale, "latent_scale"), dtype=torch.float32)
    return filled(Autoencoder, config, {**state, "latent_scale": scale})


# The autoencoder in the names of CompVis/latent-diffusion, to which one-file checkpoints keep.
_LDM_NAMES = {
    r"\.mid\.attn_1\.proj_out\.": ".mid_block.attentions.0.to_out.",
    r"\.mid\.attn_1\.norm\.": ".mid_block.attentions.0.group_norm.",
    r"\.mid\.attn_1\.([qkv])\.": r".mid_block.attentions.0.to_\1.",
    r"\.mid\.block_1\.": ".mid_block.resnets.0.",
    r"\.mid\.block_2\.": ".mid_block.resnets.1.",
    r"\.(down|up)\.(\d+)\.block\.": r".\1_blocks.\2.resnets.",
    r"\.(down|up)\.(\d+)\.(down|up)sample\.": r".\1_blocks.\2.\3samplers.0.",
    r"\.nin_shortcut\.": ".conv_shortcut.",
    r"\.norm_out\.": ".conv_norm_out.",
}
_LDM_PREFIX = "first_stage_model."  # in a checkpoint of the whole system


def _from_ldm(state: State) -> State:
    """In diffusers' names, what has those of the latent diffusion repository; else as it is.

    That counts levels on the way up from the full resolution; and its files hold the losses' weights, which are left.
    """
    names = {k.removeprefix(_LDM_PREFIX): k for k in state if k.startswith(_LDM_PREFIX)} or {k: k for k in state}
    levels = {int(found[1]) for k in names if (found := re.match(r"decoder\.up\.(\d+)\.", k))}
    if not levels:
        return state

    def rename(key: str) -> str:
        for theirs, diffusers in _LDM_NAMES.items():
            key = re.sub(theirs, diffusers, key)
        return re.sub(r"(up_blocks)\.(\d+)", lambda m: f"{m[1]}.{max(levels) - int(m[2])}", key)

    parts = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "quantize.")
    return {rename(name): state[key] for name, key in names.items() if name.startswith(parts)}


# ------------------------------------------------------------------------------------------------- text encoders


def text_to_transformers(model: TextEncoder):
    """Our text encoder as a `transformers.CLIPTextModel` with the same weights: its `last_hidden_state` is our output.

    ValueError: it is not causal, or has no positions, as CLIP's always is and has.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    c = model.config
    if not (c.causal and c.positions):
        raise ValueError(f"causal={c.causal}, positions={c.positions}; a CLIPTextModel is causal and has positions")
    config = CLIPTextConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.width,
        intermediate_size=4 * c.width,
        num_hidden_layers=c.layers,
        num_attention_heads=c.heads,
        max_position_embeddings=c.length,
        hidden_act=c.activation,
        bos_token_id=0,  # as in the published configurations; only the pooled output, which ours has not, asks for them
        eos_token_id=2,
    )
    theirs = CLIPTextModel(config)
    before = "text_model." if any(k.startswith("text_model.") for k in theirs.state_dict()) else ""  # until version 4

    def rename(key: str) -> str:
        key = re.sub(r"^(\w+_embedding)\.", r"embeddings.\1.", key)
        key = re.sub(r"^layers\.(\d+)\.(\w_proj|out_proj)\.", r"layers.\1.self_attn.\2.", key)
        key = re.sub(r"^layers\.(\d+)\.(fc\d)\.", r"layers.\1.mlp.\2.", key)
        return before + re.sub(r"^layers\.", "encoder.layers.", key)

    theirs.load_state_dict({rename(k): v for k, v in model.state_dict().items()})
    return theirs.eval()


def text_from_transformers(theirs) -> TextEncoder:
    """A `transformers.CLIPTextModel`, or one with projection, as our text encoder; the projection, of the pooled output
    alone, is left. ValueError: ours cannot be that."""
    return text_from_state(foreign.text_config(json.loads(theirs.config.to_json_string())), _copied(theirs))


def text_from_state(config: TextConfig, state: State) -> TextEncoder:
    """Our text encoder from a state dict of transformers' `CLIPTextModel`. ValueError: it does not fit."""

    def rename(key: str) -> str:
        return re.sub(r"^text_model\.|\b(embeddings|encoder|self_attn|mlp)\.", "", key)

    left = ("text_projection.weight", "position_ids")
    return filled(TextEncoder, config, {rename(k): v for k, v in state.items() if not k.endswith(left)})


_OPEN_CLIP_NAMES = {
    "transformer.resblocks.": "layers.",
    ".attn.out_proj.": ".out_proj.",
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".mlp.c_fc.": ".fc1.",
    ".mlp.c_proj.": ".fc2.",
    "ln_final.": "final_layer_norm.",
    "positional_embedding": "position_embedding.weight",
}
_OPEN_CLIP_LEFT = re.compile(r"visual\.|text_projection|logit_scale|logit_bias|attn_mask")


def text_from_open_clip(state: State, *, heads: int, activation: str) -> TextEncoder:
    """The text tower in a state dict of open_clip's, or of OpenAI's `clip`, as our text encoder.

    The weights do not say how many `heads` there are, in CLIP one for each 64 of the width, nor the `activation`, which
    is "gelu" in open_clip's own and "quick_gelu" in OpenAI's. The picture tower and the pooled output's projection are
    left. ValueError: it is no such tower.
    """
    state = {k.removeprefix("text."): v for k, v in state.items()}
    embedding, positions = (state.get(name) for name in ("token_embedding.weight", "positional_embedding"))
    if embedding is None or positions is None:
        raise ValueError(
            "these weights hold no text tower of open_clip's: token_embedding or positional_embedding lacks"
        )
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if _OPEN_CLIP_LEFT.match(key):
            continue
        for theirs, ours in _OPEN_CLIP_NAMES.items():
            key = key.replace(theirs, ours)
        if ".attn.in_proj_" in key:
            parts = zip(("q", "k", "v"), value.chunk(3))
            found |= {key.replace(".attn.in_proj_", f".{name}_proj."): part.clone() for name, part in parts}
        else:
            found[key] = value.clone()
    config = TextConfig(
        vocab_size=embedding.shape[0],
        length=positions.shape[0],
        width=embedding.shape[1],
        layers=len({key.split(".")[1] for key in found if key.startswith("layers.")}),
        heads=heads,
        causal=True,
        activation=activation,
    )
    return filled(TextEncoder, config, found)

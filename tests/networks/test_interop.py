"""Parity with diffusers and transformers: random weights, both directions, differences of at most 1e-5.

What has the true size of Stable Diffusion's larger parts takes gigabytes and is marked slow: `pytest -m slow`.
"""

import inspect

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel, VQModel
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from torch import nn

from ldm_course.config import AutoencoderConfig, TextConfig, UNetConfig
from ldm_course.measure.complexity import count_parameters
from ldm_course.networks import foreign, interop
from ldm_course.networks.autoencoder import Autoencoder
from ldm_course.networks.text import TextEncoder
from ldm_course.networks.unet import UNet

TOLERANCE = 1e-5
UNETS = {
    "unconditional": UNetConfig(block_out_channels=(32, 64), attention=(False, True)),
    "class-conditional": UNetConfig(
        block_out_channels=(32, 64, 96), attention=(False, True, True), num_classes=10, layers_per_block=2
    ),
    "latent, attention at the top": UNetConfig(
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 32),
        attention=(True, False),
        attention_head_dim=8,
    ),
}


def random_weights(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Weights far from their initial values, norms and biases too, so that no part is silent."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        fan = p[0].numel() if p.ndim > 1 else 4
        p.data = torch.randn(p.shape, generator=generator) / fan**0.5 + (0.5 if p.ndim == 1 else 0)
    return model.eval()


def inputs(channels: int, classes: int | None, size: int = 16):
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(5, channels, size, size, generator=generator)
    t = torch.tensor([0, 1, 250, 731, 999])
    label = None if classes is None else torch.tensor([0, 3, 9, classes, 5])
    return x, t, label


def relative_gap(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max().clamp(min=1)).item()


@pytest.mark.parametrize("name", UNETS)
@torch.no_grad()
def test_unet_to_diffusers(name):
    config = UNETS[name]
    ours = random_weights(UNet(config), 0).double()
    theirs = interop.unet_to_diffusers(ours).double()
    x, t, label = inputs(config.in_channels, config.num_classes)
    expected = theirs(x.double(), t, class_labels=label).sample
    assert expected.std() > 0.1
    assert relative_gap(ours(x.double(), t, label), expected) < TOLERANCE


@pytest.mark.parametrize("name", UNETS)
@torch.no_grad()
def test_unet_from_diffusers(name):
    config = UNETS[name]
    theirs = random_weights(interop.unet_to_diffusers(UNet(config)), 1)
    ours = interop.unet_from_diffusers(theirs)
    assert ours.config == config
    x, t, label = inputs(config.in_channels, config.num_classes)
    assert relative_gap(ours(x, t, label), theirs(x, t, class_labels=label).sample) < TOLERANCE


CONTEXTS = {  # Stable Diffusion's shapes at a fraction of their widths, and ours
    "heads of one number, 1x1 convolutions, as in SD 1": {"attention_head_dim": 8, "use_linear_projection": False},
    "heads of one width, as in SD 2": {"attention_head_dim": (4, 8, 16), "use_linear_projection": True},
}


@pytest.mark.parametrize("name", CONTEXTS)
@torch.no_grad()
def test_a_unet_with_a_context_in_both_directions(name):
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    }
    theirs = UNet2DConditionModel(
        **blocks, block_out_channels=(32, 64, 128), layers_per_block=2, cross_attention_dim=48, **CONTEXTS[name]
    )
    theirs = random_weights(theirs, 5).double()
    ours = interop.unet_from_diffusers(theirs).double()
    assert ours.config.attention == (True, True, False) and ours.config.cross_attention_dim == 48
    x, t, _ = inputs(4, None)
    context = torch.randn(5, 11, 48, generator=torch.Generator().manual_seed(2)).double()
    expected = theirs(x.double(), t, encoder_hidden_states=context).sample
    assert relative_gap(ours(x.double(), t, context), expected) < TOLERANCE
    assert relative_gap(ours(x.double(), t, context.flip(1)), expected) < TOLERANCE  # a context is a set
    assert relative_gap(ours(x.double(), t, context.flip(0)), expected) > 0.01  # and it is read
    back = interop.unet_to_diffusers(ours).double()
    assert relative_gap(back(x.double(), t, encoder_hidden_states=context).sample, expected) < TOLERANCE


@torch.no_grad()
def test_the_pooled_context_is_told_as_diffusers_tells_a_projected_vector():
    config = UNetConfig(
        block_out_channels=(32, 64), attention=(False, True), norm_num_groups=8, cross_attention_dim=48, pooled=True
    )
    ours = random_weights(UNet(config), 5).double().eval()
    x, t, _ = inputs(3, None)
    context = torch.randn(5, 11, 48, generator=torch.Generator().manual_seed(2)).double()
    theirs = interop.unet_to_diffusers(ours).double()
    told = {"encoder_hidden_states": context, "class_labels": context.mean(1)}
    expected = theirs(x.double(), t, **told).sample
    assert relative_gap(ours(x.double(), t, context), expected) < TOLERANCE
    other = told | {"class_labels": context.mean(1).flip(0)}
    assert relative_gap(theirs(x.double(), t, **other).sample, expected) > 0.01  # it is read
    with pytest.raises(ValueError, match="pooled without cross_attention_dim"):
        UNetConfig(pooled=True)


def test_a_unet_with_a_context_needs_it_and_a_foreign_one_is_refused():
    config = UNetConfig(block_out_channels=(32,), attention=(True,), cross_attention_dim=16)
    x, t, _ = inputs(3, None)
    for wrong in (None, torch.zeros(5, 16), torch.zeros(5, 3, 8)):
        with pytest.raises(ValueError, match=r"the context: .*expected float \(5, L, 16\)"):
            UNet(config)(x, t, wrong)
    with pytest.raises(ValueError, match="addition_embed_type"):
        interop.unet_from_diffusers(
            UNet2DConditionModel(
                block_out_channels=(32,),
                down_block_types=("CrossAttnDownBlock2D",),
                up_block_types=("CrossAttnUpBlock2D",),
                addition_embed_type="text",
                cross_attention_dim=16,
            )
        )


@torch.no_grad()
def test_no_label_means_the_null_label():
    config = UNETS["class-conditional"]
    model = random_weights(UNet(config), 0)
    x, t, _ = inputs(3, 10)
    null = torch.full((5,), 10)
    assert torch.equal(model(x, t), model(x, t, null))
    assert not torch.equal(model(x, t), model(x, t, null - 1))


def test_a_foreign_unet_is_refused_in_one_line():
    with pytest.raises(ValueError, match="time_embedding_type"):
        interop.unet_from_diffusers(
            UNet2DModel(
                block_out_channels=(32,),
                down_block_types=("DownBlock2D",),
                up_block_types=("UpBlock2D",),
                time_embedding_type="fourier",
            )
        )


AUTOENCODERS = {
    "f=2": AutoencoderConfig(block_out_channels=(32, 64), mid_attention=False),
    "f=4": AutoencoderConfig(),
    "f=8, Stable Diffusion's shape": AutoencoderConfig(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, norm_num_groups=32
    ),
}


@pytest.mark.parametrize("name", AUTOENCODERS)
@torch.no_grad()
def test_autoencoder_both_directions(name):
    config = AUTOENCODERS[name]
    ours = random_weights(Autoencoder(config), 2)
    ours.latent_scale.fill_(0.18215)
    theirs = interop.autoencoder_to_diffusers(ours)
    assert theirs.config.scaling_factor == pytest.approx(0.18215)
    back = interop.autoencoder_from_diffusers(random_weights(theirs, 3))
    assert back.config == config
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for model, reference in ((back, theirs), (ours, interop.autoencoder_to_diffusers(ours))):
        posterior = reference.encode(x).latent_dist
        mine = model.encode(x)
        assert relative_gap(mine.z_mean, posterior.mean) < TOLERANCE
        assert relative_gap(mine.z_logvar, posterior.logvar) < TOLERANCE
        z = posterior.mean.clamp(-3, 3)
        assert relative_gap(model.decode(z), reference.decode(z).sample) < TOLERANCE
        assert relative_gap(model.from_latents(z * 0.18215), reference.decode(z).sample) < TOLERANCE


@pytest.mark.parametrize("attention", [True, False])
@torch.no_grad()
def test_a_codebook_both_directions(attention):
    """Encoded, quantised and decoded."""
    config = AutoencoderConfig(block_out_channels=(32, 64), latent_channels=3, mid_attention=attention, codes=300)
    ours = random_weights(Autoencoder(config), 2)
    ours.latent_scale.fill_(0.9)
    theirs = interop.autoencoder_to_diffusers(ours)
    assert isinstance(theirs, VQModel) and theirs.config.scaling_factor == pytest.approx(0.9)
    back = interop.autoencoder_from_diffusers(random_weights(theirs, 3))
    assert back.config == config
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for model, reference in ((back, theirs), (ours, interop.autoencoder_to_diffusers(ours))):
        z, mine = reference.encode(x).latents, model.encode(x)
        assert relative_gap(mine.z_mean, z) < TOLERANCE and torch.equal(mine.at(torch.ones_like(z)), mine.z_mean)
        z = torch.randn(z.shape, generator=torch.Generator().manual_seed(4))  # which takes many vectors
        quantised, _, (_, _, codes) = reference.quantize(z)
        found = model.quantize(z)
        assert torch.equal(found.codes.flatten(), codes) and found.codes.unique().numel() > 20
        assert relative_gap(found.z, quantised) < TOLERANCE
        assert relative_gap(model.decode(z), reference.decode(z).sample) < TOLERANCE
    ldm = {f"first_stage_model.{ldm_names(key, 2)}": value for key, value in theirs.state_dict().items()}
    same = interop.autoencoder_from_state(config, ldm, 0.9).state_dict()
    assert all(torch.equal(same[k], v) for k, v in interop.autoencoder_from_diffusers(theirs).state_dict().items())


@torch.no_grad()
def test_published_files_with_the_old_attention_names_load():
    config = AutoencoderConfig(block_out_channels=(32, 64))
    ours = random_weights(Autoencoder(config), 4)
    old = {}
    for key, value in interop.autoencoder_to_diffusers(ours).state_dict().items():
        for new, name in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{name}.")
        # the oldest files hold the projections as 1x1 convolutions
        old[key] = value[:, :, None, None] if ".mid_block.attentions." in key and value.ndim == 2 else value
    back = interop.autoencoder_from_state(config, old, 0.5)
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(back.encode(x).z_mean, ours.encode(x).z_mean)
    assert back.latent_scale.item() == 0.5


def test_an_autoencoder_of_another_kind_is_refused_in_one_line():
    with pytest.raises(ValueError, match="quant_conv"):
        interop.autoencoder_from_diffusers(AutoencoderKL(block_out_channels=(32,), use_quant_conv=False))


# ------------------------------------------------------------------------------- what is not carried over is refused


CLASSES = {c.__name__: c for c in (AutoencoderKL, VQModel, UNet2DModel, UNet2DConditionModel)}
KNOWN = {k.name: k for k in (foreign.AUTOENCODER_KL, foreign.VQ_MODEL, foreign.UNET_2D, foreign.UNET_2D_CONDITION)}


@pytest.mark.parametrize("name", CLASSES)
def test_what_a_configuration_leaves_out_is_what_diffusers_takes(name):
    signature = inspect.signature(CLASSES[name].__init__).parameters
    for key, value in {**KNOWN[name].read, **KNOWN[name].fixed}.items():
        if key in signature:  # a version may be older than an entry
            assert signature[key].default == value, key
    assert {"in_channels", "act_fn", "block_out_channels"} < signature.keys() & {*KNOWN[name].read, *KNOWN[name].fixed}


def convert(given):
    name = given["_class_name"]
    if name == "CLIPTextModel":
        return foreign.text_config(given)
    autoencoder = name in ("AutoencoderKL", "VQModel")
    return foreign.autoencoder_config(given) if autoencoder else foreign.unet_config(given)


REFUSED = {
    "AutoencoderKL": [
        {"shift_factor": 0.0609},
        {"latents_mean": [0.1, 0.2, 0.3, 0.4]},
        {"latents_std": [1.0, 1.0, 1.0, 1.0]},
        {"act_fn": "gelu"},
        {"use_quant_conv": False},
        {"use_post_quant_conv": False},
        {"down_block_types": ["AttnDownEncoderBlock2D"]},
        {"up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"]},
        {"out_channels": 4},
        {"layers_per_block": [1, 2]},
        {"norm_type": "layer"},
        {"scaling_factor": None},
    ],
    "VQModel": [
        {"vq_embed_dim": 8},
        {"norm_type": "spatial"},
        {"lookup_from_codebook": True},
        {"num_vq_embeddings": None},
        {"out_channels": 4},
        {"up_block_types": ["AttnUpDecoderBlock2D"]},
    ],
    "UNet2DModel": [
        {"add_attention": False},
        {"attn_norm_num_groups": 16},
        {"attention_head_dim": None},
        {"downsample_type": "resnet"},
        {"norm_eps": 1e-6},
        {"class_embed_type": "timestep"},
        {"up_block_types": ["UpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D"]},
        {"dropout": 0.1},
        {"squash": 0},
    ],
    "UNet2DConditionModel": [
        {"addition_embed_type": "text_time"},
        {"transformer_layers_per_block": [1, 2, 10]},
        {"cross_attention_norm": "layer_norm"},
        {"mid_block_only_cross_attention": True},
        {"encoder_hid_dim_type": "text_proj"},
        {"class_embeddings_concat": True},
        {"mid_block_type": None},
        {"num_attention_heads": 8},
        {"cross_attention_dim": [768, 768]},
        {"down_block_types": ["SimpleCrossAttnDownBlock2D"] * 4},
        {"attention_head_dim": [8, 8]},
    ],
    "CLIPTextModel": [
        {"layer_norm_eps": 1e-6},
        {"hidden_act": "relu"},
        {"intermediate_size": 1024},
        {"attention_dropout": 0.1},
        {"model_type": "clip"},
        {"rope_theta": 10000.0},
    ],
}
NAMED = {"attention_head_dim": "attention_heads", "hidden_act": "activation"}  # where our configuration refuses it


@pytest.mark.parametrize(("name", "wrong"), [(name, wrong) for name, each in REFUSED.items() for wrong in each])
def test_an_entry_that_ours_cannot_have_is_refused_by_its_name(name, wrong):
    convert({"_class_name": name})
    (key,) = wrong
    with pytest.raises(ValueError, match=f"{key}|{NAMED.get(key, key)}") as refused:
        convert({"_class_name": name, **wrong})
    assert "\n" not in str(refused.value)


def test_what_changes_nothing_is_let_through():
    free = {"sample_size": 512, "force_upcast": True, "use_tiling": True, "_diffusers_version": "9", "new_thing": None}
    given = {"block_out_channels": [32, 64], "down_block_types": ["DownEncoderBlock2D"] * 2}
    given |= {"up_block_types": ["UpDecoderBlock2D"] * 2, "scaling_factor": 1}
    config, scale = foreign.autoencoder_config({**given, **free})
    assert config == AutoencoderConfig(block_out_channels=(32, 64), norm_num_groups=32) and scale == 1.0
    with pytest.raises(ValueError, match="of AutoencoderTiny; expected one of AutoencoderKL"):
        foreign.autoencoder_config({"_class_name": "AutoencoderTiny"})


class NewerAutoencoder(AutoencoderKL):
    """As a later version of diffusers may have it: one more entry, by default without effect."""

    def __init__(self, *args, extra_norm=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_to_config(extra_norm=extra_norm)


def test_an_entry_of_a_later_version_is_refused_only_where_it_was_set():
    small = {"block_out_channels": (32,), "norm_num_groups": 8}
    for extra in (False, True):
        theirs = NewerAutoencoder(**small, extra_norm=extra)
        known = interop._config_of(theirs, foreign.AUTOENCODER_KL) | {"_class_name": "AutoencoderKL"}
        if extra:
            with pytest.raises(ValueError, match="extra_norm=True, an entry that ours does not know"):
                foreign.autoencoder_config(known)
        else:
            assert foreign.autoencoder_config(known)[0].block_out_channels == (32,)


def test_weights_that_do_not_fit_are_refused_in_one_line():
    config = AutoencoderConfig(block_out_channels=(16, 32))
    good = {k: v for k, v in Autoencoder(config).state_dict().items() if k != "latent_scale"}
    interop.autoencoder_from_state(config, good, 1.0)
    name = "decoder.conv_out.bias"
    for wrong, says in (
        ({k: v for k, v in good.items() if k != name}, f"lack {name}, unlike"),
        ({**good, "encoder.extra": torch.zeros(1), "encoder.other": torch.zeros(1)}, "have encoder.extra and 1 more"),
        ({**good, name: torch.zeros(4)}, r"decoder.conv_out.bias has the shape \(4,\); expected \(3,\)"),
        ({**good, name: torch.zeros(3, dtype=torch.int8)}, "stored as torch.int8"),
        ({**good, name: torch.zeros(3).to(torch.float8_e4m3fn)}, "stored as torch.float8_e4m3fn"),
        ({**good, name: torch.tensor([0.0, torch.nan, 0.0])}, "NaN"),
    ):
        with pytest.raises(ValueError, match=says) as refused:
            interop.autoencoder_from_state(config, wrong, 1.0)
        assert "\n" not in str(refused.value)


def test_a_converted_network_is_a_copy():
    theirs = AutoencoderKL(block_out_channels=(32,), norm_num_groups=8)
    ours = interop.autoencoder_from_diffusers(theirs)
    before = ours.quant_conv.weight.clone()
    theirs.quant_conv.weight.data.zero_()
    assert torch.equal(ours.quant_conv.weight, before) and before.abs().max() > 0
    assert all(p.requires_grad for p in ours.parameters())


# ----------------------------------------------------------------------- the latent diffusion repository's names


def ldm_names(key: str, levels: int) -> str:
    """An autoencoder's name in diffusers, in that repository: written down apart from what reads it."""
    part, *rest = key.split(".")
    if part not in ("encoder", "decoder"):
        return key
    if rest[0] == "mid_block" and rest[1] == "resnets":
        rest = ["mid", f"block_{int(rest[2]) + 1}", *rest[3:]]
    elif rest[0] == "mid_block":
        names = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}
        rest = ["mid", "attn_1", names[rest[3]], *(w for w in rest[4:] if w != "0")]
    elif rest[0] in ("down_blocks", "up_blocks"):
        way, level = rest[0].split("_")[0], int(rest[1])
        level = level if way == "down" else levels - 1 - level
        if rest[2] == "resnets":
            rest = [way, str(level), "block", *rest[3:]]
        else:
            rest = [way, str(level), f"{way}sample", *rest[4:]]
    names = {"conv_shortcut": "nin_shortcut", "conv_norm_out": "norm_out"}
    return ".".join([part, *(names.get(word, word) for word in rest)])


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_the_names_of_the_latent_diffusion_repository(prefix):
    config = AutoencoderConfig(block_out_channels=(32, 64, 64), layers_per_block=2)
    ours = random_weights(Autoencoder(config), 6)
    theirs = interop.autoencoder_to_diffusers(ours)
    ldm = {}
    for key, value in theirs.state_dict().items():
        attends = ".mid_block.attentions." in key and value.ndim == 2
        ldm[prefix + ldm_names(key, 3)] = value[:, :, None, None] if attends else value
    # and diffusers reads it as what it was
    known = {k: v for k, v in convert_ldm_vae_checkpoint(dict(ldm), dict(theirs.config)).items()}
    assert {k: v.shape for k, v in known.items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert all(torch.equal(v, known[k]) for k, v in theirs.state_dict().items())

    ldm[f"{prefix}loss.logvar"] = torch.zeros(())
    if prefix:
        ldm["model.diffusion_model.out.2.bias"] = torch.zeros(4)
    back = interop.autoencoder_from_state(config, ldm, 0.18215)
    assert all(torch.equal(back.state_dict()[k], v) for k, v in ours.state_dict().items() if k != "latent_scale")


# ------------------------------------------------------------------------------------------------ text encoders


def tokens_of(vocabulary: int, length: int) -> torch.Tensor:
    return torch.randint(vocabulary, (3, length), generator=torch.Generator().manual_seed(4))


TEXTS = {
    name: {
        "vocab_size": 60,
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 12,
        "projection_dim": 20,
        "hidden_act": name,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    for name in ("gelu", "quick_gelu")
}


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("name", TEXTS)
@torch.no_grad()
def test_a_text_tower_from_transformers_and_back(name, projected):
    transformers = pytest.importorskip("transformers")
    cls = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    theirs = random_weights(cls(transformers.CLIPTextConfig(**TEXTS[name])), 8)
    ours = interop.text_from_transformers(theirs)
    assert ours.config == TextConfig(60, 12, 32, 3, 4, positions=True, causal=True, activation=name)
    back = interop.text_to_transformers(ours)
    for length in (12, 5):
        tokens = tokens_of(60, length)
        expected = theirs(input_ids=tokens).last_hidden_state
        assert expected.std() > 0.1
        assert relative_gap(ours(tokens), expected) < TOLERANCE
        assert relative_gap(back(input_ids=tokens).last_hidden_state, expected) < TOLERANCE
    other = interop.text_from_state(TextConfig(60, 12, 32, 3, 4, True, True, "gelu"), theirs.state_dict())
    assert (relative_gap(other(tokens), expected) > 1e-3) == (
        name == "quick_gelu"
    )  # the activation is not in the weights


def test_a_text_encoder_that_clip_cannot_be_stays_here():
    pytest.importorskip("transformers")
    for options in ({"causal": False}, {"causal": True, "positions": False}):
        with pytest.raises(ValueError, match="a CLIPTextModel is causal and has positions"):
            interop.text_to_transformers(TextEncoder(TextConfig(width=16, layers=1, **options)))


class OpenClipBlock(nn.Module):
    """A block of open_clip's text transformer, by torch's own attention."""

    def __init__(self, width: int, heads: int, activation: nn.Module):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", activation)
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x, mask):
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class QuickGelu(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class OpenClipText(nn.Module):
    """open_clip's text tower, in its names; what it makes of each token."""

    def __init__(self, vocabulary: int, length: int, width: int, heads: int, layers: int, activation: nn.Module):
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.empty(length, width))
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList([OpenClipBlock(width, heads, activation) for _ in range(layers)])
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, 20))
        self.register_buffer("attn_mask", torch.full((length, length), float("-inf")).triu(1))

    def forward(self, tokens):
        length = tokens.shape[1]
        x = self.token_embedding(tokens) + self.positional_embedding[:length]
        for block in self.transformer.resblocks:
            x = block(x, self.attn_mask[:length, :length])
        return self.ln_final(x)


@pytest.mark.parametrize("prefix", ["", "text."])
@pytest.mark.parametrize("name", TEXTS)
@torch.no_grad()
def test_a_text_tower_from_open_clip(name, prefix):
    theirs = random_weights(OpenClipText(60, 12, 32, 4, 3, nn.GELU() if name == "gelu" else QuickGelu()), 9)
    state = {prefix + k: v for k, v in theirs.state_dict().items()}
    state |= {"visual.proj": torch.zeros(2), "logit_scale": torch.zeros(())}
    ours = interop.text_from_open_clip(state, heads=4, activation=name)
    assert ours.config == TextConfig(60, 12, 32, 3, 4, positions=True, causal=True, activation=name)
    for length in (12, 7):
        tokens = tokens_of(60, length)
        assert relative_gap(ours(tokens), theirs(tokens)) < TOLERANCE
    changed = interop.text_from_open_clip(state, heads=8, activation=name)
    assert relative_gap(changed(tokens), theirs(tokens)) > 1e-3
    with pytest.raises(ValueError, match=r"have layers\.0\.ls_1\.gamma"):
        interop.text_from_open_clip(
            {**state, f"{prefix}transformer.resblocks.0.ls_1.gamma": torch.ones(32)}, heads=4, activation=name
        )
    with pytest.raises(ValueError, match="hold no text tower"):
        interop.text_from_open_clip({"visual.proj": torch.zeros(2)}, heads=4, activation=name)


@torch.no_grad()
def test_a_text_tower_from_the_package_open_clip():
    open_clip = pytest.importorskip("open_clip")
    theirs = open_clip.transformer.TextTransformer(
        context_length=12, vocab_size=60, width=32, heads=4, layers=3, output_dim=20, output_tokens=True
    )
    theirs = random_weights(theirs, 10)
    tokens = tokens_of(60, 12)
    ours = interop.text_from_open_clip(theirs.state_dict(), heads=4, activation="gelu")
    assert relative_gap(ours(tokens), theirs(tokens)[1]) < TOLERANCE


# --------------------------------------------------------------------------------------------------- true sizes


SD1 = UNetConfig(
    in_channels=4,
    out_channels=4,
    block_out_channels=(320, 640, 1280, 1280),
    layers_per_block=2,
    attention=(True, True, True, False),
    norm_num_groups=32,
    cross_attention_dim=768,
    attention_heads=(8, 8, 8, 8),
)
CLIP_L = TextConfig(49408, 77, 768, 12, 12, positions=True, causal=True, activation="quick_gelu")
TRUE_SIZES = {  # parameters, as their model cards and papers say: 860 M, 84 M, 123 M
    "U-Net": (UNet, SD1, 859_520_964),
    "autoencoder": (Autoencoder, foreign.STABLE_DIFFUSION_AUTOENCODER, 83_653_863),
    "CLIP ViT-L's text tower": (TextEncoder, CLIP_L, 123_060_480),
}


@pytest.mark.parametrize("name", TRUE_SIZES)
def test_stable_diffusions_parts_have_the_weights_that_it_has(name):
    """Names and shapes of all of them, on the meta device, where nothing takes memory."""
    cls, config, parameters = TRUE_SIZES[name]
    with torch.device("meta"):
        ours = cls(config)
        if cls is UNet:
            theirs = UNet2DConditionModel(cross_attention_dim=768)
        elif cls is Autoencoder:
            four = {f"{way}_block_types": (f"{way.capitalize()}{part}Block2D",) * 4 for way, part in CODERS.items()}
            theirs = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, **four)
        else:
            theirs = pytest.importorskip("transformers").CLIPTextModel(foreign_clip_l())
    assert count_parameters(ours) == count_parameters(theirs) == parameters
    if cls is not TextEncoder:
        renamed = interop._to_ours(theirs.state_dict())
        own = {k: v for k, v in ours.state_dict().items() if k != "latent_scale"}
        assert {k: v.numel() for k, v in renamed.items()} == {k: v.numel() for k, v in own.items()}


CODERS = {"down": "Encoder", "up": "Decoder"}


def foreign_clip_l():
    """openai/clip-vit-large-patch14's, whose other entries are the class's defaults."""
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    return pytest.importorskip("transformers").CLIPTextConfig(**sizes, bos_token_id=0, eos_token_id=2)


@pytest.mark.slow
@torch.no_grad()
def test_the_text_tower_of_clip_l_at_its_true_size():
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPTextModel(foreign_clip_l()).eval()
    ours = interop.text_from_transformers(theirs)
    assert ours.config == CLIP_L
    tokens = tokens_of(49408, 77)
    assert relative_gap(ours(tokens), theirs(input_ids=tokens).last_hidden_state) < TOLERANCE


@pytest.mark.slow
@torch.no_grad()
def test_stable_diffusions_unet_at_its_true_size():
    theirs = UNet2DConditionModel(cross_attention_dim=768).eval()
    ours = interop.unet_from_diffusers(theirs)
    assert ours.config == SD1
    generator = torch.Generator().manual_seed(3)
    x, context = torch.randn(1, 4, 16, 16, generator=generator), torch.randn(1, 77, 768, generator=generator)
    t = torch.tensor([500])
    expected = theirs(x, t, encoder_hidden_states=context).sample
    assert relative_gap(ours(x, t, context), expected) < TOLERANCE

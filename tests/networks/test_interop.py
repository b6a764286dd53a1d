"""Parity with diffusers: random weights, both directions, the largest absolute difference at most 1e-5."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel

from ldm_course.config import AutoencoderConfig, UNetConfig
from ldm_course.networks import interop
from ldm_course.networks.autoencoder import Autoencoder
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


def test_a_unet_with_a_context_needs_it_and_a_foreign_one_is_refused():
    config = UNetConfig(block_out_channels=(32,), attention=(True,), cross_attention_dim=16)
    x, t, _ = inputs(3, None)
    for wrong in (None, torch.zeros(5, 16), torch.zeros(5, 3, 8)):
        with pytest.raises(ValueError, match=r"expected \(B, L, 16\)"):
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

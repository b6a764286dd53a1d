"""Counting: the formulas and the counter agree to the last FLOP, and both with what is worked out by hand."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ldm_course.config import AutoencoderConfig, UNetConfig
from ldm_course.measure.complexity import (
    Flops,
    attention_pairs,
    autoencoder_flops,
    count_flops,
    count_parameters,
    latent_shape,
    positions,
    sampling_flops,
    unet_flops,
    values,
)
from ldm_course.networks.autoencoder import Autoencoder
from ldm_course.networks.unet import UNet

META = torch.device("meta")  # computes nothing, so that large networks are counted in a second


def unet_and_inputs(config, size, batch, device="cpu"):
    with torch.device(device):
        net = UNet(config)
        inputs = [torch.zeros(batch, config.in_channels, size, size), torch.zeros(batch, dtype=torch.int64)]
        return net, inputs + ([torch.zeros(batch, dtype=torch.int64)] if config.num_classes else [])


def autoencoder_and_pictures(config, size, batch, device="cpu"):
    with torch.device(device):
        return Autoencoder(config), torch.zeros(batch, config.in_channels, size, size)


def training_flops(net, *inputs, fn=None):
    """What the counter says of `fn`, or of the network itself, and of the gradients of all its weights."""

    def step():
        torch.autograd.grad((fn or net)(*inputs).sum(), list(net.parameters()), allow_unused=True)

    with torch.enable_grad():
        return count_flops(step)


def test_sizes_of_pictures_and_latents():
    assert values(32, 32, 3) == 3072 and values(8, 8, 4) == 256
    assert positions(32, 32) == 1024 and attention_pairs(32, 32) == 1024**2
    assert attention_pairs(8, 8) == 4096
    # The same two sizes differ by 12, 16 or 256, depending on what is counted.
    assert values(32, 32, 3) / values(8, 8, 4) == 12
    assert positions(32, 32) / positions(8, 8) == 16
    assert attention_pairs(32, 32) / attention_pairs(8, 8) == 256
    assert latent_shape(AutoencoderConfig(), 32) == (4, 8, 8)
    assert latent_shape(AutoencoderConfig(latent_channels=16, block_out_channels=(32,) * 4), 512) == (16, 64, 64)
    with pytest.raises(ValueError, match="size=30; expected a positive multiple of 4"):
        latent_shape(AutoencoderConfig(), 30)


def test_parameters_by_hand():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5, bias=False))
    assert count_parameters(net) == (3 * 8 * 9 + 8) + 16 + 40
    tied = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    tied[1].weight = tied[0].weight
    assert count_parameters(tied) == 16 + 4 + 4


def test_flops_add_up_and_are_not_macs():
    one = Flops(conv=6, linear=4, attention=2)
    assert one.total == 12 and one.macs == 6
    assert one + one == 2 * one == one * 2 and 3 * one - one == 2 * one
    assert one.share("conv") == 0.5 and one.share("other") == 0
    assert sum((one.share(kind) for kind in ("conv", "linear", "attention", "other")), 0.0) == pytest.approx(1)
    assert Flops().share("conv") == 0
    with pytest.raises(ValueError, match="share was asked for 'total'"):
        one.share("total")


def test_the_counter_sorts_operations_by_kind():
    x, image, weight = torch.ones(2, 5, 6), torch.ones(2, 3, 8, 8), torch.ones(4, 3, 3, 3)
    assert count_flops(F.conv2d, image, weight) == Flops(conv=2 * 2 * 36 * 3 * 4 * 9)
    assert count_flops(F.conv2d, image, weight, stride=2, padding=1) == Flops(conv=2 * 2 * 16 * 3 * 4 * 9)
    assert count_flops(F.linear, x, torch.ones(7, 6), torch.ones(7)) == Flops(linear=2 * 2 * 5 * 6 * 7)
    q = torch.ones(2, 4, 9, 8)  # 4 heads, 9 positions, 8 channels a head
    assert count_flops(F.scaled_dot_product_attention, q, q, q) == Flops(attention=2 * 2 * (2 * 4) * 9 * 9 * 8)
    assert count_flops(torch.add, x, x) == Flops(), "what is done value by value is not counted"


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_linear_layer_is_one_however_torch_computes_it(batch, frozen, device):
    # With frozen weights and an input that is not contiguous, torch makes it a batched product.
    layer = nn.Linear(6, 7, device=device).requires_grad_(not frozen)
    x = torch.ones(batch, 6, 5, device=device).transpose(1, 2)
    assert count_flops(layer, x) == Flops(linear=2 * batch * 5 * 6 * 7)


def test_a_network_worked_out_by_hand():
    # One level of 32 channels at 4x4 (16 positions), time embedding of width 4 * 32.
    config = UNetConfig(
        block_out_channels=(32,), attention=(False,), layers_per_block=1, norm_num_groups=8, attention_head_dim=32
    )
    p, w, e = 16, 32, 128
    conv = 2 * 9 * p * (3 * w + w * 3)  # in and out
    conv += 3 * 2 * 2 * 9 * p * w * w  # down, middle twice: blocks of two convolutions
    conv += 2 * 2 * p * (9 * 2 * w * w + 9 * w * w + 2 * w * w)  # up, twice: 2w to w, w to w, and the 1x1 shortcut
    linear = 2 * (w * e + e * e) + 5 * 2 * e * w + 4 * 2 * p * w * w  # embedding, five blocks, attention's four
    attention = 2 * 2 * p * p * w
    assert unet_flops(config, 4) == Flops(conv=conv, linear=linear, attention=attention)


WIDTHS = st.sampled_from([8, 16, 24])


@st.composite
def unets(draw):
    widths = tuple(draw(st.lists(WIDTHS, min_size=1, max_size=3)))
    return UNetConfig(
        in_channels=draw(st.integers(1, 4)),
        out_channels=draw(st.integers(1, 4)),
        block_out_channels=widths,
        layers_per_block=draw(st.integers(1, 3)),
        attention=tuple(draw(st.lists(st.booleans(), min_size=len(widths), max_size=len(widths)))),
        attention_head_dim=draw(st.sampled_from([4, 8])),
        norm_num_groups=draw(st.sampled_from([2, 4])),
        num_classes=draw(st.sampled_from([None, 10])),
    )


@settings(max_examples=15, deadline=None)
@given(unets(), st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_the_unets_formula_is_the_counters_number(config, times, batch, backward):
    size = times * 2 ** (len(config.block_out_channels) - 1)
    net, inputs = unet_and_inputs(config, size, batch)
    counted = (training_flops if backward else count_flops)(net, *inputs)
    assert unet_flops(config, size, batch, backward) == counted


@st.composite
def autoencoders(draw):
    return AutoencoderConfig(
        in_channels=draw(st.integers(1, 3)),
        latent_channels=draw(st.integers(1, 5)),
        block_out_channels=tuple(draw(st.lists(WIDTHS, min_size=1, max_size=4))),
        layers_per_block=draw(st.integers(1, 2)),
        norm_num_groups=draw(st.sampled_from([2, 4])),
        mid_attention=draw(st.booleans()),
        codes=draw(st.sampled_from([None, 7])),
    )


@settings(max_examples=8, deadline=None)
@given(autoencoders(), st.integers(1, 3), st.integers(1, 2))
def test_the_autoencoders_formula_is_the_counters_number(config, times, batch):
    size = times * config.downsample
    net, x = autoencoder_and_pictures(config, size, batch)
    z = torch.zeros(batch, *latent_shape(config, size))

    encode, decode = (autoencoder_flops(config, size, part, batch) for part in ("encode", "decode"))
    assert encode == count_flops(net.encode, x)
    assert decode == count_flops(net.decode, z)
    assert autoencoder_flops(config, size, "both", batch) == encode + decode
    assert autoencoder_flops(config, size, "decode", batch, backward=True) == training_flops(net, z, fn=net.decode)
    both = training_flops(net, x, fn=lambda x: net.decode(net.encode(x).z_mean))
    assert autoencoder_flops(config, size, "both", batch, backward=True) == both


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_counting_leaves_alone_whether_and_where_it_is_computed(frozen, device):
    config = UNetConfig(block_out_channels=(32, 64), attention=(True, True), layers_per_block=2, num_classes=4)
    net, inputs = unet_and_inputs(config, 8, 2, device)
    net.requires_grad_(not frozen)
    assert count_flops(net, *inputs) == unet_flops(config, 8, 2)
    with torch.no_grad():
        assert count_flops(net, *inputs) == unet_flops(config, 8, 2)
    if not frozen:
        assert training_flops(net, *inputs) == unet_flops(config, 8, 2, backward=True)
        assert all(p.grad is None for p in net.parameters())


def test_the_published_cifar_network():
    """DDPM's U-Net for CIFAR-10 has 35.7 M parameters (Ho et al. 2020, appendix B)."""
    config = UNetConfig(
        block_out_channels=(128, 256, 256, 256),
        attention=(False, True, False, False),
        layers_per_block=2,
        attention_head_dim=128,
    )
    net, inputs = unet_and_inputs(config, 32, 1, META)
    assert count_parameters(net) / 1e6 == pytest.approx(35.7, abs=0.05)
    counted = count_flops(net, *inputs)
    assert counted == unet_flops(config, 32)
    assert 6.0e9 < counted.macs < 6.4e9 and counted.total == 2 * counted.macs


def test_cost_follows_positions_and_pairs_not_values():
    config = UNetConfig(attention=(True, True, True))
    small, large = unet_flops(config, 16), unet_flops(config, 32)
    assert large.conv == 4 * small.conv, "convolutions go with the positions"
    assert large.attention == 16 * small.attention, "attention goes with the pairs"
    # A latent has 12 times fewer values than the picture, but a call is not 12 times cheaper.
    assert values(32, 32, 3) == 12 * values(8, 8, 4)
    plain = UNetConfig(attention=(False, False, False))
    assert 14 < unet_flops(plain, 32).conv / unet_flops(plain.for_channels(4), 8).conv < 16


def test_a_sample_costs_its_steps_and_one_decoding():
    unet, auto = UNetConfig().for_channels(4), AutoencoderConfig()
    bare = sampling_flops(unet, 8, 50)
    assert bare == 50 * unet_flops(unet, 8)
    assert sampling_flops(unet, 8, 50, guidance=True, batch=3) == 300 * unet_flops(unet, 8)
    whole = sampling_flops(unet, 32, 50, autoencoder=auto, batch=2)
    assert whole == 2 * bare + autoencoder_flops(auto, 32, "decode", 2)


def test_mistakes_are_told_in_one_line():
    with pytest.raises(ValueError, match="the U-Net was given size=30; expected a positive multiple of 4"):
        unet_flops(UNetConfig(), 30)
    with pytest.raises(ValueError, match="the autoencoder was given size=0; expected a positive multiple of 4"):
        autoencoder_flops(AutoencoderConfig(), 0)
    with pytest.raises(ValueError, match="part='train'; expected 'encode', 'decode' or 'both'"):
        autoencoder_flops(AutoencoderConfig(), 32, "train")


def test_a_network_with_a_context_is_not_counted_wrongly():
    with pytest.raises(ValueError, match="counts no network with a context"):
        unet_flops(UNetConfig(cross_attention_dim=16), 32)

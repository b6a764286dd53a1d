"""Published networks by formula: to the last parameter and FLOP what diffusers' and transformers' modules have and do.

Their modules are built on the meta device, where nothing is computed, so that the published sizes take a second.
"""

import weakref
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ldm_course.config import AutoencoderConfig, UNetConfig
from ldm_course.measure.closed_forms import AutoencoderPart, Cost, TextPart, TransformerPart, UNetPart
from ldm_course.measure.complexity import Flops, count_flops, count_parameters
from ldm_course.measure.published import CLIP_G, CLIP_L, CLIP_L_POOLED, SD3, SD15, SDXL, T5_XXL
from ldm_course.measure.timing import activation_memory
from ldm_course.networks.unet import UNet

META = torch.device("meta")


def theirs(part):
    """The module that diffusers has for a part, and what it is called with, by size, batch and the text's length."""
    if isinstance(part, UNetPart):
        return unet(part)
    return transformer(part)


def unet(part):
    kinds = ["CrossAttn" if depth else "" for depth in part.transformer_layers]
    depths = [depth or part.middle_layers for depth in part.transformer_layers]
    assert depths[-1] == part.middle_layers, "diffusers' middle is as deep as its last level"
    added = 6 * 8  # of the added vector, six sizes of 8
    more = {}
    if part.added_width:
        more = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": part.added_width,
        }
    with META:
        net = UNet2DConditionModel(
            in_channels=part.in_channels,
            out_channels=part.out_channels,
            block_out_channels=part.block_out_channels,
            layers_per_block=part.layers_per_block,
            down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
            up_block_types=[f"{kind}UpBlock2D" for kind in reversed(kinds)],
            transformer_layers_per_block=depths,
            cross_attention_dim=part.context_width,
            attention_head_dim=part.heads,  # which, in diffusers, is their number
            use_linear_projection=part.linear_projection,
            norm_num_groups=4,
            **more,
        )

    def inputs(size, batch, tokens):
        with META:
            x, t = torch.zeros(batch, part.in_channels, size, size), torch.zeros(batch, dtype=torch.int64)
            named = {}
            if part.added_width:
                pooled = torch.zeros(batch, part.added_width - added)
                named = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": torch.zeros(batch, 6)}}
            return (x, t, torch.zeros(batch, tokens, part.context_width)), named

    return net, inputs


def transformer(part):
    with META:
        net = SD3Transformer2DModel(
            sample_size=32,
            patch_size=part.patch,
            in_channels=part.in_channels,
            out_channels=part.out_channels,
            num_layers=part.layers,
            attention_head_dim=64,
            num_attention_heads=part.heads,
            joint_attention_dim=part.context_width,
            caption_projection_dim=part.width,
            pooled_projection_dim=part.pooled_width,
            pos_embed_max_size=192,
        )

    def inputs(size, batch, tokens):
        with META:
            x, text = torch.zeros(batch, part.in_channels, size, size), torch.zeros(batch, tokens, part.context_width)
            return (x, text, torch.zeros(batch, part.pooled_width), torch.zeros(batch, dtype=torch.int64)), {}

    return net, inputs


def training_flops(net, inputs, named):
    def step():
        torch.autograd.grad(net(*inputs, **named).sample.sum(), list(net.parameters()), allow_unused=True)

    with torch.enable_grad():
        return count_flops(step)


# -------------------------------------------------------------------------------------------------- parameters, FLOPs


@st.composite
def unets(draw):
    levels = draw(st.integers(1, 3))
    widths = tuple(draw(st.sampled_from([8, 16, 24])) for _ in range(levels))
    layers = tuple(draw(st.integers(0, 2)) for _ in range(levels))
    return UNetPart(
        block_out_channels=widths,
        transformer_layers=layers,
        middle_layers=layers[-1] or draw(st.integers(1, 2)),
        context_width=draw(st.sampled_from([5, 12])),
        heads=tuple(draw(st.sampled_from([1, 2, 4])) for _ in range(levels)),
        in_channels=draw(st.integers(1, 4)),
        out_channels=draw(st.integers(1, 4)),
        layers_per_block=draw(st.integers(1, 2)),
        linear_projection=draw(st.booleans()),
        added_width=draw(st.sampled_from([0, 60])),
    )


@settings(max_examples=5, deadline=None)
@given(unets(), st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 7]))
def test_a_unet_with_text_is_diffusers_to_the_last_flop(part, times, batch, tokens):
    size = times * part.multiple
    net, inputs = unet(part)
    given_, named = inputs(size, batch, tokens)
    cost = part.cost(size, batch, tokens)
    assert cost.parameters == count_parameters(net)
    with torch.no_grad():
        assert cost.flops == count_flops(net, *given_, **named)
    assert cost.training == training_flops(net, given_, named)


@settings(max_examples=4, deadline=None)
@given(
    st.builds(
        TransformerPart,
        layers=st.integers(1, 3),
        heads=st.integers(1, 2),
        patch=st.sampled_from([1, 2, 4]),
        in_channels=st.integers(1, 4),
        out_channels=st.integers(1, 4),
        context_width=st.sampled_from([5, 12]),
        pooled_width=st.sampled_from([6, 9]),
    ),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([1, 7]),
)
def test_a_transformer_is_diffusers_to_the_last_flop(part, times, batch, tokens):
    size = times * part.patch
    net, inputs = transformer(part)
    given_, named = inputs(size, batch, tokens)
    cost = part.cost(size, batch, tokens)
    assert cost.parameters == count_parameters(net)
    with torch.no_grad():
        assert cost.flops == count_flops(net, *given_, **named)
    assert cost.training == training_flops(net, given_, named)


@pytest.mark.parametrize("system, sides", [(SD15, (32, 64)), (SDXL, (128,)), (SD3, (64, 128))])
def test_the_published_denoisers(system, sides):
    net, inputs = theirs(system.denoiser)
    for side in sides:
        given_, named = inputs(side, 2, system.tokens)
        cost = system.denoise(8 * side, batch=2)
        assert cost.parameters == count_parameters(net)
        with torch.no_grad():
            assert cost.flops == count_flops(net, *given_, **named)


def test_the_courses_own_unet_of_that_size():
    """What a stage can time in place of SD 1.5's: the same, but for linear layers where that has 1x1 convolutions."""
    part = replace(SD15.denoiser, linear_projection=True)
    config = UNetConfig(
        in_channels=4,
        out_channels=4,
        block_out_channels=part.block_out_channels,
        layers_per_block=part.layers_per_block,
        attention=tuple(map(bool, part.transformer_layers)),
        attention_heads=part.heads,
        cross_attention_dim=part.context_width,
        norm_num_groups=32,
    )
    with META:
        net, given_ = (
            UNet(config),
            (torch.zeros(1, 4, 64, 64), torch.zeros(1, dtype=torch.int64), torch.zeros(1, 77, 768)),
        )
    assert count_parameters(net) == part.cost(64).parameters == SD15.denoise().parameters
    with torch.no_grad():
        assert count_flops(net, *given_) == part.cost(64).flops
    assert part.cost(64).flops.total == SD15.denoise().flops.total


def test_in_pixels_the_same_network_is_counted_as_well():
    """At 512 x 512 one attention alone compares 2^36 pairs; on the meta device that is no trouble."""
    for built in (False, True):
        net, inputs = unet(SD15.in_pixels(built=built))
        given_, named = inputs(512, 1, 77)
        with torch.no_grad():
            assert SD15.pixel_pass(built=built).flops == count_flops(net, *given_, **named)
        assert SD15.pixel_pass(built=built).parameters == count_parameters(net)


@pytest.mark.parametrize("quant_convs", [True, False])
@pytest.mark.parametrize("latent_channels, widths", [(4, (128, 256, 512, 512)), (16, (8, 24, 16))])
def test_an_autoencoder_with_and_without_its_1x1_convolutions(latent_channels, widths, quant_convs):
    groups, size = (32 if widths[0] == 128 else 4), 64
    with META:
        net = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * len(widths),
            up_block_types=["UpDecoderBlock2D"] * len(widths),
            block_out_channels=widths,
            layers_per_block=2,
            latent_channels=latent_channels,
            norm_num_groups=groups,
            use_quant_conv=quant_convs,
            use_post_quant_conv=quant_convs,
        )
        x, z = torch.zeros(2, 3, size, size), torch.zeros(2, latent_channels, *2 * [size // 2 ** (len(widths) - 1)])
    part = AutoencoderPart(AutoencoderConfig(3, latent_channels, widths, 2, groups), quant_convs)
    encode, decode = (part.cost(size, half, batch=2) for half in ("encode", "decode"))
    assert encode.parameters + decode.parameters == count_parameters(net)
    with torch.no_grad():
        assert encode.flops == count_flops(net.encode, x) and decode.flops == count_flops(net.decode, z)


TEXTS = (
    CLIP_L,
    CLIP_L_POOLED,
    CLIP_G,
    T5_XXL,
    TextPart("small CLIP", 16, 2, 4, 24, 50, tokens=9, projection=6),
    TextPart("small T5", 16, 2, 4, 24, 50, tokens=9, gated=True, relative=8),
)


@pytest.mark.parametrize("part", TEXTS, ids=lambda part: part.name)
def test_a_text_encoder_is_transformers_to_the_last_flop(part):
    transformers = pytest.importorskip("transformers")  # no dependency: without it the published counts stand alone
    shape = {"vocab_size": part.vocabulary, "num_hidden_layers": part.layers}
    with META:
        if part.gated:
            config = transformers.T5Config(
                **shape | {"num_layers": part.layers},
                d_model=part.width,
                d_kv=part.width // part.heads,
                num_heads=part.heads,
                d_ff=part.hidden,
                feed_forward_proj="gated-gelu",
                relative_attention_num_buckets=part.relative,
            )
            net = transformers.T5EncoderModel(config)
        else:
            config = transformers.CLIPTextConfig(
                **shape,
                hidden_size=part.width,
                intermediate_size=part.hidden,
                num_attention_heads=part.heads,
                max_position_embeddings=part.tokens,
                projection_dim=part.projection or 512,
                eos_token_id=2,
            )
            kind = "CLIPTextModelWithProjection" if part.projection else "CLIPTextModel"
            net = getattr(transformers, kind)(config)
        tokens = torch.zeros(3, part.tokens, dtype=torch.int64)
    cost = part.cost(batch=3)
    assert cost.parameters == count_parameters(net)
    with torch.no_grad():
        assert cost.flops == count_flops(net, tokens)


def test_the_published_text_encoders():
    """123.1 M: onnx-tool's README; 817 M of both CLIPs: Podell et al. 2023, Table 1; 4.7 B: Esser et al. 2024."""
    assert CLIP_L.cost().parameters / 1e6 == pytest.approx(123.1, abs=0.05)
    assert (CLIP_L.cost() + CLIP_G.cost()).parameters / 1e6 == pytest.approx(817, abs=1)
    assert T5_XXL.cost().parameters / 1e9 == pytest.approx(4.7, abs=0.07)


def test_a_text_encoder_worked_out_by_hand():
    part = TextPart("by hand", width=8, layers=2, heads=2, hidden=12, vocabulary=10, tokens=5, projection=3)
    layer = 4 * (8 * 8 + 8) + (8 * 12 + 12) + (12 * 8 + 8) + 2 * 2 * 8
    assert part.cost().parameters == 10 * 8 + 5 * 8 + 2 * layer + 2 * 8 + 8 * 3
    linear = 2 * 2 * 5 * (4 * 8 * 8 + 2 * 8 * 12) + 2 * 8 * 3
    assert part.cost(batch=3).flops == 3 * Flops(linear=linear, attention=2 * 2 * 2 * 5 * 5 * 8)


# ------------------------------------------------------------------------------------------------------- memory


class Fused(torch.autograd.Function):
    """Attention as a fused kernel leaves it: its result, and for the backward pass Q, K, V and that."""

    @staticmethod
    def forward(ctx, q, k, v):
        batch, heads, rows, width = q.shape
        out = q.new_empty(batch, rows, heads, width).transpose(1, 2)
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        return grad, grad, grad


class Held(TorchDispatchMode):
    """Watches how many bytes the tensors take that are made within and not gone yet; `most` at once."""

    def __init__(self):
        super().__init__()
        self.now, self.most, self.known = 0, 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given_ = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in (t for t in tree_leaves(out) if isinstance(t, torch.Tensor)):
            storage = tensor.untyped_storage()
            place, size = storage._cdata, storage.nbytes()
            if place not in self.known and place not in given_:
                self.known[place] = weakref.ref(storage, lambda _, place=place, size=size: self.gone(place, size))
                self.now += size
                self.most = max(self.most, self.now)
        return out

    def gone(self, place, size):
        self.now -= size
        del self.known[place]


def most_held(fn, *inputs, **named):
    with torch.no_grad(), Held() as watched:
        fn(*inputs, **named)
    return watched.most // 4


@pytest.fixture
def fused(monkeypatch):
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, *rest, **named: Fused.apply(q, k, v))


@pytest.mark.parametrize("system", [SD15, SDXL, SD3], ids=lambda system: system.name)
@pytest.mark.parametrize("side", [64, 128])
def test_memory_of_the_published_denoisers(system, side, fused):
    net, inputs = theirs(system.denoiser)
    given_, named = inputs(side, 1, system.tokens)
    cost = system.denoise(8 * side)
    kept = activation_memory(net, *given_, **named).saved / 4
    assert kept == pytest.approx(cost.kept, rel=0.004) and kept >= cost.kept
    assert 1 <= most_held(net, *given_, **named) / cost.live < 1.55


@pytest.mark.parametrize("side", [256, 512, 1024])
def test_memory_of_the_published_autoencoder(side, fused):
    with META:
        net = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )
        x, z = torch.zeros(1, 3, side, side), torch.zeros(1, 4, side // 8, side // 8)
    assert 1 <= most_held(net.decode, z) / SD15.decode(side).live < 1.01
    assert 1 <= most_held(net.encode, x) / SD15.encode(side).live < 1.7


class LargestSoftmax(TorchDispatchMode):
    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if "softmax" in str(func):
            self.values = max(self.values, out.numel())
        return out


@pytest.mark.parametrize("system", [SD15, SDXL, SD3], ids=lambda system: system.name)
def test_what_the_weights_of_attention_take_where_it_is_not_fused(system):
    net, inputs = theirs(system.denoiser)
    given_, named = inputs(64, 1, system.tokens)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), LargestSoftmax() as seen:
        net(*given_, **named)
    assert seen.values == system.denoiser.attention_weights(64, system.tokens)


# ------------------------------------------------------------------------------------------------------- rules


def test_costs_add_up_one_after_another():
    a, b = Cost(10, Flops(conv=4), Flops(conv=2), kept=5, live=7), Cost(1, Flops(linear=6), kept=3, live=9)
    assert a + b == Cost(11, Flops(conv=4, linear=6), Flops(conv=2), kept=8, live=9)
    assert 3 * a == Cost(30, Flops(conv=12), Flops(conv=6), kept=15, live=7)  # three networks: no more at once
    assert a.on(3) == Cost(10, Flops(conv=12), Flops(conv=6), kept=15, live=21)  # three inputs: of one network
    assert a.beside(100) == Cost(10, Flops(conv=4), Flops(conv=2), kept=5, live=107)
    assert a.training == Flops(conv=10) and (0 * a) == Cost()


def test_a_unet_is_built_for_its_size_as_in_chapter_3():
    part = SD15.denoiser
    assert part.attends_on(64) == 64 and SDXL.denoiser.attends_on(128) == 64 and SD3.denoiser.attends_on(128) == 64
    assert part.attending_up_to(64, 64) is part  # already so
    built = part.attending_up_to(64, 512)
    assert built.block_out_channels == part.block_out_channels and built.transformer_layers == (0, 0, 0, 1)
    deep = SDXL.denoiser.attending_up_to(64, 1024)
    assert deep.block_out_channels == (320, 640, 1280, 1280, 1280) and deep.transformer_layers == (0, 0, 0, 0, 10)
    assert deep.heads == (5, 10, 20, 20, 20) and deep.attends_on(1024) == 64
    two = UNetPart((8, 16), (1, 2), 2, 5, (2, 2)).attending_up_to(8, 16)
    assert two.transformer_layers == (0, 2) and two.block_out_channels == (8, 16)
    assert SD3.denoiser.attending_up_to(64, 1024).patch == 16 and SD3.denoiser.attending_up_to(64, 128).patch == 2


def test_mistakes_are_told_in_one_line():
    with pytest.raises(ValueError, match="the U-Net was given size=12; expected a positive multiple of 8"):
        SD15.denoiser.cost(12)
    with pytest.raises(ValueError, match="the transformer was given size=3; expected a positive multiple of 2"):
        SD3.denoiser.cost(3)
    with pytest.raises(ValueError, match="2 levels were given 1 entries of transformer_layers and 2 of heads"):
        UNetPart((8, 8), (1,), 1, 5, (1, 1))
    with pytest.raises(ValueError, match="the autoencoder was given size=12; expected a positive multiple of 8"):
        SD15.autoencoder.cost(12)

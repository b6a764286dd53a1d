"""Where words are read: weights by hand, that they sum to 1, and that a word which is everywhere alike is read so."""

import pytest
import torch
from torch import nn

from ldm_course.config import TextConfig, TextUNetConfig, UNetConfig
from ldm_course.denoiser import Denoiser
from ldm_course.diffusion.schedules import make_schedule
from ldm_course.measure.attention import watched, word_maps
from ldm_course.networks.layers import CrossAttention
from ldm_course.networks.text import SPECIAL, TextUNet, vocabulary
from ldm_course.spaces import PixelSpace
from ldm_course.training.recipes import seeded

WORDS = vocabulary(["a red star"])
CONFIG = TextUNetConfig(
    UNetConfig(
        block_out_channels=(16, 32),
        attention=(True, True),
        attention_head_dim=16,
        norm_num_groups=4,
        cross_attention_dim=16,
    ),
    TextConfig(SPECIAL + len(WORDS), length=8, width=16, heads=2, layers=1),
    WORDS,
)


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_weights_are_those_that_the_layer_uses():
    """The layer's own output is what its watched weights make of the values, with one head."""
    layer = seeded(1, CrossAttention, 16, 1, 12)
    x, context = normal(2, 9, 16), normal(2, 5, 12)
    with watched(nn.Sequential(layer)) as seen, torch.no_grad():
        out = layer(x, context)
        layer2 = layer(x[..., :16], x[..., :12])  # another context
    assert len(seen) == 2 and seen[0].shape == (2, 9, 5)
    assert (layer.to_out(seen[0] @ layer.to_v(context)) - out).abs().max() < 1e-5
    assert (seen[0].sum(-1) - 1).abs().max() < 1e-6 and layer2.shape == out.shape
    with torch.no_grad():
        layer(x, context)
    assert len(seen) == 2  # closed


def test_a_picture_its_tokens_and_their_maps():
    d = Denoiser(seeded(3, TextUNet, CONFIG).eval(), PixelSpace(8), make_schedule("cosine"), "v")
    picture, names, maps = word_maps(d, "a red zebra", steps=3, guidance_scale=2.0)
    assert picture.shape == (3, 8, 8) and names == ["start", "a", "red", "end"] and maps.shape == (4, 8, 8)
    assert torch.equal(picture, d.generate(1, prompt="a red zebra", steps=3, guidance_scale=2.0)[0])
    assert (maps > 0).all() and (maps.sum(0) < 1).all()  # the rest is padding's
    full, _, of_all = word_maps(d, "a red star a red star", steps=2)
    assert (of_all.sum(0) - 1).abs().max() < 1e-5 and full.shape == (3, 8, 8)
    with torch.no_grad():  # a network that cannot tell tokens apart reads all alike
        d.model.text.final_layer_norm.weight.zero_()
    assert (word_maps(d, "a red star", steps=2)[2] - 1 / 8).abs().max() < 1e-6


def test_a_model_without_texts_is_refused():
    d = Denoiser(seeded(3, TextUNet, CONFIG).unet.eval(), PixelSpace(8), make_schedule("cosine"), "v")
    with pytest.raises(ValueError, match="trained without texts"):
        word_maps(d, "a red star", steps=2)

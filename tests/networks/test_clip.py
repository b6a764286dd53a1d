"""CLIP's towers: where a text is read, what a picture's pooling does by hand, and unit vectors that come back."""

import pytest
import torch
import torch.nn.functional as F

from ldm_course.checkpoints import load_denoiser, load_model, save_model
from ldm_course.config import CLIPConfig, TextConfig
from ldm_course.networks.clip import CLIP, PictureEncoder
from ldm_course.networks.text import SPECIAL, vocabulary
from ldm_course.training.recipes import seeded

WORDS = vocabulary(["a red star above a blue square"])
ORDERS = ["a red star above a blue square", "a blue star above a red square"]


def config(**text) -> CLIPConfig:
    text = {"vocab_size": SPECIAL + len(WORDS), "length": 12, "width": 16, "layers": 2, "heads": 2} | text
    return CLIPConfig(TextConfig(**text), WORDS, 16, (8, 16), attention_head_dim=8, width=12)


def clip(**text) -> CLIP:
    return seeded(0, CLIP, config(**({"causal": True} | text))).eval()


def pictures(count=3):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def test_a_causal_text_is_read_at_its_end():
    model = clip()
    tokens = model.tokenizer(["a red star", "star"])
    h = model.text(tokens)
    read = torch.stack([h[0, 4], h[1, 2]])  # start, words, end
    assert (model.of_texts(tokens) - F.normalize(model.text_projection(read), dim=1)).abs().max() < 1e-6


@torch.no_grad()
def test_any_other_text_is_the_mean_of_its_tokens_and_a_bag_has_no_order():
    model = clip(causal=False)
    tokens = model.tokenizer(["a red star"])
    read = model.text(tokens)[:, :5].mean(1)
    assert (model.of_texts(tokens) - F.normalize(model.text_projection(read), dim=1)).abs().max() < 1e-6
    for text, same in ((config().text.as_bag(), True), (config(causal=False).text, False), (config().text, False)):
        model = seeded(0, CLIP, CLIPConfig(text, WORDS, 16, (8, 16), attention_head_dim=8, width=12)).eval()
        one, other = model.of_texts(model.tokenizer(ORDERS))
        assert ((one - other).abs().max() < 1e-6) == same
    bag = config(causal=True).text.as_bag()
    assert (bag.layers, bag.positions, bag.causal, bag.width, bag.vocab_size) == (
        0,
        False,
        False,
        16,
        SPECIAL + len(WORDS),
    )


@torch.no_grad()
def test_pooling_by_hand():
    """One query, from the mean of the cells, over the mean and the cells, all of which know their places."""
    encoder = seeded(0, PictureEncoder, config()).double().eval()
    x = pictures().double()
    h = encoder.blocks(encoder.conv_in(F.pixel_unshuffle(x, 4)))
    assert h.shape == (3, 16, 2, 2)  # an eighth of the side
    cells = F.silu(encoder.norm_out(h)).flatten(2).transpose(1, 2)
    cells = torch.cat([cells.mean(1, keepdim=True), cells], 1) + encoder.position_embedding.weight
    pool, heads = encoder.pool, []
    for part in (slice(0, 8), slice(8, 16)):
        q = (cells[:, :1] @ pool.to_q.weight.T)[..., part]
        k, v = ((cells @ f.weight.T)[..., part] for f in (pool.to_k, pool.to_v))
        heads.append((q @ k.transpose(1, 2) / 8**0.5).softmax(-1) @ v)
    assert (encoder(x) - pool.to_out(torch.cat(heads, -1))[:, 0]).abs().max() < 1e-12


@torch.no_grad()
def test_vectors_have_length_one_and_the_scale_is_a_temperature_of_007():
    model = clip()
    of_pictures, of_texts, scale = model(pictures(2), model.tokenizer(ORDERS))
    assert of_pictures.shape == of_texts.shape == (2, 12)
    assert all((v.norm(dim=1) - 1).abs().max() < 1e-6 for v in (of_pictures, of_texts))
    assert 1 / scale.item() == pytest.approx(0.07)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 3, 16, 16\); expected \(B, 3, 32, 32\)"):
        PictureEncoder(CLIPConfig(TextConfig(), size=32))(pictures())
    with pytest.raises(ValueError, match="an end that knows no word"):
        CLIPConfig(TextConfig(layers=0, causal=True))
    with pytest.raises(ValueError, match="size=20; 2 levels need a multiple of 8"):
        CLIPConfig(TextConfig(), size=20)
    with pytest.raises(ValueError, match="12 channels are not a multiple of norm_num_groups=8"):
        CLIPConfig(TextConfig(), block_out_channels=(12, 32))
    with pytest.raises(ValueError, match="48 channels, which are pooled"):
        CLIPConfig(TextConfig(), block_out_channels=(32, 48))


@torch.no_grad()
def test_a_file_gives_back_the_same_vectors(tmp_path):
    model = clip()
    path = save_model(tmp_path / "clip.safetensors", model, half=True, data="scenes")
    back, meta = load_model(path)
    assert back.config == model.config and meta == {"data": "scenes"} and not back.training
    tokens = model.tokenizer(ORDERS)
    assert (back.of_texts(tokens) - model.of_texts(tokens)).abs().max() < 2e-3
    assert (back.of_pictures(pictures()) - model.of_pictures(pictures())).abs().max() < 2e-3
    assert back.log_scale.item() == model.log_scale.item()  # one number is not rounded
    with pytest.raises(ValueError, match="this is a CLIP; expected a denoiser"):
        load_denoiser(path)

"""The text side by closed forms: tokens, a transformer by hand, what is masked, and prompts in a denoiser."""

import pytest
import torch
from torch import nn

from ldm_course import checkpoints
from ldm_course.config import TextConfig, TextUNetConfig, UNetConfig
from ldm_course.denoiser import Denoiser
from ldm_course.diffusion.samplers import sample
from ldm_course.diffusion.schedules import make_schedule
from ldm_course.networks.text import (
    END,
    PAD,
    SPECIAL,
    START,
    TextEncoder,
    TextUNet,
    Tokenizer,
    vocabulary,
    words_of,
)
from ldm_course.spaces import PixelSpace
from ldm_course.training.recipes import seeded

WORDS = vocabulary(["a red star", "a blue square"])
UNET = UNetConfig(
    block_out_channels=(16, 32),
    attention=(False, True),
    attention_head_dim=16,
    norm_num_groups=4,
    cross_attention_dim=16,
)


def text_config(**options) -> TextConfig:
    return TextConfig(**({"vocab_size": SPECIAL + len(WORDS), "length": 8, "width": 16, "heads": 2} | options))


def reader() -> Denoiser:
    model = seeded(3, TextUNet, TextUNetConfig(UNET, text_config(), WORDS))
    nn.init.normal_(model.unet.conv_out.weight, generator=torch.Generator().manual_seed(1))
    return Denoiser(model.eval(), PixelSpace(8), make_schedule("cosine"), "v")


def test_words_are_plain_and_emoji_are_their_names():
    assert words_of("An  ORANGE cat, with heart-eyes!") == ["an", "orange", "cat", "with", "heart", "eyes"]
    assert words_of("Café") == ["cafe"] and words_of("") == []
    assert words_of("👩🏽‍🚒🍕") == ["woman", "firefighter", "medium", "skin", "tone", "pizza"]
    assert WORDS == ("a", "blue", "red", "square", "star")


@pytest.mark.parametrize("words, length", [(("a", "b", "a"), 8), (("a", "b"), 1), (("a", "b"), 0)])
def test_words_are_there_once_and_both_ends_have_room(words, length):
    with pytest.raises(ValueError, match=f"{len(words)} words, length={length}; expected no word twice"):
        Tokenizer(words, length)


def test_tokens_have_two_ends_and_one_length():
    tokens = Tokenizer(WORDS, 6)(["A star", "", "red zebra", "a red star a blue square"])
    number = {word: i for i, word in enumerate(WORDS, SPECIAL)}
    assert tokens.tolist() == [
        [START, number["a"], number["star"], END, PAD, PAD],
        [START, END, PAD, PAD, PAD, PAD],
        [START, number["red"], END, PAD, PAD, PAD],
        [START, number["a"], number["red"], number["star"], number["a"], END],
    ]
    assert Tokenizer(WORDS, 6).unknown("red zebra") == ["zebra"]
    assert Tokenizer(WORDS, 6).cut("a red zebra star a blue square") == ["blue", "square"]
    assert Tokenizer(WORDS, 6)([]).shape == (0, 6)


@torch.no_grad()
def test_a_layer_by_hand():
    """x + out(softmax(q kᵀ / √d) v) of the normed x, then x + fc2(gelu(fc1(norm x)))."""
    encoder = seeded(0, TextEncoder, text_config(layers=1, positions=False)).double()
    tokens = torch.tensor([[START, 5, 6, END, PAD, PAD]])
    layer, x = encoder.layers[0], encoder.token_embedding(tokens)
    h, heads = layer.layer_norm1(x), []
    for part in (slice(0, 8), slice(8, 16)):
        q, k, v = (f(h)[..., part] for f in (layer.q_proj, layer.k_proj, layer.v_proj))
        weight = q @ k.transpose(1, 2) / 8**0.5
        weight[..., 4:] = -torch.inf  # padding is not read
        heads.append(weight.softmax(-1) @ v)
    x = x + layer.out_proj(torch.cat(heads, -1))
    x = x + layer.fc2(nn.functional.gelu(layer.fc1(layer.layer_norm2(x))))
    assert (encoder(tokens) - encoder.final_layer_norm(x)).abs().max() < 1e-12


@torch.no_grad()
def test_padding_changes_nothing_and_causal_texts_do_not_look_ahead():
    encoder = seeded(0, TextEncoder, text_config())
    short, long = (Tokenizer(WORDS, length)(["a red star"]) for length in (5, 8))
    assert (encoder(long)[:, :5] - encoder(short)).abs().max() < 1e-6
    causal = seeded(0, TextEncoder, text_config(causal=True))
    one, other = torch.tensor([[START, 5, 6, 7, END]]), torch.tensor([[START, 5, 6, 4, END]])
    gap = (causal(one) - causal(other)).abs().amax(-1)[0]
    assert (gap[:3] == 0).all() and (gap[3:] > 1e-4).all()
    assert ((encoder(one) - encoder(other)).abs().amax(-1) > 1e-5).all()


@torch.no_grad()
def test_a_bag_of_words_has_no_order_and_a_transformer_has():
    tokens = torch.tensor([[START, 5, 6, 7, END]])
    turned = tokens[:, [0, 3, 2, 1, 4]]
    for layers, positions, same in ((0, False, True), (2, True, False)):
        encoder = seeded(0, TextEncoder, text_config(layers=layers, positions=positions))
        gap = (encoder(tokens).sum(1) - encoder(turned).sum(1)).abs().max()
        assert (gap < 1e-5) == same


def test_the_text_and_the_network_must_fit():
    with pytest.raises(ValueError, match=r"width 16.*one of 32"):
        TextUNetConfig(UNET, text_config(width=32), WORDS)
    with pytest.raises(ValueError, match=r"expected \(B, up to 8\)"):
        TextEncoder(text_config())(torch.zeros(1, 9, dtype=torch.int64))


@torch.no_grad()
def test_tokens_or_what_was_made_of_them():
    model, tokens = reader().model, Tokenizer(WORDS, 8)(["a red star", "a blue square"])
    x, t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 700])
    told = model(x, t, tokens)
    assert torch.equal(told, model(x, t, model.encode(tokens)))
    assert (told - model(x, t, tokens.flip(0))).abs().max() > 1e-3


# ------------------------------------------------------------------------------------------- prompts


def test_a_prompt_is_followed_and_none_is_the_empty_text():
    d = reader()
    options = {"steps": 3, "seed": 2}
    plain, empty, star = (d.generate(2, prompt=prompt, **options) for prompt in (None, "", "a red star"))
    assert torch.equal(plain, empty) and not torch.equal(plain, star)
    each = d.generate(2, prompt=["", "a red star"], **options)
    assert torch.equal(each, torch.stack([plain[0], star[1]]))


def test_pictures_are_edited_by_prompts():
    """Translated by hand: up under what the picture shows, down under what is asked for."""
    d, options = reader(), {"steps": 4, "method": "dpmpp"}
    given = torch.randint(256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    shows, asked = ["a red star", "a blue square"], {"prompt": "a blue square", "negative_prompt": "a red star"}
    noise = d.invert(given, prompt=shows, **options)

    def from_noise(predict_x0, _, rows, **sampler):
        return sample(predict_x0, noise[rows], d.schedule, **sampler)

    made = d.translate(given, shows, **asked, guidance_scale=2.0, **options)
    assert torch.equal(made, d.generate(2, draw=from_noise, **asked, guidance_scale=2.0, **options))
    assert not torch.equal(made, d.translate(given, shows, **asked, **options))
    assert not torch.equal(made, d.translate(given, None, **asked, guidance_scale=2.0, **options))
    assert not torch.equal(*(d.redraw(given, 0.5, prompt=prompt, **options) for prompt in shows))


def test_guidance_leads_from_the_negative_prompt_to_the_prompt():
    """x̂₀ is what the negative prompt gives, and s times the difference; s = 1 is the prompt alone."""
    d = reader()
    xt = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    condition = d.condition(1, prompt="a red star", negative_prompt="a blue square")
    star, square = d.condition(1, prompt="a red star"), d.condition(1, prompt="a blue square")
    d = Denoiser(d.model, PixelSpace(8, clip_x0=False), d.schedule, "v")
    at = {name: d.predictor(c)(xt, 500) for name, c in (("star", star), ("square", square))}
    for s in (0.0, 1.0, 2.5):
        expected = at["square"] + s * (at["star"] - at["square"])
        assert (d.predictor(condition, s)(xt, 500) - expected).abs().max() < 1e-4
    # in an interval only
    inside, outside = (d.predictor(condition, 2.5, (400, 600))(xt, t) for t in (500, 700))
    assert torch.equal(inside, d.predictor(condition, 2.5)(xt, 500))
    assert torch.equal(outside, d.predictor(star)(xt, 700))


def test_what_is_asked_wrongly_is_said_in_one_line():
    d = reader()
    with pytest.raises(ValueError, match="give a prompt in place of a label"):
        d.generate(1, label=0)
    with pytest.raises(ValueError, match="3 prompts for 2 pictures"):
        d.generate(2, prompt=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"guidance_interval=\(5, 2\)"):
        d.generate(1, prompt="a", guidance_scale=2, guidance_interval=(5, 2))
    plain = Denoiser(d.model.unet, d.space, d.schedule, "v")
    for asked in ({"prompt": "a star"}, {"negative_prompt": "a star"}):
        with pytest.raises(ValueError, match="trained without texts"):
            plain.generate(1, **asked)
    assert d.notes("a red zebra") == ["not in its vocabulary, so passed over: zebra"]
    assert d.notes("zebra")[1].startswith("no word of it is known") and d.notes("") == []
    assert d.notes(" ".join(f"zebra{i}" for i in range(15)))[0].endswith("zebra11, and 3 more")
    assert d.notes("a red star " * 4)[0].endswith("the last 6 were left out") and d.notes("a red star") == []


def test_a_file_gives_back_what_draws_the_same(tmp_path):
    d = reader()
    path = checkpoints.save_denoiser(tmp_path / "reader.safetensors", d)
    again = checkpoints.load_denoiser(path)
    assert again.reads and again.model.config == d.model.config
    assert torch.equal(again.generate(2, prompt="a red star", steps=2), d.generate(2, prompt="a red star", steps=2))

"""InfoNCE by hand, both ways and at any temperature; and a batch that must be seen whole."""

import math

import pytest
import torch
import torch.nn.functional as F

from ldm_course.config import CLIPConfig, TextConfig, TrainConfig
from ldm_course.data.loaders import load_data
from ldm_course.data.pictures import Pictures
from ldm_course.diffusion.objectives import BatchRandom
from ldm_course.networks.clip import LARGEST_SCALE
from ldm_course.training.contrastive import ContrastiveObjective, info_nce
from ldm_course.training.recipes import clip_trainer

NETWORK = CLIPConfig(
    TextConfig(width=16, layers=1, heads=2, causal=True), block_out_channels=(8, 16), attention_head_dim=8, width=8
)


def scenes(count=24):
    return load_data("scenes", 16, limit=count)


def trainer(**config):
    config = TrainConfig(**({"batch_size": 8, "steps": 4, "warmup_steps": 1} | config))
    return clip_trainer(scenes(), NETWORK, config)


@pytest.mark.parametrize("scale", [0.5, 1.0, 14.3, 100.0])
def test_two_pairs_in_closed_form(scale):
    """Angles of a picture to both texts: each direction is log(1 + exp(-scale · lead of the right one))."""
    of_pictures, of_texts = torch.tensor([0.0, 0.2]), torch.tensor([0.1, 1.4])
    pictures, texts = (torch.stack([a.cos(), a.sin()], 1) for a in (of_pictures, of_texts))
    c = [[math.cos(p - t) for t in of_texts.tolist()] for p in of_pictures.tolist()]
    rows = [math.log1p(math.exp(-scale * (c[i][i] - c[i][1 - i]))) for i in (0, 1)]
    columns = [math.log1p(math.exp(-scale * (c[i][i] - c[1 - i][i]))) for i in (0, 1)]
    assert abs(sum(rows) - sum(columns)) > 0.01  # or the test would not tell one from both
    assert info_nce(pictures, texts, scale).item() == pytest.approx(sum(rows + columns) / 4, abs=2e-5)


def test_what_knows_nothing_pays_log_n_and_what_knows_all_nothing():
    n = 12
    same = torch.ones(n, 1)
    assert info_nce(same, same, 50.0).item() == pytest.approx(math.log(n))
    assert info_nce(torch.eye(n), torch.eye(n), 100.0).item() == pytest.approx(0, abs=1e-6)
    turned = info_nce(torch.eye(n), torch.eye(n).roll(1, 0), 10.0).item()
    assert turned == pytest.approx(math.log(n - 1 + math.exp(10.0)), abs=1e-4)


def test_the_gradient_is_what_is_said_less_what_is_right():
    """d loss / d logits = (softmax over rows + softmax over columns - 2 · identity) / 2N; the rest is a chain."""
    generator = torch.Generator().manual_seed(0)
    pictures, texts = (F.normalize(torch.randn(5, 4, generator=generator), dim=1).requires_grad_() for _ in range(2))
    scale = torch.tensor(7.0, requires_grad=True)
    info_nce(pictures, texts, scale).backward()
    with torch.no_grad():
        cosines = pictures @ texts.T
        logits = scale * cosines
        by_logit = (logits.softmax(1) + logits.softmax(0) - 2 * torch.eye(5)) / 10
        assert (pictures.grad - scale * by_logit @ texts).abs().max() < 1e-6
        assert (texts.grad - scale * by_logit.T @ pictures).abs().max() < 1e-6
        assert scale.grad.item() == pytest.approx((by_logit * cosines).sum().item(), abs=1e-6)


def test_logits_keep_their_precision_within_autocast():
    generator = torch.Generator().manual_seed(0)
    pictures, texts = (F.normalize(torch.randn(64, 32, generator=generator), dim=1) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        within = info_nce(pictures, texts, 100.0)
    assert within.item() == info_nce(pictures, texts, 100.0).item()


def test_a_batch_in_parts_is_refused():
    with pytest.raises(ValueError, match="accumulate=2; CLIP tells each pair from all"):
        trainer(accumulate=2)
    t, second = trainer(), BatchRandom(0, 0, 8, slice(4, 8), "cpu")  # of two processes
    with pytest.raises(ValueError, match=r"4 pairs of a batch of 8; .* train on one process"):
        t.objective(t.model, torch.arange(4), second)


def test_what_cannot_be_paired_is_refused():
    plain = Pictures(scenes().images, name="plain")
    with pytest.raises(ValueError, match="plain has no captions"):
        clip_trainer(plain, NETWORK, TrainConfig(steps=1))
    with pytest.raises(ValueError, match="in a mirrored picture"):
        clip_trainer(scenes(), NETWORK, TrainConfig(steps=1, flip=True))
    with pytest.raises(ValueError, match="batches of 25 from 24 pairs"):
        clip_trainer(scenes(), NETWORK, TrainConfig(steps=1, batch_size=25))
    with pytest.raises(ValueError, match="3 texts for 24 pictures"):
        ContrastiveObjective(scenes(), torch.zeros(3, 8, dtype=torch.int64))


def test_of_several_texts_one_is_drawn_at_a_time():
    data = scenes()
    t = clip_trainer(data, NETWORK, TrainConfig(steps=1, batch_size=8), captions=[("red", "blue")] * len(data))
    assert t.objective.tokens.shape == (len(data), 2, NETWORK.text.length)
    with pytest.raises(ValueError, match="23 texts for 24 pictures"):
        clip_trainer(data, NETWORK, TrainConfig(steps=1, batch_size=8), captions=[("red",)] * 23)
    read = []

    def model(x, tokens):
        read.append(tokens[:, 1])
        return torch.eye(len(x)), torch.eye(len(x)), torch.tensor(1.0)

    for step in range(40):
        t.objective(model, torch.arange(8), BatchRandom(0, step, 8, slice(None), "cpu"))
    blue = (torch.stack(read) == t.model.tokenizer(["blue"])[0, 1]).float()
    assert (0.2 < blue.mean(0)).all() and (blue.mean(0) < 0.8).all()  # of 40: 0.5, some 0.08 more or less
    assert 0.3 < blue.std(1).mean()  # each picture draws its own


def test_the_scale_is_learnt_and_comes_down_again_from_its_bound():
    t = trainer(lr=1e-2)
    before = t.model.log_scale.item()
    t.run()
    assert t.model.log_scale.item() != before
    assert t.progress.history[-1]["scale"] == pytest.approx(math.exp(before), rel=0.1)
    t = trainer(lr=0.1)
    with torch.no_grad():
        t.model.log_scale.fill_(9.0)
    losses = t.objective(t.model, torch.arange(8), BatchRandom(0, 0, 8, slice(None), "cpu"))
    assert losses["scale"].item() == pytest.approx(LARGEST_SCALE)
    losses["loss"].backward()
    assert t.model.log_scale.grad.item() > 0  # so sure, and wrong: it is to fall
    t.run(until=1)
    assert t.model.log_scale.item() < math.log(LARGEST_SCALE) - 0.05


def test_it_learns_which_caption_belongs_to_which_picture():
    t = trainer(batch_size=24, steps=150, lr=3e-3, decay="cosine")
    every, rng = torch.arange(24), BatchRandom(0, 0, 24, slice(None), "cpu")
    assert t.objective(t.model, every, rng)["loss"].item() > 3  # log 24 is 3.2
    t.run()
    assert t.objective(t.snapshot(), every, rng)["loss"].item() < 0.5

"""What tells copies: noisy copies are near to training pictures, other pictures as often to the held-out ones."""

import pytest
import torch

from ldm_course.data.pictures import Pictures
from ldm_course.data.scenes import render
from ldm_course.measure.copying import copying


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def scenes():
    return render(0, range(360), 32)


@pytest.mark.parametrize("space", ["pixels", "features"])
def test_noisy_copies_are_told_from_other_pictures(scenes, space):
    train, held_out, others = scenes[:120], Pictures(images=scenes[120:280]), scenes[280:]
    noise = (3 * normal(40, 3, 32, 32)).round()
    copies = (train[:40] + noise).clamp(0, 255).to(torch.uint8)
    copied = copying(copies, train, held_out, space=space)
    assert copied["share"] > 0.95 and copied["n"] == 40 and copied["nearest_train"] < copied["nearest_held_out"]
    nothing = copying(others, train, held_out, space=space)
    assert abs(nothing["share"] - 0.5) < 3 * nothing["error"]
    assert copied["share"] > 0.5 + 3 * copied["error"]


def test_the_share_and_its_medians_by_hand():
    train, held_out = torch.tensor([[0.0], [10.0], [20.0]]), torch.tensor([[4.0], [14.0], [24.0]])
    found = copying(torch.tensor([[1.0], [3.0], [2.0], [10.5], [21.0]]), train, held_out)
    assert found["share"] == pytest.approx((1 + 0 + 0.5 + 1 + 1) / 5)
    assert found["nearest_train"] == 1 and found["nearest_held_out"] == 3
    shares = torch.tensor([2, 1, 1, 1]) / 5  # 0 is nearest to two, 4, 10 and 20 to one each
    assert found["error"] == pytest.approx(shares.square().sum().sqrt().item() / 2)


def test_the_error_is_the_scatter_over_splits_even_where_few_pictures_are_near_to_all():
    """New splits of one set into training and held-out pictures, for features that all lie near the middle of it."""
    known, made = normal(200, 16, seed=1), 0.3 * normal(150, 16, seed=2)
    found = []
    for seed in range(200):
        order = torch.randperm(200, generator=torch.Generator().manual_seed(seed))
        found.append(copying(made, known[order[:100]], known[order[100:]]))
    shares, errors = (torch.tensor([f[name] for f in found]) for name in ("share", "error"))
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert errors.mean() > 1.5 * 0.5 / 150**0.5  # more than as many independent pictures would have
    assert errors.mean() / shares.std() == pytest.approx(1, abs=0.2)


def test_equal_counts_are_drawn_at_random():
    train, held_out = torch.arange(100.0)[:, None], torch.full((400, 1), 1e6)
    held_out[300:] = torch.arange(100.0)[:, None] + 0.4  # the first of a sorted set would be no sample
    made = torch.arange(100.0)[:, None] + 0.3
    share = copying(made, train, held_out)["share"]
    assert 0.6 < share < 0.9  # about a quarter of the near ones are drawn
    assert copying(made, train, held_out) == copying(made, train, held_out)
    assert copying(made, train, held_out, seed=1)["share"] != share
    assert copying(made, held_out, train)["share"] == pytest.approx(1 - share)


def test_a_wrong_space_is_named():
    with pytest.raises(ValueError, match="space='colour'"):
        copying(torch.rand(3, 2), torch.rand(3, 2), torch.rand(3, 2), space="colour")

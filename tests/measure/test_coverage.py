"""Precision and recall of sets for which they are known, and held to a plain loop."""

import pytest
import torch

from ldm_course.measure import coverage
from ldm_course.measure.coverage import precision_recall, radii


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_radii_on_a_line():
    points = torch.tensor([[0.0], [1.0], [3.0], [7.0], [7.5]])
    assert radii(points, k=1).tolist() == pytest.approx([1, 1, 2, 0.5, 0.5])
    assert radii(points, k=3).tolist() == pytest.approx([7, 6, 4, 6, 6.5])
    assert radii(points, k=4).tolist() == pytest.approx([7.5, 6.5, 4.5, 7, 7.5])


def test_it_is_the_papers_double_loop(monkeypatch):
    monkeypatch.setattr(coverage, "BLOCK", 16)
    a, b = normal(50, 5, seed=1) * 0.8 + 0.4, normal(70, 5, seed=2)

    def region(points, of, k=3):
        reach = [sorted((q - p).norm().item() for j, q in enumerate(of) if j != i)[k - 1] for i, p in enumerate(of)]
        return sum(any((x - p).norm() <= r for p, r in zip(of, reach)) for x in points) / len(points)

    expected = region(a, b), region(b, a)
    assert 0.5 < expected[1] < expected[0] < 1
    assert precision_recall(a, b) == pytest.approx(expected)
    assert precision_recall(a, b, reference_radii=radii(b)) == pytest.approx(expected)


def test_one_distribution_is_near_1_in_both():
    assert min(precision_recall(normal(1000, 4, seed=1), normal(2000, 4, seed=2))) > 0.95


def test_a_collapsed_set_is_precise_and_covers_nothing():
    real = normal(2000, 4, seed=2)
    precision, recall = precision_recall(real[:1] + 0.01 * normal(500, 4, seed=1), real)
    assert precision > 0.95 and recall < 0.02


def test_half_of_the_modes_are_half_of_the_recall():
    real = normal(2000, 4, seed=2) + 50 * (torch.arange(2000) % 2)[:, None]
    precision, recall = precision_recall(normal(800, 4, seed=1), real)
    assert precision > 0.95 and recall == pytest.approx(0.5, abs=0.05)


def test_noise_around_the_data_is_not_precise():
    """In 64 dimensions features of 3 times the scale lie far outside, while their wide balls hold the real ones."""
    precision, recall = precision_recall(3 * normal(500, 64, seed=1), normal(1000, 64, seed=2))
    assert precision == 0 and recall > 0.9


@pytest.mark.parametrize(
    "wrong, says",
    [
        (lambda: radii(torch.rand(3, 8)), "k=3 with 3 features; expected 1 to 2"),
        (lambda: radii(torch.zeros(9, 3, 8, 8, dtype=torch.uint8)), "expected finite float features"),
        (lambda: precision_recall(torch.rand(9, 8), torch.rand(9, 7)), "features of one width"),
        (lambda: precision_recall(torch.rand(9, 8), torch.rand(9, 8).log().log()), "or NaN in it; expected finite"),
        (lambda: precision_recall(torch.rand(9, 8) / 0, torch.rand(9, 8)), "expected finite"),
    ],
)
def test_mistakes_are_named_in_one_line(wrong, says):
    with pytest.raises(ValueError, match=says) as error:
        wrong()
    assert "\n" not in str(error.value)

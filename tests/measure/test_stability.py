"""How calm a training is: spikes by their definition, spreads, and when a difference of spreads is one."""

import math

import pytest
import torch

from ldm_course.measure.stability import Calm, calm, calmer, resolved, spikes, spread


def noisy_curve(steps=400, noise=0.1):
    rng = torch.Generator().manual_seed(0)
    return (torch.linspace(2, 1, steps) + noise * torch.randn(steps, generator=rng)).tolist()


def test_noise_is_no_spike_and_a_leap_is_one_whatever_the_scale():
    curve = noisy_curve()
    assert spikes(curve) == []
    leaping = list(curve)
    leaping[200] += 1.5
    leaping[300] -= 1.5  # downwards is none
    assert spikes(leaping) == [200]
    assert spikes([1000 * v for v in leaping]) == [200]


def test_the_threshold_is_the_median_and_six_robust_deviations():
    before = [float(v) for v in range(25)]  # median 12, absolute deviations 0, 1, 1, ... 12, 12: median 6
    edge = 12 + 6 * 1.4826 * 6
    assert spikes([*before, edge + 1e-6]) == [25] and spikes([*before, edge - 1e-6]) == []
    assert spikes([*before[:24], 1e9]) == []  # too few before it


def test_what_is_not_finite_is_a_spike_and_spoils_no_other():
    curve = noisy_curve()
    curve[10], curve[100] = math.nan, math.inf
    assert spikes(curve) == [10, 100]


def test_spread_is_that_of_a_sample_over_its_mean():
    assert spread([1.0, 2.0, 3.0]) == pytest.approx(1 / 2) and spread([-1.0, -2.0, -3.0]) == pytest.approx(1 / 2)
    with pytest.raises(ValueError, match="got 1 value"):
        spread([1.0])


def test_how_far_apart_spreads_must_be_by_simulation():
    """Of two samples of one normal distribution, 5 % have standard deviations further apart than that."""
    assert resolved(3) == pytest.approx(math.sqrt(39.0), rel=1e-3)  # the tables' F(2, 2) at 97.5 %
    rng = torch.Generator().manual_seed(0)
    for count in (3, 5):
        one, other = torch.randn(2, 200_000, count, generator=rng, dtype=torch.float64).std(-1)
        ratio = torch.maximum(one, other) / torch.minimum(one, other)
        assert (ratio > resolved(count)).double().mean().item() == pytest.approx(0.05, abs=0.003)


def quality(kd):
    return {"kd_e": kd}


def run(space, kd, times=1, loss_spikes=(), images=64, gap=0.0):
    point = {"images": images, "step": 40, "loss_test": 0.3, "quality": quality(kd + gap), "again": quality(kd - gap)}
    return {"space": space, "times": times, "points": [point], "spikes": {"loss": list(loss_spikes), "grad_norm": []}}


def test_calm_reads_the_stage():
    runs = [run("pixel", 1.0, loss_spikes=[30, 41]), run("pixel", 3.0, gap=0.4), run("pixel", 5.0, times=4)]
    found = calm({"runs": runs}, "pixel", 64)
    assert found.kd_e == pytest.approx([1.0, 3.0]) and found.loss == [0.3, 0.3]
    assert found.leaps == 1 and found.steps == 80  # the one at step 41 is after the mark
    assert found.by_rate == pytest.approx({1: 2.0, 4: 5.0}) and found.stands() == 1
    # a pair 2 * 0.4 apart has the variance 0.32; of a mean of two, 0.16; over two networks; relative to 2
    assert found.drawn == pytest.approx(math.sqrt(0.16 / 2) / 2)
    assert calm({"runs": runs}, "pixel", 65) is None


def test_each_test_says_who_is_calmer_or_that_it_cannot_tell():
    def of(values=(1.0, 1.1, 1.2), leaps=0, moved=1.5):
        mean = sum(values) / len(values)
        return Calm(list(values), [1.0] * 3, 0.01, leaps, 300, {1: mean, 4: mean * moved})

    wide, narrow = (0.1, 1.0, 3.0), (1.0, 1.01, 1.02)
    assert calmer(of(wide), of(narrow))["seeds"] is True and calmer(of(narrow), of(wide))["seeds"] is False
    assert calmer(of(), of((1.0, 1.15, 1.3)))["seeds"] is None  # 1.5 times is nothing from three
    assert calmer(of(leaps=5), of())["spikes"] is True and calmer(of(leaps=4), of())["spikes"] is None
    assert calmer(of(), of(moved=1.05))["learning rate"] is True
    assert calmer(of(moved=1.05), of())["learning rate"] is False
    assert calmer(of(moved=9.0), of(moved=1.5))["learning rate"] is None  # both fail: how far is no matter
    assert calmer(of(moved=0.5), of(moved=1.0))["learning rate"] is None
    assert set(calmer(of(), of())) == {"seeds", "spikes", "learning rate"}


def test_a_rate_beyond_one_that_failed_counts_no_more():
    def stands(**by_rate):
        return Calm([1.0] * 3, [1.0] * 3, 0.0, 0, 9, {int(k[1:]): v for k, v in by_rate.items()}).stands()

    assert stands(x1=1.0, x4=1.09, x16=1.0) == 16 and stands(x1=1.0, x4=1.09, x16=1.2) == 4
    assert stands(x1=1.0, x4=1.2, x16=1.0) == 1 and stands(x1=1.0, x4=math.nan) == 1
    assert stands(x1=math.inf, x4=1.0) == 0


def test_a_training_that_diverged_has_failed():
    def diverged(times):
        return {"space": "pixel", "times": times, "points": [], "diverged": "the loss is nan"}

    usual = [run("pixel", 1.0), run("pixel", 1.0), run("pixel", 1.0, times=4)]
    assert calm({"runs": [*usual, diverged(16)]}, "pixel", 64).stands() == 4
    assert calm({"runs": [*usual, diverged(1)]}, "pixel", 64).stands() == 0
    assert calm({"runs": [diverged(1)]}, "pixel", 64) is None


def test_every_threshold_can_be_turned():
    def of(values=(1.0, 1.1, 1.2), leaps=0, moved=1.5):
        return Calm(list(values), [1.0] * 3, 0.01, leaps, 300, {1: 1.0, 4: moved})

    wide = (0.9, 1.1, 1.3)  # twice the spread
    assert calmer(of(wide), of())["seeds"] is None and calmer(of(wide), of(), chance=0.5)["seeds"] is True
    assert calmer(of(leaps=4), of())["spikes"] is None and calmer(of(leaps=4), of(), deviations=1.9)["spikes"] is True
    assert calmer(of(moved=1.2), of(moved=1.3))["learning rate"] is None
    assert calmer(of(moved=1.2), of(moved=1.3), worse=0.25)["learning rate"] is False
    assert resolved(3, 0.1) < resolved(3) == pytest.approx(6.245, abs=1e-3)

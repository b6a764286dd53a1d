"""Chapter 6's accounts and figures, from rows made up here."""

import math

import pytest

from ldm_course.lab import speedups
from ldm_course.page import plotting


def sampled(space, method, steps, flops, seconds, alone=None):
    row = {"space": space, "method": method, "steps": steps, "flops_picture": flops, "seconds_picture": seconds}
    return row | ({"seconds_picture_without_decoder": alone} if alone else {})


RESULTS = {
    "cost": {"decode": {"flops": 10}},
    "sampling": [
        sampled("latent", "ddim", 50, 110, {"8": 2.0, "64": 0.5}, {"8": 1.6, "64": 0.25}),
        sampled("pixel", "ddim", 50, 1000, {"8": 8.0, "64": 5.0}),
        sampled("pixel", "ddpm", 1000, 20_000, {"8": 160.0, "64": 100.0}),
        sampled("pixel", "ddim", 100, 2000, {"8": 1.0, "64": 1.0}),  # is on no bill
    ],
}


def test_a_bill_goes_from_ddpm_to_decoded_latents():
    assert speedups.bills(RESULTS) == {
        "FLOPs": [20_000, 1000, 100, 110],
        "seconds, batch 64": [100.0, 5.0, 0.25, 0.5],
        "seconds, batch 8": [160.0, 8.0, 1.6, 2.0],
    }


def test_the_factors_multiply_to_the_whole():
    for bill in speedups.bills(RESULTS).values():
        assert math.prod(speedups.factors(bill).values()) == pytest.approx(bill[0] / bill[3])
    assert speedups.factors([1000, 50, 5, 10]) == {"fewer steps": 20, "cheaper step": 10, "decoder": 0.5}


def test_each_bar_begins_where_the_one_before_ends():
    figure = speedups.waterfall(speedups.bills(RESULTS))
    assert [axes.get_title() for axes in figure.axes] == ["FLOPs", "seconds, batch 64", "seconds, batch 8"]
    bars = [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in figure.axes[1].patches]
    low = 1e-3
    assert bars == [pytest.approx(x) for x in ((low, 1), (0.05, 1), (0.0025, 0.05), (0.0025, 0.005), (low, 0.005))]
    assert [t.get_text() for t in figure.axes[1].texts] == ["1", "÷ 20", "÷ 20", "× 2.00", "1/200"]


def drawn(space, method, steps, seconds, kd, n=64, error=0.01):
    quality = {"kd_e": kd, "kd_e_error": error, "n_generated": n}
    return {"space": space, "method": method, "steps": steps, "seconds_picture": seconds, "quality": quality}


ROWS = [
    drawn("pixel", "ddpm", 10, 1.0, 0.9),
    drawn("pixel", "ddim", 10, 2.0, 0.5),
    drawn("pixel", "dpmpp", 10, 9.0, 0.4),
    drawn("latent", "ddim", 10, 0.2, 0.6),
    drawn("latent", "ddim", 1000, 20.0, 0.1, n=8),
]


def test_samplers_of_one_space_take_the_same_at_equal_steps():
    found = [row["seconds_picture"] for row in speedups.levelled(ROWS)]
    assert found == [2.0, 2.0, 2.0, 0.2, 20.0] and ROWS[0]["seconds_picture"] == 1.0  # the rows given are left alone
    assert speedups.of_one_count(ROWS) == ROWS[:4]


def test_the_front_joins_what_nothing_beats_and_pales_what_is_beaten():
    (axes,) = speedups.fronts({"made up": ROWS}).axes
    *points, step, bar = axes.lines
    assert list(zip(step.get_xdata(), step.get_ydata())) == [(0.2, 0.6), (2.0, 0.5), (9.0, 0.4), (9.0, 0.4)]
    assert [line.get_alpha() for line in points] == [0.3, 1, 1, 1, 0.3]
    assert points[4].get_markerfacecolor() == "none"  # of fewer pictures: no part of the front
    assert [line.get_color() for line in points] == [plotting.PIXEL] * 3 + [plotting.LATENT] * 2
    low, high = bar.get_ydata()
    assert high - low == pytest.approx(2 * math.hypot(0.01, 0.01))

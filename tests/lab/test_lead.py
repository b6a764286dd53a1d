"""Who is ahead at equal budgets: curves whose crossing is known, with and without the first stage's part."""

import math

import pytest

from ldm_course.lab.claims import lead
from ldm_course.lab.claims.rates import Rates


def curve(*points, error=0.1):
    """A training that was judged after so many images, by (images, KD-E)."""
    return [
        {"images": n, "flops": 10 * n, "quality": {"kd_e": kd, "kd_e_error": error, "n_generated": 64}}
        for n, kd in points
    ]


PIXEL, LATENT = curve((100, 4.0), (400, 2.0), (1600, 0.0)), curve((100, 2.0), (400, 1.5), (1600, 1.0))


def test_the_lead_is_taken_at_every_mark_within_the_common_range():
    found = lead.leads(lead.IMAGES, PIXEL, LATENT)
    assert [(x.spent, x.by) for x in found] == [(100, 2.0), (400, 0.5), (1600, -1.0)]
    assert [x.error for x in found] == pytest.approx([0.1 * math.sqrt(2)] * 3) and all(x.resolved for x in found)
    short = lead.leads(lead.IMAGES, PIXEL, curve((200, 1.0), (800, 1.0)))
    assert [(x.spent, x.by) for x in short] == [(200, 2.0), (400, 1.0), (800, 0.0)]  # half-way in log images
    assert [x.resolved for x in short] == [True, True, False]
    assert not lead.leads(lead.IMAGES, PIXEL, curve((2000, 1.0)))


def test_pixels_take_the_lead_where_the_curves_cross_in_log_budget():
    found = lead.crossing(lead.leads(lead.IMAGES, PIXEL, LATENT))
    error = 2 * 0.1 * math.sqrt(2)  # the lead falls from 0.5 to -1 over a factor of 4
    assert found.at == pytest.approx(400 * 4 ** (0.5 / 1.5))
    assert (found.low, found.high) == (
        pytest.approx(400 * 4 ** ((0.5 - error) / 1.5)),
        pytest.approx(400 * 4 ** ((0.5 + error) / 1.5)),
    )


def test_a_lead_that_lasts_or_never_was_has_no_crossing():
    assert lead.crossing([]) is None
    assert lead.crossing(lead.leads(lead.IMAGES, LATENT, PIXEL)) is None  # behind at first, and ahead at the end
    assert lead.crossing(lead.leads(lead.IMAGES, PIXEL, curve((100, 5.0), (1600, 1.0)))) is None
    assert lead.crossing(lead.leads(lead.IMAGES, PIXEL, curve((100, 2.0), (1600, -1.0)))) is None


def test_where_errors_are_wide_or_missing_the_range_says_so():
    wide = lead.crossing(
        lead.leads(
            lead.IMAGES, *(curve(*[(p["images"], p["quality"]["kd_e"]) for p in c], error=5) for c in (PIXEL, LATENT))
        )
    )
    assert wide.low == 100 and wide.high == math.inf
    old = lead.crossing(lead.leads(lead.IMAGES, PIXEL, curve((100, 2.0), (1600, 1.0), error=None)))
    assert (old.low, old.high) == (None, None) and 400 < old.at < 1600
    assert not lead.Lead(1, 9.0, None).resolved


def test_the_first_stage_is_on_the_latents_bill_alone():
    point, first = PIXEL[1], {"variants": {"perceptual": {"training_images": 7}}, "data": {"train": 50}}
    rates = Rates(pixel=0.5, latent=0.1, first_stage=2.0, encode=0.01, says="bf16")
    for alone, included, pixel, latent, own in (
        (lead.flops(), lead.flops({"training_flops": 900}), 4000, 4000, 900),
        (lead.seconds(rates), lead.seconds(rates, first), 200, 40, 14.5),
    ):
        assert alone.pixel(point) == included.pixel(point) == pytest.approx(pixel)
        assert alone.latent(point) == pytest.approx(latent)
        assert included.latent(point) == pytest.approx(latent + own)

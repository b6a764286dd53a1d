"""Fine structures: drawn to the pixel, and read-outs that give known values for known damage."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import mannwhitneyu

from ldm_course.config import AutoencoderConfig
from ldm_course.data.pictures import Pictures, to_float, to_uint8
from ldm_course.measure import structures
from ldm_course.measure.structures import CONTRAST, KINDS, LOCAL, Left, masks, survey
from ldm_course.networks.autoencoder import Autoencoder


@pytest.mark.parametrize("kind", KINDS)
def test_structures_are_as_wide_as_they_say(kind):
    for width in (1, 2, 3):
        drawn = masks(kind, width, 8, 32)
        assert drawn.shape == (8, 1, 32, 32) and 0 <= drawn.min() and drawn.max() <= 1
        assert len(drawn.unique(dim=0)) > 1 and torch.equal(drawn, masks(kind, width, 8, 32))
        if kind in ("checkerboard", "grating"):
            assert abs(drawn.mean().item() - 0.5) < 0.1
            runs = (drawn[0, 0].diff(dim=1) != 0).float() + (drawn[0, 0].T.diff(dim=1) != 0).float()
            assert runs.sum() > 0
        if kind == "dots":  # nine squares, or fewer where two touch the same pixels, which they cannot
            assert drawn.sum((1, 2, 3)).tolist() == [9.0 * width**2] * 8
        assert drawn.sum((1, 2, 3)).min() > 0


def test_a_line_has_the_area_of_its_width_and_length():
    for width in (1, 2, 4):
        x = torch.arange(64.0) - 31.5
        across = structures._band(x - 0.3, width)  # upright, 0.3 beside the middle between two pixels
        assert across.sum().item() == pytest.approx(width, abs=1e-5)
        drawn = masks("line", width, 32, 64)
        # between the side and the diagonal long; a line near a corner is shorter
        assert (drawn.sum((1, 2, 3)) / width).max() <= 64 * math.sqrt(2) + 1
        assert (drawn.sum((1, 2, 3)) / width).median() > 50


def test_digits_are_3_by_5_strokes():
    one = torch.tensor([float(b) for b in structures._DIGITS[1]]).view(5, 3)
    assert one.sum() == 8 and len(structures._DIGITS) == len(set(structures._DIGITS)) == 10
    assert all(len(d) == 15 for d in structures._DIGITS)
    drawn = masks("digits", 2, 4, 32)  # every 2 x 2 block is one bit
    assert (drawn.sum((1, 2, 3)) % 4 == 0).all()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="kind='arrow'; expected one of line, dots"):
        masks("arrow", 1, 1, 32)
    with pytest.raises(ValueError, match="width=5: digits in 32 pixels have a width of 1 to 4"):
        masks("digits", 5, 1, 32)
    assert ("digits", 6) not in structures.fitting((6,), 32) and ("line", 6) in structures.fitting((6,), 32)


def test_grounds_leave_room_for_the_contrast():
    ground = structures.grounds(64, 32)
    assert ground.min() >= -0.9 and (ground + CONTRAST).max() <= 0.9 + 1e-6
    assert torch.equal(ground[:, 0], ground[:, 2])


def test_nothing_is_lost_by_doing_nothing_and_all_by_a_blank():
    kept = survey(lambda x: x, (1, 3), count=6, size=32)
    blank = survey(torch.zeros_like, (1, 3), count=6, size=32)
    assert set(kept) == set(KINDS)
    for kind, width in structures.fitting((1, 3), 32):
        left, lost = kept[kind][width], blank[kind][width]
        assert left.contrast == pytest.approx(1, abs=1e-4) and left.auc > 0.99 and left.kept()
        assert lost.contrast == 0 and lost.auc == 0.5 and not lost.kept()
        assert (left.off_by is None) == (kind not in LOCAL)
        if kind in LOCAL:
            assert left.off_by < 0.6 < 1.5 < left.blind and lost.blind == left.blind


def test_contrast_is_the_factor_that_is_left():
    ground = structures.grounds(6, 32)

    def faded(x):  # the structure at 30 %, the ground as it is
        return ground + 0.3 * (x - ground)

    for kind, by_width in survey(faded, (1, 2), count=6, size=32).items():
        assert all(left.contrast == pytest.approx(0.3, abs=1e-4) for left in by_width.values()), kind


def test_a_shift_is_found_as_such():
    for pixels in (2, 4):
        moved = survey(partial(torch.roll, shifts=pixels, dims=-1), (1,), count=16, size=64)["dots"][1]
        assert moved.off_by == pytest.approx(pixels, abs=0.35) and moved.auc > 0.99
        assert abs(moved.contrast) < 0.25 and not moved.kept()


def test_auc_counts_pairs():
    assert structures.auc(torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0])) == 1
    assert structures.auc(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 1.0])) == (0 + 0.5 + 1 + 1) / 4
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 4000, generator=generator)
    coarse, other = a.double().round(), b[:700].double().round()  # with many ties
    u = mannwhitneyu(coarse, other).statistic
    assert structures.auc(coarse, other) == pytest.approx(u / (len(coarse) * len(other)), rel=1e-12)
    # two normals of unit spread, one apart: Phi(1 / sqrt(2))
    assert structures.auc(a + 1, b) == pytest.approx(0.5 * (1 + math.erf(0.5)), abs=0.015)


def test_the_brightest_are_as_many_as_asked_and_judged_against_their_surround():
    images = torch.zeros(2, 3, 32, 32)
    images += torch.linspace(-1, 1, 32)  # a slope, whose bright end is no structure
    images[0, :, 5, 3], images[0, :, 20, 10] = 1.0, 1.0
    marks, score = structures.brightest(images, torch.tensor([2, 2]))
    assert marks.sum(1).tolist() == [2, 2] and score[0] > 4 * score[1]
    assert set(marks[0].nonzero().flatten().tolist()) == {5 * 32 + 3, 20 * 32 + 10}


def test_distances_by_hand():
    mask = torch.zeros(1, 1, 8, 8)
    mask[0, 0, 2, 3], mask[0, 0, 7, 7] = 1.0, 0.4  # less than half covered is not the structure
    far = structures.distances(mask)[0].view(8, 8)
    assert far[2, 3] == 0 and far[5, 7] == 5 and far[7, 7] == pytest.approx(math.sqrt(41))


def test_the_linear_code_is_the_best_one():
    drawn = structures.training_set(128, 32, (1, 2))
    x = to_float(drawn.images)
    # three equal channels: four numbers hold a 2 x 2 block whole
    assert (structures.linear_code(drawn, 2, 4)(x) - x).abs().max() < 1e-4
    rest = (structures.linear_code(drawn, 4, 4)(x) - x).square().mean()
    blocks = F.pixel_unshuffle(x, 4).permute(0, 2, 3, 1).reshape(-1, 48)
    kept = torch.linalg.svdvals(blocks - blocks.mean(0))
    assert rest.item() == pytest.approx((kept[4:].square().sum() / blocks.numel()).item(), rel=1e-3)
    pooled = F.interpolate(F.avg_pool2d(x, 4), scale_factor=4)  # one number a block, and linear
    assert rest < (pooled - x).square().mean()


def test_the_bicubic_control_keeps_what_is_coarse():
    flat = torch.full((1, 3, 32, 32), 0.25)
    assert (structures.bicubic(4)(flat) - flat).abs().max() < 1e-5
    passed = survey(structures.bicubic(4), (1, 4), count=6, size=32)
    assert passed["checkerboard"][1].contrast < 0.02 and passed["line"][4].contrast > 0.4


def test_a_reconstruction_is_the_mean_decoded_and_clipped():
    torch.manual_seed(0)
    model = Autoencoder(AutoencoderConfig(block_out_channels=(8, 8), norm_num_groups=4)).eval()
    x = torch.rand(3, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        by_hand = model.decode(model.encode(x).z_mean).clamp(-1, 1)
    assert (model.reconstruct(x) - by_hand).abs().max() < 1e-6


def test_the_training_set_has_every_kind_and_is_not_the_test():
    drawn = structures.training_set(60, 32, (1, 2))
    assert isinstance(drawn, Pictures) and len(drawn) == 60 and drawn.images.dtype == torch.uint8
    tests = to_uint8(structures.grounds(4, 32) + CONTRAST * masks("line", 1, 4, 32))
    assert not any(torch.equal(a, b) for a in drawn.images for b in tests)


def test_kept_needs_all_three():
    assert Left(0.5, 0.9, 1.0, 5.0).kept() and Left(1.5, 1.0, None, None).kept()
    assert not Left(0.49, 1, 0, 5).kept() and not Left(1.6, 1, 0, 5).kept()
    assert not Left(1, 0.89, 0, 5).kept() and not Left(1, 1, 1.1, 5).kept()
    assert Left(0.49, 0.89, 1.1, 5).kept(faded=0.6, told=0.8, astray=2)


def test_kinds_are_counted_by_way_and_width():
    row = {"f": 4, "way": "a", "width": 1, "contrast": 1.0, "auc": 1.0, "off_by": None, "blind": None}
    rows = [row, row | {"contrast": 0.1}, row | {"width": 2}, row | {"f": 8, "auc": 0.5}]
    assert structures.kept_kinds(rows, 1) == {(4, "a"): 1, (8, "a"): 0}

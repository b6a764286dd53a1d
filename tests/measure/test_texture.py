"""Texture varied alone: pictures whose block means stay, and curves whose answer is known."""

import math

import pytest
import torch

from ldm_course.data import scenes
from ldm_course.data.pictures import to_float
from ldm_course.denoiser import Denoiser
from ldm_course.diffusion.schedules import make_schedule, target
from ldm_course.measure import texture
from ldm_course.measure.content import grey, rms
from ldm_course.spaces import PixelSpace

SCHEDULE = make_schedule("cosine")


def test_fine_texture_leaves_the_block_means_and_nothing_else():
    plain, faint, strong = (to_float(texture.finely_textured(range(40), 32, s)) for s in (0, 1, 4))
    assert torch.equal(plain, to_float(scenes.render(0, range(40), 32, texture=0)))
    assert grey(rms(faint - plain)) == pytest.approx(1.9, abs=0.2)
    assert grey(rms(strong - plain)) == pytest.approx(7.2, abs=0.5)
    for x in (faint, strong):
        change = texture.block_means(x - plain)
        assert grey(rms(change)) < 0.4 and grey(change.abs().median().item()) < 0.25  # rounding, and clipped white
    rendered = to_float(scenes.render(0, range(40), 32, texture=4))
    assert grey(rms(texture.block_means(rendered - plain))) > 3  # the grain as it is has a coarse part


def test_fine_texture_refuses_a_side_that_blocks_do_not_fill():
    with pytest.raises(ValueError, match="no multiple of 4"):
        texture.finely_textured(range(2), 30, 1)
    with pytest.raises(ValueError, match="texture"):
        texture.finely_textured(range(2), 32, -1)


class Oracle(torch.nn.Module):
    """Answers v as if the picture were `x0` plus an error; knows in which order the pictures come."""

    def __init__(self, x0, off):
        super().__init__()
        self.x0, self.off = x0, off

    def forward(self, xt, t):
        signal, noise = SCHEDULE.scales(t, xt)
        guess = self.x0 + self.off
        return target(guess, (xt - signal * guess) / noise, t, SCHEDULE, "v")


def test_the_content_error_is_that_of_block_means_and_blind_to_what_blocks_average_away():
    x0 = 0.5 * torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.25
    content = texture.block_means(x0)
    stripes = 0.1 * (1 - 2 * (torch.arange(16) % 2)).float()  # of mean 0 in each block
    for off, wanted in ((2 / 127.5, 2.0), (stripes, 0.0), (stripes + 3 / 127.5, 3.0)):
        d = Denoiser(Oracle(x0, off), PixelSpace(16), SCHEDULE, "v")
        found = texture.content_errors(d, x0, content, levels=(500, 900))
        assert found == pytest.approx([wanted] * 2, abs=1e-3)


def test_the_noise_is_the_same_for_every_network():
    seen = []

    class Silent(torch.nn.Module):
        def forward(self, xt, t):
            seen.append(xt.clone())
            return torch.zeros_like(xt)

    for _ in range(2):
        x0 = torch.zeros(3, 3, 16, 16)
        texture.content_errors(Denoiser(Silent(), PixelSpace(16), SCHEDULE, "v"), x0, texture.block_means(x0), (600,))
    assert torch.equal(*seen)


def test_images_to_reach_lie_on_a_line_of_the_logarithms():
    images = [100, 400, 1600]
    errors = [8.0, 4.0, 2.0]  # a power law: error = 80 / sqrt(images)
    assert texture.images_to_reach(80 / math.sqrt(900), images, errors) == pytest.approx(900)
    assert texture.images_to_reach(2.0, images, errors) == pytest.approx(1600)
    assert texture.images_to_reach(9.0, images, errors) == 100  # before the first mark nothing is known
    assert texture.images_to_reach(3.9, [1, 2, 4, 8], [5, 3, 6, 2]) < 2  # the first time
    with pytest.raises(ValueError, match=r"do not come down to 1\.000"):
        texture.images_to_reach(1.0, images, errors)
    with pytest.raises(ValueError, match="do not come down"):
        texture.images_to_reach(1.0, [], [])


def test_a_training_that_needs_twice_the_images_is_slowed_down_by_two_and_the_other_way_round():
    images = [100 * 2**k for k in range(6)]
    fast, slow = ([a / math.sqrt(n) for n in images] for a in (80.0, 80 * math.sqrt(2)))
    assert texture.slow_down(images, fast, slow) == pytest.approx(2)
    assert texture.slow_down(images, slow, fast) == pytest.approx(0.5)
    assert texture.slow_down(images, fast, fast) == pytest.approx(1)


def test_typical_ratios_are_geometric_and_their_error_is_two_standard_errors():
    mean, error = texture.typical([2.0, 0.5])
    assert mean == pytest.approx(1) and error == pytest.approx(2 * math.log(4) / math.sqrt(2) / math.sqrt(2))
    assert texture.typical([1.5, 1.5, 1.5]) == pytest.approx((1.5, 0.0))
    with pytest.raises(ValueError, match="at least 2"):
        texture.typical([1.0])


def test_textures_are_compared_seed_by_seed():
    images = [100, 200, 400, 800]

    def run(strength, seed, scale):
        return {
            "strength": strength,
            "seed": seed,
            "points": [{"images": n, "content": scale / math.sqrt(n)} for n in images],
        }

    runs = [run(s, seed, a * (1 + seed)) for seed in (0, 1) for s, a in ((0, 80.0), (1, 80.0), (4, 96.0))]
    found = texture.against_plain(runs)  # seeds differ by a factor of two, which pairs take out
    assert list(found) == ["1", "4"]
    assert found["1"]["slow_down"] == pytest.approx(1) and found["1"]["slow_down_error"] == pytest.approx(0)
    assert found["4"]["slow_down"] == pytest.approx(1.44) and found["4"]["slow_down_error"] == pytest.approx(0)
    assert [ratio for ratio, _ in found["4"]["ratio"]] == pytest.approx([1.2] * 4)

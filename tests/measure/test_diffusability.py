"""What diffusion finds easy, in closed form: noise, waves, block means, and a denoiser that is as good as can be."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from ldm_course.diffusion.schedules import make_schedule
from ldm_course.measure.diffusability import (
    LEVELS,
    channel_spectra,
    equivariance_error,
    fine_share,
    loss_by_level,
    pooled,
    smoothness,
)
from ldm_course.measure.ranks import rank_correlation
from ldm_course.measure.spectra import power_spectrum


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def wave(cycles, size=32, channels=1):
    return torch.sin(2 * math.pi * cycles * torch.arange(size) / size).expand(1, channels, size, size)


def test_white_noise_is_the_same_at_every_frequency_and_a_wave_at_its_own_alone():
    power, modes = channel_spectra(torch.cat([3 + 0.1 * noise(400, 1, 16, 16), 50 * noise(400, 1, 16, 16, seed=1)], 1))
    assert power.shape == (2, 12) and ((power * modes).sum(1) - 1).abs().max() < 1e-9
    assert (power * 16**2 - 1).abs().max() < 0.15  # whatever its mean and its strength
    power, modes = channel_spectra(torch.cat([7 * wave(3) - 2, wave(5)], 1))
    assert ((power * modes)[0] - F.one_hot(torch.tensor(3), len(modes))).abs().max() < 1e-9
    assert ((power * modes)[1] - F.one_hot(torch.tensor(5), len(modes))).abs().max() < 1e-9
    together = power_spectrum(torch.cat([wave(3), wave(5)], 1) / 0.5**0.5)
    assert (power.mean(0) - together.power).abs().max() < 1e-6  # of channels of unit deviation, the mean of theirs
    with pytest.raises(ValueError, match="channel 1 is the same everywhere"):
        channel_spectra(torch.cat([wave(3), torch.ones(1, 1, 32, 32)], 1))


def test_the_fine_share_is_that_of_the_modes_in_noise_and_all_or_nothing_of_a_wave():
    cycles = torch.fft.fftfreq(16, 1 / 16)
    radius = (cycles[:, None] ** 2 + cycles**2).sqrt().round()
    assert fine_share(noise(500, 3, 16, 16)) == pytest.approx((radius > 4).float().mean().item(), abs=0.01)
    assert fine_share(wave(8)) == pytest.approx(0, abs=1e-9) and fine_share(wave(9)) == pytest.approx(1)
    assert fine_share(torch.cat([wave(2), wave(12)], 1)) == pytest.approx(0.5)


@pytest.mark.parametrize("f", [2, 4, 8])
def test_block_means_turn_and_shrink_with_the_picture(f):
    found = smoothness(lambda x: pooled(x, f), noise(6, 3, 64, 64), f)
    assert found["quarter turn"] < 1e-12 and found["half the size"] < 1e-12 and found["one pixel"] > 0.05


@pytest.mark.parametrize("f, cycles", [(2, 3), (4, 5), (8, 1)])
def test_what_a_straight_line_between_two_positions_misses_of_a_wave(f, cycles):
    """Shifted by a pixel, block means of exp(ikx) are exp(-ik) times what they were; a straight line says
    1 - 1/f + exp(-ikf) / f."""
    x = torch.cat([wave(cycles, 64, 3), wave(cycles, 64, 3).roll(5, 3), wave(cycles, 64, 3).roll(11, 3)])
    k = torch.tensor(2j * math.pi * cycles / 64)
    missed = (torch.exp(-k) - (1 - 1 / f) - torch.exp(-k * f) / f).abs().item() ** 2
    found = smoothness(lambda x: pooled(x, f), torch.cat([x.roll(s, 3) for s in range(64)]), f)["one pixel"]
    assert found == pytest.approx(missed, rel=1e-3)


def test_latents_that_have_nothing_to_do_with_the_picture_are_at_2_and_means_count_for_nothing():
    calls = iter(range(100))
    unrelated = equivariance_error(lambda x: noise(50, 4, 8, 8, seed=next(calls)), noise(50, 3, 16, 16), lambda u: u)
    assert unrelated == pytest.approx(2, rel=0.05)
    x = noise(4, 3, 16, 16)
    shifted = equivariance_error(lambda x: pooled(x, 2) + 100, x, lambda u: u.rot90(1, (2, 3)))
    assert shifted < 1e-9
    # a latent channel that is brighter to the left does not turn: only its own variance is missed, and twice
    ramp = torch.linspace(-1, 1, 8).expand(1, 1, 8, 8)
    assert equivariance_error(lambda x: ramp.expand(4, 1, 8, 8), x, lambda u: u.rot90(1, (2, 3))) == pytest.approx(2)
    with pytest.raises(ValueError, match="the same everywhere"):
        equivariance_error(lambda x: torch.ones(4, 1, 8, 8), x, lambda u: u)


def test_the_loss_by_level_of_the_best_denoiser_of_white_noise():
    """x0_hat = √ᾱ x_t leaves 1 - ᾱ of the variance; v's loss is then 1 at every level, since (1 + SNR) (1 - ᾱ) = 1."""
    schedule, z = make_schedule("cosine"), noise(64, 4, 16, 16, seed=5)

    def best(xt, t):
        return schedule.signal_scale[t].float().view(-1, 1, 1, 1) * xt

    found = loss_by_level(best, z, schedule, "x0")
    expected = [1 - schedule.alpha_bar[t].item() for t in LEVELS]
    assert found["levels"] == list(LEVELS) and found["unexplained"] == pytest.approx(expected, rel=0.05)
    assert found["loss"] == pytest.approx([1.0] * len(LEVELS), rel=0.05)
    assert found == loss_by_level(best, z, schedule, "x0")
    perfect = loss_by_level(lambda xt, t: z, z, schedule, "x0", levels=[10])
    assert perfect == {"levels": [10], "unexplained": [0.0], "loss": [0.0]}


# ---------------------------------------------------------------------------------------------- ranks


@pytest.mark.parametrize("n", [2, 3, 7, 11])
def test_taus_chance_is_exact(n):
    for seed in range(6):
        x, y = noise(n, seed=seed), noise(n, seed=100 + seed)
        found, known = rank_correlation(x, y), stats.kendalltau(x.numpy(), y.numpy(), method="exact")
        assert found.tau == pytest.approx(known.statistic, abs=1e-6) and found.n == n
        assert found.chance == pytest.approx(known.pvalue, rel=1e-9) and found.error < 1e-12


def test_tau_of_one_order_and_of_the_opposite():
    x = [3.0, 1.0, 2.0, 5.0, 4.0]
    same, opposite = rank_correlation(x, [a**3 for a in x]), rank_correlation(x, [-a for a in x])
    assert (same.tau, opposite.tau) == (1, -1) and same.chance == opposite.chance == pytest.approx(2 / 120)


def test_measures_own_errors_blur_tau():
    """Two things at distance d, each with the error e: they change places with the probability Φ(-d / (e √2))."""
    found = rank_correlation([0.0, 1.0], [0.0, 1.0], x_errors=[0.5, 0.5])
    turned = stats.norm.cdf(-1 / (0.5 * 2**0.5))
    assert found.tau == 1 and found.error == pytest.approx(2 * (turned * (1 - turned)) ** 0.5, rel=0.15)
    far = rank_correlation([0.0, 1.0], [0.0, 1.0], [0.01, 0.01], [0.01, 0.01])
    assert far.error < 1e-12


def test_counts_that_differ_are_refused():
    for x, y, errors in (([1], [1], None), ([1, 2], [1, 2, 3], None), ([1, 2], [1, 2], [0.1])):
        with pytest.raises(ValueError, match="expected as many, 2 or more"):
            rank_correlation(x, y, errors)
    nan = float("nan")
    for values in (([1, nan, 3], [1, 2, 3]), ([1, 2], [1, float("inf")]), ([1, 2], [1, 2], [0.1, nan])):
        with pytest.raises(ValueError, match="a value or an error is NaN or infinite"):
            rank_correlation(*values)

"""The best linear map against noise: closed forms, a direct solve, and filters that it must beat."""

import math

import pytest
import torch

from ldm_course.data import scenes
from ldm_course.data.pictures import to_float
from ldm_course.measure.denoising import LinearDenoiser, against_noise
from ldm_course.measure.fidelity import psnr
from ldm_course.measure.spectra import power_spectrum


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise_of(clean, std, seed=0):
    return std * torch.randn(clean.shape, generator=generator(seed))


def wiener(noisy, spectrum, std):
    """Each wave times S / (S + std^2 / H^2), S its ring's power: the best map that treats every wave by itself."""
    size = noisy.shape[-1]
    wave = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    ring = (wave[:, None].square() + wave[None, :].square()).sqrt().round().long()
    gain = spectrum.power / (spectrum.power + std**2 / size**2)
    return torch.fft.ifft2(torch.fft.fft2(noisy.double()) * gain[ring]).real.float()


@pytest.mark.parametrize("count", [10, 400])  # fewer pictures than values, and more
def test_the_estimate_is_that_of_a_direct_solve(count):
    images = scenes.render(0, range(count), 32)[:, :, ::4, ::4]  # 3 x 8 x 8 is 192 values
    clean = to_float(scenes.render(0, range(1000, 1008), 32)[:, :, ::4, ::4])
    x = to_float(torch.cat([images, images.flip(3)])).flatten(1).double()
    linear = LinearDenoiser.of_pictures(images)
    for std in (0.1, 0.5):
        y = clean + noise_of(clean, std)
        covariance = torch.cov(x.T, correction=0)
        away = (y.flatten(1).double() - x.mean(0)).T
        solved = torch.linalg.solve(covariance + std**2 * torch.eye(192), away)
        wanted = (x.mean(0)[:, None] + covariance @ solved).T.view(y.shape).clamp(-1, 1)
        assert (linear(y, std) - wanted).abs().max() < 1e-5


def test_the_error_on_gaussian_data_is_the_closed_form():
    """E |x̂ - x|² = Σ λ s / (λ + s), with the covariance's eigenvalues λ and noise of variance s."""
    size, std = 48, 0.1
    root = 0.05 * torch.randn(size, size, generator=generator(), dtype=torch.float64) / 3
    mean = 0.1 * torch.randn(size, generator=generator(1), dtype=torch.float64)
    covariance = root @ root.T
    clean = (mean + torch.randn(20_000, size, generator=generator(2), dtype=torch.float64) @ root.T).view(-1, 3, 4, 4)
    estimate = LinearDenoiser.of_moments(mean, covariance)(clean + noise_of(clean, std, seed=3), std)
    spread = torch.linalg.eigvalsh(covariance)
    wanted = (spread * std**2 / (spread + std**2)).sum().item()
    assert (estimate - clean).square().sum((1, 2, 3)).mean().item() == pytest.approx(wanted, rel=0.01)


def test_no_filter_of_single_waves_does_better_on_new_pictures():
    images = scenes.render(0, range(3000), 32)[:, :, ::2, ::2]
    clean = to_float(scenes.render(0, range(10_000, 10_256), 32)[:, :, ::2, ::2])
    linear, spectrum = LinearDenoiser.of_pictures(images), power_spectrum(images)
    for std in (0.1, 0.2, 0.4, 0.8):
        y = clean + noise_of(clean, std)
        assert psnr(linear(y, std), clean) > psnr(wiener(y, spectrum, std).clamp(-1, 1), clean)


def test_without_noise_nothing_is_changed_but_what_lies_outside():
    images = scenes.render(0, range(400), 32)[:, :, ::4, ::4]
    linear = LinearDenoiser.of_pictures(images)
    x = to_float(images[:4])
    assert (linear(x, 1e-6) - x).abs().max() < 1e-4
    assert linear(x + 9, 0.1).max() == 1


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="expected two pictures or more, uint8"):
        LinearDenoiser.of_pictures(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"expected \(D,\) and \(D, D\)"):
        LinearDenoiser.of_moments(torch.zeros(4), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="expected pictures of 4 values"):
        LinearDenoiser.of_moments(torch.zeros(4), torch.eye(4))(torch.zeros(2, 1, 3, 3), 0.1)


def test_what_an_autoencoder_passes_of_noise_is_told_from_what_it_loses():
    clean = 0.1 * torch.randn(128, 3, 8, 8, generator=generator(1))  # seed 0 is the noise's
    best = LinearDenoiser.of_moments(torch.zeros(192), 0.01 * torch.eye(192))
    first, row = against_noise(lambda x: 0.5 * x, clean, best, stds=(0.2,))
    assert first["std"] == 0 and first["noisy"] is first["linear"] is first["lead"] is None
    # half of the picture is missing; with the noise, a quarter of its power comes on top
    assert first["autoencoder"] == pytest.approx(-10 * math.log10(0.05**2 / 4), abs=0.1)
    assert row["noisy"] == pytest.approx(-10 * math.log10(0.2**2 / 4), abs=0.1)
    assert row["autoencoder"] == pytest.approx(-10 * math.log10((0.05**2 + 0.1**2) / 4), abs=0.1)
    assert row["passed"] == pytest.approx(0.25, abs=1e-3)
    # the best factor is 0.01 / (0.01 + 0.04), and leaves 0.01 * 0.04 / (0.01 + 0.04)
    assert row["linear"] == pytest.approx(-10 * math.log10(0.008 / 4), abs=0.1)
    assert row["lead"] == pytest.approx(row["autoencoder"] - row["linear"]) and 0 < row["lead_error"] < 0.1

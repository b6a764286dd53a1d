"""The instruments of chapter 4, against closed forms and against the other modules' own formulas."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from ldm_course.diffusion.samplers import ddpm_step
from ldm_course.diffusion.schedules import add_noise, make_schedule, target
from ldm_course.measure import probes
from ldm_course.measure.bits import at_every_level, decoder_bits, denoised, prior_bits, transition_bits
from ldm_course.measure.probes import Probe, Whitening, probe_hits, read_factors, train_probe
from ldm_course.measure.spectra import drowning_level, power_spectrum, transfer

SCHEDULE = make_schedule("cosine")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rings(size):
    wave = torch.fft.fftfreq(size, 1 / size)
    return (wave[:, None] ** 2 + wave[None] ** 2).sqrt().round().long()


# ---------------------------------------------------------------------------------------------- frequencies


def test_white_noise_of_unit_variance_drowns_where_signal_and_noise_are_equal():
    noise = torch.randn(400, 3, 16, 16, generator=generator())
    level = drowning_level(power_spectrum(noise), 16, SCHEDULE)
    crossing = int((SCHEDULE.snr < 1).int().argmax())
    assert (level[1:8] - crossing).abs().max() <= 25  # the rings' powers are estimates


def test_a_signal_of_four_times_the_power_drowns_at_a_quarter_of_the_snr():
    noise = torch.randn(400, 3, 16, 16, generator=generator())
    level = drowning_level(power_spectrum(2 * noise), 16, SCHEDULE)
    assert (level[1:8] - int((SCHEDULE.snr < 0.25).int().argmax())).abs().max() <= 25


def test_what_has_no_power_drowns_at_once_and_what_has_endless_power_never():
    spectrum = power_spectrum(torch.randn(4, 1, 8, 8, generator=generator()))
    for power, level in ((0.0, 0), (1e12, SCHEDULE.T)):
        flat = spectrum._replace(power=torch.full_like(spectrum.power, power))
        assert (drowning_level(flat, 8, SCHEDULE) == level).all()


def test_a_filter_has_its_own_gain_and_its_square():
    x = torch.randn(5, 3, 16, 16, generator=generator())
    h = 1 / (1 + rings(16).double())
    y = torch.fft.ifft2(torch.fft.fft2(x.double()) * h).real
    gain, ratio = transfer(x, y)
    wanted = 1 / (1 + torch.arange(len(gain), dtype=torch.float64))
    assert (gain - wanted).abs().max() < 1e-9 and (ratio - wanted**2).abs().max() < 1e-9


def test_what_was_put_in_its_stead_counts_as_power_and_not_as_gain():
    x, other = (torch.randn(600, 1, 16, 16, generator=generator(s)) for s in (0, 1))
    gain, ratio = transfer(x, other)
    assert gain.abs().max() < 0.1 and (ratio - 1).abs().max() < 0.2


def test_transfer_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"expected \(N, C, H, H\)"):
        transfer(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 4))


# ------------------------------------------------------------------------------------------------------ bits


@pytest.mark.parametrize("t", [1, 40, 500, 999])
def test_a_transition_costs_what_the_kl_of_its_two_gaussians_is(t):
    x0, x0_hat = (torch.rand(2, 3, 4, 4, generator=generator(s), dtype=torch.float64) * 2 - 1 for s in (0, 1))
    xt = add_noise(x0, torch.randn(x0.shape, generator=generator(2), dtype=torch.float64), t, SCHEDULE)
    here, before = SCHEDULE.alpha_bar[t].item(), SCHEDULE.alpha_bar[t - 1].item()
    std = math.sqrt((1 - before) / (1 - here) * (1 - here / before))  # eq. 7
    q, p = (Normal(ddpm_step(xt, x, here, before), std) for x in (x0, x0_hat))
    mse = torch.zeros(SCHEDULE.T)
    mse[t] = (x0 - x0_hat).square().mean()
    bits = transition_bits(mse, SCHEDULE)
    assert bits[t].item() == pytest.approx(kl_divergence(q, p).mean().item() / math.log(2), rel=1e-6)
    assert bits.sum() == bits[t]


def test_the_terms_of_a_constant_error_add_up_to_the_change_of_the_snr():
    bits = transition_bits(torch.full((SCHEDULE.T,), 0.01), SCHEDULE)
    wanted = 0.005 * (SCHEDULE.snr[0] - SCHEDULE.snr[-1]) / math.log(2)
    assert bits[0] == 0 and bits.sum().item() == pytest.approx(wanted.item(), rel=1e-6)


def test_transition_bits_refuses_an_error_that_is_not_known_at_every_level():
    with pytest.raises(ValueError, match="one value for each level"):
        transition_bits(torch.zeros(10), SCHEDULE)


def test_the_prior_costs_the_kl_to_the_standard_normal():
    short = make_schedule("linear", T=1000, beta_end=0.004)  # some signal is left
    x0 = torch.rand(3, 3, 4, 4, generator=generator()) * 2 - 1
    left = short.alpha_bar[-1].item()
    q = Normal(math.sqrt(left) * x0.double(), math.sqrt(1 - left))
    wanted = kl_divergence(q, Normal(torch.zeros(()).double(), torch.ones(()).double())).mean().item() / math.log(2)
    assert wanted > 1e-3 and prior_bits(x0, short) == pytest.approx(wanted, rel=1e-6)


def test_the_decoders_masses_of_all_bytes_add_up_to_one():
    bytes_ = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).view(256, 1, 1, 1)
    for mean in (-1.0, -0.998, 0.1234, 0.97):
        for std in (0.002, 0.02, 0.5):
            cost = [decoder_bits(b[None], torch.full((1, 1, 1, 1), mean).double(), std) for b in bytes_]
            assert sum(2**-c for c in cost) == pytest.approx(1, abs=1e-9)


def test_the_decoders_cost_of_one_byte_is_that_of_its_interval():
    x0, mean, std = 10 / 127.5 - 1, 12.5 / 127.5 - 1, 0.01
    normal = Normal(torch.tensor(mean).double(), torch.tensor(std).double())
    mass = normal.cdf(torch.tensor(x0 + 1 / 255)) - normal.cdf(torch.tensor(x0 - 1 / 255))
    cost = decoder_bits(torch.full((1, 1, 1, 1), x0), torch.full((1, 1, 1, 1), mean), std)
    assert cost == pytest.approx(-mass.log2().item(), rel=1e-4)


def test_a_byte_far_from_the_mean_costs_its_gaussian_tail_and_stays_finite():
    far = decoder_bits(torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 0.1), 0.01)
    assert 0.5 * (0.1 - 1 / 255) ** 2 / 0.01**2 / math.log(2) < far < 100
    assert math.isfinite(decoder_bits(torch.ones(1, 1, 1, 1), -torch.ones(1, 1, 1, 1), 0.006))


def test_values_between_levels_lie_on_a_line_of_the_logarithms():
    levels = [0, 17, 300, 999]
    power = 3 * SCHEDULE.snr**-0.7  # a straight line of these axes
    found = at_every_level(levels, power[levels], SCHEDULE)
    assert (found / power - 1).abs().max() < 1e-9


def test_values_beyond_the_levels_are_held():
    found = at_every_level([100, 200], torch.tensor([2.0, 8.0]), SCHEDULE)
    assert (found[:101] == found[0]).all() and found[0].item() == pytest.approx(2)
    assert (found[200:] == found[-1]).all() and found[-1].item() == pytest.approx(8)
    assert (found.diff() >= 0).all()


@pytest.mark.parametrize("levels", [[5], [5, 5], [9, 5], [1, 2, 3]])
def test_levels_that_do_not_rise_or_fit_are_refused(levels):
    with pytest.raises(ValueError, match="expected one for each"):
        at_every_level(levels, torch.ones(2), SCHEDULE)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_a_network_that_knows_the_answer_denoises_without_error(prediction):
    x0 = torch.rand(5, 3, 8, 8, generator=generator()) * 2 - 1
    done = []

    def oracle(xt, t):
        part = x0[len(done) : len(done) + len(xt)]
        signal, noise = SCHEDULE.scales(t, xt)
        done.extend(range(len(xt)))
        return target(part, (xt - signal * part) / noise, t, SCHEDULE, prediction)

    options = {"prediction": prediction, "clip_x0": False, "generator": generator(), "batch_size": 2}
    found = denoised(oracle, x0, 400, SCHEDULE, **options)
    assert (found - x0).abs().max() < 1e-5


def test_clipping_is_asked_for():
    def silent(xt, t):
        return torch.full_like(xt, 3.0)

    for clip, largest in ((True, 1.0), (False, 3.0)):
        options = {"prediction": "x0", "clip_x0": clip, "generator": generator()}
        assert denoised(silent, torch.zeros(2, 3, 8, 8), 10, SCHEDULE, **options).max() == largest


# --------------------------------------------------------------------------------------------------- factors


def test_folding_gives_every_probe_the_same_grid_and_loses_nothing():
    x = torch.randn(2, 3, 32, 32, generator=generator())
    white = Whitening(x, SCHEDULE), Whitening(torch.randn(2, 4, 8, 8, generator=generator()), SCHEDULE)
    pixels, latents = (Probe(w, s, {"a": 3, "b": 2}) for w, s in zip(white, (32, 8)))
    assert pixels.fold(x).shape == (2, 48, 8, 8)
    assert torch.equal(torch.nn.functional.pixel_shuffle(pixels.fold(x), 4), x)
    shapes = [{k: v.shape for k, v in net.named_parameters() if k != "first.weight"} for net in (pixels, latents)]
    assert shapes[0] == shapes[1]
    out = pixels(x, torch.tensor([0, 500]))
    assert {name: tuple(logits.shape) for name, logits in out.items()} == {"a": (2, 3), "b": (2, 2)}
    with pytest.raises(ValueError, match="multiple"):
        Probe(white[0], 30, {"a": 2})


def halves(n, seed):
    """Pictures whose upper or lower half is bright, and which it is."""
    which = torch.randint(2, (n,), generator=generator(seed))
    x = torch.zeros(n, 1, 8, 8)
    x[which == 0, :, :4], x[which == 1, :, 4:] = 1.0, 1.0
    return x, {"half": which}


def test_a_probe_learns_a_factor_and_loses_it_to_noise():
    x, factors = halves(256, 0)
    probe = train_probe(x, factors, SCHEDULE, steps=80)
    new, truth = halves(400, 1)
    hits = {t: probe_hits(probe, new, truth, t, SCHEDULE)["half"] for t in (0, 300, 999)}
    assert hits[0].shape == (400,) and set(hits[999].unique().tolist()) <= {0.0, 1.0}
    assert hits[0].mean() > 0.98 and hits[300].mean() > 0.98
    assert abs(hits[999].mean() - 0.5) < 0.1  # alpha_bar is about 0 there
    clean = train_probe(x, factors, steps=20)
    assert probe_hits(clean, new, truth)["half"].mean() > 0.98


def test_training_a_probe_repeats_and_leaves_the_global_generator_alone():
    x, factors = halves(64, 0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (train_probe(x, factors, SCHEDULE, steps=3, seed=1) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    for a, b in zip(first.parameters(), second.parameters()):
        assert torch.equal(a, b)


def correlated(n, seed):
    """Pictures of three channels that hang together, their means far from 0."""
    mix = torch.tensor([[2.0, 0.0, 0.0], [1.5, 0.2, 0.0], [-0.5, 0.3, 0.01]])
    x = torch.rand(n, 3, 8, 8, generator=generator(seed)).square()  # skewed, as pictures are
    return torch.einsum("ij,njhw->nihw", mix, x) + 5


@pytest.mark.parametrize("t", [0, 500, 999])
def test_whitened_inputs_have_mean_0_and_no_covariance_at_every_noise_level(t):
    x = correlated(400, 0)
    xt = add_noise(x, torch.randn(x.shape, generator=generator(1)), t, SCHEDULE)
    white = Whitening(x, SCHEDULE)(xt, torch.full((400,), t)).transpose(0, 1).flatten(1)
    assert white.mean(1).abs().max() < 0.02 and (torch.cov(white) - torch.eye(3)).abs().max() < 0.03


def test_an_affine_copy_of_every_channel_whitens_to_the_same():
    x = correlated(50, 0)
    a, b = torch.tensor([7.0, -0.3, 40.0]).view(1, 3, 1, 1), torch.tensor([-2.0, 0.1, 3.0]).view(1, 3, 1, 1)
    t = torch.zeros(50, dtype=torch.int64)
    assert (Whitening(x)(x, t) - Whitening(a * x + b)(a * x + b, t)).abs().max() < 1e-2  # one channel is small
    copied = (a.double() * x.double() + b.double(), x.double())
    found, wanted = (Whitening(y).double()(y, t) for y in copied)
    assert (found - wanted).abs().max() < 1e-4


def test_a_mixture_of_channels_whitens_to_a_rotation():
    x, t = correlated(50, 0), torch.zeros(50, dtype=torch.int64)
    mix = torch.tensor([[1.0, 2.0, 0.0], [0.3, -1.0, 1.0], [2.0, 0.0, 1.0]])
    mixed = torch.einsum("ij,njhw->nihw", mix, x)
    one, other = (Whitening(y)(y, t).transpose(0, 1).flatten(1).double() for y in (x, mixed))
    turn = other @ one.T / one.shape[1]
    assert (turn @ turn.T - torch.eye(3)).abs().max() < 1e-2 and (other - turn @ one).abs().max() < 0.05


def test_a_channel_that_never_changes_is_left_at_0():
    x = torch.cat([correlated(20, 0)[:, :1], torch.full((20, 1, 8, 8), 3.0)], 1)
    white = Whitening(x)(x, torch.zeros(20, dtype=torch.int64))
    assert white.isfinite().all() and white[:, 1].abs().max() < 1e-5 and white[:, 0].std() == pytest.approx(1, rel=1e-3)


def blobs(n, seed, kinds=3):
    """Pictures of three channels with a faint patch, whose colour and corner are to be read."""
    colour, corner = (torch.randint(kinds + k, (n,), generator=generator(seed + k)) for k in (0, 1))
    x = 0.6 * torch.randn(n, 3, 8, 8, generator=generator(seed + 2))
    for i, (c, where) in enumerate(zip(colour.tolist(), corner.tolist())):
        y, z = 4 * (where // 2), 4 * (where % 2)
        x[i, c, y : y + 3, z : z + 3] += 0.8
    return x, {"colour": colour, "corner": corner}


def test_a_scaled_and_shifted_copy_is_read_the_same_and_a_mixed_one_within_the_error():
    (x, truth), (new, known) = blobs(400, 0), blobs(300, 50)
    mix = torch.tensor([[1.0, 2.0, 0.0], [0.3, -1.0, 1.0], [2.0, 0.0, 1.0]])
    copies = {
        "pixels": lambda v: v,
        "scaled": lambda v: v * torch.tensor([4.0, -0.25, 64.0]).view(1, 3, 1, 1),  # exact in floating point
        "shifted": lambda v: 30 * v + 7,
        "mixed": lambda v: torch.einsum("ij,njhw->nihw", mix, v) - 3,
    }
    clean, rates = {}, set()
    for name, copy in copies.items():
        found, _, best = probes._probes(copy(x), truth, None, steps=40, seeds=3, rates=(1e-3, 4e-3))
        hits = [probe_hits(probe, copy(new), known) for probe in found]
        clean[name] = {factor: torch.stack([h[factor] for h in hits]) for factor in known}
        rates.add(best)
    read = probes.Readings((), clean, {}, {}, {}, {"colour": 1 / 3, "corner": 1 / 4})
    for factor, chance in read.chance.items():
        assert clean["pixels"][factor].mean() > chance + 0.2  # there is something to read, and to miss
        assert torch.equal(clean["scaled"][factor], clean["pixels"][factor])
        for name in ("shifted", "mixed"):
            mean, error = read.difference(name, "pixels", factor)
            assert abs(mean) < 1.5 * error < 0.18  # three standard errors
    assert len(rates) == 1


def test_the_rate_is_chosen_by_scenes_that_are_seen_and_not_learnt_from(monkeypatch):
    asked = []
    real = probes.train_probe

    def spy(x, factors, schedule=None, **options):
        asked.append((len(x), options["lr"], options.get("seed", 0)))
        return real(x, factors, schedule, **options)

    monkeypatch.setattr(probes, "train_probe", spy)
    (x, truth), (new, known) = blobs(100, 0), blobs(20, 50)
    options = {"steps": 30, "seeds": 2, "levels": (200,), "rates": (1e-7, 4e-3)}  # with the first nothing is learnt
    found = read_factors({"pixels": (x, new), "decoded": (x, new)}, truth, known, SCHEDULE, **options)
    assert {n for n, _, _ in asked} == {85}
    assert [(lr, seed) for _, lr, seed in asked] == 3 * [(1e-7, 0), (4e-3, 0), (4e-3, 1)]
    assert found.rates == {"pixels": {"clean": 4e-3, "noisy": 4e-3}, "decoded": {"clean": 4e-3}}
    assert set(found.noisy) == set(found.nearly_clean) == {"pixels"} and set(found.clean) == {"pixels", "decoded"}


def test_every_public_function_says_where_it_is_from():
    for function in (drowning_level, transition_bits, prior_bits, decoder_bits):
        assert "DDPM" in function.__doc__

"""Editing against closed forms for Gaussian data, where the flow from picture to noise is known, and its promises."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_samplers import (
    COVARIANCE,
    EVERY_METHOD,
    EYE,
    MEAN,
    D,
    gap,
    ideal_denoiser,
    named,
    normal,
    orders,
    power,
    seeded,
)

from ldm_course.diffusion import editing, samplers
from ldm_course.diffusion.editing import coarse_mask, continued, inpaint, invert, pasted, redraw, slerp, translate
from ldm_course.diffusion.samplers import path, sample
from ldm_course.diffusion.schedules import add_noise, make_schedule

COSINE = make_schedule("cosine")
DETERMINISTIC = [dict(method="ddim"), dict(method="dpmpp")]


def gaussian(schedule=COSINE, mean=MEAN, covariance=COVARIANCE):
    """predict_x0 for data from that Gaussian, whose D numbers are a sample's positions: (B, 1, D, 1)."""
    model = ideal_denoiser(schedule, mean, covariance)
    return lambda xt, t: model(xt, torch.full((len(xt),), t))


def flow(schedule, start, end, mean=MEAN, covariance=COVARIANCE):
    """Where the probability flow takes x (B, D) from one index to another, None being the data: the marginals are
    Gaussian at each level, and each principal axis is scaled by the ratio of its standard deviations."""

    def marginal(t):
        a = 1.0 if t is None else schedule.alpha_bar[t].item()
        return a**0.5 * mean, a * covariance + (1 - a) * EYE

    (m0, wide), (m1, narrow) = marginal(start), marginal(end)
    scale = power(narrow, 0.5) @ power(wide, -0.5)
    return lambda x: m1 + (x - m0) @ scale.T


def rows(n=6, seed=1):
    return normal(n, 1, D, 1, seed=seed)


class Watched:
    """A guess that keeps the states and indices that it was asked at."""

    def __init__(self, guess=None):
        self.guess, self.states, self.times = guess or (lambda xt, t: torch.tanh(xt) / 2), [], []

    def __call__(self, xt, t):
        self.states.append(xt.clone())
        self.times.append(t)
        return self.guess(xt, t)


# ------------------------------------------------------------------------------------------ redrawing


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_redrawing_makes_exactly_the_steps_asked_for_from_the_level_asked_for(data):
    T = data.draw(st.integers(1, 90), label="T")
    levels = data.draw(st.integers(1, T), label="levels")
    steps = data.draw(st.integers(1, levels), label="steps")
    schedule, options = make_schedule("cosine", T), data.draw(st.sampled_from(EVERY_METHOD))
    watched, x0, noise = Watched(), normal(2, 1, 2, 2), normal(2, 1, 2, 2, seed=1)
    redraw(watched, x0, noise, schedule, strength=levels / T, steps=steps, generator=seeded(0), **options)
    assert watched.times == [t for t, _ in path(levels, steps)]
    assert len(watched.times) == steps and watched.times[0] == levels - 1
    expected = noise if levels == T else add_noise(x0, noise, levels - 1, schedule)
    assert torch.equal(watched.states[0], expected)


@named("options", EVERY_METHOD)
def test_strength_1_is_drawing_from_the_noise(options):
    x0, noise = rows(), rows(seed=2)
    made = redraw(gaussian(), x0, noise, COSINE, strength=1.0, steps=9, generator=seeded(3), **options)
    assert torch.equal(made, sample(gaussian(), noise, COSINE, steps=9, generator=seeded(3), **options))


@pytest.mark.parametrize("strength", [0.1, 0.4, 0.8])
@named("options", DETERMINISTIC)
def test_a_redrawn_gaussian_is_the_flow_from_the_noised_picture(options, strength):
    x0, noise = rows(), rows(seed=2)
    top = round(strength * COSINE.T) - 1
    want = flow(COSINE, top, None)(add_noise(x0, noise, top, COSINE).flatten(1))
    got = redraw(gaussian(), x0, noise, COSINE, strength=strength, steps=top + 1, **options).flatten(1)
    assert gap(got, want) < 6e-3


def test_the_less_strength_the_nearer_the_picture():
    x0 = rows()
    errors = []
    for strength in (0.8, 0.4, 0.2, 0.1, 0.05, 0.002):
        errors.append(gap(redraw(gaussian(), x0, rows(seed=2), COSINE, strength=strength, steps=2), x0))
    assert errors == sorted(errors, reverse=True) and errors[0] > 0.5
    assert errors[-1] < 3 * COSINE.noise_scale[1]  # within the noise that was added


# ------------------------------------------------------------------------------------------ inpainting

MASK = torch.tensor([False, True, True]).view(1, 1, D, 1)  # the first of the three numbers is known


@pytest.mark.parametrize("resamplings", [1, 3])
@named("options", EVERY_METHOD)
def test_the_known_part_is_untouched(options, resamplings):
    x0 = rows()
    made = inpaint(
        gaussian(), x0, MASK, rows(seed=2), COSINE, steps=7, resamplings=resamplings, generator=seeded(0), **options
    )
    assert torch.equal(made[:, :, 0], x0[:, :, 0]) and gap(made[:, :, 1:], x0[:, :, 1:]) > 0.1


@named("options", EVERY_METHOD)
def test_with_all_masked_it_is_plain_drawing(options):
    everything, noise = torch.ones_like(MASK), rows(seed=2)
    made = inpaint(gaussian(), rows(), everything, noise, COSINE, steps=7, generator=seeded(0), **options)
    assert torch.equal(made, sample(gaussian(), noise, COSINE, steps=7, generator=seeded(0), **options))


def test_what_is_beneath_the_mask_makes_no_difference_and_each_row_may_have_its_own():
    masks, x0 = MASK.repeat(6, 1, 1, 1), rows()
    masks[3:] = ~MASK
    made, other = (
        inpaint(gaussian(), torch.where(masks, hidden, x0), masks, rows(seed=2), COSINE, steps=7)
        for hidden in (x0, torch.full_like(x0, 99.0))
    )
    assert torch.equal(made, other)
    assert torch.equal(made[:3, :, :1], x0[:3, :, :1]) and torch.equal(made[3:, :, 1:], x0[3:, :, 1:])


@named("options", DETERMINISTIC)
def test_at_every_level_the_known_part_is_the_picture_under_its_own_noise(options):
    x0, noise, watched = rows(), rows(seed=2), Watched(gaussian())
    inpaint(watched, x0, MASK, noise, COSINE, steps=13, **options)
    for t, state in zip(watched.times, watched.states):
        assert gap(state[:, :, 0], add_noise(x0, noise, t, COSINE)[:, :, 0]) < 1e-10


@pytest.mark.parametrize("resamplings", [1, 2])
@named("options", [dict(method="ddpm"), dict(method="ddim", eta=0.5), dict(method="ddim", eta=1.0)])
def test_with_noise_of_its_own_it_has_the_moments_of_the_noised_picture(options, resamplings):
    """RePaint eq. 8a, by 40,000 draws and five standard errors."""
    n, x0 = 40_000, 0.7
    watched, known = Watched(gaussian()), torch.full((n, 1, D, 1), x0, dtype=torch.float64)
    options = dict(steps=6, resamplings=resamplings, generator=seeded(0), **options)
    inpaint(watched, known, MASK, normal(n, 1, D, 1, seed=4), COSINE, **options)
    assert len(watched.times) == 6 * resamplings - (resamplings - 1)
    for t, state in zip(watched.times, watched.states):
        a, seen = COSINE.alpha_bar[t].item(), state[:, 0, 0, 0]
        assert abs(seen.mean() - a**0.5 * x0) < 5 * ((1 - a) / n) ** 0.5
        assert abs(seen.var() - (1 - a)) < 5 * (1 - a) * (2 / n) ** 0.5


def test_a_step_is_made_as_often_as_asked_and_noised_up_by_the_forward_process():
    """Step by step by hand: down from t to `to`, up again by DDPM eq. 2, whose alpha is the ratio of the two."""
    x0, noise, watched = rows(), rows(seed=2), Watched(gaussian())
    inpaint(watched, x0, MASK, noise, COSINE, steps=3, resamplings=2, generator=seeded(5))
    (a, b), (_, c), _ = path(COSINE.T, 3)
    assert watched.times == [a, a, b, b, c]  # the last step ends on the picture, and is made once
    over = torch.where(MASK, gaussian()(watched.states[0], a), x0)
    down = samplers.ddim_step(watched.states[0], over, *COSINE.alpha_bar[[a, b]].tolist())
    kept = COSINE.alpha_bar[a] / COSINE.alpha_bar[b]
    fresh = torch.randn(x0.shape, dtype=torch.float64, generator=seeded(5))
    assert gap(watched.states[1], kept.sqrt() * down + (1 - kept).sqrt() * fresh) < 1e-12


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_resampling_brings_what_is_drawn_to_the_conditional_mean(eta, monkeypatch):
    """All is affine in the noise, so that with noise 0 what is drawn is the mean over all draws, exactly."""
    for module in (samplers, editing):
        monkeypatch.setattr(module, "_normal_like", lambda x, generator: torch.zeros_like(x))
    zero = torch.zeros(1, 1, D, 1, dtype=torch.float64)
    x0 = zero + 2.0
    want = MEAN[1:] + COVARIANCE[1:, 0] / COVARIANCE[0, 0] * (2.0 - MEAN[0])
    errors = []
    for resamplings in (1, 2, 4, 8, 16):
        options = dict(steps=25, resamplings=resamplings, eta=eta, generator=seeded(0))
        made = inpaint(gaussian(), x0, MASK, zero, COSINE, **options)
        errors.append(gap(made[0, 0, 1:, 0], want))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.25 * errors[0]


def test_noise_in_each_step_fits_in_better(monkeypatch):
    for module in (samplers, editing):
        monkeypatch.setattr(module, "_normal_like", lambda x, generator: torch.zeros_like(x))
    zero = torch.zeros(1, 1, D, 1, dtype=torch.float64)
    want = MEAN[1:] + COVARIANCE[1:, 0] / COVARIANCE[0, 0] * (2.0 - MEAN[0])
    none, some, much = (
        gap(
            inpaint(gaussian(), zero + 2.0, MASK, zero, COSINE, steps=100, eta=eta, generator=seeded(0))[0, 0, 1:, 0],
            want,
        )
        for eta in (0.0, 0.5, 1.0)
    )
    assert much < some < none


def test_long_steps_made_often_lose_variance_and_short_ones_keep_it():
    n, x0 = 2000, 2.0  # their variances are known to within 3 %
    known = torch.full((n, 1, D, 1), x0, dtype=torch.float64)
    left = COVARIANCE[1:, 1:] - torch.outer(COVARIANCE[1:, 0], COVARIANCE[1:, 0]) / COVARIANCE[0, 0]
    kept = []
    for steps in (20, 120):
        options = dict(steps=steps, resamplings=8, method="ddpm", generator=seeded(0))
        made = inpaint(gaussian(), known, MASK, normal(n, 1, D, 1, seed=4), COSINE, **options)
        kept.append((made[:, 0, 1:, 0].var(0) / left.diag()).min())
    assert kept[0] < 0.8 and 0.85 < kept[1] < 1.2


def test_a_latent_is_masked_if_any_of_its_pixels_is():
    mask = torch.rand(5, 1, 12, 8, generator=seeded(0)) < 0.1
    for f in (1, 2, 4):
        found = coarse_mask(mask, f)
        assert found.dtype == torch.bool and found.shape == (5, 1, 12 // f, 8 // f)
        for b, _, i, j in torch.cartesian_prod(*map(torch.arange, found.shape)).tolist():
            assert found[b, 0, i, j] == mask[b, 0, i * f : (i + 1) * f, j * f : (j + 1) * f].any()


HALF = (torch.arange(32) >= 16).expand(1, 1, 32, 32)


def test_what_stands_around_a_hole_goes_on_into_it_and_fades():
    x = normal(2, 3, 32, 32)
    filled = continued(x, HALF, 4)
    assert torch.equal(filled[..., :16], x[..., :16])
    assert torch.equal(filled, continued(torch.where(HALF, 7.0, x), HALF, 4))  # nothing shows of what is beneath
    flat = continued(torch.ones(1, 1, 32, 32, dtype=torch.float64), HALF, 4)[0, 0, :, 16:]
    assert gap(flat, flat[:1].expand_as(flat)) < 1e-12  # every line alike, at the border too
    # 24 rounds of variance 2/3 from an edge held at 1: the heat equation's erfc
    want = torch.special.erfc(torch.arange(1, 17, dtype=torch.float64) / math.sqrt(2 * 24 * 2 / 3))
    assert gap(flat[0], want) < 0.03
    assert flat[0, 0] > 0.8 and flat[0, 12] < 0.01


def test_pasting_keeps_every_known_pixel_and_leaves_no_edge():
    pictures = torch.full((1, 3, 32, 32), 100, dtype=torch.uint8)
    made = torch.full((1, 3, 32, 32), 140, dtype=torch.uint8)  # a decoder that is 40 too light
    result = pasted(made, pictures, HALF, 4)
    assert torch.equal(result[..., :16], pictures[..., :16]) and result.dtype == torch.uint8
    line = result[0, 0, 5].int()
    assert line[16] - line[15] < 10 and line[31] == 140 and (line.diff() >= 0).all()
    noise = torch.randint(256, (1, 3, 32, 32), generator=seeded(0), dtype=torch.uint8)
    exact = torch.where(HALF, noise, pictures)  # pixels: the known ones come out as they went in
    assert torch.equal(pasted(exact, pictures, HALF, 2), exact)


# ------------------------------------------------------------------------------------------ interpolation


def test_slerp_goes_along_the_circle_at_constant_speed():
    a, b = normal(4, 3, 8, 8), normal(4, 3, 8, 8, seed=1)
    b = b / b.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * a.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    cosine = torch.cosine_similarity(a.flatten(1), b.flatten(1))
    for weight in (0.0, 0.2, 0.5, 0.9, 1.0):
        c = slerp(a, b, weight)
        assert gap(c.flatten(1).norm(dim=1), a.flatten(1).norm(dim=1)) < 1e-12
        assert (
            gap(torch.cosine_similarity(a.flatten(1), c.flatten(1)).clamp(max=1).acos(), weight * cosine.acos()) < 1e-6
        )
        assert gap(c, slerp(b, a, 1 - weight)) < 1e-12
    assert gap(slerp(a, b, 0.0), a) < 1e-14 and gap(slerp(a, b, 1.0), b) < 1e-14


def test_slerp_of_two_that_are_alike_is_between_them():
    a = normal(3, 4).float()
    assert torch.equal(slerp(a, a, 0.3), a) and slerp(a, a, 0.3).dtype == torch.float32
    near = a + 1e-4 * normal(3, 4, seed=1).float()
    assert gap(slerp(a, near, 0.3), a + 0.3 * (near - a)) < 1e-6
    assert gap(slerp(a, 2 * a, 0.5), 1.5 * a) < 1e-6  # in one direction: the length is halfway
    with pytest.raises(ValueError, match="opposite"):
        slerp(a, -a, 0.5)
    with pytest.raises(ValueError, match=r"\(3, 4\) and b \(2, 4\)"):
        slerp(a, a[:2], 0.5)


def test_a_straight_line_between_noises_loses_contrast_and_the_circle_does_not():
    """Pictures of independent pixels with standard deviation 0.5: halfway along a line they have 0.5 / sqrt(2)."""
    spread = 0.5

    def guess(xt, t):
        a = COSINE.alpha_bar[t].item()
        return a**0.5 * spread**2 / (a * spread**2 + 1 - a) * xt

    a, b = normal(40, 3, 16, 16), normal(40, 3, 16, 16, seed=1)
    options = dict(steps=250, method="dpmpp")
    on_circle, on_line = (sample(guess, z, COSINE, **options).std() for z in (slerp(a, b, 0.5), (a + b) / 2))
    assert abs(on_circle - spread) < 0.01 * spread
    assert abs(on_line - spread / 2**0.5) < 0.01 * spread


# ------------------------------------------------------------------------------------------ inversion


@pytest.mark.parametrize("strength, top", [(1.0, 4095), (0.5, 2047)])
def test_inversion_of_a_gaussian_is_exact_in_the_limit(strength, top):
    schedule, x0 = make_schedule("cosine", 4096), rows()
    want, errors = flow(schedule, 0, top)(x0.flatten(1)), {"ddim": [], "dpmpp": []}
    for method, found in errors.items():
        for steps in (32, 64, 128, 256, 512):
            noise = invert(gaussian(schedule), x0, schedule, steps=steps, strength=strength, method=method)
            found.append(gap(noise.flatten(1), want))
    assert (orders(errors["ddim"]) - 1).abs().max() < 0.05 and errors["ddim"][-1] < 0.05
    assert bool((orders(errors["dpmpp"]) > 1.4).all()) and errors["dpmpp"][-1] < 0.006


def test_the_reconstruction_error_falls_as_steps_double():
    schedule, x0, errors = make_schedule("cosine", 4096), rows(), {"ddim": [], "dpmpp": []}
    for method, found in errors.items():
        for steps in (16, 32, 64, 128, 256):
            guess, options = gaussian(schedule), dict(steps=steps, method=method)
            found.append(gap(sample(guess, invert(guess, x0, schedule, **options), schedule, **options), x0))
    assert (orders(errors["ddim"]) - 1).abs().max() < 0.1 and errors["ddim"][-1] < 0.08
    assert bool((orders(errors["dpmpp"]) > 1.2).all()) and errors["dpmpp"][-1] < 0.006


@pytest.mark.parametrize("T, strength, steps", [(1000, 1.0, 50), (1000, 0.3, 7), (1000, 1.0, 999), (40, 0.5, 19)])
def test_inversion_makes_exactly_the_steps_asked_for_from_the_picture_up(T, strength, steps):
    watched, schedule = Watched(), make_schedule("cosine", T)
    for method in ("ddim", "dpmpp"):
        watched.times.clear()
        invert(watched, normal(1, 1, 2, 2), schedule, steps=steps, strength=strength, method=method)
        top = round(strength * T) - 1
        assert len(watched.times) == steps and watched.times[0] == 0 and max(watched.times) < top
        gaps = torch.tensor([*watched.times, top]).diff()
        assert gaps.min() >= 1 and gaps.max() - gaps.min() <= 1


def test_a_ddim_step_up_undoes_the_step_down_if_the_guess_is_the_same():
    """Eq. 14 of DDIM in its own terms: x / sqrt(alpha_bar) moves by eps times the change of sigma."""
    xt, x0_hat, (high, low) = rows(), rows(seed=2), (0.3, 0.8)
    down = samplers.ddim_step(xt, x0_hat, high, low)
    assert gap(samplers.ddim_step(down, x0_hat, low, high), xt) < 1e-12
    sigma = {a: ((1 - a) / a) ** 0.5 for a in (high, low)}
    eps = (xt - high**0.5 * x0_hat) / (1 - high) ** 0.5
    assert gap(down / low**0.5, xt / high**0.5 + (sigma[low] - sigma[high]) * eps) < 1e-12


OTHER_MEAN, OTHER = -MEAN, torch.diag(torch.tensor([0.2, 0.6, 0.1], dtype=torch.float64))


@pytest.mark.parametrize("strength, tolerance", [(1.0, 2e-3), (0.4, 2e-3)])
def test_translation_between_gaussians_is_the_flow_up_and_the_other_flow_down(strength, tolerance):
    x0, top = rows(), round(strength * COSINE.T) - 1
    noise = flow(COSINE, None, top)(x0.flatten(1))
    want = flow(COSINE, top, None, OTHER_MEAN, OTHER)(noise)
    options = dict(steps=top // 2, strength=strength, method="dpmpp")
    source, target = gaussian(), gaussian(mean=OTHER_MEAN, covariance=OTHER)
    assert gap(translate(source, target, x0, COSINE, **options).flatten(1), want) < 15 * tolerance
    assert gap(want, x0.flatten(1)) > 0.5
    assert gap(translate(source, source, x0, COSINE, **options), x0) < 15 * tolerance


# ------------------------------------------------------------------------------------------ mistakes


X0 = torch.zeros(2, 1, 4, 4)


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: redraw(None, X0, X0, COSINE, strength=0.0, steps=1), "strength=0.0; expected more than 0"),
        (lambda: redraw(None, X0, X0, COSINE, strength=1.1, steps=1), "strength=1.1"),
        (lambda: redraw(None, X0, X0, COSINE, strength=-0.5, steps=1), "strength=-0.5"),
        (lambda: redraw(None, X0, X0, COSINE, strength=float("nan"), steps=1), "strength=nan"),
        (lambda: redraw(None, X0, X0, COSINE, strength=1e-5, steps=1), "less than one"),
        (lambda: redraw(None, X0, X0, COSINE, strength=0.02, steps=50), "from 1 to 20, the levels up to strength=0.02"),
        (lambda: redraw(None, X0, X0, COSINE, strength=0.02, steps=0), "steps=0"),
        (lambda: redraw(None, X0, X0, COSINE, strength=0.5, steps=5, method="euler"), "method='euler'"),
        (lambda: inpaint(None, X0, X0 > 0, X0, COSINE, steps=5, resamplings=0), "resamplings=0"),
        (lambda: inpaint(None, X0, X0 > 0, X0, COSINE, steps=5, resamplings=2), "generator"),
        (lambda: inpaint(None, X0, X0, X0, COSINE, steps=5), "the mask is torch.float32"),
        (lambda: inpaint(None, X0, X0[..., :3] > 0, X0, COSINE, steps=5), "expected bool of shape (1 or 2, 1, 4, 4)"),
        (lambda: inpaint(None, X0, X0[0] > 0, X0, COSINE, steps=5), "(1, 4, 4)"),
        (lambda: inpaint(None, X0, X0.repeat(2, 1, 1, 1) > 0, X0, COSINE, steps=5), "(4, 1, 4, 4)"),
        (lambda: inpaint(None, X0, X0.repeat(1, 3, 1, 1) > 0, X0, COSINE, steps=5), "(2, 3, 4, 4)"),
        (lambda: coarse_mask(X0 > 0, 0), "downsample=0; expected more than 0"),
        (lambda: coarse_mask(X0 > 0, 3), "(2, 1, 4, 4); expected bool (B, 1, H, W) with H and W multiples of 3"),
        (lambda: coarse_mask(X0, 2), "got a float32 tensor (2, 1, 4, 4); expected bool"),
        (lambda: invert(None, X0, COSINE, steps=0), "steps=0"),
        (lambda: invert(None, X0, COSINE, steps=1000), "from 1 to 999"),
        (lambda: invert(None, X0, COSINE, steps=20, strength=0.02), "from 1 to 19"),
        (lambda: invert(None, X0, COSINE, steps=5, method="ddpm", generator=seeded(0)), "goes up"),
        (lambda: invert(None, X0, COSINE, steps=5, eta=0.5, generator=seeded(0)), "goes up"),
        (lambda: translate(None, None, X0, COSINE, steps=5, strength=2), "strength=2"),
    ],
)
def test_mistakes_are_named_in_one_line_before_the_network_is_asked(call, says):
    with pytest.raises(ValueError) as error:
        call()
    assert says in str(error.value) and "\n" not in str(error.value)

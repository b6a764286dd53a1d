"""Samplers against diffusers' trajectories, against closed forms for Gaussian data, and against their promises."""

import functools

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from test_schedules import in_float64

from ldm_course.diffusion import samplers
from ldm_course.diffusion.samplers import (
    METHODS,
    ddim_step,
    ddpm_step,
    guided_prediction,
    path,
    timesteps,
    x0_predictor,
)
from ldm_course.diffusion.schedules import PREDICTIONS, Schedule, make_schedule, target, to_eps, to_v

LINEAR = make_schedule("linear")
THEIR_NAME = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
TOLERANCE = 1e-8  # in float64, of states up to 50; diffusers' DDPM adds noise of 1e-10 to its last step
EVERY_METHOD = [
    dict(method="ddpm"),
    dict(method="ddpm", variance="beta"),
    dict(method="ddim"),
    dict(method="ddim", eta=0.5),
    dict(method="dpmpp"),
]
named = functools.partial(pytest.mark.parametrize, ids=lambda v: "-".join(map(str, v.values())))


def sample(
    model, noise, schedule, *, steps, clip_x0, prediction="eps", label=None, null_label=None, guidance_scale=1.0,
    spacing="trailing", previous="listed", **options,
):  # fmt: skip
    """A network's samples in one call: the guess that is made of it, the path, and the loop."""
    empty = None if label is None or null_label is None else torch.full_like(label, null_label)
    guess = x0_predictor(
        model, schedule, prediction=prediction, clip_x0=clip_x0, condition=label, no_condition=empty,
        guidance_scale=guidance_scale,
    )  # fmt: skip
    return samplers.sample(guess, noise, schedule, steps=path(schedule.T, steps, spacing, previous), **options)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=seeded(seed))


class Net:
    """A small nonlinear function of (xt, t, label) with a made-up weight; keeps a note of each call."""

    def __init__(self, schedule=LINEAR, channels=3, dtype=torch.float64):
        self.weight = normal(channels, channels, 3, 3, seed=11).to(dtype) / 4
        self.noise_scale = schedule.noise_scale.to(dtype)
        self.calls = []

    def __call__(self, xt, t, label=None):
        self.calls.append((xt, t, label))
        hidden = torch.nn.functional.conv2d(xt, self.weight, padding=1)
        level = self.noise_scale[t].view(-1, 1, 1, 1)
        said = level * xt + 0.3 * torch.tanh(hidden + torch.cos(3 * level))
        return said if label is None else said + 0.1 * torch.sin(1.0 + label.view(-1, 1, 1, 1))


def trajectory(model, noise, schedule=LINEAR, **options):
    """Our states: what the callback saw at each step, and the result."""
    states = []
    result = sample(model, noise, schedule, callback=lambda i, t, xt, x0_hat: states.append(xt), **options)
    return torch.stack([*states, result])


def their_trajectory(scheduler, model, noise, prediction="eps", **step_options):
    """diffusers' states, from the noise on, over the timesteps that the scheduler has set."""
    states = [noise]
    for t in scheduler.timesteps:
        xt = states[-1]
        said = model(xt, t.repeat(len(xt)))
        states.append(scheduler.step(said, t, xt, **step_options).prev_sample)
    return torch.stack(states)


def join(scheduler, steps):
    """Set a DDPMScheduler's own timesteps, and make each step go to the next: before 0.32 it went to t - T // S."""
    scheduler.set_timesteps(steps)
    scheduler.set_timesteps(timesteps=scheduler.timesteps.tolist())


def gap(a, b):
    assert a.shape == b.shape
    return (a - b).abs().max().item()


# ------------------------------------------------------------------------------------------ parity with diffusers

# Step counts up to 50 with every prediction, clipped and not; 1000, which takes a second, with one prediction.
CASES = [(S, p, c) for S in (1, 7, 30, 50) for p in THEIR_NAME for c in (False, True)] + [(1000, "v", False)]


@pytest.mark.parametrize("steps, prediction, clip", CASES)
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_that_of_diffusers(steps, prediction, clip, spacing, eta, monkeypatch):
    scheduler = in_float64(DDIMScheduler, monkeypatch)(
        clip_sample=clip,
        set_alpha_to_one=True,
        steps_offset=0,
        prediction_type=THEIR_NAME[prediction],
        timestep_spacing=spacing,
    )
    scheduler.set_timesteps(steps)
    model, noise = Net(), normal(2, 3, 4, 4)
    # With clipping we take eps from the clipped x0_hat, which diffusers does when it is asked to.
    theirs = their_trajectory(scheduler, model, noise, eta=eta, use_clipped_model_output=True, generator=seeded(1))
    options = dict(steps=steps, clip_x0=clip, method="ddim", eta=eta, spacing=spacing, prediction=prediction)
    ours = trajectory(model, noise, previous="diffusers", generator=seeded(1), **options)
    assert gap(ours, theirs) < TOLERANCE
    if steps < 1000:  # by definition the two rules for the previous timestep agree here, and nowhere else
        listed = trajectory(model, noise, previous="listed", generator=seeded(1), **options)
        assert (gap(listed, theirs) < TOLERANCE) == (spacing == "leading" or 1000 % steps == 0)


def test_clipping_changes_the_trajectories_that_are_compared():
    for prediction in THEIR_NAME:
        for method in METHODS:
            loose, clipped = (
                sample(
                    Net(), normal(2, 3, 4, 4), LINEAR, steps=7, clip_x0=clip, method=method,
                    prediction=prediction, generator=seeded(1),
                )
                for clip in (False, True)
            )  # fmt: skip
            assert gap(loose, clipped) > 1e-3 and clipped.abs().max() <= 1


@pytest.mark.parametrize("steps, prediction, clip", CASES)
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_ddpm_is_that_of_diffusers(steps, prediction, clip, spacing, variance, monkeypatch):
    scheduler = in_float64(DDPMScheduler, monkeypatch)(
        clip_sample=clip,
        steps_offset=0,
        prediction_type=THEIR_NAME[prediction],
        timestep_spacing=spacing,
        variance_type={"posterior": "fixed_small", "beta": "fixed_large"}[variance],
    )
    join(scheduler, steps)
    model, noise = Net(), normal(2, 3, 4, 4)
    theirs = their_trajectory(scheduler, model, noise, generator=seeded(1))
    ours = trajectory(
        model, noise, steps=steps, clip_x0=clip, method="ddpm", variance=variance, spacing=spacing,
        prediction=prediction, generator=seeded(1),
    )  # fmt: skip
    assert gap(ours[:-1], theirs[:-1]) < TOLERANCE
    if variance == "posterior" or scheduler.timesteps[-1] == 0:
        assert gap(ours[-1], theirs[-1]) < TOLERANCE
    else:
        # diffusers leaves the last step without noise only if its index is 0, so with trailing steps it returns
        # the picture plus noise of standard deviation sqrt(1 - alpha_bar); we return the picture.
        last = LINEAR.noise_scale[scheduler.timesteps[-1]].item()
        assert (theirs[-1] - ours[-1]).std().item() == pytest.approx(last, rel=0.25)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of diffusers' own use of NumPy
@pytest.mark.parametrize("steps, prediction, clip", CASES)
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
def test_dpmpp_is_that_of_diffusers(steps, prediction, clip, spacing, monkeypatch):
    scheduler = in_float64(DPMSolverMultistepScheduler, monkeypatch)(
        algorithm_type="dpmsolver++",
        solver_order=2,
        final_sigmas_type="zero",
        prediction_type=THEIR_NAME[prediction],
        timestep_spacing=spacing,
        # This scheduler cannot clip. Its dynamic thresholding with the threshold held at 1 is clipping.
        thresholding=clip,
        sample_max_value=1.0,
    )
    if spacing == "trailing":
        scheduler.set_timesteps(steps)
    else:  # its own "leading" is another rule, see below, so it is handed the list
        scheduler.set_timesteps(timesteps=timesteps(1000, steps, "leading").tolist())
    model, noise = Net(), normal(2, 3, 4, 4)
    theirs = their_trajectory(scheduler, model, noise)
    ours = trajectory(model, noise, steps=steps, clip_x0=clip, method="dpmpp", spacing=spacing, prediction=prediction)
    assert gap(ours, theirs) < TOLERANCE


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("name, theirs", [("sqrt_linear", "scaled_linear"), ("cosine", "squaredcos_cap_v2")])
def test_other_schedules_are_sampled_as_by_diffusers(name, theirs, monkeypatch):
    schedule, noise = make_schedule(name), normal(2, 3, 4, 4)
    model = Net(schedule)
    betas = dict(beta_start=0.00085, beta_end=0.012, beta_schedule=theirs, timestep_spacing="trailing")
    for scheduler_class, method, extra in [
        (DDIMScheduler, "ddim", dict(clip_sample=False)),
        (DDPMScheduler, "ddpm", dict(clip_sample=False)),
        (DPMSolverMultistepScheduler, "dpmpp", {}),
    ]:
        scheduler = in_float64(scheduler_class, monkeypatch)(prediction_type="v_prediction", **betas, **extra)
        (join if method == "ddpm" else scheduler_class.set_timesteps)(scheduler, 20)
        ours = trajectory(
            model, noise, schedule, steps=20, clip_x0=False, method=method, prediction="v", generator=seeded(1)
        )
        assert gap(ours, their_trajectory(scheduler, model, noise, generator=seeded(1))) < TOLERANCE


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("steps", [7, 50])
def test_in_float32_we_and_diffusers_as_shipped_differ_by_rounding(steps):
    model, noise = Net(dtype=torch.float32), normal(2, 3, 4, 4).float()
    for scheduler_class, method, extra in [
        (DDIMScheduler, "ddim", dict(clip_sample=False)),
        (DDPMScheduler, "ddpm", dict(clip_sample=False)),
        (DPMSolverMultistepScheduler, "dpmpp", {}),
    ]:
        scheduler = scheduler_class(prediction_type="v_prediction", timestep_spacing="trailing", **extra)
        (join if method == "ddpm" else scheduler_class.set_timesteps)(scheduler, steps)
        previous = "diffusers" if method == "ddim" else "listed"
        ours = trajectory(
            model, noise, steps=steps, clip_x0=False, method=method, prediction="v", previous=previous,
            generator=seeded(1),
        )  # fmt: skip
        theirs = their_trajectory(scheduler, model, noise, generator=seeded(1))
        assert ours.dtype == torch.float32
        assert gap(ours, theirs) / theirs.abs().max() < 1e-5


def test_timesteps_are_those_of_diffusers_where_it_makes_as_many_as_asked():
    surplus = []
    trailing, leading = (DDIMScheduler(timestep_spacing=s) for s in ("trailing", "leading"))
    for steps in range(1, 1001):
        leading.set_timesteps(steps)
        assert torch.equal(timesteps(1000, steps, "leading"), leading.timesteps)
        trailing.set_timesteps(steps)
        # Where 1000 i / steps ends in .5, diffusers' i-fold subtraction may round to the other side.
        assert (timesteps(1000, steps) - trailing.timesteps[:steps]).abs().max() <= (steps % 16 == 0)
        if len(trailing.timesteps) != steps:
            surplus.append(steps)
            assert trailing.timesteps.tolist()[steps:] == [-1]
    # np.arange(1000, 0, -1000 / steps) does not stop in time: 62 steps when asked for 61, the last at t = -1.
    assert 61 in surplus and len(surplus) == 62


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_leading_of_diffusers_dpmsolver_is_another_rule():
    scheduler = DPMSolverMultistepScheduler(timestep_spacing="leading")
    scheduler.set_timesteps(30)
    assert scheduler.timesteps.tolist() == [1000 // 31 * i for i in range(30, 0, -1)]


# ------------------------------------------------------------------------------------------ steps


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_exactly_the_steps_asked_for(data):
    T = data.draw(st.integers(1, 120), label="T")
    steps = data.draw(st.integers(1, T), label="steps")
    options = data.draw(st.sampled_from(EVERY_METHOD))
    spacing = data.draw(st.sampled_from(["trailing", "leading"]))
    schedule = make_schedule("cosine", T)
    model, seen = Net(schedule, channels=1), []
    noise = normal(2, 1, 2, 2)
    kept = noise.clone()
    result = sample(
        model, noise, schedule, steps=steps, clip_x0=False, spacing=spacing, prediction="v", generator=seeded(0),
        callback=lambda i, t, xt, x0_hat: seen.append((i, t, xt, x0_hat)), **options,
    )  # fmt: skip
    times = [t for _, t, _, _ in seen]
    assert len(model.calls) == steps and [i for i, *_ in seen] == list(range(steps))
    assert times == sorted(set(times), reverse=True) == timesteps(T, steps, spacing).tolist()
    assert 0 <= times[-1] and times[0] <= T - 1
    assert times[0] == T - 1 if spacing == "trailing" else times[-1] == 0
    for (xt, t, label), index, (_, _, state, _) in zip(model.calls, times, seen):
        assert t.dtype == torch.int64 and t.tolist() == [index, index] and label is None
        assert torch.equal(xt, state)
    assert torch.equal(result, seen[-1][3])  # the last step lands on x0_hat itself
    assert torch.equal(noise, kept)


@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("T", [1, 2, 3, 10, 1000, 1024])
def test_every_step_count_has_its_own_distinct_indices(T, spacing):
    for steps in range(1, T + 1):
        listed = timesteps(T, steps, spacing)
        assert listed.shape == (steps,) and listed.dtype == torch.int64
        assert bool((listed.diff() < 0).all()) and 0 <= listed[-1] and listed[0] < T


@named("options", EVERY_METHOD)
@pytest.mark.parametrize("steps", [1, 2, 13])
def test_no_noise_at_the_last_step(options, steps, monkeypatch):
    draws = []
    fresh = samplers._normal_like
    monkeypatch.setattr(samplers, "_normal_like", lambda *a: draws.append(1) or fresh(*a))
    seen = []
    result = sample(
        Net(), normal(2, 3, 4, 4), LINEAR, steps=steps, clip_x0=True, generator=seeded(0),
        callback=lambda i, t, xt, x0_hat: seen.append((xt, x0_hat)), **options,
    )  # fmt: skip
    stochastic = options["method"] == "ddpm" or "eta" in options
    assert len(draws) == (steps - 1 if stochastic else 0)
    assert torch.equal(result, seen[-1][1])
    if steps == 1:
        other = sample(Net(), normal(2, 3, 4, 4), LINEAR, steps=1, clip_x0=True, generator=seeded(99), **options)
        assert torch.equal(result, other)


def test_the_rule_of_diffusers_may_stop_short_of_the_picture():
    # 7 trailing steps end at t = 142, and 142 - 1000 // 7 = 0: one noise level above the picture.
    seen = []
    options = dict(steps=7, clip_x0=False, callback=lambda i, t, xt, x0_hat: seen.append(x0_hat))
    assert gap(sample(Net(), normal(2, 3, 4, 4), LINEAR, **options), seen[-1]) == 0
    assert gap(sample(Net(), normal(2, 3, 4, 4), LINEAR, previous="diffusers", **options), seen[-1]) > 1e-3


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("T", [1, 24])
def test_ddim_with_eta_1_is_ddpm_for_every_step_count(T, prediction, clip):
    schedule, noise = make_schedule("cosine", T), normal(2, 3, 4, 4)
    model = Net(schedule)
    for steps in range(1, T + 1):
        for spacing in ("trailing", "leading"):
            options = dict(steps=steps, clip_x0=clip, prediction=prediction, spacing=spacing)
            ddim = trajectory(model, noise, schedule, method="ddim", eta=1.0, generator=seeded(3), **options)
            ddpm = trajectory(model, noise, schedule, method="ddpm", generator=seeded(3), **options)
            assert gap(ddim, ddpm) < 1e-10 * (1 + ddpm.abs().max())


def test_ddim_with_eta_1_is_ddpm_over_all_1000_steps():
    noise, options = normal(1, 3, 4, 4), dict(steps=1000, clip_x0=True)
    ddim = trajectory(Net(), noise, method="ddim", eta=1.0, generator=seeded(3), **options)
    assert gap(ddim, trajectory(Net(), noise, method="ddpm", generator=seeded(3), **options)) < 1e-10


def test_one_ddpm_step_is_bayes_rule():
    # q(x_prev | xt, x0) is proportional to q(xt | x_prev) q(x_prev | x0): precisions add (DDPM eq. 6 and 7).
    a, p, x0, xt = 0.3, 0.7, 0.9, -0.4
    alpha = a / p
    precision = alpha / (1 - alpha) + 1 / (1 - p)
    mean = (alpha**0.5 * xt / (1 - alpha) + p**0.5 * x0 / (1 - p)) / precision
    one = torch.ones((), dtype=torch.float64)
    assert ddpm_step(xt * one, x0 * one, a, p).item() == pytest.approx(mean, abs=1e-14)
    noisy = ddpm_step(xt * one, x0 * one, a, p, noise=one).item()
    assert noisy == pytest.approx(mean + precision**-0.5, abs=1e-14)
    assert ddim_step(xt * one, x0 * one, a, p, 1.0, one).item() == pytest.approx(noisy, abs=1e-14)
    larger = ddpm_step(xt * one, x0 * one, a, p, noise=one, variance="beta").item()
    assert larger == pytest.approx(mean + (1 - alpha) ** 0.5, abs=1e-14)


# ------------------------------------------------------------------------------------------ Gaussian data

D = 3
EYE = torch.eye(D, dtype=torch.float64)
MEAN = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
FACTOR = normal(D, D, seed=3)
COVARIANCE = 0.3 * FACTOR @ FACTOR.T + 0.05 * EYE


def ideal_denoiser(schedule, mean=MEAN, covariance=COVARIANCE, prediction="x0"):
    """E[x0 | xt] for data from N(mean, covariance), as a network of that prediction would say it."""

    def model(xt, t):
        a, index = schedule.alpha_bar[t[0]], int(t[0])
        gain = a.sqrt() * covariance @ torch.linalg.inv(a * covariance + (1 - a) * EYE)
        x0_hat = (mean + (xt.flatten(1) - a.sqrt() * mean) @ gain.T).view_as(xt)
        if prediction == "u":
            return to_eps(x0_hat, xt, index, schedule, "x0") - x0_hat
        convert = {"x0": lambda said, *_: said, "eps": to_eps, "v": to_v}[prediction]
        return convert(x0_hat, xt, index, schedule, "x0")

    return model


def power(matrix, exponent):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values**exponent) @ vectors.T


def exact_flow(schedule, x, t):
    """Where the probability flow takes x (B, D) from the last index to index t, or to the data for t = None.

    For Gaussian data the marginal at each level is Gaussian too, and the flow scales each principal axis by the
    ratio of its standard deviations.
    """

    def marginal(a):
        return a**0.5 * MEAN, a * COVARIANCE + (1 - a) * EYE

    (start, wide), (end, narrow) = (
        marginal(schedule.alpha_bar[-1]),
        marginal(torch.ones((), dtype=torch.float64) if t is None else schedule.alpha_bar[t]),
    )
    return end + (x - start) @ (power(narrow, 0.5) @ power(wide, -0.5)).T


def affine_inputs():
    """The origin and the unit vectors: what an affine map does to these is all that it does."""
    return torch.cat([torch.zeros(1, D, dtype=torch.float64), EYE]).view(-1, D, 1, 1)


def moments(schedule, steps, model=None, **options):
    """Exact mean and covariance of each state, from standard normal noise, by no Monte Carlo.

    With a linear denoiser a state is an affine map of all the noise ever drawn: D numbers at the start and D at
    each step. The batch holds one unit vector for each of them.
    """
    n = D * steps
    basis = torch.cat([torch.zeros(1, n, dtype=torch.float64), torch.eye(n, dtype=torch.float64)])
    columns = iter(basis.split(D, dim=1))
    first = next(columns).reshape(-1, D, 1, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samplers, "_normal_like", lambda x, generator: next(columns).reshape(x.shape))
        states = trajectory(
            model or ideal_denoiser(schedule), first, schedule, steps=steps, clip_x0=False, prediction="x0",
            generator=seeded(0), **options,
        ).flatten(2)  # fmt: skip
    maps = states[:, 1:] - states[:, :1]
    return states[:, 0], maps.transpose(1, 2) @ maps


def orders(errors):
    """The observed order of convergence between each pair of step counts, the second twice the first."""
    errors = torch.tensor(errors)
    return (errors[:-1] / errors[1:]).log2()


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("method, tolerance", [("ddim", 4e-3), ("dpmpp", 1e-4)])
def test_deterministic_samplers_reach_the_gaussian(name, method, tolerance):
    schedule, errors = make_schedule(name), []
    want = exact_flow(schedule, affine_inputs().flatten(1), None)
    for steps in (10, 40, 200, 1000):
        options = dict(steps=steps, clip_x0=False, method=method, prediction="x0")
        got = sample(ideal_denoiser(schedule), affine_inputs(), schedule, **options).flatten(1)
        errors.append(gap(got, want))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < tolerance
    # And so the pictures have the data's mean and covariance; the noise itself still holds a trace of signal,
    # sqrt(alpha_bar) at T - 1, which standard normal noise lacks and which moves the mean by about 0.01.
    spread = (got[1:] - got[0]).T
    assert gap(spread @ spread.T, COVARIANCE) < 2 * tolerance + 1e-4
    assert gap(got[0], MEAN) < 0.02


@pytest.mark.parametrize("method, order", [("ddim", 1), ("dpmpp", 2)])
@pytest.mark.parametrize("name", ["linear", "sqrt_linear"])
def test_order_of_convergence(name, method, order):
    # At a noise level inside the path, since the very last step is of first order for every method.
    schedule, errors = make_schedule(name, 4096), []
    want = exact_flow(schedule, affine_inputs().flatten(1), 1023)
    for steps in (16, 32, 64, 128, 256):
        states = {}
        sample(
            ideal_denoiser(schedule), affine_inputs(), schedule, steps=steps, clip_x0=False, method=method,
            prediction="x0", callback=lambda i, t, xt, x0_hat, states=states: states.update({t: xt}),
        )  # fmt: skip
        errors.append(gap(states[1023].flatten(1), want))
    assert (orders(errors) - order).abs().max() < 0.2
    assert abs(orders(errors)[-1] - order) < 0.05


@named("options", [o for o in EVERY_METHOD if o["method"] == "ddpm" or "eta" in o] + [dict(method="ddim", eta=1.0)])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_stochastic_samplers_reach_the_gaussian_as_one_over_steps(name, options):
    schedule, errors = make_schedule(name), []
    for steps in (40, 80, 160, 320):
        means, covariances = moments(schedule, steps, **options)
        errors.append(gap(covariances[-1], COVARIANCE))
        assert gap(means[-1], MEAN) < 4e-3  # the missing trace of signal, as above, mostly forgotten on the way
    assert errors[-1] < 0.03
    # It comes near first order from below, and the extrapolation to infinitely many steps leaves little.
    assert bool((orders(errors) > 0.7).all()) and 0.9 < orders(errors)[-1] < 1.1
    assert abs(2 * errors[-1] - errors[-2]) < 3e-3


@pytest.mark.parametrize("steps", [1, 2, 5, 30])
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
def test_each_variance_of_ddpm_is_exact_for_its_own_data(steps, spacing):
    # DDPM section 3.2: 'beta' is right for x0 from N(0, I), 'posterior' for x0 that is one point. At any step count.
    schedule = make_schedule("cosine", 100)
    start = timesteps(100, steps, spacing)
    unit = ideal_denoiser(schedule, 0 * MEAN, EYE)
    _, covariances = moments(schedule, steps, unit, method="ddpm", variance="beta", spacing=spacing)
    assert gap(covariances[:-1], EYE.expand(steps, D, D)) < 1e-10
    point = ideal_denoiser(schedule, MEAN, 0 * EYE)
    for options in (dict(method="ddpm"), dict(method="ddim", eta=1.0)):
        means, covariances = moments(schedule, steps, point, spacing=spacing, **options)
        # From the noise's mean 0 and variance 1 at the start, the chain forgets at the rate of from_xt.
        a0 = schedule.alpha_bar[start[0]]
        for i in range(1, steps):
            a, kept = schedule.alpha_bar[start[i]], 1.0
            for j in range(i):
                b, c = schedule.alpha_bar[start[j]], schedule.alpha_bar[start[j + 1]]
                kept = kept * (b / c).sqrt() * (1 - c) / (1 - b)
            assert gap(covariances[i], (1 - a + kept**2 * a0) * EYE) < 1e-10
            assert gap(means[i], (a.sqrt() - kept * a0.sqrt()) * MEAN) < 1e-10


@named("options", EVERY_METHOD)
def test_random_samples_have_the_moments_that_were_computed(options):
    # The same by Monte Carlo, through the generator: 20,000 samples, five standard errors.
    n, steps = 20_000, 20
    if options in (dict(method="ddim"), dict(method="dpmpp")):
        corners = sample(
            ideal_denoiser(LINEAR), affine_inputs(), LINEAR, steps=steps, clip_x0=False, prediction="x0", **options
        ).flatten(1)
        mean, covariance = corners[0], (corners[1:] - corners[0]).T @ (corners[1:] - corners[0])
    else:
        mean, covariance = (m[-1] for m in moments(LINEAR, steps, **options))
    drawn = sample(
        ideal_denoiser(LINEAR, prediction="eps"), normal(n, D, 1, 1, seed=5), LINEAR, steps=steps, clip_x0=False,
        prediction="eps", generator=seeded(6), **options,
    ).flatten(1)  # fmt: skip
    variances = covariance.diag()
    assert bool(((drawn.mean(0) - mean).abs() < 5 * (variances / n).sqrt()).all())
    error = ((torch.outer(variances, variances) + covariance**2) / n).sqrt()  # of an entry of a sample covariance
    assert bool(((drawn.T.cov() - covariance).abs() < 5 * error).all())


@named("options", EVERY_METHOD)
def test_the_kind_of_prediction_makes_no_difference(options):
    noise = normal(5, D, 1, 1)
    paths = [
        trajectory(
            ideal_denoiser(LINEAR, prediction=p), noise, steps=25, clip_x0=True, prediction=p, generator=seeded(2),
            **options,
        )
        for p in PREDICTIONS
    ]  # fmt: skip
    assert max(gap(paths[0], other) for other in paths[1:]) < 1e-9


# ------------------------------------------------------------------------------------------ guidance

LABEL, NULL = torch.tensor([2, 5]), 10
NOTHING = torch.full_like(LABEL, NULL)


def test_scale_1_is_one_plain_call_with_the_label():
    for scale in ({}, dict(guidance_scale=1.0), dict(guidance_scale=1, null_label=NULL)):
        model = Net()
        sample(model, normal(2, 3, 4, 4), LINEAR, steps=5, clip_x0=False, label=LABEL, **scale)
        assert len(model.calls) == 5
        assert all(len(xt) == len(t) == 2 and torch.equal(y, LABEL) for xt, t, y in model.calls)


def test_any_other_scale_is_one_doubled_call_with_the_null_label():
    model = Net()
    sample(model, normal(2, 3, 4, 4), LINEAR, steps=5, clip_x0=False, label=LABEL, null_label=NULL, guidance_scale=3.0)
    assert len(model.calls) == 5
    for xt, t, y in model.calls:
        assert torch.equal(xt[:2], xt[2:]) and torch.equal(t[:2], t[2:])
        assert y.tolist() == [2, 5, NULL, NULL] and y.dtype == torch.int64


def test_the_prediction_is_linear_in_the_scale():
    model, xt, t = Net(), normal(2, 3, 4, 4), torch.tensor([400, 400])
    cond, uncond = model(xt, t, LABEL), model(xt, t, torch.full((2,), NULL))
    assert gap(cond, uncond) > 0.01
    for scale in (0.0, 0.5, 2.0, 7.5, -1.0):
        got = guided_prediction(model, xt, t, LABEL, NOTHING, scale)
        assert gap(got, (1 - scale) * uncond + scale * cond) < 1e-12
    assert torch.equal(guided_prediction(model, xt, t, LABEL, NOTHING, 1.0), cond)
    assert torch.equal(guided_prediction(model, xt, t), model(xt, t))


@named("options", EVERY_METHOD)
def test_scale_0_is_the_unlabelled_sample(options):
    common = dict(steps=6, clip_x0=True, null_label=NULL, **options)
    noise = normal(2, 3, 4, 4)
    guided = sample(Net(), noise, LINEAR, label=LABEL, guidance_scale=0.0, generator=seeded(4), **common)
    plain = sample(Net(), noise, LINEAR, label=torch.full((2,), NULL), generator=seeded(4), **common)
    assert gap(guided, plain) < 1e-12


def test_guidance_is_computed_in_the_precision_of_the_states():
    half = lambda xt, t, label: (label.view(-1, 1, 1, 1) / 10 + 1).half().expand_as(xt)  # noqa: E731
    got = guided_prediction(half, normal(2, 1, 1, 1).float(), torch.tensor([3, 3]), LABEL, NOTHING, 100.0)
    cond, uncond = (1 + LABEL / 10).half().float(), 2.0
    assert got.dtype == torch.float32 and torch.equal(got.flatten(), uncond + 100 * (cond - uncond))


def test_guidance_is_the_same_for_each_kind_of_prediction():
    def net(prediction):
        base = Net()

        def model(xt, t, label):
            if prediction == "u":
                said = base(xt, t, label)
                return said - samplers.to_x0(said, xt, t, LINEAR, "eps")
            convert = {"eps": lambda said, *_: said, "v": to_v, "x0": samplers.to_x0}[prediction]
            return convert(base(xt, t, label), xt, t, LINEAR, "eps")

        return model

    options = dict(steps=9, clip_x0=False, label=LABEL, null_label=NULL, guidance_scale=4.0)
    noise = normal(2, 3, 4, 4)
    by_eps, *others = (sample(net(p), noise, LINEAR, prediction=p, **options) for p in PREDICTIONS)
    assert max(gap(by_eps, other) for other in others) < 1e-9


# ------------------------------------------------------------------------------------------ promises


@named("options", EVERY_METHOD)
def test_the_same_seed_gives_the_same_result_and_another_does_not(options):
    def run(seed):
        return sample(Net(), normal(2, 3, 4, 4), LINEAR, steps=8, clip_x0=True, generator=seeded(seed), **options)

    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert torch.equal(run(1), run(1))
    assert torch.equal(run(1), run(2)) == (options["method"] == "dpmpp" or options == dict(method="ddim"))
    assert torch.equal(torch.get_rng_state(), before)  # nothing global is touched


def test_results_are_plain_tensors_that_autograd_may_use():
    weight = torch.ones(1, 3, 1, 1, requires_grad=True)
    result = sample(lambda xt, t: weight * xt, torch.randn(2, 3, 4, 4), LINEAR, steps=3, clip_x0=True)
    assert not result.requires_grad
    (weight * result).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@named("options", EVERY_METHOD)
def test_states_keep_the_dtype_even_if_the_network_answers_in_another(options, prediction, dtype):
    def run(model):
        seen = []
        result = sample(
            model, normal(2, 3, 4, 4).to(dtype), LINEAR, steps=3, clip_x0=False, prediction=prediction,
            generator=seeded(0), callback=lambda i, t, xt, x0_hat: seen.extend([xt.dtype, x0_hat.dtype]), **options,
        )  # fmt: skip
        assert {*seen, result.dtype} == {dtype}
        return result

    # The answer is only as precise as half, but from there on nothing is rounded to half.
    assert torch.equal(run(lambda xt, t: xt.half()), run(lambda xt, t: xt.half().to(dtype)))


@named("options", EVERY_METHOD)
def test_what_the_network_returns_is_left_alone(options):
    answer = 2 * normal(2, 3, 4, 4)
    kept = answer.clone()
    sample(
        lambda xt, t: answer, normal(2, 3, 4, 4), LINEAR, steps=3, clip_x0=True, prediction="x0", generator=seeded(0),
        **options,
    )  # fmt: skip
    assert torch.equal(answer, kept)


def test_progress_shows_the_steps_and_the_time_left(capsys):
    options = dict(steps=4, clip_x0=True)
    sample(Net(), normal(2, 3, 4, 4), LINEAR, **options)
    assert capsys.readouterr().err == ""
    sample(Net(), normal(2, 3, 4, 4), LINEAR, progress=True, **options)
    assert "4/4" in (shown := capsys.readouterr().err) and "<" in shown


def test_any_shape_will_do():
    for shape in [(4, 2), (2, 5, 6), (2, 3, 4, 5, 6)]:  # vectors, sequences, clips
        noise = normal(*shape)
        for options in EVERY_METHOD:
            got = sample(lambda xt, t: xt / 2, noise, LINEAR, steps=3, clip_x0=False, generator=seeded(0), **options)
            assert got.shape == noise.shape


def test_a_custom_schedule_can_be_sampled():
    schedule = Schedule(torch.linspace(0.99, 0.01, 64, dtype=torch.float64))
    x0 = torch.full((1, 1, 2, 2), 0.3, dtype=torch.float64)
    oracle = lambda xt, t: target(x0, to_eps(x0, xt, t, schedule, "x0"), t, schedule, "v")  # noqa: E731
    for options in EVERY_METHOD:
        got = sample(
            oracle, normal(1, 1, 2, 2), schedule, steps=9, clip_x0=False, prediction="v", generator=seeded(0), **options
        )
        assert gap(got, x0) < 1e-12


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@named("options", EVERY_METHOD)
def test_a_step_never_makes_the_gpu_wait(options):
    model = lambda xt, t: xt / 2 + t.view(-1, 1, 1, 1) / 1e4  # noqa: E731
    noise = torch.randn(2, 3, 8, 8, device="cuda")

    def watch(i, t, xt, x0_hat):  # from the first step on, a wait is an error
        torch.cuda.set_sync_debug_mode("error")

    try:
        sample(
            model, noise, LINEAR, steps=9, clip_x0=True, generator=torch.Generator("cuda"), callback=watch, **options
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(steps=0), "steps=0"),
        (dict(steps=1001), "1001"),
        (dict(steps=2.5), "2.5"),
        (dict(steps=-3), "-3"),
        (dict(method="euler"), "'euler'"),
        (dict(spacing="linspace"), "'linspace'"),
        (dict(previous="next"), "'next'"),
        (dict(prediction="epsilon"), "'epsilon'"),
        (dict(eta=-0.1), "eta=-0.1"),
        (dict(eta=1.5), "eta=1.5"),
        (dict(eta=float("nan")), "eta=nan"),
        (dict(eta=0.5, method="dpmpp"), "only 'ddim'"),
        (dict(eta=1.0, method="ddpm"), "only 'ddim'"),
        (dict(variance="large", method="ddpm"), "'large'"),
        (dict(variance="beta"), "only 'ddpm'"),
        (dict(previous="diffusers", method="dpmpp", steps=7), "'listed'"),
        (dict(method="ddpm", generator=None), "generator"),
        (dict(eta=0.5, generator=None), "generator"),
        (dict(guidance_scale=2.0), "without a condition"),
        (dict(guidance_scale=2.0, label=LABEL), "no_condition"),
        (dict(label=torch.tensor([1, 2, 3])), "3 conditions for 2 pictures"),
        (dict(noise=torch.zeros(2, 3, 4, 4, dtype=torch.int64)), "int64"),
        (dict(model=lambda xt, t: torch.cat([xt, xt], 1)), "(2, 6, 4, 4)"),
        (dict(model=lambda xt, t: xt[:, :1]), "(2, 1, 4, 4)"),
    ],
)
def test_mistakes_are_named_in_one_line(change, says):
    options = dict(steps=5, clip_x0=True, generator=seeded(0), model=Net(), noise=normal(2, 3, 4, 4)) | change
    model, noise = options.pop("model"), options.pop("noise")
    with pytest.raises(ValueError) as error:
        sample(model, noise, LINEAR, **options)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "steps, says",
    [
        ([], "steps=[]"),
        ("50", "steps.0='5'"),
        ([(500, 250.0)], "steps.0.1=250.0"),
        ([(-1, -1)], "steps.0.0=-1; expected 0 or more"),
        ([(999, 10), (10, -2)], "steps.1.1=-2; expected -1 or more"),
        ([(999, 1000)], "steps lead over t=1000; expected 0 to 999"),
        ([(1000, -1)], "t=1000"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused_before_the_network_is_asked(steps, says):
    with pytest.raises(ValueError) as error:
        samplers.sample(None, normal(2, 3, 4, 4), LINEAR, steps=steps)
    assert says in str(error.value)


@pytest.mark.parametrize("guess", [lambda x, t: None, lambda x, t: x[:, :1], lambda x, t: x[:1], lambda x, t: 0.0])
@pytest.mark.parametrize("method", samplers.METHODS)
def test_a_guess_unlike_xt_is_not_broadcast(guess, method):
    with pytest.raises(ValueError, match=r"x0_hat: got .*; expected float \(2, 3, 4, 4\)"):
        samplers.sample(guess, normal(2, 3, 4, 4), LINEAR, steps=2, method=method, generator=seeded(0))


NO_LEVELS = [(1.5, 0.5), (0.0, 0.5), (1.0, 1.0), (0.5, 1.1), (0.5, -0.1), (float("nan"), 1.0)]


@pytest.mark.parametrize("step", [samplers.ddpm_step, samplers.ddim_step, samplers.dpmpp_step])
@pytest.mark.parametrize("here, there", NO_LEVELS)
def test_a_step_between_levels_that_are_none_is_refused(step, here, there):
    with pytest.raises(ValueError, match=f"a step from alpha_bar={here} to {there}; expected"):
        step(normal(1, 3, 4, 4), normal(1, 3, 4, 4), here, there)


def test_an_unknown_variance_is_refused_without_noise_too():
    with pytest.raises(ValueError, match="variance='big'; expected 'posterior' or 'beta'"):
        samplers.ddpm_step(normal(1, 3, 4, 4), normal(1, 3, 4, 4), 0.5, 0.6, None, "big")


def test_clipping_has_to_be_chosen():
    with pytest.raises(TypeError, match="clip_x0"):
        sample(Net(), normal(2, 3, 4, 4), LINEAR, steps=5)

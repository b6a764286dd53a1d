"""Rectified flow against closed forms and diffusers, and its place among schedules and predictions (chapter 9)."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn

from ldm_course.config import DiTConfig, TrainConfig, UNetConfig
from ldm_course.data.pictures import Pictures
from ldm_course.diffusion import flow
from ldm_course.diffusion.flow import FlowObjective, evaluations, heun, position, straightness, velocity
from ldm_course.diffusion.objectives import BatchRandom, DenoisingObjective
from ldm_course.diffusion.samplers import ddim_step, path, sample, x0_predictor
from ldm_course.diffusion.schedules import PREDICTIONS, add_noise, make_schedule, target, to_eps, to_x0
from ldm_course.spaces import PixelSpace
from ldm_course.training.recipes import denoiser_of, denoiser_trainer

FLOW = make_schedule("flow")
TOLERANCE = 1e-5


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pictures(count=10, size=8):
    images = torch.randint(256, (count, 3, size, size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return Pictures(images, name="p")


def s_of(schedule):
    """s of each level, from alpha_bar by another way than `position`'s: s / (1 - s) is the root of 1 / SNR."""
    ratio = (1 / schedule.snr).sqrt()
    return ratio / (1 + ratio)


# ------------------------------------------------------------------------------------------- the schedule


@pytest.mark.parametrize("T, shift", [(1000, 1.0), (1000, 3.0), (7, 1.0), (40, 0.5)])
def test_the_levels_are_even_in_s_and_a_shift_is_that_of_sd_3(T, shift):
    even = torch.arange(1, T + 1, dtype=torch.float64) / T
    wanted = shift * even / (1 + (shift - 1) * even)
    found = s_of(make_schedule("flow", T, shift))
    assert (found - wanted)[:-1].abs().max() < 1e-12
    assert 1 - 1e-5 < found[-1] < 1  # the last is noise but for a trace, since a schedule ends above 0
    assert (
        max(abs(position(a)[0] - s) for a, s in zip(make_schedule("flow", T, shift).alpha_bar.tolist(), found)) < 1e-12
    )


def test_the_shifted_levels_are_those_that_diffusers_trains_on():
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0).sigmas.double().flip(0)
    assert (s_of(make_schedule("flow", shift=3.0)) - theirs).abs().max() < TOLERANCE


def test_a_flow_has_no_betas_to_choose():
    with pytest.raises(ValueError, match="the flow schedule has no beta_start"):
        make_schedule("flow", beta_start=0.1)


def test_x_t_is_the_point_on_the_line_divided_by_its_scale():
    x0, eps, t = normal(5, 3, 2, 2), normal(5, 3, 2, 2, seed=1), torch.tensor([0, 99, 499, 800, 998])
    s = ((t.double() + 1) / 1000).view(-1, 1, 1, 1)
    y = (1 - s) * x0 + s * eps
    xt = add_noise(x0, eps, t, FLOW)
    assert (xt - y / ((1 - s) ** 2 + s**2).sqrt()).abs().max() < 1e-12
    for i, t_i in enumerate(t.tolist()):
        s_i, scale = position(FLOW.alpha_bar[t_i].item())
        assert (scale * xt[i] - y[i]).abs().max() < 1e-12 and s_i == pytest.approx(s[i].item())
        assert (velocity(xt[i], x0[i], FLOW.alpha_bar[t_i].item()) - (eps - x0)[i]).abs().max() < 1e-9


# ---------------------------------------------------------------------------------- parity with diffusers


class Field(nn.Module):
    """A velocity that bends with the place and the time, on y: like a network, but smooth, and of float64."""

    def __init__(self, schedule, calls=None):
        super().__init__()
        self.s, self.calls = s_of(schedule), [] if calls is None else calls

    def on_y(self, y, s):
        return torch.sin(2 * y + 3 * s) + y * (1 - s)

    def forward(self, xt, t):
        """As a network of ours that predicts u is called: with x_t and an index."""
        self.calls.append(t[0].item())
        s = self.s[t].view(-1, *[1] * (xt.ndim - 1))
        return self.on_y(((1 - s) ** 2 + s**2).sqrt() * xt, s)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 4, 7, 28, 50])
def test_ddim_on_a_flow_is_eulers_method_as_diffusers_has_it(steps, shift):
    schedule, noise = make_schedule("flow", shift=shift), normal(2, 3, 4, 4)
    field = Field(schedule)
    ours = sample(x0_predictor(field, schedule, prediction="u", clip_x0=False), noise, schedule, steps=steps)
    assert len(field.calls) == steps == evaluations("ddim", steps)

    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    even = [(t + 1) / 1000 for t, _ in path(1000, steps)]  # which it shifts itself
    theirs.set_timesteps(sigmas=even)
    assert (theirs.sigmas[:-1].double() - s_of(schedule)[field.calls]).abs().max() < TOLERANCE
    y = noise.clone()
    for i, t in enumerate(theirs.timesteps):
        y = theirs.step(field.on_y(y, theirs.sigmas[i].double()), t, y, return_dict=False)[0].double()
    assert y.std() > 0.1 and (ours - y).abs().max() < TOLERANCE * y.abs().max().clamp(min=1)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_noise_is_mixed_in_as_diffusers_does(shift):
    theirs, schedule = FlowMatchEulerDiscreteScheduler(shift=shift), make_schedule("flow", shift=shift)
    x0, eps = normal(4, 3, 2, 2, dtype=torch.float32), normal(4, 3, 2, 2, seed=1, dtype=torch.float32)
    index = torch.tensor([0, 10, 600, 999])
    y = theirs.scale_noise(x0, theirs.timesteps[999 - index], eps)
    for i, t in enumerate(index.tolist()):
        _, scale = position(schedule.alpha_bar[t].item())
        assert (scale * add_noise(x0[i], eps[i], t, schedule) - y[i]).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", ["cosine", "linear", "flow"])
def test_a_step_of_ddim_is_a_step_of_eulers_on_every_schedule(name):
    schedule, (xt, x0_hat) = make_schedule(name), normal(2, 4, 3, 2, 2)
    for t, to in ((999, 700), (700, 3), (400, 399), (30, -1)):
        here, there = schedule.alpha_bar[t].item(), 1.0 if to < 0 else schedule.alpha_bar[to].item()
        (s, scale), (s_there, scale_there) = position(here), position(there)
        y = scale * xt + (s_there - s) * velocity(xt, x0_hat, here)
        assert (ddim_step(xt, x0_hat, here, there) - y / scale_there).abs().max() < 1e-9


# ------------------------------------------------------------------------------------------- Heun's method

SPREAD = 0.5  # of data that are normal: E[x0 | y] is known, and the path from z is z * sqrt((1 - s)^2 SPREAD^2 + s^2)


def ideal(schedule, calls=None):
    """predict_x0 for normal data of that spread."""

    def predict_x0(xt, t):
        if calls is not None:
            calls.append(t)
        a = schedule.alpha_bar[t].item()
        return math.sqrt(a) * SPREAD**2 / (a * SPREAD**2 + 1 - a) * xt

    return predict_x0


@pytest.mark.parametrize("name", ["flow", "cosine"])
def test_heun_is_of_second_order_where_eulers_is_of_first(name):
    """Half way, at an index that all these paths have: the step to s = 0 is Euler's for both."""
    schedule, noise, half = make_schedule(name, 4096), normal(1, 1, 4, 4), 2047
    (s, scale), (first, first_scale) = (position(schedule.alpha_bar[t].item()) for t in (half, -1))
    grown = [math.hypot((1 - at) * SPREAD, at) for at in (s, first)]
    exact = noise * first_scale * grown[0] / grown[1]

    def error(method, steps):
        seen = []

        def watched(xt, t):
            if t == half:
                seen.append(xt)  # the last of them: Heun's is there twice, the first time by Euler's step
            return ideal(schedule)(xt, t)

        method(watched, noise, schedule, steps=steps)
        return (scale * seen[-1] - exact).abs().max().item()

    errors = {method: [error(method, steps) for steps in (16, 32, 64, 128)] for method in (sample, heun)}
    orders = {method: torch.tensor(found).log2().diff().neg() for method, found in errors.items()}
    assert ((orders[sample] > 0.8) & (orders[sample] < 1.2)).all()
    assert ((orders[heun] > 1.7) & (orders[heun] < 2.3)).all()
    assert errors[heun][-1] < errors[sample][-1] / 10


@pytest.mark.parametrize("steps", [1, 2, 5, 1000])
def test_heun_asks_twice_in_each_step_but_the_last(steps):
    calls = []
    made = heun(ideal(FLOW, calls), normal(2, 1, 2, 2), FLOW, steps=steps)
    assert len(calls) == evaluations("heun", steps) == 2 * steps - 1 and made.shape == (2, 1, 2, 2)
    listed = [t for t, _ in path(1000, steps)]
    assert calls == [listed[0], *(t for t in listed[1:] for _ in range(2))]


def test_heun_in_the_plain_coordinates_is_the_same():
    steps, schedule = 6, make_schedule("flow", shift=2.0)
    field, noise = Field(schedule), normal(2, 3, 4, 4)
    ours = heun(x0_predictor(field, schedule, prediction="u", clip_x0=False), noise, schedule, steps=steps)
    y = noise / math.hypot(schedule.signal_scale[-1], schedule.noise_scale[-1])
    levels = [*s_of(schedule)[[t for t, _ in path(1000, steps)]].tolist(), 0.0]
    for s, after in pairwise(levels):
        u = field.on_y(y, s)
        if after > 0:
            u = (u + field.on_y(y + (after - s) * u, after)) / 2
        y = y + (after - s) * u
    assert (ours - y).abs().max() < TOLERANCE


# ------------------------------------------------------------------------------------------ straightness


def test_paths_to_one_picture_are_straight_whatever_the_schedule():
    there = normal(1, 2, 3, 3, seed=4)
    for name in ("flow", "cosine", "linear"):
        found = straightness(lambda xt, t: there.expand_as(xt), normal(8, 2, 3, 3), make_schedule(name), steps=50)
        assert found.s == pytest.approx(0, abs=1e-9) and found.error < 1e-9
        crossed = (normal(8, 2, 3, 3) - there).square().mean().item()
        assert found.span == pytest.approx(crossed, rel=0.02)  # linear's noise has a trace of signal


def test_of_normal_data_it_is_the_integral_known_in_closed_form():
    """Per z^2: the integral of g'^2, less (g(1) - g(0))^2, with g = sqrt((1 - s)^2 SPREAD^2 + s^2)."""
    s = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    g = (((1 - s) * SPREAD) ** 2 + s**2).sqrt()
    exact = ((s - (1 - s) * SPREAD**2) / g).square().mean().item() - (1 - SPREAD) ** 2
    noise = normal(64, 3, 8, 8)
    for name in ("flow", "cosine"):  # one measure for all, in s
        found = straightness(ideal(make_schedule(name)), noise, make_schedule(name), steps=500)
        assert found.s == pytest.approx(exact * noise.square().mean().item(), rel=0.02)
        assert found.span == pytest.approx((1 - SPREAD) ** 2 * noise.square().mean().item(), rel=0.02)
        each = noise.square().flatten(1).mean(1)
        assert found.error == pytest.approx(exact * each.std().item() / 8, rel=0.03)


def test_one_path_has_no_error():
    with pytest.raises(ValueError, match="at least 2"):
        straightness(ideal(FLOW), normal(1, 1, 2, 2), FLOW)


# ------------------------------------------------------------------------------------------ the objective


def asked(times, count=200_000):
    objective = FlowObjective(pictures(), FLOW, "u", times=times)
    return objective.times(BatchRandom(0, 0, count, slice(None), "cpu"))


def test_times_are_uniform_or_logit_normal():
    uniform, other = asked("uniform"), asked("logit-normal")
    for t in (uniform, other):
        assert t.dtype == torch.int64 and 0 <= t.min() and t.max() <= 999
    assert torch.histc(uniform.float(), 10, 0, 1000).sub(20_000).abs().max() < 700
    s = torch.linspace(0, 1, 11, dtype=torch.float64)[1:-1]
    cumulative = 0.5 * (1 + torch.erf(torch.logit(s) / 2**0.5))  # the normal's, at logit(s)
    found = torch.stack([(other < 1000 * level).double().mean() for level in s])
    assert (found - cumulative).abs().max() < 0.005


class Recorder(nn.Module):
    """Says 0.25 everywhere, and keeps what it was asked."""

    def forward(self, xt, t):
        self.asked = xt, t
        return torch.full_like(xt, 0.25)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_loss_is_that_of_the_velocity_whatever_is_predicted(prediction):
    """An error of the prediction, carried over to u by the formulas of schedules, against the weight in closed form."""
    objective, t = FlowObjective(pictures(), FLOW, prediction), torch.tensor([60, 200, 500, 700, 940])
    x0, eps, error = (normal(5, 3, 8, 8, seed=i) for i in range(3))
    xt = add_noise(x0, eps, t, FLOW)
    said = target(x0, eps, t, FLOW, prediction) + 0.1 * error
    u = to_eps(said, xt, t, FLOW, prediction) - to_x0(said, xt, t, FLOW, prediction)
    wanted = (u - (eps - x0)).square().mean().item()
    found = objective.loss(said, target(x0, eps, t, FLOW, prediction), t).item()
    assert found == pytest.approx(wanted, rel=1e-5)


def test_the_weights_of_x0_and_eps_stop_growing_where_jit_stops():
    x0, eps = flow.velocity_weight(FLOW, "x0"), flow.velocity_weight(FLOW, "eps")
    known = {0: 400, 48: 400, 499: 4, 999: 1}
    assert {t: x0[t].item() for t in known} == pytest.approx(known, rel=1e-5)
    known = {0: 0.999**-2, 499: 4, 951: 400, 999: 400}
    assert {t: eps[t].item() for t in known} == pytest.approx(known, rel=1e-5)


def test_a_uniform_flow_is_the_courses_own_objective_on_that_schedule():
    model, indices = Recorder(), torch.arange(6)
    own, ours = (cls(pictures(), FLOW, "u") for cls in (DenoisingObjective, FlowObjective))
    losses = [o(model, indices, BatchRandom(0, 3, 6, slice(None), "cpu"))["loss"].item() for o in (own, ours)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    xt, t = model.asked
    rng = BatchRandom(0, 3, 6, slice(None), "cpu")
    eps = rng.normal(3, 8, 8)
    x0 = pictures().images[:6].float() / 127.5 - 1
    assert torch.equal(t, rng.integers(1000)) and (xt - add_noise(x0, eps, t, FLOW)).abs().max() < 1e-6
    assert losses[1] == pytest.approx((0.25 - (eps - x0)).square().mean().item(), rel=1e-5)


def test_times_that_are_unknown_are_refused_and_known_ones_are_told_apart():
    with pytest.raises(ValueError, match="times='mode'; expected 'uniform' or 'logit-normal'"):
        FlowObjective(pictures(), FLOW, "u", times="mode")
    said = {o.describe() for o in (DenoisingObjective(pictures(), FLOW, "u"), FlowObjective(pictures(), FLOW, "u"))}
    said.add(FlowObjective(pictures(), FLOW, "u", times="logit-normal").describe())
    assert len(said) == 3


@pytest.mark.parametrize(
    "network",
    [
        UNetConfig(block_out_channels=(16, 16), attention=(False, False), norm_num_groups=4, attention_head_dim=8),
        DiTConfig(width=16, layers=1, heads=2),
    ],
    ids=["unet", "dit"],
)
def test_training_a_flow_brings_its_pictures_nearer_to_the_data(network):
    """One picture, over and over: the flow must learn to lead there, which an untrained network does not."""
    data = Pictures(torch.full((4, 3, 8, 8), 220, dtype=torch.uint8), name="grey")
    config = TrainConfig(steps=60, batch_size=8, lr=3e-3, ema_decay=0.9, warmup_steps=10)
    trainer = denoiser_trainer(data, network, config, FLOW, "u", objective=FlowObjective)
    before = denoiser_of(trainer, PixelSpace(8)).generate(8, steps=4).float()
    trainer.run()
    d = denoiser_of(trainer, PixelSpace(8))
    after = d.generate(8, steps=4).float()
    assert (after - 220).abs().mean() < 0.5 * (before - 220).abs().mean()
    loss = [entry["loss"] for entry in trainer.progress.history]
    assert loss[-1] < 0.7 * loss[0]

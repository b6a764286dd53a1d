"""Schedules against closed forms, exact arithmetic and diffusers' tables."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_course.diffusion.schedules import (
    PREDICTIONS,
    Schedule,
    add_noise,
    check_invertible,
    make_schedule,
    target,
    to_eps,
    to_v,
    to_x0,
)

NAMES = ("linear", "sqrt_linear", "cosine")


class Swapped:
    """A module with some names replaced."""

    def __init__(self, module, **replaced):
        self.__dict__.update(replaced, _module=module)

    def __getattr__(self, name):
        return getattr(self._module, name)


def in_float64(scheduler_class, monkeypatch):
    """Make a diffusers scheduler keep its tables, and its states, in float64, by what "float32" means to it."""
    module = f"{scheduler_class.__module__}"
    monkeypatch.setattr(f"{module}.torch", Swapped(torch, float32=torch.float64))
    monkeypatch.setattr(f"{module}.np", Swapped(np, float32=np.float64))
    return scheduler_class


def relative(a, b):
    return ((a - b).abs() / b.abs()).max().item()


@pytest.mark.parametrize(
    "name, beta_schedule, betas",
    [
        ("linear", "linear", (1e-4, 0.02)),
        ("sqrt_linear", "scaled_linear", (0.00085, 0.012)),
        ("cosine", "squaredcos_cap_v2", (None, None)),
    ],
)
@pytest.mark.parametrize("T", [1000, 137])
def test_tables_are_those_of_diffusers(name, beta_schedule, betas, T, monkeypatch):
    first, last = betas
    ours = make_schedule(name, T, beta_start=first, beta_end=last)
    config = dict(num_train_timesteps=T, beta_start=first or 1e-4, beta_end=last or 0.02, beta_schedule=beta_schedule)
    # As shipped its tables are float32, and a product of T factors is off by about sqrt(T) roundings.
    shipped = DDPMScheduler(**config)
    assert shipped.alphas_cumprod.dtype == torch.float32
    assert relative(shipped.alphas_cumprod.double(), ours.alpha_bar) < 2e-4
    theirs = in_float64(DDPMScheduler, monkeypatch)(**config)
    assert theirs.alphas_cumprod.dtype == torch.float64
    assert relative(ours.alpha_bar, theirs.alphas_cumprod) < 1e-11
    assert relative(ours.beta, theirs.betas) < 1e-9  # ours goes through alpha_bar and back


def test_linear_table_against_exact_arithmetic():
    # The end points are the float64 numbers nearest to 1e-4 and 0.02; all else is exact.
    first, last, T = Fraction(1e-4), Fraction(0.02), 1000
    schedule, product = make_schedule("linear", T), Fraction(1)
    for t in range(T):
        product *= 1 - (first + (last - first) * t / (T - 1))
        if t in (0, 1, 10, 500, 999):
            assert abs(schedule.alpha_bar[t].item() / float(product) - 1) < 1e-12
            assert abs(schedule.noise_scale[t].item() ** 2 / float(1 - product) - 1) < 1e-11
        product = product.limit_denominator(10**40)


def test_linear_is_linear_and_sqrt_linear_is_linear_in_the_root():
    assert make_schedule("linear").beta.diff().diff().abs().max() < 1e-13
    assert make_schedule("sqrt_linear").beta.sqrt().diff().diff().abs().max() < 1e-13
    assert make_schedule("sqrt_linear").beta.diff().diff().abs().max() > 1e-9


def test_cosine_table_is_the_closed_form_until_the_cap():
    T = 200
    f = lambda t: np.cos((t / T + 0.008) / 1.008 * np.pi / 2) ** 2  # noqa: E731
    expected = torch.tensor([f(t) / f(0) for t in range(1, T)], dtype=torch.float64)
    schedule = make_schedule("cosine", T)
    assert relative(schedule.alpha_bar[: T - 1], expected) < 1e-11
    assert schedule.beta[-1].item() == pytest.approx(0.999, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_index_0_is_the_papers_t_1(name):
    schedule = make_schedule(name)
    assert schedule.alpha_bar[0].item() == pytest.approx(1 - schedule.beta[0].item(), abs=1e-15)
    assert schedule.alpha_bar[0] < 1
    assert schedule.T == 1000 and len(schedule.snr) == 1000
    assert (schedule.beta + schedule.alpha - 1).abs().max() < 1e-15
    assert (schedule.signal_scale**2 + schedule.noise_scale**2 - 1).abs().max() < 1e-15


@pytest.mark.parametrize("T", [50, 100, 4000])
def test_default_betas_leave_as_little_signal_for_any_T(T):
    for name in ("linear", "sqrt_linear"):
        ratio = make_schedule(name, T).alpha_bar[-1].log() / make_schedule(name).alpha_bar[-1].log()
        assert 0.98 < ratio < 1.2
    given = make_schedule("linear", T, beta_start=0.001, beta_end=0.002)
    assert given.beta[0].item() == pytest.approx(0.001) and given.beta[-1].item() == pytest.approx(0.002)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(NAMES), st.integers(25, 2000), st.floats(0.05, 20))
def test_shift_divides_the_snr_by_its_square(name, T, shift):
    plain, shifted = make_schedule(name, T), make_schedule(name, T, shift=shift)
    assert relative(shifted.snr, plain.snr / shift**2) < 1e-9
    assert bool((shifted.alpha_bar.diff() < 0).all())
    assert 0 < shifted.alpha_bar[-1] and shifted.alpha_bar[0] < 1


def test_shift_2_looks_after_pooling_by_2_as_the_plain_schedule_does():
    # Why a picture of twice the size is given shift 2: averaging 2 x 2 pixels halves the noise, not the signal.
    plain, shifted = make_schedule("cosine"), make_schedule("cosine", shift=2.0)
    small = torch.linspace(-1, 1, 16, dtype=torch.float64).view(1, 1, 4, 4)
    eps = torch.randn(1, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pool = torch.nn.AvgPool2d(2)
    for t in (100, 500, 900):
        large = pool(add_noise(small.repeat_interleave(2, 2).repeat_interleave(2, 3), eps, t, shifted))
        low = add_noise(small, 2 * pool(eps), t, plain)  # 2 * pool(eps) is standard normal again
        signal = shifted.signal_scale[t] / plain.signal_scale[t]
        assert (large - signal * low).abs().max() < 1e-12


def test_one_jump_is_the_chain_of_single_steps():
    # DDPM eq. 2 repeated: the factor on x0, and the variance, both exact in float64.
    schedule = make_schedule("linear", 300)
    factor, variance = 1.0, 0.0
    for t in range(300):
        factor *= schedule.alpha[t].sqrt().item()
        variance = schedule.alpha[t].item() * variance + schedule.beta[t].item()
        one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
        assert add_noise(one, zero, t, schedule).item() == pytest.approx(factor, rel=1e-12)
        assert add_noise(zero, one, t, schedule).item() == pytest.approx(variance**0.5, rel=1e-12)


def test_each_picture_has_its_own_t():
    schedule = make_schedule("cosine")
    t = torch.tensor([0, 500, 999])
    x0, eps = torch.randn(2, 3, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    xt = add_noise(x0, eps, t, schedule)
    for i in range(3):
        a = schedule.alpha_bar[t[i]]
        assert (xt[i] - (a.sqrt() * x0[i] + (1 - a).sqrt() * eps[i])).abs().max() < 1e-14
        assert torch.equal(xt[i : i + 1], add_noise(x0[i : i + 1], eps[i : i + 1], int(t[i]), schedule))


def test_v_is_the_velocity_on_the_circle():
    # With signal = cos(phi) and noise = sin(phi), v is d xt / d phi (Salimans & Ho 2022, appendix D).
    schedule = make_schedule("linear")
    x0, eps = torch.randn(2, 1, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for t in (0, 300, 999):
        phi, h = torch.atan2(schedule.noise_scale[t], schedule.signal_scale[t]), 1e-5
        ahead, behind = ((phi + s).cos() * x0 + (phi + s).sin() * eps for s in (h, -h))
        assert (target(x0, eps, t, schedule, "v") - (ahead - behind) / (2 * h)).abs().max() < 1e-9


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_conversions_recover_what_was_mixed(name, prediction):
    schedule = make_schedule(name, shift=2.0)
    t = torch.arange(0, 1000, 37)
    x0, eps = torch.randn(2, len(t), 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    xt, said = add_noise(x0, eps, t, schedule), target(x0, eps, t, schedule, prediction)
    # Dividing by the smallest signal_scale or noise_scale amplifies a rounding of 1e-16 by at most 1e5.
    assert (to_x0(said, xt, t, schedule, prediction) - x0).abs().max() < 1e-10
    assert (to_eps(said, xt, t, schedule, prediction) - eps).abs().max() < 1e-10
    assert (to_v(said, xt, t, schedule, prediction) - target(x0, eps, t, schedule, "v")).abs().max() < 1e-10


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_results_keep_the_dtype(dtype):
    schedule, t = make_schedule("linear"), torch.tensor([0, 999])
    x = torch.ones(2, 3, 2, 2, dtype=dtype)
    for prediction in PREDICTIONS:
        assert add_noise(x, x, t, schedule).dtype == dtype
        assert target(x, x, t, schedule, prediction).dtype == dtype
        for convert in (to_x0, to_eps, to_v):
            assert convert(x, x, t, schedule, prediction).dtype == dtype
            assert convert(x, x, 5, schedule, prediction).dtype == dtype
            assert convert(x.half(), x, t, schedule, prediction).dtype == dtype  # under autocast
    assert schedule.alpha_bar.dtype == torch.float64


def test_a_little_noise_is_exact_in_float32():
    schedule, x = make_schedule("linear"), torch.ones(1, 1)
    got = add_noise(0 * x, x, torch.tensor([0]), schedule).item()
    assert got == pytest.approx(0.01, rel=1e-7)  # sqrt(1e-4); 1 - alpha_bar in float32 is off by 3e-4


def test_works_inside_autograd_and_after_inference_mode():
    schedule, t = make_schedule("linear"), torch.tensor([3, 4])
    with torch.inference_mode():
        add_noise(torch.ones(2, 1), torch.ones(2, 1), t, schedule)
    pred = torch.ones(2, 1, requires_grad=True)
    to_x0(pred, torch.ones(2, 1), t, schedule, "eps").sum().backward()
    slope = -(schedule.noise_scale / schedule.signal_scale)[t].float().view(2, 1)
    assert (pred.grad - slope).abs().max() < 1e-7


PICTURE = torch.zeros(2, 3, 4, 4)


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: make_schedule("quadratic"), "'quadratic'"),
        (lambda: make_schedule("linear", T=0), "T=0"),
        (lambda: make_schedule("linear", T=2.5), "T=2.5"),
        (lambda: make_schedule("linear", shift=0.0), "shift=0.0"),
        (lambda: make_schedule("linear", 10), "T=10"),
        (lambda: make_schedule("linear", beta_end=1.5), "1.5"),
        (lambda: make_schedule("linear", beta_start=0.0), "from 0 to"),
        (lambda: make_schedule("cosine", beta_end=0.1), "cosine"),
        (lambda: Schedule(torch.tensor([0.5, 0.5])), "fall strictly"),
        (lambda: Schedule(torch.tensor([1.0, 0.5])), "fall strictly"),
        (lambda: Schedule(torch.tensor([0.5, 0.0])), "fall strictly"),
        (lambda: Schedule(torch.zeros(2, 2)), "(2, 2)"),
        (lambda: target(PICTURE, PICTURE, 0, make_schedule("linear"), "epsilon"), "'epsilon'"),
        (lambda: to_x0(PICTURE, PICTURE, 0, make_schedule("linear"), "noise"), "'noise'"),
        (lambda: to_eps(PICTURE, PICTURE, 0, make_schedule("linear"), "noise"), "'noise'"),
        (lambda: to_v(PICTURE, PICTURE, 0, make_schedule("linear"), "noise"), "'noise'"),
        (lambda: add_noise(PICTURE, PICTURE, 1000, make_schedule("linear")), "t=1000"),
        (lambda: add_noise(PICTURE, PICTURE, -1, make_schedule("linear")), "t=-1"),
        (lambda: add_noise(PICTURE, PICTURE, torch.tensor([1]), make_schedule("linear")), "(1,)"),
        (lambda: add_noise(PICTURE, PICTURE, torch.tensor([0.1, 0.2]), make_schedule("linear")), "float32"),
    ],
)
def test_mistakes_are_named_in_one_line(call, says):
    with pytest.raises(ValueError) as error:
        call()
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", ["linear", "sqrt_linear", "cosine", "flow"])
def test_what_cannot_be_inverted_at_the_first_step_is_refused_where_nothing_is_clipped(name, prediction):
    """An answer that is off by 1e-3 puts x0 at the last index off by more than 1, for eps on two schedules of four."""
    schedule, one = make_schedule(name), torch.ones(1, dtype=torch.float64)
    off = to_x0(one * 1.001, one, 999, schedule, prediction) - to_x0(one, one, 999, schedule, prediction)
    check_invertible(schedule, prediction, clip_x0=True)
    if prediction == "eps" and name in ("cosine", "flow"):
        assert off.abs() > 1
        with pytest.raises(ValueError, match=f"prediction 'eps' with the {name} schedule.* take prediction 'v', or"):
            check_invertible(schedule, prediction, clip_x0=False)
    else:
        assert off.abs() < 1
        check_invertible(schedule, prediction, clip_x0=False)


OTHERS = [
    torch.ones(2, 3, 4, 4),
    torch.ones(1, 3, 8, 8),
    torch.ones(2, 1, 8, 8),
    torch.ones(2, 3, 8, 8, dtype=torch.uint8),
    torch.ones(2, 3, 8, 8).numpy(),
    None,
]


@pytest.mark.parametrize("other", OTHERS, ids=lambda x: f"{getattr(x, 'dtype', None)} {getattr(x, 'shape', '')}")
def test_what_is_not_alike_is_neither_broadcast_nor_wrapped(other):
    x, schedule = torch.ones(2, 3, 8, 8), make_schedule("cosine")
    for a, b in ((x, other), (other, x)):
        with pytest.raises(ValueError, match=r"a picture, its noise or prediction: got .*; expected float"):
            add_noise(a, b, 5, schedule)
        for function in (target, to_x0, to_eps, to_v):
            for prediction in PREDICTIONS:
                with pytest.raises(ValueError, match="; expected float"):
                    function(a, b, 5, schedule, prediction)

"""Distillation and consistency training on Gaussian data, whose lines are known; the levels; what is refused."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from conftest import SMOKE
from torch import nn

from ldm_course.config import TrainConfig
from ldm_course.data.latents import Latents
from ldm_course.data.pictures import Pictures
from ldm_course.denoiser import Denoiser
from ldm_course.diffusion.objectives import BatchRandom
from ldm_course.diffusion.samplers import ddim_step
from ldm_course.diffusion.schedules import make_schedule
from ldm_course.networks.unet import UNet
from ldm_course.spaces import PixelSpace
from ldm_course.training.consistency import (
    ConsistencyObjective,
    consistency_trainer,
    intervals_at,
    levels,
    ode_step,
    pseudo_huber,
)
from ldm_course.training.recipes import denoiser_of, seeded

COSINE = make_schedule("cosine")
STD = 0.4
SIGMA2 = (1 - COSINE.alpha_bar) / COSINE.alpha_bar


class Teacher(Denoiser):
    num_classes = None


class Exact(nn.Module):
    """The best guess at x0, where the data are N(0, STD^2)."""

    def forward(self, xt, t):
        return (COSINE.signal_scale * STD**2 / (COSINE.alpha_bar * (STD**2 - 1) + 1))[t].view(-1, 1, 1, 1).to(xt) * xt


class Linear(nn.Module):
    """f(xt, t) = factor[t] xt."""

    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(factor.clone())

    def forward(self, xt, t):
        return self.factor[t].view(-1, 1, 1, 1) * xt.double()


def lines_end():
    """The factors of the exact function: on a line, x / sqrt(STD^2 + sigma^2) does not change."""
    return ((STD**2 + SIGMA2[0]) / (STD**2 + SIGMA2)).sqrt() / COSINE.signal_scale


def steps_end(intervals):
    """The same, at the levels, where the line is made of that many DDIM steps with the exact guess."""
    factor, t = lines_end(), levels(COSINE, intervals).tolist()
    factor[0] = 1 / COSINE.signal_scale[0]
    guess = COSINE.signal_scale * STD**2 / (COSINE.alpha_bar * (STD**2 - 1) + 1)
    for low, high in pairwise(t):
        a, b = COSINE.alpha_bar[high].item(), COSINE.alpha_bar[low].item()
        one = torch.ones(1, dtype=torch.float64)
        factor[high] = factor[low] * ddim_step(one, guess[high : high + 1], a, b).item()
    return factor


def gaussian(count=4096, size=2, seed=0):
    """Data N(0, STD^2), as latents without a spread of their own."""
    mean = STD * torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return Latents(mean, torch.zeros_like(mean), None, "gaussian", "train", 0.0)


def objective(intervals, teacher=True, steps=10, finest=None, data=None, schedule=COSINE):
    d = Teacher(Exact(), PixelSpace(2, clip_x0=False), COSINE, "x0") if teacher else None
    finest = finest or intervals
    return ConsistencyObjective(data or gaussian(), schedule, steps=steps, coarsest=intervals, finest=finest, teacher=d)


# ------------------------------------------------------------------------------------------- on Gaussian data


def loss_of(made, factor, count=4096, step=0):
    model = Linear(factor)
    loss = made(model, torch.arange(count), BatchRandom(0, step, count, slice(None), "cpu"))["loss"]
    loss.backward()
    return loss.item(), model.factor.grad


@pytest.mark.parametrize("intervals", [1, 8, 64])
def test_distillation_from_the_exact_denoiser_has_no_loss_at_the_exact_function(intervals):
    """Exact for lines of so many steps: nothing is left but rounding, and any other factor at one level costs."""
    exact = steps_end(intervals)
    assert loss_of(objective(intervals), exact)[0] < 1e-6
    for n in {1, intervals // 2, intervals} - {0}:
        off = exact.clone()
        off[levels(COSINE, intervals)[n]] *= 1.05
        assert loss_of(objective(intervals), off)[0] > 1e-5


def test_finer_steps_follow_the_true_lines():
    """The lines of N steps end where the true ones do, the nearer the finer; and so falls the true function's loss."""
    true = lines_end()
    off = [(steps_end(n)[-1] / true[-1] - 1).abs().item() for n in (8, 32, 128, 512)]
    losses = [loss_of(objective(n), true)[0] for n in (8, 32, 128)]
    assert all(a > 3.5 * b for a, b in pairwise(off)) and off[-1] < 0.006  # of first order
    assert all(a > 10 * b for a, b in pairwise(losses))  # a step's error is of second


def test_the_gradient_points_to_the_exact_function():
    """At each level that is off, while the one below is right: up where the factor is too small, down where it is too
    large, and nothing at the level below, which is held fixed."""
    exact, t = steps_end(8), levels(COSINE, 8).tolist()
    for n in range(1, 9):
        for times, sign in ((0.8, -1), (1.25, 1)):
            off = exact.clone()
            off[t[n]] *= times
            gradient = loss_of(objective(8), off)[1]
            assert gradient[t[n]].sign() == sign and gradient[t[n - 1]].abs() < 1e-4 * gradient[t[n]].abs()
    off = exact.clone()
    off[0] = 0.0  # whatever the lowest level says, it is never asked to change
    assert loss_of(objective(8), off)[1][0] == 0


def test_from_wrong_factors_training_goes_to_the_exact_ones():
    exact, t = steps_end(4), levels(COSINE, 4)
    made, model = objective(4), Linear(torch.ones(1000, dtype=torch.float64))
    model.factor.data[0] = exact[0]
    adam = torch.optim.Adam(model.parameters(), lr=0.05)
    for step in range(400):
        adam.param_groups[0]["lr"] = 0.05 * 0.985**step
        adam.zero_grad()
        made(model, torch.arange(256), BatchRandom(0, 0, 256, slice(None), "cpu"))["loss"].backward()
        adam.step()
    assert (model.factor[t] / exact[t] - 1).abs().max() < 0.02


def test_without_a_teacher_it_is_distillation_where_the_data_are_one_picture():
    """The exact guess at x0 is then that picture, and the step along it the same noise at the next level."""
    one = gaussian(count=1).mean.expand(64, -1, -1, -1).clone()
    data = Latents(one, torch.zeros_like(one), None, "one", "train", 0.0)

    class Knows(nn.Module):
        def forward(self, xt, t):
            return one[:1].expand_as(xt)

    alone = objective(8, teacher=False, data=data)
    taught = objective(8, data=data)
    taught.teacher = Teacher(Knows(), PixelSpace(2, clip_x0=False), COSINE, "x0")
    found = [loss_of(made, lines_end(), count=64)[0] for made in (alone, taught)]
    assert found[0] == found[1] > 0


def test_without_a_teacher_the_gradient_is_right_on_average_and_noisier():
    """One step up from the boundary, of which all is known: the mean over many pictures points the same way, while
    pictures alone disagree, where a teacher leaves no doubt."""
    exact, top = steps_end(1), 999
    for times in (0.5, 2.0):
        off = exact.clone()
        off[top] *= times
        taught, alone = (loss_of(objective(1, teacher=t), off)[1][top].item() for t in (True, False))
        assert taught * alone > 0
    alone, taught = [], []
    for found, teacher in ((alone, False), (taught, True)):
        made = objective(1, teacher=teacher)
        for i in range(40):
            model = Linear(off)
            made(model, torch.tensor([i]), BatchRandom(0, i, 1, slice(None), "cpu"))["loss"].backward()
            found.append(model.factor.grad[top].item())
    assert all(g > 0 for g in taught) and not all(g > 0 for g in alone)


# ------------------------------------------------------------------------------------------- its parts


def test_a_step_down_is_the_samplers():
    x, x0 = torch.randn(3, 1, 2, 2, dtype=torch.float64), torch.randn(3, 1, 2, 2, dtype=torch.float64)
    t, to = torch.tensor([999, 500, 3]), torch.tensor([700, 499, 0])
    found = ode_step(x, x0, t, to, COSINE)
    for i in range(3):
        a, b = COSINE.alpha_bar[t[i]].item(), COSINE.alpha_bar[to[i]].item()
        assert (found[i] - ddim_step(x[i], x0[i], a, b)).abs().max() < 1e-10


def test_pseudo_huber_is_a_square_near_zero_and_a_distance_far_from_it():
    c = 0.00054 * math.sqrt(12)
    a = torch.zeros(3, 3, 2, 2)
    b = torch.zeros(3, 3, 2, 2)
    b[1, 0, 0, 0], b[2] = c, 7.0
    expected = [0.0, c * (math.sqrt(2) - 1), math.sqrt(12 * 49 + c**2) - c]
    assert pseudo_huber(a, b).tolist() == pytest.approx(expected, rel=1e-5)


def test_the_levels_get_finer_for_equally_long():
    taken = [intervals_at(k, 1000, 10, 1280) for k in range(1000)]
    assert [taken.count(10 * 2**i) for i in range(8)] == [125] * 8 and taken == sorted(taken)
    assert [intervals_at(k, 5, 8, 32) for k in range(5)] == [8, 16, 32, 32, 32]  # what does not divide goes to the last
    assert {intervals_at(k, 7, 8, 8) for k in range(7)} == {8}
    for n in (1, 8, 64, 999):
        t = levels(COSINE, n)
        assert len(t) == n + 1 and t[0] == 0 and t[-1] == 999 and t.diff().min() > 0
        assert t.diff().max() - t.diff().min() <= 1


def test_even_levels_are_a_bell_in_log_sigma():
    """The share of the levels below sigma is arctan(sigma) by pi / 2, which is the law that `levels` states."""
    sigma = SIGMA2.sqrt()
    share = torch.arange(1000) / 999
    assert (share - sigma.arctan() * 2 / math.pi).abs().max() < 0.012


# ------------------------------------------------------------------------------------------- with the one Trainer


def pictures(count=32, size=8, labels=False):
    images = torch.randint(256, (count, 3, size, size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    told = (torch.arange(count) % 3, ("a", "b", "c")) if labels else (None, None)
    return Pictures(images, *told, name="p")


def start(num_classes=None, prediction="v"):
    network = replace(SMOKE.unet, num_classes=num_classes)
    return Denoiser(seeded(0, UNet, network).eval(), PixelSpace(8), COSINE, prediction)


CONFIG = TrainConfig(steps=6, batch_size=4, lr=1e-3, warmup_steps=1, precision="no")
LEVELS = {"coarsest": 4, "finest": 16}


@pytest.mark.parametrize("distil", [True, False])
def test_it_trains_resumes_and_jumps(tmp_path, distil):
    d = start(num_classes=3)
    before = {k: v.clone() for k, v in d.model.state_dict().items()}
    data = pictures(labels=True)
    whole = consistency_trainer(data, d, CONFIG, distil=distil, log_every=1, **LEVELS)
    whole.run()
    assert [entry["intervals"] for entry in whole.progress.history] == [4, 4, 8, 8, 16, 16]
    assert all(entry["grad_norm"] > 0 for entry in whole.progress.history)
    halves = consistency_trainer(data, d, CONFIG, distil=distil, out=tmp_path, **LEVELS)
    halves.run(until=3)
    resumed = consistency_trainer(data, d, CONFIG, distil=distil, out=tmp_path, **LEVELS)
    assert resumed.progress.step == 3
    resumed.run()
    for a, b in zip(whole.snapshot().parameters(), resumed.snapshot().parameters()):
        assert torch.equal(a, b)
    assert all(torch.equal(d.model.state_dict()[k], v) for k, v in before.items())  # the teacher stays as it is
    made = denoiser_of(whole, PixelSpace(8)).jump(2, steps=2, label=1)
    assert made.shape == (2, 3, 8, 8)
    other = consistency_trainer(data, d, CONFIG, distil=not distil, **LEVELS)
    assert other.objective.describe() != whole.objective.describe()
    with pytest.raises(ValueError, match="it differs in objective"):
        consistency_trainer(data, d, CONFIG, distil=not distil, out=tmp_path, **LEVELS)


def test_both_ways_see_the_same_pictures_with_the_same_noise_and_only_the_teacher_clips():
    asked = {}
    for distil in (True, False):
        made = consistency_trainer(pictures(), start(), CONFIG, distil=distil, **LEVELS)
        hook = made.model.register_forward_hook(lambda m, given, out, d=distil: asked.setdefault(d, []).append(given))
        made.run(until=1)
        hook.remove()
    assert all(torch.equal(a, b) for a, b in zip(asked[True][0], asked[False][0]))  # xt, t
    assert torch.equal(asked[True][1][1], asked[False][1][1])  # the level below
    assert not torch.equal(asked[True][1][0], asked[False][1][0])  # but not the way down
    made = objective(8)
    xt, t = 9 * torch.ones(1, 3, 2, 2), torch.tensor([5])
    assert made._taught(xt, t, ()).max() > 8
    made.teacher = Teacher(Exact(), PixelSpace(2), COSINE, "x0")
    assert made._taught(xt, t, ()).max() == 1


def test_in_half_precision_the_gradient_is_the_same_but_for_rounding():
    """Autocast keeps weights that it has rounded: what was rounded without a gradient must not be used with one."""
    found = []
    for enabled in (False, True):
        model = consistency_trainer(pictures(), start(), CONFIG, distil=False, **LEVELS).model
        made = ConsistencyObjective(pictures(), COSINE, steps=6, **LEVELS)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = made(model, torch.arange(8), BatchRandom(0, 0, 8, slice(None), "cpu"))["loss"]
        loss.backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.cosine_similarity(*found, dim=0) > 0.98 and found[0].norm() > 0.1


def test_what_is_refused():
    d, data = start(), pictures()
    with pytest.raises(ValueError, match="give steps or images"):
        consistency_trainer(data, d, TrainConfig(seconds=1.0), distil=True, **LEVELS)
    with pytest.raises(ValueError, match="mirrored latent"):
        consistency_trainer(gaussian(8), d, TrainConfig(steps=9, flip=True), distil=True, **LEVELS)
    with pytest.raises(ValueError, match="predicts 'v'"):
        consistency_trainer(data, start(prediction="eps"), CONFIG, distil=True, **LEVELS)
    for bad in ((3, 8), (8, 4), (0, 8), (4, 12)):
        with pytest.raises(ValueError, match="a power of two times it"):
            ConsistencyObjective(data, COSINE, steps=10, coarsest=bad[0], finest=bad[1])
    with pytest.raises(ValueError, match="have 999 intervals at most"):
        ConsistencyObjective(data, COSINE, steps=100, coarsest=4, finest=1024)
    with pytest.raises(ValueError, match="2 steps for 3 divisions"):
        ConsistencyObjective(data, COSINE, steps=2, coarsest=4, finest=16)
    with pytest.raises(ValueError, match="another schedule"):
        objective(8, schedule=make_schedule("linear"))
    with pytest.raises(ValueError, match="knows 3 classes, the network None"):
        ConsistencyObjective(data, COSINE, steps=9, teacher=start(num_classes=3), **LEVELS)
    with pytest.raises(ValueError, match="no labels"):
        consistency_trainer(data, start(num_classes=3), CONFIG, distil=True, **LEVELS)

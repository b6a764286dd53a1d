"""The consistency function at its boundary and on Gaussian data, and its sampling, against diffusers' scheduler."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import SMOKE

from ldm_course import checkpoints
from ldm_course.denoiser import Denoiser
from ldm_course.diffusion.consistency import ConsistencyModel, boundary_scales, multistep, started_from
from ldm_course.diffusion.samplers import sample, x0_predictor
from ldm_course.diffusion.schedules import Schedule, make_schedule, to_x0
from ldm_course.networks.autoencoder import Autoencoder
from ldm_course.networks.text import TextUNet
from ldm_course.networks.unet import UNet
from ldm_course.spaces import LatentSpace, PixelSpace
from ldm_course.training.recipes import seeded

COSINE, LINEAR = make_schedule("cosine"), make_schedule("linear")
SMALL = SMOKE.unet


def unet(network=SMALL, seed=0):
    return seeded(seed, UNet, network).eval()


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------- the function


@pytest.mark.parametrize("schedule", [COSINE, LINEAR, make_schedule("cosine", shift=2.0)], ids=lambda s: s.name)
def test_at_the_lowest_level_it_returns_what_it_is_given_whatever_the_weights(schedule):
    skip, out = boundary_scales(schedule)
    assert skip[0] == 1 and out[0] == 0  # exactly
    x = 100 * noise(2, 3, 8, 8)
    for seed in (0, 1):
        model = started_from(unet(seed=seed), schedule, "v")
        found = model(x, torch.zeros(2, dtype=torch.int64))
        assert (found * schedule.signal_scale[0] / x - 1).abs().max() < 3e-7  # float32's rounding
        assert not torch.allclose(model(x, torch.full((2,), 9)), x)


def test_the_scales_are_the_papers_and_without_epsilon_those_of_v():
    sigma = (COSINE.noise_scale / COSINE.signal_scale).tolist()
    skip, out = boundary_scales(COSINE)
    for t in (1, 7, 500, 999):
        above = sigma[t] - sigma[0]
        assert skip[t].item() == pytest.approx(1 / (above**2 + 1), rel=1e-12)
        assert out[t].item() == pytest.approx(above / math.sqrt(1 + sigma[t] ** 2), rel=1e-12)
    fine = Schedule(1 / (1 + torch.tensor([1e-6, 0.3, 2.0, 90.0], dtype=torch.float64) ** 2))
    x, v = noise(4, 3, 2, 2).double(), noise(4, 3, 2, 2, seed=1).double()
    skip, out = (s.view(-1, 1, 1, 1) for s in boundary_scales(fine))
    f = skip * x / fine.signal_scale.view(-1, 1, 1, 1) - out * v
    for t in range(4):
        assert (f[t] - to_x0(v[t : t + 1], x[t : t + 1], t, fine, "v")[0]).abs().max() < 1e-5


def test_a_trained_denoisers_weights_are_a_start():
    net, x = unet(), noise(5, 3, 8, 8)
    model = started_from(net, COSINE, "v")
    t = torch.tensor([20, 200, 500, 900, 999])
    with torch.no_grad():
        before, after = to_x0(net(x, t), x, t, COSINE, "v"), model(x, t)
    assert (before - after).abs().max() < 0.02  # epsilon is 0.006
    with torch.no_grad():
        net.conv_out.bias += 1.0
        assert torch.equal(model(x, t), after)  # a copy


def test_what_is_no_start_is_refused():
    with pytest.raises(ValueError, match="predicts 'v'"):
        started_from(unet(), COSINE, "eps")
    with pytest.raises(ValueError, match="starts from a UNet; this is a Linear"):
        started_from(torch.nn.Linear(1, 1), COSINE, "v")
    with pytest.raises(ValueError, match="its own betas"):
        started_from(unet(), make_schedule("linear", beta_end=0.01), "v")


# ------------------------------------------------------------------------------------------- sampling


def gaussian_end(std, schedule):
    """f of data N(0, std^2): on a line, x / sqrt(std^2 + sigma^2) does not change."""
    sigma2 = (1 - schedule.alpha_bar) / schedule.alpha_bar
    factor = ((std**2 + sigma2[0]) / (std**2 + sigma2)).sqrt() / schedule.signal_scale
    return lambda xt, t: factor[t].item() * xt


@pytest.mark.parametrize("steps", [1, 2, 4, 50])
def test_with_the_exact_function_any_number_of_steps_draws_the_data(steps):
    asked = []
    f = gaussian_end(0.5, COSINE)

    def counted(xt, t):
        asked.append(t)
        return f(xt, t)

    rng = torch.Generator().manual_seed(3)
    made = multistep(counted, noise(200_000, 1).double(), COSINE, steps=steps, generator=rng)
    end = math.sqrt(0.25 + (1 / COSINE.alpha_bar[0] - 1).item())
    assert made.std().item() == pytest.approx(end, rel=0.006) and abs(made.mean().item()) < 0.005
    assert len(asked) == steps and asked[0] == 999 and asked == sorted(asked, reverse=True)


def test_one_step_is_the_samplers_one_step():
    predict_x0 = x0_predictor(started_from(unet(), COSINE, "v"), COSINE, prediction="x0", clip_x0=True)
    x = noise(2, 3, 8, 8)
    assert torch.equal(multistep(predict_x0, x, COSINE), sample(predict_x0, x, COSINE, steps=1))


def test_steps_that_are_refused():
    with pytest.raises(ValueError, match="steps=2 draws new noise"):
        multistep(gaussian_end(1, COSINE), noise(1, 1), COSINE, steps=2)
    with pytest.raises(ValueError, match="expected a whole number from 1 to 1000"):
        multistep(gaussian_end(1, COSINE), noise(1, 1), COSINE, steps=0)


# ------------------------------------------------------------------------------------------- diffusers


def test_sigmas_scalings_and_steps_are_those_of_diffusers():
    """Its 40 sigmas as a schedule of ours, from the lowest up; and its steps, at all of them, with its noise."""
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.CMStochasticIterativeScheduler(sigma_data=1.0, clip_denoised=True)
    theirs.set_timesteps(40)
    sigmas = theirs.sigmas[:40].flip(0).double()
    ramp = torch.linspace(0, 1, 40, dtype=torch.float64)
    karras = (0.002 ** (1 / 7) + ramp * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7  # EDM, equation 5
    assert (sigmas / karras - 1).abs().max() < 1e-5
    schedule = Schedule(1 / (1 + karras**2))
    skip, out = boundary_scales(schedule)
    for i, sigma in enumerate(sigmas):
        expected = theirs.get_scalings_for_boundary_condition(sigma)
        assert abs(skip[i] - expected[0]) < 1e-5 and abs(out[i] - expected[1]) < 1e-5

    start = noise(2, 3, 4, 4)

    def answer(scaled):  # a network of no particular kind
        return torch.tanh(2 * scaled) - 0.3

    def predict_x0(xt, t):
        x = xt / schedule.signal_scale[t].item()
        return (skip[t].item() * x + out[t].item() * answer(xt)).clamp(-1, 1)

    rng = torch.Generator().manual_seed(5)
    found = multistep(predict_x0, start, schedule, steps=40, generator=torch.Generator().manual_seed(5))
    x = start * (1 + 80**2) ** 0.5  # ours begins with noise of variance 1 in all, theirs with sigma of x
    for t in theirs.timesteps:
        x = theirs.step(answer(theirs.scale_model_input(x, t)), t, x, generator=rng).prev_sample
    assert (found - x).abs().max() < 1e-5


# ------------------------------------------------------------------------------------------- the one Denoiser


def spaces():
    autoencoder = seeded(0, Autoencoder, SMOKE.autoencoder)
    return PixelSpace(16), LatentSpace(16, autoencoder.eval())


def jumper(space, num_classes=None, schedule=COSINE):
    net = unet(replace(SMALL, num_classes=num_classes).for_channels(space.shape[0]))
    return Denoiser(started_from(net, schedule, "v"), space, schedule, "x0")


def test_a_denoiser_jumps_in_as_many_calls_as_steps_and_clips_pixels_alone():
    for space in spaces():
        d, seen = jumper(space), []
        d.model.register_forward_hook(lambda module, given, found, seen=seen: seen.append(given[1].tolist()))
        made = d.jump(3, steps=4, seed=5, batch_size=2)
        assert made.shape == (3, 3, 16, 16) and made.dtype == torch.uint8
        assert seen == [[t] * n for n in (2, 1) for t in (999, 749, 499, 249)]
        assert torch.equal(d.jump(3, seed=5), d.generate(3, steps=1, seed=5))
        assert torch.equal(made, d.jump(3, steps=4, seed=5, batch_size=2))
        loud = Denoiser(lambda_model(5.0, d.model), space, COSINE, "x0")
        assert loud.predictor()(noise(1, *space.shape), 999).max() == (1.0 if space.clip_x0 else 5.0)


def lambda_model(value, like):
    class Constant(torch.nn.Module):
        def forward(self, xt, t):
            return torch.full_like(xt, value)

    model = Constant()
    model.weight = next(like.parameters())
    return model


def test_a_jump_knows_classes_and_refuses_a_samplers_options():
    d = jumper(PixelSpace(16), num_classes=3)
    assert not torch.equal(d.jump(2, label=0), d.jump(2, label=2))
    with pytest.raises(ValueError, match="method: a consistency model has one way"):
        d.jump(1, method="dpmpp")
    with pytest.raises(ValueError, match="UNet is no consistency model"):
        Denoiser(unet(), PixelSpace(16), COSINE, "v").jump(1)


def test_it_is_stored_and_loaded_as_a_denoiser(tmp_path):
    d = jumper(PixelSpace(16), num_classes=3, schedule=make_schedule("cosine", shift=0.5))
    path = checkpoints.save_denoiser(tmp_path / "jumps.safetensors", d)
    back = checkpoints.load_denoiser(path)
    assert isinstance(back.model, ConsistencyModel) and back.num_classes == 3 and back.prediction == "x0"
    assert torch.equal(back.jump(2, steps=2, label=1), d.jump(2, steps=2, label=1))
    assert not isinstance(back.model, TextUNet) and not back.reads

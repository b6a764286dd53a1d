"""What a denoiser makes of given pictures: redrawn, filled in, inverted and translated, in both spaces, by classes."""

import pytest
import torch
from test_spaces import SCHEDULE, Echo, Says, autoencoder, pictures
from torch import nn

from ldm_course.config import UNetConfig
from ldm_course.data.pictures import to_uint8
from ldm_course.denoiser import Denoiser
from ldm_course.diffusion.schedules import make_schedule
from ldm_course.spaces import LatentSpace, PixelSpace

SPACES = ["pixel", "latent"]


class OfClasses(nn.Module):
    """E[x0 | xt] for pictures whose pixels are normal about their class's mean, with standard deviation 0.1."""

    def __init__(self, means=(-0.5, 0.5)):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(means))
        self.config = UNetConfig(num_classes=len(means) - 1)

    def forward(self, x, t, label=None):
        mean = 0.0 if label is None else self.weight[label].view(-1, 1, 1, 1)
        a = SCHEDULE.alpha_bar[t].float().view(-1, 1, 1, 1)
        gain = a.sqrt() * 0.01 / (0.01 * a + 1 - a)
        return mean + gain * (x - a.sqrt() * mean)


def denoiser(space="pixel", model=None):
    where = PixelSpace(8) if space == "pixel" else LatentSpace(8, autoencoder())
    model = model or Echo()
    model.config = model.config.for_channels(where.shape[0])
    return Denoiser(model, where, SCHEDULE, "x0")


def images(count=5):
    return pictures(count).images


HALF = (torch.arange(8) >= 4).expand(1, 1, 8, 8)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("method", ["ddpm", "ddim", "dpmpp"])
def test_with_strength_1_or_all_masked_it_is_generate(space, method):
    d, options = denoiser(space), dict(steps=3, method=method, seed=4, batch_size=2)
    plain = d.generate(5, **options)
    assert torch.equal(d.redraw(images(), 1.0, **options), plain)
    assert torch.equal(d.inpaint(images(), torch.ones_like(HALF), **options), plain)


@pytest.mark.parametrize("space", SPACES)
def test_with_little_strength_it_is_nearly_the_picture(space):
    """Of pixels the noise of two levels is left, of latents the autoencoder's own error besides."""
    d, given = denoiser(space, OfClasses()), images()
    kept = d.space.to_pictures(d.space.from_pictures(given)).int()
    errors = [(d.redraw(given, s, steps=2, batch_size=2).int() - kept).abs().float().mean() for s in (0.9, 0.3, 0.002)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < (3 if space == "pixel" else 8)


@pytest.mark.parametrize("space", SPACES)
def test_what_is_known_stays_and_what_is_hidden_does_not_show(space):
    d, given = denoiser(space), images()
    options = dict(steps=3, resamplings=2, method="ddpm", batch_size=2)
    made = d.inpaint(given, HALF, **options)
    assert made.dtype == torch.uint8 and torch.equal(made[..., :4], given[..., :4])
    assert not torch.equal(made[..., 4:], given[..., 4:])
    assert torch.equal(made, d.inpaint(torch.where(HALF, 255 - given, given), HALF, **options))
    assert not torch.equal(made, d.inpaint(given, HALF, seed=1, **options))


@pytest.mark.parametrize("space", SPACES)
def test_each_picture_may_have_a_mask_of_its_own_whatever_the_batch(space):
    d, given = denoiser(space), images()
    masks = torch.stack([HALF[0] if i % 2 else ~HALF[0] for i in range(5)])
    made = d.inpaint(given, masks, steps=3, batch_size=2)
    assert torch.equal(torch.where(masks, 0, made), torch.where(masks, 0, given))
    assert all((made[i] != given[i])[masks[i].expand(3, 8, 8)].any() for i in range(5))


@pytest.mark.parametrize("space", SPACES)
def test_what_is_inverted_is_drawn_again(space):
    d, given, label = denoiser(space, OfClasses()), images(), torch.tensor([0, 0, 0, 0, 0])
    kept = d.space.to_pictures(d.space.from_pictures(given))
    errors = []
    for steps in (25, 100, 400):
        noise = d.invert(given, label=label, steps=steps, batch_size=2)
        assert noise.shape == (5, *d.space.shape)
        again = d.space.to_pictures(d.sample(noise, label=label, steps=steps))
        errors.append((again.int() - kept.int()).abs().max().item())
    assert errors == sorted(errors, reverse=True) and errors[-1] <= 8


def test_a_translated_picture_moves_from_one_class_to_the_other():
    """Each pixel keeps its distance from the mean, which moves from -0.5 to 0.5: 127.5 grey levels."""
    d = denoiser("pixel", OfClasses((-0.5, 0.5, 0.0)))
    given = (63 + 12 * torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))).clamp(20, 110).byte()
    options = dict(steps=400, method="dpmpp", batch_size=2)
    moved = d.translate(given, 0, label=1, **options)
    assert (moved.int() - given.int() - 127.5).abs().max() <= 3
    assert (d.translate(given, 0, label=0, **options).int() - given.int()).abs().max() <= 3
    each = torch.tensor([0, 1, 1, 0, 1])
    some = d.translate(given, 0, label=each, **options)
    assert ((some.int() - given.int() - 127.5 * each.view(-1, 1, 1, 1)).abs() <= 3).all()


def test_conditions_and_guidance_reach_their_pictures_as_in_generate():
    label = torch.tensor([0, 1, 2, 1, 0])
    model = Says(-1.0, num_classes=3)
    d = denoiser("pixel", model)
    for made in (d.redraw(images(), 0.5, steps=2, label=label, batch_size=2), d.inpaint(images(), HALF, label=label)):
        assert torch.equal(made[:, 0, 0, 7], to_uint8(label - 1.0))
    model.calls.clear()
    d.redraw(images(2), 0.5, steps=1, label=label[:2], guidance_scale=2.0)
    assert sorted(model.calls[0][2].tolist()) == [0, 1, 3, 3]


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda d: d.redraw(images(), 0.0), "strength=0.0"),
        (lambda d: d.redraw(images(), 0.01), "from 1 to 10"),
        (lambda d: d.redraw(pictures(2, size=16).images, 0.5), "(2, 3, 16, 16); expected uint8 (B, 3, 8, 8)"),
        (lambda d: d.redraw(images().float(), 0.5), "got a float32 tensor (5, 3, 8, 8); expected uint8"),
        (lambda d: d.redraw(images(), 0.5, label="a"), "without classes"),
        (lambda d: d.inpaint(images(), HALF.float()), "the mask is torch.float32"),
        (lambda d: d.inpaint(images(), HALF[..., :4]), "(1, 1, 8, 4)"),
        (lambda d: d.inpaint(images(), HALF, resamplings=0), "resamplings=0"),
        (lambda d: d.invert(images(), steps=1000), "from 1 to 999"),
        (lambda d: d.invert(images(), method="ddpm"), "goes up"),
        (lambda d: d.translate(images(), 1), "without classes"),
        (lambda d: denoiser(model=Echo(num_classes=3)).generate(2, label=torch.tensor([0.5, 1.0])), "a float32 tensor"),
        (lambda d: denoiser(model=Echo(num_classes=3)).generate(2, label=[0, 1, 2]), "(3,); expected int64 (2,)"),
        (lambda d: Denoiser(Echo(), LatentSpace(8, autoencoder()), SCHEDULE, "x0"), "latent samples: got a float32"),
        (lambda d: Denoiser(Echo(channels=4), PixelSpace(8), SCHEDULE, "x0"), "(1, 3, 8, 8); expected float (1, 4, H"),
        (lambda d: Denoiser(Echo(), PixelSpace(10), SCHEDULE, "x0"), "with H and W multiples of 4"),
        (lambda d: PixelSpace("32"), "PixelSpace: size='32'; expected a valid integer"),
        (lambda d: PixelSpace(0), "size=0; expected more than 0"),
        (lambda d: LatentSpace(32, None), "LatentSpace: autoencoder=None; expected an instance of Autoencoder"),
        (lambda d: d.translate(images(), None, eta=0.5), "goes up"),
    ],
)
def test_mistakes_are_one_line(call, says):
    d = denoiser()
    with pytest.raises(ValueError) as error:
        call(d)
    assert says in str(error.value) and "\n" not in str(error.value)
    assert d.model.calls == []


@pytest.mark.parametrize("space", SPACES)
def test_samples_that_are_not_finite_are_no_pictures(space):
    d = denoiser(space, OfClasses(means=(torch.nan, 0.0)))
    with pytest.raises(ValueError, match="the samples are NaN or infinite"):
        d.generate(2, steps=2, label=0)


def test_eps_in_latents_is_refused_with_a_schedule_that_ends_without_a_signal():
    with pytest.raises(ValueError, match="the first step multiplies"):
        Denoiser(Echo(channels=4), LatentSpace(8, autoencoder()), make_schedule("cosine"), "eps")
    Denoiser(Echo(), PixelSpace(8), make_schedule("cosine"), "eps")
    Denoiser(Echo(channels=4), LatentSpace(8, autoencoder()), make_schedule("sqrt_linear"), "eps")


def test_classes_may_be_a_list_of_numbers():
    d = denoiser(model=Echo(num_classes=3))
    assert torch.equal(d.generate(2, steps=1, label=[0, 2]), d.generate(2, steps=1, label=torch.tensor([0, 2])))

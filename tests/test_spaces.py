"""Both spaces: what is clipped, how latents are kept, and which noise a seed means."""

import pytest
import torch
from torch import nn

from ldm_course import denoiser
from ldm_course.config import AutoencoderConfig, UNetConfig
from ldm_course.data.latents import encode_pictures
from ldm_course.data.pictures import Pictures, to_float, to_uint8
from ldm_course.denoiser import Denoiser
from ldm_course.diffusion.objectives import BatchRandom
from ldm_course.diffusion.schedules import make_schedule
from ldm_course.networks.autoencoder import Autoencoder
from ldm_course.spaces import LatentSpace, PixelSpace

SCHEDULE = make_schedule("cosine")


def pictures(count=10, size=8, seed=1):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return Pictures(images, torch.arange(count) % 3, ("a", "b", "c"), name="p", split="test")


def autoencoder(scale=0.5):
    torch.manual_seed(0)
    model = Autoencoder(AutoencoderConfig(block_out_channels=(16, 16), norm_num_groups=8)).eval()
    model.latent_scale.fill_(scale)
    return model


class Says(nn.Module):
    """A denoiser that predicts x0: its label plus `shift`, or `shift`; keeps the calls."""

    def __init__(self, shift=0.0, num_classes=None, channels=3):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.shift, self.calls = shift, []
        self.config = UNetConfig(num_classes=num_classes).for_channels(channels)

    def forward(self, x, t, label=None):
        self.calls.append((x.clone(), t, label))
        level = 0.0 if label is None else label.float()[:, None, None, None]
        return torch.zeros_like(x) + self.shift + level


def run(model, space, count, **options):
    prediction = options.pop("prediction", "x0")
    return Denoiser(model, space, SCHEDULE, prediction).generate(count, **({"steps": 3} | options))


# ----------------------------------------------------------------------------------------- the spaces


def test_what_differs_between_the_spaces():
    pixel, latent = PixelSpace(16), LatentSpace(16, autoencoder())
    assert (pixel.name, pixel.shape, pixel.clip_x0) == ("pixel", (3, 16, 16), True)
    assert (latent.name, latent.shape, latent.clip_x0) == ("latent", (4, 8, 8), False)


def test_the_ways_to_pictures():
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 3 - 1.5
    assert torch.equal(PixelSpace(16).to_pictures(x), to_uint8(x))
    model, z = autoencoder(), torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = to_uint8(model.decode(z / 0.5))
    found = LatentSpace(16, model).to_pictures(z)
    assert found.dtype == torch.uint8 and torch.equal(found, expected)


def test_the_ways_back_from_pictures():
    images, model = pictures().images, autoencoder()
    assert torch.equal(PixelSpace(8).to_pictures(PixelSpace(8).from_pictures(images)), images)
    latent = LatentSpace(8, model)
    z = latent.from_pictures(images)
    with torch.no_grad():
        assert (z - 0.5 * model.encode(to_float(images)).z_mean).abs().max() < 1e-6
    assert torch.equal(latent.to_pictures(z), to_uint8(model.reconstruct(to_float(images))))
    assert not z.is_inference() and not z.requires_grad
    for space in (PixelSpace(16), LatentSpace(16, model)):
        with pytest.raises(ValueError, match=r"\(10, 3, 8, 8\); expected uint8 \(B, 3, 16, 16\)"):
            space.from_pictures(images)
    with pytest.raises(ValueError, match="float32"):
        latent.from_pictures(images.float())


# ----------------------------------------------------------------------------------- encoded data sets


def test_latents_are_the_scaled_posterior_whatever_the_batch():
    model, data = autoencoder(), pictures()
    latents = encode_pictures(model, data, batch_size=4)
    with torch.no_grad():
        q = model.encode(data.batch(torch.arange(10)))
    assert (latents.mean - 0.5 * q.z_mean).abs().max() < 1e-5
    assert (latents.std - 0.5 * (q.z_logvar / 2).exp()).abs().max() < 1e-5
    assert (latents.name, latents.split, latents.seconds > 0) == ("p", "test", True)
    assert torch.equal(latents.labels, data.labels)
    assert not latents.mean.is_inference()  # training may use it


def test_the_cache_is_found_again_with_its_seconds(tmp_path, monkeypatch):
    model, data = autoencoder(), pictures()
    first = encode_pictures(model, data, cache=tmp_path)
    encoded = []
    monkeypatch.setattr(Autoencoder, "encode", lambda self, x: encoded.append(x))
    again = encode_pictures(model, data, cache=tmp_path)
    assert encoded == [] and again.seconds == first.seconds
    assert torch.equal(again.mean, first.mean) and torch.equal(again.std, first.std)
    assert torch.equal(again.labels, data.labels) and (again.name, again.split) == ("p", "test")


def test_latents_that_are_not_finite_are_refused(tmp_path):
    model = autoencoder()
    model.latent_scale.fill_(torch.nan)
    with pytest.raises(ValueError, match="the latents are NaN or infinite"):
        encode_pictures(model, pictures(), cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["weights", "scale", "pictures", "order"])
def test_the_cache_is_made_again_when_anything_changed(change, tmp_path):
    model, data = autoencoder(), pictures()
    first = encode_pictures(model, data, cache=tmp_path)
    if change == "weights":
        model.encoder.conv_in.bias.data[3] += 0.5
    elif change == "scale":
        model.latent_scale.fill_(2.0)
    elif change == "pictures":
        data.images[7, 1, 2, 3] ^= 128
    else:
        data = data.subset(range(9, -1, -1))
    second = encode_pictures(model, data, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    fresh = encode_pictures(model, data)
    assert torch.equal(second.mean, fresh.mean) and not torch.equal(second.mean, first.mean)


def test_a_broken_cache_is_made_again(tmp_path):
    model, data = autoencoder(), pictures()
    first = encode_pictures(model, data, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    again = encode_pictures(model, data, cache=tmp_path)
    assert torch.equal(again.mean, first.mean)
    assert torch.equal(encode_pictures(model, data, cache=tmp_path).std, first.std)


# ------------------------------------------------------------------------------------------ generating


def test_pictures_are_clipped_and_latents_are_not():
    assert (run(Says(3.0), PixelSpace(8), 2) == 255).all()
    seen, model = [], Says(3.0, channels=4)

    class Space(LatentSpace):
        def to_pictures(self, z):
            seen.append(z)
            return super().to_pictures(z)

    run(model, Space(8, autoencoder()), 2)
    assert (seen[0] - 3.0).abs().max() < 1e-5


def test_clipping_acts_in_every_step():
    """The state after a step is made from the clipped x0: with one of 3 it is that of one of 1."""
    wide, narrow = Says(3.0), Says(1.0)
    run(wide, PixelSpace(8), 2), run(narrow, PixelSpace(8), 2)
    assert len(wide.calls) == 3
    for (a, _, _), (b, _, _) in zip(wide.calls, narrow.calls):
        assert torch.equal(a, b)


def test_a_seed_is_the_same_noise_for_each_method_and_number_of_steps():
    starts = []
    for options in ({"method": "ddpm"}, {"method": "ddim"}, {"method": "dpmpp", "steps": 7}, {"eta": 1.0}):
        model = Says()
        run(model, PixelSpace(8), 5, seed=4, **options)
        starts.append(model.calls[0][0])
    assert all(torch.equal(s, starts[0]) for s in starts)
    assert abs(starts[0].std() - 1) < 0.1
    other = Says()
    run(other, PixelSpace(8), 5, seed=5)
    assert not torch.equal(other.calls[0][0], starts[0])


class Echo(Says):
    """Its x0 depends on the state, so that pictures show the noise."""

    def forward(self, x, t, label=None):
        super().forward(x, t, label)
        return 0.4 * x


@pytest.mark.parametrize("method", ["ddpm", "ddim", "dpmpp"])
def test_one_seed_one_result(method):
    a, b, c = (run(Echo(), PixelSpace(8), 5, method=method, seed=s, batch_size=2) for s in (1, 1, 2))
    assert a.shape == (5, 3, 8, 8) and a.dtype == torch.uint8 and a.device.type == "cpu"
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert len({tuple(p.flatten().tolist()) for p in a}) == 5


def test_no_picture_begins_with_noise_that_a_training_step_drew():
    """Both are functions of the seed; of the same one they must be different functions."""
    model = Says()
    run(model, PixelSpace(8), 128, steps=1, batch_size=64)
    trained = [BatchRandom(0, step, 64, slice(None), "cpu").normal(3, 8, 8) for step in range(130)]
    assert len(model.calls) == 2
    assert not any(torch.equal(x, b) for x, _, _ in model.calls for b in trained)
    run(Says(), PixelSpace(8), 1, seed=20240101123456)  # as long as a date and a time


def test_the_samplers_noise_is_not_the_next_batchs(monkeypatch):
    drawn = []

    def kept(predict_x0, noise, schedule, *, generator, **_):
        drawn.append((noise, torch.randn(noise.shape, generator=generator)))
        return noise

    monkeypatch.setattr(denoiser, "sample", kept)
    run(Says(), PixelSpace(8), 4, batch_size=1)
    every = [t for pair in drawn for t in pair]
    assert len({tuple(t.flatten().tolist()) for t in every}) == 8


def test_labels_reach_their_pictures_in_every_batch():
    label = torch.tensor([0, 1, 2, 1, 0])
    model = Says(-1.0, num_classes=3)
    made = run(model, PixelSpace(8), 5, label=label, batch_size=2)
    assert torch.equal(made[:, 0, 0, 0], to_uint8(label - 1.0))
    assert [len(x) for x, _, _ in model.calls[::3]] == [2, 2, 1]


def test_guidance_asks_for_the_null_label_too():
    model = Says(-1.0, num_classes=3)
    run(model, PixelSpace(8), 2, label=torch.tensor([0, 1]), guidance_scale=2.0, steps=1)
    asked = torch.cat([label for _, _, label in model.calls])
    assert sorted(asked.tolist()) == [0, 1, 3, 3]


def test_no_label_is_none_at_all():
    model = Says(num_classes=3)
    run(model, PixelSpace(8), 2)
    assert all(label is None for _, _, label in model.calls)


@pytest.mark.parametrize(
    "count, options, says",
    [
        (0, {}, "count=0; expected more than 0"),
        (-3, {}, "count=-3"),
        (3, {"label": torch.tensor([0, 1])}, r"labels, one for each picture: got an int64 tensor \(2,\)"),
        (2, {"steps": 1001}, "steps=1001"),
        (2, {"method": "euler"}, "method='euler'"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(count, options, says):
    with pytest.raises(ValueError, match=says) as error:
        run(Says(num_classes=3), PixelSpace(8), count, **options)
    assert "\n" not in str(error.value)


def test_generating_leaves_no_gradients_and_the_global_generator_alone():
    model = Echo()
    torch.manual_seed(8)
    expected = torch.rand(1)
    torch.manual_seed(8)
    made = run(model, PixelSpace(8), 2, method="ddpm")
    assert torch.equal(torch.rand(1), expected) and not made.requires_grad


@pytest.mark.parametrize("swap", [lambda a, p: (a, p.images), lambda a, p: (p, a), lambda a, p: (a, None)])
def test_what_is_no_set_of_pictures_is_not_encoded(swap):
    with pytest.raises(ValueError, match="expected an Autoencoder and Pictures"):
        encode_pictures(*swap(autoencoder(), pictures()))
    with pytest.raises(ValueError, match="batch_size=0; expected more than 0"):
        encode_pictures(autoencoder(), pictures(), batch_size=0)

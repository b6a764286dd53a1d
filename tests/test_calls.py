"""Calls of the library that cannot be meant: a ValueError of one line, where something else was made of them."""

import numpy as np
import pytest
import torch
from conftest import SMOKE

from ldm_course.checkpoints import load_denoiser, load_model, save_denoiser, save_model
from ldm_course.config import AutoencoderConfig, TrainConfig, UNetConfig
from ldm_course.data import prompts, scenes
from ldm_course.data.latents import encode_pictures
from ldm_course.data.pictures import Crops, Pictures
from ldm_course.denoiser import Denoiser
from ldm_course.diffusion.samplers import ddim_step, ddpm_step, sample
from ldm_course.diffusion.schedules import add_noise, make_schedule
from ldm_course.networks.autoencoder import Autoencoder
from ldm_course.networks.text import Tokenizer, vocabulary
from ldm_course.networks.unet import UNet
from ldm_course.page import plotting
from ldm_course.spaces import LatentSpace, PixelSpace
from ldm_course.training.recipes import denoiser_trainer

COSINE = make_schedule("cosine")
NETWORK = UNetConfig(
    block_out_channels=(16,), attention=(False,), attention_head_dim=8, norm_num_groups=8, num_classes=3
)
DENOISER = Denoiser(UNet(NETWORK), PixelSpace(8), COSINE, "v")
FIRST = Autoencoder(AutoencoderConfig(3, 4, (16, 16), norm_num_groups=8))
LATENT = Denoiser(
    UNet(NETWORK.for_channels(4)),
    LatentSpace(8, FIRST),
    COSINE,
    "v",
)
GREY = torch.zeros(12, 3, 8, 8, dtype=torch.uint8)
X = torch.zeros(2, 3, 8, 8)


def trainer(**options):
    config = TrainConfig(batch_size=4, steps=1)
    return denoiser_trainer(Pictures(GREY), SMOKE.unet, config, COSINE, "v", **options)


def half_of_a_large_weight(path):
    model = UNet(NETWORK)
    with torch.no_grad():
        model.conv_in.bias[0] = 1e5
    save_model(path, model, half=True)


def huge(path):
    first = Autoencoder(FIRST.config)
    first.latent_scale.fill_(1e30)
    encode_pictures(first, Pictures(GREY))


CALLS = {
    "a texture that is no number": (lambda p: scenes.render(0, [0], 8, texture=float("nan")), "texture=nan"),
    "scenes by parts of numbers": (lambda p: scenes.render(0, [0.5], 8), "scenes are numbered from 0 up"),
    "pictures shown at no size": (lambda p: plotting.grid(GREY, scale=0), "scale=0; expected 1 or more"),
    "an autoencoder in a folder": (
        lambda p: save_denoiser(p, LATENT, autoencoder="sub/a.safetensors"),
        "was not written: meta.autoencoder='sub/a.safetensors'",
    ),
    "an autoencoder of pixels": (
        lambda p: save_denoiser(p, DENOISER, autoencoder="a.safetensors"),
        "a denoiser of pixels has no autoencoder, and was given 'a.safetensors'",
    ),
    "names of other classes": (
        lambda p: save_denoiser(p, DENOISER, classes=("a",)),
        r"was not written: classes=\['a'\]; expected the names of 3",
    ),
    "numbers for names": (lambda p: save_denoiser(p, DENOISER, classes=(1, 2, 3)), "was not written: meta.classes.0=1"),
    "a path in meta": (lambda p: save_model(p, DENOISER.model, data=p), "was not written: .* is not JSON serializable"),
    "a size that is none": (lambda p: save_model(p, DENOISER.model, size=float("nan")), "was not written: meta.size"),
    "half of a large weight": (half_of_a_large_weight, "too large for half precision; leave half out"),
    "pictures with a long side": (lambda p: Pictures(GREY[..., :6]), r"pictures of \(8, 6\); expected square ones"),
    "one text for captions": (lambda p: Pictures(GREY[:2], captions="ab"), "captions is a str; expected a tuple of"),
    "numbers for captions": (lambda p: Pictures(GREY[:2], captions=(1, 2)), "captions is a tuple; expected a tuple of"),
    "a class twice": (
        lambda p: Pictures(GREY, torch.zeros(12, dtype=torch.int64), ("a", "a")),
        r"classes=\('a', 'a'\); expected each once",
    ),
    "windows of nothing": (lambda p: Crops((), 4), "0 sets of pictures, side=4; expected one or more"),
    "windows without a side": (lambda p: Crops((Pictures(GREY),), 0), "side=0; expected one or more"),
    "a set to redraw": (lambda p: DENOISER.redraw(Pictures(GREY), 0.5), "got a Pictures; expected a tensor of"),
    "a class that is none": (lambda p: DENOISER.generate(2, label=[0, 9], steps=1), "no class '9'; expected 0 to 2"),
    "numbers of no classes": (
        lambda p: DENOISER.sample(X, label=torch.tensor([0, 7]), steps=1),
        "labels go from 0 to 7",
    ),
    "steps that are none": (lambda p: DENOISER.generate(2, steps=float("nan")), "steps=nan; expected a whole number"),
    "endless steps": (lambda p: DENOISER.generate(2, steps=float("inf")), "steps=inf; expected a whole number"),
    "batches of nothing": (lambda p: DENOISER.invert(GREY[:2], batch_size=0), "batch_size=0; expected more than 0"),
    "whole numbers for noise": (
        lambda p: sample(lambda x, t: x, X.long(), COSINE, steps=1),
        "noise: got an int64 tensor",
    ),
    "noise of one for two": (lambda p: ddpm_step(X, X, 0.5, 0.6, X[:1]), r"noise: got .*\(1, 3, 8, 8\); expected"),
    "an eta above 1": (lambda p: ddim_step(X, X, 0.5, 0.6, 5.0, X), "eta=5.0; expected 1 or less"),
    "an eta that is none": (lambda p: ddim_step(X, X, 0.5, 0.6, float("nan")), "eta=nan; expected a finite number"),
    "a schedule shifted away": (lambda p: make_schedule("cosine", 1000, 1e200), "shift=1e.200; expected 1000000 or"),
    "no step between savings": (lambda p: trainer(save_every=0), "save_every=0; expected more than 0"),
    "no step between calls": (lambda p: trainer().run(every=(0, print)), "every=0; expected more than 0"),
    "a schedule by its name": (
        lambda p: Denoiser(DENOISER.model, PixelSpace(8), "cosine", "v"),
        "schedule='cosine'; exp",
    ),
    "a level that is no index": (lambda p: add_noise(X, X, 5.5, COSINE), "t=5.5 is not an index of this schedule"),
    "captions that nobody reads": (lambda p: trainer(captions=("a",) * 12), "captions without text or encoder"),
    "nothing to encode": (lambda p: encode_pictures(FIRST, Pictures(GREY[:0])), "got no pictures to encode"),
    "parts of nothing": (lambda p: FIRST.reconstruct(X, batch_size=0), "batch_size=0; expected more than 0"),
    "a prompt of thousands of words": (lambda p: prompts.parse("a small " * 2000), "the prompt “a small .{90,100} …”"),
    "no step between logs": (lambda p: trainer(log_every=0), "log_every=0; expected more than 0"),
    "a device that is none": (lambda p: trainer(device="tpu"), "device='tpu'; expected None, 'cpu', or 'cuda'"),
    "one text for a list": (lambda p: Tokenizer(("a", "b"), 6)("a b"), "got one text, 'a b'; expected a list of texts"),
    "words of one text": (lambda p: vocabulary("red star"), "got one text, 'red star'; expected a list of texts"),
    "an autoencoder that exploded": (huge, r"NaN or infinite, or above 10000: this autoencoder has failed"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_cannot_be_meant_is_one_line_and_writes_nothing(call, tmp_path):
    does, says = CALLS[call]
    with pytest.raises(ValueError, match=says) as error:
        does(tmp_path / "m.safetensors")
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_what_is_written_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_denoiser(tmp_path / "m.safetensors", DENOISER, classes=("a", "b", "c"), data="scenes")
    assert load_denoiser("~/m.safetensors").classes == ["a", "b", "c"]
    assert isinstance(load_model("~/m.safetensors")[0], UNet)


def test_noise_of_any_precision_is_taken():
    noise = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert torch.equal(DENOISER.sample(noise, steps=2), DENOISER.sample(noise.float(), steps=2))


def test_numpys_whole_numbers_are_steps():
    a, b = (DENOISER.generate(2, steps=steps, label=[0, 1]) for steps in (np.int64(2), 2))
    assert torch.equal(a, b) and sample(lambda x, t: x, X, COSINE, steps=np.int64(3)).shape == X.shape

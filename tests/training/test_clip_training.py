"""Networks of clips are trained, drawn from, stored and found again as those of pictures are (chapter 9)."""

import pytest
import torch

from ldm_course import checkpoints
from ldm_course.config import AutoencoderConfig, TrainConfig, UNetConfig
from ldm_course.data.clips import Clips, encode_clips, load_clips
from ldm_course.data.pictures import to_float
from ldm_course.diffusion.schedules import add_noise, make_schedule
from ldm_course.networks.autoencoder import Autoencoder
from ldm_course.networks.unet import UNet
from ldm_course.networks.video import VideoUNet
from ldm_course.spaces import LatentSpace, PixelSpace
from ldm_course.training.clips import ClipSpace, clip_trainer, load_clip_denoiser, save_clip_denoiser
from ldm_course.training.recipes import denoiser_of, denoiser_trainer, seeded

NETWORK = UNetConfig(block_out_channels=(16, 16), attention=(False, True), attention_head_dim=8, norm_num_groups=4)
LEVELS = make_schedule("cosine")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LDM_CACHE", str(tmp_path))


@pytest.fixture
def clips():
    return load_clips(16, frames=4, limit=6)


def config(**options):
    return TrainConfig(**({"batch_size": 2, "steps": 3, "precision": "no"} | options))


def first_stage():
    return seeded(0, Autoencoder, AutoencoderConfig(block_out_channels=(8, 8, 8), norm_num_groups=4)).eval()


def test_all_frames_of_a_clip_have_one_noise_level(clips):
    trainer, seen = clip_trainer(clips, NETWORK, config(), LEVELS, "v"), []
    trainer.model.register_forward_pre_hook(lambda model, given: seen.append(given))
    trainer.run(until=1)
    ((xt, t),) = seen
    assert xt.shape == (2, 4, 3, 16, 16) and t.shape == (2,)


def test_it_begins_with_the_image_networks_weights_or_with_those_of_its_seed(clips):
    image = seeded(7, UNet, NETWORK)
    for trainer, expected in (
        (clip_trainer(clips, NETWORK, config(), LEVELS, "v", image=image), image),
        (
            clip_trainer(clips, NETWORK, config(), LEVELS, "v"),
            denoiser_trainer(clips.pictures, NETWORK, config(), LEVELS, "v").model,
        ),
    ):
        x, t = torch.randn(1, 4, 3, 16, 16), torch.tensor([5])
        with torch.no_grad():
            assert (trainer.model(x, t)[0] - expected(x[0], t.expand(4))).abs().max() < 1e-5
        before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
        trainer.run()
        after = trainer.model.state_dict()
        still = [k for k in before if torch.equal(before[k], after[k])]  # a softmax takes away what all keys have
        assert all(k.endswith("to_k.bias") for k in still)  # all else is trained, that of the image network too


def test_a_network_of_clips_learns_what_frames_have_in_common():
    """All of a clip is of one colour, and clips are of different ones: in much noise, four frames tell it better."""
    chance = torch.Generator().manual_seed(0)
    colours = torch.randint(0, 256, (64, 1, 3, 1, 1), generator=chance, dtype=torch.uint8)
    data = Clips(colours.expand(-1, 4, -1, 4, 4).contiguous(), torch.zeros(64, 4, 3, 2), name="colours")
    x0, t = to_float(data.clips), torch.full((64,), 800)
    xt = add_noise(x0, torch.randn(x0.shape, generator=chance), t, LEVELS)
    steps = {"steps": 150, "lr": 3e-3, "warmup_steps": 10, "ema_decay": 0.97}
    clips = clip_trainer(data, NETWORK, config(batch_size=8, **steps), LEVELS, "x0")
    frames = denoiser_trainer(data.pictures, NETWORK, config(batch_size=32, **steps), LEVELS, "x0")
    for trainer in (clips, frames):
        trainer.run()
    with torch.no_grad():
        told = clips.snapshot()(xt, t)
        alone = frames.snapshot()(xt.flatten(0, 1), t.repeat_interleave(4)).view_as(x0)
    assert (told - x0).square().mean() < 0.85 * (alone - x0).square().mean()


def test_a_latent_denoiser_of_clips_comes_back_from_its_file(clips, tmp_path):
    first = first_stage()
    trainer = clip_trainer(encode_clips(first, clips), NETWORK, config(), LEVELS, "v")
    trainer.run()
    d = denoiser_of(trainer, ClipSpace(LatentSpace(16, first), 4))
    assert d.space.shape == (4, 4, 4, 4) and d.space.name == "latent" and not d.space.clip_x0 and d.space.size == 16
    made = d.generate(3, steps=2, batch_size=2)
    assert made.shape == (3, 4, 3, 16, 16) and made.dtype == torch.uint8
    checkpoints.save_model(tmp_path / "first.safetensors", first)
    path = save_clip_denoiser(tmp_path / "clips.safetensors", d, autoencoder="first.safetensors", data="x")
    again = load_clip_denoiser(path)
    assert isinstance(again.model, VideoUNet) and again.meta["data"] == "x"
    assert torch.equal(again.generate(3, steps=2, batch_size=2), made)
    with pytest.raises(ValueError, match=r"a U-Net of clips; expected a denoiser"):
        checkpoints.load_denoiser(path)
    with torch.no_grad():
        first.encoder.conv_in.weight.add_(1)
    checkpoints.save_model(tmp_path / "first.safetensors", first)
    with pytest.raises(ValueError, match="another autoencoder"):
        load_clip_denoiser(path)
    with pytest.raises(ValueError, match="name of its autoencoder's file"):
        save_clip_denoiser(path, d)


def test_one_in_pixels_needs_no_other_file(clips, tmp_path):
    d = denoiser_of(clip_trainer(clips, NETWORK, config(), LEVELS, "v"), ClipSpace(PixelSpace(16), 4))
    again = load_clip_denoiser(save_clip_denoiser(tmp_path / "clips.safetensors", d))
    assert again.space == ClipSpace(PixelSpace(16), 4) and again.space.clip_x0
    image = denoiser_of(denoiser_trainer(clips.pictures, NETWORK, config(), LEVELS, "v"), PixelSpace(16))
    with pytest.raises(ValueError, match="no denoiser of clips"):
        load_clip_denoiser(checkpoints.save_denoiser(tmp_path / "image.safetensors", image))


def test_clips_go_to_samples_and_back(clips):
    space = ClipSpace(PixelSpace(16), 4)
    assert torch.equal(space.to_pictures(space.from_pictures(clips.clips)), clips.clips)
    with pytest.raises(ValueError, match=r"expected \(B, 4, 3, H, W\)"):
        space.from_pictures(clips.clips[:, :3])


def test_what_is_no_clip_is_refused(clips):
    latents = encode_clips(first_stage(), clips)
    flat = latents.__class__(**(vars(latents) | {"mean": latents.mean[:, 0], "std": latents.std[:, 0]}))
    with pytest.raises(ValueError, match=r"expected clips \(N, F, C, H, W\)"):
        clip_trainer(flat, NETWORK, config(), LEVELS, "v")
    with pytest.raises(ValueError, match="not mirrored"):
        clip_trainer(clips, NETWORK, config(flip=True), LEVELS, "v")
    deep = UNetConfig(block_out_channels=(16,) * 6, attention=(False,) * 6, attention_head_dim=8, norm_num_groups=4)
    with pytest.raises(ValueError, match="multiples of 32"):
        clip_trainer(clips, deep, config(), LEVELS, "v")

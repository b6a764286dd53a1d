"""What a super-resolution denoiser is told: levels of noise by the schedule, and a cascade that hands pictures on."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ldm_course.cascade import Cascade, enlarged
from ldm_course.config import TrainConfig, UNetConfig
from ldm_course.data.pictures import Pictures, to_float
from ldm_course.denoiser import Denoiser
from ldm_course.diffusion.objectives import BatchRandom
from ldm_course.diffusion.schedules import make_schedule
from ldm_course.diffusion.superresolution import SuperResolutionObjective, doubled, halved, hint
from ldm_course.networks.superresolution import SuperResolutionUNet
from ldm_course.networks.unet import UNet
from ldm_course.spaces import PixelSpace
from ldm_course.training.recipes import denoiser_of, seeded, super_resolution_trainer

SCHEDULE = make_schedule("cosine")
NETWORK = UNetConfig(block_out_channels=(16, 16), attention=(False, False), attention_head_dim=16, norm_num_groups=4)


def pictures(count=12, size=16):
    images = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Pictures(images, name="noise")


def test_halves_are_means_and_doubles_lie_between():
    x = torch.arange(32.0).view(1, 2, 4, 4)
    assert halved(x)[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    flat = torch.full((1, 1, 3, 3), 0.7)
    assert doubled(flat).shape == (1, 1, 6, 6) and (doubled(flat) - 0.7).abs().max() < 1e-6
    with pytest.raises(ValueError, match="5 x 4 cannot be halved"):
        halved(torch.zeros(1, 1, 5, 4))


def test_the_hint_is_noised_as_xt_is_and_says_how_far():
    small = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    noise = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    levels = torch.tensor([0, 1, 500, 1000])
    told = hint(small, levels, noise, SCHEDULE)
    assert told.shape == (4, 4, 16, 16)
    large = F.interpolate(small, size=(16, 16), mode="bilinear", align_corners=False)
    for row, level in enumerate(levels.tolist()):
        kept = 1.0 if level == 0 else SCHEDULE.alpha_bar[level - 1].item()
        expected = kept**0.5 * large[row] + (1 - kept) ** 0.5 * noise[row]
        assert (told[row, :3] - expected).abs().max() < 1e-5
        assert (told[row, 3] == level / 1000).all()
    assert torch.equal(told[0, :3], large[0])  # level 0 is the picture itself


def test_the_loss_is_the_denoising_loss_of_a_network_that_is_told_half_the_side():
    data = pictures()
    objective = SuperResolutionObjective(data, SCHEDULE, "eps", most=0.3)
    seen = []

    def model(x, t, condition):
        seen.append((x, t, condition))
        return torch.zeros_like(x)

    for step in range(50):
        loss = objective(model, torch.arange(12), BatchRandom(0, step, 12, slice(None), "cpu"))["loss"]
    assert loss.item() == pytest.approx(1, abs=0.1)  # of eps, by a network that says 0
    levels = torch.stack([condition[:, 3, 0, 0] for _, _, condition in seen])
    assert levels.min() == 0 or levels.min() < 0.01
    assert 0.28 < levels.max() <= 0.3 + 1e-6 and levels.mean() == pytest.approx(0.15, abs=0.02)
    x0 = to_float(data.images)
    clean = next((c, i) for _, _, c in seen for i in range(12) if c[i, 3, 0, 0] < 0.003)
    told, i = clean
    assert (told[i, :3] - doubled(halved(x0))[i]).abs().mean() < 0.1
    assert "from half the side" in objective.describe()
    with pytest.raises(ValueError, match="most=2; expected"):
        SuperResolutionObjective(data, SCHEDULE, "eps", most=2)


def test_a_network_that_is_told_the_picture_learns_to_use_it():
    """Of flat pictures, half the side says everything: the loss falls far below what xt alone allows."""
    grey = torch.randint(256, (64, 3, 1, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    flat = Pictures(grey.expand(-1, -1, 8, 8).contiguous(), name="flat")
    config = TrainConfig(batch_size=32, steps=150, lr=3e-3, warmup_steps=10)
    trainer = super_resolution_trainer(flat, NETWORK, config, SCHEDULE, "x0")
    trainer.run()
    model = trainer.snapshot()
    x0, rng = to_float(flat.images), torch.Generator().manual_seed(4)
    told = hint(halved(x0), torch.zeros(64, dtype=torch.int64), torch.zeros_like(x0), SCHEDULE)
    xt, t = torch.randn(x0.shape, generator=rng), torch.full((64,), 999)
    with torch.no_grad():
        right = (model(xt, t, told) - x0).square().mean()
        other = (model(xt, t, told.roll(1, 0)) - x0).square().mean()
    assert right < 0.1 < 0.3 < other


def denoisers(size, *levels):
    """An untrained base for `size`, and super-resolution networks for each doubling."""
    base = Denoiser(seeded(0, UNet, NETWORK).eval(), PixelSpace(size, 3), SCHEDULE, "v")
    config = replace(NETWORK, in_channels=7)
    ups = [
        Denoiser(seeded(i, SuperResolutionUNet, config).eval(), PixelSpace(size * 2**i, 3), SCHEDULE, "v")
        for i in levels
    ]
    return base, tuple(ups)


def test_a_cascade_hands_each_picture_on():
    base, ups = denoisers(8, 1, 2)
    cascade = Cascade(base, ups)
    made = cascade.generate(3, steps=(3, 2, 2), augmentation=0.2, seed=5, batch_size=2)
    assert made.shape == (3, 3, 32, 32) and made.dtype == torch.uint8
    assert torch.equal(made, cascade.generate(3, steps=(3, 2, 2), augmentation=0.2, seed=5, batch_size=2))
    small = base.generate(3, steps=3, seed=5, batch_size=2)
    by_hand = small
    for d in ups:
        by_hand = enlarged(d, by_hand, steps=2, augmentation=0.2, seed=5, batch_size=2, method="ddim")
    assert torch.equal(made, by_hand)
    other = enlarged(ups[0], small.flip(0), steps=2, augmentation=0.2, seed=5, batch_size=2)
    assert not torch.equal(other, enlarged(ups[0], small, steps=2, augmentation=0.2, seed=5, batch_size=2))


def test_stages_that_do_not_fit_are_refused():
    base, ups = denoisers(8, 1, 2)
    with pytest.raises(ValueError, match=r"stages for \[8, 32\] pixels a side"):
        Cascade(base, ups[1:])
    cascade = Cascade(base, ups)
    with pytest.raises(ValueError, match="2 numbers of steps for 3 stages"):
        cascade.generate(1, steps=(2, 2))
    with pytest.raises(ValueError, match="augmentation=2; expected"):
        cascade.generate(1, steps=(2, 2, 2), augmentation=2)
    with pytest.raises(ValueError, match="expected 8 a side"):
        enlarged(ups[0], pictures(1, 4).images, steps=2)
    with pytest.raises(ValueError, match="in_channels=6; expected 7"):
        SuperResolutionUNet(replace(NETWORK, in_channels=6))
    with pytest.raises(ValueError, match="expected one channel more"):
        ups[0].model(torch.zeros(1, 3, 16, 16), torch.zeros(1), torch.zeros(1, 3, 16, 16))


def test_a_trained_one_draws():
    config = TrainConfig(batch_size=4, steps=2)
    d = denoiser_of(super_resolution_trainer(pictures(), NETWORK, config, SCHEDULE, "v"), PixelSpace(16, 3))
    assert enlarged(d, pictures(2, 8).images, steps=2).shape == (2, 3, 16, 16)

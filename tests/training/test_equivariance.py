"""EQ-VAE's transformations: the same for a picture and its latent; and the objective that asks for them."""

from collections import Counter

import pytest
import torch

from ldm_course.config import AutoencoderConfig, TrainConfig
from ldm_course.data.pictures import Pictures
from ldm_course.diffusion.objectives import BatchRandom
from ldm_course.networks.autoencoder import Autoencoder
from ldm_course.training.equivariance import Transform, drawn
from ldm_course.training.graphs import StepGraph
from ldm_course.training.recipes import autoencoder_trainer
from ldm_course.training.reconstruction import AutoencoderObjective

INDICES = torch.tensor([4, 0, 7, 2])


def pictures(size=32):
    generator = torch.Generator().manual_seed(1)
    return Pictures(torch.randint(256, (10, 3, size, size), generator=generator, dtype=torch.uint8), name="noise")


def model(**config):
    torch.manual_seed(0)
    return Autoencoder(AutoencoderConfig(block_out_channels=(16, 16), norm_num_groups=8, **config))


def rng(step=0, rows=slice(None)):
    return BatchRandom(0, step, 4, rows, "cpu")


def test_turns_and_scales_are_the_same_for_pictures_and_latents():
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(Transform()(x), x)
    turned = Transform(1)(x)
    assert turned[0, 0, 0, 0] == x[0, 0, 0, 31]  # counter-clockwise: the upper right corner comes to the upper left
    assert torch.equal(Transform(3)(turned), x)
    small = Transform(2, (3, 1))
    assert small(x).shape == (2, 3, 24, 8) and small(torch.randn(2, 4, 4, 4)).shape == (2, 4, 3, 1)
    # a linear ramp is the same ramp on the coarser grid, away from the border: pixels are areas
    ramp = torch.arange(32.0).expand(1, 1, 32, 32)
    halved = Transform(0, (2, 2))(ramp)[0, 0, 8, 3:-3]
    assert (halved - (2 * torch.arange(16.0) + 0.5)[3:-3]).abs().max() < 1e-4
    for wrong in (torch.zeros(1, 3, 8, 4), torch.zeros(1, 3, 6, 6), torch.zeros(3, 8, 8)):
        with pytest.raises(ValueError, match=r"expected \(B, C, H, H\) with H a multiple of 4, latents too"):
            Transform()(wrong)


def test_draws_are_equation_7():
    found = Counter(drawn(rng(step), 0.5) for step in range(4000))
    assert found[None] / 4000 == pytest.approx(0.5, abs=0.03)
    moved = {t: n for t, n in found.items() if t is not None}
    assert {t.turns for t in moved} == {1, 2, 3} and {t.fourths for t in moved} == {
        (a, b) for a in range(1, 5) for b in range(1, 5)
    }
    assert max(moved.values()) < 3 * min(moved.values()) and len(moved) == 48
    # a batch has one transformation, whoever draws which part of it
    assert drawn(rng(7, slice(0, 2)), 1.0) == drawn(rng(7, slice(2, 4)), 1.0) != None  # noqa: E711
    assert all(drawn(rng(step), 0.0) is None for step in range(50))


@pytest.mark.parametrize("codes", [None, 12])
def test_the_objective_by_hand(codes):
    """The decoded, transformed latent is held against the transformed picture (equation 5)."""
    autoencoder, data = model(codes=codes), pictures()
    objective = AutoencoderObjective(data, perceptual_weight=0.0, kl_weight=0.01, equivariant=1.0)
    found = objective(autoencoder, INDICES, rng())
    again = rng()
    move = drawn(again, 1.0)
    assert move.turns and move.fourths != (4, 4)
    x = data.batch(INDICES)
    q = autoencoder.encode(x)
    z = move(q.at(again.normal(4, 16, 16)))
    lost = (move(x) - autoencoder.decode(z)).abs().mean()
    assert found["l1"].item() == pytest.approx(lost.item(), rel=1e-5)
    other = autoencoder.quantize(z).loss if codes else 0.01 * q.kl().mean() / (3 * 32 * 32)
    assert found["loss"].item() == pytest.approx((lost + other).item(), rel=1e-4)
    assert set(found) == {"loss", "l1", "codebook" if codes else "kl"}


def test_without_it_nothing_is_drawn_for_it_and_runs_are_told_apart():
    data, plain = pictures(), AutoencoderObjective(pictures(), perceptual_weight=0.0)
    now_and_then = AutoencoderObjective(data, perceptual_weight=0.0, equivariant=0.5)
    assert not plain.varies and "equivariant" not in plain.describe() and "equivariant" not in plain.weights
    assert now_and_then.describe() == plain.describe() + ", equivariant 0.5"
    assert now_and_then.weights == plain.weights | {"equivariant": 0.5}
    for share in (-0.1, 1.5):
        with pytest.raises(ValueError, match=f"equivariant={share}; expected [01] or"):
            AutoencoderObjective(data, perceptual_weight=0.0, equivariant=share)


def test_the_perceptual_term_takes_what_has_become_small():
    objective = AutoencoderObjective(pictures(), equivariant=1.0)
    step = next(k for k in range(100) if drawn(rng(k), 1.0).fourths == (1, 2))
    found = objective(model(), INDICES, rng(step))
    assert found["perceptual"] > 0
    found["loss"].backward()


def test_a_step_whose_shapes_change_is_not_recorded():
    config = TrainConfig(batch_size=4, steps=2, cuda_graph=True)
    losses = {"perceptual_weight": 0.0, "equivariant": 0.5}
    network = AutoencoderConfig(block_out_channels=(16, 16), norm_num_groups=8)
    trainer = autoencoder_trainer(pictures(), network, config, losses=losses)
    assert trainer.objective.varies and not StepGraph.suits(trainer)
    trainer.run()

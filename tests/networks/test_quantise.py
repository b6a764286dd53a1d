"""The codebook: nearest vectors, gradients straight through, the terms of the paper, and no vector left behind."""

import math

import pytest
import torch

from ldm_course import checkpoints
from ldm_course.config import AutoencoderConfig
from ldm_course.data.latents import encode_pictures
from ldm_course.data.pictures import Pictures
from ldm_course.networks.autoencoder import Autoencoder
from ldm_course.networks.quantise import COMMITMENT, Codebook, perplexity

CODED = AutoencoderConfig(block_out_channels=(16, 16), norm_num_groups=8, latent_channels=3, codes=20)


def book(*rows):
    made = Codebook(len(rows), len(rows[0]))
    made.embedding.weight.data = torch.tensor(rows)
    return made


def coded():
    torch.manual_seed(0)
    return Autoencoder(CODED)


def test_each_latent_becomes_the_nearest_vector():
    torch.manual_seed(1)
    made, z = Codebook(50, 3), torch.randn(2, 3, 4, 5)
    found = made(z)
    distances = (z[:, None] - made.embedding.weight[None, :, :, None, None]).square().sum(2)
    assert torch.equal(found.codes, distances.argmin(1)) and found.codes.shape == (2, 4, 5)
    assert found.z.shape == z.shape and found.z.is_contiguous()
    exact = made.embedding.weight[found.codes].permute(0, 3, 1, 2)
    assert (found.z - exact).abs().max() < 1e-6
    again = made(exact)
    assert torch.equal(again.codes, found.codes)  # what is in the book stays where it is
    half = made(z.bfloat16())  # measured in float32, as the course's trainer needs it
    assert half.z.dtype == torch.float32 and torch.equal(half.codes, made(z.bfloat16().float()).codes)


def test_gradients_go_straight_through():
    made = book([0.0, 0.0], [1.0, 1.0]).eval()
    z = torch.tensor([[0.2, 0.1], [0.9, 1.3]]).T.reshape(1, 2, 1, 2).requires_grad_()
    weights = torch.tensor([3.0, -2.0, 0.5, 7.0]).view(1, 2, 1, 2)
    (made(z).z * weights).sum().backward()
    assert torch.equal(z.grad, weights) and made.embedding.weight.grad is None


def test_the_loss_is_equation_3_and_an_idle_vector_comes_nearer():
    made = book([0.0, 0.0], [1.0, 1.0], [5.0, 4.0])
    z = torch.tensor([[0.2, 0.1], [0.9, 1.3]]).T.reshape(1, 2, 1, 2).requires_grad_()
    loss = made(z).loss
    near = (0.2**2 + 0.1**2 + 0.1**2 + 0.3**2) / 4  # a value of the latent
    idle = ((5 - 0.9) ** 2 + (4 - 1.3) ** 2) / 4  # the third vector's way to the latent that is nearest to it
    assert loss.item() == pytest.approx(near + COMMITMENT * near + idle, rel=1e-5)
    loss.backward()
    lost = torch.tensor([[0.2, 0.1], [-0.1, 0.3]])
    assert (z.grad[0, :, 0].T - COMMITMENT * 2 * lost / 4).abs().max() < 1e-6  # the latent pays for no vector
    moves = torch.stack([-2 * lost[0], -2 * lost[1], torch.tensor([2 * 4.1, 2 * 2.7])]) / 4
    assert (made.embedding.weight.grad - moves).abs().max() < 1e-5
    assert made.eval()(z).loss is None


def test_a_codebook_that_begins_far_off_comes_into_use():
    """All latents choose the one vector that is nearest; the others, which get no gradient of the paper's, follow."""
    in_use = {}
    for all_of_it in (True, False):
        torch.manual_seed(3)
        made, z = Codebook(16, 2), torch.randn(4, 2, 8, 8)
        made.embedding.weight.data = 6 + torch.rand(16, 2)
        optimizer = torch.optim.Adam(made.parameters(), lr=0.05)
        for _ in range(300):
            optimizer.zero_grad()
            found = made(z)
            chosen = made.embedding(found.codes).permute(0, 3, 1, 2)
            (found.loss if all_of_it else (z - chosen).square().mean()).backward()
            optimizer.step()
        in_use[all_of_it] = perplexity(made(z).codes, 16)
    assert in_use[True] > 7 and in_use[False] < 3


def test_perplexity_in_closed_form():
    assert perplexity(torch.arange(12).view(3, 4), 12) == pytest.approx(12)
    assert perplexity(torch.full((5, 2), 7), 12) == pytest.approx(1)
    thirds = torch.tensor([0, 0, 1])
    assert perplexity(thirds, 2) == pytest.approx(3 / 2 ** (2 / 3))
    for codes in (torch.tensor([], dtype=torch.int64), torch.tensor([12]), torch.tensor([-1])):
        with pytest.raises(ValueError, match="of a codebook of 12; expected some, 0 to 11"):
            perplexity(codes, 12)
    with pytest.raises(ValueError, match=r"latents to quantise: got .*; expected float \(B, 4, h, w\)"):
        Codebook(16, 4)(torch.randn(2, 3, 4, 4))


def test_the_latent_that_is_diffused_is_the_one_before_quantisation(tmp_path):
    model = coded().eval()
    pictures = Pictures(torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8), name="noise")
    x = pictures.batch(range(6))
    q = model.encode(x)
    assert q.z_mean.shape == (6, 3, 4, 4) and torch.equal(q.sample(), q.z_mean) and torch.isinf(q.kl()).all()
    with torch.no_grad():
        scale = model.measure_latent_scale(x, torch.Generator().manual_seed(0))
        assert scale == pytest.approx(1 / q.z_mean.std().item(), rel=1e-5)
        latents = encode_pictures(model, pictures)
        assert not latents.std.any() and (latents.mean - scale * q.z_mean).abs().max() < 1e-6
        vectors = model.quantize(q.z_mean)
        assert (model.decode(q.z_mean) - model.decode(vectors.z)).abs().max() < 1e-5
        nudged = q.z_mean + 1e-4 * torch.randn(q.z_mean.shape)  # rounded away by the decoder
        same = (model.quantize(nudged).codes == vectors.codes).all(2).all(1)
        assert same.sum() >= 4 and (model.decode(nudged) - model.decode(q.z_mean))[same].abs().max() < 1e-5
    path = checkpoints.save_model(tmp_path / "a.safetensors", model)
    back, _ = checkpoints.load_model(path)
    assert back.config == CODED and torch.equal(back.reconstruct(x), model.reconstruct(x))
    assert math.prod(vectors.codes.shape) * math.log2(20) < 8 * x.numel()


def test_a_codebook_of_one_vector_is_refused():
    with pytest.raises(ValueError, match="codes=1; expected 2 or more"):
        AutoencoderConfig(codes=1)

"""The networks and their configurations: shapes, labels, the posterior, and every refusal (parity: test_interop)."""

import math
from dataclasses import asdict, replace

import pytest
import torch

from ldm_course.config import AutoencoderConfig, DiTConfig, TrainConfig, UNetConfig
from ldm_course.lab import profiles
from ldm_course.lab.profiles import PROFILES
from ldm_course.networks.autoencoder import Autoencoder, Posterior
from ldm_course.networks.dit import DiT
from ldm_course.networks.layers import Attention, Downsample, Upsample, timestep_embedding
from ldm_course.networks.unet import UNet

SMALL = UNetConfig(block_out_channels=(16, 32), attention=(False, True), attention_head_dim=8, norm_num_groups=8)
FIRST_STAGE = AutoencoderConfig(block_out_channels=(16, 16, 32), norm_num_groups=8)


def seeded(build, *args):
    torch.manual_seed(0)
    return build(*args)


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --------------------------------------------------------------------------------------------- U-Net


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 3, 6, 10)])
def test_the_denoiser_keeps_the_shape_and_hears_the_time(shape):
    model = seeded(UNet, SMALL).eval()
    with torch.no_grad():
        early, late = (model(normal(*shape), torch.full((shape[0],), t)) for t in (0, 900))
    assert early.shape == shape
    assert (early - late).abs().max() > 1e-3


def test_each_picture_has_its_own_time():
    model, x = seeded(UNet, SMALL).eval(), normal(2, 3, 8, 8)
    with torch.no_grad():
        both = model(x, torch.tensor([5, 700]))
        apart = torch.cat([model(x[:1], torch.tensor([5])), model(x[1:], torch.tensor([700]))])
    assert (both - apart).abs().max() < 1e-5


def test_the_embedding_has_a_row_more_than_classes_and_no_label_is_the_last():
    model = seeded(UNet, UNetConfig(**(asdict(SMALL) | {"num_classes": 3}))).eval()
    assert model.class_embedding.weight.shape == (4, 64)
    x, t = normal(4, 3, 8, 8), torch.tensor([1, 10, 100, 999])
    with torch.no_grad():
        assert torch.equal(model(x, t), model(x, t, torch.full((4,), 3)))
        mixed = model(x, t, torch.tensor([0, 3, 1, 3]))
        assert (mixed - model(x, t))[[1, 3]].abs().max() < 1e-5 < (mixed - model(x, t))[[0, 2]].abs().max()


@pytest.mark.parametrize("shape", [(2, 3, 7, 8), (2, 3, 8, 9), (2, 4, 8, 8), (3, 8, 8)])
def test_a_wrong_shape_is_refused_in_one_line(shape):
    with pytest.raises(ValueError, match=r"got .*expected float \(B, 3, H, W\) with H and W multiples of 2") as error:
        seeded(UNet, SMALL)(torch.zeros(shape), torch.zeros(shape[0], dtype=torch.int64))
    assert "\n" not in str(error.value)


def test_labels_for_a_network_without_classes_are_refused():
    with pytest.raises(ValueError, match="without classes"):
        seeded(UNet, SMALL)(torch.zeros(1, 3, 8, 8), torch.tensor([0]), torch.tensor([0]))


def test_timestep_embedding_is_the_papers_formula():
    """DDPM, appendix B, after Vaswani et al. 2017, section 3.5: angles t / 10000^(k / half)."""
    found = timestep_embedding(torch.tensor([0, 1, 37, 999]), 8)
    for row, t in zip(found, (0, 1, 37, 999)):
        angles = [t / 10_000 ** (k / 4) for k in range(4)]
        assert row.tolist() == pytest.approx([math.cos(a) for a in angles] + [math.sin(a) for a in angles], abs=1e-4)


def test_attention_by_hand():
    """softmax(q kᵀ / √d) v for each head, added to the input."""
    layer, x = seeded(Attention, 16, 2, 4, 1e-5), normal(2, 16, 3, 4)
    h = layer.group_norm(x).flatten(2).transpose(1, 2)
    heads = []
    for i in (slice(0, 8), slice(8, 16)):
        q, k, v = (f(h)[..., i] for f in (layer.to_q, layer.to_k, layer.to_v))
        heads.append(torch.softmax(q @ k.transpose(1, 2) / 8**0.5, dim=-1) @ v)
    expected = x + layer.to_out(torch.cat(heads, -1)).transpose(1, 2).reshape(2, 16, 3, 4)
    assert layer.heads == 2 and (layer(x) - expected).abs().max() < 1e-5


def test_resampling_halves_and_doubles():
    x = normal(1, 4, 6, 8)
    assert Downsample(4)(x).shape == Downsample(4, one_sided=True)(x).shape == (1, 4, 3, 4)
    up = Upsample(4)
    torch.nn.init.dirac_(up.conv.weight), torch.nn.init.zeros_(up.conv.bias)
    assert torch.equal(up(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


# --------------------------------------------------------------------------------------- autoencoder


@pytest.mark.parametrize("widths, f", [((16,), 1), ((16, 16), 2), ((16, 16, 32), 4), ((16, 16, 16, 16), 8)])
def test_the_autoencoder_divides_each_side_by_f(widths, f):
    model = seeded(Autoencoder, AutoencoderConfig(latent_channels=5, block_out_channels=widths, norm_num_groups=8))
    assert model.config.downsample == f
    with torch.no_grad():
        q = model.encode(normal(2, 3, 16, 24))
        assert q.z_mean.shape == q.z_logvar.shape == (2, 5, 16 // f, 24 // f)
        assert model.decode(q.z_mean).shape == (2, 3, 16, 24)


def test_kl_is_that_of_torch_distributions():
    mean, logvar = 2 * normal(5, 4, 3, 3), normal(5, 4, 3, 3, seed=2)
    n = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(n(mean, (0.5 * logvar).exp()), n(0.0, 1.0)).sum(dim=(1, 2, 3))
    found = Posterior(mean, logvar).kl()
    assert found.shape == (5,) and (found - expected).abs().max() < 1e-4
    assert torch.equal(Posterior(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)).kl(), torch.zeros(1))


def test_draws_have_the_posteriors_moments():
    mean, logvar = torch.tensor([-3.0, 0.5]), torch.tensor([-2.0, 1.0])
    shape = (50_000, 2, 1, 1)
    q = Posterior(mean[None, :, None, None].expand(shape), logvar[None, :, None, None].expand(shape))
    z = q.sample(torch.Generator().manual_seed(0))[:, :, 0, 0]
    assert (z.mean(0) - mean).abs().max() < 0.03
    assert (z.std(0) / (0.5 * logvar).exp() - 1).abs().max() < 0.02
    assert torch.equal(q.sample(torch.Generator().manual_seed(0))[:, :, 0, 0], z)
    assert torch.equal(q.at(torch.zeros(shape)), q.z_mean)


def test_the_latent_scale_makes_unit_deviation_and_comes_off_again():
    model, x = seeded(Autoencoder, FIRST_STAGE), normal(8, 3, 16, 16)
    with torch.no_grad():
        scale = model.measure_latent_scale(x, torch.Generator().manual_seed(3))
        z = model.to_latents(x, torch.Generator().manual_seed(3))
        assert z.std().item() == pytest.approx(1, abs=1e-5) and scale == pytest.approx(model.latent_scale.item())
        assert abs(scale - 1) > 0.01
        assert model.measure_latent_scale(x, torch.Generator().manual_seed(3)) == pytest.approx(scale)
        q = model.encode(x)
        assert torch.equal(model.to_latents(x), scale * q.z_mean)
        assert (model.from_latents(model.to_latents(x)) - model.decode(q.z_mean)).abs().max() < 1e-4
    assert "latent_scale" in model.state_dict()


def test_extreme_variances_are_bounded():
    model = seeded(Autoencoder, FIRST_STAGE)
    with torch.no_grad():
        model.quant_conv.bias[4:] = 1e6
        assert model.encode(normal(1, 3, 8, 8)).z_logvar.max() == 20
        model.quant_conv.bias[4:] = -1e6
        assert model.encode(normal(1, 3, 8, 8)).z_logvar.min() == -30


@pytest.mark.parametrize("shape", [(1, 3, 10, 8), (1, 3, 8, 6), (1, 1, 8, 8), (3, 8, 8)])
def test_pictures_that_do_not_fit_are_refused_in_one_line(shape):
    with pytest.raises(ValueError, match=r"expected float \(B, 3, H, W\) with H and W multiples of 4") as error:
        seeded(Autoencoder, FIRST_STAGE).encode(torch.zeros(shape))
    assert "\n" not in str(error.value)


def test_values_that_are_no_pictures_are_refused():
    model, x = seeded(Autoencoder, FIRST_STAGE), 200 * normal(2, 3, 8, 8).clamp(0, 1)
    for read in (model.to_latents, model.reconstruct):
        with pytest.raises(
            ValueError, match=r"values go from 0 to 200; pictures are in \[-1, 1\], as to_float has them"
        ):
            read(x)
        read(x / 100 - 1)


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (4, 4, 4)])
def test_latents_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match=r"latents to decode: .*expected float \(B, 4, h, w\)"):
        seeded(Autoencoder, FIRST_STAGE).decode(torch.zeros(shape))


# ------------------------------------------------------------------------------------ configurations


@pytest.mark.parametrize(
    "build, wrong, says",
    [
        (UNetConfig, {"attention": (True,)}, "1 entries for 3 levels"),
        (UNetConfig, {"block_out_channels": (32, 60, 96)}, "60 channels is not a multiple of norm_num_groups=8"),
        (UNetConfig, {"attention_head_dim": 40}, "96 channels .* attention_head_dim=40"),
        (AutoencoderConfig, {"block_out_channels": (32, 60)}, "60 channels is not a multiple"),
        (TrainConfig, {}, "needs an end"),
        (TrainConfig, {"steps": 1, "decay": "exponential"}, "expected 'none', 'cosine' or 'linear'"),
        (TrainConfig, {"seconds": 1, "decay": "cosine"}, "give steps or images"),
        (TrainConfig, {"steps": 1, "precision": "fp8"}, "expected 'auto', 'no', 'fp16' or 'bf16'"),
        (TrainConfig, {"steps": 1, "batch_size": 6, "accumulate": 4}, "not a multiple of accumulate=4"),
        (TrainConfig, {"steps": 1, "accumulate": 0}, "accumulate=0; expected more than 0"),
        (TrainConfig, {"steps": 0}, "steps=0; expected more than 0"),
        (TrainConfig, {"images": -1}, "images=-1"),
        (TrainConfig, {"seconds": float("nan")}, "seconds=nan"),
        (TrainConfig, {"steps": 1, "batch_size": 0}, "batch_size=0"),
    ],
)
def test_wrong_configurations_are_refused_in_one_line(build, wrong, says):
    with pytest.raises(ValueError, match=says) as error:
        build(**wrong)
    assert "\n" not in str(error.value)


def test_the_middle_attends_even_where_no_level_does():
    with pytest.raises(ValueError, match="32 channels"):
        UNetConfig(block_out_channels=(64, 32), attention=(False, False), attention_head_dim=64)
    UNetConfig(block_out_channels=(32, 64), attention=(False, False), attention_head_dim=64)


def test_for_channels_changes_both_ends_and_nothing_else():
    assert asdict(SMALL.for_channels(4)) == asdict(SMALL) | {"in_channels": 4, "out_channels": 4}


def test_profiles_are_chosen_by_argument_then_environment_then_hardware(monkeypatch):
    monkeypatch.setenv("LDM_PROFILE", "smoke")
    assert profiles.profile().name == "smoke" and profiles.profile("reference").name == "reference"
    monkeypatch.setenv("LDM_PROFILE", "big")
    with pytest.raises(ValueError, match="profile 'big'; expected one of smoke, cpu, hours, gpu, reference"):
        profiles.profile()
    monkeypatch.delenv("LDM_PROFILE")
    for there, name in ((True, "gpu"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert profiles.profile().name == name


@pytest.mark.parametrize("name", PROFILES)
def test_a_profiles_sizes_fit_together(name):
    p = PROFILES[name]
    assert p.name == name
    assert p.size % (p.autoencoder.downsample * 2 ** (len(p.unet.block_out_channels) - 1)) == 0
    assert 0 < p.autoencoder_share < 1 and p.ddim_steps <= 1000 and p.ddpm_steps <= 1000
    widths = (*p.unet.block_out_channels, *p.autoencoder.block_out_channels)
    groups = [p.unet.norm_num_groups] * len(p.unet.block_out_channels)
    groups += [p.autoencoder.norm_num_groups] * len(p.autoencoder.block_out_channels)
    assert all(width // g > 1 for width, g in zip(widths, groups))  # or colours are lost, see UNetConfig


X, T, LABELS = torch.zeros(2, 3, 8, 8), torch.tensor([1, 2]), torch.tensor([0, 1])


@pytest.mark.parametrize("build", [lambda: UNet(replace(SMALL, num_classes=3)), lambda: DiT(DiTConfig(num_classes=3))])
@pytest.mark.parametrize(
    "given, says",
    [
        ((X.to(torch.uint8), T, LABELS), "input: got a uint8 tensor"),
        ((X.numpy(), T, LABELS), "input: got a float32 ndarray"),
        ((X, torch.tensor([1, 2, 3]), LABELS), r"t: got an int64 tensor \(3,\); expected one-dimensional \(2,\)"),
        ((X, torch.tensor(5), LABELS), r"tensor \(\)"),
        ((X, 5, LABELS), "t: got an int; expected"),
        ((X, T, LABELS.float()), r"the labels: got a float32 tensor \(2,\); expected int \(2,\)"),
        ((X, T, LABELS[:1]), r"the labels: got an int64 tensor \(1,\)"),
    ],
)
def test_what_a_denoiser_is_told_is_checked_by_shape_and_type(build, given, says):
    with pytest.raises(ValueError, match=says) as error:
        build()(*given)
    assert "\n" not in str(error.value)


def test_the_checks_break_no_compiled_step():
    model, seen = seeded(UNet, replace(SMALL, num_classes=3)), []

    def backend(graph, _):
        seen.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend, fullgraph=True)
    assert torch.equal(compiled(X, T, LABELS), model(X, T, LABELS)) and len(seen) == 1


def test_an_odd_width_has_no_cosines_for_its_sines():
    with pytest.raises(ValueError, match="width=7; expected an even one"):
        timestep_embedding(T, 7)


@pytest.mark.parametrize("x", [torch.full((4, 3, 8, 8), torch.nan), torch.zeros(1, 3, 4, 4)])
def test_a_latent_scale_that_is_none_is_not_set(x):
    model = seeded(Autoencoder, FIRST_STAGE)
    torch.nn.init.zeros_(model.quant_conv.weight[:4].detach())
    torch.nn.init.zeros_(model.quant_conv.bias.detach())
    with pytest.raises(ValueError, match=r"standard deviation of the latents=(nan|0.0); expected"):
        model.measure_latent_scale(x)
    assert model.latent_scale == 1


def test_bytes_are_not_encoded():
    with pytest.raises(ValueError, match="the autoencoder's input: got a uint8 tensor"):
        seeded(Autoencoder, FIRST_STAGE).encode(X.to(torch.uint8))

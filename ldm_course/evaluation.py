"""How good are the pictures? Distances between sets of pictures, and between single ones (chapters 4 and 7).

`evaluate` measures how far generated pictures are from real ones: FD-E and KD-E, the Fréchet and the kernel distance
on EfficientNet-Lite0 features. They are not FID and KID, whose features are Inception's: `fid` is. Each distance
depends on how many pictures it was computed from, so each comes with its counts and its noise floor: what real
pictures score against other real pictures at the very same counts.
"""

from __future__ import annotations

import math
import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from .features import check_pictures, default_device, describe, pooled_features

KERNEL_LIMIT = 5000  # pictures of each kind; the kernel distance costs their square, and is unbiased at any count


# --- the two distances between sets of features ------------------------------------------------------------------


@dataclass(frozen=True)
class Gaussian:
    """A set of features as the Fréchet distance sees it: `mean` (D,), and `factor` (R, D), float64.

    The covariance is factor.T @ factor. R is min(N, D): a set of N < D features has a covariance of rank below N, and
    need never be written out as D x D.
    """

    mean: Tensor
    factor: Tensor


def fit_gaussian(features: Tensor) -> Gaussian:
    """Mean and (unbiased) covariance of features (N, D), N >= 2. ValueError for fewer, or for NaN."""
    features = _checked_features(features).double()
    mean = features.mean(0)
    factor = (features - mean) / (len(features) - 1) ** 0.5
    if len(factor) > factor.shape[1]:
        factor = torch.linalg.qr(factor, mode="r").R  # R'R is the same covariance from fewer rows
    return Gaussian(mean, factor)


def frechet_distance(feat_a: Tensor | Gaussian, feat_b: Tensor | Gaussian) -> float:
    """The squared Fréchet distance of two Gaussians fitted to the features (N, D) and (M, D), in float64.

    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))   (Dowson and Landau 1982; Heusel et al. 2017, equation 6)

    With S_a = A'A and S_b = B'B the trace of the root is the sum of the singular values of AB'. So no matrix root
    is needed, nothing becomes complex, and N below D is no special case. Features may be given as their `Gaussian`.
    The estimate is biased: it falls as N and M grow, even for one distribution (Chong and Forsyth 2020).
    """
    a, b = (f if isinstance(f, Gaussian) else fit_gaussian(f) for f in (feat_a, feat_b))
    _require_same_width(a.mean, b.mean)
    root_trace = torch.linalg.svdvals(a.factor @ b.factor.T).sum()
    spread = a.factor.square().sum() + b.factor.square().sum() - 2 * root_trace
    return max(0.0, ((a.mean - b.mean).square().sum() + spread).item())


class KernelDistance(NamedTuple):
    """`mean` and `std` of the estimates on the random subsets; `std` is their spread, not the mean's error."""

    mean: float
    std: float


def kernel_distance(
    feat_a: Tensor, feat_b: Tensor, *, subsets: int = 100, subset_size: int | None = None, seed: int = 0
) -> KernelDistance:
    """The squared maximum mean discrepancy with the kernel (x.y / D + 1)^3 (Bińkowski et al. 2018, section 4).

    Features (N, D) and (M, D). Each of `subsets` times, `subset_size` are drawn from either set without repetition
    (default: half of the smaller set, at most 1000), and give the unbiased estimate: it is 0 on average for one
    distribution, at any count, so it can be negative. Costs N^2 + M^2 + NM kernel values, in float64.
    """
    a, b = _checked_features(feat_a).double(), _checked_features(feat_b).double()
    _require_same_width(a[0], b[0])
    smaller = min(len(a), len(b))
    n = min(1000, max(2, smaller // 2)) if subset_size is None else subset_size
    if not 2 <= n <= smaller or subsets < 1:
        raise ValueError(
            f"got subsets={subsets} of subset_size={n} from sets of {len(a)} and {len(b)}; "
            f"expected at least one subset of 2 to {smaller}"
        )
    rng = torch.Generator().manual_seed(seed)
    in_a, in_b = _draw_subsets(len(a), n, subsets, rng), _draw_subsets(len(b), n, subsets, rng)
    within = _kernel_sums(a, a, in_a, in_a) + _kernel_sums(b, b, in_b, in_b)
    estimates = within / (n * (n - 1)) - 2 * _kernel_sums(a, b, in_a, in_b) / n**2
    return KernelDistance(estimates.mean().item(), estimates.std(correction=0).item())


def _draw_subsets(count: int, size: int, subsets: int, rng: torch.Generator) -> Tensor:
    """Memberships (subsets, count): 1 for the `size` that belong to the subset, else 0."""
    chosen = torch.rand(subsets, count, generator=rng).topk(size).indices
    return torch.zeros(subsets, count, dtype=torch.float64).scatter_(1, chosen, 1.0)


def _kernel_sums(x: Tensor, y: Tensor, in_x: Tensor, in_y: Tensor, rows: int = 1024) -> Tensor:
    """For each subset, the sum of the kernel over its pairs; where x is y, over pairs of different features."""
    sums = torch.zeros(len(in_x), dtype=torch.float64)
    for i in range(0, len(x), rows):
        kernel = (x[i : i + rows] @ y.T / x.shape[1] + 1) ** 3
        if x is y:
            kernel[torch.arange(len(kernel)), torch.arange(i, i + len(kernel))] = 0
        sums += ((in_x[:, i : i + rows] @ kernel) * in_y).sum(1)
    return sums


# --- generated pictures against real ones ------------------------------------------------------------------------


class Reference:
    """Real pictures, as features computed once, so that every further evaluation costs only the generated ones.

    pictures: uint8 (N, 3, H, W), a `Pictures`, or features (N, 1280); with `limit` only so many of them, drawn at
    random, since the first of a sorted set are no sample of it. `split(n)` puts n pictures aside at random (`seed`):
    generated pictures are compared with the rest, and so are those put aside, which is the floor. It is too low for
    a set with near copies (OpenMoji's skin tones), some of which land on either side. ValueError for fewer than 4.
    """

    def __init__(
        self,
        pictures,
        *,
        limit: int | None = None,
        seed: int = 0,
        batch_size: int = 32,
        device=None,
        progress: bool = False,
    ):
        rng = torch.Generator().manual_seed(seed)
        pictures = getattr(pictures, "images", pictures)
        if limit is not None and limit < len(pictures):
            pictures = pictures[torch.randperm(len(pictures), generator=rng)[:limit]]
        self.features = as_features(pictures, name="reference", batch_size=batch_size, device=device, progress=progress)
        if len(self.features) < 4:
            raise ValueError(f"got a reference of {len(self.features)} pictures; expected at least 4")
        self.seed = seed
        self.order = torch.randperm(len(self.features), generator=rng)
        self._known: dict[tuple, object] = {}

    def __len__(self) -> int:
        return len(self.features)

    def count(self, n: int) -> int:
        """How many of n generated pictures can be compared: n, or half of the reference where that is fewer."""
        if n < 2:
            raise ValueError(f"got {n} generated picture; a distance between distributions needs at least 2")
        return min(n, len(self) // 2)

    def split(self, n: int) -> tuple[Tensor, Tensor]:
        """Features of the n put aside, and of the rest."""
        return self.features[self.order[:n]], self.features[self.order[n:]]

    def distances(self, features: Tensor) -> tuple[float, KernelDistance]:
        """FD-E and KD-E of n features to the rest, without the n put aside."""
        _, rest = self.split(len(features))
        gaussian = self._once(("gaussian", len(features)), lambda: fit_gaussian(rest))
        kernel = kernel_distance(features[:KERNEL_LIMIT], rest[:KERNEL_LIMIT], seed=self.seed)
        return frechet_distance(features, gaussian), kernel

    def floor(self, n: int) -> tuple[float, KernelDistance]:
        """The same for the n put aside."""
        return self._once(("floor", n), lambda: self.distances(self.split(n)[0]))

    def _once(self, key: tuple, compute):
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]


def evaluate(generated, reference, *, seed: int = 0, batch_size: int = 32, device=None, progress: bool = False) -> dict:
    """FD-E and KD-E of generated pictures, each with its noise floor and its counts (chapter 7).

    generated, reference: uint8 (N, 3, H, W), a `Pictures`, or features (N, 1280); the reference also as a
    `Reference`, which makes the next evaluation cheap (and whose own seed then holds). Returns a JSON-able dict:

    - fd_e, kd_e, kd_e_std: generated against the reference, without the pictures that the floor put aside
    - fd_e_floor, kd_e_floor, kd_e_floor_std: those put aside, as many, against the same reference
    - n_generated, n_reference: how many were compared, for both
    - note: empty, or that the reference is too small: with fewer than twice as many real pictures as generated, only
      half of the reference's count is compared, since otherwise there is no floor at the same counts

    Where there are as many generated as real pictures, the first is taken to be made from the first and so on, as
    reconstructions are, and it is the reconstructions of the pictures put aside that are compared with the rest.
    """
    options = {"batch_size": batch_size, "device": device, "progress": progress}
    if not isinstance(reference, Reference):
        reference = Reference(reference, seed=seed, **options)
    features = as_features(generated, name="generated", **options)
    given, n = len(features), reference.count(len(features))
    if given == len(reference):
        features = features[reference.order[:n]]
    elif given > n:
        features = features[torch.randperm(given, generator=torch.Generator().manual_seed(reference.seed))[:n]]
    (fd, kd), (fd_floor, kd_floor) = reference.distances(features), reference.floor(n)
    note = f"compared {n} of {given}: a reference of {len(reference)} has no floor for more" if n < given else ""
    return {
        "fd_e": fd,
        "fd_e_floor": fd_floor,
        "kd_e": kd.mean,
        "kd_e_std": kd.std,
        "kd_e_floor": kd_floor.mean,
        "kd_e_floor_std": kd_floor.std,
        "n_generated": n,
        "n_reference": len(reference) - n,
        "note": note,
    }


def noise_floor(reference, n: int | None = None, *, seed: int = 0) -> dict:
    """What n real pictures, put aside, score against the rest (default: one half against the other).

    reference as for `evaluate`. Returns fd_e, kd_e, kd_e_std, n and n_reference. ValueError when n is more than half
    of the reference.
    """
    reference = reference if isinstance(reference, Reference) else Reference(reference, seed=seed)
    n = len(reference) // 2 if n is None else n
    if n != reference.count(n):
        raise ValueError(f"got n={n} for a reference of {len(reference)}; expected at most half: {len(reference) // 2}")
    fd, kd = reference.floor(n)
    return {"fd_e": fd, "kd_e": kd.mean, "kd_e_std": kd.std, "n": n, "n_reference": len(reference) - n}


def as_features(pictures, *, name: str = "pictures", **options) -> Tensor:
    """Features (N, 1280) of uint8 pictures or of a `Pictures`; features are returned as they are."""
    pictures = getattr(pictures, "images", pictures)
    if isinstance(pictures, Tensor) and pictures.is_floating_point() and pictures.ndim == 2:
        return pictures
    check_pictures(pictures, name)
    return pooled_features(pictures, **options)


# --- the literature's FID ----------------------------------------------------------------------------------------


def fid(
    generated, reference, weights: str | os.PathLike | None = None, *, batch_size=50, device=None, progress=False
) -> float:
    """Fréchet Inception Distance (Heusel et al. 2017), as pytorch-fid computes it from the same pictures.

    generated, reference: uint8 (N, 3, H, W) or a `Pictures`; all are used. weights: the file
    pt_inception-2015-12-05-6726825d.pth; without it, the one in torch hub's cache, else it is downloaded (91 MB).
    The network is pytorch-fid's; the distance is `frechet_distance`. Compare only numbers of equal counts: papers use
    50,000. ValueError for pictures of another kind and, in one line that says what to do, for missing weights.
    """
    sets = [getattr(pictures, "images", pictures) for pictures in (generated, reference)]
    for name, images in zip(("generated", "reference"), sets):
        check_pictures(images, name)
    device = torch.device(device) if device is not None else default_device()
    net = _inception(inception_weights(weights), str(device))
    return frechet_distance(*(_inception_features(net, images, batch_size, device, progress) for images in sets))


def fid_floor(reference, n: int, weights: str | os.PathLike | None = None, *, seed: int = 0, **options) -> float:
    """The FID of n real pictures, drawn at random, against the rest: what a perfect model would get at that count.

    reference, weights and options as for `fid`. ValueError when n is more than half of the reference.
    """
    images = getattr(reference, "images", reference)
    if not 2 <= n <= len(images) // 2:
        raise ValueError(f"got n={n} for a reference of {len(images)}; expected 2 to half of it, {len(images) // 2}")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return fid(images[order[:n]], images[order[n:]], weights, **options)


@torch.no_grad()
def _inception_features(net, images: Tensor, batch_size: int, device: torch.device, progress: bool) -> Tensor:
    """The network's last average pooling, (N, 2048), for pictures in [0, 1]; it resizes them to 299 itself."""
    batches = tqdm(images.split(batch_size), desc="inception", disable=not progress)
    return torch.cat([net(batch.to(device).float() / 255)[0].flatten(1).cpu() for batch in batches])


@cache
def _inception(path: Path, device: str) -> torch.nn.Module:
    from pytorch_fid import inception  # here, since importing it takes seconds

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        with patch.object(inception, "load_state_dict_from_url", lambda *args, **kwargs: state):
            net = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
    except Exception as error:
        raise ValueError(f"{path} does not hold pytorch-fid's Inception weights ({_one_line(error)})") from error
    return net.eval().to(device)


def inception_weights(weights: str | os.PathLike | None = None) -> Path:
    """The file of Inception's weights: the one given, else torch hub's cached one, else downloaded to there."""
    from pytorch_fid.inception import FID_WEIGHTS_URL as url

    cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    path = Path(weights).expanduser() if weights is not None else cached
    if path.is_file():
        return path
    if weights is not None:
        raise ValueError(f"no file {path}; expected Inception's weights, to be had from {url}")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(15)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(cached), hash_prefix=cached.stem.rsplit("-", 1)[1], progress=False)
    except Exception as error:
        raise ValueError(
            f"FID needs Inception's weights, and they could not be downloaded ({_one_line(error)}): "
            f"get {url} elsewhere and pass its path as weights, or save it as {cached}"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    return cached


# --- one picture against another ---------------------------------------------------------------------------------


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB: 10 log10(255^2 / MSE), with one mean squared error over all pictures.

    a, b: both uint8 (N, C, H, W), or both float in [-1, 1], which is taken to 0..255 first, unrounded. Equal sets
    give infinity. (A mean of the pictures' own ratios is higher, and infinite as soon as one is copied exactly.)
    ValueError for different shapes or types.
    """
    a, b = _grey_levels(a, b)
    error = sum((x.double() - y).square().sum().item() for x, y in zip(a.split(64), b.split(64))) / a.numel()
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity (Wang et al. 2004, equation 13), averaged over pictures: 1 for equal ones.

    a, b: as for `psnr`, with sides of at least 11, the window's size. As in the paper: a Gaussian window of 1.5
    pixels, placed where it fits into the picture; K1 = 0.01, K2 = 0.03, on grey levels 0 to 255; here channel by
    channel. (torchmetrics 1.4 does the same; 1.9 also counts the border, padded.) ValueError as for `psnr`.
    """
    a, b = _grey_levels(a, b)
    if min(a.shape[2:]) < 11:
        raise ValueError(f"got pictures of {_size(a)}; SSIM's window needs sides of at least 11")
    similarity = [_ssim(x.double(), y.double()).sum().item() for x, y in zip(a.split(64), b.split(64))]
    return sum(similarity) / len(a)


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    """(B,) of grey levels (B, C, H, W). float64, since a variance is a small difference of large squares."""
    gauss = torch.exp(-((torch.arange(11, dtype=x.dtype, device=x.device) - 5) ** 2) / (2 * 1.5**2))
    gauss = gauss / gauss.sum()

    def mean(u: Tensor) -> Tensor:
        u = u.flatten(0, 1)[:, None]
        return F.conv2d(F.conv2d(u, gauss.view(1, 1, 1, 11)), gauss.view(1, 1, 11, 1)).view(*x.shape[:2], -1)

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y, cov = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2, mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    same_mean = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return (same_mean * (2 * cov + c2) / (var_x + var_y + c2)).mean((1, 2))


class Spectrum(NamedTuple):
    """`frequency` in cycles per picture side; `power`, its mean over the `modes` at that frequency."""

    frequency: Tensor
    power: Tensor
    modes: Tensor


def power_spectrum(images: Tensor) -> Spectrum:
    """How much of the pictures' variation lies at which scale: the radially averaged power spectrum (chapter 4).

    images: uint8 (N, C, H, H), taken as [-1, 1], or float (N, C, H, H), taken as they are, so latents too. Averaged
    over pictures and channels; a mode (u, v) belongs to the ring of radius round(sqrt(u^2 + v^2)), from 0 to the
    corner at H / sqrt(2). Rings above H / 2 are incomplete. Normalised so that (power * modes).sum() is the mean
    squared value (Parseval). float64. ValueError for pictures that are not square.
    """
    if images.ndim != 4 or images.shape[2] != images.shape[3] or not len(images):
        raise ValueError(f"got {describe(images)}; expected square pictures (N, C, H, H)")
    size = images.shape[-1]
    wave = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    ring = (wave[:, None].square() + wave[None, :].square()).sqrt().round().long().flatten()
    total = torch.zeros(size, size, dtype=torch.float64)
    for batch in images.cpu().split(256):
        x = batch.double() / 127.5 - 1 if images.dtype == torch.uint8 else batch.double()
        total += torch.fft.fft2(x, norm="forward").abs().square().mean(1).sum(0)
    modes = ring.bincount()
    power = torch.zeros(len(modes), dtype=torch.float64).index_add_(0, ring, total.flatten() / len(images))
    return Spectrum(torch.arange(len(modes)), power / modes, modes)


class Neighbours(NamedTuple):
    """`distance` float32 (N, k), nearest first; `index` int64 (N, k) into the training pictures."""

    distance: Tensor
    index: Tensor


def nearest_neighbours(
    generated, train, k: int = 1, *, space: str = "pixels", batch_size: int = 256, device=None, progress: bool = False
) -> Neighbours:
    """The k training pictures nearest to each generated one: has the model learnt, or copied? (chapter 7)

    generated, train: uint8 (N, 3, H, W) and (M, 3, H, W), or `Pictures`. space "pixels": root mean squared difference
    in grey levels, 0 to 255, of pictures of one size; "features": Euclidean distance of `pooled_features`, which may
    also be given instead of pictures. Exact, `batch_size` generated pictures at a time. ValueError for other sizes.
    """
    if space == "features":
        a, b = (as_features(p, device=device, progress=progress) for p in (generated, train))
        scale = 1.0
    elif space == "pixels":
        a, b = (getattr(p, "images", p) for p in (generated, train))
        check_pictures(a, "generated")
        check_pictures(b, "train")
        if a.shape[1:] != b.shape[1:]:
            raise ValueError(f"got pictures of {_size(a)} and training pictures of {_size(b)}; expected one size")
        scale = a[0].numel() ** -0.5
    else:
        raise ValueError(f"space={space!r}; expected 'pixels' or 'features'")
    if not 1 <= k <= len(b):
        raise ValueError(f"k={k}; expected 1 to {len(b)}, the number of training pictures")
    device = torch.device(device) if device is not None else default_device()
    a, b = a.flatten(1), b.flatten(1).float().to(device)
    found = [_nearest(batch.float().to(device), b, k) for batch in tqdm(a.split(batch_size), disable=not progress)]
    return Neighbours(torch.cat([d for d, _ in found]).mul(scale).cpu(), torch.cat([i for _, i in found]).cpu())


def _nearest(a: Tensor, b: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Found by |b|^2 - 2 a.b, which rounding blurs, then measured one by one, so that a copy is at exactly 0."""
    candidates = (b.square().sum(1) - 2 * a @ b.T).topk(min(k + 4, len(b)), largest=False).indices
    exact = torch.stack([(a - b[column]).square().sum(1).sqrt() for column in candidates.T], 1)
    distance, order = exact.topk(k, largest=False)
    return distance, candidates.gather(1, order)


# --- what callers may get wrong ----------------------------------------------------------------------------------


def _checked_features(features: Tensor) -> Tensor:
    if not isinstance(features, Tensor) or features.ndim != 2 or not features.is_floating_point():
        raise ValueError(f"got {describe(features)}; expected float features (N, D)")
    if len(features) < 2:
        raise ValueError(f"got {len(features)} sample; a distance between distributions needs at least 2 of each")
    if not features.isfinite().all():
        raise ValueError("got features with NaN or infinity; expected finite ones")
    return features.cpu()


def _require_same_width(a: Tensor, b: Tensor) -> None:
    if len(a) != len(b):
        raise ValueError(f"got features of {len(a)} and {len(b)} values; expected the same kind of features twice")


def _grey_levels(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two sets of pictures as float grey levels, 0 to 255."""
    if a.shape != b.shape or a.ndim != 4 or a.dtype != b.dtype or not len(a):
        raise ValueError(f"got {describe(a)} and {describe(b)}; expected two (N, C, H, W) of one shape and type")
    if a.dtype == torch.uint8:
        return a.float(), b.float()
    if not a.is_floating_point():
        raise ValueError(f"got {describe(a)}; expected uint8, or float in [-1, 1]")
    return (a.float() + 1) * 127.5, (b.float() + 1) * 127.5


def _size(images: Tensor) -> str:
    return " x ".join(str(side) for side in images.shape[2:])


def _one_line(error: Exception) -> str:
    """The first sentence of another library's message."""
    return " ".join(str(error).split()).split(". ")[0][:160] or type(error).__name__

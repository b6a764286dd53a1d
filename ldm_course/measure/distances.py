"""How good are the pictures? Distances between sets of them, and nearest neighbours (chapters 2 and 5).

`evaluate` measures how far generated pictures are from real ones: FD-E and KD-E, the Fréchet and the kernel distance
on EfficientNet-Lite0 features. They are not FID and KID, whose features are Inception's; `inception.fid` is FID. Each
distance depends on how many pictures it was computed from, so each comes with its counts and its noise floor: what real
pictures score against other real pictures at the very same counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ..device import default_device
from ..networks.features import check_pictures, describe, pooled_features
from .fidelity import size_of

KERNEL_LIMIT = 5000  # pictures of each kind; the kernel distance costs their square, and is unbiased at any count


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
    """FD-E and KD-E of generated pictures, each with its noise floor and its counts (chapters 2 and 5).

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


class Neighbours(NamedTuple):
    """`distance` float32 (N, k), nearest first; `index` int64 (N, k) into the training pictures."""

    distance: Tensor
    index: Tensor


def nearest_neighbours(
    generated, train, k: int = 1, *, space: str = "pixels", batch_size: int = 256, device=None, progress: bool = False
) -> Neighbours:
    """The k training pictures nearest to each generated one: has the model learnt, or copied? (chapter 5)

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
            raise ValueError(f"got pictures of {size_of(a)} and training pictures of {size_of(b)}; expected one size")
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

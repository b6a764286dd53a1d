"""How good are the pictures? Distances between sets of them, and nearest neighbours (chapters 2 and 5).

`evaluate` measures how far generated pictures are from real ones: FD-E and KD-E, the Fréchet and the kernel distance
on EfficientNet-Lite0 features. They are not FID and KID, whose features are Inception's; `inception.fid` is FID. Each
distance depends on how many pictures it was computed from, so each comes with its counts and its noise floor: what real
pictures score against other real pictures at the very same counts. Its standard error is that of the generated
pictures' draw, given the reference, since rows of a table share one reference: the error of a difference of two of them
is `math.hypot` of the two errors. What another reference would change, it would change in all rows alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ..checks import describe
from ..device import default_device
from ..files import cached_tensors, fingerprint
from ..networks.features import FEATURES, check_pictures, pooled_features
from .coverage import K, precision_recall, radii
from .fidelity import size_of

FEWEST = 4  # real pictures that others can be held against
BLOCK = 1024  # rows of the kernel that are held at a time
COVERED = 10_000  # reference pictures, at most, for precision and recall


class Estimate(float):
    """A number with the standard `error` of it: infinite where too few samples tell, NaN where it is not known."""

    error: float

    def __new__(cls, value: float, error: float = math.nan) -> Estimate:
        estimate = super().__new__(cls, value)
        estimate.error = error
        return estimate

    def __repr__(self) -> str:
        return f"{float(self)!r} ± {self.error!r}"


@dataclass(frozen=True)
class Gaussian:
    """A set of features as the Fréchet distance sees it: `mean` (D,), and `factor` (R, D), float64.

    The covariance is factor.T @ factor. R is min(N, D): a set of N < D features has a covariance of rank below N, and
    need never be written out as D x D.
    """

    mean: Tensor
    factor: Tensor

    def to(self, device) -> Gaussian:
        return Gaussian(self.mean.to(device), self.factor.to(device))


def fit_gaussian(features: Tensor, *, device=None) -> Gaussian:
    """Mean and (unbiased) covariance of features (N, D), N >= 2. ValueError for fewer, or for NaN."""
    features = _checked_features(features, device).double()
    mean, factor = features.mean(0), _factor(features)
    if len(factor) > factor.shape[1]:
        factor = torch.linalg.qr(factor, mode="r").R  # R'R is the same covariance from fewer rows
    return Gaussian(mean, factor)


def _factor(features: Tensor) -> Tensor:
    """A, (N, D), of which A'A is the covariance: each feature less the mean, over the root of N - 1."""
    return (features - features.mean(0)) / (len(features) - 1) ** 0.5


def frechet_distance(feat_a: Tensor | Gaussian, feat_b: Tensor | Gaussian, *, device=None) -> Estimate:
    """The squared Fréchet distance of two Gaussians fitted to the features (N, D) and (M, D), in float64.

    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))   (Dowson and Landau 1982; Heusel et al. 2017, equation 6)

    With S_a = A'A and S_b = B'B the trace of the root is the sum of the singular values of AB'. So no matrix root
    is needed, nothing becomes complex, and N below D is no special case. Features may be given as their `Gaussian`.
    The estimate is biased: it falls as N and M grow, even for one distribution (Chong and Forsyth 2020).

    `error` is the scatter over other draws of the first N, at that N and with the second set as it is, by the exact
    delete-one jackknife: rather too wide than too narrow (Efron and Stein 1981), near the floor by up to a half. It
    does not hold the bias, so it serves differences at equal counts. Infinite for N < 3, NaN where the first set is
    given as a `Gaussian`.
    """
    device = torch.device(device) if device is not None else default_device()
    a, b = (f.to(device) if isinstance(f, Gaussian) else fit_gaussian(f, device=device) for f in (feat_a, feat_b))
    _require_same_width(a.mean, b.mean)
    values, right = _singular(a.factor @ b.factor.T)
    spread = a.factor.square().sum() + b.factor.square().sum() - 2 * values.sum()
    found = max(0.0, ((a.mean - b.mean).square().sum() + spread).item())
    if isinstance(feat_a, Gaussian):
        return Estimate(found)
    rows = _factor(_checked_features(feat_a, device).double())
    return Estimate(found, _frechet_error(rows, a.mean - b.mean, values, rows @ (b.factor.T @ right)))


def _singular(x: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values (K,) of x (P, R) and its right vectors (R, K), but for those that rounding leaves of zeros.

    By the eigenvectors of the smaller of x'x and xx', which takes a third of the time of a decomposition of x itself.
    """
    wide = len(x) < x.shape[1]
    squares, vectors = torch.linalg.eigh(x @ x.T if wide else x.T @ x)
    kept = squares > 1e-14 * squares[-1]
    values, vectors = squares[kept].sqrt(), vectors[:, kept]
    return values, x.T @ vectors / values if wide else vectors


def _frechet_error(rows: Tensor, shift: Tensor, values: Tensor, along: Tensor) -> float:
    """The delete-one jackknife: the distance without each of the N rows in turn, up to what is the same for all.

    rows: A, (N, D); shift: m_a - m_b; values: singular values of AB'; along: AB' times its right vectors, (N, K).
    Without row a_i, (N - 1) S_a becomes (N - 1) (S_a - c a_i a_i'), c = N / (N - 1), and the mean moves.
    """
    n = len(rows)
    if n < 3:
        return math.inf
    c, grown = n / (n - 1), (n - 1) / (n - 2)
    means = (shift - rows / (n - 1) ** 0.5).square().sum(1)
    traces = -grown * c * rows.square().sum(1)
    roots = -(grown**0.5) * _root_lost(along.square(), values, c)
    return ((n - 1) * (means + traces - 2 * roots).var(correction=0)).sqrt().item()


def _root_lost(squares: Tensor, values: Tensor, c: float) -> Tensor:
    """What each row y of (N, K) takes from the trace of a root: tr K^(1/2) - tr (K - c yy')^(1/2), K = diag(values^2).

    tr K^(1/2) is the integral of log det(1 + K / u^2) du / pi over u > 0, and det(K - c yy' + u^2) is
    det(K + u^2) (1 - c y'(K + u^2)^-1 y), which leaves one integral for each row. The trapezoidal rule in log u is
    exact to eight digits at steps of 1/2, since the integrand is analytic within pi/2 of the real line.
    """
    step = 0.5
    u = values.sum() * torch.arange(-20, 20, step, device=values.device, dtype=values.dtype).exp()
    share = c * squares @ (1 / (values.square()[:, None] + u.square()))
    return -(1 - share).clamp(min=1e-16).log() @ u * (step / math.pi)


def kernel_distance(feat_a: Tensor, feat_b: Tensor, *, within_b: Tensor | None = None, device=None) -> Estimate:
    """The squared maximum mean discrepancy with the kernel k = (x.y / D + 1)^3 (Bińkowski et al. 2018, section 4).

    Features (N, D) and (M, D), all of which are used. With c(x) the mean of k from x to the second set, and C the mean
    of k within the second set (`within_b`, where `mean_kernel` has it already), the estimate is the mean of

    h(x, y) = k(x, y) - c(x) - c(y) + C   over all pairs of different x, y of the first set.

    It is unbiased: 0 on average for one distribution, at any count, so it can be negative. `error` is its scatter over
    other draws of the first set, with the second as it is (`_pairs_error`); infinite for N < 4. Costs N^2 + NM kernel
    values, and M^2 / 2 for C; products in float32, sums in float64.
    """
    a, b = _checked_features(feat_a, device).float(), _checked_features(feat_b, device).float()
    _require_same_width(a[0], b[0])
    within_b = mean_kernel(b, device=device) if within_b is None else within_b
    to_b = torch.cat([_kernel(rows, b).mean(1, dtype=torch.float64) for rows in a.split(BLOCK)])
    sums, squares = [], torch.zeros((), dtype=torch.float64, device=a.device)
    for i in range(0, len(a), BLOCK):
        h = _kernel(a[i : i + BLOCK], a) - to_b[i : i + BLOCK, None] - to_b + within_b
        h.diagonal(i).zero_()
        sums.append(h.sum(1))
        squares += h.square().sum()
    sums = torch.cat(sums)
    return Estimate(sums.mean().item() / (len(a) - 1), _pairs_error(sums, squares))


def mean_kernel(features: Tensor, *, device=None) -> Tensor:
    """The mean of the kernel over all pairs of different features (N, D): a float64 number, on the device."""
    x = _checked_features(features, device).float()
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for i in range(0, len(x), BLOCK):
        from_diagonal = _kernel(x[i : i + BLOCK], x[i:])  # the rest is its mirror image
        square = from_diagonal[:, : len(from_diagonal)]
        total += 2 * from_diagonal.sum(dtype=torch.float64) - square.sum(dtype=torch.float64)
        total -= square.diagonal().sum(dtype=torch.float64)
    return total / (len(x) * (len(x) - 1))


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return torch.addmm(torch.ones((), device=x.device), x, y.T, alpha=1 / x.shape[1]).pow_(3)


def _pairs_error(sums: Tensor, squares: Tensor) -> float:
    """Standard error of the mean of h over the pairs of N samples, from each sample's sum (N,) and the sum of h^2.

    Var = 4 v1 / N + 2 v2 / (N (N - 1)) (Hoeffding 1948): v1 is the variance of what one sample adds, v2 that of what is
    left of h in a pair. Near the floor v2 is all, and the jackknife, which counts it twice, is 1.4 times too wide
    (Efron and Stein 1981). v1 and v2 are estimated without bias, v1 as 0 if it comes out below.
    """
    n = len(sums)
    if n < 4:
        return math.inf
    mean = sums.mean() / (n - 1)
    alone = ((sums - sums.mean()) / (n - 2)).square().sum()
    v2 = (squares - n * (n - 1) * mean.square() - 2 * (n - 2) * alone) / (n * (n - 3))
    v1 = alone / (n - 1) - v2 / (n - 2)
    return (4 * v1.clamp(min=0) / n + 2 * v2.clamp(min=0) / (n * (n - 1))).sqrt().item()


class Scores(NamedTuple):
    """How n features compare with a reference; precision and recall are None where n is too small."""

    fd: Estimate
    kd: Estimate
    precision: float | None
    recall: float | None


class Reference:
    """Real pictures, as features computed once, so that every further evaluation costs only the generated ones.

    pictures: uint8 (N, 3, H, W), a `Pictures`, or features (N, 1280); with `limit` only so many of them, drawn at
    random, since the first of a sorted set are no sample of it. `split(n)` puts n pictures aside at random (`seed`):
    generated pictures are compared with the rest, and so are those put aside, which is the floor. It is too low for
    a set with near copies (OpenMoji's skin tones), some of which land on either side. Features, and what is computed of
    them alone, stay on `device`; in the folder `cache` they are kept, and found again. ValueError: fewer than FEWEST.
    """

    def __init__(
        self,
        pictures,
        *,
        limit: int | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        device=None,
        progress: bool = False,
        cache: Path | None = None,
    ):
        rng = torch.Generator().manual_seed(seed)
        pictures = getattr(pictures, "images", pictures)
        if limit is not None and limit < len(pictures):
            pictures = pictures[torch.randperm(len(pictures), generator=rng)[:limit].to(pictures.device)]
        self.device = torch.device(device) if device is not None else default_device()
        options = {"batch_size": batch_size, "device": self.device, "progress": progress}
        found = as_features(pictures, name="reference", **options) if cache is None else _kept(pictures, cache, options)
        self.features = found.to(self.device)
        if len(self.features) < FEWEST:
            raise ValueError(f"got a reference of {len(self.features)} pictures; expected at least {FEWEST}")
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
        order = self.order.to(self.device)
        return self.features[order[:n]], self.features[order[n:]]

    def scores(self, features: Tensor) -> Scores:
        """Of n features against the rest, without the n put aside."""
        n, device = len(features), self.device
        _, rest = self.split(n)
        gaussian = self._once(("gaussian", n), lambda: fit_gaussian(rest, device=device))
        within = self._once(("kernel", n), lambda: mean_kernel(rest, device=device))
        fd = frechet_distance(features, gaussian, device=device)
        kd = kernel_distance(features, rest, within_b=within, device=device)
        if n <= K:
            return Scores(fd, kd, None, None)
        some = rest[:COVERED]
        known = self._once(("radii", n), lambda: radii(some, device=device))
        return Scores(fd, kd, *precision_recall(features, some, reference_radii=known, device=device))

    def floor(self, n: int) -> Scores:
        """The same for the n put aside."""
        return self._once(("floor", n), lambda: self.scores(self.split(n)[0]))

    def _once(self, key: tuple, compute):
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]


def evaluate(
    generated, reference, *, seed: int = 0, batch_size: int | None = None, device=None, progress: bool = False
) -> dict:
    """FD-E and KD-E of generated pictures, each with its error, its noise floor and its counts (chapters 2 and 5).

    generated, reference: uint8 (N, 3, H, W), a `Pictures`, or features (N, 1280); the reference also as a
    `Reference`, which makes the next evaluation cheap (and whose own seed and device then hold). Returns a JSON-able
    dict, with None for what too few pictures do not tell:

    - fd_e, kd_e: generated against the reference, without the pictures that the floor put aside
    - fd_e_floor, kd_e_floor: those put aside, as many, against the same reference
    - fd_e_error, kd_e_error, kd_e_floor_error: standard errors, given the reference (see `frechet_distance`)
    - precision, recall: shares (`coverage`); precision_real, recall_real: those of the pictures put aside
    - n_generated, n_reference: how many were compared, for both
    - note: empty, or that the reference is too small: with fewer than twice as many real pictures as generated, only
      half of the reference's count is compared, since otherwise there is no floor at the same counts

    Where there are as many generated as real pictures, the first is taken to be made from the first and so on, as
    reconstructions are, and it is the reconstructions of the pictures put aside that are compared with the rest.
    """
    options = {"batch_size": batch_size, "progress": progress}
    if not isinstance(reference, Reference):
        reference = Reference(reference, seed=seed, device=device, **options)
    features = as_features(generated, name="generated", device=reference.device, **options).to(reference.device)
    given, n = len(features), reference.count(len(features))
    if given == len(reference):
        features = features[reference.order[:n].to(features.device)]
    elif given > n:
        drawn = torch.randperm(given, generator=torch.Generator().manual_seed(reference.seed))[:n]
        features = features[drawn.to(features.device)]
    found, floor = reference.scores(features), reference.floor(n)
    note = f"compared {n} of {given}: a reference of {len(reference)} has no floor for more" if n < given else ""
    return {
        **_told("fd_e", found.fd),
        "fd_e_floor": float(floor.fd),
        **_told("kd_e", found.kd),
        **_told("kd_e_floor", floor.kd),
        "precision": found.precision,
        "recall": found.recall,
        "precision_real": floor.precision,
        "recall_real": floor.recall,
        "n_generated": n,
        "n_reference": len(reference) - n,
        "note": note,
    }


def _told(name: str, estimate: Estimate) -> dict[str, float | None]:
    """An estimate and its error, as entries of a record."""
    return {name: float(estimate), f"{name}_error": estimate.error if math.isfinite(estimate.error) else None}


def noise_floor(reference, n: int | None = None, *, seed: int = 0) -> dict:
    """What n real pictures, put aside, score against the rest (default: one half against the other).

    reference as for `evaluate`. Returns fd_e, kd_e, their errors fd_e_error and kd_e_error, n and n_reference.
    ValueError when n is more than half of the reference.
    """
    reference = reference if isinstance(reference, Reference) else Reference(reference, seed=seed)
    n = len(reference) // 2 if n is None else n
    if n != reference.count(n):
        raise ValueError(f"got n={n} for a reference of {len(reference)}; expected at most half: {len(reference) // 2}")
    floor = reference.floor(n)
    return {**_told("fd_e", floor.fd), **_told("kd_e", floor.kd), "n": n, "n_reference": len(reference) - n}


def as_features(pictures, *, name: str = "pictures", **options) -> Tensor:
    """Features (N, 1280) of uint8 pictures or of a `Pictures`; features are returned as they are."""
    pictures = getattr(pictures, "images", pictures)
    if isinstance(pictures, Tensor) and pictures.is_floating_point() and pictures.ndim == 2:
        return pictures
    check_pictures(pictures, name)
    return pooled_features(pictures, **options)


def _kept(pictures, folder: Path, options: dict) -> Tensor:
    """Features of the reference's pictures, which take long on many, from a file that bears their fingerprint."""

    def make() -> tuple[dict[str, Tensor], dict[str, str]]:
        return {"features": as_features(pictures, name="reference", **options).cpu()}, {}

    shapes = {"features": (len(pictures), FEATURES)}
    return cached_tensors(folder / f"features-{fingerprint(pictures)}.safetensors", shapes, make)[0]["features"]


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


def _checked_features(features: Tensor, device) -> Tensor:
    """Finite float features (N, D) with N >= 2, on the device."""
    if not isinstance(features, Tensor) or features.ndim != 2 or not features.is_floating_point():
        raise ValueError(f"got {describe(features)}; expected float features (N, D)")
    if len(features) < 2:
        raise ValueError(f"got {len(features)} sample; a distance between distributions needs at least 2 of each")
    if not features.isfinite().all():
        raise ValueError("got features with NaN or infinity; expected finite ones")
    return features.to(device if device is not None else default_device())


def _require_same_width(a: Tensor, b: Tensor) -> None:
    if len(a) != len(b):
        raise ValueError(f"got features of {len(a)} and {len(b)} values; expected the same kind of features twice")

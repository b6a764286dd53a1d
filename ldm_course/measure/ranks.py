"""Do two measures order the same things alike? Kendall's rank correlation, its chance and its error (chapter 9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

DRAWS = 2000


class RankCorrelation(NamedTuple):
    """`tau`, from -1 (opposite orders) to 1 (one order); `chance`, how often orders that have nothing to do with each
    other are as far from 0; `error`, the standard deviation that the measures' own errors give to tau; of `n`."""

    tau: float
    chance: float
    error: float
    n: int


def rank_correlation(
    x: Sequence[float],
    y: Sequence[float],
    x_errors: Sequence[float] | None = None,
    y_errors: Sequence[float] | None = None,
) -> RankCorrelation:
    """Of n things, each measured twice, in x and in y, with standard errors (none given: exact).

    tau is the mean over pairs of +1 where both measures order them alike and -1 where not (Kendall 1938). `chance` is
    two-sided and exact, over all n! orders; it takes the things to be independent, and no two of them to be equal.
    `error` is found by measuring again: normal numbers with these errors are added, DRAWS times, from a fixed seed.
    ValueError: not as many of each, or fewer than 2, or NaN.
    """
    errors = [[0.0] * len(x) if e is None else e for e in (x_errors, y_errors)]
    if len(x) < 2 or {len(y), *map(len, errors)} != {len(x)}:
        raise ValueError(f"got {len(x)} and {len(y)} values, or other counts of errors; expected as many, 2 or more")
    values, spread = (
        torch.tensor([list(map(float, a)) for a in pair], dtype=torch.float64) for pair in ((x, y), errors)
    )
    if not (values.isfinite().all() and spread.isfinite().all()):
        raise ValueError("a value or an error is NaN or infinite; expected numbers that have an order")
    noise = torch.randn(DRAWS, *values.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    again = _tau(values + spread * noise)
    tau = _tau(values[None]).item()
    return RankCorrelation(tau, _chance(tau, len(x)), again.std(correction=0).item(), len(x))


def _tau(values: torch.Tensor) -> torch.Tensor:
    """(M,) of (M, 2, n)."""
    signs = (values[..., None] - values[..., None, :]).sign()
    n = values.shape[-1]
    return signs.prod(1).sum((1, 2)) / (n * (n - 1))


def _chance(tau: float, n: int) -> float:
    """The part of all orders of n whose tau is at least as far from 0. One with k of the n (n - 1) / 2 pairs turned
    round has tau = 1 - 4 k / (n (n - 1)); the k-th coefficient of the product of 1 + q + ... + q^(m - 1) over m up to n
    counts them."""
    counts = [1]
    for m in range(2, n + 1):
        longer = [0] * (len(counts) + m - 1)
        for i, count in enumerate(counts):
            for j in range(m):
                longer[i + j] += count
        counts = longer
    pairs = n * (n - 1) // 2
    far = abs(tau) * pairs - 1e-6
    return sum(count for k, count in enumerate(counts) if abs(pairs - 2 * k) >= far) / sum(counts)

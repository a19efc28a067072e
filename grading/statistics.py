"""What a number of rows can say: intervals of shares, tests of pairs, and how many rows it would take.

Pairs are the scores of two models on the same rows. Where these are 0 or 1, b counts the rows that only the first
got right, c those that only the second did; the rest says nothing about the difference. Everything random is a
function of the seed. Shares and differences are between 0 and 1: 0.03 are three points.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
POWER = 0.8
"""With which a difference that is there is to be found."""
BROKEN_SHARE = 0.05
"""The rows that tuning breaks, where nothing is known of them yet."""
NUM_DRAWS = 10_000
_DRAWN_AT_ONCE = 1 << 20
"""Numbers: what a bootstrap of many rows holds in memory."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate, and the bounds that hold it with the confidence asked for."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """By how much the first of two is better on the same rows."""

    n: int
    interval: Interval
    p: float
    """Two-sided: how probable a difference of that size is where there is none."""
    method: str
    num_only_first: int | None = None
    """Rows that only the first got right; None for graded scores."""
    num_only_second: int | None = None


def wilson(num_right: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """A share, "0 of n" and "n of n" included. Raises ValueError for no rows."""
    if not 0 <= num_right <= n or n == 0:
        raise ValueError(f"{num_right} of {n} is no share")
    z = _z(confidence)
    share, shrink = num_right / n, 1 + z * z / n
    middle = (share + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if num_right == 0 else max(0.0, middle - half)
    high = 1.0 if num_right == n else min(1.0, middle + half)
    return Interval(share, low, high)


def mcnemar(b: int, c: int) -> float:
    """The exact test: whether b and c of b + c tosses are those of a fair coin."""
    n, k = b + c, min(b, c)
    if n == 0:
        return 1.0
    steps = np.arange(1, k + 1)
    logs = np.concatenate(([0.0], np.cumsum(np.log((n - steps + 1) / steps))))
    return min(1.0, 2 * float(np.exp(logs - n * math.log(2)).sum()))


def agresti_min(b: int, c: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """The difference (b - c) / n of two shares on the same rows: half a row more in each of the four cells."""
    if b < 0 or c < 0 or b + c > n or n == 0:
        raise ValueError(f"{b} and {c} of {n} rows are no pairs")
    more_b, more_c, more_n = b + 0.5, c + 0.5, n + 2
    middle = (more_b - more_c) / more_n
    spread = more_b + more_c - (more_b - more_c) ** 2 / more_n
    half = _z(confidence) * math.sqrt(spread) / more_n
    return Interval((b - c) / n, max(-1.0, middle - half), min(1.0, middle + half))


def bootstrap(
    values: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Interval:
    """The mean of the values, such as differences of paired scores: clusters are drawn as a whole."""
    sums, sizes = _by_cluster(values, clusters)
    means = np.empty(NUM_DRAWS)
    for start, drawn in _draws(len(sums), seed):
        means[start : start + len(drawn)] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(sums.sum() / sizes.sum()), float(low), float(high))


def sign_flips(
    differences: Sequence[float], clusters: Sequence[Hashable] | None = None, *, seed: int = 0
) -> float:
    """The randomisation test of a mean difference: which of two is called the first is tossed for each cluster."""
    sums, _ = _by_cluster(differences, clusters)
    if not sums.any():
        return 1.0
    # Sums of the same numbers in another order differ in their last digits.
    bound = abs(float(sums.sum())) - 1e-9 * float(np.abs(sums).sum())
    num_extreme = 0
    for _, drawn in _draws(len(sums), seed, high=2):
        num_extreme += int((np.abs((2.0 * drawn - 1) @ sums) >= bound).sum())
    return (1 + num_extreme) / (1 + NUM_DRAWS)


def compare(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
) -> Difference:
    """Of scores on the same rows: exact where they are 0 and 1 and rows stand alone, drawn else."""
    differences = [x - y for x, y in zip(first, second, strict=True)]
    is_binary = set(first) | set(second) <= {0, 1}
    b = sum(d > 0 for d in differences) if is_binary else None
    c = sum(d < 0 for d in differences) if is_binary else None
    n = len(differences)
    if b is not None and c is not None and (clusters is None or len(set(clusters)) == n):
        return Difference(n, agresti_min(b, c, n), mcnemar(b, c), "mcnemar, agresti-min", b, c)
    interval = bootstrap(differences, clusters, seed=seed)
    p = sign_flips(differences, clusters, seed=seed)
    return Difference(n, interval, p, "bootstrap, sign flips", b, c)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted for being a family, in their order: those below 0.05 may be spoken of together."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, so_far = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        so_far = max(so_far, min(1.0, (len(order) - place) * p_values[index]))
        adjusted[index] = so_far
    return adjusted


def rows_for(difference: float, broken_share: float = BROKEN_SHARE) -> int:
    """So many pairs find a gain of that size four times in five, when tuning breaks that share of the rows."""
    differing = min(1.0, 2 * broken_share + difference)
    spread = max(0.0, differing - difference**2)
    needed = _z(CONFIDENCE) * math.sqrt(differing) + _z_of(POWER) * math.sqrt(spread)
    return math.ceil((needed / difference) ** 2)


def smallest_difference(n: int, broken_share: float = BROKEN_SHARE) -> float:
    """The smallest gain that n pairs find four times in five; 1.0 where not even the largest one."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if rows_for(middle, broken_share) <= n else (middle, high)
    return high


def rows_for_mean(difference: float, deviation: float) -> int:
    """As `rows_for`, of graded scores whose differences have that standard deviation."""
    return max(2, math.ceil(((_z(CONFIDENCE) + _z_of(POWER)) * deviation / difference) ** 2))


def smallest_mean_difference(n: int, deviation: float) -> float:
    """As `smallest_difference`, likewise."""
    return (_z(CONFIDENCE) + _z_of(POWER)) * deviation / math.sqrt(n)


def _by_cluster(
    values: Sequence[float], clusters: Sequence[Hashable] | None
) -> tuple[Floats, Floats]:
    """The sum and the number of the values of each cluster. Raises ValueError for no values."""
    if not len(values):
        raise ValueError("there are no values")
    number_of: dict[Hashable, int] = {}
    keys = range(len(values)) if clusters is None else clusters
    numbers = [number_of.setdefault(key, len(number_of)) for key in keys]
    sums: Floats = np.bincount(numbers, weights=np.asarray(values, dtype=float)).astype(np.float64)
    return sums, np.bincount(numbers).astype(np.float64)


def _draws(
    n: int, seed: int, *, high: int | None = None
) -> Iterator[tuple[int, NDArray[np.integer[Any]]]]:
    """NUM_DRAWS rows of n numbers below `high`, which is n itself, some rows at a time behind the first one's place."""
    at_once = max(1, _DRAWN_AT_ONCE // n)
    # A counter for a state: rows are the same however many are drawn at a time.
    random = np.random.Generator(np.random.Philox(key=seed))
    for start in range(0, NUM_DRAWS, at_once):
        num_rows = min(at_once, NUM_DRAWS - start)
        yield start, random.integers(0, high or n, size=(num_rows, n), dtype=np.int64)


def _z(confidence: float) -> float:
    return _z_of((1 + confidence) / 2)


def _z_of(share: float) -> float:
    return NormalDist().inv_cdf(share)

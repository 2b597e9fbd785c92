"""Percentiles with their intervals, how many samples each needs, and percentiles that count failures as infinite."""

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from bench.stats.intervals import Interval

BEYOND = 3  # effective samples that must lie beyond a percentile before it is believed


def needed(p: float) -> int:
    """Effective samples percentile `p` (0 to 100) needs: 300 for 99, 60 for 95, 6 for 50."""
    if not 0 < p < 100:
        raise ValueError(f"a percentile lies between 0 and 100, got {p}")
    return math.ceil(round(BEYOND / min(1 - p / 100, p / 100), 6))


def reliable(p: float, effective: float) -> bool:
    """Whether so many effective samples are enough for percentile `p` (0 to 100)."""
    return effective >= needed(p)


def percentile_interval(
    values: ArrayLike, p: float, effective: float | None = None, confidence: float = 0.95
) -> Interval:
    """Percentile `p` (0 to 100) with bounds that assume nothing of the distribution.

    The share of samples below it is p/100 give or take Wilson's interval for `effective` samples; the bounds are the
    percentiles at its two ends. Bounds beyond the samples' own range are infinite.
    """
    array = np.sort(np.asarray(values, dtype=float))
    if array.size == 0:
        raise ValueError("a percentile needs at least one value")
    n = float(array.size) if effective is None else max(1.0, min(effective, array.size))
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = p / 100
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    center = float(np.percentile(array, p))
    low = _order_statistic(array, math.floor((middle - half) * array.size) - 1, -math.inf, n)
    high = _order_statistic(array, math.ceil((middle + half) * array.size), math.inf, n)
    return Interval(center, min(low, center), max(high, center), n)


def _order_statistic(array: np.ndarray, index: int, outside: float, effective: float) -> float:
    """The sample of that rank. The outermost ones bound nothing: less than one effective sample lies beyond them."""
    beyond = index + 1 if outside < 0 else array.size - index
    if index < 0 or index >= array.size or beyond * effective / array.size < 1:
        return outside
    return float(array[index])


def adjusted_percentile(values: ArrayLike, failures: int, p: float) -> float:
    """Percentile `p` (0 to 100) of the values and as many infinite ones as there were failures."""
    array = np.sort(np.asarray(values, dtype=float))
    total = array.size + failures
    if total == 0:
        raise ValueError("a percentile needs at least one value")
    place = (total - 1) * p / 100
    low = math.floor(place)
    high = min(math.ceil(place), total - 1)
    if high >= array.size:
        return math.inf
    return float(array[low] + (array[high] - array[low]) * (place - low))

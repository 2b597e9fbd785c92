"""Tests on a mean: is it different from nothing, is it as good as nothing, and how many tests were asked at once."""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from bench.stats.intervals import t_cdf, t_quantile

EXACT = 14  # values up to which every sign is tried
SAMPLED = 1 << 14  # signs drawn for more values


def t_test(values: Sequence[float]) -> float:
    """Two-sided p that independent values have mean 0. One value alone says nothing: 1."""
    array = np.asarray(values, dtype=float)
    if array.size < 2:
        return 1.0
    spread = float(array.std(ddof=1))
    if spread == 0:
        return 1.0 if array[0] == 0 else 0.0
    t = abs(float(array.mean())) / (spread / math.sqrt(array.size))
    return 2 * t_cdf(-t, array.size - 1)


def sign_flip_test(values: Sequence[float]) -> float:
    """Two-sided p that the values are spread evenly about 0, by flipping their signs; assumes no distribution.

    Exact for up to 14 values. It cannot fall below 2 / 2**n: five values never reach 0.05.
    """
    array = np.asarray(values, dtype=float)
    if array.size == 0:
        return 1.0
    sums = np.abs(_signs(array.size) @ array)
    seen = abs(float(array.sum()))
    return float(np.mean(sums >= seen * (1 - 1e-12)))


@lru_cache(maxsize=32)
def _signs(n: int) -> NDArray[np.float64]:
    """[trials, n] of +1 and -1; the first row is the data as it was seen."""
    if n <= EXACT:
        return np.array(list(product((1.0, -1.0), repeat=n)))
    drawn = np.random.default_rng(n).choice((1.0, -1.0), size=(SAMPLED, n))
    drawn[0] = 1.0
    return drawn


def equivalent(values: Sequence[float], margin: float, alpha: float = 0.05) -> bool:
    """Whether the mean lies within +-margin, by two one-sided t tests (Schuirmann 1987)."""
    array = np.asarray(values, dtype=float)
    if array.size < 2:
        return False
    half = t_quantile(1 - alpha, array.size - 1) * float(array.std(ddof=1)) / math.sqrt(array.size)
    return abs(float(array.mean())) + half < margin


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p adjusted for having asked them all at once (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted

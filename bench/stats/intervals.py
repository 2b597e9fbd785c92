"""Intervals for a mean: over runs, and within a run whose samples resemble their neighbours.

Student's distribution is computed here from the incomplete beta function (Lentz's continued fraction; Press et al.,
Numerical Recipes, 6.4), so that no statistics package is needed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Interval:
    """An estimate between two bounds; infinite bounds say that nothing is known. `n` is the number of samples."""

    center: float
    low: float
    high: float
    n: float

    @property
    def half(self) -> float:
        return (self.high - self.low) / 2

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


def t_cdf(t: float, df: float) -> float:
    """Probability that Student's t with `df` degrees of freedom (any number above 0) is at most `t`."""
    if df <= 0:
        raise ValueError(f"degrees of freedom must be above 0, got {df}")
    tail = 0.5 * _incomplete_beta(df / 2, 0.5, df / (df + t * t))
    return 1 - tail if t > 0 else tail


@lru_cache(maxsize=4096)
def t_quantile(p: float, df: float) -> float:
    """The t with `t_cdf(t, df) == p`, for p in (0, 1)."""
    if not 0 < p < 1:
        raise ValueError(f"a probability between 0 and 1 is needed, got {p}")
    if p == 0.5:
        return 0.0
    if p < 0.5:
        return -t_quantile(1 - p, df)
    low, high = 0.0, 1.0
    while t_cdf(high, df) < p:
        high *= 2
    while high - low > 1e-13 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_cdf(middle, df) < p else (low, middle)
    return (low + high) / 2


def t_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """The mean of independent values, one for each run. One value alone has infinite bounds."""
    array = np.asarray(values, dtype=float)
    if array.size == 0:
        raise ValueError("an interval needs at least one value")
    return _around(float(array.mean()), float(array.std(ddof=1)) if array.size > 1 else 0.0, array.size, confidence)


def series_interval(values: ArrayLike, confidence: float = 0.95, effective: float | None = None) -> Interval:
    """The mean of one run's samples in order of time, which resemble their neighbours: n is the effective number,
    found from the samples where it is not given."""
    array = np.asarray(values, dtype=float)
    if array.size == 0:
        raise ValueError("an interval needs at least one value")
    spread = float(array.std(ddof=1)) if array.size > 1 else 0.0
    size = effective_size(array) if effective is None else effective
    return _around(float(array.mean()), spread, size, confidence)


def effective_size(values: ArrayLike) -> float:
    """How many independent samples would say as much about the mean as these, which are in order of time.

    n / (1 + 2 * sum of autocorrelations), summed while they are certainly signal: Geyer's initial monotone
    sequence (Statistical Science 7, 1992). At most n, at least 1; 0 for no samples.
    """
    array = np.asarray(values, dtype=float)
    n = array.size
    if n < 4 or array.min() == array.max():
        return float(n)
    rho = autocorrelation(array)
    pairs = rho[: n // 2 * 2].reshape(-1, 2).sum(axis=1)  # sums of neighbours are positive and falling in theory
    negative = np.flatnonzero(pairs <= 0)
    signal = np.minimum.accumulate(pairs[: negative[0]] if negative.size else pairs)
    return float(min(n, max(1.0, n / max(1.0, 2 * signal.sum() - 1))))


def autocorrelation(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each lag from 0 to n - 1, by Fourier transform. [n] -> [n]"""
    n = values.size
    centred = values - values.mean()
    centred /= np.abs(centred).max()  # squares of tiny numbers would be 0
    spectrum = np.fft.rfft(centred, 1 << (2 * n - 1).bit_length())
    products = np.fft.irfft(spectrum * np.conj(spectrum))[:n]
    return np.asarray(products / products[0])


@dataclass(frozen=True)
class Welch:
    """The difference of two groups' means with its standard error (Welch 1947); infinite if a group is a single one."""

    difference: float
    error: float
    df: float

    @property
    def p(self) -> float:
        """Two-sided, that there is no difference."""
        if self.error == 0:
            return 1.0 if self.difference == 0 else 0.0
        return 2 * t_cdf(-abs(self.difference) / self.error, self.df) if math.isfinite(self.error) else 1.0

    def interval(self, confidence: float) -> Interval:
        half = self.error * t_quantile(0.5 + confidence / 2, self.df) if math.isfinite(self.error) else math.inf
        return Interval(self.difference, self.difference - half, self.difference + half, self.df + 1)


def welch_log(old: Sequence[float], new: Sequence[float]) -> Welch:
    """log(mean of new / mean of old) of independent runs, on logarithms. Values must be above 0."""
    a, b = np.log(np.asarray(old, dtype=float)), np.log(np.asarray(new, dtype=float))
    difference = float(b.mean() - a.mean())
    if min(a.size, b.size) < 2:
        return Welch(difference, math.inf, 1)
    va, vb = float(a.var(ddof=1)) / a.size, float(b.var(ddof=1)) / b.size
    if va + vb == 0:
        return Welch(difference, 0.0, 1)
    return Welch(difference, math.sqrt(va + vb), (va + vb) ** 2 / (va**2 / (a.size - 1) + vb**2 / (b.size - 1)))


def _around(center: float, spread: float, n: float, confidence: float) -> Interval:
    if n <= 1:
        return Interval(center, -math.inf, math.inf, n)
    half = t_quantile(0.5 + confidence / 2, n - 1) * spread / math.sqrt(n)
    return Interval(center, center - half, center + half, n)


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularized incomplete beta function I_x(a, b)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side
        return 1 - _incomplete_beta(b, a, 1 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) * _beta_fraction(a, b, x) / a


def _beta_fraction(a: float, b: float, x: float) -> float:
    tiny = 1e-300
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1), tiny)
    result = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _away_from_zero(1 + term * d, tiny)
            c = _away_from_zero(1 + term / c, tiny)
            result *= c * d
        if abs(c * d - 1) < 1e-15:
            return result
    raise ArithmeticError(f"the incomplete beta function did not converge for a={a}, b={b}, x={x}")


def _away_from_zero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny

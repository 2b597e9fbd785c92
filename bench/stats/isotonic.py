"""The rising curve nearest to noisy points, and where it crosses a level."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def pava(values: Sequence[float], weights: Sequence[float] | None = None) -> NDArray[np.float64]:
    """The non-decreasing values nearest in weighted squares: pool adjacent violators (Ayer et al. 1955). [n] -> [n]"""
    sums: list[float] = []
    masses: list[float] = []
    lengths: list[int] = []
    for value, weight in zip(values, weights if weights is not None else [1.0] * len(values), strict=True):
        sums.append(value * weight)
        masses.append(weight)
        lengths.append(1)
        while len(sums) > 1 and sums[-2] / masses[-2] >= sums[-1] / masses[-1]:
            total, mass, length = sums.pop(), masses.pop(), lengths.pop()
            sums[-1] += total
            masses[-1] += mass
            lengths[-1] += length
    return np.repeat(np.array(sums) / np.array(masses) if sums else np.array([]), lengths)


def crossing(x: Sequence[float], fitted: Sequence[float], level: float = 0.0) -> float | None:
    """Where the non-decreasing `fitted`, joined by straight lines over rising `x`, first exceeds `level`.

    None if it never does; the first x if it starts above.
    """
    for i, value in enumerate(fitted):
        if value > level:
            if i == 0:
                return x[0]
            share = (level - fitted[i - 1]) / (value - fitted[i - 1])
            return x[i - 1] + share * (x[i] - x[i - 1])
    return None

"""Whether a quantity keeps rising while a run lasts."""

import math

import numpy as np
from numpy.typing import NDArray

FEWEST = 10  # points that a line can be laid through with any meaning
SURE = 2.0  # standard errors


def sure_slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """How steeply `y` rises over `x` at the least: the slope of the line of least squares less two standard errors,
    and 0 where it may as well be flat. [n], [n]"""
    if x.size < FEWEST:
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    spread = float(x @ x)
    if spread == 0:
        return 0.0
    slope = float(x @ y) / spread
    rest = y - slope * x
    return max(0.0, slope - SURE * math.sqrt(float(rest @ rest) / (x.size - 2) / spread))

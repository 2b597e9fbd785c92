"""From the hidden states of a text to its vector; the same for every runtime."""

import numpy as np

from engine.errors import GenerationFailed
from engine.types import Pooling


def pooled_rows(mode: Pooling, count: int) -> range:
    """Which of a text's rows `pool_rows` wants to see."""
    match mode:
        case "cls":
            return range(1)
        case "last":
            return range(count - 1, count)
        case "mean" | "max":
            return range(count)


def pool_rows(hidden: np.ndarray, mode: Pooling) -> bytes:
    """The vector of the hidden states `[n, hidden_size]` of `pooled_rows`, as float32 in little endian.

    Sums are made in float64. Raises GenerationFailed where the vector holds what is not a number.
    """
    vector = hidden.max(axis=0) if mode == "max" else hidden.mean(axis=0, dtype=np.float64)
    if not np.isfinite(vector).all():
        raise GenerationFailed("the vector holds NaN or infinity: check the model's weights, or serve it in float32")
    packed: bytes = vector.astype("<f4").tobytes()
    return packed

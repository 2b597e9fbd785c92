"""From a pooled vector to the answer: fewer numbers, and length 1. Without numpy, because the server does this."""

import math
import sys
from array import array


def finished(vector: bytes, *, normalize: bool, dimensions: int | None = None) -> "array[float]":
    """The float32 numbers of `Embedding.vector`: the first `dimensions` of them, then brought to length 1.

    That order is the one of Matryoshka embeddings (Kusupati et al. 2022) and of OpenAI's `dimensions`. A vector of
    zeros stays one.
    """
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    if dimensions is not None:
        del numbers[dimensions:]
    length = math.hypot(*numbers) if normalize else 1.0
    return numbers if length in (0.0, 1.0) else array("f", [number / length for number in numbers])

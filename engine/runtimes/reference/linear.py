"""Matrix products whose rows do not depend on each other.

BLAS picks its kernel, and with it the order in which it adds, by the size of the matrices: a row of `x @ w.T`
differs in its last bits between a batch of 1 and a batch of 2. So every product here has exactly `TILE` rows.
Within a tile, too, a kernel may treat its first 12 columns and its last 4 differently (OpenBLAS on AVX2 does);
but rows that fill the lanes of its vectors all get the same instructions. So the tile is the right operand.
"""

import numpy as np

TILE = 16


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """`x @ weight.T + bias` for x `[T, in]` and weight `[out, in]`, in tiles of 16 rows, the last padded with zeros."""
    rows, inner = x.shape
    tiles = -(-rows // TILE)
    padded = np.zeros((tiles * TILE, inner), x.dtype)
    padded[:rows] = x
    columns = padded.reshape(tiles, TILE, inner).transpose(0, 2, 1)
    # In row order in memory: numpy adds up the numbers of a row in another order where they lie apart.
    product = np.ascontiguousarray(np.matmul(weight, columns).transpose(0, 2, 1))
    product = product.reshape(tiles * TILE, len(weight))[:rows]
    return product if bias is None else product + bias

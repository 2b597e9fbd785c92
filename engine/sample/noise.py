"""Counter-based noise: a pure function of (seed, position, token id), so there is no generator to carry along.

Whatever computes a row (alone or in a batch, in chunks, after a preemption, speculatively, on another runtime) finds
the same noise for it, and noise can be computed for any subset of the ids: only for those a filter left, say.

The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3; SC 2011):

    key      the 64-bit seed, low word first
    counter  (token id // 4, position, stream, 0)
    word     number `token id % 4` of the four that a counter gives

A word w becomes the uniform number u = (w + 1/2) / 2^32, exact in float64 and never 0 or 1, and that the Gumbel
number -log(-log(u)). The argmax of log p + Gumbel noise is distributed as p, and p need not be normalised (the
Gumbel-max trick; on a log scale it is the exponential race argmax p / E that TGI runs). float32 would not do: it is
too coarse near u = 1, where the winners of a race over a large vocabulary are.
"""

import numpy as np
from numpy.typing import NDArray

TOKEN = 0  # the stream that chooses a request's tokens; any other use of noise takes a stream of its own

_ROUNDS = 10
_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
_WEYL = np.array([[0x9E3779B9], [0xBB67AE85]], np.uint64)


def philox(counter: NDArray[np.uint64], key: tuple[int, int]) -> NDArray[np.uint64]:
    """Encrypt counters `[4, N]` with one key; 32-bit words in (held in 64), the same number of random words out."""
    even, odd = counter[0::2], counter[1::2]
    keys = np.array(key, np.uint64)[:, None]
    for _ in range(_ROUNDS):
        product = even * _MULTIPLIERS
        even, odd = (product >> _HALF)[::-1] ^ odd ^ keys, (product & _LOW)[::-1]
        keys = (keys + _WEYL) & _LOW
    return np.stack([even[0], odd[0], even[1], odd[1]])


def uniform(seed: int, position: int, ids: NDArray[np.int64], stream: int = TOKEN) -> NDArray[np.float64]:
    """One number in the open interval (0, 1) for each of the ids `[C]`, which must not be empty."""
    groups, at = ids >> 2, (ids & 3) + 4 * np.arange(ids.size)
    span = int(groups.max()) + 1
    if ids.size > span:  # dense: compute every group once and take what is needed of its words
        groups, at = np.arange(span), ids
    counter = np.zeros((4, groups.size), np.uint64)
    counter[0], counter[1], counter[2] = groups, position, stream
    words = philox(counter, (seed & 0xFFFFFFFF, seed >> 32)).T.ravel()[at]
    return (words.astype(np.float64) + 0.5) * 2.0**-32


def gumbel(seed: int, position: int, ids: NDArray[np.int64], stream: int = TOKEN) -> NDArray[np.float64]:
    """Standard Gumbel noise for each of the ids `[C]`."""
    noise: NDArray[np.float64] = -np.log(-np.log(uniform(seed, position, ids, stream)))
    return noise

"""Attention, one query at a time, each over exactly the positions it may see."""

import numpy as np

from engine.runtimes.reference.functions import softcap, softmax


def attend(
    queries: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    *,
    window: int | None = None,
    cap: float | None = None,
    bidirectional: bool = False,
) -> np.ndarray:
    """Attention of the last positions of one request over all of them.

    `queries` `[n, heads, head_dim]`, already scaled, are those of the last n of the c positions whose `keys` and
    `values` `[c, kv_heads, head_dim]` are given. A query sees itself and what comes before, at most `window`
    positions in all; or everything, if `bidirectional`. Returns `[n, heads, head_dim]`.
    """
    count, heads, dim = queries.shape
    kv_heads = keys.shape[1]
    grouped = queries.reshape(count, kv_heads, heads // kv_heads, dim)
    keys = keys.transpose(1, 2, 0)  # [kv_heads, head_dim, c]
    values = values.transpose(1, 0, 2)  # [kv_heads, c, head_dim]
    mixed = np.empty_like(grouped)
    for i in range(count):
        end = keys.shape[2] - count + i + 1
        seen = slice(0 if window is None else max(0, end - window), end)
        if bidirectional:
            seen = slice(None)
        scores = np.matmul(grouped[i], keys[:, :, seen])
        if cap is not None:
            scores = softcap(scores, cap)
        np.matmul(softmax(scores), values[:, seen], out=mixed[i])
    return mixed.reshape(count, heads, dim)

"""The steps that shape a distribution, each a pure function on one row.

Penalties take and return scores `[V]` indexed by token id. Filters take the scores `[C]` of the candidates that are
left, in ascending order of id and all finite, and return a mask `[C]` of those to keep: always at least one. Nothing
is changed in place. Below, p = softmax(scores).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]


def repetition_penalty(scores: Scores, seen: Mask, penalty: float) -> Scores:
    """x / penalty where x > 0, else x * penalty, for every token `seen` in prompt or output (Keskar et al. 2019)."""
    return np.where(seen, np.where(scores > 0, scores / penalty, scores * penalty), scores)


def frequency_penalty(scores: Scores, counts: NDArray[np.int64], penalty: float) -> Scores:
    """x - penalty * count, with the raw count of the token in the output (OpenAI, vLLM)."""
    return scores - penalty * counts


def relative_frequency_penalty(scores: Scores, counts: NDArray[np.int64], penalty: float) -> Scores:
    """x - penalty * count / length, with the counts in prompt and output, whose sum is the length (TGI).

    The penalty fades as a text grows.
    """
    penalised: Scores = scores - penalty * counts / counts.sum()
    return penalised


def presence_penalty(scores: Scores, counts: NDArray[np.int64], penalty: float) -> Scores:
    """x - penalty for every token that is in the output."""
    return scores - penalty * (counts > 0)


def logit_bias(scores: Scores, bias: Sequence[tuple[int, float]]) -> Scores:
    """x + bias for the named token ids; an id named twice gets both."""
    biased = scores.copy()
    for token, value in bias:
        biased[token] += value
    return biased


def grammar(scores: Scores, allowed: NDArray[np.uint32]) -> Scores:
    """Minus infinity where the bit of a token is not set: the lowest bit of `allowed[0]` is that of id 0."""
    bits = np.unpackbits(allowed.astype("<u4").view(np.uint8), bitorder="little", count=scores.size)
    return np.where(bits, scores, -np.inf)


def temperature(scores: Scores, value: float) -> Scores:
    """(x - max) / value: the same distribution as x / value, but no temperature above 0 overflows."""
    scaled: Scores = (scores - scores.max()) / value
    return scaled


def top_k(scores: Scores, k: int) -> Mask:
    """The k highest scores, and all that equal the lowest of them."""
    if k >= scores.size:
        return np.ones(scores.size, bool)
    keep: Mask = scores >= np.partition(scores, -k)[-k]
    return keep


def top_p(scores: Scores, mass: float) -> Mask:
    """The smallest set of most probable tokens whose probability reaches `mass` (Holtzman et al. 2020).

    Among equals the lowest id comes first.
    """
    return _reach(-scores, softmax(scores), mass)


def typical_p(scores: Scores, mass: float) -> Mask:
    """The smallest set of tokens with |-log p - H(p)| lowest whose probability reaches `mass` (Meister et al. 2022).

    H is the entropy; a typical token is about as surprising as the distribution is on average, so the most
    probable one may go. Among equals the lowest id comes first.
    """
    logprobs = log_softmax(scores)
    p = np.exp(logprobs)
    entropy = -np.sum(p * logprobs)
    return _reach(np.abs(-logprobs - entropy), p, mass)


def min_p(scores: Scores, ratio: float) -> Mask:
    """p >= ratio * max p, tested as x >= max + log(ratio) (Nguyen et al. 2024)."""
    keep: Mask = scores >= scores.max() + np.log(ratio)
    return keep


def softmax(scores: Scores) -> Scores:
    weights = np.exp(scores - scores.max())
    probabilities: Scores = weights / weights.sum()
    return probabilities


def log_softmax(scores: Scores) -> Scores:
    """Scores may hold minus infinity, but not only."""
    shifted = scores - scores.max()
    logprobs: Scores = shifted - np.log(np.exp(shifted).sum())
    return logprobs


def lowest(keys: Scores, count: int) -> NDArray[np.intp]:
    """The indices of the `count` lowest keys, ascending by key, then by index. Sorts no more than it must."""
    if count >= keys.size:
        return np.argsort(keys, kind="stable")
    pool = np.flatnonzero(keys <= np.partition(keys, count - 1)[count - 1])
    return pool[np.argsort(keys[pool], kind="stable")[:count]]


def _reach(keys: Scores, p: Scores, mass: float) -> Mask:
    """The shortest prefix, in ascending order of key and then index, whose probability reaches `mass`."""
    count = 256
    order = lowest(keys, count)
    total = np.cumsum(p[order])
    while total[-1] < mass and order.size < keys.size:
        count *= 16
        order = lowest(keys, count)
        total = np.cumsum(p[order])
    keep = np.zeros(keys.size, bool)
    keep[order[: np.searchsorted(total, mass) + 1]] = True
    return keep

"""What a sampler should do, computed the slow and obvious way, and how to tell whether it does."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from hypothesis import strategies as st

from engine.types import SamplingParams


@st.composite
def rows(draw: st.DrawFn) -> np.ndarray:
    """Scores [V] without ties: flat, ordinary or peaked, short or longer than the first step of a partial sort."""
    size = draw(st.sampled_from([1, 2, 5, 40, 300, 5000]))
    scale = draw(st.sampled_from([0.01, 1.0, 4.0, 20.0]))
    return np.random.default_rng(draw(st.integers(0, 2**32))).normal(0, scale, size)


def distribution(
    logits: Sequence[float], params: SamplingParams, tokens: Sequence[int] = (), prompt_len: int = 0
) -> dict[int, float]:
    """Token id -> probability, of the tokens that can be drawn. Plain Python, straight from the definitions."""
    scores = {token: float(x) for token, x in enumerate(logits)}
    output = Counter(tokens[prompt_len:])
    for token in set(tokens):
        r = params.repetition_penalty
        scores[token] = scores[token] / r if scores[token] > 0 else scores[token] * r
    for token, count in output.items():
        scores[token] -= params.frequency_penalty * count + params.presence_penalty
    for token, bias in params.logit_bias:
        scores[token] += bias
    if params.temperature == 0:
        return normalised(scores)
    scores = {token: x / params.temperature for token, x in scores.items()}
    if params.top_k:
        kth = sorted(scores.values(), reverse=True)[: params.top_k][-1]
        scores = {token: x for token, x in scores.items() if x >= kth}
    if params.top_p < 1:
        p = normalised(scores)
        scores = reaching(params.top_p, sorted(p, key=lambda token: (-p[token], token)), p, scores)
    if params.typical_p < 1:
        p = normalised(scores)
        entropy = -sum(x * math.log(x) for x in p.values())
        order = sorted(p, key=lambda token: (abs(-math.log(p[token]) - entropy), token))
        scores = reaching(params.typical_p, order, p, scores)
    p = normalised(scores)
    return normalised({token: x for token, x in scores.items() if p[token] >= params.min_p * max(p.values())})


def normalised(scores: Mapping[int, float]) -> dict[int, float]:
    """Softmax over a dictionary."""
    peak = max(scores.values())
    weights = {token: math.exp(x - peak) for token, x in scores.items()}
    return {token: weight / sum(weights.values()) for token, weight in weights.items()}


def reaching(
    mass: float, order: Iterable[int], p: Mapping[int, float], scores: Mapping[int, float]
) -> dict[int, float]:
    kept, total = {}, 0.0
    for token in order:
        kept[token] = scores[token]
        total += p[token]
        if total >= mass:
            break
    return kept


def misfit(draws: Iterable[object], expected: Mapping[object, float]) -> float:
    """Pearson's chi-square as a standard score: about normal(0, 1) if the draws follow `expected`, large if not.

    Cells expected fewer than 5 times are pooled. A draw that cannot happen gives infinity.
    """
    counts = Counter(draws)
    if not counts.keys() <= expected.keys():
        return math.inf
    total = counts.total()
    cells, rest = [], [0.0, 0.0]
    for cell, p in expected.items():
        if total * p >= 5:
            cells.append((counts[cell], total * p))
        else:
            rest = [rest[0] + counts[cell], rest[1] + total * p]
    if rest[1] >= 5:
        cells.append((rest[0], rest[1]))
    freedom = len(cells) - 1
    chi_square = sum((seen - wanted) ** 2 / wanted for seen, wanted in cells)
    return (chi_square - freedom) / math.sqrt(2 * freedom)


FITS = 4.0  # a law that holds exceeds this once in some 10,000 tests; seeds are fixed, so none flickers
MISFITS = 12.0  # a law that is broken must exceed this

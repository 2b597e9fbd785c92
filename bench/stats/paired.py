"""Comparing A with B: interleaved pairs of runs, the ratio of each pair, and a verdict.

Runs of a pair share a seed and follow each other, in the order A B, B A, A B, ..., so that a machine that grows slower
or faster treats both alike. The number of pairs must be chosen before the result is looked at.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from bench.stats.equivalence import equivalent, holm, sign_flip_test, t_test
from bench.stats.intervals import t_interval, t_quantile

MARGIN = 0.02  # a change within it is none
ALPHA = 0.05
FIRST_PAIRS = 5  # the fewest that say anything of the spread
MOST_PAIRS = 1000


class Change(StrEnum):
    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Samples:
    """One metric, a value for each run: `a[i]` and `b[i]` are a pair. Values must be above 0."""

    a: Sequence[float]
    b: Sequence[float]
    higher_is_better: bool = False


@dataclass(frozen=True)
class Judgement:
    """B against A for one metric. `change` is B / A - 1, with its 95 % bounds."""

    change: float
    low: float
    high: float
    pairs: int
    p: float  # before Holm's adjustment
    p_adjusted: float
    test: str  # signs or t: what p comes from
    verdict: Change
    more_pairs: int  # roughly, until there is a verdict; 0 if there is one


def order(pairs: int) -> list[str]:
    """A B B A A B ...: which to run, two for each pair."""
    return [name for pair in range(pairs) for name in ("AB" if pair % 2 == 0 else "BA")]


def judge(metrics: Mapping[str, Samples], margin: float = MARGIN, alpha: float = ALPHA) -> dict[str, Judgement]:
    """A verdict for each metric; p is adjusted for how many there are.

    A mean change that lies surely within the margin is equivalent, whether or not it differs from 0. p is from
    flipping signs where there are pairs enough for it to be small, else from Student's t. Raises ValueError for
    unequal numbers of runs or values that are not above 0.
    """
    logs = {name: _log_ratios(name, samples) for name, samples in metrics.items()}
    tests = {name: _test(values, alpha / len(logs)) for name, values in logs.items()}
    adjusted = dict(zip(tests, holm([p for _, p in tests.values()]), strict=True))
    found = {}
    for name, values in logs.items():
        interval = t_interval(values, 1 - alpha)
        verdict = _verdict(values, adjusted[name], metrics[name].higher_is_better, margin, alpha)
        more = _more_pairs(values, margin, alpha, alpha / len(logs)) if verdict is Change.INCONCLUSIVE else 0
        found[name] = Judgement(
            change=math.expm1(interval.center),
            low=math.expm1(interval.low) if math.isfinite(interval.low) else -1.0,
            high=math.expm1(interval.high),
            pairs=len(values),
            p=tests[name][1],
            p_adjusted=adjusted[name],
            test=tests[name][0],
            verdict=verdict,
            more_pairs=more,
        )
    return found


def _log_ratios(name: str, samples: Samples) -> list[float]:
    if len(samples.a) != len(samples.b) or not samples.a:
        raise ValueError(f"{name}: pairs are needed, got {len(samples.a)} and {len(samples.b)} runs")
    if min(*samples.a, *samples.b) <= 0:
        raise ValueError(f"{name}: a ratio needs values above 0")
    return [math.log(b / a) for a, b in zip(samples.a, samples.b, strict=True)]


def _test(values: Sequence[float], alpha: float) -> tuple[str, float]:
    if 2.0 ** (1 - len(values)) <= alpha:
        return "signs", sign_flip_test(values)
    return "t", t_test(values)


def _verdict(values: Sequence[float], p: float, higher_is_better: bool, margin: float, alpha: float) -> Change:
    if equivalent(values, math.log1p(margin), alpha):
        return Change.EQUIVALENT
    if p > alpha:
        return Change.INCONCLUSIVE
    return Change.BETTER if (sum(values) > 0) == higher_is_better else Change.WORSE


def _more_pairs(values: Sequence[float], margin: float, alpha: float, adjusted_alpha: float) -> int:
    """Pairs until the interval, with this mean and spread, would show a difference or equivalence."""
    if len(values) < 2:
        return FIRST_PAIRS - 1
    array = np.asarray(values, dtype=float)
    mean, spread = abs(float(array.mean())), float(array.std(ddof=1))

    def decides(pairs: int) -> bool:
        error = spread / math.sqrt(pairs)
        different = t_quantile(1 - adjusted_alpha / 2, pairs - 1) * error < mean
        return different or t_quantile(1 - alpha, pairs - 1) * error < math.log1p(margin) - mean

    return runs_until(decides, len(values)) - len(values)


def runs_until(decides: Callable[[int], bool], runs: int) -> int:
    """The fewest runs, more than there are, that decide; at most MOST_PAIRS. More runs never undo a decision."""
    counts = range(runs + 1, MOST_PAIRS)
    return runs + 1 + bisect_left(counts, True, key=decides)

"""Comparing runs of two groups that are no pairs: made on different days, or in different numbers."""

import math
from collections.abc import Mapping

from bench.stats.equivalence import holm
from bench.stats.intervals import Welch, t_quantile, welch_log
from bench.stats.paired import ALPHA, FIRST_PAIRS, MARGIN, Change, Judgement, Samples, runs_until


def judge_groups(metrics: Mapping[str, Samples], margin: float = MARGIN, alpha: float = ALPHA) -> dict[str, Judgement]:
    """As `paired.judge`, for the ratio of the groups' means. `pairs` is how many runs the smaller group has."""
    tests = {name: welch_log(samples.a, samples.b) for name, samples in metrics.items()}
    adjusted = dict(zip(tests, holm([test.p for test in tests.values()]), strict=True))
    found = {}
    for name, test in tests.items():
        samples = metrics[name]
        runs = min(len(samples.a), len(samples.b))
        interval = test.interval(1 - alpha)
        verdict = _verdict(test, adjusted[name], samples.higher_is_better, margin, alpha)
        found[name] = Judgement(
            change=math.expm1(test.difference),
            low=math.expm1(interval.low) if math.isfinite(interval.low) else -1.0,
            high=math.expm1(interval.high),
            pairs=runs,
            p=test.p,
            p_adjusted=adjusted[name],
            test="welch",
            verdict=verdict,
            more_pairs=_more_runs(test, runs, margin, alpha) if verdict is Change.INCONCLUSIVE else 0,
        )
    return found


def _verdict(test: Welch, p: float, higher_is_better: bool, margin: float, alpha: float) -> Change:
    narrow = test.interval(1 - 2 * alpha)
    if max(abs(narrow.low), abs(narrow.high)) < math.log1p(margin):
        return Change.EQUIVALENT
    if p > alpha:
        return Change.INCONCLUSIVE
    return Change.BETTER if (test.difference > 0) == higher_is_better else Change.WORSE


def _more_runs(test: Welch, runs: int, margin: float, alpha: float) -> int:
    """Runs more on each side until the interval, with this spread, would show a difference or equivalence."""
    if not math.isfinite(test.error):
        return FIRST_PAIRS - 1
    spread = test.error * math.sqrt(runs)

    def decides(count: int) -> bool:
        half = t_quantile(1 - alpha / 2, 2 * count - 2) * spread / math.sqrt(count)
        return half < max(abs(test.difference), math.log1p(margin) - abs(test.difference))

    return runs_until(decides, runs) - runs

"""Comparing pairs of runs: the tests by brute force, and the verdicts."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats.equivalence import EXACT, equivalent, holm, sign_flip_test, t_test
from bench.stats.paired import Change, Samples, judge, order
from bench.stats.unpaired import judge_groups


def pairs(*log_ratios: float, higher_is_better: bool = False) -> Samples:
    return Samples([10.0] * len(log_ratios), [10 * math.exp(r) for r in log_ratios], higher_is_better)


def verdict(samples: Samples) -> Change:
    return judge({"x": samples})["x"].verdict


def test_order_treats_a_drift_alike():
    runs = order(4)
    assert runs == ["A", "B", "B", "A", "A", "B", "B", "A"]
    assert sum(i for i, name in enumerate(runs) if name == "A") == sum(i for i, name in enumerate(runs) if name == "B")


@given(st.lists(st.floats(-5, 5).map(lambda x: round(x, 3)), min_size=1, max_size=7))
def test_sign_flips_by_brute_force(values):
    seen = abs(math.fsum(values))
    sums = [
        abs(math.fsum(s * v for s, v in zip(signs, values, strict=True)))
        for signs in product((1, -1), repeat=len(values))
    ]
    assert sign_flip_test(values) == pytest.approx(sum(total >= seen - 1e-9 for total in sums) / len(sums))


def test_many_values_are_sampled_near_the_truth():
    values = np.random.default_rng(3).normal(0.4, 1, EXACT + 6).tolist()
    assert sign_flip_test(values) == pytest.approx(t_test(values), abs=0.02)
    assert sign_flip_test(values) == sign_flip_test(values)


def test_t_test_of_a_worked_example():
    values = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]  # Student's sleep data, first drug
    assert t_test(values) == pytest.approx(0.2176, abs=1e-4)
    assert t_test([1.0]) == 1
    assert t_test([1.0, 1.0]) == 0
    assert t_test([0.0, 0.0]) == 1


def test_holm_of_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_none_and_bonferroni(p_values):
    for p, adjusted in zip(p_values, holm(p_values), strict=True):
        assert p <= adjusted <= min(1, p * len(p_values)) + 1e-12


def test_equivalence_needs_a_surely_small_mean():
    assert equivalent([0.001, -0.001, 0.002, 0.0], 0.02)
    assert not equivalent([0.019, 0.021, 0.02, 0.018], 0.02)
    assert not equivalent([0.5, -0.5, 0.5, -0.5], 0.02)
    assert not equivalent([0.0], 0.02)


def test_verdicts():
    slower = (0.05, 0.06, 0.05, 0.07, 0.06, 0.05)
    assert verdict(pairs(*slower)) is Change.WORSE
    assert verdict(pairs(*slower, higher_is_better=True)) is Change.BETTER
    assert verdict(pairs(*(-r for r in slower))) is Change.BETTER
    assert verdict(pairs(0.001, -0.002, 0.001, 0.0, 0.002)) is Change.EQUIVALENT
    assert verdict(pairs(0.2, -0.3, 0.1)) is Change.INCONCLUSIVE
    assert verdict(pairs(0.2)) is Change.INCONCLUSIVE


def test_a_real_but_negligible_change_is_equivalent():
    found = judge({"x": pairs(*[0.005, 0.006] * 5)})["x"]
    assert found.p_adjusted < 0.05
    assert found.verdict is Change.EQUIVALENT


def test_a_judgement_says_how_it_was_reached():
    found = judge({"x": pairs(0.05, 0.06, 0.05, 0.07, 0.06, 0.05)})["x"]
    assert found.test == "signs"
    assert found.p == 2 / 64
    assert found.low < found.change < found.high
    assert found.change == pytest.approx(math.expm1(0.34 / 6))
    few = judge({"x": pairs(0.05, 0.06, 0.05, 0.07, 0.06)})["x"]
    assert few.test == "t"  # five pairs cannot reach 0.05 by flipping signs
    assert few.verdict is Change.WORSE
    alone = judge({"x": pairs(0.05)})["x"]
    assert (alone.low, alone.high, alone.more_pairs) == (-1.0, math.inf, 4)


def test_asking_more_questions_needs_more_evidence():
    values = (0.06, 0.01, 0.08, 0.02, 0.07, 0.01)
    one = judge({"a": pairs(*values)})["a"]
    assert one.verdict is Change.WORSE
    noise = pairs(0.3, -0.3, 0.2, -0.2, 0.1, -0.1)
    many = judge({"a": pairs(*values), **{str(i): noise for i in range(5)}})
    assert many["a"].p_adjusted > 0.05
    assert many["a"].verdict is Change.INCONCLUSIVE


def test_runs_still_needed_suffice_if_the_spread_stays():
    rng = np.random.default_rng(0)
    values = [0.1, -0.04, 0.05, 0.08, -0.05]
    needs = judge({"x": pairs(*values)})["x"].more_pairs
    assert needs > 0
    more = rng.standard_normal(len(values) + needs)
    same = (more - more.mean()) / more.std(ddof=1) * np.std(values, ddof=1) + np.mean(values)
    assert verdict(pairs(*same)) is not Change.INCONCLUSIVE


def test_what_has_no_ratio_is_refused():
    with pytest.raises(ValueError, match="pairs are needed"):
        judge({"x": Samples([1.0], [1.0, 2.0])})
    with pytest.raises(ValueError, match="above 0"):
        judge({"x": Samples([0.0, 1.0], [1.0, 2.0])})


def test_groups_without_pairs():
    same = judge_groups({"x": Samples([100.0, 100.1, 99.9], [100.05, 99.95, 100.0, 100.0])})["x"]
    assert same.verdict is Change.EQUIVALENT
    worse = judge_groups({"x": Samples([100.0, 101.0, 99.0], [120.0, 121.0, 119.0])})["x"]
    assert worse.verdict is Change.WORSE
    assert worse.test == "welch"
    assert worse.low < 0.2 < worse.high
    alone = judge_groups({"x": Samples([100.0], [120.0])})["x"]
    assert alone.verdict is Change.INCONCLUSIVE
    assert (alone.more_pairs, alone.high) == (4, math.inf)
    noisy = judge_groups({"x": Samples([100.0, 130.0, 80.0], [110.0, 140.0, 70.0])})["x"]
    assert noisy.verdict is Change.INCONCLUSIVE
    assert noisy.more_pairs > 3

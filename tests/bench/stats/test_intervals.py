"""Student's distribution against printed tables, and intervals against what they promise."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats.intervals import (
    effective_size,
    series_interval,
    t_cdf,
    t_interval,
    t_quantile,
    welch_log,
)
from bench.stats.simulate import RHO, latencies


@pytest.mark.parametrize(
    ("df", "p", "t"),
    [  # NIST/SEMATECH e-Handbook, 1.3.6.7.2
        (1, 0.90, 3.078),
        (1, 0.975, 12.706),
        (2, 0.95, 2.920),
        (2, 0.995, 9.925),
        (4, 0.975, 2.776),
        (5, 0.99, 3.365),
        (9, 0.975, 2.262),
        (10, 0.999, 4.144),
        (19, 0.975, 2.093),
        (30, 0.95, 1.697),
        (60, 0.995, 2.660),
        (100, 0.975, 1.984),
    ],
)
def test_quantiles_are_those_of_the_table(df, p, t):
    assert t_quantile(p, df) == pytest.approx(t, abs=6e-4)
    assert t_quantile(1 - p, df) == pytest.approx(-t, abs=6e-4)


@pytest.mark.parametrize("t", [-40.0, -3.0, -0.5, 0.0, 0.1, 1.0, 7.0])
def test_one_and_two_degrees_have_closed_forms(t):
    assert t_cdf(t, 1) == pytest.approx(0.5 + math.atan(t) / math.pi, rel=1e-12)
    assert t_cdf(t, 2) == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)), rel=1e-11)


def test_many_degrees_are_normal():
    assert t_quantile(0.975, 1e7) == pytest.approx(1.959964, abs=1e-5)


@given(st.floats(0.001, 0.999), st.floats(0.7, 500))
def test_quantile_and_distribution_undo_each_other(p, df):
    assert t_cdf(t_quantile(p, df), df) == pytest.approx(p, rel=1e-9)


@pytest.mark.parametrize("call", [lambda: t_cdf(1, 0), lambda: t_quantile(0, 3), lambda: t_quantile(1, 3)])
def test_what_has_no_meaning_is_refused(call):
    with pytest.raises(ValueError, match=r"must be above 0|between 0 and 1"):
        call()


def test_interval_of_a_worked_example():
    interval = t_interval([9.0, 10.0, 11.0, 12.0, 13.0])
    assert interval.center == 11
    assert interval.half == pytest.approx(2.776 * math.sqrt(2.5 / 5), abs=1e-3)
    assert interval.holds(12.9)
    assert not interval.holds(13)


def test_one_run_says_nothing_of_chance():
    interval = t_interval([5.0])
    assert (interval.center, interval.low, interval.high) == (5.0, -math.inf, math.inf)
    with pytest.raises(ValueError, match="at least one"):
        t_interval([])


def test_effective_size_of_independent_and_of_resembling_samples():
    rng = np.random.default_rng(0)
    independent = np.mean([effective_size(rng.standard_normal(400)) for _ in range(100)])
    assert 340 < independent <= 400
    resembling = np.mean([effective_size(series) for series in np.log(latencies(rng, 200, 2000))])
    assert resembling == pytest.approx(2000 * (1 - RHO) / (1 + RHO), rel=0.2)


@pytest.mark.parametrize(("values", "size"), [([], 0), ([1.0], 1), ([2.0] * 50, 50), ([1.0, 2.0, 3.0], 3)])
def test_effective_size_of_what_has_no_pattern(values, size):
    assert effective_size(values) == size


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
def test_effective_size_is_between_one_and_all(values):
    assert 1 <= effective_size(values) <= len(values)


def test_intervals_within_a_run_hold_the_mean_about_as_often_as_they_say():
    series = latencies(np.random.default_rng(5), 400, sigma=0.3)
    truth = math.exp(0.3**2 / 2)
    assert np.mean([series_interval(one).holds(truth) for one in series]) > 0.88
    naive = [t_interval(one).holds(truth) for one in series]
    assert np.mean(naive) < 0.5  # what pooling requests gives


def test_welch_of_a_worked_example():
    old, new = np.exp([3.0, 4.0, 5.0]), np.exp([7.0, 9.0, 11.0, 13.0])
    test = welch_log(old.tolist(), new.tolist())
    assert test.difference == pytest.approx(6)
    assert test.error == pytest.approx(math.sqrt(1 / 3 + 20 / 3 / 4))
    assert test.df == pytest.approx(4.07547, abs=1e-4)
    assert not test.interval(1 - test.p - 1e-9).holds(0)
    assert test.interval(1 - test.p + 1e-9).holds(0)


def test_welch_without_spread():
    assert welch_log([2.0, 2.0], [2.0, 2.0]).p == 1
    assert welch_log([2.0, 2.0], [3.0, 3.0]).p == 0
    alone = welch_log([2.0], [3.0, 3.0])
    assert alone.p == 1
    assert alone.interval(0.95).low == -math.inf

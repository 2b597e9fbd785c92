"""Percentiles, their bounds, and how many samples they need."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats.percentiles import adjusted_percentile, needed, percentile_interval, reliable

VALUES = st.lists(st.floats(0, 1e6), min_size=1, max_size=200)


@pytest.mark.parametrize(("p", "count"), [(50, 6), (90, 30), (95, 60), (99, 300), (99.9, 3000), (1, 300)])
def test_needed_samples(p, count):
    assert needed(p) == count
    assert reliable(p, count)
    assert not reliable(p, count - 0.5)


@pytest.mark.parametrize("p", [0, 100, -1])
def test_no_percentile(p):
    with pytest.raises(ValueError, match="between 0 and 100"):
        needed(p)


@given(VALUES, st.sampled_from([1, 50, 90, 99]))
def test_bounds_hold_the_percentile_and_fewer_samples_widen_them(values, p):
    whole = percentile_interval(values, p)
    assert whole.low <= whole.center <= whole.high
    assert whole.center == pytest.approx(np.percentile(values, p))
    fewer = percentile_interval(values, p, effective=len(values) / 3)
    assert fewer.low <= whole.low
    assert fewer.high >= whole.high


@pytest.mark.parametrize(("p", "z"), [(50, 0.0), (90, 1.2815516), (95, 1.6448536)])
def test_bounds_hold_the_truth_as_often_as_they_say(p, z):
    samples = np.random.default_rng(1).standard_normal((1000, 300))
    held = np.mean([percentile_interval(row, p).holds(z) for row in samples])
    assert 0.93 <= held <= 0.985


def test_the_tail_of_a_small_run_is_unknown():
    assert percentile_interval(np.arange(200.0), 99).high == math.inf
    assert percentile_interval(np.arange(3000.0), 99).high < 3000


@given(VALUES, st.integers(0, 50), st.floats(0, 100))
def test_failures_count_as_infinite(values, failures, p):
    adjusted = adjusted_percentile(values, failures, p)
    padded = np.sort(np.array(values + [math.inf] * failures))
    place = (padded.size - 1) * p / 100
    if math.ceil(place) >= len(values):
        assert adjusted == math.inf
    else:
        assert adjusted == pytest.approx(np.interp(place, range(len(values)), np.sort(values)))


def test_only_failures():
    assert adjusted_percentile([], 3, 50) == math.inf
    with pytest.raises(ValueError, match="at least one"):
        adjusted_percentile([], 0, 50)
    with pytest.raises(ValueError, match="at least one"):
        percentile_interval([], 50)

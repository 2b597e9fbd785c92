"""Arrival times have the rate and the character that were asked for, exactly where there is no chance in them."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.load.arrivals import BILLION, Load
from bench.types import UsageError


def times(seed: int = 0, **load) -> list[int]:
    found = Load(**load).times(random.Random(seed))
    assert found is not None
    return found


def test_a_closed_loop_has_no_times():
    assert Load(concurrency=4, requests=1).times(random.Random(0)) is None


def test_a_constant_rate_does_not_drift():
    found = times(rate=1000 / 3, arrival="constant", duration_s=30)
    assert len(found) == 10_000
    assert all(due == round(number * 3 * BILLION / 1000) for number, due in enumerate(found))


@given(
    st.sampled_from(["constant", "poisson", "gamma:0.25", "gamma:4"]),
    st.floats(0.1, 1e4),
    st.none() | st.tuples(st.floats(0, 1e3), st.floats(0.1, 10)),
    st.floats(0.1, 5),
    st.integers(1, 200),
)
def test_times_are_in_order_and_within_their_bounds(arrival, rate, ramp, duration, requests):
    found = times(rate=rate, arrival=arrival, ramp=ramp, duration_s=duration, requests=requests)
    assert found == sorted(found)
    assert all(0 <= due < duration * BILLION for due in found)
    assert len(found) <= requests
    assert found == times(rate=rate, arrival=arrival, ramp=ramp, duration_s=duration, requests=requests)


@pytest.mark.parametrize(("arrival", "burstiness"), [("poisson", 1.0), ("gamma:0.25", 0.25), ("gamma:5", 5.0)])
def test_the_gaps_have_the_mean_and_the_spread_of_their_law(arrival, burstiness):
    found = times(seed=7, rate=50, arrival=arrival, requests=40_000)
    gaps = [(b - a) / BILLION for a, b in zip([0, *found], found, strict=False)]
    mean = sum(gaps) / len(gaps)
    spread = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert mean == pytest.approx(1 / 50, rel=0.05)
    assert spread / mean == pytest.approx(1 / math.sqrt(burstiness), rel=0.05)


@given(
    st.sampled_from(["poisson", "gamma:0.25"]),
    st.floats(1, 500),
    st.floats(1, 20),
    st.none() | st.tuples(st.floats(0, 100), st.floats(0.1, 30)),
    st.integers(0, 99),
)
def test_how_many_requests_come_is_no_matter_of_chance(arrival, rate, duration, ramp, seed):
    load = Load(rate=rate, arrival=arrival, duration_s=duration, ramp=ramp)
    found = load.times(random.Random(seed))
    ramped = min(duration, ramp[1]) if ramp else 0.0
    rise = (rate - ramp[0]) / ramp[1] if ramp else 0.0
    expected = rate * (duration - ramped) + (ramp[0] * ramped + rise * ramped**2 / 2 if ramp else 0)
    assert len(found) == max(1, round(expected))


@pytest.mark.parametrize("start", [0.0, 20.0, 180.0])
def test_a_ramp_changes_the_rate_evenly(start):
    """The number of arrivals until any time is the integral of the rate."""
    found = times(rate=100, arrival="constant", ramp=(start, 10), duration_s=20)
    for second in (1, 5, 10, 15, 20):
        ramped = min(second, 10)
        expected = start * ramped + (100 - start) / 10 * ramped**2 / 2 + 100 * (second - ramped)
        assert abs(sum(due < second * BILLION for due in found) - expected) <= 1


def test_a_trace_is_replayed_and_scaled():
    trace = [0.5, 0.0, 2.0]
    assert times(trace=trace) == [0, BILLION // 2, 2 * BILLION]
    assert times(trace=trace, trace_scale=0.5) == [0, BILLION // 4, BILLION]
    assert times(trace=trace, requests=2) == [0, BILLION // 2]
    assert times(trace=trace, duration_s=2) == [0, BILLION // 2]


def test_an_infinite_rate_is_everything_at_once():
    assert times(rate=math.inf, requests=3) == [0, 0, 0]


@pytest.mark.parametrize(
    ("load", "message"),
    [
        ({}, "exactly one of"),
        ({"concurrency": 1, "rate": 1.0, "requests": 1}, "exactly one of"),
        ({"concurrency": 0, "requests": 1}, "concurrency is 0"),
        ({"rate": 0.0, "requests": 1}, "rate is 0"),
        ({"rate": math.nan, "requests": 1}, "rate is nan"),
        ({"rate": 1.0}, "needs an end"),
        ({"rate": math.inf, "duration_s": 1.0}, "infinite rate"),
        ({"rate": 1.0, "duration_s": -1.0}, "duration is -1"),
        ({"rate": 1.0, "requests": 1, "arrival": "uniform"}, "'uniform'"),
        ({"rate": 1.0, "requests": 1, "arrival": "gamma:x"}, "'gamma:x'"),
        ({"rate": 1.0, "requests": 1, "arrival": "gamma:0"}, "'gamma:0'"),
        ({"rate": 1.0, "requests": 1, "ramp": (1.0, 0.0)}, "a ramp goes"),
        ({"concurrency": 1, "requests": 1, "ramp": (1.0, 1.0)}, "a ramp needs"),
        ({"concurrency": 1, "requests": 1, "max_concurrency": 1}, "max_concurrency is for"),
        ({"trace": []}, "the trace is empty"),
        ({"trace": [-1.0]}, "the times of a trace"),
        ({"trace": [1.0], "trace_scale": 0.0}, "trace_scale is 0"),
    ],
)
def test_a_load_that_makes_no_sense_is_refused(load, message):
    with pytest.raises(UsageError, match=message):
        Load(**load)

"""The metrics of a request against their definitions, worked by hand, and the language of objectives."""

import math
from fractions import Fraction

import pytest
from bench_records import record
from hypothesis import given
from hypothesis import strategies as st

from bench.metrics import DEFINITIONS, KEYS, Slo, request_metrics
from bench.types import Outcome, UsageError


def test_one_token_an_event():
    metrics = request_metrics(record(scheduled=10, sent=40, events=[(140, 1), (160, 1), (200, 1)], ended=230))
    assert metrics.ttft == pytest.approx(0.100)
    assert metrics.ttft_sched == pytest.approx(0.130)
    assert metrics.ttfo == pytest.approx(0.100)
    assert metrics.tpot == pytest.approx(0.030)
    assert metrics.itl == pytest.approx([0.020, 0.040])
    assert metrics.icl == pytest.approx([0.020, 0.040])
    assert metrics.e2e == pytest.approx(0.160)
    assert metrics.e2e_sched == pytest.approx(0.190)
    assert metrics.ntpot == pytest.approx(0.160 / 3)
    assert metrics.max_stall == pytest.approx(0.040)
    assert metrics.queue is None
    assert not metrics.smeared


def test_several_tokens_an_event():
    metrics = request_metrics(record(events=[(100, 3), (130, 2), (170, 4)]))
    assert metrics.tpot == pytest.approx(0.070 / 6)  # the first event's tokens took no time of decoding
    assert metrics.itl == pytest.approx([0.015] * 2 + [0.010] * 4)
    assert metrics.icl == pytest.approx([0.030, 0.040])
    assert metrics.ntpot == pytest.approx(0.170 / 9)
    assert metrics.smeared


def test_many_tokens_in_the_first_event_alone_smear_nothing():
    assert not request_metrics(record(events=[(100, 5), (110, 1)])).smeared


@pytest.mark.parametrize("events", [[(100, 1)], [(100, 4)]])
def test_a_single_event_has_no_pace(events):
    metrics = request_metrics(record(events=events))
    assert metrics.ttft == pytest.approx(0.1)
    assert (metrics.tpot, metrics.max_stall, metrics.itl, metrics.icl) == (None, None, [], [])


def test_nothing_came():
    metrics = request_metrics(record(events=[], outcome=Outcome.HTTP_ERROR, server={"queue": 0.25}))
    assert (metrics.ttft, metrics.e2e, metrics.ntpot, metrics.queue) == (None, None, None, 0.25)


def test_tokens_that_cannot_be_counted_are_not_made_up():
    metrics = request_metrics(record(events=[(100, 0), (150, 0)]))
    assert metrics.ttft == pytest.approx(0.1)
    assert metrics.icl == pytest.approx([0.05])
    assert (metrics.tpot, metrics.ntpot, metrics.itl) == (None, None, [])


def test_reasoning_comes_before_the_answer():
    kinds = ["reasoning", "reasoning", "content"]
    metrics = request_metrics(record(events=[(100, 1), (120, 1), (150, 1)], kinds=kinds))
    assert metrics.ttft == pytest.approx(0.1)
    assert metrics.ttfo == pytest.approx(0.15)
    assert request_metrics(record(events=[(100, 1)], kinds=["reasoning"])).ttfo is None


@given(
    st.lists(
        st.tuples(st.integers(0, 500), st.sampled_from([0.2, 0.5, 0.7, 1.0, 1.3, 2.0, 3.0])), min_size=1, max_size=30
    )
)
def test_token_gaps_keep_number_and_sum(steps):
    """Whatever the counts, whole or estimated: as many gaps as tokens after the first event, adding up to its time."""
    at, events = 100, []
    for step, tokens in steps:
        at += step
        events.append((float(at), tokens))
    gaps = request_metrics(record(events=events)).itl
    exact = [Fraction(tokens) for _, tokens in events]
    assert len(gaps) == round(float(sum(exact))) - round(float(exact[0]))
    assert sum(gaps) <= (events[-1][0] - events[0][0]) / 1000 + 1e-9
    if all(tokens == int(tokens) for _, tokens in events):
        assert sum(gaps) == pytest.approx((events[-1][0] - events[0][0]) / 1000)


def test_definitions_speak_of_every_metric():
    for word in ("TTFT", "TTFT_sched", "TTFO", "TPOT", "ITL", "ICL", "E2E", "NTPOT", "max_stall", "Queue", "Goodput"):
        assert word in DEFINITIONS
    assert all(len(line) <= 120 for line in DEFINITIONS.splitlines())


def test_objectives_of_a_run():
    slo = Slo.parse("ttft_p99<500ms, tpot_p95<=50ms e2e_mean<2s,icl_median<800us")
    assert [limit.key for limit in slo.limits] == ["p99_ttft_ms", "p95_tpot_ms", "mean_e2el_ms", "median_icl_ms"]
    assert [limit.seconds for limit in slo.limits] == pytest.approx([0.5, 0.05, 2, 0.0008])
    summary = {"p99_ttft_ms": 250.0, "p95_tpot_ms": 50.0, "mean_e2el_ms": 1000.0, "median_icl_ms": 0.1}
    assert list(slo.ratios(summary).values()) == pytest.approx([0.5, 1.0, 0.5, 0.125])
    assert slo.met(summary)
    assert not slo.met(summary | {"p95_tpot_ms": 51.0})
    assert slo.ratios({})["ttft_p99<500ms"] == math.inf
    assert Slo.parse(str(slo)) == slo


def test_objectives_of_a_request():
    slo = Slo.parse("ttft:100,tpot:30,icl:50")
    assert str(slo) == "ttft:100,tpot:30,icl:50"
    assert slo.ratios({}) == {}
    assert slo.good(request_metrics(record(events=[(100, 1), (120, 1), (160, 1)])))
    assert not slo.good(request_metrics(record(events=[(101, 1), (120, 1)])))
    assert not slo.good(request_metrics(record(events=[(100, 1), (131, 1)])))
    assert not slo.good(request_metrics(record(events=[(90, 1), (100, 1), (151, 1), (152, 5)])))
    assert slo.good(request_metrics(record(events=[(100, 1)])))  # no pace, so none too slow


def test_every_metric_can_be_limited():
    for name, key in KEYS.items():
        assert Slo.parse(f"{name}_p90<1s").limits[0].key == f"p90_{key}_ms"
    assert Slo.parse("e2el:5") == Slo.parse("e2e:5")
    assert Slo.parse("ttft_p99.9<1s").limits[0].key == "p99.9_ttft_ms"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no objective given"),
        ("ttft", "not an objective"),
        ("ttft_p99>500ms", "not an objective"),
        ("speed_p99<5ms", "no metric 'speed'"),
        ("ttft<500ms", "names a statistic"),
        ("ttft_p99:500", "names a statistic"),
        ("ttft_p100<5ms", "between 0 and 100"),
        ("ttft:0", "above 0"),
        ("ttft_p99<5min", "not an objective"),
    ],
)
def test_mistakes_in_objectives_are_explained(text, why):
    with pytest.raises(UsageError, match=why):
        Slo.parse(text)

"""The series behind the plots: bounded however long the run, and true to it."""

import random

import msgspec
import numpy as np
import pytest
from bench_runs import SECOND, START, made_run
from hypothesis import given
from hypothesis import strategies as st

from bench.load.arrivals import Load
from bench.report import data
from bench.report.data import cdf, failures, flow, heat_map, lanes, open_at, run_view, slices
from bench.report.loads import load_curves, points
from bench.types import Health, Outcome, OutputEvent, Phase, Record, Sample

EDGES = np.linspace(0.0, 10.0, 21)


def record(sent: float, events: list[float], ended: float, outcome: Outcome = Outcome.OK, index: int = 0) -> Record:
    def at(seconds: float) -> int:
        return START + round(seconds * SECOND)

    return Record(
        index=index,
        phase=Phase.MEASURED,
        outcome=outcome,
        scheduled_ns=at(sent),
        sent_ns=at(sent),
        ended_ns=at(ended),
        events=[OutputEvent(at(seconds), 1) for seconds in events],
        output_tokens=len(events),
        error=None if outcome is Outcome.OK else "because",
    )


seconds = st.floats(0, 1e4, allow_nan=False)


@given(st.lists(seconds, min_size=1, max_size=2000))
def test_a_distribution_rises_to_all_of_its_values(values):
    found = cdf(values)
    assert found["n"] == len(values)
    assert len(found["x"]) == len(found["y"]) <= data.QUANTILES + 1
    assert found["x"] == sorted(found["x"])
    assert found["y"] == sorted(found["y"])
    assert found["y"][-1] == 100
    assert found["x"][-1] == pytest.approx(max(max(values) * 1000, data.BARE), rel=1e-4)
    for x, y in zip(found["x"], found["y"], strict=True):  # at least y % are at or below x
        assert sum(value * 1000 <= x * (1 + 1e-4) for value in values) >= y / 100 * len(values) * (1 - 1e-4) - 1e-6


def test_a_distribution_keeps_its_tail():
    values = np.random.default_rng(1).lognormal(size=100_000)
    found = cdf(values)
    at = next(i for i, y in enumerate(found["y"]) if y >= 99.9)
    assert found["x"][at] == pytest.approx(1000 * np.quantile(values, 0.999), rel=0.05)


def test_nothing_has_an_empty_distribution():
    assert cdf([]) == {"x": [], "y": [], "n": 0}


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=20), st.lists(st.integers(0, 25)))
def test_open_spans_are_counted(spans, moments):
    spans = [(min(span), max(span)) for span in spans]
    starts, ends = (np.array([span[i] for span in spans], dtype=float) for i in (0, 1))
    counted = open_at(starts, ends, np.array(moments, dtype=float)).tolist()
    assert counted == [sum(start <= moment < end for start, end in spans) for moment in moments]


def test_the_flow_holds_every_token_once():
    records = [record(0.1, [1.0, 2.0, 2.1], 2.2), record(1.0, [4.0], 4.1), record(3.0, [], 5.0, Outcome.TIMEOUT)]
    found = flow(records, START, EDGES)
    width = EDGES[1] - EDGES[0]
    assert sum(found["tokens"]) * width == pytest.approx(4)
    assert sum(found["requests"]) * width == pytest.approx(2)
    moment = found["t"].index(1.75)
    assert (found["waiting"][moment], found["decoding"][moment]) == (1, 1)


def test_what_never_was_sent_is_not_in_flight():
    never = Record(index=0, phase=Phase.MEASURED, outcome=Outcome.NEVER_SENT, scheduled_ns=START, sent_ns=0, ended_ns=0)
    found = flow([never], START, EDGES)
    assert set(found["waiting"]) == set(found["decoding"]) == {0}
    assert lanes([never], START)["rows"] == []
    assert failures([never], START)["never_sent"]["t"] == [0]


def test_every_failure_has_a_lane():
    many = [record(i / 1000, [i / 1000 + 0.1], i / 1000 + 0.2, index=i) for i in range(3000)]
    for i in (7, 1234, 2999):
        many[i].outcome = Outcome.CUT
    found = lanes(many, START)
    assert found["of"] == 3000
    assert len(found["rows"]) <= data.LANES + 3
    assert [row[6] for row in found["rows"]].count("cut") == 3


def test_failures_are_counted_by_kind_the_most_frequent_first():
    many = [record(i, [], i + 1, Outcome.CONNECT if i < 700 else Outcome.CUT) for i in range(703)]
    found = failures(many, START)
    assert list(found) == ["connect", "cut"]
    assert found["connect"]["count"] == 700
    assert len(found["connect"]["t"]) == data.DOTS
    assert found["cut"] == {"count": 3, "example": "because", "t": [701, 702, 703]}


def test_the_heat_map_holds_every_gap():
    many = [record(i, [i + 0.1 * (k + 1) for k in range(5)], i + 1) for i in range(9)]
    found = heat_map([(one, data.request_metrics(one)) for one in many], START, 10.0)
    assert sum(map(sum, found["counts"])) == 9 * 4
    assert len(found["edges"]) == len(found["counts"][0]) + 1


def test_slices_hold_the_latency_of_their_time():
    found = slices([record(1, [1.5], 2), record(6, [6.2], 7)], START, EDGES)
    assert sorted(found["y"]) == [200, 500]


def test_the_server_may_be_silent():
    samples = [Sample(at_ns=START + i * SECOND, running=i) for i in range(1000)]
    found = data.server_series(samples, START)
    assert len(found["t"]) == len(found["running"]) == data.BINS
    assert (found["t"][0], found["t"][-1]) == (0, 999)
    assert found["waiting"] is None
    assert found["kv_used"] is None


def test_the_worst_worker_speaks_for_the_client():
    health = [Health(at_ns=START + 5, worker=i, lag_p99_ns=i * 1_000_000, cpu=0.1 * i) for i in range(3)]
    found = data.client_series(health, START)
    assert (found["t"], found["lag"]) == ([0.0], [2.0])
    assert found["cpu"] == pytest.approx([20])


def test_a_view_is_small_however_long_the_run(tmp_path):
    short, long = (made_run(tmp_path / str(n), Load(concurrency=16, requests=n)) for n in (300, 1500))
    sizes = [len(msgspec.json.encode(run_view(run))) for run in (short, long)]
    assert sizes[1] < 2 * sizes[0]
    assert sizes[1] < 150_000


@pytest.mark.parametrize("events", [[], [1.0], [1.0, 1.0]])
def test_the_smallest_run_has_a_view(tmp_path, events):
    run = made_run(tmp_path, Load(concurrency=1, requests=1))
    run.records = [record(0.5, events, 2.0)]
    run.samples = run.health = []
    msgspec.json.encode(run_view(run))


def test_a_run_without_a_request_has_a_view(tmp_path):
    run = made_run(tmp_path, Load(concurrency=1, requests=1))
    run.records = run.samples = run.health = []
    assert run_view(run)["lanes"] == {"rows": [], "of": 0, "every": 1}


def test_runs_of_one_load_are_one_point(tmp_path):
    rng = random.Random(2)
    loads = [8, 2, 8, 2, 2]
    runs = [made_run(tmp_path, Load(concurrency=c, requests=20), seed=rng.randrange(99)) for c in loads]
    small, large = points(runs)
    assert (small.label, small.load, len(small.runs)) == ("2 concurrent", 2, 3)
    spread = large.figure("output_throughput")
    assert spread.low <= spread.mean <= spread.high
    assert spread.mean == pytest.approx(sum(run.summary["output_throughput"] for run in large.runs) / 2)
    curves = load_curves({"": [small, large]}, "ttft_p99<500ms")
    assert curves["unit"] == "requests at a time"
    assert curves["limits"] == {"ttft": [{"value": 500, "label": "ttft_p99<500ms"}], "tpot": []}
    assert load_curves({"": [small]}, None) is None


def test_loads_that_are_close_are_not_one(tmp_path):
    runs = [made_run(tmp_path, Load(rate=rate, requests=10)) for rate in (12.31, 12.32)]
    assert [point.load for point in points(runs)] == [12.31, 12.32]


def test_another_tools_run_has_its_load_from_the_summary(tmp_path):
    run = made_run(tmp_path, Load(concurrency=4, requests=10))
    run.manifest.load = {}
    assert points([run])[0].label == "4 concurrent"

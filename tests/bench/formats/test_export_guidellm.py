"""The guidellm export against guidellm's definitions on the same event log.

What is below follows the text of guidellm's schemas (request_stats.py, statistics.py) step by step in plain Python:
distributions as (value, probability) pairs, times merged pass by pass, rates and levels weighed by their lengths.
"""

import itertools
import math

import msgspec
import numpy as np
import pytest
from bench_records import record, run, window
from hypothesis import given
from hypothesis import strategies as st

from bench.formats import export
from bench.formats.guidellm import moments
from bench.summary import summarize
from bench.types import Outcome, Phase, Record

POINTS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
NAMES = ("p001", "p01", "p05", "p10", "p25", "p50", "p75", "p90", "p95", "p99", "p999")


def describe(weighted: list[tuple[float, float]], count: int | None = None) -> dict[str, float]:
    if count is None:
        count = round(sum(weight for _, weight in weighted))
    together: dict[float, float] = {}
    for value, weight in weighted:
        together[value] = together.get(value, 0.0) + weight
    pairs = sorted((value, weight) for value, weight in together.items() if weight > 0)
    if not pairs:
        return {"mean": 0.0, "std_dev": 0.0, "min": 0.0, "max": 0.0, "count": count, **dict.fromkeys(NAMES, 0.0)}
    total = sum(weight for _, weight in pairs)
    pdf = [(value, weight / total) for value, weight in pairs]
    mean = sum(value * share for value, share in pdf)
    found = {
        "mean": mean,
        "std_dev": math.sqrt(sum((value - mean) ** 2 * share for value, share in pdf)),
        "min": pdf[0][0],
        "max": pdf[-1][0],
        "count": count,
    }
    for name, point in zip(NAMES, POINTS, strict=True):
        cumulated = 0.0
        for value, share in pdf:
            cumulated += share
            if cumulated >= point:  # with the rounding of the sum, as guidellm has it
                found[name] = value
                break
    return found


def merge(times: list[tuple[float, float]], threshold: float = 1e-4) -> list[tuple[float, float]]:
    """Passes over the sorted times: what follows the first of a close group within the threshold joins it."""
    together: dict[float, float] = {}
    for at, weight in times:
        together[at] = together.get(at, 0.0) + weight
    current = sorted(together.items())
    while any(b - a <= threshold for (a, _), (b, _) in itertools.pairwise(current)):
        merged: list[tuple[float, float]] = []
        i = 0
        while i < len(current):
            at, weight = current[i]
            i += 1
            while i < len(current) and current[i][0] <= at + threshold:
                weight += current[i][1]
                i += 1
            merged.append((at, weight))
        current = merged
    return current


def rates(times: list[tuple[float, float]], span: tuple[float, float] | None = None) -> dict[str, float]:
    if span:
        times = [(t, w) for t, w in times if span[0] <= t <= span[1]] + [(span[0], 0.0), (span[1], 0.0)]
    times = merge(times)
    if len(times) <= 1:
        return describe([], len(times))
    weighted = []
    for i, (at, amount) in enumerate(times):
        left = (times[i - 1][0] + at) / 2 if i else at
        right = (at + times[i + 1][0]) / 2 if i + 1 < len(times) else at
        lasting = right - left if i + 1 < len(times) else max(right - left, 1e-6)
        weighted.append((amount / lasting, lasting))
    return describe(weighted, round(sum(amount for _, amount in times)))


def levels(spans: list[tuple[float, float]], start: float, end: float) -> dict[str, float]:
    if not spans:
        return describe([])
    changes = merge([(a, 1.0) for a, _ in spans] + [(b, -1.0) for _, b in spans])
    level, before, weighted = 0.0, start, []
    for at, change in [*(c for c in changes if c[0] <= end), (end, 0.0)]:
        weighted.append((max(level, 0.0), max(0.0, at - before)))
        level, before = level + change, at
    return describe(weighted, len(spans))


class Stats:
    """GenerativeRequestStats of a record."""

    def __init__(self, one: Record) -> None:
        self.start, self.end = (one.sent_ns or one.scheduled_ns) / 1e9, one.ended_ns / 1e9
        self.latency = self.end - self.start if one.sent_ns else 0.0
        self.arrivals = [event.at_ns / 1e9 for event in one.events]
        self.prompt, self.output = one.input_tokens or 0, int(one.output_tokens) or len(one.events)

    @property
    def ttft_ms(self) -> float:
        return 1000 * (self.arrivals[0] - self.start) if self.arrivals else 0.0

    @property
    def tpot_ms(self) -> float:
        last = self.arrivals[-1] if self.arrivals else self.end
        return 1000 * (last - self.start) / self.output if self.output else 0.0

    @property
    def itl_ms(self) -> float:
        return 1000 * (self.arrivals[-1] - self.arrivals[0]) / (self.output - 1) if self.output > 1 else 0.0

    @property
    def prompt_timing(self) -> tuple[float, float]:
        return (self.arrivals[0] if self.arrivals else self.end, self.prompt)

    @property
    def iterations(self) -> list[tuple[float, float]]:
        n = len(self.arrivals)
        if n <= 1 or self.output <= 1:
            return []
        first, last = self.arrivals[0], self.arrivals[-1]
        return [(first + (last - first) * i / (n - 1), (self.output - 1) / (n - 1)) for i in range(1, n)]

    @property
    def output_timings(self) -> list[tuple[float, float]]:
        if len(self.arrivals) <= 1:
            return [(self.arrivals[-1] if self.arrivals else self.end, self.output)]
        return [(self.arrivals[0], 1.0 * bool(self.output)), *self.iterations]


def metrics(found: list[Stats], span: tuple[float, float]) -> dict[str, dict[str, float]]:
    def one(values: list[float]) -> dict[str, float]:
        return describe([(value, 1.0) for value in values])

    return {
        "requests_per_second": rates([(s.end, 1.0) for s in found], span),
        "request_concurrency": levels([(s.start, s.end) for s in found], *span),
        "request_latency": one([s.latency for s in found]),
        "request_streaming_iterations_count": one([float(len(s.arrivals)) for s in found]),
        "prompt_token_count": one([s.prompt for s in found]),
        "output_token_count": one([s.output for s in found]),
        "total_token_count": one([s.prompt + s.output for s in found]),
        "time_to_first_token_ms": one([s.ttft_ms for s in found]),
        "time_to_first_output_token_ms": one([s.ttft_ms for s in found]),
        "time_per_output_token_ms": describe([(s.tpot_ms, s.output) for s in found]),
        "inter_token_latency_ms": describe([(s.itl_ms, (s.output or 1) - 1) for s in found]),
        "prompt_tokens_per_second": rates([s.prompt_timing for s in found]),
        "output_tokens_per_second": rates([t for s in found for t in s.output_timings]),
        "tokens_per_second": rates([t for s in found for t in [s.prompt_timing, *s.output_timings]]),
        "output_tokens_per_iteration": one([tokens for s in found for _, tokens in s.output_timings]),
        "iter_tokens_per_iteration": one([tokens for s in found for _, tokens in s.iterations]),
    }


STATUS = {Outcome.OK: "successful", Outcome.CANCELLED: "incomplete"}


def exported(records: list[Record]) -> dict:
    summary = summarize(records, window_ns=window(records), about={"model_id": "m"})
    return msgspec.json.decode(export("guidellm", records, summary)["benchmarks.json"])


def flat(distribution: dict) -> dict[str, float]:
    kept = {name: distribution[name] for name in ("mean", "std_dev", "min", "max", "count")}
    assert distribution["median"] == distribution["percentiles"]["p50"]
    return kept | distribution["percentiles"]


@pytest.mark.parametrize("most_tokens", [1, 6])
@pytest.mark.parametrize("seed", range(3))
def test_every_value_is_the_one_guidellm_would_report(seed, most_tokens):
    records = run(seed, requests=60, most_tokens=most_tokens)
    benchmark = exported(records)["benchmarks"][0]
    measured = [r for r in records if r.phase is Phase.MEASURED]
    span = min(r.sent_ns for r in measured) / 1e9, max(r.ended_ns for r in measured) / 1e9
    groups: dict[str, list[Stats]] = {"successful": [], "incomplete": [], "errored": []}
    for one in measured:
        groups[STATUS.get(one.outcome, "errored")].append(Stats(one))
    groups["total"] = groups["successful"] + groups["incomplete"] + groups["errored"]
    assert benchmark["metrics"]["request_totals"] == {name: len(found) for name, found in groups.items()}
    for status, found in groups.items():
        for name, expected in metrics(found, span).items():
            got = flat(benchmark["metrics"][name][status])
            assert got == pytest.approx(expected, rel=1e-5, abs=1e-9), (name, status)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30))
def test_close_moments_are_merged_as_pass_by_pass(steps):
    times, at = [], 0.0
    for step in steps:
        at += step * 1.1e-5
        times.append((at, 1.0))
    assert moments(np.array(times)).tolist() == pytest.approx(np.array(merge(times)))


def test_requests_have_their_own_figures():
    records = [record(7, sent=50, scheduled=20, events=[(150, 1), (170, 2), (210, 1)], ended=215, text="abc")]
    one = exported(records)["benchmarks"][0]["requests"]["successful"][0]
    assert one["time_to_first_token_ms"] == pytest.approx(100)
    assert one["inter_token_latency_ms"] == pytest.approx(20)
    assert one["time_per_output_token_ms"] == pytest.approx(40)
    assert one["request_latency"] == pytest.approx(0.165)
    assert (one["prompt_tokens"], one["output_tokens"], one["total_tokens"], one["output"]) == (10, 4, 14, "abc")
    assert one["info"]["status"] == "completed"


def test_nothing_measured_is_all_zero():
    records = [record(0, outcome=Outcome.NEVER_SENT, sent_ns=0, events=[], output_tokens=0)]
    found = exported(records)["benchmarks"][0]["metrics"]
    assert found["request_totals"]["total"] == 0
    assert found["request_latency"]["total"]["percentiles"]["p99"] == 0

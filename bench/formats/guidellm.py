"""guidellm's report (`benchmarks.json`), by its own definitions.

Its "inter token latency" is (last - first) / (N - 1) of a request and its "time per output token" is (last - send) / N;
both are weighted by tokens. Requests without a value count as 0. Percentiles are the smallest value whose cumulated
weight reaches p. Rates weigh each moment's rate by half the way to its neighbours; concurrency weighs each level by
how long it lasted. Times closer than 0.1 ms are one moment. Tokens between the first and the last chunk are taken as
evenly spaced.
"""

import math
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.formats import Imported
from bench.types import Outcome, Phase, Record

PERCENTILES = {
    "p001": 0.001,
    "p01": 0.01,
    "p05": 0.05,
    "p10": 0.1,
    "p25": 0.25,
    "p50": 0.5,
    "p75": 0.75,
    "p90": 0.9,
    "p95": 0.95,
    "p99": 0.99,
    "p999": 0.999,
}
MOMENT = 1e-4  # seconds
STATUSES = ("successful", "incomplete", "errored")
OTHER_MEDIA = {
    "text": ("tokens", "words", "characters"),
    "image": ("tokens", "images", "pixels", "bytes"),
    "video": ("tokens", "frames", "seconds", "bytes"),
    "audio": ("tokens", "samples", "seconds", "bytes"),
    "tool_call": ("tokens", "mixed_tokens", "count"),
}

Weighted = NDArray[np.float64]  # [n, 2]: values or times, and their weights
Values = Callable[[Record], Iterable[tuple[float, float]]]


def export(records: Sequence[Record], summary: Mapping[str, Any]) -> dict[str, bytes]:
    """`benchmarks.json` with one benchmark."""
    sent = [r for r in records if r.phase is Phase.MEASURED and r.outcome is not Outcome.NEVER_SENT]
    groups = {status: [record for record in sent if _status(record) == status] for status in STATUSES}
    start = min((_start(record) for record in sent), default=0.0)
    end = max((record.ended_ns / 1e9 for record in sent), default=0.0)
    totals = _counts(groups)
    report = {
        "metadata": {
            "version": 1,
            "guidellm_version": "exported by tgi bench",
            "python_version": platform.python_version(),
            "platform": platform.platform(),
        },
        "args": {"target": summary.get("url"), "model": summary.get("model_id"), "backend": "openai_http"},
        "benchmarks": [
            {
                "type_": "generative_benchmark",
                "config": {name: summary.get(name) for name in ("request_rate", "max_concurrency", "num_prompts")},
                "scheduler_metrics": {
                    "start_time": start,
                    "request_start_time": start,
                    "measure_start_time": start,
                    "measure_end_time": end,
                    "request_end_time": end,
                    "end_time": end,
                    "requests_made": totals,
                },
                "metrics": {"request_totals": totals, **_metrics(groups, start, end)},
                "requests": {
                    **{status: [_request(record) for record in found] for status, found in groups.items()},
                    "total": None,
                },
                "start_time": start,
                "end_time": end,
                "duration": end - start,
                "warmup_duration": 0.0,
                "cooldown_duration": 0.0,
            }
        ],
    }
    return {"benchmarks.json": msgspec.json.encode(report)}


def _status(record: Record) -> str:
    if record.outcome is Outcome.OK:
        return "successful"
    return "incomplete" if record.outcome is Outcome.CANCELLED else "errored"


def _counts(groups: Mapping[str, Sequence[Record]]) -> dict[str, int]:
    counts = {status: len(found) for status, found in groups.items()}
    return {**counts, "total": sum(counts.values())}


def _metrics(groups: Mapping[str, Sequence[Record]], start: float, end: float) -> dict[str, Any]:
    def values(each: Values) -> dict[str, Any]:
        return _by_status(groups, each, distribution)

    def rates(each: Values, within: tuple[float, float] | None = None) -> dict[str, Any]:
        return _by_status(groups, each, lambda times: rate_distribution(times, within))

    def one(value: Callable[[Record], float | None]) -> Values:
        return lambda record: [(value(record) or 0.0, 1.0)]

    return {
        "requests_per_second": rates(lambda r: [(r.ended_ns / 1e9, 1.0)], (start, end)),
        "request_concurrency": _by_status(
            groups, lambda r: [(_start(r), r.ended_ns / 1e9)], lambda spans: concurrency_distribution(spans, start, end)
        ),
        "request_latency": values(one(_latency)),
        "request_streaming_iterations_count": values(one(lambda r: float(len(r.events)))),
        "prompt_token_count": values(one(lambda r: r.input_tokens)),
        "output_token_count": values(one(_output_tokens)),
        "total_token_count": values(one(lambda r: (r.input_tokens or 0) + _output_tokens(r))),
        "time_to_first_token_ms": values(one(lambda r: _after_send(r, 0))),
        "time_to_first_output_token_ms": values(one(_first_answer)),
        "time_per_output_token_ms": values(lambda r: [(_time_per_output_token(r), float(_output_tokens(r)))]),
        "inter_token_latency_ms": values(lambda r: [(_inter_token_latency(r), (_output_tokens(r) or 1.0) - 1.0)]),
        "prompt_tokens_per_second": rates(lambda r: [_prompt_timing(r)]),
        "output_tokens_per_second": rates(_output_timings),
        "tokens_per_second": rates(lambda r: [_prompt_timing(r), *_output_timings(r)]),
        "output_tokens_per_iteration": values(lambda r: [(tokens, 1.0) for _, tokens in _output_timings(r)]),
        "iter_tokens_per_iteration": values(lambda r: [(tokens, 1.0) for _, tokens in _later_timings(r)]),
        **{medium: dict.fromkeys(names) for medium, names in OTHER_MEDIA.items()},
    }


def _by_status(
    groups: Mapping[str, Sequence[Record]], each: Values, summarize: Callable[[Weighted], dict[str, Any]]
) -> dict[str, Any]:
    arrays = {
        status: np.array([pair for record in found for pair in each(record)], dtype=float).reshape(-1, 2)
        for status, found in groups.items()
    }
    summaries = {status: summarize(array) for status, array in arrays.items()}
    return {**summaries, "total": summarize(np.concatenate(list(arrays.values())))}


def distribution(weighted: Weighted, count: int | None = None) -> dict[str, Any]:
    """A DistributionSummary of values with weights; `count` defaults to the sum of the weights."""
    if not len(weighted):
        return _described(np.zeros(1), np.ones(1), count or 0)
    if count is None:
        count = round(float(weighted[:, 1].sum()))
    values, place = np.unique(weighted[:, 0], return_inverse=True)
    weights = np.bincount(place, weights=weighted[:, 1])
    values, weights = values[weights > 0], weights[weights > 0]
    if not weights.size:
        return distribution(np.empty((0, 2)), count)
    return _described(values, weights / weights.sum(), count)


def _described(values: NDArray[np.float64], shares: NDArray[np.float64], count: int) -> dict[str, Any]:
    cumulated = np.cumsum(shares)
    places = np.minimum(np.searchsorted(cumulated, list(PERCENTILES.values()), side="left"), values.size - 1)
    percentiles = dict(zip(PERCENTILES, values[places].tolist(), strict=True))
    mean = float(values @ shares)
    variance = float((values - mean) ** 2 @ shares)
    return {
        "mean": mean,
        "median": percentiles["p50"],
        "mode": float(values[np.argmax(shares)]),
        "variance": variance,
        "std_dev": math.sqrt(variance),
        "min": float(values[0]),
        "max": float(values[-1]),
        "count": count,
        "total_sum": mean * count,
        "percentiles": percentiles,
        "pdf": None,
    }


def rate_distribution(times: Weighted, within: tuple[float, float] | None) -> dict[str, Any]:
    """Of the rate at each moment at which something happened, weighted by how long that moment lasts."""
    if within is not None:
        kept = times[(times[:, 0] >= within[0]) & (times[:, 0] <= within[1])]
        times = np.concatenate([kept, [[within[0], 0.0], [within[1], 0.0]]])
    times = moments(times)
    if len(times) <= 1:
        return distribution(np.empty((0, 2)), len(times))
    at, amounts = times.T
    middles = (at[1:] + at[:-1]) / 2
    lasting = np.diff(np.concatenate([at[:1], middles, at[-1:]]))
    lasting[-1] = max(lasting[-1], 1e-6)
    return distribution(np.column_stack([amounts / lasting, lasting]), round(float(amounts.sum())))


def concurrency_distribution(spans: Weighted, start: float, end: float) -> dict[str, Any]:
    """Of how many spans [start, end) were open, weighted by how long they were."""
    steps = np.repeat([1.0, -1.0], len(spans))
    changes = moments(np.column_stack([spans.T.reshape(-1), steps]))
    if len(changes):
        before = changes[:, 0] < start
        opening = [[start, float(changes[before, 1].sum())]]
        inside = changes[~before & (changes[:, 0] <= end)]
        changes = np.concatenate([opening, inside, [[end, 0.0]]])
    levels = np.cumsum(changes[:, 1]).clip(0)
    if len(levels) <= 1:
        return distribution(np.empty((0, 2)))
    lasting = np.diff(changes[:, 0]).clip(0)
    pairs = np.column_stack([levels[:-1], lasting])
    return distribution(pairs if lasting.any() else np.empty((0, 2)), len(spans))


def moments(times: Weighted) -> Weighted:
    """The same in order of time, with what lies within MOMENT of a moment's first time added to it."""
    merged: list[list[float]] = []
    for at, weight in times[np.argsort(times[:, 0], kind="stable")].tolist():
        if merged and at <= merged[-1][0] + MOMENT:
            merged[-1][1] += weight
        else:
            merged.append([at, weight])
    return np.array(merged, dtype=float).reshape(-1, 2)


def _start(record: Record) -> float:
    return (record.sent_ns or record.scheduled_ns) / 1e9


def _latency(record: Record) -> float:
    return (record.ended_ns - record.sent_ns) / 1e9 if record.sent_ns else 0.0


def _output_tokens(record: Record) -> int:
    """The server's count; where there is none, guidellm takes each chunk for a token."""
    return round(record.output_tokens) or len(record.events)


def _after_send(record: Record, event: int) -> float | None:
    """Milliseconds from the send to an event."""
    return (record.events[event].at_ns - record.sent_ns) / 1e6 if record.events else None


def _first_answer(record: Record) -> float | None:
    at = next((event.at_ns for event in record.events if event.kind != "reasoning"), None)
    return None if at is None else (at - record.sent_ns) / 1e6


def _time_per_output_token(record: Record) -> float:
    tokens = _output_tokens(record)
    if not tokens or not record.sent_ns:
        return 0.0
    last = record.events[-1].at_ns if record.events else record.ended_ns
    return (last - record.sent_ns) / 1e6 / tokens


def _inter_token_latency(record: Record) -> float:
    tokens = _output_tokens(record)
    if not record.events or tokens <= 1:
        return 0.0
    return (record.events[-1].at_ns - record.events[0].at_ns) / 1e6 / (tokens - 1)


def _prompt_timing(record: Record) -> tuple[float, float]:
    at = record.events[0].at_ns if record.events else record.ended_ns
    return at / 1e9, float(record.input_tokens or 0)


def _output_timings(record: Record) -> list[tuple[float, float]]:
    """The first chunk as one token, and the rest of the tokens evenly over evenly spaced chunks."""
    tokens = _output_tokens(record)
    if len(record.events) <= 1:
        return [((record.events[-1].at_ns if record.events else record.ended_ns) / 1e9, float(tokens))]
    return [(record.events[0].at_ns / 1e9, float(bool(tokens))), *_later_timings(record)]


def _later_timings(record: Record) -> list[tuple[float, float]]:
    tokens, chunks = _output_tokens(record), len(record.events)
    if chunks <= 1 or tokens <= 1:
        return []
    times = np.linspace(record.events[0].at_ns / 1e9, record.events[-1].at_ns / 1e9, chunks)[1:]
    return [(float(at), (tokens - 1) / (chunks - 1)) for at in times]


def _request(record: Record) -> dict[str, Any]:
    """A GenerativeRequestStats."""
    first, last = (record.events[0].at_ns / 1e9, record.events[-1].at_ns / 1e9) if record.events else (None, None)
    tokens = _output_tokens(record)
    sent = record.sent_ns / 1e9 if record.sent_ns else None
    latency = _latency(record)
    status = {"successful": "completed", "incomplete": "cancelled", "errored": "errored"}[_status(record)]
    timings = {
        "targeted_start": record.scheduled_ns / 1e9,
        "resolve_start": _start(record),
        "request_start": sent,
        "first_token_iteration": first,
        "last_token_iteration": last,
        "request_iterations": len(record.events),
        "token_iterations": len(record.events),
        "request_end": record.ended_ns / 1e9,
        "resolve_end": record.ended_ns / 1e9,
    }
    return {
        "type_": "generative_request_stats",
        "request_id": str(record.index),
        "output": record.text,
        "info": {"request_id": str(record.index), "status": status, "timings": timings, "error": record.error},
        "input_metrics": {"text_tokens": record.input_tokens, "cached_tokens": record.cached_tokens},
        "output_metrics": {"text_tokens": tokens},
        "request_start_time": _start(record),
        "request_end_time": record.ended_ns / 1e9,
        "request_latency": latency if record.sent_ns else None,
        "prompt_tokens": record.input_tokens,
        "output_tokens": tokens,
        "total_tokens": (record.input_tokens or 0) + tokens,
        "time_to_first_token_ms": _after_send(record, 0),
        "time_per_output_token_ms": _time_per_output_token(record) or None,
        "inter_token_latency_ms": _inter_token_latency(record) or None,
        "tokens_per_second": ((record.input_tokens or 0) + tokens) / latency if latency else None,
        "output_tokens_per_second": tokens / latency if latency else None,
    }


def recognizes(document: Mapping[str, Any]) -> bool:
    benchmarks = document.get("benchmarks")
    return isinstance(benchmarks, list) and all(isinstance(one, dict) and "metrics" in one for one in benchmarks)


def read(document: Mapping[str, Any], path: Path) -> list[Imported]:
    """Every benchmark of a report."""
    return [_read_one(one, f"{path.stem} {number}") for number, one in enumerate(document["benchmarks"], 1)]


def _read_one(benchmark: Mapping[str, Any], title: str) -> Imported:
    metrics = benchmark["metrics"]
    totals = metrics.get("request_totals") or {}

    def statistic(name: str, *place: str) -> Any:
        found = metrics.get(name)
        for key in place:
            found = (found or {}).get(key)
        return found

    summary: dict[str, Any] = {
        "completed": totals.get("successful"),
        "failed": totals.get("errored"),
        "cancelled": totals.get("incomplete"),
        "num_prompts": totals.get("total"),
        "duration": benchmark.get("duration"),
        "request_throughput": statistic("requests_per_second", "successful", "mean"),
        "output_throughput": statistic("output_tokens_per_second", "successful", "mean"),
        "total_token_throughput": statistic("tokens_per_second", "successful", "mean"),
        "max_concurrent_requests": statistic("request_concurrency", "total", "max"),
        "total_input_tokens": statistic("prompt_token_count", "successful", "total_sum"),
        "total_output_tokens": statistic("output_token_count", "successful", "total_sum"),
    }
    names = (
        ("ttft", "time_to_first_token_ms", 1),
        ("tpot", "inter_token_latency_ms", 1),
        ("ntpot", "time_per_output_token_ms", 1),
        ("e2el", "request_latency", 1000),
    )
    for ours, theirs, scale in names:
        keys: dict[str, tuple[str, ...]] = {"mean": ("mean",), "median": ("median",), "std": ("std_dev",)}
        keys |= {p: ("percentiles", p) for p in ("p50", "p90", "p95", "p99")}
        for key, place in keys.items():
            value = statistic(theirs, "successful", *place)
            summary[f"{key}_{ours}_ms"] = None if value is None else value * scale
    notes = (
        "tpot is guidellm's inter token latency, ntpot its time per output token; both weigh requests by tokens",
        "e2el runs to the end of the response",
    )
    return Imported("guidellm", title, summary, notes=notes)

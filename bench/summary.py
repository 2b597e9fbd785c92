"""From the records of a run to summary.json: flat, every key always there, null where there is nothing to measure.

The names at the top level are those of `vllm bench serve`, in the meaning of bench.metrics. What rests on too few
effective samples keeps its number and gets `<key>_reliable: false` and, where it can be said, `<key>_needs`: how many
requests it would take. These two endings come and go, and so does a percentile that only an objective names.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.client.health import verdict
from bench.load.arrivals import Load
from bench.metrics import DEFINITIONS_VERSION, KEYS, RequestMetrics, Slo, request_metrics
from bench.stats.intervals import Interval, effective_size, series_interval
from bench.stats.percentiles import adjusted_percentile, needed, percentile_interval
from bench.types import Health, Outcome, Phase, Record, Sample, TokenSource
from bench.window import in_flight, per_second, rates_within, run_span, steady_window, token_arrivals

PERCENTILES = (50, 90, 95, 99)
ADJUSTED = ("ttft", "ttft_sched", "e2e", "e2e_sched")
FEWEST = 6  # effective samples for a mean
STEADY_PARTS = 20
USEFUL = frozenset({Outcome.OK, Outcome.CANCELLED})
NOT_FAILED = frozenset({Outcome.OK, Outcome.CANCELLED, Outcome.NEVER_SENT})


def summarize(
    records: Sequence[Record],
    *,
    window_ns: tuple[int, int],
    health: Sequence[Health] = (),
    samples: Sequence[Sample] = (),
    slo: Slo | None = None,
    goodput: Slo | None = None,
    load: Load | None = None,
    clock_offset_moved_ns: int = 0,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything summary.json says. `goodput` (else `slo`) is what a request must meet; `about` names the run
    (date, backend, model_id, ...) and comes first."""
    measured = [record for record in records if record.phase is Phase.MEASURED]
    done = sorted((r for r in measured if r.outcome is Outcome.OK), key=lambda record: record.sent_ns)
    metrics = [request_metrics(record) for record in done]
    span = run_span(measured, window_ns)
    duration = (span[1] - span[0]) / 1e9
    summary: dict[str, Any] = {
        **(about or {}),
        **_load(load),
        "definitions_version": DEFINITIONS_VERSION,
        "num_prompts": len(measured),
        "duration": duration,
        **_counts(measured),
        **_throughput(measured, done, span, load),
        **_goodput(metrics, goodput or slo, duration, len(measured)),
    }
    for name in KEYS:
        summary |= _latency(name, done, metrics, _percentiles(name, slo))
    for name in ADJUSTED:
        summary |= _adjusted(name, metrics, len(measured) - len(done))
    summary |= _tokens(measured, metrics)
    summary["server_timings_ms"] = _server_timings(done)
    summary["server"] = _server(samples, span)
    summary["reconciliation"] = _reconciliation(records, samples, span)
    trust, reasons = verdict(health, records, clock_offset_moved_ns=clock_offset_moved_ns)
    summary["verdict"], summary["reasons"] = trust.value, reasons
    summary["slo"] = None if slo is None else str(slo)
    summary["slo_met"] = None if slo is None else slo.met(summary)
    summary["slo_ratios"] = None if slo is None else {name: _finite(r) for name, r in slo.ratios(summary).items()}
    return summary


def _load(load: Load | None) -> dict[str, Any]:
    """The load in vLLM's words, where "inf" is all at once."""
    if load is None:
        return {"request_rate": None, "burstiness": None, "max_concurrency": None}
    shapes = {"poisson": 1.0, "constant": "inf"}
    burstiness = shapes.get(load.arrival) or float(load.arrival.partition(":")[2])
    open_loop = load.rate is not None and math.isfinite(load.rate)
    return {
        "request_rate": load.rate if open_loop else "inf",
        "burstiness": burstiness if open_loop else 1.0,
        "max_concurrency": load.concurrency if load.closed else load.max_concurrency,
    }


def _counts(measured: Sequence[Record]) -> dict[str, Any]:
    outcomes = Counter(record.outcome for record in measured)
    done = [record for record in measured if record.outcome is Outcome.OK]
    wanted = [r for r in done if r.wanted_tokens is not None and r.token_source is not TokenSource.EVENTS]
    cached = [r.cached_tokens for r in done if r.cached_tokens is not None]
    return {
        "completed": len(done),
        "failed": sum(count for outcome, count in outcomes.items() if outcome not in NOT_FAILED),
        "cancelled": outcomes[Outcome.CANCELLED],
        "never_sent": outcomes[Outcome.NEVER_SENT],
        "outcomes": {outcome.value: outcomes[outcome] for outcome in Outcome},
        "total_input_tokens": sum(record.input_tokens or 0 for record in done),
        "total_output_tokens": _whole(sum(record.output_tokens for record in done)),
        "total_cached_tokens": sum(cached) if cached else None,
        "length_mismatches": sum(round(r.output_tokens) != r.wanted_tokens for r in wanted) if wanted else None,
        "input_tokens_estimated": any(record.input_source == "estimated" for record in done),
    }


def _throughput(
    measured: Sequence[Record], done: Sequence[Record], span: tuple[int, int], load: Load | None
) -> dict[str, Any]:
    duration = (span[1] - span[0]) / 1e9
    given = sum(record.input_tokens or 0 for record in done)
    made = sum(record.output_tokens for record in done)
    at, tokens = token_arrivals(done, USEFUL)
    peak = int(in_flight(measured)[1].max(initial=0))
    return {
        "request_throughput": _rate(len(done), duration),
        "output_throughput": _rate(made, duration),
        "total_token_throughput": _rate(given + made, duration),
        "max_output_tokens_per_s": float(per_second(at, tokens, span[0]).max(initial=0.0)),
        "max_concurrent_requests": peak,
        **_steady(measured, span, load, _rate(made, duration), _rate(len(done), duration)),
    }


def _steady(
    measured: Sequence[Record], span: tuple[int, int], load: Load | None, output: float, requests: float
) -> dict[str, Any]:
    """Throughput in the steady window; where there is none, that of the whole run, marked unreliable."""
    window = steady_window(measured, span, load)
    if window is None:
        return {
            "steady_window_s": None,
            "steady_output_throughput": output,
            "steady_output_throughput_reliable": False,
            "steady_output_throughput_interval": [None, None],
            "steady_request_throughput": requests,
            "steady_request_throughput_reliable": False,
        }
    at, tokens = token_arrivals(measured, USEFUL)
    rates = rates_within(at, tokens, window, STEADY_PARTS)
    ended = np.sort(np.array([r.ended_ns for r in measured if r.outcome is Outcome.OK], dtype=np.int64))
    return {
        "steady_window_s": [(window[0] - span[0]) / 1e9, (window[1] - span[0]) / 1e9],
        "steady_output_throughput": float(rates.mean()),
        "steady_output_throughput_interval": _bounds(series_interval(rates), 1),
        "steady_request_throughput": float(rates_within(ended, np.ones(ended.size), window, 1)[0]),
    }


def _goodput(metrics: Sequence[RequestMetrics], slo: Slo | None, duration: float, planned: int) -> dict[str, Any]:
    if slo is None:
        return {"goodput": None, "request_goodput": None, "goodput_share": None}
    good = sum(slo.good(one) for one in metrics)
    share = good / planned if planned else None
    return {"goodput": str(slo), "request_goodput": _rate(good, duration), "goodput_share": share}


def _percentiles(name: str, slo: Slo | None) -> list[float]:
    """Those every summary has, and what the objectives ask for."""
    limits = [limit.statistic for limit in (slo.limits if slo else ()) if limit.metric == name and limit.statistic]
    return sorted({*PERCENTILES, *(float(asked[1:]) for asked in limits if asked.startswith("p"))})


def _latency(
    name: str, done: Sequence[Record], metrics: Sequence[RequestMetrics], percentiles: Sequence[float]
) -> dict[str, Any]:
    """Statistics of one metric in milliseconds, with intervals and whether there are samples enough."""
    key = KEYS[name]
    values, effective = _values(name, done, metrics)
    bounded = ("mean", *(f"p{p:g}" for p in percentiles))
    statistics = (*bounded, "median", "std")
    found: dict[str, Any] = {f"{statistic}_{key}_ms": None for statistic in statistics}
    found |= {f"{statistic}_{key}_ms_interval": [None, None] for statistic in bounded}
    found[f"{key}_effective_samples"] = effective
    if not values.size:
        return found
    found[f"mean_{key}_ms"] = float(values.mean()) * 1e3
    found[f"median_{key}_ms"] = float(np.median(values)) * 1e3
    found[f"std_{key}_ms"] = float(values.std()) * 1e3
    found[f"mean_{key}_ms_interval"] = _bounds(series_interval(values, effective=effective), 1e3)
    for p in percentiles:
        interval = percentile_interval(values, p, effective)
        found[f"p{p:g}_{key}_ms"] = interval.center * 1e3
        found[f"p{p:g}_{key}_ms_interval"] = _bounds(interval, 1e3)
    for statistic in statistics:
        enough = needed(float(statistic[1:])) if statistic.startswith("p") else FEWEST
        if effective < enough:
            found[f"{statistic}_{key}_ms_reliable"] = False
            found[f"{statistic}_{key}_ms_needs"] = math.ceil(len(done) * enough / effective)
    return found


def _values(name: str, done: Sequence[Record], metrics: Sequence[RequestMetrics]) -> tuple[NDArray[np.float64], float]:
    """Every value of a metric in seconds, in order of time, and how many are effective.

    Tokens that came in one event are one sample: the effective number of ITLs is that of the gaps between events.
    """
    if name not in ("itl", "icl"):
        values = np.array([value for one in metrics if (value := getattr(one, name)) is not None], dtype=float)
        return values, effective_size(values)
    gaps = np.array([gap for one in metrics for gap in one.icl], dtype=float)
    at = np.array([event.at_ns for record in done for event in record.events[1:]], dtype=np.int64)
    effective = effective_size(gaps[np.argsort(at, kind="stable")])
    return (gaps if name == "icl" else np.array([gap for one in metrics for gap in one.itl], dtype=float)), effective


def _adjusted(name: str, metrics: Sequence[RequestMetrics], failures: int) -> dict[str, Any]:
    values = [value for one in metrics if (value := getattr(one, name)) is not None]
    keys = {p: f"adjusted_p{p}_{KEYS[name]}_ms" for p in PERCENTILES}
    if not values and not failures:
        return dict.fromkeys(keys.values())
    return {key: _finite(adjusted_percentile(values, failures, p) * 1e3) for p, key in keys.items()}


def _tokens(measured: Sequence[Record], metrics: Sequence[RequestMetrics]) -> dict[str, Any]:
    """How tokens were counted, and how much of the event log is blurred."""
    done = [record for record in measured if record.outcome is Outcome.OK]
    cancelled = [record for record in measured if record.outcome is Outcome.CANCELLED and record.events]
    sources = Counter(record.token_source for record in (*done, *cancelled))
    events = sum(len(record.events) for record in done)
    coalesced = sum(record.coalesced for record in done)
    return {
        "token_source": sources.most_common(1)[0][0].value if sources else None,
        "token_sources": {source.value: count for source, count in sources.items()},
        "token_source_estimated": any(source.estimated for source in sources),
        "itl_smeared": any(one.smeared for one in metrics),
        "output_events": events,
        "coalesced_share": coalesced / events if events else None,
        "user_lag_max_ms": max((record.user_lag_ns for record in done), default=0) / 1e6,
    }


def _server_timings(done: Sequence[Record]) -> dict[str, dict[str, float]]:
    """Mean, p50 and p99 of what the server says of each request, by its name for it."""
    names = sorted({name for record in done for name in record.server})
    values = {name: [r.server[name] * 1e3 for r in done if name in r.server] for name in names}
    return {
        name: {
            "mean": float(np.mean(found)),
            "p50": float(np.percentile(found, 50)),
            "p99": float(np.percentile(found, 99)),
        }
        for name, found in values.items()
    }


def _server(samples: Sequence[Sample], span: tuple[int, int]) -> dict[str, float | None]:
    """The server's own view of the measured phase: means and maxima of its gauges, rises of its counters."""
    inside = [sample for sample in samples if span[0] <= sample.at_ns <= span[1]]
    found: dict[str, float | None] = {}
    for name in ("running", "waiting", "kv_used", "cpu", "memory_bytes", "gpu_watts", "gpu_use"):
        values = [value for sample in inside if (value := getattr(sample, name)) is not None]
        found[f"mean_{name}"] = float(np.mean(values)) if values else None
        found[f"max_{name}"] = max(values, default=None)
    hits, queries = _rise(inside, "prefix_hits"), _rise(inside, "prefix_queries")
    found["preemptions"] = _rise(inside, "preemptions")
    found["prefix_hit_share"] = hits / queries if hits is not None and queries else None
    return found


def _reconciliation(
    records: Sequence[Record], samples: Sequence[Sample], span: tuple[int, int]
) -> dict[str, float | None] | None:
    """What the server counted beside what we did, between the last sample before the measured phase and the first
    after it. None without samples on both sides."""
    before = [sample for sample in samples if sample.at_ns <= span[0]]
    after = [sample for sample in samples if sample.at_ns >= span[1]]
    if not before or not after:
        return None
    ends = (before[-1], after[0])
    inside = [event for r in records for event in r.events if ends[0].at_ns < event.at_ns <= ends[1].at_ns]
    finished = [r for r in records if r.outcome is Outcome.OK and ends[0].at_ns < r.ended_ns <= ends[1].at_ns]
    ours = sum(event.tokens for event in inside)
    theirs = _rise(ends, "generated_tokens")
    return {
        "server_output_tokens": theirs,
        "client_output_tokens": _whole(ours),
        "output_tokens_difference": None if theirs is None else theirs - ours,
        "server_requests": _rise(ends, "requests"),
        "client_requests": len(finished),
    }


def _rise(samples: Sequence[Sample], name: str) -> float | None:
    values = [value for sample in samples if (value := getattr(sample, name)) is not None]
    return float(values[-1] - values[0]) if len(values) > 1 else None


def _bounds(interval: Interval, scale: float) -> list[float | None]:
    return [_finite(interval.low * scale), _finite(interval.high * scale)]


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


def _rate(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else 0.0


def _whole(value: float) -> float:
    """A count is an integer unless it was estimated in fractions."""
    return int(value) if value == int(value) else value

"""`vllm bench serve --save-result --save-detailed`: the file that dashboards of the field read.

Computed as calculate_metrics in vllm/benchmarks/serve.py does: an ITL is a gap between chunks whatever they hold,
TPOT divides by N - 1, percentiles interpolate linearly, and peaks are counts of chunks and of requests by the second.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.formats import Imported
from bench.metrics import RequestMetrics, Slo, request_metrics
from bench.summary import PERCENTILES
from bench.types import Outcome, OutputEvent, Phase, Record, TokenSource

METRICS = ("ttft", "tpot", "itl", "e2el")
IDENTITY = ("date", "endpoint_type", "backend", "label", "model_id", "tokenizer_id")
LOAD = ("num_prompts", "request_rate", "burstiness", "max_concurrency")
TOTALS = (
    "duration",
    "completed",
    "failed",
    "total_input_tokens",
    "total_output_tokens",
    "request_throughput",
    "request_goodput",
    "output_throughput",
    "total_token_throughput",
    "max_output_tokens_per_s",
    "max_concurrent_requests",
)


def export(records: Sequence[Record], summary: Mapping[str, Any]) -> dict[str, bytes]:
    """`vllm.json`, with the values of every request."""
    measured = [r for r in records if r.phase is Phase.MEASURED and r.outcome is not Outcome.NEVER_SENT]
    done = [record for record in measured if record.outcome is Outcome.OK]
    metrics = {record.index: request_metrics(record) for record in done}
    lengths = {record.index: _length(record) for record in done}
    duration = summary["duration"]
    given = sum(record.input_tokens or 0 for record in done)
    made = sum(lengths.values())
    values = {
        "ttft": [metrics[r.index].ttft or 0.0 for r in done],
        "tpot": [tpot for r in done if (tpot := _tpot(metrics[r.index], lengths[r.index])) is not None],
        "itl": [gap for r in done for gap in metrics[r.index].icl],
        "e2el": [metrics[r.index].e2e or 0.0 for r in done],
    }
    peak_tokens, peak_requests = _peaks(done)
    document: dict[str, Any] = {
        **{name: summary.get(name) for name in IDENTITY},
        **{name: summary.get(name) for name in LOAD},
        "duration": duration,
        "completed": len(done),
        "failed": len(measured) - len(done),
        "total_input_tokens": given,
        "total_output_tokens": made,
        "request_throughput": _rate(len(done), duration),
        "request_goodput": _goodput(summary.get("goodput"), done, metrics, lengths, duration),
        "output_throughput": _rate(made, duration),
        "total_token_throughput": _rate(given + made, duration),
        **_details(measured, metrics, lengths),
        "max_output_tokens_per_s": peak_tokens,
        "max_concurrent_requests": peak_requests,
        "rtfx": 0.0,
    }
    for name in METRICS:
        document |= _statistics(name, values[name])
    return {"vllm.json": msgspec.json.encode(document)}


def _length(record: Record) -> int:
    """vLLM takes the server's count; where there is none at all it assumes one token."""
    return round(record.output_tokens) or 1


def _tpot(metrics: RequestMetrics, length: int) -> float | None:
    if length <= 1 or metrics.e2e is None or metrics.ttft is None:
        return None
    return (metrics.e2e - metrics.ttft) / (length - 1)


def _goodput(
    text: str | None,
    done: Sequence[Record],
    metrics: Mapping[int, RequestMetrics],
    lengths: Mapping[int, int],
    duration: float,
) -> float | None:
    """Requests a second that meet the objectives, with vLLM's TPOT in place of ours."""
    if text is None:
        return None
    slo = Slo.parse(text)
    theirs = (replace(metrics[r.index], tpot=_tpot(metrics[r.index], lengths[r.index])) for r in done)
    return _rate(sum(slo.good(one) for one in theirs), duration)


def _details(
    measured: Sequence[Record], metrics: Mapping[int, RequestMetrics], lengths: Mapping[int, int]
) -> dict[str, Any]:
    """A value for each request, 0 for failed ones, in seconds."""
    found = [metrics.get(record.index) for record in measured]
    return {
        "input_lens": [record.input_tokens or 0 for record in measured],
        "output_lens": [lengths.get(record.index, 0) for record in measured],
        "ttfts": [one.ttft if one else 0.0 for one in found],
        "itls": [one.icl if one else [] for one in found],
        "latencies": [one.e2e if one else 0.0 for one in found],
        "start_times": [record.sent_ns / 1e9 for record in measured],
        "queue_times": [max(0, record.sent_ns - record.scheduled_ns) / 1e9 for record in measured],
        "generated_texts": [record.text for record in measured],
        "errors": ["" if record.outcome is Outcome.OK else record.error or record.outcome.value for record in measured],
    }


def _statistics(name: str, values: Sequence[float]) -> dict[str, float]:
    array = np.array(values or [0.0]) * 1000
    return {
        f"mean_{name}_ms": float(array.mean()),
        f"median_{name}_ms": float(np.median(array)),
        f"std_{name}_ms": float(array.std()),
        **{f"p{p}_{name}_ms": float(np.percentile(array, p)) for p in PERCENTILES},
    }


def _peaks(done: Sequence[Record]) -> tuple[float, int]:
    """The most chunks that arrived in one second after the first send, and the most requests that touched one."""
    if not done:
        return 0.0, 0
    origin = min(record.sent_ns for record in done)
    arrived = np.array([event.at_ns for record in done for event in record.events], dtype=np.int64)
    chunks = np.bincount((arrived - origin) // 1_000_000_000)
    seconds = np.zeros(chunks.size + 1, dtype=np.int64)
    for record in done:
        seconds[(record.sent_ns - origin) // 1_000_000_000] += 1
        seconds[(record.events[-1].at_ns - origin) // 1_000_000_000 + 1] -= 1
    return float(chunks.max()), int(np.cumsum(seconds).max())


def _rate(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else 0.0


def recognizes(document: Mapping[str, Any]) -> bool:
    return "request_throughput" in document and "total_input_tokens" in document


def read(document: Mapping[str, Any], path: Path) -> list[Imported]:
    """One result; its requests too if it was saved with details and start times."""
    wanted = [*IDENTITY, *LOAD, *TOTALS]
    for name in METRICS:
        wanted += [f"{statistic}_{name}_ms" for statistic in ("mean", "median", "std", *(f"p{p}" for p in PERCENTILES))]
    summary = {name: document.get(name) for name in wanted}
    for name in METRICS:
        if summary[f"p50_{name}_ms"] is None:
            summary[f"p50_{name}_ms"] = summary[f"median_{name}_ms"]
    title = str(document.get("label") or document.get("model_id") or path.stem)
    notes = ("itl is the gap between chunks; tpot divides by all tokens but one",)
    return [Imported("vllm", title, summary, _records(document), notes)]


def _records(document: Mapping[str, Any]) -> list[Record]:
    names = ("start_times", "ttfts", "itls", "input_lens", "output_lens")
    if any(not document.get(name) for name in names):
        return []
    columns = [document[name] for name in names]
    errors = document.get("errors") or [""] * len(columns[0])
    waits = document.get("queue_times") or [0.0] * len(columns[0])
    rows = zip(*columns, errors, waits, strict=True)
    return [_record(index, *row) for index, row in enumerate(rows)]


def _record(
    index: int, start: float, ttft: float, gaps: list[float], given: int, made: int, error: str, wait: float
) -> Record:
    ok = not error and ttft > 0
    arrivals = np.cumsum([start + ttft, *gaps]) * 1e9 if ok else np.array([])
    exact = made == len(arrivals)
    tokens = 1.0 if exact else made / max(1, len(arrivals))
    sent = round(start * 1e9)
    events = [OutputEvent(round(float(at)), tokens) for at in arrivals]
    return Record(
        index=index,
        phase=Phase.MEASURED,
        outcome=Outcome.OK if ok else Outcome.HTTP_ERROR,
        error=error or None,
        scheduled_ns=sent - round(wait * 1e9),
        sent_ns=sent,
        ended_ns=events[-1].at_ns if events else sent,
        events=events,
        input_tokens=given,
        input_source="server",
        output_tokens=made if ok else 0,
        token_source=TokenSource.USAGE_DELTA if exact else TokenSource.USAGE_SPREAD,
    )

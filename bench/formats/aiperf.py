"""aiperf's `profile_export_aiperf.json` (statistics) and `profile_export.jsonl` (a line for each request).

Its inter token latency is (latency - TTFT) / (N - 1) of a request, which is TPOT; its inter chunk latency is ICL.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.formats import Imported
from bench.metrics import RequestMetrics, request_metrics
from bench.types import Outcome, OutputEvent, Phase, Record, TokenSource

STATISTICS, REQUESTS = "profile_export_aiperf.json", "profile_export.jsonl"
PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
OURS = {
    "time_to_first_token": "ttft",
    "inter_token_latency": "tpot",
    "inter_chunk_latency": "icl",
    "request_latency": "e2el",
}


def export(records: Sequence[Record], summary: Mapping[str, Any]) -> dict[str, bytes]:
    """Both files."""
    sent = [r for r in records if r.phase is Phase.MEASURED and r.outcome is not Outcome.NEVER_SENT]
    pairs = [(record, request_metrics(record)) for record in sent]
    lines = [_line(number, record, metrics) for number, (record, metrics) in enumerate(pairs)]
    return {
        STATISTICS: msgspec.json.encode(_statistics(pairs, summary)),
        REQUESTS: msgspec.json.Encoder().encode_lines(lines),
    }


def _values(record: Record, metrics: RequestMetrics) -> dict[str, tuple[float | list[float] | None, str]]:
    """Each metric of a complete request with its unit; None where it has none."""
    length = round(record.output_tokens)
    latency, first = metrics.e2e, metrics.ttft
    gap = (latency - first) / (length - 1) if latency is not None and first is not None and length > 1 else None
    return {
        "request_latency": (_ms(latency), "ms"),
        "time_to_first_token": (_ms(first), "ms"),
        "inter_token_latency": (_ms(gap), "ms"),
        "inter_chunk_latency": ([value * 1e3 for value in metrics.icl] or None, "ms"),
        "output_token_throughput_per_user": (1 / gap if gap else None, "tokens/sec/user"),
        "input_sequence_length": (record.input_tokens, "tokens"),
        "output_sequence_length": (length, "tokens"),
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def _line(number: int, record: Record, metrics: RequestMetrics) -> dict[str, Any]:
    ok = record.outcome is Outcome.OK
    values = _values(record, metrics) if ok else {"error_isl": (record.input_tokens, "tokens")}
    cancelled = record.outcome is Outcome.CANCELLED
    return {
        "metadata": {
            "session_num": number if record.session is None else record.session,
            "x_request_id": str(record.index),
            "conversation_id": None if record.session is None else str(record.session),
            "turn_index": record.turn,
            "request_start_ns": record.sent_ns,
            "request_ack_ns": None,
            "request_end_ns": record.ended_ns,
            "worker_id": "",
            "record_processor_id": "",
            "benchmark_phase": "profiling",
            "was_cancelled": cancelled,
            "cancellation_time_ns": record.ended_ns if cancelled else None,
        },
        "metrics": {
            name: {"value": value, "unit": unit} for name, (value, unit) in values.items() if value is not None
        },
        "error": None if ok else _error(record),
    }


def _error(record: Record) -> dict[str, Any]:
    return {"code": record.status, "type": record.outcome.value, "message": record.error or record.outcome.value}


def _statistics(pairs: Sequence[tuple[Record, RequestMetrics]], summary: Mapping[str, Any]) -> dict[str, Any]:
    columns: dict[str, tuple[list[float], str]] = {}
    for record, metrics in pairs:
        if record.outcome is Outcome.OK:
            for name, (value, unit) in _values(record, metrics).items():
                column = columns.setdefault(name, ([], unit))[0]
                column.extend(value if isinstance(value, list) else () if value is None else (value,))
    done = sum(record.outcome is Outcome.OK for record, _ in pairs)
    errors = Counter(msgspec.json.encode(_error(r)) for r, _ in pairs if r.outcome is not Outcome.OK)
    started = summary.get("started_unix_s")
    duration = summary["duration"]
    totals = (
        ("request_throughput", "requests/sec", summary["request_throughput"]),
        ("output_token_throughput", "tokens/sec", summary["output_throughput"]),
        ("benchmark_duration", "sec", duration),
        ("request_count", "requests", float(done)),
        ("total_isl", "tokens", float(summary["total_input_tokens"])),
        ("total_osl", "tokens", float(summary["total_output_tokens"])),
    )
    return {
        **{name: {"unit": unit, **_distribution(values)} for name, (values, unit) in columns.items() if values},
        **{name: {"unit": unit, "avg": value} for name, unit, value in totals},
        "error_request_count": {"unit": "requests", "avg": float(len(pairs) - done)} if len(pairs) > done else None,
        "was_cancelled": any(record.outcome is Outcome.CANCELLED for record, _ in pairs),
        "start_time": _iso(started),
        "end_time": None if started is None else _iso(started + duration),
        "error_summary": [{"error_details": msgspec.json.decode(e), "count": count} for e, count in errors.items()],
    }


def _iso(unix_s: float | None) -> str | None:
    return None if unix_s is None else datetime.fromtimestamp(unix_s, UTC).isoformat()


def _distribution(values: Sequence[float]) -> dict[str, float]:
    array = np.array(values, dtype=float)
    return {
        "avg": float(array.mean()),
        **{f"p{p}": float(np.percentile(array, p)) for p in PERCENTILES},
        "min": float(array.min()),
        "max": float(array.max()),
        "std": float(array.std()),
    }


def recognizes(document: Mapping[str, Any]) -> bool:
    latency = document.get("request_latency")
    return isinstance(latency, dict) and "avg" in latency


def read(document: Mapping[str, Any], path: Path) -> list[Imported]:
    """The statistics, and the requests if `profile_export.jsonl` lies beside them."""

    def value(name: str, statistic: str = "avg") -> Any:
        return (document.get(name) or {}).get(statistic)

    failed = value("error_request_count")
    summary: dict[str, Any] = {
        "completed": _count(value("request_count")),
        "failed": sum(one["count"] for one in document.get("error_summary") or ())
        if failed is None
        else _count(failed),
        "duration": value("benchmark_duration"),
        "request_throughput": value("request_throughput"),
        "output_throughput": value("output_token_throughput"),
        "total_input_tokens": _count(value("total_isl")),
        "total_output_tokens": _count(value("total_osl")),
    }
    for theirs, ours in OURS.items():
        names = {"mean": "avg", "median": "p50", "std": "std", **{f"p{p}": f"p{p}" for p in (50, 90, 95, 99)}}
        summary |= {f"{mine}_{ours}_ms": value(theirs, its) for mine, its in names.items()}
    beside = path.with_name(REQUESTS)
    lines = msgspec.json.Decoder().decode_lines(beside.read_bytes()) if beside.is_file() else []
    records = [_record(number, line) for number, line in enumerate(lines)]
    return [Imported("aiperf", path.stem, summary, records, ("tpot is aiperf's inter token latency",))]


def _count(value: float | None) -> int | None:
    return None if value is None else round(value)


def _record(number: int, line: Mapping[str, Any]) -> Record:
    about, metrics, error = line["metadata"], line.get("metrics") or {}, line.get("error")

    def value(name: str, default: Any = None) -> Any:
        return metrics.get(name, {}).get("value", default)

    sent, first = about["request_start_ns"], value("time_to_first_token")
    ok = error is None and first is not None
    arrivals = [sent + round(ms * 1e6) for ms in accumulate([first, *value("inter_chunk_latency", [])])] if ok else []
    length = value("output_sequence_length", 0)
    exact = length == len(arrivals)
    return Record(
        index=number,
        phase=Phase.MEASURED,
        outcome=Outcome.OK if ok else Outcome.CANCELLED if about.get("was_cancelled") else Outcome.HTTP_ERROR,
        error=None if error is None else error.get("message"),
        status=200 if ok else (error or {}).get("code") or 0,
        scheduled_ns=sent,
        sent_ns=sent,
        ended_ns=about["request_end_ns"],
        events=[OutputEvent(at, 1.0 if exact else length / len(arrivals)) for at in arrivals],
        input_tokens=value("input_sequence_length"),
        input_source="server",
        output_tokens=length if ok else 0,
        token_source=TokenSource.USAGE_DELTA if exact else TokenSource.USAGE_SPREAD,
        turn=about.get("turn_index") or 0,
    )

"""A table for spreadsheets: a row for each measured request, times in milliseconds."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from bench.metrics import KEYS, request_metrics
from bench.types import Phase, Record

LISTS = ("itl", "icl")  # of these a row has the mean
COLUMNS = (
    "index",
    "outcome",
    "status",
    "error",
    "scheduled_ms",
    "sent_ms",
    "ended_ms",
    "input_tokens",
    "output_tokens",
    "token_source",
    "finish_reason",
    "cached_tokens",
    "events",
    *(f"mean_{name}_ms" if name in LISTS else f"{name}_ms" for name in KEYS),
    "session",
    "turn",
    "group",
)


def export(records: Sequence[Record], summary: Mapping[str, Any]) -> dict[str, bytes]:
    """`requests.csv`; times of day are after the first planned start. Missing values are empty."""
    measured = [record for record in records if record.phase is Phase.MEASURED]
    origin = min((record.scheduled_ns for record in measured if record.scheduled_ns), default=0)
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, COLUMNS)
    table.writeheader()
    table.writerows(_row(record, origin) for record in measured)
    return {"requests.csv": text.getvalue().encode()}


def _row(record: Record, origin: int) -> dict[str, Any]:
    def after(stamp: int) -> float | None:
        return (stamp - origin) / 1e6 if stamp else None

    metrics = request_metrics(record)
    row: dict[str, Any] = {
        "index": record.index,
        "outcome": record.outcome.value,
        "status": record.status or None,
        "error": _harmless(record.error),
        "scheduled_ms": after(record.scheduled_ns),
        "sent_ms": after(record.sent_ns),
        "ended_ms": after(record.ended_ns),
        "input_tokens": record.input_tokens,
        "output_tokens": record.output_tokens,
        "token_source": record.token_source.value,
        "finish_reason": record.finish_reason,
        "cached_tokens": record.cached_tokens,
        "events": len(record.events),
        "session": record.session,
        "turn": record.turn,
        "group": record.group,
    }
    for name in KEYS:
        value = getattr(metrics, name)
        if name in LISTS:
            row[f"mean_{name}_ms"] = 1e3 * sum(value) / len(value) if value else None
        else:
            row[f"{name}_ms"] = None if value is None else value * 1e3
    return row


def _harmless(text: str | None) -> str | None:
    """What a server says must not become a formula in a spreadsheet."""
    return f"'{text}" if text and text[0] in "=+-@\t\r" else text

"""Lines of text for where there is no terminal, and the closing words of a run everywhere."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from bench.report.figures import STATISTICS, headline, latency_rows, number
from bench.report.progress import Counts, LiveStats, Pace, percentile
from bench.tables import table
from bench.types import Phase

EVERY = 5.0  # seconds between lines


class PlainView:
    """A line every few seconds."""

    def __init__(
        self,
        description: str,
        out: TextIO,
        *,
        total: int | None = None,
        duration_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._out, self._total, self._clock = out, total, clock
        self._next = clock() + EVERY
        self._pace = Pace()
        until = f", {number(duration_s)} s" if duration_s else ""
        self._say(f"{description}{until}")

    def update(self, progress: Counts, stats: LiveStats) -> None:
        self._pace.add(progress.elapsed_s, progress.reads)
        now = self._clock()
        if now >= self._next:
            self._next = now + EVERY
            self._say(f"{progress.elapsed_s:6.0f} s  {self._status(progress, stats)}")

    def close(self) -> None:
        """Nothing is left on the screen that would have to go."""

    def _say(self, line: str) -> None:
        print(line, file=self._out, flush=True)

    def _status(self, progress: Counts, stats: LiveStats) -> str:
        of = f"/{self._total:,}" if self._total and progress.phase is Phase.MEASURED else ""
        parts = ["warm-up"] if progress.phase is Phase.WARMUP else []
        parts += [f"sent {progress.sent:,}", f"done {progress.done:,}{of}"]
        if progress.failed:
            parts.append(f"failed {failures(progress)}")
        rates = self._pace.rates()[-round(EVERY) :]
        if rates and stats.tokens_per_read:
            parts.append(f"{number(stats.tokens_per_read * sum(rates) / len(rates))} {stats.unit}")
        for name, values in (("TTFT", stats.ttft), ("TPOT", stats.tpot)):
            if values:
                parts.append(f"{name} {milliseconds(values, 50)}, p99 {milliseconds(values, 99)} ms")
        return "  ".join(parts)


def failures(progress: Counts) -> str:
    """The most frequent first: '3 x 503, 1 x cut'."""
    kinds = sorted(progress.failed.items(), key=lambda item: -item[1])
    return ", ".join(f"{count:,} x {kind}" for kind, count in kinds)


def milliseconds(values: Sequence[float], p: float) -> str:
    found = percentile(values, p)
    return number(None if found is None else found * 1000)


def summary_lines(summary: Mapping[str, Any], title: str = "") -> list[str]:
    """The figures of a run for a terminal, the same as in the report."""
    lines = [title, ""] if title else []
    lines += [
        f"{one.name:<12} {one.value} {one.unit}".rstrip() + (f"  ({one.note})" if one.note else "")
        for one in headline(summary)
    ]
    rows = [(name, *values) for name, _, values in latency_rows(summary)]
    if rows:
        lines += ["", table(("milliseconds", *STATISTICS), rows)]
    if summary.get("verdict"):
        lines += ["", str(summary["verdict"]), *(f"  - {reason}" for reason in summary.get("reasons") or [])]
    return lines

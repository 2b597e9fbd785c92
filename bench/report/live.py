"""The view of a run on a terminal: progress, throughput of the last minute, latencies, failures, the two queues.

`open_view` gives the view that fits the stream: this one, or plain lines where nobody watches.
"""

import math
import sys
from typing import Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bench.report.figures import number
from bench.report.plain import PlainView, failures, milliseconds
from bench.report.progress import Counts, LiveStats, Pace, percentile
from bench.types import Phase

BLOCKS = "▁▂▃▄▅▆▇█"
LAG_LIGHTS = ((0.002, "green"), (0.02, "yellow"), (math.inf, "red"))  # seconds up to which a colour is shown


class View(Protocol):
    def update(self, progress: Counts, stats: LiveStats) -> None: ...
    def close(self) -> None: ...


def open_view(
    description: str, *, total: int | None = None, duration_s: float | None = None, out: TextIO | None = None
) -> View:
    """A view of the load described, on standard error unless `out` says otherwise. Close it when the run is over.

    `total` requests or `duration_s` seconds end the run; they are what progress is measured by.
    """
    out = out or sys.stderr
    console = Console(file=out)
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveView(description, total=total, duration_s=duration_s, console=console)
    return PlainView(description, out, total=total, duration_s=duration_s)


class LiveView:
    """Draws itself a few times a second, in place."""

    def __init__(
        self,
        description: str,
        *,
        total: int | None = None,
        duration_s: float | None = None,
        console: Console | None = None,
    ) -> None:
        self._description, self._total, self._duration = description, total, duration_s
        self._pace = Pace()
        self._live = Live(console=console or Console(stderr=True), refresh_per_second=8, transient=True)
        self._live.start()

    def update(self, progress: Counts, stats: LiveStats) -> None:
        self._live.update(self.render(progress, stats))

    def close(self) -> None:
        self._live.stop()

    def render(self, progress: Counts, stats: LiveStats) -> RenderableType:
        self._pace.add(progress.elapsed_s, progress.reads)
        rates = [rate * stats.tokens_per_read for rate in self._pace.rates()]
        parts: list[RenderableType] = [self._bar(progress), Text(), _figures(progress, stats), Text()]
        if any(rates):
            parts.append(Text.assemble((sparkline(rates), "blue"), f"  {number(rates[-1])} {stats.unit}"))
        parts.append(_lag(stats))
        if progress.failed:
            words = f"failed: {failures(progress)}. {stats.last_error or ''}"
            parts.append(Text(words.strip(), style="red", overflow="ellipsis", no_wrap=True))
        return Panel(Group(*parts), title=Text(self._description), title_align="left", padding=(1, 2))

    def _bar(self, progress: Counts) -> RenderableType:
        warming = progress.phase is Phase.WARMUP
        total = progress.planned if warming else self._total
        row = Table.grid(padding=(0, 2), expand=True)
        row.add_column(ratio=1)
        row.add_column(justify="right")
        bar: RenderableType = Text()
        done, whole = (progress.done, total) if total else (progress.elapsed_s, self._duration)
        if whole:
            bar = ProgressBar(whole, min(done, whole), complete_style="blue", finished_style="green")
        of = f"/{total:,}" if total else ""
        word = "warm-up, " if warming else ""
        row.add_row(bar, Text(f"{word}{progress.done:,}{of} done, {progress.elapsed_s:.0f} s"))
        return row


def _figures(progress: Counts, stats: LiveStats) -> RenderableType:
    grid = Table.grid(padding=(0, 3))
    for _ in range(6):
        grid.add_column(justify="right")
    grid.add_row(*(Text(head, style="dim") for head in ("", "p50", "p99", "in flight", "queue", "KV cache")))
    sample = stats.sample
    queue = number(sample.waiting) if sample else "n/a"
    kv = f"{100 * sample.kv_used:.0f} %" if sample and sample.kv_used is not None else "n/a"
    ttft, tpot = ([milliseconds(values, p) for p in (50, 99)] for values in (stats.ttft, stats.tpot))
    grid.add_row(Text("TTFT ms", style="bold"), *ttft, f"{progress.sent - progress.done:,}", queue, kv)
    grid.add_row(Text("TPOT ms", style="bold"), *tpot)
    return grid


def _lag(stats: LiveStats) -> Text:
    lag = percentile(stats.lag, 99)
    if lag is None:
        return Text()
    colour = next(colour for limit, colour in LAG_LIGHTS if lag <= limit)
    return Text.assemble(("● ", colour), f"client lag p99 {number(1000 * lag)} ms")


def sparkline(values: list[float]) -> str:
    most = max(values)
    if most <= 0:
        return BLOCKS[0] * len(values)
    return "".join(BLOCKS[min(7, int(8 * value / most))] for value in values)

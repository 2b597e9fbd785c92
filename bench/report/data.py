"""What the plots of a report show: the records of a run as a few short series of numbers.

A page must open at once whether a run had a hundred events or a million, so every series is bounded: distributions
are cut to quantiles, time to bins, requests to a sample of lanes. Times are seconds after the start of the measured
window, latencies milliseconds.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.metrics import RequestMetrics, request_metrics
from bench.report.figures import load_label, load_value
from bench.report.loads import load_of
from bench.report.rundir import RunDir
from bench.types import Health, Outcome, Phase, Record, Sample

Floats = npt.NDArray[np.float64]
QUANTILES = 240  # points of a distribution
BINS = 240  # of time, at most
NARROWEST = 0.05  # seconds of a bin
LANES = 240  # requests drawn one by one
DOTS = 600  # of a scatter plot
HEAT = (120, 36)  # bins of time and of latency
MARKED = (50, 99)  # percentiles named on a distribution
BARE = 1e-3  # milliseconds; a logarithmic axis has no zero


def run_view(run: RunDir) -> dict[str, Any]:
    """All plots of one run."""
    load = load_of(run)
    records = [record for record in run.records if record.phase is Phase.MEASURED]
    metrics = [(record, request_metrics(record)) for record in records if record.outcome is Outcome.OK]
    origin, end = window(run, records)
    seconds = max((end - origin) / 1e9, 1e-3)
    edges = np.linspace(0.0, seconds, min(BINS, max(10, int(seconds / NARROWEST))) + 1)
    return {
        "label": load_label(load),
        "load": load_value(load),
        "title": run.manifest.title or run.path.name,
        "duration": float(edges[-1]),
        "cdf": distributions(metrics, run.summary),
        "flow": flow(records, origin, edges),
        "server": server_series(run.samples, origin),
        "client": client_series(run.health, origin),
        "lanes": lanes(records, origin),
        "failures": failures(records, origin),
        "prompts": prompt_dots(metrics),
        "slices": slices(records, origin, edges),
        "heat": heat_map(metrics, origin, edges[-1]),
    }


def window(run: RunDir, records: Sequence[Record]) -> tuple[int, int]:
    """Start of the measured window and the end of the last stream, so that what drained late is seen too."""
    started = [record.scheduled_ns for record in records if record.scheduled_ns]
    origin = run.manifest.window_ns[0] or min(started, default=0)
    ended = [record.ended_ns for record in records if record.ended_ns]
    return origin, max([*ended, run.manifest.window_ns[1], origin])


def _seconds(stamps: Iterable[int], origin: int) -> Floats:
    return (np.fromiter(stamps, np.int64) - origin) / 1e9


def distributions(metrics: Sequence[tuple[Record, RequestMetrics]], summary: Mapping[str, Any]) -> dict[str, Any]:
    """Cumulative distributions by metric: `x` milliseconds, `y` percent, `n` how many values. `marks` are the
    percentiles of the summary that rest on samples enough."""
    one: dict[str, Callable[[RequestMetrics], float | None]] = {
        "ttft": lambda m: m.ttft,
        "ttft_sched": lambda m: m.ttft_sched,
        "tpot": lambda m: m.tpot,
        "ntpot": lambda m: m.ntpot,
        "e2el": lambda m: m.e2e,
        "e2el_sched": lambda m: m.e2e_sched,
    }
    found = {name: cdf(v for _, m in metrics if (v := value(m)) is not None) for name, value in one.items()}
    found["itl"] = cdf(gap for _, m in metrics for gap in m.itl)
    found["icl"] = cdf(gap for _, m in metrics for gap in m.icl)
    for name, curve in found.items():
        keys = {p: f"p{p}_{name}_ms" for p in MARKED}
        curve["marks"] = [
            (p, summary[key])
            for p, key in keys.items()
            if summary.get(key) is not None and summary.get(f"{key}_reliable") is not False
        ]
    return found


def cdf(seconds: Iterable[float]) -> dict[str, Any]:
    """At most QUANTILES points of the empirical distribution, closer together towards the tail."""
    values = np.sort(np.fromiter(seconds, np.float64)) * 1000
    if not values.size:
        return {"x": [], "y": [], "n": 0}
    if values.size <= QUANTILES:
        ranks = np.arange(values.size)
    else:  # half of the points are even, half go to the slowest tenth
        even = np.linspace(0, 0.9, QUANTILES // 2, endpoint=False)
        tail = 1 - np.geomspace(0.1, 1 / values.size, QUANTILES // 2)
        ranks = np.unique(np.ceil(np.append(even, tail) * values.size).astype(np.int64).clip(1, values.size) - 1)
        ranks = np.append(ranks[ranks < values.size - 1], values.size - 1)
    return {
        "x": _short(values[ranks].clip(BARE)),
        "y": _short(100 * (ranks + 1) / values.size),
        "n": int(values.size),
    }


def _short(values: Floats, digits: int = 5) -> list[float]:
    """Rounded to significant digits: a page is not for computing with."""
    return [float(f"{value:.{digits}g}") for value in values]


def flow(records: Sequence[Record], origin: int, edges: Floats) -> dict[str, Any]:
    """Over time: output tokens and finished requests per second, and requests in flight before and after their first
    token."""
    width = edges[1] - edges[0]
    stamps = _seconds((event.at_ns for record in records for event in record.events), origin)
    tokens = np.fromiter((event.tokens for record in records for event in record.events), np.float64)
    done = _seconds((record.ended_ns for record in records if record.outcome is Outcome.OK), origin)
    sent = [record for record in records if record.sent_ns]
    start = _seconds((record.sent_ns for record in sent), origin)
    first = _seconds((record.events[0].at_ns if record.events else record.ended_ns for record in sent), origin)
    last = _seconds((record.ended_ns for record in sent), origin)
    middle = (edges[:-1] + edges[1:]) / 2
    return {
        "t": _short(middle),
        "tokens": _short(np.histogram(stamps, edges, weights=tokens)[0] / width),
        "requests": _short(np.histogram(done, edges)[0] / width),
        "waiting": open_at(start, first, middle).tolist(),
        "decoding": open_at(first, last, middle).tolist(),
    }


def open_at(starts: Floats, ends: Floats, moments: Floats) -> npt.NDArray[np.int64]:
    """How many of the spans [start, end) hold each moment."""
    begun: npt.NDArray[np.int64] = np.searchsorted(np.sort(starts), moments, side="right")
    return begun - np.searchsorted(np.sort(ends), moments, side="right")


def server_series(samples: Sequence[Sample], origin: int) -> dict[str, Any]:
    """The server's own view, thinned to BINS samples. A series it never spoke of is None."""
    kept = _thinned(samples, BINS)
    found: dict[str, Any] = {"t": _short(_seconds((sample.at_ns for sample in kept), origin))}
    for name in ("running", "waiting", "kv_used", "cpu", "memory_bytes", "gpu_watts", "gpu_use"):
        values = [getattr(sample, name) for sample in kept]
        found[name] = values if any(value is not None for value in values) else None
    if found["kv_used"]:
        found["kv_used"] = [None if value is None else 100 * value for value in found["kv_used"]]
    return found


def _thinned(items: Sequence[Any], limit: int) -> list[Any]:
    """At most `limit` of them, evenly spread, the first and the last among them."""
    if len(items) <= limit:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, limit).round().astype(int)]


def client_series(health: Sequence[Health], origin: int) -> dict[str, Any]:
    """The client's worst worker at each second: milliseconds of lag and lateness, percent of one core."""
    rows: dict[int, list[Health]] = {}
    for entry in health:
        rows.setdefault((entry.at_ns - origin) // 1_000_000_000, []).append(entry)
    seconds = _thinned(sorted(rows), BINS)
    return {
        "t": [float(second) for second in seconds],
        "lag": [max(h.lag_p99_ns for h in rows[second]) / 1e6 for second in seconds],
        "late": [max(h.late_p99_ns for h in rows[second]) / 1e6 for second in seconds],
        "cpu": [100 * max(h.cpu for h in rows[second]) for second in seconds],
    }


def lanes(records: Sequence[Record], origin: int) -> dict[str, Any]:
    """Requests in the order of their schedule: [planned, sent, end of the server's queue or None, first token, last
    token, end, outcome, tokens in, tokens out]. `every` says that one in so many is shown, and every failure."""
    ordered = sorted(
        (record for record in records if record.sent_ns), key=lambda record: (record.scheduled_ns, record.index)
    )
    every = -(-len(ordered) // LANES) or 1
    failed = (i for i, record in enumerate(ordered) if record.outcome is not Outcome.OK)
    extra = set(_thinned(list(failed), LANES))
    shown = [record for i, record in enumerate(ordered) if i % every == 0 or i in extra]
    return {"rows": [_lane(record, origin) for record in shown], "of": len(ordered), "every": every}


def _lane(record: Record, origin: int) -> list[Any]:
    def after(stamp: int) -> float:
        return round((stamp - origin) / 1e9, 6)

    first, last = (record.events[0].at_ns, record.events[-1].at_ns) if record.events else (0, 0)
    queue = record.server.get("queue")
    return [
        after(record.scheduled_ns),
        after(record.sent_ns),
        None if queue is None else round(after(record.sent_ns) + queue, 6),
        after(first) if first else None,
        after(last) if last else None,
        after(record.ended_ns),
        record.outcome.value,
        record.input_tokens,
        round(record.output_tokens, 1),
    ]


def failures(records: Sequence[Record], origin: int) -> dict[str, Any]:
    """Every kind of failure with its count, one message, and moments of at most DOTS of them."""
    kinds: dict[str, list[Record]] = {}
    for record in records:
        if record.outcome is not Outcome.OK:
            kinds.setdefault(record.outcome.value, []).append(record)
    return {
        kind: {
            "count": len(found),
            "example": next((record.error for record in found if record.error), None),
            "t": _short(_seconds((r.ended_ns or r.scheduled_ns for r in _thinned(found, DOTS)), origin)),
        }
        for kind, found in sorted(kinds.items(), key=lambda item: -len(item[1]))
    }


def prompt_dots(metrics: Sequence[tuple[Record, RequestMetrics]]) -> dict[str, Any]:
    """Time to first token against the length of the prompt, a dot a request."""
    dots = [(r.input_tokens, m.ttft) for r, m in metrics if r.input_tokens is not None and m.ttft is not None]
    kept = sorted(_thinned(dots, DOTS))
    return {"x": [tokens for tokens, _ in kept], "y": _short(np.array([ttft * 1000 for _, ttft in kept]).clip(BARE))}


def slices(records: Sequence[Record], origin: int, edges: Floats) -> dict[str, Any]:
    """Slices of the run, each with its output tokens per second and the median TTFT of the requests it answered."""
    count = min(40, max(4, int(edges[-1])))
    borders = np.linspace(0.0, edges[-1], count + 1)
    stamps = _seconds((event.at_ns for record in records for event in record.events), origin)
    tokens = np.fromiter((event.tokens for record in records for event in record.events), np.float64)
    rate = np.histogram(stamps, borders, weights=tokens)[0] / (borders[1] - borders[0])
    good = [record for record in records if record.events and record.sent_ns]
    first = _seconds((record.events[0].at_ns for record in good), origin)
    ttft = first - _seconds((record.sent_ns for record in good), origin)
    place = np.digitize(first, borders) - 1
    dots = [(rate[i], float(np.median(ttft[place == i])) * 1000) for i in range(count) if (place == i).any()]
    dots.sort()
    return {"x": _short(np.array([x for x, _ in dots])), "y": _short(np.array([y for _, y in dots]).clip(BARE))}


def heat_map(metrics: Sequence[tuple[Record, RequestMetrics]], origin: int, duration: float) -> dict[str, Any]:
    """How many event gaps of each length came in each moment: `counts` by moment, then by length, whose logarithmic
    `edges` are milliseconds. The lowest holds what is shorter, too."""
    events = [record.events for record, _ in metrics if len(record.events) > 1]
    if not events:
        return {"counts": [], "edges": []}
    stamps = [_seconds((event.at_ns for event in one), origin) for one in events]
    at = np.concatenate([one[1:] for one in stamps])
    gap = np.concatenate([np.diff(one) for one in stamps]).clip(BARE / 1000) * 1000
    low, high = float(np.quantile(gap, 0.01)) * 0.9, float(gap.max()) * 1.1
    edges = np.geomspace(max(low, BARE), max(high, 2 * BARE), HEAT[1] + 1)
    counts, _, _ = np.histogram2d(at, gap.clip(edges[0]), (np.linspace(0.0, duration, HEAT[0] + 1), edges))
    return {"counts": counts.astype(int).tolist(), "edges": _short(edges)}

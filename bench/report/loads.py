"""Several runs as points of a curve: runs of the same load are one point, with the spread between them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.metrics import Slo
from bench.report.figures import NONE, load_label, load_value, number, token_note
from bench.report.rundir import RunDir
from bench.types import ONE_PER_EVENT, UsageError, Verdict

POINT_COLUMNS = (
    ("output_throughput", "tokens/s"),
    ("request_throughput", "requests/s"),
    ("p50_ttft_ms", "TTFT p50 ms"),
    ("p99_ttft_ms", "TTFT p99 ms"),
    ("p50_tpot_ms", "TPOT p50 ms"),
    ("p99_tpot_ms", "TPOT p99 ms"),
    ("failed", "failed"),
)
SUMS = frozenset({"failed"})  # counts are added over the runs of a point


@dataclass(frozen=True)
class Spread:
    """One figure over the runs of a point. `low` and `high` are the extremes; None where there was one run."""

    mean: float
    low: float | None = None
    high: float | None = None
    reliable: bool = True  # in every run


@dataclass(frozen=True)
class Point:
    """The runs of one load."""

    label: str
    load: float | None
    runs: Sequence[RunDir]

    def figure(self, key: str) -> Spread | None:
        """A figure of the summaries; None if no run has it."""
        found = [value for run in self.runs if (value := run.summary.get(key)) is not None]
        if not found:
            return None
        low, high = (min(found), max(found)) if len(found) > 1 else (None, None)
        reliable = all(run.summary.get(f"{key}_reliable", True) for run in self.runs)
        return Spread(sum(found) / len(found), low, high, reliable)

    def per_user(self) -> Spread | None:
        """How fast one stream flows, in tokens per second."""
        tpot = self.figure("p50_tpot_ms")
        return Spread(1000 / tpot.mean, reliable=tpot.reliable) if tpot and tpot.mean else None

    def needs(self, key: str) -> int:
        """How many requests a run would take for this figure to be reliable in every one; 0 if it is."""
        unsure = (run.summary for run in self.runs if run.summary.get(f"{key}_reliable") is False)
        return max((summary.get(f"{key}_needs") or 0 for summary in unsure), default=0)


def points(runs: Sequence[RunDir]) -> list[Point]:
    """Runs grouped by load, the smallest first."""
    groups: dict[tuple[str, float | None], list[RunDir]] = {}
    for run in runs:
        load = load_of(run)
        groups.setdefault((load_label(load), load_value(load)), []).append(run)
    found = [Point(label, load, members) for (label, load), members in groups.items()]
    return sorted(found, key=lambda point: math.inf if point.load is None else point.load)


def load_of(run: RunDir) -> Mapping[str, Any]:
    """The load as its manifest has it; of another tool's result, as its summary says in vLLM's words."""
    if run.manifest.load:
        return run.manifest.load
    rate = run.summary.get("request_rate")
    closed = not isinstance(rate, int | float)
    return {"concurrency": run.summary.get("max_concurrency")} if closed else {"rate": rate}


def load_curves(sets: Mapping[str, Sequence[Point]], slo: str | None) -> dict[str, Any] | None:
    """The curves of throughput and latency by load, for the page; None if no set has two loads."""
    if all(len([point for point in found if point.load]) < 2 for found in sets.values()):
        return None
    first = next(point for found in sets.values() for point in found if point.load)
    rate = load_of(first.runs[0]).get("rate") is not None
    return {
        "unit": "requests/s" if rate else "requests at a time",
        "sets": [
            {"label": label, "points": [_curve_point(p) for p in found if p.load]} for label, found in sets.items()
        ],
        "limits": {metric: limits(slo, metric) for metric in ("ttft", "tpot")},
    }


def _curve_point(point: Point) -> dict[str, Spread | str | None]:
    return {
        "name": number(point.load),
        "load": Spread(point.load or 0.0),
        "throughput": point.figure("output_throughput"),
        "per_user": point.per_user(),
        "ttft_p50": point.figure("p50_ttft_ms"),
        "ttft_p99": point.figure("p99_ttft_ms"),
        "tpot_p50": point.figure("p50_tpot_ms"),
        "tpot_p99": point.figure("p99_tpot_ms"),
    }


def limits(slo: str | None, metric: str) -> list[dict[str, Any]]:
    """What an objective allows, as lines of a plot in milliseconds."""
    if not slo:
        return []
    try:
        parsed = Slo.parse(slo)
    except UsageError:  # written by another version; a report is readable without it
        return []
    return [{"value": limit.seconds * 1e3, "label": str(limit)} for limit in parsed.limits if limit.metric == metric]


def point_figure(point: Point, key: str) -> str:
    """The mean over the runs of a point, the sum of what failed, or what it would take to say."""
    spread = point.figure(key)
    if spread is None or not spread.reliable:
        needs = point.needs(key)
        return f"{NONE}, need {number(needs)}" if needs else NONE
    return number(spread.mean * len(point.runs) if key in SUMS else spread.mean)


def worst_verdict(point: Point) -> Verdict | None:
    """None if nobody judged its runs, as with another tool's results."""
    found = [Verdict(run.summary["verdict"]) for run in point.runs if run.summary.get("verdict")]
    return max(found, key=list(Verdict).index, default=None)


def token_words(runs: Sequence[RunDir]) -> str:
    """A sentence for where tokens were not counted in some run; empty otherwise."""
    uncounted = any(token_note(run.summary) == ONE_PER_EVENT for run in runs)
    return f"Tokens, and what is measured by them, are {ONE_PER_EVENT}." if uncounted else ""


def mean(found: Sequence[Point], key: str) -> float | None:
    """Of a figure over all runs of all points."""
    values = [value for point in found for run in point.runs if (value := run.summary.get(key)) is not None]
    return sum(values) / len(values) if values else None

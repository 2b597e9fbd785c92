"""When things happened in a run: its length, its steady part, what was in flight, and the tokens of each second."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.load.arrivals import Load
from bench.types import Outcome, Record

SECOND = 1_000_000_000
LEAST_SHARE = 0.2  # of the run that the steady window must be to speak for it

Stamps = NDArray[np.int64]


def run_span(records: Sequence[Record], window_ns: tuple[int, int]) -> tuple[int, int]:
    """From the start of the measured phase to the end of its last request."""
    start = window_ns[0] or min((record.scheduled_ns for record in records if record.scheduled_ns), default=0)
    ended = [record.ended_ns for record in records if record.sent_ns]
    return start, max(max(ended, default=window_ns[1]), start)


def in_flight(records: Sequence[Record]) -> tuple[Stamps, NDArray[np.int64]]:
    """Requests between their send and their end: the moments at which that number changed, and the number from then
    on. A place that is freed and taken at the same moment is one. [changes], [changes]
    """
    sent = [record for record in records if record.sent_ns]
    at = np.array([r.sent_ns for r in sent] + [r.ended_ns for r in sent], dtype=np.int64)
    step = np.array([1] * len(sent) + [-1] * len(sent), dtype=np.int64)
    order = np.lexsort((step, at))
    return at[order], np.cumsum(step[order])


def steady_window(records: Sequence[Record], span: tuple[int, int], load: Load | None) -> tuple[int, int] | None:
    """From when the load was first fully on to the last request sent; None if that is too little of the run.

    Fully on: a first token has come, a ramp is over, and as many requests are in flight as in the median moment
    between the first send and the last.
    """
    sent = sorted(record.sent_ns for record in records if record.sent_ns)
    first_tokens = [record.events[0].at_ns for record in records if record.events]
    if not first_tokens or sent[-1] == sent[0]:
        return None
    at, count = in_flight(records)
    until = at <= sent[-1]
    at, count = at[until], count[until]
    lengths = np.diff(at)
    order = np.argsort(count[:-1], kind="stable")
    middle = np.searchsorted(np.cumsum(lengths[order]), lengths.sum() / 2)
    full = int(count[:-1][order][min(middle, order.size - 1)])
    reached = int(at[np.argmax(count >= full)])
    ramp = round(load.ramp[1] * SECOND) if load is not None and load.ramp else 0
    start = max(reached, min(first_tokens), span[0] + ramp)
    return (start, sent[-1]) if sent[-1] - start >= LEAST_SHARE * (span[1] - span[0]) else None


def token_arrivals(records: Sequence[Record], outcomes: frozenset[Outcome]) -> tuple[Stamps, NDArray[np.float64]]:
    """When the output events of such streams arrived, in order of time, and the tokens of each. [events], [events]"""
    events = [event for record in records if record.outcome in outcomes for event in record.events]
    at = np.fromiter((event.at_ns for event in events), np.int64, len(events))
    tokens = np.fromiter((event.tokens for event in events), np.float64, len(events))
    order = np.argsort(at, kind="stable")
    return at[order], tokens[order]


def per_second(at: Stamps, weights: NDArray[np.float64], start_ns: int) -> NDArray[np.float64]:
    """Sums of the weights in the seconds after the start. [seconds]"""
    if not at.size:
        return np.zeros(0)
    return np.asarray(np.bincount(((at - start_ns) // SECOND).clip(0), weights=weights), dtype=np.float64)


def rates_within(at: Stamps, weights: NDArray[np.float64], window: tuple[int, int], parts: int) -> NDArray[np.float64]:
    """Sum per second in equal parts of a window, whose start is not in it and whose end is. [parts]"""
    edges = np.linspace(window[0], window[1], parts + 1)
    sums = np.diff(np.append(0.0, np.cumsum(weights))[np.searchsorted(at, edges, side="right")])
    return np.asarray(sums / ((window[1] - window[0]) / SECOND / parts))

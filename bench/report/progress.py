"""What is known of a run while it goes on: its pace, and latencies of what has ended, for the live views."""

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from bench.metrics import request_metrics
from bench.types import Outcome, Phase, Record, Sample, TokenSource

RECENT = 2000  # requests that live percentiles are taken from
SECONDS = 60  # of throughput that are remembered


class Counts(Protocol):
    """What a view wants to know of bench.client.pool.Progress."""

    @property
    def phase(self) -> Phase: ...
    @property
    def elapsed_s(self) -> float: ...
    @property
    def planned(self) -> int: ...
    @property
    def sent(self) -> int: ...
    @property
    def done(self) -> int: ...
    @property
    def reads(self) -> int: ...
    @property
    def failed(self) -> Mapping[str, int]: ...


class LiveStats:
    """Grows with every record that was decoded in time; those of the warm-up do not count."""

    def __init__(self) -> None:
        self.ttft: deque[float] = deque(maxlen=RECENT)  # seconds
        self.tpot: deque[float] = deque(maxlen=RECENT)
        self.lag: deque[float] = deque(maxlen=RECENT)  # of our stamps behind the kernel's, the largest of each request
        self.last_error: str | None = None
        self.sample: Sample | None = None
        self.unit = "tokens/s"  # events/s where nobody counts tokens
        self._tokens, self._reads = 0.0, 0

    def add(self, records: Sequence[Record]) -> None:
        for record in records:
            if record.phase is not Phase.MEASURED:
                continue
            if record.token_source is TokenSource.EVENTS:
                self.unit = "events/s"
            self._tokens += sum(event.tokens for event in record.events)
            self._reads += 1 + len(record.events) - record.coalesced  # one for the head of the answer
            self.lag.append(record.user_lag_ns / 1e9)
            if record.outcome is not Outcome.OK:
                self.last_error = record.error or self.last_error
                continue
            metrics = request_metrics(record)
            if metrics.ttft is not None:
                self.ttft.append(metrics.ttft)
            if metrics.tpot is not None:
                self.tpot.append(metrics.tpot)

    @property
    def tokens_per_read(self) -> float:
        return self._tokens / self._reads if self._reads else 0.0


class Pace:
    """Reads per second from the count of reads. It is known at once, long before the streams are over and decoded."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=SECONDS + 1)  # the first count in each second

    def add(self, elapsed_s: float, reads: int) -> None:
        if self._seen and elapsed_s < self._seen[-1][0]:  # another phase
            self._seen.clear()
        if not self._seen or int(elapsed_s) > int(self._seen[-1][0]):
            self._seen.append((elapsed_s, reads))

    def rates(self) -> list[float]:
        """Of the last seconds, the oldest first."""
        return [(b - a) / (until - since) for (since, a), (until, b) in pairwise(self._seen)]


def percentile(values: Sequence[float], p: float) -> float | None:
    """The nearest rank; enough for a view that changes while one looks."""
    if not values:
        return None
    return sorted(values)[min(len(values) - 1, round(p / 100 * (len(values) - 1)))]

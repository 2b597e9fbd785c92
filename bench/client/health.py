"""A client that watches itself: how late it read, how late it sent, and whether a measurement can be trusted."""

import os
import resource
import statistics
import sys
import time
from collections.abc import Sequence

from bench.types import ONE_PER_EVENT, Health, Outcome, Phase, Record, TokenSource, Verdict

SECOND = 1_000_000_000
SAMPLES = 1000  # of the lags of one second; sorting all of them would itself make the client late

MILLISECOND = 1_000_000
MICROSECOND = 1_000
# What each figure may be: above the first the verdict is DEGRADED, above the second INVALID.
LAG = (10 * MILLISECOND, 200 * MILLISECOND)
LATE = (5 * MILLISECOND, 100 * MILLISECOND)
CLOCK_MOVED = (50 * MICROSECOND, MILLISECOND)
FAILED = (0.01, 0.5)
BUSY = 0.95  # share of a core
COALESCED = 0.05
WRONG_LENGTH = 0.01


class Watch:
    """Collects what one worker sees of itself, second by second."""

    def __init__(self, worker: int, now_ns: int) -> None:
        self.lags: list[int] = []  # of our stamps behind the kernel's, in ns
        self.lates: list[int] = []  # of timed sends behind the moment they were ready
        self.reads = 0  # since the beginning, as are
        self.sends = 0
        self.next_ns = now_ns + SECOND
        self._worker = worker
        self._since_ns, self._cpu_ns = now_ns, time.process_time_ns()
        self._reads = self._sends = 0
        self._files = _open_files()

    def report(self, now_ns: int, *, open_streams: int, connections: int) -> Health:
        """Close this second and begin the next."""
        cpu_ns = time.process_time_ns()
        lags = sorted(self.lags[:: len(self.lags) // SAMPLES + 1])
        health = Health(
            at_ns=now_ns,
            worker=self._worker,
            lag_p50_ns=_rank(lags, 0.5),
            lag_p99_ns=_rank(lags, 0.99),
            late_p99_ns=_rank(sorted(self.lates), 0.99),
            sends=self.sends - self._sends,
            events=self.reads - self._reads,
            open_streams=open_streams,
            cpu=(cpu_ns - self._cpu_ns) / max(1, now_ns - self._since_ns),
            memory_bytes=_memory_bytes(),
            open_files=self._files + connections,
        )
        self.lags, self.lates = [], []
        self._reads, self._sends = self.reads, self.sends
        self._since_ns, self._cpu_ns = now_ns, cpu_ns
        self.next_ns = now_ns + SECOND
        return health


def _rank(ordered: Sequence[int], share: float) -> int:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0


def _open_files() -> int:
    """How many files are open besides connections; 0 where the system does not list them."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


def _memory_bytes() -> int:
    """Resident now, or at most where the system says no more than that."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def verdict(
    health: Sequence[Health], records: Sequence[Record], *, clock_offset_moved_ns: int = 0
) -> tuple[Verdict, list[str]]:
    """Whether the measurement can be trusted, and every reason why not, the worst first."""
    measured = [record for record in records if record.phase is Phase.MEASURED]
    found = [*_of_client(health, abs(clock_offset_moved_ns)), *_of_requests(measured), *_of_counts(measured)]
    found.sort(key=lambda reason: reason[0] is not Verdict.INVALID)
    worst = found[0][0] if found else Verdict.VALID
    return worst, [reason for _, reason in found]


def _grade(value: float, limits: tuple[float, float]) -> Verdict | None:
    if value > limits[1]:
        return Verdict.INVALID
    return Verdict.DEGRADED if value > limits[0] else None


def _of_client(health: Sequence[Health], clock_moved_ns: int) -> list[tuple[Verdict, str]]:
    """The typical second counts: a shared machine freezes everybody for a moment, and kernel stamps outlast that."""
    found = []
    if grade := _grade(clock_moved_ns, CLOCK_MOVED):
        found.append((grade, f"the system's clock was moved by {clock_moved_ns / MILLISECOND:.3f} ms during the run"))
    busy = [second for second in health if second.events]
    if busy:
        lag = statistics.median(second.lag_p99_ns for second in busy)
        if grade := _grade(lag, LAG):
            found.append((grade, f"the client read {lag / MILLISECOND:.1f} ms late (p99 of a typical second)"))
        cpu = statistics.median(second.cpu for second in busy)
        if cpu > BUSY:
            found.append((Verdict.DEGRADED, f"the client's workers were {cpu:.0%} busy: give it more of them"))
    sending = [second.late_p99_ns for second in health if second.sends]
    if sending:
        late = statistics.median(sending)
        if grade := _grade(late, LATE):
            found.append((grade, f"the client sent {late / MILLISECOND:.1f} ms late (p99 of a typical second)"))
    return found


def _of_requests(records: Sequence[Record]) -> list[tuple[Verdict, str]]:
    succeeded = sum(record.outcome is Outcome.OK for record in records)
    if not succeeded:
        return [(Verdict.INVALID, "no request succeeded")]
    failed = len(records) - succeeded
    if grade := _grade(failed / len(records), FAILED):
        return [(grade, f"{failed} of {len(records)} requests did not succeed")]
    return []


def _of_counts(records: Sequence[Record]) -> list[tuple[Verdict, str]]:
    succeeded = [record for record in records if record.outcome is Outcome.OK]
    found = []
    events = sum(len(record.events) for record in succeeded)
    coalesced = sum(record.coalesced for record in succeeded)
    if events and coalesced > COALESCED * events:
        found.append(
            f"{coalesced / events:.0%} of the events came together with a later one and have its time"
            " (the server sends several at once, or the client is too slow)"
        )
    wrong = sum(
        record.token_source is not TokenSource.EVENTS and record.wanted_tokens not in (None, record.output_tokens)
        for record in succeeded
    )
    if wrong > WRONG_LENGTH * len(succeeded):
        found.append(f"{wrong} of {len(succeeded)} answers were not as long as asked for")
    uncounted = sum(record.token_source is TokenSource.EVENTS for record in succeeded)
    estimated = sum(record.token_source.estimated for record in succeeded) - uncounted
    if uncounted:
        found.append(
            f"the tokens of {uncounted} of {len(succeeded)} answers are {ONE_PER_EVENT}; --tokenizer counts them"
        )
    if estimated:
        found.append(f"the times of the tokens of {estimated} of {len(succeeded)} answers are estimated")
    return [(Verdict.DEGRADED, reason) for reason in found]

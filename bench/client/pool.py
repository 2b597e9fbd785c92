"""A load on its way: workers are started, set off at the same instant, listened to, and ended.

The parent only collects; nothing it does, or fails to do in time, moves a stamp. So `on_progress` may take its time.
"""

import itertools
import math
import os
import selectors
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from bench.client.address import Address, Endpoint, resolve
from bench.client.clock import now_ns, realtime_offset_ns
from bench.client.connection import keep_stamping
from bench.client.frames import (
    Begin,
    Cancel,
    Done,
    Drain,
    Ended,
    Fill,
    FrameReader,
    Go,
    Ready,
    Report,
    Tick,
    ToWorker,
    frame,
    from_worker,
)
from bench.client.http1 import failure_of, went_well
from bench.load.arrivals import Load
from bench.load.plan import Part, sessions, split
from bench.types import BenchError, Health, Phase, PlannedRequest, RawStream, UsageError

ENTRY_POINT = "bench.client.worker"
RECEIVE_BYTES = 1 << 20
PROGRESS_NS = 200_000_000
LOOK_SECONDS = 0.05  # between two looks at the stop signal
START_NS = 20_000_000  # from the word to go until the phase begins
END_SECONDS = 5.0  # for a worker to notice that we are gone
OTHER_FILES = 64  # open in a worker, besides its connections
STREAMS_PER_WORKER = 500
RATE_PER_WORKER = 500.0
WARMUP_PLACES = 16  # of an open loop that has no limit
SPARE = (4, 64)  # connections kept ready in an open loop, at least and at most
SPARE_SECONDS = 0.1  # of arrivals they are to last

FillTurn = Callable[[PlannedRequest, list[RawStream]], bytes | None]


class StopSignal:
    """Ends a run early: the first `set` lets what is in flight end within `grace_s`, the second cancels it.

    May be set from a signal handler or another thread.
    """

    def __init__(self, grace_s: float = 10.0) -> None:
        self.grace_s = grace_s
        self._times = 0

    def set(self) -> None:
        self._times += 1

    def is_set(self) -> bool:
        return self._times > 0

    @property
    def at_once(self) -> bool:
        return self._times > 1


@dataclass(frozen=True)
class Progress:
    """Where a run is. `finished` are the streams that have ended since the last time, in no particular order."""

    phase: Phase
    elapsed_s: float  # of this phase
    planned: int  # the counts are of this phase, too
    sent: int
    done: int  # ended, however
    in_flight: int
    reads: int
    failed: dict[str, int]  # by a status such as "503", or connect, cut, timeout, cancelled, never sent
    finished: list[RawStream]


@dataclass
class LoadResult:
    """Every stream of a run, warm-up and all, in the order of their ends at each worker."""

    streams: list[RawStream] = field(default_factory=list)
    health: list[Health] = field(default_factory=list)  # of the measured phase
    started_ns: int = 0  # when the first phase began
    window_ns: tuple[int, int] = (0, 0)  # of the measured phase, until its duration or its last stream ended
    clock_offset_moved_ns: int = 0
    workers: int = 0


class WorkerLost(BenchError):
    """A worker died; `partial` holds what was collected, its own streams in flight as broken ones."""

    exit_code = 3

    def __init__(self, message: str, partial: LoadResult) -> None:
        super().__init__(message)
        self.partial = partial


def run_load(
    address: Address,
    planned: Sequence[PlannedRequest],
    load: Load,
    *,
    workers: int | None = None,
    timeout_s: float = 600,
    on_progress: Callable[[Progress], None] | None = None,
    stop: StopSignal | None = None,
    fill_turn: FillTurn | None = None,
) -> LoadResult:
    """Send a plan, warm-up first, and return what came back.

    In an open loop every session's first request has its `at_ns` (`bench.load.plan.schedule`). Warm-up requests
    without one are a closed loop of their own. `fill_turn` makes the payload of a later turn that has `messages`
    from the streams of the turns before it; None ends that session. A turn whose forerunner failed is never sent.
    Raises UsageError if the system allows too few open files, BenchError if the host is not known or a worker
    cannot be started, WorkerLost.
    """
    if not load.closed and any(turns[0].at_ns is None for turns in sessions(_of(planned, Phase.MEASURED))):
        raise ValueError("requests of an open loop need their times: see bench.load.plan.schedule")
    if fill_turn is None and any(request.messages is not None for request in planned):
        raise ValueError("turns with messages need a fill_turn")
    count = workers if workers is not None else _workers(load)
    if count < 1:
        raise UsageError(f"workers is {count}; it must be 1 or more")
    places = load.concurrency if load.closed else load.max_concurrency
    count = max(1, min(count, len(planned), places or count))
    require_open_files(-(-(places or 0) // count))
    begins = _begins(resolve(address), planned, load, count, round(timeout_s * 1e9))
    with keep_stamping(), _started(begins) as links:
        return _Run(links, planned, load, on_progress, stop or StopSignal(), fill_turn).run()


def _of(planned: Sequence[PlannedRequest], phase: Phase) -> list[PlannedRequest]:
    return [request for request in planned if request.phase is phase]


def _workers(load: Load) -> int:
    """As many as the load may need, and never more than half of the cores: the server may need the others."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    streams = load.concurrency or load.max_concurrency or 0
    needed = max(streams / STREAMS_PER_WORKER, (load.rate or 0) / RATE_PER_WORKER)
    return max(1, math.ceil(min(needed, cores // 2)))


def require_open_files(connections: int) -> None:
    """Raises UsageError if a worker could not have so many connections open."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and connections + OTHER_FILES > hard:
        raise UsageError(
            f"{connections} connections in one worker need {connections + OTHER_FILES} open files, and the system"
            f" allows {hard}: raise the limit (ulimit -Hn), use more workers, or lower the concurrency"
        )


def _begins(
    endpoint: Endpoint, planned: Sequence[PlannedRequest], load: Load, workers: int, timeout_ns: int
) -> list[Begin]:
    warmup, measured = _of(planned, Phase.WARMUP), _of(planned, Phase.MEASURED)
    places = load.concurrency if load.closed else load.max_concurrency
    warmup_places = max(workers, min(len(warmup), places or WARMUP_PLACES))
    parts = zip(split(warmup, warmup_places, workers), split(measured, places, workers), strict=True)
    offset = realtime_offset_ns()
    begins = []
    for worker, (warm, part) in enumerate(parts):
        connections, spare = _connections(part, load, workers)
        begins.append(
            Begin(
                worker=worker,
                endpoint=endpoint,
                timeout_ns=timeout_ns,
                clock_offset_ns=offset,
                requests=warm.requests + part.requests,
                places=part.places,
                warmup_places=warm.places or 1,
                connections=connections,
                spare=spare,
                closed=load.closed,
            )
        )
    return begins


def _connections(part: Part, load: Load, workers: int) -> tuple[int, int]:
    """How many to open ahead, and to keep ready beyond those in use: as a reserve, where the number in use varies."""
    most = len(part.requests) if part.places is None else min(part.places, len(part.requests))
    if load.closed or load.rate == math.inf:
        return most, 0
    rate = load.rate or 0.0
    if load.trace:
        rate = len(load.trace) / max(1.0, max(load.trace) * load.trace_scale)
    spare = min(most, SPARE[1], max(SPARE[0], math.ceil(rate * SPARE_SECONDS / workers)))
    return spare, spare


@dataclass(eq=False)
class _Link:
    """Our end of the line to a worker."""

    begin: Begin
    process: "subprocess.Popen[bytes]"
    line: socket.socket
    frames: FrameReader = field(default_factory=FrameReader)
    tick: Tick = field(default_factory=lambda: Tick(0, 0, 0))
    waiting: bool = True  # for its Ready or its Done
    lost: bool = False

    def send(self, message: ToWorker) -> None:
        with suppress(OSError):  # a worker that is gone is noticed when its line is read
            self.line.sendall(frame(message))


@contextmanager
def _started(begins: list[Begin]) -> Iterator[list[_Link]]:
    """Workers for as long as the block lasts, and none of them after it."""
    links: list[_Link] = []
    try:
        for begin in begins:
            links.append(_start(begin))
        yield links
    finally:
        for link in links:
            link.line.close()
        for link in links:
            try:
                link.process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                link.process.kill()
                link.process.wait()


def _start(begin: Begin) -> _Link:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-P", "-m", ENTRY_POINT, str(theirs.fileno())]
    with theirs:
        try:
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)  # noqa: S603 - our own command
        except OSError as error:
            ours.close()
            raise BenchError(f"a worker process could not be started: {error}") from None
    link = _Link(begin, process, ours)
    link.send(begin)
    return link


class _Run:
    """One run, from the workers' first word to their last."""

    def __init__(
        self,
        links: list[_Link],
        planned: Sequence[PlannedRequest],
        load: Load,
        on_progress: Callable[[Progress], None] | None,
        stop: StopSignal,
        fill_turn: FillTurn | None,
    ) -> None:
        self._links, self._load, self._stop = links, load, stop
        self._on_progress, self._fill_turn = on_progress, fill_turn
        self._result = LoadResult(workers=len(links))
        self._planned = {phase: _of(planned, phase) for phase in Phase}
        self._open: set[tuple[Phase, int]] = {(request.phase, request.index) for request in planned}
        self._turns = _following(planned) if fill_turn is not None else {}
        self._told: dict[tuple[Phase, int], list[RawStream]] = {}  # the streams of a session so far
        self._phase, self._phase_ns = Phase.WARMUP, now_ns()
        self._done = 0
        self._failed: Counter[str] = Counter()
        self._finished: list[RawStream] = []
        self._next_progress_ns = 0
        self._cancel_ns: int | None = None
        self._cancelled = False

    def run(self) -> LoadResult:
        offset, result = self._links[0].begin.clock_offset_ns, self._result
        with selectors.DefaultSelector() as selector:
            for link in self._links:
                selector.register(link.line, selectors.EVENT_READ, link)
            self._listen(selector)  # until all are ready
            result.started_ns = now_ns() + START_NS
            if self._planned[Phase.WARMUP] and not self._stop.is_set():
                self._run_phase(selector, Phase.WARMUP, result.started_ns, None)
            start = now_ns() + START_NS
            end = start + self._load.duration_ns if self._load.duration_ns is not None else None
            self._run_phase(selector, Phase.MEASURED, start, end)
        self._tell(always=True)
        ends = [s.ended_ns for s in result.streams if s.phase is Phase.MEASURED and s.sent_ns]
        last = max(ends, default=end or start)
        if end is None:
            end = last
        elif self._load.closed or self._stop.is_set():  # a supply that did not last
            end = min(end, last)
        result.window_ns = (start, end)
        result.clock_offset_moved_ns = realtime_offset_ns() - offset
        self._raise_if_lost()
        return result

    def _run_phase(self, selector: selectors.BaseSelector, phase: Phase, start: int, deadline: int | None) -> None:
        self._phase, self._phase_ns, self._done = phase, start, 0
        self._failed.clear()
        for link in self._links:
            link.waiting, link.tick = not link.lost, Tick(0, 0, 0)
            link.send(Go(phase, start, deadline))
        self._listen(selector)

    def _listen(self, selector: selectors.BaseSelector) -> None:
        """Until no worker has anything left to say in this phase."""
        while any(link.waiting for link in self._links):
            for key, _ in selector.select(LOOK_SECONDS):
                if not self._receive(key.data):
                    selector.unregister(key.fileobj)
            self._heed_stop()
            self._tell()

    def _receive(self, link: _Link) -> bool:
        """Read from a worker; false if it is gone."""
        data = b""
        with suppress(ConnectionError):
            data = link.line.recv(RECEIVE_BYTES)
        if not data:
            self._lose(link)
            return False
        for body in link.frames.feed(data):
            match from_worker(body):
                case Ended(stream):
                    self._take(link, stream)
                case Tick() as tick:
                    link.tick = tick
                case Report(health) if self._phase is Phase.MEASURED:
                    self._result.health.append(health)
                case Ready() | Done():
                    link.waiting = False
        return True

    def _take(self, link: _Link, stream: RawStream) -> None:
        key = (stream.phase, stream.index)
        self._open.discard(key)
        self._result.streams.append(stream)
        self._finished.append(stream)
        self._done += 1
        if (failure := failure_of(stream)) is not None:
            self._failed[failure] += 1
        if (following := self._turns.get(key)) is None:
            return
        told = [*self._told.pop(key, []), stream]
        self._told[(following.phase, following.index)] = told
        if self._fill_turn is not None and following.messages is not None and went_well(stream):
            link.send(Fill(following.index, self._fill_turn(following, told)))

    def _heed_stop(self) -> None:
        if not self._stop.is_set():
            return
        if self._cancel_ns is None:
            self._cancel_ns = now_ns() + round(self._stop.grace_s * 1e9)
            self._send_all(Drain())
        if not self._cancelled and (self._stop.at_once or now_ns() >= self._cancel_ns):
            self._cancelled = True
            self._send_all(Cancel())

    def _send_all(self, message: ToWorker) -> None:
        for link in self._links:
            link.send(message)

    def _lose(self, link: _Link) -> None:
        """A worker is gone: the others end, and the requests it had at work are broken."""
        link.lost, link.waiting = True, False
        self._stop.set()
        self._send_all(Cancel())

    def _raise_if_lost(self) -> None:
        lost = [link for link in self._links if link.lost]
        if not lost:
            return
        link = lost[0]
        status = link.process.wait()
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        for request in link.begin.requests:
            if (request.phase, request.index) in self._open:
                self._result.streams.append(_orphan(request, f"the worker process {how}"))
        raise WorkerLost(
            f"worker {link.begin.worker} of the load client {how}; {len(self._result.streams)} requests are recorded,"
            " the run is not valid",
            self._result,
        )

    def _tell(self, *, always: bool = False) -> None:
        if self._on_progress is None or not (always or now_ns() >= self._next_progress_ns):
            return
        ticks = [link.tick for link in self._links]
        finished, self._finished = self._finished, []
        self._on_progress(
            Progress(
                phase=self._phase,
                elapsed_s=max(0.0, (now_ns() - self._phase_ns) / 1e9),
                planned=len(self._planned[self._phase]),
                sent=sum(tick.sent for tick in ticks),
                done=self._done,
                in_flight=sum(tick.open_streams for tick in ticks),
                reads=sum(tick.reads for tick in ticks),
                failed=dict(self._failed),
                finished=finished,
            )
        )
        self._next_progress_ns = now_ns() + PROGRESS_NS


def _following(planned: Sequence[PlannedRequest]) -> dict[tuple[Phase, int], PlannedRequest]:
    """The turn after each turn, by phase and index."""
    return {
        (turn.phase, turn.index): following
        for phase in Phase
        for turns in sessions(_of(planned, phase))
        for turn, following in itertools.pairwise(turns)
    }


def _orphan(request: PlannedRequest, reason: str) -> RawStream:
    now = now_ns()
    return RawStream(
        index=request.index,
        phase=request.phase,
        scheduled_ns=now,
        sent_ns=0,
        ended_ns=now,
        broken=reason,
        cancelled=True,
    )

"""A worker process: one event loop that sends its part of a load and passes on what came back.

`python -m bench.client.worker FD` inherits one half of a socket pair; the first frame says all there is to do.
The end of that stream is the end of the parent, and so of the worker.
"""

import gc
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from contextlib import suppress

from bench.client.frames import (
    Begin,
    Cancel,
    Done,
    Ended,
    Fill,
    FrameReader,
    Go,
    Ready,
    Report,
    Tick,
    ToWorker,
    frame,
    to_worker,
)
from bench.client.health import Watch
from bench.client.http1 import went_well
from bench.client.loop import BATCH, Loop
from bench.load.plan import Feed
from bench.types import Phase, RawStream

RECEIVE_BYTES = 1 << 18
OUTBOX_BYTES = 1 << 18  # encoded and not yet taken by the parent; what is more stays as it is
TICK_NS = 200_000_000
SHIP_NS = 300_000  # spent on passing on results before the schedule is looked at again

_now = time.monotonic_ns


class Worker:
    def __init__(self, begin: Begin, commands: list[ToWorker], parent: socket.socket, frames: FrameReader) -> None:
        self._begin, self._parent, self._frames = begin, parent, frames
        self._commands = deque(commands)
        self._ended: deque[RawStream] = deque()
        self._outbox = bytearray()
        self._parent_mask = select.POLLIN
        self._feed: Feed | None = None
        self._turns = {request.index for request in begin.requests if request.session is not None}
        self._feeds = {phase: self._feed_of(phase) for phase in Phase}
        self._drained = False
        self._loop = Loop(
            begin.endpoint,
            Watch(begin.worker, _now()),
            timeout_ns=begin.timeout_ns,
            clock_offset_ns=begin.clock_offset_ns,
            on_end=self._on_end,
            on_other=self._on_parent,
        )
        parent.setblocking(False)
        self._loop.poller.register(parent.fileno(), self._parent_mask)

    def run(self) -> None:
        """Until the parent closes the line."""
        self._get_ready()
        self._write(Ready())
        self._ship()
        while True:
            self._loop.turn(_now() + TICK_NS)
            self._ship()
            while self._commands:
                command = self._commands.popleft()
                if isinstance(command, Go):
                    self._run_phase(command)
                else:
                    self._obey(command)

    def _run_phase(self, go: Go) -> None:
        loop = self._loop
        feed = self._feed = self._feeds[go.phase]
        feed.begin(go.start_ns, go.deadline_ns)
        if self._drained:
            feed.stop()
        watch = loop.watch = Watch(self._begin.worker, _now())
        gc.disable()
        next_tick_ns = 0
        while True:
            now_ns = self._start_due(feed)
            self._take_unsent(feed, now_ns)
            if now_ns >= next_tick_ns:
                self._write(Tick(watch.sends, watch.reads, loop.open_streams))
                next_tick_ns = now_ns + TICK_NS
            if now_ns >= watch.next_ns:
                self._report()
            if feed.finished:
                break
            due_ns = feed.next_due_ns()
            wake_ns = min(next_tick_ns, watch.next_ns, now_ns + TICK_NS if due_ns is None else due_ns)
            loop.turn(0 if self._ended and len(self._outbox) < OUTBOX_BYTES else wake_ns)
            self._ship()
            while self._commands:
                self._obey(self._commands.popleft())
        gc.enable()
        while self._ended:
            self._encode(self._ended.popleft())
        self._feed = None
        self._report()
        if go.phase is Phase.WARMUP:
            self._get_ready()
        self._write(Tick(watch.sends, watch.reads, 0))
        self._write(Done(go.phase))
        self._ship()

    def _feed_of(self, phase: Phase) -> Feed:
        begin, warmup = self._begin, phase is Phase.WARMUP
        requests = [request for request in begin.requests if request.phase is phase]
        return Feed(requests, begin.warmup_places if warmup else begin.places, closed=begin.closed or warmup)

    def _start_due(self, feed: Feed) -> int:
        """Send what is due, a batch at most, and return the time."""
        for _ in range(BATCH):
            due = feed.take(_now())
            if due is None:
                break
            self._loop.start(due)
        return _now()

    def _get_ready(self) -> None:
        """Do before a phase what would make it late: open its connections, and have the collector forget what stays."""
        gc.collect()
        gc.freeze()
        self._loop.open_ahead(self._begin.connections)
        while self._loop.connecting:
            self._loop.turn(_now() + TICK_NS)
        self._loop.spare = self._begin.spare

    def _take_unsent(self, feed: Feed, now_ns: int) -> None:
        self._ended += [
            RawStream(index=request.index, phase=request.phase, scheduled_ns=due_ns, sent_ns=0, ended_ns=now_ns)
            for request, due_ns in feed.unsent
        ]
        feed.unsent.clear()

    def _on_end(self, stream: RawStream) -> None:
        self._ended.append(stream)
        if self._feed is not None:
            goes_on = stream.index not in self._turns or went_well(stream)
            self._feed.ended(stream.index, stream.ended_ns, went_well=goes_on)

    def _obey(self, command: ToWorker) -> None:
        if isinstance(command, Fill):
            if self._feed is not None:
                self._feed.fill(command.index, command.payload, _now())
            return
        self._drained = True
        if self._feed is not None:
            self._feed.stop()
        if isinstance(command, Cancel):
            self._loop.cancel()

    def _report(self) -> None:
        loop = self._loop
        self._write(Report(loop.watch.report(_now(), open_streams=loop.open_streams, connections=loop.connections)))

    def _on_parent(self, fd: int, mask: int) -> None:
        if mask & ~select.POLLOUT:
            try:
                data = self._parent.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            if not data:
                os._exit(0)  # nobody is left to tell
            self._commands += map(to_worker, self._frames.feed(data))

    def _write(self, message: Ready | Tick | Report | Done) -> None:
        self._outbox += frame(message)

    def _encode(self, stream: RawStream) -> None:
        self._outbox += frame(Ended(stream))

    def _ship(self) -> None:
        """Encode what has ended, for a moment at most, and send as much as the parent takes."""
        if not (self._ended or self._outbox):
            return
        until_ns = _now() + SHIP_NS
        while self._ended and len(self._outbox) < OUTBOX_BYTES and _now() < until_ns:
            self._encode(self._ended.popleft())
        with suppress(BlockingIOError, ConnectionError):
            while self._outbox:
                del self._outbox[: self._parent.send(self._outbox)]
        mask = select.POLLIN | select.POLLOUT if self._outbox else select.POLLIN
        if mask != self._parent_mask:
            self._parent_mask = mask
            self._loop.poller.modify(self._parent.fileno(), mask)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    parent = socket.socket(fileno=int(sys.argv[1]))
    frames = FrameReader()
    bodies: list[bytes] = []
    while not bodies:
        data = parent.recv(RECEIVE_BYTES)
        if not data:
            return
        bodies = frames.feed(data)
    begin, *commands = map(to_worker, bodies)
    assert isinstance(begin, Begin)
    allow_open_files()
    Worker(begin, commands, parent, frames).run()


def allow_open_files() -> None:
    """Raise the limit on open files as far as the system lets us."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS has a lower limit of its own
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main()

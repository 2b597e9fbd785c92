"""The mock's event loop: one thread, every pending send in one heap, and a stamp before each.

Times inside are those of a clock that stands still while a stall lasts, so that afterwards everything goes on where
it was, as a frozen process does. Stamps are of the real clock.
"""

import gc
import heapq
import random
import select
import selectors
import socket
import ssl
import time
from collections import deque
from contextlib import suppress

import msgspec

from bench.mock import asked, pages
from bench.mock.answers import CONTENT, Author, Script
from bench.mock.asked import ROUTES, Asked, Refused
from bench.mock.behaviour import Behaviour, Fault
from bench.mock.connection import READ, WRITE, Connection
from bench.mock.http import Malformed, Request, error, head, response, take_request
from bench.mock.truth import Truth, TruthStream

BACKLOG = 4096
SENDS_BEFORE_LOOKING = 256  # at the sockets, for new requests
CONTROLS = ("/truth", "/reset", "/behaviour")  # the pages about the mock itself

clock = time.monotonic_ns


class Answer:
    """A request being answered."""

    __slots__ = ("connection", "log", "position", "random", "script", "waiting")

    def __init__(self, connection: Connection, script: Script, log: TruthStream, draw: random.Random | None) -> None:
        self.connection = connection
        self.script = script
        self.log = log
        self.random = draw
        self.position = 0
        self.waiting = False  # for the socket to take more


class Loop:
    """Serves `listener` until `parent`, if any, is closed at the other end."""

    def __init__(
        self,
        listener: socket.socket,
        behaviour: Behaviour,
        parent: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._listener = listener
        self._parent = parent
        self._tls = tls
        self._selector = selectors.DefaultSelector()
        self._heap: list[tuple[int, int, Answer]] = []
        self._order = 0  # of entries with the same time
        self._queue: deque[tuple[Answer, Asked]] = deque()
        self._frozen_ns = 0  # how long all stalls have lasted
        self._running = 0
        self._behave(behaviour)

    def _behave(self, behaviour: Behaviour) -> None:
        """Take on a behaviour; the truth begins anew."""
        self._behaviour = behaviour
        self._author = Author(behaviour)
        self._itl_ns = behaviour.itl_ns
        self._plain = not (behaviour.itl_sigma or behaviour.itl_load_ms)
        self._reset()

    def _reset(self) -> None:
        self._truth = Truth()
        self._counters = pages.Counters()
        self._stalls = deque(sorted(self._behaviour.stalls, key=lambda stall: stall.at_s))

    # The loop

    def run(self) -> None:
        gc.collect()
        gc.freeze()
        gc.disable()
        self._listener.setblocking(False)
        self._selector.register(self._listener, READ, self._accept)
        if self._parent is not None:
            self._selector.register(self._parent, READ, None)
        while True:
            due = self._send_due()
            ready = self._selector.select(0) if due is not None and due <= 0 else self._wait(due)
            for key, events in ready:
                if key.data is None:
                    return
                if isinstance(key.data, Connection):
                    self._serve(key.data, events)
                else:
                    key.data()

    def _wait(self, nanoseconds: int | None) -> list[tuple[selectors.SelectorKey, int]]:
        """Until a socket is ready, or so long. Selectors round up to milliseconds; select itself does not."""
        seconds = None if nanoseconds is None else nanoseconds / 1e9
        select.select([self._selector], [], [], seconds)
        return self._selector.select(0)

    def _send_due(self) -> int | None:
        """Send everything whose time has come. Return how long to wait for the next (None = nothing is pending)."""
        heap = self._heap
        self._stall()
        now = clock() - self._frozen_ns
        for _ in range(SENDS_BEFORE_LOOKING):
            if not heap or heap[0][0] > now:
                break
            due, _, answer = heap[0]
            if self._send_next(answer):
                self._order += 1
                heapq.heapreplace(heap, (due + self._gap(answer), self._order, answer))
            else:
                heapq.heappop(heap)
        if self._stalls and self._truth.first_request_ns:
            upcoming = self._truth.first_request_ns + round(self._stalls[0].at_s * 1e9) - clock()
            return max(0, min(upcoming, heap[0][0] - clock() + self._frozen_ns) if heap else upcoming)
        return heap[0][0] - clock() + self._frozen_ns if heap else None

    def _stall(self) -> None:
        while self._stalls and self._truth.first_request_ns:
            stall = self._stalls[0]
            begin = clock()
            if begin < self._truth.first_request_ns + round(stall.at_s * 1e9):
                return
            self._stalls.popleft()
            time.sleep(stall.for_s)
            end = clock()
            self._frozen_ns += end - begin
            self._truth.stalls.append((begin, end))

    def _send_next(self, answer: Answer) -> bool:
        """Send the next piece of an answer. Return whether there is another to be timed."""
        script, i = answer.script, answer.position
        connection = answer.connection
        if not connection.open:
            return False
        if i < len(script.sends):
            events = script.events[i]
            at = clock()
            if events == 1:
                answer.log.sent_ns.append(at)
            elif events:
                answer.log.sent_ns.extend([at] * events)
            self._write(connection, script.sends[i])
            if not connection.open:
                return False
            answer.position = i = i + 1
        if i >= len(script.sends):
            self._finish(answer)
            return False
        if connection.backlog:
            answer.waiting = True
            return False
        return True

    def _gap(self, answer: Answer) -> int:
        weight = answer.script.weights[answer.position]
        if self._plain or not weight:
            return weight * self._itl_ns
        mean = self._behaviour.itl_ms + self._behaviour.itl_load_ms * (self._running - 1)
        return weight * _draw(answer.random, mean, self._behaviour.itl_sigma)

    # Sockets

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            while True:
                sock, _ = self._listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls is not None:
                    sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                self._truth.connections += 1
                Connection(sock, self._selector)

    def _serve(self, connection: Connection, events: int) -> None:
        if events & WRITE:
            self._flush(connection)
        if events & READ and connection.open:
            if connection.receive():
                self._take(connection)
            else:
                self._drop(connection)

    def _take(self, connection: Connection) -> None:
        """Answer the request at the front of what was read, unless an earlier one is still being answered."""
        while connection.open and connection.current is None and connection.buffer and not connection.closing:
            try:
                request = take_request(connection.buffer)
            except Malformed as reason:
                connection.closing = True
                self._write(connection, error(400, str(reason), "invalid_request_error", "connection: close"))
                self._close_when_sent(connection)
                return
            if request is None:
                return
            self._handle(connection, request)

    def _write(self, connection: Connection, data: bytes) -> None:
        waited, size = bool(connection.backlog), self._behaviour.fragment
        if size and len(data) > size:
            there = all(connection.write(data[start : start + size]) for start in range(0, len(data), size))
        else:
            there = connection.write(data)
        if not there:
            self._drop(connection)
        elif connection.backlog and not waited:
            self._truth.blocked += 1

    def _flush(self, connection: Connection) -> None:
        if not connection.flush():
            self._drop(connection)
            return
        if connection.backlog:
            return
        answer = connection.current
        if answer is not None and answer.waiting:
            answer.waiting = False
            self._push(answer, clock() - self._frozen_ns)
        if connection.closing:
            self._drop(connection)

    def _close_when_sent(self, connection: Connection) -> None:
        connection.closing = True
        if not connection.backlog:
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        """Close a connection; an answer that was still under way ends with it."""
        if not connection.open:
            return
        connection.close()
        answer = connection.current
        if answer is not None:
            answer.log.left = not connection.closing
            self._finish(answer)

    # Requests

    def _handle(self, connection: Connection, request: Request) -> None:
        received = clock()
        behaviour = self._behaviour
        try:
            if request.path in CONTROLS:
                self._write(connection, self._control(request))
                return
            if behaviour.key is not None and request.headers.get("authorization") != f"Bearer {behaviour.key}":
                raise Refused(401, "the API key is missing or wrong", "AuthenticationError")
            if request.method == "POST" and request.path in ROUTES and self._has(request.path):
                self._generate(connection, request, received)
                return
            content_type, body = pages.page(request.method, request.path, request.body, behaviour, self._counted())
            self._write(connection, response(200, content_type, body))
        except Refused as refused:
            self._write(connection, error(refused.status, str(refused), refused.kind))

    def _has(self, path: str) -> bool:
        behaviour = self._behaviour
        if path == "/v1/completions":
            return not behaviour.chat_only
        return path.startswith("/v1/") or behaviour.kind in ("mock", "tgi")

    def _counted(self) -> pages.Counters:
        self._counters.running = self._running
        self._counters.waiting = len(self._queue)
        return self._counters

    def _control(self, request: Request) -> bytes:
        if request.path == "/truth":
            if request.headers.get("accept") == "application/msgpack":
                return response(200, "application/msgpack", msgspec.msgpack.encode(self._truth))
            return response(200, "application/json", msgspec.json.encode(self._truth))
        if request.path == "/reset" and request.method == "POST":
            self._reset()
            return response(200, "application/json", b"{}")
        if request.path == "/behaviour" and request.method == "POST":
            try:
                self._behave(msgspec.json.decode(request.body, type=Behaviour))
            except msgspec.MsgspecError as reason:
                raise Refused(422, str(reason)) from None
            return response(200, "application/json", b"{}")
        raise Refused(404, f"there is no {request.method} {request.path} here")

    def _generate(self, connection: Connection, request: Request, received: int) -> None:
        behaviour, truth = self._behaviour, self._truth
        wanted = asked.read(request.path, request.body, behaviour)
        log = TruthStream(
            number=len(truth.streams),
            api=wanted.api,
            prompt_tokens=wanted.prompt_tokens,
            output_tokens=wanted.output_tokens,
            received_ns=received,
        )
        truth.streams.append(log)
        truth.first_request_ns = truth.first_request_ns or received
        needs_draws = behaviour.faults or behaviour.ttft_sigma or behaviour.itl_sigma
        draw = random.Random(behaviour.seed << 32 | log.number) if needs_draws else None  # noqa: S311 - made-up delays
        fault = _fault(draw, behaviour)
        log.fault = fault.kind if fault else None
        number = f"x-mock-stream: {log.number}"
        full = self._running >= behaviour.slots if behaviour.slots is not None else False
        if full and behaviour.queue is not None and len(self._queue) >= behaviour.queue:
            log.status, log.ended_ns = 429, clock()
            self._write(connection, error(429, "the queue is full", "overloaded", number, "retry-after: 1"))
            return
        if fault is not None and fault.kind == "status":
            log.status, log.ended_ns = fault.value, clock()
            self._write(connection, error(fault.value, "the mock was told to fail here", "server_error", number))
            return
        script = self._script(wanted, fault, number)
        answer = Answer(connection, script, log, draw)
        connection.current = answer
        if wanted.stream and not (fault and fault.kind == "json"):
            self._write(connection, self._stream_head(number) + script.opening)
            if not connection.open:
                return
        if full:
            self._queue.append((answer, wanted))
        else:
            # From when the request came: what the loop was busy with since then is no part of its time.
            self._start(answer, wanted, received)

    def _script(self, wanted: Asked, fault: Fault | None, number: str) -> Script:
        if wanted.stream and not (fault and fault.kind == "json"):
            return self._author.script(wanted, fault)
        whole = response(200, "application/json", self._author.whole(wanted), number)
        return Script([whole], [wanted.output_tokens - 1], [1], [wanted.output_tokens], [CONTENT])

    def _stream_head(self, number: str) -> bytes:
        behaviour = self._behaviour
        lines = [number, "cache-control: no-cache"]
        if behaviour.framing == "chunked":
            lines.append("transfer-encoding: chunked")
        if behaviour.framing == "close" or behaviour.connection == "close":
            lines.append("connection: close")
        return head(200, "text/event-stream; charset=utf-8", *lines)

    def _start(self, answer: Answer, wanted: Asked, since: int) -> None:
        """Give an answer a slot: its first piece is due a TTFT after `since`."""
        behaviour = self._behaviour
        self._running += 1
        answer.log.started_ns = since
        self._counters.prompt_tokens += wanted.prompt_tokens
        mean = behaviour.ttft_ms + behaviour.prefill_us * wanted.prompt_tokens / 1e3
        delay = _draw(answer.random, mean, behaviour.ttft_sigma)
        if not wanted.stream:
            delay += self._gap(answer)
        self._push(answer, since - self._frozen_ns + delay)

    def _push(self, answer: Answer, due: int) -> None:
        self._order += 1
        heapq.heappush(self._heap, (due, self._order, answer))

    def _finish(self, answer: Answer) -> None:
        """The last piece of an answer was sent, or its connection is gone: its slot is free."""
        connection, log = answer.connection, answer.log
        if answer.script.hangs and connection.open:
            return
        connection.current = None
        log.ended_ns = clock()
        log.tokens = answer.script.tokens[: len(log.sent_ns)]
        log.kinds = answer.script.kinds[: len(log.sent_ns)]
        self._counters.requests += 1
        self._counters.generated_tokens += sum(log.tokens)
        if log.started_ns:
            self._running -= 1
            self._start_next()
        else:
            self._queue = deque(waiting for waiting in self._queue if waiting[0] is not answer)
        if not connection.open:
            return
        if answer.script.closes:
            self._close_when_sent(connection)
        else:
            self._take(connection)

    def _start_next(self) -> None:
        if self._queue:
            answer, wanted = self._queue.popleft()
            self._start(answer, wanted, clock())


def _draw(draw: random.Random | None, mean_ms: float, sigma: float) -> int:
    """Nanoseconds; log-normal with that mean where `sigma` is above 0."""
    if not sigma or draw is None:
        return round(mean_ms * 1e6)
    # A log-normal's mean is exp(mu + sigma^2 / 2).
    return round(mean_ms * 1e6 * draw.lognormvariate(-sigma * sigma / 2, sigma))


def _fault(draw: random.Random | None, behaviour: Behaviour) -> Fault | None:
    """One draw decides between the faults, so that their rates add up."""
    if draw is None or not behaviour.faults:
        return None
    at = draw.random()
    for fault in behaviour.faults:
        if at < fault.rate:
            return fault
        at -= fault.rate
    return None

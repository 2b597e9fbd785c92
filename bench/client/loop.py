"""The event loop of a worker: many connections, one thread, and nothing done that could be done later.

For each read: one `recvmsg`, two stamps, one append. Requests that are due are sent between small batches of
reads, so that a flood of tokens does not make them late.
"""

import itertools
import select
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from bench.client.address import Endpoint
from bench.client.connection import Connection, TlsConnection
from bench.client.health import Watch
from bench.client.http1 import ResponseEnd
from bench.load.plan import Due
from bench.types import RawStream, Read

if TYPE_CHECKING:
    import ssl

BATCH = 64  # reads between two looks at the schedule
CONNECTING = 128  # at once; a server's backlog is finite, and what it drops comes back a second later
CONNECT_NS = 10_000_000_000
FINE_NS = 3_000_000  # waits shorter than this are timed by select, to microseconds; poll knows only milliseconds
BILLION = 1_000_000_000
POLLIN, POLLOUT = select.POLLIN, select.POLLOUT

_now = time.monotonic_ns


class Exchange:
    """A request in flight, and what has come of its response."""

    __slots__ = ("broken", "due", "idle_before", "reads", "resent", "response", "reused", "sent_ns")

    def __init__(self, due: Due) -> None:
        self.due = due
        self.sent_ns = 0
        self.reads: list[Read] = []
        self.response = ResponseEnd()
        self.reused = False
        self.idle_before = False  # sent on a connection that the server might have been closing meanwhile
        self.resent = False

    def stream(
        self,
        ended_ns: int,
        *,
        broken: str | None = None,
        connect_error: str | None = None,
        timed_out: bool = False,
        cancelled: bool = False,
    ) -> RawStream:
        return RawStream(
            index=self.due.request.index,
            phase=self.due.request.phase,
            scheduled_ns=self.due.scheduled_ns,
            sent_ns=self.sent_ns,
            ended_ns=ended_ns,
            reads=self.reads,
            connect_error=connect_error,
            broken=broken,
            timed_out=timed_out,
            cancelled=cancelled,
            reused=self.reused,
        )


class EpollPoller:
    """Linux. Waits with the precision of the kernel's timers, which poll and epoll_wait hide."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.register, self.modify, self.unregister = self._epoll.register, self._epoll.modify, self._epoll.unregister

    def wait(self, wait_ns: int) -> list[tuple[int, int]]:
        """Ready sockets as (fd, mask); after `wait_ns` at the latest."""
        if wait_ns <= 0:
            return self._epoll.poll(0, BATCH)
        if wait_ns < FINE_NS:
            select.select([self._epoll], [], [], wait_ns / BILLION)
            return self._epoll.poll(0, BATCH)
        return self._epoll.poll((wait_ns - FINE_NS // 2) / BILLION, BATCH)

    def close(self) -> None:
        self._epoll.close()


class Poller:
    """Everywhere else: poll, to the millisecond."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self.register, self.modify, self.unregister = self._poll.register, self._poll.modify, self._poll.unregister

    def wait(self, wait_ns: int) -> list[tuple[int, int]]:
        return self._poll.poll(max(0, wait_ns) // 1_000_000)[:BATCH]

    def close(self) -> None:
        """There is nothing to close."""


class Loop:
    """Sends requests and collects their responses; `on_end` is told of each that has ended, however.

    `on_other` is called for a file descriptor that was registered with `poller` from outside.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        watch: Watch,
        *,
        timeout_ns: int,
        clock_offset_ns: int,
        on_end: Callable[[RawStream], None],
        on_other: Callable[[int, int], None],
        spare: int = 0,
    ) -> None:
        self.poller = EpollPoller() if hasattr(select, "epoll") else Poller()
        self.spare = spare
        self.watch = watch
        self._endpoint, self._offset, self._timeout = endpoint, clock_offset_ns, timeout_ns
        self._on_end, self._on_other = on_end, on_other
        self._tls = _tls_context() if endpoint.server_name is not None else None
        self._connections: dict[int, Connection] = {}
        self._connecting: dict[Connection, None] = {}  # the oldest first
        self._idle: list[Connection] = []  # the last used at the end: the least likely to be closed by the server
        self._homeless: deque[Exchange] = deque()  # due, and waiting for a connection
        self._flying: dict[Exchange, Connection | None] = {}  # the first sent, or to be sent, first
        self._ahead = 0  # connections still to be opened before anybody needs them
        self._closed: list[Connection] = []  # but for their sockets
        self._stirred = False  # something happened in this turn besides bytes of streams

    @property
    def open_streams(self) -> int:
        return len(self._flying)

    @property
    def connections(self) -> int:
        return len(self._connections)

    @property
    def connecting(self) -> bool:
        return bool(self._connecting or self._ahead)

    def open_ahead(self, count: int) -> None:
        """Begin to open connections, until there are so many."""
        self._ahead = max(0, count - len(self._connections))
        self._connect()

    def start(self, due: Due) -> None:
        """Send a request on an idle connection, or as soon as there is a new one."""
        exchange = Exchange(due)
        if self._idle:
            connection = self._idle.pop()
            exchange.idle_before = True
            self._send(connection, exchange)
        else:
            self._flying[exchange] = None
            self._homeless.append(exchange)
        self._ahead = max(self._ahead, self.spare - len(self._idle))
        self._connect()

    def cancel(self) -> None:
        """End everything in flight."""
        for exchange in list(self._flying):
            self._drop(exchange, exchange.stream(_now(), cancelled=True))

    def close(self) -> None:
        for connection in [*self._connections.values()]:
            self._close(connection)
        self._close_sockets()
        self.poller.close()

    def turn(self, until_ns: int) -> None:
        """Do what the sockets ask for until a stream or something else than a stream ends the wait, or `until_ns`."""
        oldest = next(iter(self._connecting), None)
        if oldest is not None:
            until_ns = min(until_ns, oldest.begun_ns + CONNECT_NS)
        until_ns = min(until_ns, self._next_timeout_ns())
        wait, connections, now_ns = self.poller.wait, self._connections, _now()
        self._stirred = False
        while True:
            for fd, mask in wait(until_ns - now_ns):
                connection = connections.get(fd)
                if connection is None:
                    self._stirred = True
                    self._on_other(fd, mask)
                elif connection.is_open:
                    if mask & POLLOUT:
                        self._flush(connection)
                    if mask & ~POLLOUT:
                        self._read(connection)
                else:
                    self._stirred = True
                    self._advance(connection)
            # Not before the end of the batch: a new socket with the same number would be given events of the old one.
            self._close_sockets()
            now_ns = _now()
            if self._stirred or now_ns >= until_ns:
                break
        self._time_out(now_ns)

    def _next_timeout_ns(self) -> int:
        first = next(iter(self._flying), None)
        return (first.sent_ns or first.due.ready_ns) + self._timeout if first is not None else 1 << 62

    def _read(self, connection: Connection) -> None:
        try:
            read = connection.receive()
        except OSError as error:
            self._lost(connection, error.strerror or str(error))
            return
        if read is None:
            return
        exchange = connection.exchange
        if exchange is None or not read.data:
            self._lost(connection, None)
            return
        watch = self.watch
        watch.reads += 1
        if read.kernel_ns:
            watch.lags.append(read.user_ns - read.kernel_ns)
        exchange.reads.append(read)
        if exchange.response.feed(read.data):
            self._ended(connection, exchange, read.user_ns)

    def _ended(self, connection: Connection, exchange: Exchange, now_ns: int) -> None:
        """The response is over: the connection is free again, if both sides left it in order."""
        self._stirred = True
        response = exchange.response
        connection.exchange = None
        connection.carried += 1
        if response.keep_alive and connection.wants == POLLIN:
            if self._homeless:
                self._send(connection, self._homeless.popleft())
            else:
                self._idle.append(connection)
        else:
            self._close(connection)
        self._finish(exchange, exchange.stream(now_ns, broken=response.error))

    def _lost(self, connection: Connection, reason: str | None) -> None:
        """The connection ended; `reason` is the system's, None if the server closed it in order."""
        self._stirred = True
        exchange = connection.exchange
        self._close(connection)
        if exchange is None:
            return
        if not exchange.reads and exchange.idle_before and not exchange.resent:
            # The server closed an idle connection just when it was to be used again: nobody has seen the request.
            exchange.resent, exchange.idle_before, exchange.reused = True, False, False
            self._flying[exchange] = None
            self._homeless.appendleft(exchange)
            self._connect()
            return
        missing = exchange.response.close()
        if reason is not None and not exchange.response.over:
            missing = f"the connection broke: {reason}"
        self._finish(exchange, exchange.stream(_now(), broken=missing))

    def _finish(self, exchange: Exchange, stream: RawStream) -> None:
        del self._flying[exchange]
        self._on_end(stream)

    def _drop(self, exchange: Exchange, stream: RawStream) -> None:
        """Give up a request, wherever it is."""
        connection = self._flying[exchange]
        if connection is None:
            self._homeless.remove(exchange)
        else:
            self._close(connection)
        self._finish(exchange, stream)

    def _send(self, connection: Connection, exchange: Exchange) -> None:
        request = exchange.due.request
        exchange.reused = connection.carried > 0
        connection.exchange = exchange
        self._flying.pop(exchange, None)
        self._flying[exchange] = connection
        self.watch.sends += not exchange.resent
        exchange.sent_ns = _now()
        if request.at_ns is not None:
            self.watch.lates.append(exchange.sent_ns - exchange.due.ready_ns)
        try:
            connection.send(request.payload)
        except OSError:
            connection.wants = 0  # the poller reports the end; an answer may have come before it
        if connection.wants & POLLOUT:
            self.poller.modify(connection.fd, connection.wants)

    def _flush(self, connection: Connection) -> None:
        try:
            connection.flush()
        except OSError:
            connection.wants = 0
        if not connection.wants & POLLOUT:
            self.poller.modify(connection.fd, POLLIN)

    def _connect(self) -> None:
        """Open connections for those who wait for one, and ahead of those who will."""
        while len(self._connecting) < min(CONNECTING, len(self._homeless) + self._ahead):
            try:
                if self._tls is not None:
                    connection: Connection = TlsConnection(self._endpoint, self._offset, self._tls)
                else:
                    connection = Connection(self._endpoint, self._offset)
            except OSError as error:
                self._not_connected(error.strerror or str(error))
                continue
            self._connecting[connection] = None
            self._connections[connection.fd] = connection
            self.poller.register(connection.fd, connection.wants)

    def _advance(self, connection: Connection) -> None:
        before = connection.wants
        try:
            connection.advance()
        except OSError as error:
            self._close(connection)
            self._not_connected(error.strerror or str(error))
            self._connect()
            return
        if connection.wants != before:
            self.poller.modify(connection.fd, connection.wants)
        if connection.is_open:
            del self._connecting[connection]
            if self._homeless:
                self._send(connection, self._homeless.popleft())
            else:
                self._idle.append(connection)
                self._ahead = max(0, self._ahead - 1)
            self._connect()

    def _not_connected(self, reason: str) -> None:
        """A connection could not be made: the first that waits for one fails, or nobody needed it yet."""
        if self._homeless:
            exchange = self._homeless.popleft()
            self._finish(exchange, exchange.stream(_now(), connect_error=reason))
        else:
            self._ahead = max(0, self._ahead - 1)

    def _time_out(self, now_ns: int) -> None:
        for connection in [*itertools.takewhile(lambda c: c.begun_ns + CONNECT_NS <= now_ns, self._connecting)]:
            self._close(connection)
            self._not_connected(f"no connection within {CONNECT_NS // BILLION} s")
            self._connect()
        while self._next_timeout_ns() <= now_ns:
            exchange = next(iter(self._flying))
            self._drop(exchange, exchange.stream(now_ns, timed_out=True))

    def _close(self, connection: Connection) -> None:
        del self._connections[connection.fd]
        self._connecting.pop(connection, None)
        if connection in self._idle:
            self._idle.remove(connection)
        self.poller.unregister(connection.fd)
        self._closed.append(connection)

    def _close_sockets(self) -> None:
        for connection in self._closed:
            connection.close()
        self._closed.clear()


def _tls_context() -> "ssl.SSLContext":
    import ssl

    return ssl.create_default_context()

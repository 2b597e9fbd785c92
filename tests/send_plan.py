"""Sends a plan through a load client's event loop in this process, as a worker does in its own."""

import contextlib
import select
import socket
from collections.abc import Iterator, Sequence

from bench.client.address import Endpoint
from bench.client.clock import now_ns, realtime_offset_ns
from bench.client.connection import Connection, keep_stamping
from bench.client.health import Watch
from bench.client.loop import Loop
from bench.load.plan import Feed
from bench.types import PlannedRequest, RawStream


def post(index: int, body: bytes = b"{}", **changes) -> PlannedRequest:
    head = b"POST /generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    return PlannedRequest(index=index, payload=head + body, **changes)


def send_all(
    endpoint: Endpoint,
    requests: Sequence[PlannedRequest],
    *,
    places: int = 1,
    ahead: int = 0,
    timeout_s: float = 60.0,
) -> list[RawStream]:
    """A closed loop until all have ended; `ahead` connections are opened before it begins."""
    streams: list[RawStream] = []

    def on_end(stream: RawStream) -> None:
        streams.append(stream)
        feed.ended(stream.index, stream.ended_ns, went_well=True)

    def on_other(fd: int, mask: int) -> None:
        raise AssertionError(f"file {fd} is not of this loop")

    loop = Loop(
        endpoint,
        Watch(0, now_ns()),
        timeout_ns=round(timeout_s * 1e9),
        clock_offset_ns=realtime_offset_ns(),
        on_end=on_end,
        on_other=on_other,
    )
    try:
        loop.open_ahead(ahead)
        while loop.connecting:
            loop.turn(now_ns() + 1_000_000_000)
        feed = Feed(requests, places, closed=True)
        feed.begin(now_ns())
        while not feed.finished:
            while (due := feed.take(now_ns())) is not None:
                loop.start(due)
            loop.turn(now_ns() + 1_000_000_000 if feed.next_due_ns() is None else 0)
    finally:
        loop.close()
    return streams


@contextlib.contextmanager
def stamping() -> Iterator[None]:
    """The kernel stamps packets from the first one on, until the block ends."""
    with keep_stamping(), socket.create_server(("127.0.0.1", 0)) as listening:
        ours = Connection(Endpoint(socket.AF_INET, "127.0.0.1", listening.getsockname()[1]), 0)
        theirs, _ = listening.accept()
        with theirs, contextlib.closing(ours):
            stamped = False
            while not stamped:
                theirs.send(b"x")
                select.select([ours.socket], [], [])
                read = ours.receive()
                stamped = read is not None and read.kernel_ns > 0
        yield

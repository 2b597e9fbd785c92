"""HTTP/1.1 with limits on what a connection may send before anything is answered.

uvicorn reads headers of any size, and waits for them and for bodies as long as a client likes. ASGI cannot
change that: an application is called when the headers are complete.
"""

import asyncio

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 32 << 10  # request line and headers
MAX_HEADERS = 200
HEAD_SECONDS = 10.0  # from the connection, or the first byte of a further request, to the end of the headers
BODY_SECONDS = 30.0  # from there to the end of the body
SECONDS_PER_BYTE = 1e-5  # more for announced bodies: 100 kB a second

TOO_LARGE = b"The request line and headers are larger than this server accepts"
TOO_SLOW = b"The request did not arrive in time"


class LimitedProtocol(HttpToolsProtocol):
    """Answers 431 and 408 where a limit is exceeded, and closes the connection."""

    _in_head = True
    _head_bytes = 0  # of headers that have no end yet
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        super().connection_made(transport)
        self._expect_within(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        # What came with the end of the headers may be the body, so they count only while there is no end.
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(b"431 Request Header Fields Too Large", TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._expect_within(HEAD_SECONDS)

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self._refuse(b"431 Request Header Fields Too Large", TOO_LARGE)
            raise httptools.HttpParserError("the headers are too large")
        self._in_head, self._head_bytes = False, 0
        announced = next((value for name, value in self.headers if name == b"content-length"), b"0")
        self._expect_within(BODY_SECONDS + int(announced) * SECONDS_PER_BYTE)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._expect_nothing()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        if not self.transport.is_closing():  # else it has been refused already
            super().send_400_response(msg)

    def _expect_within(self, seconds: float) -> None:
        self._expect_nothing()
        self._deadline = self.loop.call_later(seconds, self._too_slow)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        if self.flow.read_paused:  # it is this side that does not read, while earlier requests are answered
            self._expect_within(BODY_SECONDS)
        else:
            self._refuse(b"408 Request Timeout", TOO_SLOW)

    def _refuse(self, status: bytes, text: bytes) -> None:
        """Say why, unless that would fall into another answer, and close."""
        self._expect_nothing()
        cycle = self.cycle
        unanswered = not self._in_head and not cycle.response_started and not self.pipeline
        if cycle is None or cycle.response_complete or unanswered:
            head = b"HTTP/1.1 %b\r\ncontent-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            self.transport.write(head % (status, len(text)) + text)
        self.transport.close()

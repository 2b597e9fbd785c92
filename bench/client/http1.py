"""When is an HTTP/1.1 response over? Just enough of RFC 9112 to know, one read at a time.

The answer decides when a request has ended and whether its connection can carry another one. Nothing is
decoded here: the bytes are kept as they came and are understood after the stream has ended. While a chunked
body arrives, a read is not even looked at unless its last bytes could be the last of the response.
"""

import re
from collections.abc import Sequence

from bench.types import RawStream, Read

MAX_HEAD = 1 << 18
MAX_LINE = 1 << 14
CHUNKED_END = b"\r\n\r\n"  # of the last chunk, with or without trailers

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) (\d{3})(?: [^\r\n]*)?\r?\n")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")

_HEAD, _LENGTH, _CHUNKS, _TRAILERS, _UNTIL_CLOSE, _OVER = range(6)


class ResponseEnd:
    """Follows one response. `over` once it has ended; `error` says what was not HTTP/1.1 in it."""

    __slots__ = ("_pending", "_rest", "_state", "_to_skip", "error", "keep_alive", "over", "status")

    def __init__(self) -> None:
        self.status = 0
        self.over = False
        self.keep_alive = False  # the connection can be used again, now that the response is over
        self.error: str | None = None
        self._state = _HEAD
        self._to_skip = 0  # bytes of the body, or of a chunk with the line end after it
        self._rest = b""  # the beginning of a line or of a head
        self._pending: list[bytes] = []  # came, and not looked at yet

    def feed(self, data: bytes) -> bool:
        """Take a read; true when the response is over.

        True at once if the read ends with the response, as all do when a server is asked one thing at a time;
        bytes after the end may hide it until `settle`.
        """
        if self._state == _CHUNKS and len(data) > 3 and not data.endswith(CHUNKED_END):
            self._pending.append(data)
            return False
        return self._advance(data)

    def settle(self) -> bool:
        """Look at everything that came; true when the response is over."""
        return self._advance(b"")

    def close(self) -> str | None:
        """The connection was closed: None if the response was complete, else what is missing."""
        if self.settle() and self.error is None:
            return None
        if self.error is not None:
            return self.error
        if self._state == _UNTIL_CLOSE:
            self.over = True
            return None
        missing = {
            _HEAD: "in the head of the response" if self._rest else "before the response",
            _LENGTH: f"{self._to_skip} bytes before the end of the response",
        }
        return "the connection was closed " + missing.get(self._state, "inside a chunked response")

    def _advance(self, data: bytes) -> bool:
        if self._pending:
            data = b"".join([*self._pending, data])
            self._pending.clear()
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at = 0
        while not self.over:
            before = self._state
            at = self._step(data, at)
            if self._state == before:
                break
        if self.over:
            self.keep_alive = self.keep_alive and at == len(data)
        elif self._state in (_HEAD, _CHUNKS, _TRAILERS):
            self._rest = data[at:]
        return self.over

    def _step(self, data: bytes, at: int) -> int:
        """Go on from `at` until the state changes or the data ends; return the first byte not used."""
        if self._state == _HEAD:
            return self._read_head(data, at)
        if self._state == _CHUNKS:
            return self._read_chunks(data, at)
        if self._state == _TRAILERS:
            return self._read_trailers(data, at)
        if self._state == _LENGTH:
            used = min(self._to_skip, len(data) - at)
            self._to_skip -= used
            if not self._to_skip:
                self._end()
            return at + used
        return len(data)

    def _end(self) -> None:
        self._state = _OVER
        self.over = True

    def _fail(self, reason: str) -> None:
        self.error = f"the server does not speak HTTP/1.1: {reason}"
        self.keep_alive = False
        self._end()

    def _read_head(self, data: bytes, at: int) -> int:
        while (end := _HEAD_END.search(data, at)) is not None:
            line = _STATUS_LINE.match(data, at)
            if line is None:
                break
            status = int(line[2])
            if not 100 <= status < 200 or status == 101:
                self.status = status
                self._choose_framing(line[1] == b"1", _fields(data[line.end() : end.start()]))
                return end.end()
            at = end.end()  # an interim response: the final one follows
        begin = data[at : at + 20]
        if end is not None or not b"HTTP/1.".startswith(begin[:7]):
            self._fail(f"the response begins with {begin!r}")
        elif len(data) - at > MAX_HEAD:
            self._fail(f"the head of the response is larger than {MAX_HEAD} bytes")
        return at

    def _choose_framing(self, is_1_1: bool, fields: dict[bytes, list[bytes]]) -> None:
        """RFC 9112, section 6.3: how the length of this body is known."""
        connection = [option.strip() for value in fields.get(b"connection", []) for option in value.lower().split(b",")]
        self.keep_alive = b"close" not in connection and (is_1_1 or b"keep-alive" in connection)
        codings = [c.strip() for value in fields.get(b"transfer-encoding", []) for c in value.lower().split(b",")]
        lengths = {c.strip() for value in fields.get(b"content-length", []) for c in value.split(b",")}
        if self.status in (204, 304):
            self._end()
        elif codings and codings[-1] == b"chunked":
            self._state = _CHUNKS
        elif codings or not lengths:
            self._state, self.keep_alive = _UNTIL_CLOSE, False
        elif len(lengths) > 1 or not next(iter(lengths)).isdigit():
            self._fail(f"Content-Length is {b', '.join(sorted(lengths))!r}")
        elif (length := int(lengths.pop())) > 0:
            self._state, self._to_skip = _LENGTH, length
        else:
            self._end()

    def _read_chunks(self, data: bytes, at: int) -> int:
        size, to_skip = len(data), self._to_skip
        while size - at >= to_skip:
            at += to_skip
            to_skip = self._to_skip = 0
            line = _CHUNK_LINE.match(data, at)
            if line is None:
                if b"\n" in data[at : at + MAX_LINE] or size - at >= MAX_LINE:
                    self._fail(f"a chunk begins with {data[at : at + 20]!r}")
                return at
            at, length = line.end(), int(line[1], 16)
            if not length:
                self._state = _TRAILERS
                return at
            to_skip = length + 2
        self._to_skip = to_skip - (size - at)
        return size

    def _read_trailers(self, data: bytes, at: int) -> int:
        while (end := data.find(b"\r\n", at)) >= 0:
            if end == at:
                self._end()
                return at + 2
            at = end + 2
        if len(data) - at > MAX_HEAD:
            self._fail(f"the trailers are larger than {MAX_HEAD} bytes")
        return at


def _fields(head: bytes) -> dict[bytes, list[bytes]]:
    fields: dict[bytes, list[bytes]] = {}
    for line in head.splitlines():
        name, _, value = line.partition(b":")
        fields.setdefault(name.strip().lower(), []).append(value.strip())
    return fields


def status_of(reads: Sequence[Read]) -> int:
    """The status of the final response in these reads; 0 if its status line has not come."""
    response = ResponseEnd()
    for read in reads:
        response.feed(read.data)
        if response.status:
            break
    return response.status


def went_well(stream: RawStream) -> bool:
    """Whether a whole response with status 200 came, so that a conversation can go on from it."""
    ended = stream.sent_ns and not (stream.broken or stream.timed_out or stream.cancelled or stream.connect_error)
    return bool(ended) and status_of(stream.reads) == 200


def failure_of(stream: RawStream) -> str | None:
    """One word for what a progress line counts; None where the wire brought all of a response with status 200."""
    if stream.connect_error is not None:
        return "connect"
    if stream.timed_out:
        return "timeout"
    if stream.cancelled:
        return "cancelled"
    if not stream.sent_ns:
        return "never sent"
    status = status_of(stream.reads)
    if status != 200 and status:
        return str(status)
    return "cut" if stream.broken is not None or not status else None

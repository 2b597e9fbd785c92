"""HTTP/1.1 responses (RFC 9112), read whole and after the fact: head, body, and where each byte came from.

The client only records reads while a run lasts. Here the recording becomes a response, and a position in its body
leads back to the read that brought it.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate

import msgspec

from bench.types import Read


class Malformed(Exception):
    """These bytes are no HTTP response."""


class Response(msgspec.Struct, kw_only=True):
    """`body_ends[i]` is where part `i` of the body ends in `body`; `shifts[i]` leads from there to the wire."""

    status: int
    reason: str
    headers: dict[str, str]  # by lower-case name
    body: bytes
    complete: bool  # the body ended as the head promised; one that lasts until the connection closes never does
    body_ends: list[int]
    shifts: list[int]

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


def parse(raw: bytes) -> Response | None:
    """The response in `raw`; None while its head is incomplete. Interim (1xx) responses are skipped.

    Raises Malformed.
    """
    start = 0
    while True:
        end = raw.find(b"\r\n\r\n", start)
        if end < 0:
            if raw[start : start + 5] != b"HTTP/"[: len(raw) - start]:
                raise Malformed(f"the answer is not HTTP: it begins with {raw[start : start + 40]!r}")
            return None
        status, reason, headers = _head(raw[start:end])
        start = end + 4
        if status >= 200 or status == 101:
            break
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body, complete, ends, shifts = _chunked(raw, start)
    else:
        body = raw[start:]
        length = headers.get("content-length", "")
        complete = length.isdecimal() and len(body) >= int(length)
        if complete:
            body = body[: int(length)]
        ends, shifts = [len(body)], [start]
    return Response(
        status=status, reason=reason, headers=headers, body=body, complete=complete, body_ends=ends, shifts=shifts
    )


def _head(head: bytes) -> tuple[int, str, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    code, _, reason = rest.partition(" ")
    if not version.startswith("HTTP/") or not code.isdecimal():
        raise Malformed(f"the answer is not HTTP: it begins with {first[:40]!r}")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(code), reason, headers


def _chunked(raw: bytes, position: int) -> tuple[bytes, bool, list[int], list[int]]:
    """The body from its chunks, as far as they came (RFC 9112, 7.1)."""
    parts: list[bytes] = []
    ends: list[int] = []
    shifts: list[int] = []
    length = 0
    find = raw.find
    while (line := find(b"\r\n", position)) >= 0:
        try:
            size = int(raw[position:line], 16)
        except ValueError:
            size = _size(raw[position:line])
        start = line + 2
        if size < 0:
            raise Malformed(f"a chunk has the size {size}")
        if size == 0:
            complete = raw[start : start + 2] == b"\r\n" or find(b"\r\n\r\n", start) >= 0
            return b"".join(parts), complete, ends, shifts
        part = raw[start : start + size]
        if part:
            parts.append(part)
            shifts.append(start - length)
            length += len(part)
            ends.append(length)
        position = start + size + 2
    return b"".join(parts), False, ends, shifts


def _size(line: bytes) -> int:
    """Of a chunk whose line has more than a number: extensions, after a semicolon."""
    try:
        return int(line.partition(b";")[0], 16)
    except ValueError:
        raise Malformed(f"a chunk has the size {line[:20]!r}") from None


def reads_of(response: Response, reads: Sequence[Read], ends: Iterable[int]) -> list[int]:
    """For each end (the position after a last byte in the body; ascending) the index of the read that brought it."""
    read_ends = list(accumulate(len(read.data) for read in reads))
    body_ends, shifts = response.body_ends, response.shifts
    part = read = 0
    found = []
    for end in ends:
        while body_ends[part] < end:
            part += 1
        wire = end + shifts[part]
        while read_ends[read] < wire:
            read += 1
        found.append(read)
    return found

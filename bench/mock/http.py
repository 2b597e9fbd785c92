"""As much of HTTP/1.1 as the mock reads and writes."""

from http import HTTPStatus
from typing import NamedTuple

import msgspec

MAX_HEAD_BYTES = 64 << 10


class Request(NamedTuple):
    method: str
    path: str  # without a query
    headers: dict[str, str]  # names in lower case
    body: bytes


class Malformed(Exception):
    """Bytes that are no request; the connection is of no more use."""


def take_request(buffer: bytearray) -> Request | None:
    """Take one whole request from the front of `buffer`; None if it is not all there yet. Raises Malformed."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        if len(buffer) > MAX_HEAD_BYTES:
            raise Malformed("a head without an end")
        return None
    lines = buffer[:end].decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3:
        raise Malformed(f"not a request line: {lines[0][:80]!r}")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if "transfer-encoding" in headers:
        raise Malformed("a chunked request body; send content-length")
    length = headers.get("content-length", "0")
    if not length.isdecimal():
        raise Malformed(f"content-length is {length!r}")
    after = end + 4 + int(length)
    if len(buffer) < after:
        return None
    body = bytes(buffer[end + 4 : after])
    del buffer[:after]
    return Request(words[0], words[1].partition("?")[0], headers, body)


def head(status: int, content_type: str, *lines: str) -> bytes:
    fields = "".join(f"{line}\r\n" for line in lines)
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        f"server: tgi-bench-mock\r\ncontent-type: {content_type}\r\n{fields}\r\n"
    ).encode("latin-1")


def response(status: int, content_type: str, body: bytes, *lines: str) -> bytes:
    return head(status, content_type, f"content-length: {len(body)}", *lines) + body


def error(status: int, message: str, kind: str, *lines: str) -> bytes:
    """In OpenAI's shape, which also has TGI's two fields."""
    body = {"error": {"message": message, "type": kind, "code": status}}
    return response(status, "application/json", msgspec.json.encode(body), *lines)

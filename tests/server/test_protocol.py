"""What a connection may send: headers and bodies of a size, within a time. Raw sockets against a real port."""

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from fake_engine import FakeEngine
from serving import listening
from starlette.applications import Starlette

from engine.config import ServerOptions
from engine.server import protocol

BODY = json.dumps({"inputs": "The sea"}).encode()
HEAD = b"POST /generate HTTP/1.1\r\nhost: server\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        yield connection


def everything(connection: socket.socket) -> bytes:
    """What comes until the server closes the connection; the test's time limit is the bound."""
    received = b""
    while data := connection.recv(1 << 16):
        received += data
    return received


def one_answer(connection: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(1 << 16)
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(1 << 16)
    return head + b"\r\n\r\n" + body


def request(extra: bytes = b"", body: bytes = BODY) -> bytes:
    return HEAD % len(body) + extra + b"\r\n" + body


@pytest.mark.parametrize(
    "extra",
    [
        b"x-long: " + b"a" * protocol.MAX_HEAD_BYTES + b"\r\n",
        b"".join(b"x-%d: 1\r\n" % i for i in range(protocol.MAX_HEADERS)),
        b"".join(b"x-%d: %b\r\n" % (i, b"a" * 1000) for i in range(40)),
    ],
)
def test_large_headers_are_refused_and_the_connection_closed(extra: bytes, url: str, engine: FakeEngine) -> None:
    with connected(url) as connection:
        connection.sendall(request(extra))
        assert everything(connection).startswith(b"HTTP/1.1 431 ")
    assert not engine.requests


@pytest.mark.parametrize("beginning", [b"GET /" + b"a" * 40_000, HEAD % 1 + b"x-endless: " + b"a" * 40_000])
def test_headers_without_an_end_are_refused_before_they_end(beginning: bytes, url: str) -> None:
    with connected(url) as connection:
        connection.sendall(beginning)
        assert everything(connection).startswith(b"HTTP/1.1 431 ")


def test_what_fits_is_answered_again_and_again(url: str, engine: FakeEngine) -> None:
    extra = b"x-long: " + b"a" * 30_000 + b"\r\n" + b"".join(b"x-%d: 1\r\n" % i for i in range(100))
    large = json.dumps({"inputs": " sea" * 50_000, "parameters": {"truncate": 3}}).encode()
    with connected(url) as connection:
        for sent in (request(extra), request(), request(body=large), request(extra, large)):
            connection.sendall(sent)
            assert one_answer(connection).startswith(b"HTTP/1.1 200 ")
    assert len(engine.requests) == 4


def test_pipelined_requests_are_answered_in_their_order(url: str) -> None:
    with connected(url) as connection:
        connection.sendall(request() + b"GET /health HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n")
        answers = everything(connection)
    assert answers.count(b"HTTP/1.1 200 ") == 2
    assert answers.index(b" is deep.") < answers.rindex(b"HTTP/1.1 200 ")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, make_app: Callable[..., Starlette]) -> Iterator[str]:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.05)
    monkeypatch.setattr(protocol, "BODY_SECONDS", 0.05)
    monkeypatch.setattr(protocol, "SECONDS_PER_BYTE", 0.0)
    with listening(make_app(), ServerOptions(model_id="the/model")) as address:
        yield address


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /health HTTP/1.1\r\nhost: ", request()[:-1], HEAD % 9 + b"\r\n"])
def test_a_request_that_does_not_arrive_is_given_up(sent: bytes, impatient: str, engine: FakeEngine) -> None:
    with connected(impatient) as connection:
        connection.sendall(sent)
        assert everything(connection).startswith(b"HTTP/1.1 408 ")
    assert not engine.requests


def test_a_further_request_that_does_not_arrive_is_given_up_too(impatient: str) -> None:
    with connected(impatient) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: server\r\n\r\n")
        assert one_answer(connection).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: ")
        assert everything(connection).startswith(b"HTTP/1.1 408 ")


def test_an_answer_may_take_its_time(impatient: str, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadlines are the request's; what the engine needs is its own affair."""
    reached = FakeEngine._pass_gate

    async def slowly(self: FakeEngine, step: int) -> None:
        await asyncio.sleep(0.05)
        await reached(self, step)

    monkeypatch.setattr(FakeEngine, "_pass_gate", slowly)
    with connected(impatient) as connection:
        connection.sendall(request())
        assert one_answer(connection).startswith(b"HTTP/1.1 200 ")


def test_nonsense_is_still_a_bad_request(url: str) -> None:
    with connected(url) as connection:
        connection.sendall(b"\x00\x01\x02\r\n\r\n")
        assert everything(connection).startswith(b"HTTP/1.1 400 ")

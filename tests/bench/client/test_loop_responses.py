"""What a server does to one connection after another, and what the loop makes of it."""

import hashlib
import socket

import pytest
from scripted_server import HEAD, LAST, Script, ScriptedServer, Talk, answer, chunk
from send_plan import post, send_all, stamping

from bench.client.address import Endpoint, resolve
from bench.client.http1 import status_of
from bench.types import RawStream

EVENTS = [chunk(b"data: %d\n\n" % number) for number in range(5)]


def data_of(stream: RawStream) -> bytes:
    return b"".join(read.data for read in stream.reads)


def run(script: Script, count: int = 1, **options) -> tuple[list[RawStream], ScriptedServer]:
    with ScriptedServer.start(script) as server:
        streams = send_all(resolve(server.address), [post(index) for index in range(count)], **options)
    return sorted(streams, key=lambda stream: stream.index), server


async def stream_well(talk: Talk) -> None:
    while await talk.request() is not None:
        await talk.send(HEAD, *EVENTS, LAST)


def test_a_connection_carries_one_stream_after_another():
    streams, server = run(stream_well, 5)
    assert server.connections == 1
    assert [stream.reused for stream in streams] == [False, True, True, True, True]
    for stream in streams:
        assert data_of(stream) == b"".join([HEAD, *EVENTS, LAST])
        assert stream.broken is None
        times = [stream.scheduled_ns, stream.sent_ns, *(read.user_ns for read in stream.reads)]
        assert times == sorted(times)
        assert stream.ended_ns == stream.reads[-1].user_ns


def test_every_read_has_the_kernels_stamp_just_before_ours():
    with stamping():
        streams, _ = run(stream_well, 3)
    reads = [read for stream in streams for read in stream.reads]
    assert all(0 < read.kernel_ns <= read.user_ns for read in reads)
    assert all(stream.sent_ns < stream.reads[0].kernel_ns for stream in streams)


@pytest.mark.parametrize(
    "response",
    [
        answer(b"hello"),
        answer(b"overloaded", b"429 Too Many Requests"),
        b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"hello"),
        b"HTTP/1.1 204 No Content\r\n\r\n",
        HEAD + b"".join(EVENTS) + b"0\r\nX-Trailer: 1\r\n\r\n",
    ],
)
def test_any_complete_response_leaves_the_connection_in_use(response):
    async def script(talk: Talk) -> None:
        while await talk.request() is not None:
            await talk.send(*(response[at : at + 7] for at in range(0, len(response), 7)))

    streams, server = run(script, 3)
    assert [data_of(stream) for stream in streams] == [response] * 3
    assert server.connections == 1
    assert all(stream.broken is None for stream in streams)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\n",
    ],
)
def test_a_response_may_take_its_connection_with_it(head):
    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.send(head, b"data: 1")

    streams, server = run(script, 3)
    assert server.connections == 3
    for stream in streams:
        assert data_of(stream) == head + b"data: 1"
        assert stream.broken is None
        assert not stream.reused


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (HEAD + EVENTS[0], "the connection was closed inside a chunked response"),
        (answer(b"hello")[:-2], "the connection was closed 2 bytes before the end of the response"),
        (HEAD[:10], "the connection was closed in the head of the response"),
        (b"", "the connection was closed before the response"),
    ],
)
def test_a_stream_that_is_cut_says_where(sent, why):
    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.send(sent)

    streams, server = run(script, 2)
    assert server.connections == 2
    for stream in streams:
        assert stream.broken == why
        assert data_of(stream) == sent


def test_a_reset_is_told_apart_from_a_close():
    async def script(talk: Talk) -> None:
        await talk.request()
        talk.reset()

    (stream,), _ = run(script)
    assert stream.broken == "the connection broke: Connection reset by peer"


def test_what_is_not_http_breaks_the_stream():
    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.send(b"SSH-2.0-OpenSSH_9.2\r\n")
        await talk.closed_by_client()

    (stream,), _ = run(script)
    assert "does not speak HTTP/1.1" in (stream.broken or "")


def test_a_connection_closed_while_idle_is_replaced_and_nobody_notices():
    """It has carried a request, and ends just when the next one arrives: without a byte of an answer."""

    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.send(answer(b"hello"))
        await talk.request()

    streams, server = run(script, 3)
    assert [stream.broken for stream in streams] == [None] * 3
    assert [data_of(stream) for stream in streams] == [answer(b"hello")] * 3
    assert [stream.reused for stream in streams] == [False] * 3
    assert [number for number, _ in server.requests] == [0, 0, 1, 1, 2]
    assert streams[1].sent_ns > streams[0].ended_ns


def test_a_reused_connection_that_fails_within_the_answer_is_not_tried_again():
    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.send(answer(b"hello"))
        await talk.request()
        await talk.send(b"H")

    streams, server = run(script, 2)
    assert [stream.broken for stream in streams] == [None, "the connection was closed in the head of the response"]
    assert len(server.requests) == 2


def test_a_request_is_sent_again_once_and_no_more():
    async def script(talk: Talk) -> None:
        await talk.request()

    (stream,), server = run(script, ahead=1)
    assert stream.broken == "the connection was closed before the response"
    assert [number for number, _ in server.requests] == [0, 1]


def test_idle_connections_that_the_server_closes_are_not_used():
    async def script(talk: Talk) -> None:
        if talk.number < 3:
            return
        await stream_well(talk)

    streams, server = run(script, 2, ahead=3)
    assert [stream.broken for stream in streams] == [None, None]
    assert {number for number, _ in server.requests} == {3}


def test_a_refused_connection_fails_every_request_with_its_reason():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        endpoint = Endpoint(socket.AF_INET, "127.0.0.1", sock.getsockname()[1])
        streams = send_all(endpoint, [post(index) for index in range(500)], places=3, ahead=2)
    assert len(streams) == 500
    assert {stream.connect_error for stream in streams} == {"Connection refused"}
    assert not any(stream.sent_ns for stream in streams)


def test_a_server_that_says_nothing_times_out_and_the_next_request_has_a_connection_of_its_own():
    async def script(talk: Talk) -> None:
        if talk.number == 0:
            await talk.request()
            await talk.send(HEAD, EVENTS[0])
            await talk.closed_by_client()
        else:
            await stream_well(talk)

    (first, second), _ = run(script, 2, timeout_s=0.3)
    assert first.timed_out
    assert first.broken is None
    assert data_of(first).startswith(HEAD[:1])
    assert not second.timed_out
    assert second.scheduled_ns == first.ended_ns


def test_a_large_request_arrives_whole():
    body = bytes(range(256)) * 40_000
    seen = []

    async def script(talk: Talk) -> None:
        while (received := await talk.request()) is not None:
            seen.append(hashlib.sha256(received).digest())
            await talk.send(answer(b"ok"))

    with ScriptedServer.start(script) as server:
        streams = send_all(resolve(server.address), [post(0, body), post(1, body)])
    assert seen == [hashlib.sha256(body).digest()] * 2
    assert [stream.reused for stream in streams] == [False, True]


def test_an_answer_that_comes_before_the_request_was_sent_is_an_answer():
    async def script(talk: Talk) -> None:
        await talk.head()
        await talk.send(answer(b"too large", b"413 Content Too Large"))

    with ScriptedServer.start(script) as server:
        streams = send_all(resolve(server.address), [post(0, b"x" * 10_000_000), post(1, b"x" * 10_000_000)])
        assert server.connections == 2
    assert [status_of(stream.reads) for stream in streams] == [413, 413]

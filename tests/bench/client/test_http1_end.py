"""The end of a response is seen at the byte where h11 sees it, however the bytes are cut."""

import itertools

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench.client.http1 import ResponseEnd, failure_of, status_of, went_well
from bench.types import Phase, RawStream, Read

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
EVENT = b'data: {"x": "0"}\r\n\r\n'  # server-sent events with line ends that look like the end of the response

interim = st.sampled_from([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"])
payloads = st.lists(
    st.one_of(st.sampled_from([EVENT, b"0\r\n\r\n", b"\r\n0\r\n\r\n", b"x" * 300]), st.binary(min_size=1, max_size=20)),
    max_size=6,
)
extras = st.lists(
    st.sampled_from([b"Server: x", b"Connection: keep-alive", b"Connection: close, x", b"X:"]), max_size=2
)
statuses = st.sampled_from([b"200 OK", b"204 No Content", b"304 Not Modified", b"422", b"503 Service Unavailable"])


def chunked(parts: list[bytes], extension: bytes, trailers: list[bytes]) -> bytes:
    chunks = b"".join(b"%X%s\r\n%s\r\n" % (len(part), extension, part) for part in parts)
    return chunks + b"0" + extension + b"\r\n" + b"".join(line + b"\r\n" for line in trailers) + b"\r\n"


@st.composite
def responses(draw) -> tuple[bytes, bool]:
    """A response, and whether its end is that of the connection."""
    status, parts = draw(statuses), draw(payloads)
    version = draw(st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"]))
    framing = draw(st.sampled_from(["chunked", "chunked", "length", "close"]))
    fields = draw(extras)
    body = b"".join(parts)
    if framing == "chunked":
        fields = [*fields, draw(st.sampled_from([b"Transfer-Encoding: chunked", b"transfer-encoding:Chunked "]))]
        extension = draw(st.sampled_from([b"", b";a=b", b";a"]))
        body = chunked(parts, extension, draw(st.lists(st.just(b"Trailer: 1"), max_size=2)))
    elif framing == "length":
        fields = [b"Content-Length: %d" % len(body), *fields]
    bodiless = status[:3] in (b"204", b"304")
    head = b"".join(draw(st.lists(interim, max_size=2)))
    head += version + b" " + status + b"\r\n" + b"".join(field + b"\r\n" for field in fields) + b"\r\n"
    return head + (b"" if bodiless else body), framing == "close" and not bodiless


def cuts(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


class Oracle:
    """What h11 thinks of the same bytes."""

    def __init__(self) -> None:
        self.connection = h11.Connection(h11.CLIENT)
        self.connection.send(h11.Request(method="POST", target="/", headers=[("Host", "x"), ("Content-Length", "0")]))
        self.connection.send(h11.EndOfMessage())
        self.over = False
        self.status = 0

    def feed(self, data: bytes) -> bool:
        self.connection.receive_data(data)
        while not self.over:
            event = self.connection.next_event()
            if event in (h11.NEED_DATA, h11.PAUSED):
                break
            if isinstance(event, h11.Response):
                self.status = event.status_code
            self.over = isinstance(event, h11.EndOfMessage)
        return self.over

    @property
    def keep_alive(self) -> bool:
        return self.connection.their_state is h11.DONE


@given(responses(), st.lists(st.integers(0, 10_000), max_size=12))
@example((HEAD + chunked([EVENT], b"", []), False), list(range(200)))
@example((HEAD + chunked([EVENT, b"0\r\n\r\n"], b"", [b"A: b"]), False), [])
def test_the_end_is_where_h11_sees_it(response, places):
    data, until_close = response
    ours, theirs = ResponseEnd(), Oracle()
    for piece in cuts(data, places):
        assert ours.feed(piece) == theirs.feed(piece)
        assert ours.status in (0, theirs.status)
    assert ours.over == (not until_close)
    assert ours.status == theirs.status
    assert ours.error is None
    if not until_close:
        assert ours.keep_alive == theirs.keep_alive
    assert ours.close() is None
    assert theirs.feed(b"")
    assert ours.over


@given(responses(), st.data())
def test_a_response_that_is_cut_short_is_never_complete(response, data):
    whole, until_close = response
    short = whole[: data.draw(st.integers(0, len(whole) - 1))]
    ours, theirs = ResponseEnd(), Oracle()
    ours.feed(short)
    try:
        if short:
            theirs.feed(short)
        complete = theirs.feed(b"")
    except h11.RemoteProtocolError:
        complete = False
    assert (ours.close() is None) == complete
    assert until_close or not complete


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=4), st.booleans())
def test_any_bytes_end_or_fail_or_wait_but_never_raise(noise, places, in_body):
    ours = ResponseEnd()
    for piece in cuts((HEAD if in_body else b"") + noise, places):
        if ours.feed(piece):
            break
    assert (ours.close() is None) or ours.error or not ours.over


@pytest.mark.parametrize("response", [HEAD + b"5\r\nabcde\r\n0\r\n\r\n", LENGTH + b"abcde"])
def test_bytes_after_the_end_forbid_another_request(response):
    together = ResponseEnd()
    together.feed(response + b"HTTP/1.1 200 OK\r\n")
    assert together.settle()
    assert not together.keep_alive
    apart = ResponseEnd()
    assert apart.feed(response)
    assert apart.keep_alive
    apart.feed(b"x")
    assert not apart.keep_alive


def test_what_is_missing_is_said():
    def left(data: bytes) -> str | None:
        response = ResponseEnd()
        response.feed(data)
        return response.close()

    assert left(b"") == "the connection was closed before the response"
    assert left(b"HTTP/1.1 200 O") == "the connection was closed in the head of the response"
    assert left(LENGTH + b"abc") == "the connection was closed 2 bytes before the end of the response"
    assert left(HEAD + b"5\r\nabc") == "the connection was closed inside a chunked response"
    assert left(HEAD + b"0\r\n") == "the connection was closed inside a chunked response"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the response begins with b'SSH-2.0-OpenSSH_9.2\\r'"),
        (b"HTTP/1.1 abc\r\n\r\n", "the response begins with"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "Content-Length is b'5, 6'"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", "Content-Length is b'-5'"),
        (HEAD + b"xyz\r\n\r\n", "a chunk begins with b'xyz"),
        (HEAD + b"5\r\nabcdefgh\r\n\r\n", "a chunk begins with"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 18), "larger than 262144 bytes"),
    ],
)
def test_what_is_not_http_is_an_error(data, why):
    response = ResponseEnd()
    assert response.feed(data)
    assert not response.keep_alive
    assert why in (response.error or "")
    assert why in (response.close() or "")


def test_an_empty_body_of_any_kind_is_over_with_its_head():
    for head in (b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"):
        response = ResponseEnd()
        assert response.feed(head)
        assert response.keep_alive


def stream(*data: bytes, **changes) -> RawStream:
    reads = [Read(0, 0, piece) for piece in data]
    made = {"index": 0, "phase": Phase.MEASURED, "scheduled_ns": 1, "sent_ns": 2, "ended_ns": 3, "reads": reads}
    return RawStream(**(made | changes))


def test_a_failure_in_one_word():
    ok = (b"HTTP/1.1 100 Continue\r\n\r\nHTT", b"P/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert status_of(stream(*ok).reads) == 200
    assert failure_of(stream(*ok)) is None
    assert went_well(stream(*ok))
    for failed, word in [
        (stream(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"), "503"),
        (stream(*ok, broken="reset"), "cut"),
        (stream(broken="reset"), "cut"),
        (stream(*ok, timed_out=True), "timeout"),
        (stream(*ok, cancelled=True), "cancelled"),
        (stream(sent_ns=0, connect_error="Connection refused"), "connect"),
        (stream(sent_ns=0), "never sent"),
    ]:
        assert failure_of(failed) == word
        assert not went_well(failed)

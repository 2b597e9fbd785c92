"""A recorded response: its parts, and the way from a byte of the body to the read that brought it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.api.response import Malformed, parse, reads_of
from bench.types import Read

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
parts = st.lists(st.binary(min_size=1, max_size=40), max_size=8)


def chunked(pieces, extension=b"", trailer=b""):
    body = b"".join(b"%x%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n" + trailer + b"\r\n"


@given(parts, st.sampled_from([b"", b";name=value", b" "]), st.sampled_from([b"", b"x-late: 1\r\n"]))
def test_chunks_are_joined(pieces, extension, trailer):
    response = parse(chunked(pieces, extension, trailer))
    assert response.body == b"".join(pieces)
    assert response.complete
    assert response.content_type == "text/event-stream"


@given(parts, st.data())
def test_a_cut_response_is_a_beginning_and_incomplete(pieces, data):
    wire = chunked(pieces)
    cut = data.draw(st.integers(0, len(wire) - 1))
    response = parse(wire[:cut])
    if response is not None:
        assert b"".join(pieces).startswith(response.body)
        assert not response.complete


@given(parts, st.lists(st.integers(1, 30), min_size=1, max_size=50), st.booleans())
def test_each_byte_leads_to_its_read(pieces, sizes, is_chunked):
    body = b"".join(pieces)
    wire = chunked(pieces) if is_chunked else HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    reads, position = [], 0
    while position < len(wire):
        size = sizes[len(reads) % len(sizes)]
        reads.append(Read(0, 0, wire[position : position + size]))
        position += size
    found = reads_of(parse(wire), reads, range(1, len(body) + 1))
    # The slow way: how much of the body is there after each read.
    there = [
        len(response.body) if (response := parse(b"".join(read.data for read in reads[: i + 1]))) else 0
        for i in range(len(reads))
    ]
    assert found == [next(i for i, count in enumerate(there) if count >= end) for end in range(1, len(body) + 1)]


def test_the_length_of_the_head_counts():
    assert parse(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nabc").body == b"ab"
    assert not parse(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabc").complete
    assert not parse(b"HTTP/1.1 200 OK\r\n\r\nabc").complete


def test_a_status_without_a_reason():
    response = parse(b"HTTP/1.1 502\r\ncontent-length: 0\r\n\r\n")
    assert (response.status, response.reason, response.complete) == (502, "", True)


@pytest.mark.parametrize(
    "wire", [b"SSH-2.0\r\n", b"HTTP/1.1 abc\r\n\r\n", HEAD + b"transfer-encoding: chunked\r\n\r\n-5\r\nabc\r\n"]
)
def test_what_is_no_response(wire):
    with pytest.raises(Malformed):
        parse(wire)

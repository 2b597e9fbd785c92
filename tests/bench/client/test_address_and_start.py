"""Addresses, the clock, the frames, and what a worker imports."""

import itertools
import socket
import subprocess
import sys
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.client.address import Address, Endpoint, resolve
from bench.client.clock import now_ns, realtime_offset_ns
from bench.client.frames import Cancel, Drain, Ended, Fill, FrameReader, Go, Tick, frame, from_worker, to_worker
from bench.types import BenchError, Phase, RawStream, Read, UsageError


@pytest.mark.parametrize(
    ("url", "address", "authority"),
    [
        ("http://localhost:3000", Address("http", "localhost", 3000), "localhost:3000"),
        ("localhost:3000/v1", Address("http", "localhost", 3000), "localhost:3000"),
        ("https://api.example.com/v1", Address("https", "api.example.com", 443), "api.example.com"),
        ("http://[::1]:80", Address("http", "::1", 80), "[::1]"),
        ("127.0.0.1", Address("http", "127.0.0.1", 80), "127.0.0.1"),
    ],
)
def test_a_url_says_where_the_server_is(url, address, authority):
    assert Address.parse(url) == address
    assert address.authority == authority
    assert address.tls == url.startswith("https")


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:99999", "http://x:y", ""])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(UsageError, match="is no address of a server"):
        Address.parse(url)


def test_a_name_is_resolved_to_an_address_that_accepts():
    """`localhost` may be ::1 first, where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert resolve(Address("http", "localhost", port)) == Endpoint(socket.AF_INET, "127.0.0.1", port)
        assert resolve(Address("https", "localhost", port)).server_name == "localhost"


def test_a_name_that_nobody_has_is_a_clear_error():
    with pytest.raises(BenchError, match=r"the host of http://nowhere\.invalid:1 cannot be found"):
        resolve(Address("http", "nowhere.invalid", 1))


def test_the_offset_leads_from_the_kernels_clock_to_ours():
    offset = realtime_offset_ns()
    before = now_ns()
    between = time.time_ns() - offset
    assert before - 1_000_000 <= between <= now_ns() + 1_000_000


@given(st.lists(st.integers(0, 500), max_size=20))
def test_frames_arrive_whole_however_they_are_cut(places):
    stream = RawStream(
        index=1, phase=Phase.MEASURED, scheduled_ns=1, sent_ns=2, ended_ns=3, reads=[Read(1, 2, bytes(range(256)))]
    )
    messages = [Ended(stream), Tick(1, 2, 3), Ended(stream)]
    data = b"".join(map(frame, messages))
    edges = sorted({0, len(data), *(place % len(data) for place in places)})
    reader = FrameReader()
    bodies = [body for a, b in itertools.pairwise(edges) for body in reader.feed(data[a:b])]
    assert [msgspec.to_builtins(from_worker(body)) for body in bodies] == [msgspec.to_builtins(m) for m in messages]


def test_commands_survive_their_frames():
    for command in (Go(Phase.WARMUP, 5), Fill(1, b"x"), Fill(2, None), Drain(), Cancel()):
        (body,) = FrameReader().feed(frame(command))
        assert to_worker(body) == command


def test_a_worker_imports_nothing_heavy():
    code = (
        "import sys, bench.client.worker; heavy = {'numpy', 'httpx', 'ssl', 'asyncio', 'rich', 'typer', 'subprocess'};"
        " print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_worker_ends_with_its_parent():
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-P", "-m", "bench.client.worker", str(theirs.fileno())]
    with theirs:
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    ours.close()
    assert process.wait(30) == 0

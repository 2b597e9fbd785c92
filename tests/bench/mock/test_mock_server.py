"""When the mock sends, whom it refuses, and how it ends. Laws that hold however busy the machine is."""

import json
import os
import random
import select
import socket
import ssl
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.mock import Behaviour, Fault, MockServer, Stall, Truth
from bench.mock.loop import _draw
from bench.mock.truth import stream_number
from bench.types import BenchError, UsageError

REQUEST = {"model": "mock-model", "prompt": "hello world", "max_tokens": 8, "stream": True}
MS = 1_000_000
OPENSSL = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"


def run(behaviour: Behaviour, requests: int, **more: Any) -> Truth:
    """So many requests at the same time; what the mock says about them."""
    with MockServer.start(behaviour) as mock, ThreadPoolExecutor(requests) as pool:
        list(pool.map(lambda _: httpx.post(mock.url + "/v1/completions", json=REQUEST | more), range(requests)))
        return mock.truth()


def test_nothing_is_sent_before_its_time() -> None:
    truth = run(Behaviour(ttft_ms=30, itl_ms=4), 8)
    assert len(truth.streams) == 8
    for stream in truth.streams:
        for i, at in enumerate(stream.sent_ns):
            assert at >= stream.received_ns + 30 * MS + i * 4 * MS


def test_a_stall_freezes_everything_and_shifts_what_follows() -> None:
    truth = run(Behaviour(ttft_ms=30, itl_ms=10, stalls=(Stall(0.05, 0.3),)), 4)
    ((begin, end),) = truth.stalls
    assert begin >= truth.first_request_ns + 50 * MS
    assert end - begin >= 300 * MS
    for stream in truth.streams:
        assert not any(begin < at < end for at in stream.sent_ns)
        for i, at in enumerate(stream.sent_ns):
            served = at - stream.received_ns - (end - begin if stream.received_ns < begin < at else 0)
            assert served >= 30 * MS + i * 10 * MS


def test_slots_are_never_overdrawn() -> None:
    behaviour = Behaviour(ttft_ms=10, itl_ms=1, slots=2)
    truth = run(behaviour, 8)
    changes = sorted(change for stream in truth.streams for change in ((stream.started_ns, 1), (stream.ended_ns, -1)))
    busy = 0
    for _, change in changes:
        busy += change
        assert busy <= 2
    assert behaviour.capacity(8) == pytest.approx(2 / 0.017)
    assert Behaviour().capacity(8) == float("inf")


def test_a_full_queue_refuses() -> None:
    truth = run(Behaviour(slots=1, queue=1, faults=(Fault("hang", 1),)), 1, max_tokens=1, stream=False)
    assert truth.streams[0].status == 200
    with MockServer.start(Behaviour(slots=1, queue=1, ttft_ms=200)) as mock, ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: httpx.post(mock.url + "/v1/completions", json=REQUEST), range(6)))
        statuses = [answer.status_code for answer in answers]
        assert statuses.count(429) + statuses.count(200) == 6
        assert statuses.count(200) >= 2
        assert statuses == [mock.truth().by_number()[int(a.headers["x-mock-stream"])].status for a in answers]


def test_connections_are_kept_and_requests_may_follow_at_once() -> None:
    payload = json.dumps(REQUEST).encode()
    request = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(payload) + payload
    with MockServer.start(Behaviour(ttft_ms=0, itl_ms=0)) as mock:
        with socket.create_connection((mock.host, mock.port)) as client:
            client.sendall(request + request)
            received = b""
            while received.count(b"data: [DONE]") < 2:
                received += client.recv(1 << 16)
        assert stream_number(received) == 0
        assert stream_number(b"HTTP/1.1 200 OK\r\n\r\n") is None
        first, second = mock.truth().streams
        assert first.ended_ns <= second.received_ns


def test_many_tokens_to_a_client_that_reads_late() -> None:
    """The socket fills up, the answer waits, and nothing of it is lost."""
    with MockServer.start(Behaviour(ttft_ms=0, itl_ms=0)) as mock:
        with httpx.stream("POST", mock.url + "/v1/completions", json=REQUEST | {"max_tokens": 30000}) as response:
            while not mock.truth().blocked:
                pass
            lines = [line for line in response.iter_lines() if line]
        assert len(lines) == 30001
        assert mock.truth().streams[0].tokens == [1] * 30000


def test_who_is_refused() -> None:
    with MockServer.start(Behaviour(key="secret")) as mock:
        assert httpx.post(mock.url + "/v1/completions", json=REQUEST).status_code == 401
        with httpx.Client(base_url=mock.url, headers={"authorization": "Bearer secret"}) as client:
            assert client.post("/v1/completions", json=REQUEST).status_code == 200
            for wrong, status in (
                ({"model": "other"}, 404),
                ({"prompt": None}, 422),
                ({"prompt": ["a", "b"]}, 400),
                ({"max_tokens": 0}, 400),
                ({"max_tokens": 40000}, 400),
                ({"max_tokens": "many"}, 400),
            ):
                assert client.post("/v1/completions", json=REQUEST | wrong).status_code == status
            assert client.get("/nothing").status_code == 404


def test_bytes_that_are_no_request() -> None:
    with MockServer.start() as mock:
        for junk in (b"hello\r\n\r\n", b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", b"x" * 70000):
            with socket.create_connection((mock.host, mock.port)) as client:
                client.sendall(junk)
                assert client.recv(100).startswith(b"HTTP/1.1 400 ")
        assert httpx.get(mock.url + "/health").status_code == 200


@pytest.mark.parametrize(
    ("kind", "has"),
    [
        ("tgi", {"/info", "/generate_stream", "/tokenize"}),
        ("vllm", {"/version", "/tokenize"}),
        ("sglang", {"/get_server_info"}),
        ("llama.cpp", {"/props", "/tokenize"}),
        ("openai", set()),
    ],
)
def test_which_pages_a_kind_has(kind: Any, has: set[str]) -> None:
    pages = {"/info", "/version", "/props", "/get_server_info"}
    posts = {"/tokenize": {"inputs": "a"}, "/generate_stream": {"inputs": "a"}}
    with MockServer.start(Behaviour(kind=kind, ttft_ms=0, itl_ms=0)) as mock, httpx.Client(base_url=mock.url) as client:
        found = {page for page in pages if client.get(page).status_code == 200}
        found |= {page for page, body in posts.items() if client.post(page, json=body).status_code == 200}
        assert found == has
        assert client.get("/v1/models").json()["data"][0]["id"] == "mock-model"
        assert client.get("/metrics").text.count("# TYPE ") >= 3


def test_tokenize_in_three_dialects() -> None:
    with MockServer.start() as mock, httpx.Client(base_url=mock.url) as client:
        prompt = "internationalization, again"
        listed = client.post("/tokenize", json={"inputs": prompt}).json()
        assert "".join(prompt[token["start"] : token["stop"]] for token in listed) == prompt
        ids = [token["id"] for token in listed]
        assert client.post("/tokenize", json={"prompt": prompt}).json()["tokens"] == ids
        assert client.post("/tokenize", json={"content": prompt}).json() == {"tokens": ids}
        assert client.post("/tokenize", json={}).status_code == 422


def test_drawn_times_have_the_mean_that_was_set() -> None:
    draw = random.Random(0)
    drawn = [_draw(draw, 20, 0.5) for _ in range(20000)]
    assert statistics.fmean(drawn) == pytest.approx(20 * MS, rel=0.02)
    assert _draw(None, 20, 0) == 20 * MS


def test_load_makes_it_slower() -> None:
    truth = run(Behaviour(ttft_ms=20, itl_ms=1, itl_load_ms=100, itl_sigma=0.001), 2)
    # From the start of the request: on a busy machine the first event may be late, but none is ever early.
    assert all(stream.sent_ns[-1] - stream.started_ns >= 27 * MS for stream in truth.streams)
    overlap = max(stream.started_ns for stream in truth.streams) < min(stream.ended_ns for stream in truth.streams)
    assert not overlap or max(s.sent_ns[-1] - s.started_ns for s in truth.streams) >= 110 * MS


def test_what_is_parsed() -> None:
    assert Fault.parse("status:503@0.1") == Fault("status", 503, 0.1)
    assert Fault.parse("hang") == Fault("hang", 0, 1.0)
    assert Stall.parse("2:5") == Stall(2.0, 5.0)
    for wrong in ("", "burn", "cut:x", "cut:-1", "cut@2"):
        with pytest.raises(UsageError, match="a fault is"):
            Fault.parse(wrong)
    for wrong in ("", "1", "-1:2", "a:b"):
        with pytest.raises(UsageError, match="a stall is"):
            Stall.parse(wrong)


def test_an_address_in_use_is_said() -> None:
    from bench.mock.server import listen

    with listen() as taken, pytest.raises(BenchError, match="cannot listen on 127"):
        listen(port=taken.getsockname()[1])


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux")
def test_it_does_not_outlive_its_parent() -> None:
    """However the parent ends: here without a word."""
    code = (
        "import os; from bench.mock import MockServer\n"
        "print(MockServer.start().pid, flush=True); os.read(0, 1); os._exit(1)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent:
        child = os.pidfd_open(int(parent.stdout.readline()))
        parent.stdin.close()
        assert select.select([child], [], [], 60)[0]
        os.close(child)


def test_tls(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    try:
        subprocess.run(
            [*OPENSSL.split(), "-keyout", key, "-out", certificate],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    context = ssl.create_default_context(cafile=str(certificate))
    with MockServer.start(Behaviour(itl_ms=0), certificate=certificate, private_key=key) as mock:
        long = REQUEST | {"prompt": "word" + " word" * 9999, "max_tokens": 500}
        answer = httpx.post(mock.url + "/v1/completions", json=long, verify=context)
        assert answer.text.endswith("data: [DONE]\n\n")
        assert mock.truth().streams[0].prompt_tokens == 10000

"""Connections with TLS, without kernel stamps and without epoll; and how many of them are kept open."""

import select
import shutil
import socket
import ssl
import subprocess

import pytest
from scripted_server import HEAD, LAST, ScriptedServer, Talk, answer, chunk
from send_plan import post, send_all, stamping

from bench.client import connection
from bench.client.address import resolve
from bench.client.loop import EpollPoller, Poller
from bench.client.pool import run_load
from bench.load.arrivals import Load

EVENTS = [chunk(b"data: %d\n\n" % number) for number in range(5)]


async def stream_well(talk: Talk) -> None:
    while await talk.request() is not None:
        await talk.send(HEAD, *EVENTS, LAST)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """(certificate, key) of localhost, made by openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    made = folder / "certificate.pem", folder / "key.pem"
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-out", str(made[0]), "-keyout", str(made[1])]
    subprocess.run(["openssl", "req", *kind, *name, *files], check=True, capture_output=True)
    return made


@pytest.fixture
def tls(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def test_tls_carries_streams_with_kernel_stamps(tls, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    body = b"x" * 1_000_000
    with stamping(), ScriptedServer.start(stream_well, tls) as server:
        streams = send_all(resolve(server.address), [post(0, body), post(1), post(2)], ahead=1)
        assert server.connections == 1
        assert [received for _, received in server.requests] == [body, b"{}", b"{}"]
    for stream in streams:
        assert stream.broken is None
        assert b"".join(read.data for read in stream.reads) == b"".join([HEAD, *EVENTS, LAST])
        assert all(stream.sent_ns < read.kernel_ns <= read.user_ns for read in stream.reads)


def test_tls_ends_are_told_apart(tls, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))

    async def script(talk: Talk) -> None:
        body = await talk.request()
        await talk.send(b"HTTP/1.1 200 OK\r\n\r\nhello" if body == b"close" else HEAD + EVENTS[0])

    with ScriptedServer.start(script, tls) as server:
        whole, cut = send_all(resolve(server.address), [post(0, b"close"), post(1)])
    assert whole.broken is None
    assert whole.reads[-1].data.endswith(b"hello")
    assert cut.broken == "the connection was closed inside a chunked response"


def test_tls_refuses_a_server_it_cannot_trust(tls):
    with ScriptedServer.start(stream_well, tls) as server:
        (stream,) = send_all(resolve(server.address), [post(0)])
    assert "certificate" in (stream.connect_error or "").lower()
    assert not stream.reads


def test_a_run_over_tls_in_worker_processes(tls, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with ScriptedServer.start(stream_well, tls) as server:
        result = run_load(server.address, [post(index) for index in range(8)], Load(concurrency=3, requests=8))
    assert len(result.streams) == 8
    assert not any(stream.broken or stream.connect_error for stream in result.streams)


def test_without_kernel_stamps_there_are_our_own(monkeypatch):
    monkeypatch.setattr(connection, "SO_TIMESTAMPNS", None)
    monkeypatch.setattr(connection, "CONTROL_BYTES", 0)
    with ScriptedServer.start(stream_well) as server:
        (stream,) = send_all(resolve(server.address), [post(0)])
    assert all(read.kernel_ns == 0 and read.at_ns == read.user_ns for read in stream.reads)


def test_without_epoll_there_is_poll(monkeypatch):
    monkeypatch.delattr(select, "epoll")
    with ScriptedServer.start(stream_well) as server:
        streams = send_all(resolve(server.address), [post(index) for index in range(20)], places=4)
    assert len(streams) == 20
    assert not any(stream.broken for stream in streams)


@pytest.mark.parametrize("kind", [EpollPoller, Poller])
def test_a_poller_waits_for_sockets_and_no_longer_than_told(kind):
    poller = kind()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        poller.register(ours.fileno(), select.POLLIN)
        for wait_ns in (-1, 0, 10_000, 5_000_000):
            assert poller.wait(wait_ns) == []
        theirs.send(b"x")
        for wait_ns in (-1, 0, 10_000, 10**12):
            assert poller.wait(wait_ns) == [(ours.fileno(), select.POLLIN)]
        poller.modify(ours.fileno(), select.POLLOUT)
        assert poller.wait(0) == [(ours.fileno(), select.POLLOUT)]
        poller.unregister(ours.fileno())
        assert poller.wait(0) == []
    poller.close()


def test_an_open_loop_keeps_connections_ready():
    """Four more than are in use, of a rate this low: each request finds one that was made before it was due."""

    async def script(talk: Talk) -> None:
        while await talk.request() is not None:
            await talk.pause()
            await talk.send(answer(b"ok"))

    planned = [post(index, at_ns=index * 10_000_000) for index in range(10)]
    with ScriptedServer.start(script) as server:
        result = run_load(server.address, planned, Load(rate=100.0, requests=10), workers=1)
        assert 10 <= server.connections <= 20
    assert not any(stream.broken for stream in result.streams)

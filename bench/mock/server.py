"""Running the mock: in this process (`tgi bench mock`), or as a child for as long as a block lasts."""

import os
import resource
import socket
import ssl
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from bench.mock.behaviour import Behaviour
from bench.mock.truth import Truth
from bench.types import BenchError


class _Orders(msgspec.Struct):
    """What the parent tells its child."""

    behaviour: Behaviour
    host: str
    certificate: str | None
    private_key: str | None


def listen(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """Raises BenchError where the address cannot be had."""
    from bench.mock.loop import BACKLOG

    try:
        return socket.create_server((host, port), backlog=BACKLOG)
    except OSError as error:
        raise BenchError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None


def allow_many_connections() -> None:
    """Raise the limit of open files as far as the system lets us."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS calls it infinite and then allows less
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def serve(listener: socket.socket, behaviour: Behaviour, tls: ssl.SSLContext | None = None) -> None:
    """Serve until the process is interrupted."""
    from bench.mock.loop import Loop

    allow_many_connections()
    Loop(listener, behaviour, tls=tls).run()


def run_child() -> None:
    """Read orders, report the port, serve until the parent closes our standard input, however it ends."""
    from bench.mock.loop import Loop

    orders = msgspec.json.decode(sys.stdin.buffer.readline(), type=_Orders)
    tls = None
    if orders.certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(orders.certificate, orders.private_key)
    allow_many_connections()
    listener = listen(orders.host)
    print(listener.getsockname()[1], flush=True)
    Loop(listener, orders.behaviour, parent=sys.stdin.fileno(), tls=tls).run()


class MockServer:
    """A mock in a process of its own, on a free port.

    with MockServer.start(Behaviour(ttft_ms=50)) as mock:
        ...  # ask mock.url
        mock.truth()
    """

    def __init__(self, process: "subprocess.Popen[bytes]", url: str, port: int) -> None:
        self._process = process
        self.url = url
        self.host = "127.0.0.1"
        self.port = port

    @classmethod
    def start(
        cls, behaviour: Behaviour | None = None, *, certificate: Path | None = None, private_key: Path | None = None
    ) -> Self:
        """With a certificate it speaks TLS. Raises BenchError if it does not come up."""
        orders = _Orders(
            behaviour=behaviour or Behaviour(),
            host="127.0.0.1",
            certificate=None if certificate is None else str(certificate),
            private_key=None if private_key is None else str(private_key),
        )
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bench.mock"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(orders) + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            process.wait()
            process.stdin.close()
            process.stdout.close()
            raise BenchError(f"the mock ended with code {process.returncode} before it was ready")
        scheme = "http" if certificate is None else "https"
        return cls(process, f"{scheme}://127.0.0.1:{int(line)}", int(line))

    @property
    def pid(self) -> int:
        return self._process.pid

    def truth(self) -> Truth:
        """What it did so far. An answer under way has stamps, but no `tokens` yet."""
        return msgspec.msgpack.decode(self._ask("/truth"), type=Truth)

    def reset(self) -> None:
        """Begin a new truth; the stalls of the behaviour count from the next request."""
        self._ask("/reset", b"{}")

    def behave(self, behaviour: Behaviour) -> None:
        """Change the behaviour for what comes now, and begin a new truth."""
        self._ask("/behaviour", msgspec.json.encode(behaviour))

    def _ask(self, path: str, body: bytes | None = None) -> bytes:
        headers = {"accept": "application/msgpack", "connection": "close"}
        request = urllib.request.Request(self.url + path, body, headers)  # noqa: S310 - our own child
        context = None
        if self.url.startswith("https"):
            context = ssl._create_unverified_context()  # noqa: S323 - our own child
        with urllib.request.urlopen(request, context=context) as answer:  # noqa: S310
            data: bytes = answer.read()
            return data

    def stop(self) -> None:
        """End it; may be called twice."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

"""`Server`: a server started for a measurement, found ready, and ended with everything it started.

It is reached through a guard (`bench/server/guard.py`): when this process ends, however it ends, the pipe to the
guard closes, and the guard ends the server's process group.
"""

import contextlib
import http.client
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import urlsplit

from bench.types import BenchError, UsageError

GUARD = Path(__file__).with_name("guard.py")
HEALTH_PATHS = ("/health", "/v1/models", "/")
POLL_SECONDS = 0.05
LOG_TAIL = 4000  # bytes of the server's output shown when it does not start


def free_port() -> int:
    """A TCP port of the loopback address that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def own_command(*flags: str) -> list[str]:
    """The command of our own server, with the built-in model unless the flags name another."""
    return [sys.executable, "-m", "tgi_cli", "serve", "--port", "{port}", *flags]


def fill(command: str | Sequence[str], values: Mapping[str, object]) -> list[str]:
    """A command line with its `{name}` places filled. Raises UsageError for a place without a value."""
    words = shlex.split(command) if isinstance(command, str) else list(command)
    if not words:
        raise UsageError("the command that starts the server is empty")
    try:
        return [word.format_map(values) for word in words]
    except (KeyError, IndexError) as error:
        known = ", ".join(f"{{{name}}}" for name in values)
        raise UsageError(f"the serve command has a place {{{error.args[0]}}} without a value; known: {known}") from None
    except ValueError as error:
        raise UsageError(f"the serve command is no template: {error}; write {{{{ and }}}} for braces") from None


class Server:
    """A running server at `url`. Use as a context manager; leaving it ends every process it started.

    `command` may hold `{port}`, for which a free one is chosen, and `{NAME}` for each of `values`. Where it holds no
    `{port}`, `url` says where it listens. Raises BenchError, with the end of its output, when it ends or is not
    ready after `timeout` seconds.
    """

    def __init__(
        self,
        command: str | Sequence[str],
        values: Mapping[str, object] | None = None,
        *,
        url: str | None = None,
        timeout: float = 300.0,
        grace: float = 10.0,
    ) -> None:
        port = free_port()
        self.command = fill(command, {**(values or {}), "port": port})
        template = command if isinstance(command, str) else " ".join(command)
        if url is None and "{port}" not in template:
            raise UsageError("the serve command says no port; write {port} in it, or give --url")
        self.url = url or f"http://127.0.0.1:{port}"
        self._timeout, self._grace = timeout, grace
        self._guard: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def __enter__(self) -> Self:
        if _answers(self.url) is not None:
            raise BenchError(f"something answers at {self.url} already; stop it, or choose another port")
        self._log = tempfile.TemporaryFile()  # lives as long as the server
        self._guard = subprocess.Popen(  # noqa: S603  # the command the user asked for
            [sys.executable, "-I", str(GUARD), str(self._grace), *self.command],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the server and wait until nothing of it is left."""
        if self._guard is not None:
            assert self._guard.stdin is not None
            with contextlib.suppress(OSError):
                self._guard.stdin.close()
            self._guard.wait()
            self._guard = None
        if self._log is not None:
            self._log.close()
            self._log = None

    @property
    def running(self) -> bool:
        return self._guard is not None and self._guard.poll() is None

    @property
    def output(self) -> str:
        """The end of what the server has written."""
        if self._log is None:
            return ""
        size = os.fstat(self._log.fileno()).st_size
        start = max(0, size - LOG_TAIL)
        return os.pread(self._log.fileno(), LOG_TAIL, start).decode(errors="replace").strip()

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + self._timeout
        while time.monotonic() < until:
            if not self.running:
                raise BenchError(f"the server ended before it was ready: {shlex.join(self.command)}\n{self.output}")
            if _answers(self.url) == http.client.OK:
                return
            time.sleep(POLL_SECONDS)
        raise BenchError(
            f"the server was not ready after {self._timeout:g} s: {shlex.join(self.command)}\n{self.output}"
        )


def _answers(url: str) -> int | None:
    """The status of the first health route the server knows; None where nothing listens."""
    parts = urlsplit(url)
    status = None
    for path in HEALTH_PATHS:
        connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=5)
        try:
            connection.request("GET", path)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        if status not in (http.client.NOT_FOUND, http.client.METHOD_NOT_ALLOWED):
            return status
    return status


def listens(url: str, timeout: float = 0.5) -> bool:
    """Whether somebody takes connections there."""
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 80), timeout).close()
    except OSError:
        return False
    return True

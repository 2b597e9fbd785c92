"""`serve` in a process of its own: when it opens the port, what signals do, and what it refuses."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_engine import FakeEngine
from serving import MODEL

from engine.config import ServerOptions
from engine.errors import AddressInUse, ConfigError, EngineDead, ModelNotFound
from engine.server.run import bind, serve
from engine.text.tokenizer import Tokenizer
from engine.types import EngineInfo

# A server whose engine stops at its second token, until a file appears.
PROGRAM = """
import asyncio, sys
from pathlib import Path
from engine.config import ServerOptions
from engine.server.run import serve
from engine.text.tokenizer import Tokenizer
from fake_engine import FakeEngine

_, timeout, opener, model = sys.argv

class Gated(FakeEngine):
    async def _pass_gate(self, step):
        if step == 1:
            print("waiting", flush=True)
            while not Path(opener).exists():
                await asyncio.sleep(0.01)

    async def close(self):
        await super().close()
        print("closed", self.closed, flush=True)

options = ServerOptions(model_id="m", port=0, graceful_termination_timeout=int(timeout))
serve(Gated(((290,), (2,))), Tokenizer.load(Path(model)), options)
print("returned", flush=True)
"""


@contextlib.contextmanager
def running(timeout: int, opener: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here.parent), str(here.parents[1])])
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(timeout), str(opener), str(MODEL)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready at http://127.0.0.1:"), line
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def wait_until_closed(url: str) -> None:
    """Until the server no longer listens."""
    with contextlib.suppress(httpx.TransportError):
        while True:
            httpx.get(f"{url}/health")


def last_event(answer: httpx.Response) -> Any:
    *_, last = [line for line in answer.iter_lines() if line]
    return json.loads(last.removeprefix("data: "))


def test_sigterm_lets_a_running_request_finish(tmp_path: Path) -> None:
    opener = tmp_path / "open"
    with running(600, opener) as (process, url):
        with httpx.stream("POST", f"{url}/generate_stream", json={"inputs": "a"}, timeout=60) as answer:
            assert line_of(process) == "waiting"
            process.send_signal(signal.SIGTERM)
            wait_until_closed(url)
            opener.touch()
            assert last_event(answer)["generated_text"] == " is"
        assert process.wait(60) == 0
        assert [line_of(process) for _ in range(2)] == ["closed 1", "closed 2"]
        assert line_of(process) == "returned"


@pytest.mark.parametrize("order", [[signal.SIGTERM], [signal.SIGTERM, signal.SIGTERM], [signal.SIGINT, signal.SIGTERM]])
def test_a_request_that_does_not_finish_is_told_so(order: list[signal.Signals], tmp_path: Path) -> None:
    """After the timeout, or at the second signal however long the timeout."""
    with running(1 if len(order) == 1 else 600, tmp_path / "never") as (process, url):
        with httpx.stream("POST", f"{url}/generate_stream", json={"inputs": "a"}, timeout=60) as answer:
            assert line_of(process) == "waiting"
            for sent in order:
                process.send_signal(sent)
                wait_until_closed(url)
            assert last_event(answer) == {"error": "the server is shutting down", "error_type": "unhealthy"}
        assert process.wait(60) == 0
        lines = list(process.stdout or ())
        assert lines[-1] == "returned\n"
        assert not any("Traceback" in line for line in lines)


def test_a_plain_request_that_does_not_finish_is_unavailable(tmp_path: Path) -> None:
    with running(1, tmp_path / "never") as (process, url), ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(httpx.post, f"{url}/generate", json={"inputs": "a"}, timeout=60)
        assert line_of(process) == "waiting"
        process.send_signal(signal.SIGTERM)
        answer = waiting.result(60)
        assert (answer.status_code, answer.json()["error"]) == (503, "the server is shutting down")
        assert process.wait(60) == 0


def test_an_upload_that_never_ends_does_not_stop_the_end(tmp_path: Path) -> None:
    with running(1, tmp_path / "never") as (process, url):
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        head = b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
        with socket.create_connection(address) as connection:
            connection.sendall(head)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0


def test_a_port_in_use_is_reported_before_the_engine_starts(tokenizer: Tokenizer) -> None:
    engine = FakeEngine()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(AddressInUse, match=f"port {port} of 127.0.0.1 is in use"):
            serve(engine, tokenizer, ServerOptions(model_id="m", port=port))
    assert engine.closed == 0


def test_two_servers_cannot_share_a_port_that_neither_listens_on_yet(tokenizer: Tokenizer) -> None:
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        ready: list[str] = []

        class ListensFirst(FakeEngine):
            async def start(self) -> EngineInfo:
                first.listen()
                return await super().start()

        engine = ListensFirst()
        with pytest.raises(AddressInUse):
            serve(engine, tokenizer, ServerOptions(model_id="m", port=port), ready.append)
    assert not ready
    assert engine.closed


@pytest.mark.parametrize("hostname", ["", "no.such.host.invalid", "0.0.0.0.0", "http://127.0.0.1", "127.0.0.1:80"])
def test_a_hostname_that_is_none_never_falls_open(hostname: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="--hostname"):
        serve(FakeEngine(), tokenizer, ServerOptions(model_id="m", hostname=hostname))


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(ConfigError):
        bind("127.0.0.1", port)


def test_an_engine_that_cannot_start_is_reported_as_it_says(tokenizer: Tokenizer) -> None:
    engine = FakeEngine()
    engine.start_error = ModelNotFound("no such directory: /models/x")
    with pytest.raises(ModelNotFound, match="no such directory"):
        serve(engine, tokenizer, ServerOptions(model_id="m", port=0))


def test_limits_that_do_not_fit_the_engine_are_refused(tokenizer: Tokenizer) -> None:
    engine = FakeEngine()
    with pytest.raises(ConfigError, match=r"--max-input-tokens \(64\) must be less than --max-total-tokens \(64\)"):
        serve(engine, tokenizer, ServerOptions(model_id="m", port=0, max_input_tokens=64))
    assert engine.closed


def test_a_server_whose_engine_is_lost_for_good_ends_with_its_own_exit_code(tokenizer: Tokenizer) -> None:
    client = FakeEngine()
    with pytest.raises(EngineDead, match="it died too often; the server ends") as caught:
        serve(
            client,
            tokenizer,
            ServerOptions(model_id="m", port=0),
            on_ready=lambda url, info: client.on_lost("it died too often"),
        )
    assert caught.value.exit_code == 70

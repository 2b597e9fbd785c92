"""A client that leaves takes its work with it, whether it was streaming or waiting; so does a failing sibling."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from asgi_connection import Connection, events
from fake_engine import FakeEngine
from starlette.applications import Starlette

from engine.errors import GenerationFailed
from engine.server import sse

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
PLAIN: list[tuple[str, dict[str, Any], int]] = [
    ("/generate", {"inputs": "The sea"}, 1),
    ("/generate", {"inputs": "The sea", "parameters": {"best_of": 2, "do_sample": True}}, 2),
    ("/v1/completions", {"prompt": ["The sea", "The end"], "n": 2}, 4),
    ("/", {"inputs": "The sea"}, 1),
    ("/v1/chat/completions", CHAT | {"n": 3}, 3),
    ("/v1/completions", {"prompt": ["The sea", "The end"]}, 2),
    ("/v1/responses", {"input": "Hi"}, 1),
    ("/v1/messages", CHAT | {"model": "m", "max_tokens": 9}, 1),
]
STREAMED: list[tuple[str, dict[str, Any], int]] = [
    ("/generate_stream", {"inputs": "The sea"}, 1),
    ("/", {"inputs": "The sea", "stream": True}, 1),
    ("/v1/chat/completions", CHAT | {"stream": True, "n": 2}, 2),
    ("/v1/completions", {"prompt": ["The sea", "The end"], "stream": True}, 2),
    ("/v1/responses", {"input": "Hi", "stream": True}, 1),
    ("/v1/messages", CHAT | {"model": "m", "max_tokens": 9, "stream": True}, 1),
]


@pytest.mark.parametrize(("path", "body", "requests"), PLAIN + STREAMED)
@pytest.mark.parametrize("gate_step", [0, 2])
async def test_a_client_that_leaves_cancels_its_requests(
    path: str,
    body: dict[str, Any],
    requests: int,
    gate_step: int,
    make_app: Callable[..., Starlette],
    engine: FakeEngine,
) -> None:
    engine.gate, engine.gate_step = asyncio.Event(), gate_step
    if gate_step == 0:  # of several answers to one prompt only the first has begun
        requests = len(body["prompt"]) if "prompt" in body else 1
    app = make_app()
    connection = Connection(app, path, body)
    serving = asyncio.create_task(connection.run())
    while len(engine.requests) < requests:
        await engine.waiting.wait()
        engine.waiting.clear()
    await asyncio.sleep(0)
    connection.leave()
    await serving
    assert len(engine.cancelled) == requests
    service = app.state.service
    assert service.permits.used == 0
    assert service.metrics.request_failure.value("dropped") == 1
    assert service.metrics.request_count.value() == 1
    assert b"[DONE]" not in connection.body


@pytest.mark.parametrize(
    ("path", "body"),
    [("/generate_stream", {"inputs": "The sea"}), ("/v1/completions", {"prompt": "a", "stream": True})],
)
async def test_a_client_that_leaves_while_it_is_not_reading_is_noticed(
    path: str, body: dict[str, Any], make_app: Callable[..., Starlette], engine: FakeEngine
) -> None:
    blocked = asyncio.Event()

    class SlowReader(Connection):
        async def _send(self, message: Any) -> None:
            await super()._send(message)
            if message.get("body"):
                blocked.set()
                await asyncio.Event().wait()

    engine.gate, engine.gate_step = asyncio.Event(), 3
    connection = SlowReader(make_app(), path, body)
    serving = asyncio.create_task(connection.run())
    await blocked.wait()
    connection.leave()
    await serving
    assert len(engine.cancelled) == 1


async def test_one_failing_answer_cancels_its_siblings(make_app: Callable[..., Starlette], engine: FakeEngine) -> None:
    class FailsOnce(FakeEngine):
        async def _pass_gate(self, step: int) -> None:
            if step == 1 and len(self.requests) == 2 and not self.failed:
                self.failed = True
                raise GenerationFailed("a logit is not a number")
            if step == 1:
                await asyncio.Event().wait()

        failed = False

    failing = FailsOnce(engine.script)
    failing.healthy = True
    app = make_app()
    app.state.service.client = failing
    connection = Connection(app, "/v1/chat/completions", CHAT | {"n": 2})
    await connection.run()
    assert connection.status == 424
    assert len(failing.requests) == 2
    assert len(failing.cancelled) == 1


async def test_a_silent_stream_is_kept_open(
    make_app: Callable[..., Starlette], engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.01)
    commented = asyncio.Event()

    class Listener(Connection):
        async def _send(self, message: Any) -> None:
            await super()._send(message)
            if message.get("body", b"").startswith(b":"):
                commented.set()

    engine.gate, engine.gate_step = asyncio.Event(), 1
    connection = Listener(make_app(), "/generate_stream", {"inputs": "The sea"})
    serving = asyncio.create_task(connection.run())
    await commented.wait()
    engine.gate.set()
    await serving
    assert [event["index"] for event in events(connection.body)] == [1, 2, 3, 4]
    assert not engine.cancelled

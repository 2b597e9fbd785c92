"""What clients see when there is no permit, no engine, or an engine that fails in the middle."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from asgi_connection import Connection, events
from fake_engine import FakeEngine
from serving import client_of
from starlette.applications import Starlette

from engine.errors import EngineDead, GenerationFailed, InvalidRequest

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/generate", {"inputs": "The sea"}),
    ("/", {"inputs": "The sea"}),
    ("/v1/chat/completions", CHAT),
    ("/v1/completions", {"prompt": "The sea"}),
]
STREAMS: list[tuple[str, dict[str, Any]]] = [
    ("/generate_stream", {"inputs": "The sea"}),
    ("/v1", {"inputs": "The sea", "stream": True}),
    ("/v1/chat/completions", CHAT | {"stream": True}),
    ("/v1/completions", {"prompt": "The sea", "stream": True}),
]
FAILURES: list[tuple[Exception, int, str, str, str]] = [
    (
        GenerationFailed("a logit is not a number"),
        424,
        "generation",
        "Request failed during generation: a logit is not a number",
        "generation",
    ),
    (EngineDead("the engine process ended"), 503, "unhealthy", "the engine process ended", "generation"),
    (
        InvalidRequest("it can never fit"),
        422,
        "validation",
        "Input validation error: it can never fit",
        "validation",
    ),
]


def said(body: Any) -> tuple[str, str]:
    error = body["error"]
    return (error if isinstance(error, str) else error["message"]), body["error_type"]


@pytest.mark.parametrize(("path", "body"), ROUTES)
@pytest.mark.parametrize(("error", "status", "error_type", "text", "reason"), FAILURES)
async def test_a_failure_of_the_engine_has_a_status_and_a_reason(
    path: str,
    body: dict[str, Any],
    error: Exception,
    status: int,
    error_type: str,
    text: str,
    reason: str,
    make_app: Callable[..., Starlette],
    engine: FakeEngine,
) -> None:
    engine.error, engine.gate_step = error, 2
    app = make_app()
    async with client_of(app) as api:
        answer = await api.post(path, json=body)
    assert answer.status_code == status
    assert said(answer.json()) == (text, error_type)
    assert ("retry-after" in answer.headers) == (status == 503)
    assert app.state.service.metrics.request_failure.value(reason) == 1
    assert app.state.service.permits.used == 0


@pytest.mark.parametrize(("path", "body"), STREAMS)
@pytest.mark.parametrize(("error", "status", "error_type", "text", "reason"), FAILURES)
async def test_a_stream_that_fails_ends_with_one_error_event(
    path: str,
    body: dict[str, Any],
    error: Exception,
    status: int,
    error_type: str,
    text: str,
    reason: str,
    make_app: Callable[..., Starlette],
    engine: FakeEngine,
) -> None:
    engine.error, engine.gate_step = error, 2
    app = make_app()
    async with client_of(app) as api:
        answer = await api.post(path, json=body)
    assert answer.status_code == 200
    received = events(answer.content)
    if path.startswith("/v1/"):
        assert received.pop() == "[DONE]"
        assert received[-1]["error"]["http_status_code"] == status
    *tokens, last = received
    assert len(tokens) == 2
    assert said(last) == (text, error_type)
    assert app.state.service.metrics.request_failure.value(reason) == 1
    assert app.state.service.permits.used == 0


@pytest.mark.parametrize("as_tgi", [False, True])
@pytest.mark.parametrize(("path", "body"), [*STREAMS, ("/invocations", CHAT | {"stream": True})])
async def test_a_stream_that_the_end_of_the_server_cuts_off_ends_as_after_any_failure(
    path: str, body: dict[str, Any], as_tgi: bool, make_app: Callable[..., Starlette], engine: FakeEngine
) -> None:
    engine.gate, engine.gate_step = asyncio.Event(), 2
    app = make_app(tgi_compat="strict" if as_tgi else "default")
    connection = Connection(app, path, body)
    serving = asyncio.create_task(connection.run())
    await engine.waiting.wait()
    serving.cancel()
    await serving
    received, text = events(connection.body), "the server is shutting down"
    if path.startswith("/v1/") or path == "/invocations":
        assert received.pop() == "[DONE]"
        if as_tgi:
            assert received[-1] == {"error": {"message": text, "http_status_code": 422}}
        else:
            assert received[-1]["error"]["http_status_code"] == 503
            assert said(received[-1]) == (text, "unhealthy")
    else:
        assert said(received[-1]) == (text, "unhealthy")
    assert len(engine.cancelled) == 1
    assert app.state.service.permits.used == 0


async def test_an_answer_without_an_end_is_incomplete(api: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = ((290,),)
    answer = await api.post("/generate", json={"inputs": "The sea"})
    assert (answer.status_code, answer.json()) == (
        500,
        {"error": "Incomplete generation", "error_type": "incomplete_generation"},
    )
    answer = await api.post("/generate_stream", json={"inputs": "The sea"})
    assert events(answer.content)[-1] == {
        "error": "Incomplete generation stream",
        "error_type": "incomplete_generation_stream",
    }


async def test_a_defect_is_an_internal_error_and_tells_nothing(
    make_app: Callable[..., Starlette], engine: FakeEngine
) -> None:
    engine.error = RuntimeError("secret at 0x7f")
    async with client_of(make_app(), raise_app_exceptions=False) as api:
        answer = await api.post("/generate", json={"inputs": "The sea"})
        assert (answer.status_code, answer.json()) == (
            500,
            {"error": "Internal server error", "error_type": "internal"},
        )
        for path, body in STREAMS:
            answer = await api.post(path, json=body)
            assert "Internal server error" in answer.text
            assert "secret" not in answer.text


@pytest.mark.parametrize("path", ["/health", "/ping", "/"])
async def test_health_is_the_engines(path: str, api: httpx.AsyncClient, engine: FakeEngine) -> None:
    answer = await api.get(path)
    assert (answer.status_code, answer.content) == (200, b"")
    engine.healthy = False
    answer = await api.get(path)
    assert (answer.status_code, answer.json()) == (503, {"error": "unhealthy", "error_type": "healthcheck"})
    assert "retry-after" in answer.headers


async def test_health_answers_while_every_permit_is_taken(
    make_app: Callable[..., Starlette], engine: FakeEngine
) -> None:
    engine.gate = asyncio.Event()
    app = make_app(max_concurrent_requests=1)
    running = asyncio.create_task(Connection(app, "/generate", {"inputs": "The sea"}).run())
    await engine.waiting.wait()
    async with client_of(app) as api:
        assert (await api.get("/health")).status_code == 200
        for path, body in ROUTES:
            answer = await api.post(path, json=body)
            assert answer.status_code == 429
            assert said(answer.json()) == ("Model is overloaded", "overloaded")
            assert answer.headers["retry-after"] == "1"
        for path, body in STREAMS:
            answer = await api.post(path, json=body)
            assert answer.status_code == 200
            assert said(events(answer.content)[0]) == ("Model is overloaded", "overloaded")
    engine.gate.set()
    await running
    assert len(engine.requests) == 1
    assert app.state.service.metrics.request_failure.value("overloaded") == 8


async def test_each_answer_of_a_request_takes_a_permit(make_app: Callable[..., Starlette]) -> None:
    async with client_of(make_app(max_concurrent_requests=3)) as api:
        for prompts, n, status in [(1, 3, 200), (3, 1, 200), (2, 2, 429), (1, 4, 429)]:
            answer = await api.post("/v1/completions", json={"prompt": ["a"] * prompts, "n": n})
            assert answer.status_code == status
        body = {"inputs": "a", "parameters": {"best_of": 2, "do_sample": True}}
        assert (await api.post("/generate", json=body)).status_code == 200


async def test_a_permit_is_taken_before_values_are_checked(
    make_app: Callable[..., Starlette], engine: FakeEngine
) -> None:
    async with client_of(make_app(max_concurrent_requests=0)) as api:
        answer = await api.post("/generate", json={"inputs": "", "parameters": {"temperature": 0}})
    assert answer.status_code == 429

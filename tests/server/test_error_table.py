"""The table of errors in docs/http-api.md, held against the errors that the server knows."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from asgi_connection import events
from fake_engine import FakeEngine
from serving import client_of
from starlette.applications import Starlette

from engine.errors import (
    EngineDead,
    EngineError,
    GenerationFailed,
    InvalidRequest,
    Overloaded,
    StartError,
    TemplateError,
)
from engine.server import app  # noqa: F401 - with it every error class is there
from engine.server.errors import IncompleteStream, dialect, error_body, message

PAGE = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (\d{3}|in streams) \| `([^`]+)` \| (.*?) \| .* \|$", re.MULTILINE)
TABLE = {(status, kind): text for status, kind, text in ROW.findall(PAGE)}
FAILURES: list[tuple[EngineError, int, str]] = [
    (GenerationFailed("out of luck"), 424, "Request failed during generation: out of luck"),
    (Overloaded("full"), 429, "Model is overloaded"),
    (EngineDead("the engine is gone"), 503, "the engine is gone"),
    (InvalidRequest("too long"), 422, "Input validation error: too long"),
]
BODIES = {
    "tgi": ("/generate", {"inputs": "a"}),
    "openai": ("/v1/completions", {"prompt": "a"}),
    "anthropic": (
        "/v1/messages",
        {"model": "m", "max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}]},
    ),
}


def kinds(base: type[EngineError] = EngineError) -> Iterator[type[EngineError]]:
    for kind in base.__subclasses__():
        if kind is not StartError and kind.__module__.startswith("engine."):
            yield kind
            yield from kinds(kind)


@pytest.mark.parametrize("kind", sorted(set(kinds()), key=lambda kind: kind.__name__))
def test_every_error_is_in_the_table(kind: type[EngineError]) -> None:
    status = "in streams" if kind is IncompleteStream else str(int(kind.status))
    assert (status, kind.error_type) in TABLE
    shown = message(kind("WHY"))
    told = re.sub(r"^`+|`+$", "", TABLE[status, kind.error_type].strip()).partition("…")[0].strip()
    if not shown.startswith("WHY"):
        assert shown.startswith(told.strip("` "))


def test_the_messages_without_a_reason_are_these() -> None:
    assert message(Overloaded("x")) == "Model is overloaded"
    assert message(TemplateError("Template error: x")) == "Template error: x"


@pytest.mark.parametrize("family", BODIES)
@pytest.mark.parametrize(("error", "status", "text"), FAILURES)
async def test_a_failure_has_the_shape_of_its_family(
    family: str, error: EngineError, status: int, text: str, make_app: Callable[..., Starlette], engine: FakeEngine
) -> None:
    path, body = BODIES[family]
    engine.error, engine.gate_step = error, 0
    async with client_of(make_app()) as api:
        answer = await api.post(path, json=body)
    assert answer.status_code == status
    assert answer.json() == json.loads(error_body(path, error))
    assert text in answer.text
    assert ("retry-after" in answer.headers) == (status in (429, 503))
    assert dialect(path) == family


@pytest.mark.parametrize("family", ["tgi", "openai"])
async def test_a_failure_of_a_stream_is_an_event_of_the_same_shape(
    family: str, make_app: Callable[..., Starlette], engine: FakeEngine
) -> None:
    path, body = BODIES[family]
    path = {"/generate": "/generate_stream"}.get(path, path)
    engine.error, engine.gate_step = FAILURES[0][0], 2
    async with client_of(make_app()) as api:
        answer = await api.post(path, json=body | {"stream": True})
    assert answer.status_code == 200
    received = events(answer.content)
    if family == "openai":
        assert received.pop() == "[DONE]"
    assert received[-1] == json.loads(error_body(path, FAILURES[0][0]))
    assert len(received) == 3


async def test_a_defect_in_a_stream_is_not_told_to_clients(
    make_app: Callable[..., Starlette], engine: FakeEngine
) -> None:
    engine.error, engine.gate_step = RuntimeError("secret"), 1
    async with client_of(make_app()) as api:
        answer = await api.post("/generate_stream", json={"inputs": "a"})
    assert events(answer.content)[-1] == {"error": "Internal server error", "error_type": "internal"}

"""What a server says about itself: `/metrics`, `/info`, and its engine at start and end."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fake_engine import FakeEngine
from serving import client_of
from starlette.applications import Starlette

from engine.config import ServerOptions
from engine.server.app import create_app
from engine.text.tokenizer import Tokenizer

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(
    ("path", "body", "answers"),
    [
        ("/generate", {"inputs": "a"}, 1),
        ("/generate", {"inputs": "a", "parameters": {"best_of": 2, "do_sample": True}}, 2),
        ("/generate_stream", {"inputs": "a"}, 1),
        ("/v1/chat/completions", CHAT | {"n": 2}, 2),
        ("/v1/chat/completions", CHAT | {"stream": True}, 1),
        ("/v1/completions", {"prompt": ["a", "b"]}, 2),
    ],
)
async def test_a_request_counts_once_and_each_answer_is_measured(
    path: str, body: dict[str, Any], answers: int, make_app: Callable[..., Starlette]
) -> None:
    app = make_app()
    async with client_of(app) as api:
        assert (await api.post(path, json=body)).status_code == 200
    metrics = app.state.service.metrics
    assert metrics.request_count.value() == 1
    assert metrics.request_success.value() == 1
    assert metrics.request_duration.count() == 1
    assert metrics.request_validation_duration.count() == 1
    assert metrics.request_first_token_duration.count() == answers
    assert metrics.request_inter_token_duration.count() == 3 * answers
    assert metrics.request_generated_tokens.count() == answers
    assert metrics.request_inference_duration.count() == answers


async def test_the_page_is_prometheus_text(api: httpx.AsyncClient) -> None:
    await api.post("/generate", json={"inputs": ""})
    answer = await api.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'tgi_request_failure{err="validation"} 1\n' in answer.text
    assert "tgi_request_count 1\n" in answer.text


async def test_information_that_is_not_a_generation_is_not_counted(api: httpx.AsyncClient) -> None:
    for path in ("/health", "/info", "/v1/models"):
        await api.get(path)
    await api.post("/tokenize", json={"inputs": "a"})
    assert "tgi_request_count 0\n" in (await api.get("/metrics")).text


async def test_info_says_what_the_server_allows(make_app: Callable[..., Starlette]) -> None:
    async with client_of(make_app(revision="main", max_input_tokens=10, max_best_of=3)) as api:
        info = (await api.get("/info")).json()
    assert info["model_id"] == "the/model"
    assert info["model_sha"] == "main"
    assert (info["max_input_tokens"], info["max_total_tokens"], info["max_best_of"]) == (10, 64, 3)
    assert info["max_concurrent_requests"] == 128
    assert info["router"] == "text-generation-router"
    assert (info["model_pipeline_tag"], info["sha"], info["docker_label"]) == (None, None, None)


async def test_the_lifespan_starts_and_ends_the_engine(engine: FakeEngine, tokenizer: Tokenizer) -> None:
    engine.healthy = False
    app = create_app(engine, tokenizer, ServerOptions(model_id="m"))
    async with app.router.lifespan_context(app), client_of(app) as api:
        assert (await api.get("/health")).status_code == 200
    assert engine.closed == 1

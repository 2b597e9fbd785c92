"""`/invocations` and `/vertex`: the other routes in the wrapping of SageMaker and Vertex AI (contract 1.2)."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from asgi_connection import events
from fake_engine import FakeEngine
from serving import client_of
from starlette.applications import Starlette

from engine.errors import GenerationFailed

USER = {"role": "user", "content": "Hi"}
UNTAGGED = "Failed to deserialize the JSON body into the target type: data did not match any variant of untagged enum "

BODIES: list[tuple[dict[str, Any], str]] = [
    ({"inputs": "The sea"}, "/"),
    ({"inputs": "The sea", "parameters": {"details": True, "return_full_text": False}}, "/"),
    ({"inputs": "The sea", "messages": [USER], "prompt": "x"}, "/"),
    ({"messages": [USER], "temperature": 0}, "/v1/chat/completions"),
    ({"inputs": ["not a text"], "messages": [USER], "temperature": 0}, "/v1/chat/completions"),
    ({"prompt": ["The sea", "The"], "temperature": 0}, "/v1/completions"),
    ({"messages": "none", "prompt": "The sea", "temperature": 0}, "/v1/completions"),
    ({"inputs": "The sea", "parameters": {"temperature": 0}}, "/"),
    ({"messages": [USER], "n": 0}, "/v1/chat/completions"),
]


def without_ids(answer: Any) -> Any:
    if isinstance(answer, dict):
        return {key: value for key, value in answer.items() if key not in ("id", "created")}
    return answer


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("body", "path"), BODIES)
async def test_invocations_answers_as_the_route_the_body_is_for(
    body: dict[str, Any], path: str, stream: bool, api: httpx.AsyncClient
) -> None:
    body = body | {"stream": stream} | ({"seed": 1} if path != "/" else {})
    if path == "/":
        body["parameters"] = {"seed": 1} | body.get("parameters", {})
    answer, expected = await api.post("/invocations", json=body), await api.post(path, json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (
        expected.status_code,
        expected.headers["content-type"],
    )
    if answer.headers["content-type"].startswith("text/event-stream"):
        left, right = events(answer.content), events(expected.content)
        assert [without_ids(each) for each in left] == [without_ids(each) for each in right]
    else:
        assert without_ids(answer.json()) == without_ids(expected.json())
    assert set(answer.headers) == set(expected.headers)


@pytest.mark.parametrize("body", [{}, {"inputs": 1}, {"messages": [1]}, {"prompt": None, "inputs": None}])
async def test_a_body_for_no_route_is_refused_with_tgis_words(body: dict[str, Any], api: httpx.AsyncClient) -> None:
    answer = await api.post("/invocations", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(UNTAGGED + "SagemakerRequest")
    assert "; as /v1/chat/completions: " in answer.json()["error"]


async def test_a_body_that_is_no_json_is_refused_before_all_else(api: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json"}
    for body in (b"{", b'{"inputs": "a", "inputs": "b"}'):
        assert (await api.post("/invocations", content=body, headers=headers)).status_code == 400
    assert (await api.post("/invocations", content=b"{}")).status_code == 415


async def test_a_large_body_is_sorted_off_the_loop(api: httpx.AsyncClient, engine: FakeEngine) -> None:
    body = {"inputs": " sea" * 50_000, "parameters": {"truncate": 5}}
    assert (await api.post("/invocations", json=body)).status_code == 200
    assert len(engine.requests[0].prompt) == 5


async def test_vertex_answers_with_texts(api: httpx.AsyncClient, engine: FakeEngine) -> None:
    instances = [
        {"inputs": "The sea"},
        {"inputs": "The", "parameters": {"max_new_tokens": 2, "seed": 7, "top_k": 3, "stop": [" is"], "details": True}},
        {"messages": [USER], "max_tokens": 1, "seed": 9},
    ]
    answer = await api.post("/vertex", json={"instances": instances})
    assert (answer.status_code, answer.json()) == (200, {"predictions": [" is deep.", " is deep", " is"]})
    by_length = {request.params.max_new_tokens: request.params for request in engine.requests}
    assert by_length[2].seed == 7
    assert (by_length[2].temperature, by_length[2].top_k) == (1.0, 0)  # always drawn, and nothing else is read
    assert by_length[1].seed == 9


async def test_vertex_counts_a_request_once(make_app: Callable[..., Starlette]) -> None:
    app = make_app()
    async with client_of(app) as api:
        await api.post("/vertex", json={"instances": [{"inputs": "a"}, {"inputs": "b"}]})
        await api.post("/vertex", json={"instances": []})
    metrics = app.state.service.metrics
    assert (metrics.request_count.value(), metrics.request_success.value()) == (2, 1)
    assert metrics.request_failure.value("validation") == 1


async def test_vertex_without_instances_is_a_refusal_of_its_own(api: httpx.AsyncClient) -> None:
    answer = await api.post("/vertex", json={"instances": []})
    error = "Input validation error"
    assert (answer.status_code, answer.json()) == (422, {"error": error, "error_type": error})


@pytest.mark.parametrize("instance", [{"inputs": ""}, {"inputs": "a", "parameters": {"max_new_tokens": 1000}}])
async def test_whatever_goes_wrong_at_vertex_is_an_incomplete_generation(
    instance: dict[str, Any], api: httpx.AsyncClient, engine: FakeEngine, make_app: Callable[..., Starlette]
) -> None:
    expected = (500, {"error": "Incomplete generation", "error_type": "Incomplete generation"})
    answer = await api.post("/vertex", json={"instances": [{"inputs": "a"}, instance]})
    assert (answer.status_code, answer.json()) == expected
    engine.error = GenerationFailed("out of luck")
    answer = await api.post("/vertex", json={"instances": [{"inputs": "a"}]})
    assert (answer.status_code, answer.json()) == expected
    async with client_of(make_app(max_concurrent_requests=1)) as small:
        answer = await small.post("/vertex", json={"instances": [{"inputs": "a"}] * 2})
    assert (answer.status_code, answer.json()) == expected


@pytest.mark.parametrize("body", [{}, {"instances": 1}, {"instances": [{}]}, {"instances": [{"inputs": 1}]}])
async def test_instances_of_no_shape_are_refused(body: dict[str, Any], api: httpx.AsyncClient) -> None:
    answer = await api.post("/vertex", json=body)
    assert (answer.status_code, answer.json()["error_type"]) == (422, "validation")

"""From what a client says to what the engine is told: when tokens are drawn, and with which seed."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fake_engine import FakeEngine
from serving import client_of
from starlette.applications import Starlette

from engine.errors import GenerationFailed
from engine.types import SamplingParams

GREEDY: list[dict[str, Any]] = [
    {"parameters": {}},
    {"parameters": {"do_sample": False}},
    {"parameters": {"temperature": 1.0}},
    {"parameters": {"top_p": 1.0, "typical_p": 1, "min_p": 0.0}},
    {"parameters": {"repetition_penalty": 1.5, "seed": 3}},
]
SAMPLED: list[dict[str, Any]] = [
    {},
    {"parameters": None},
    {"parameters": {"do_sample": True}},
    {"parameters": {"temperature": 0.5}},
    {"parameters": {"top_k": 5}},
    {"parameters": {"top_p": 0.5}},
    {"parameters": {"typical_p": 0.5}},
    {"parameters": {"min_p": 0.1}},
]


async def params_of(api: httpx.AsyncClient, engine: FakeEngine, path: str, body: dict[str, Any]) -> SamplingParams:
    answer = await api.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return engine.requests[-1].params


@pytest.mark.parametrize("body", GREEDY)
async def test_without_a_reason_to_sample_the_best_token_is_taken(
    body: dict[str, Any], api: httpx.AsyncClient, engine: FakeEngine
) -> None:
    params = await params_of(api, engine, "/generate", {"inputs": "The sea", **body})
    assert params.temperature == 0


@pytest.mark.parametrize("body", SAMPLED)
async def test_any_reason_to_sample_is_enough(body: dict[str, Any], api: httpx.AsyncClient, engine: FakeEngine) -> None:
    params = await params_of(api, engine, "/generate", {"inputs": "The sea", **body})
    given = body.get("parameters") or {}
    assert params.temperature == given.get("temperature", 1.0)
    assert (params.top_k, params.top_p) == (given.get("top_k", 0), given.get("top_p", 1.0))
    assert (params.typical_p, params.min_p) == (given.get("typical_p", 1.0), given.get("min_p", 0.0))


async def test_a_missing_seed_is_drawn_and_told(api: httpx.AsyncClient, engine: FakeEngine) -> None:
    told = set()
    for _ in range(3):
        body = {"inputs": "The sea", "parameters": {"do_sample": True, "details": True}}
        answer = await api.post("/generate", json=body)
        told.add(answer.json()["details"]["seed"])
        assert engine.requests[-1].params.seed in told
    assert len(told) == 3


async def test_every_native_parameter_reaches_the_engine(api: httpx.AsyncClient, engine: FakeEngine) -> None:
    parameters = {
        "temperature": 0.7,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.2,
        "presence_penalty": 0.3,
        "top_k": 11,
        "top_p": 0.8,
        "typical_p": 0.9,
        "min_p": 0.05,
        "max_new_tokens": 4,
        "seed": 2**64 - 1,
        "top_n_tokens": 3,
        "details": True,
        "logit_bias": {"7": -100, "8": 1.5},
        "ignore_eos": True,
    }
    params = await params_of(api, engine, "/generate", {"inputs": "The sea", "parameters": parameters})
    assert params == SamplingParams(
        max_new_tokens=4,
        temperature=0.7,
        repetition_penalty=1.1,
        frequency_penalty=0.2,
        presence_penalty=0.3,
        top_k=11,
        top_p=0.8,
        typical_p=0.9,
        min_p=0.05,
        seed=2**64 - 1,
        top_n_tokens=3,
        logprobs=True,
        raw_logprobs=True,
        relative_frequency=True,
        logit_bias=((7, -100.0), (8, 1.5)),
        ignore_eos=True,
    )


@pytest.mark.parametrize(
    ("body", "temperature"), [({}, 1.0), ({"temperature": None}, 1.0), ({"temperature": 0}, 0), ({"temperature": 2}, 2)]
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_openai_routes_sample_unless_the_temperature_is_zero(
    path: str, body: dict[str, Any], temperature: float, api: httpx.AsyncClient, engine: FakeEngine
) -> None:
    prompt = {"messages": [{"role": "user", "content": "Hi"}], "prompt": "Hi"}
    params = await params_of(api, engine, path, prompt | body)
    assert params.temperature == temperature
    assert params.raw_logprobs
    assert params.max_new_tokens == 64 - len(engine.requests[-1].prompt)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_openai_parameters_have_openai_meaning(path: str, api: httpx.AsyncClient, engine: FakeEngine) -> None:
    body = {
        "messages": [{"role": "user", "content": "Hi"}],
        "prompt": "Hi",
        "max_tokens": 4,
        "temperature": 0.5,
        "top_p": 1,
        "presence_penalty": 0,
        "frequency_penalty": 1.5,
        "logit_bias": {"5": 10},
        "seed": 9,
        "top_k": 4,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "ignore_eos": True,
        "user": "somebody",
        "metadata": {"ignored": True},
        "stream_options": None,
        "stop": None,
        "n": None,
    }
    params = await params_of(api, engine, path, body)
    assert params == SamplingParams(
        max_new_tokens=4,
        temperature=0.5,
        top_k=4,
        min_p=0.1,
        repetition_penalty=1.2,
        frequency_penalty=1.5,
        logit_bias=((5, 10.0),),
        seed=9,
        ignore_eos=True,
        raw_logprobs=True,
    )


async def test_best_of_returns_the_likeliest_and_shows_the_others(api: httpx.AsyncClient, engine: FakeEngine) -> None:
    body = {"inputs": "The sea", "parameters": {"best_of": 2, "do_sample": True, "details": True}}
    details = (await api.post("/generate", json=body)).json()["details"]
    [first, second] = [request.params.seed for request in engine.requests]
    assert first is not None
    assert second == (first + 1) % 2**64
    [other] = details["best_of_sequences"]
    assert {details["seed"], other["seed"]} == {first, second}
    assert details["seed"] % 2 == 0  # the fake engine finds odd seeds less likely
    assert set(other) == set(details) - {"best_of_sequences"} | {"generated_text"}


async def test_n_answers_have_n_seeds(api: httpx.AsyncClient, engine: FakeEngine) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "n": 3, "seed": 2**64 - 1}
    answer = (await api.post("/v1/chat/completions", json=body)).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert [request.params.seed for request in engine.requests] == [2**64 - 1, 0, 1]
    assert answer["usage"] == {"prompt_tokens": 12, "completion_tokens": 12, "total_tokens": 24}


async def test_completions_return_the_best_n_of_more(api: httpx.AsyncClient, engine: FakeEngine) -> None:
    body = {"prompt": "The sea", "n": 1, "best_of": 2, "seed": 1, "logprobs": 0}
    answer = (await api.post("/v1/completions", json=body)).json()
    [choice] = answer["choices"]
    assert choice["logprobs"]["token_logprobs"][0] == -0.125  # of seed 2, not of seed 1
    assert answer["usage"]["completion_tokens"] == 8


@pytest.mark.parametrize("best_of", [1, 2])
async def test_prompt_scores_are_always_there_and_computed_once(
    best_of: int, api: httpx.AsyncClient, engine: FakeEngine
) -> None:
    parameters = {"decoder_input_details": True, "do_sample": True, "best_of": best_of}
    details = (await api.post("/generate", json={"inputs": "The sea", "parameters": parameters})).json()["details"]
    prefill = [{"id": 461, "text": "The", "logprob": None}, {"id": 5408, "text": " sea", "logprob": -0.25}]
    assert [each["prefill"] for each in (details, *details.get("best_of_sequences", []))] == [prefill] * best_of
    assert [request.params.prompt_logprobs for request in engine.requests] == [True, False][:best_of]


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize(("options", "raw"), [({}, True), ({"logprobs": "processed"}, False)])
async def test_scores_are_the_models_own_unless_told_otherwise(
    path: str, options: dict[str, str], raw: bool, make_app: Callable[..., Starlette], engine: FakeEngine
) -> None:
    body = {"inputs": "a", "prompt": "a", "messages": [{"role": "user", "content": "a"}]}
    async with client_of(make_app(**options)) as api:
        params = await params_of(api, engine, path, body)
    assert params.raw_logprobs is raw
    assert params.relative_frequency is path.startswith("/generate")


async def test_the_other_answers_begin_when_the_prompt_has_been_computed(
    api: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.gate = asyncio.Event()
    body = {"prompt": ["The sea", "The"], "n": 3, "max_tokens": 2, "seed": 5}
    answering = asyncio.create_task(api.post("/v1/completions", json=body))
    while len(engine.requests) < 2:
        await engine.waiting.wait()
        engine.waiting.clear()
    assert [request.params.seed for request in engine.requests] == [5, 5]
    engine.gate.set()
    answer = (await answering).json()
    assert sorted(request.params.seed or 0 for request in engine.requests) == [5, 5, 6, 6, 7, 7]
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))


@pytest.mark.parametrize("best_of", [2, 3])
async def test_when_the_first_answer_fails_the_others_never_begin(
    best_of: int, make_app: Callable[..., Starlette], engine: FakeEngine
) -> None:
    engine.error = GenerationFailed("out of luck")
    body = {"inputs": "The sea", "parameters": {"do_sample": True, "best_of": best_of}}
    async with client_of(make_app(max_best_of=3)) as api:
        assert (await api.post("/generate", json=body)).status_code == 424
    assert len(engine.requests) == 1


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_n_has_a_limit_of_its_own(path: str, make_app: Callable[..., Starlette]) -> None:
    body = {"prompt": "a", "messages": [{"role": "user", "content": "a"}], "n": 3}
    async with client_of(make_app(max_n=3, max_best_of=1)) as api:
        assert len((await api.post(path, json=body)).json()["choices"]) == 3
        refused = await api.post(path, json=body | {"n": 4})
    assert (refused.status_code, refused.json()["error"]["message"]) == (
        422,
        "Input validation error: `n` must be >= 1 and <= 3. Given: 4",
    )


async def test_numbers_that_are_not_finite_become_null(api: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.first_logprob = float("-inf")
    body = {"inputs": "The sea", "parameters": {"details": True, "max_new_tokens": 1}}
    answer = await api.post("/generate", json=body)
    assert answer.json()["details"]["tokens"][0]["logprob"] is None


@pytest.mark.parametrize("wanted", [True, False])
async def test_timings_come_with_the_details_of_a_stream_if_asked_for(wanted: bool, api: httpx.AsyncClient) -> None:
    body = {"inputs": "The sea", "parameters": {"details": True, "timings": wanted}}
    lines = (await api.post("/generate_stream", json=body)).text.split("\n\n")
    details = json.loads(lines[-2].removeprefix("data:"))["details"]
    assert ("timings" in details) is wanted
    if wanted:
        assert set(details["timings"]) == {"queue", "prefill", "decode", "cached_tokens"}

"""`--tgi-compat strict`: what TGI does, at each line where this server does otherwise (contract 1.3 to 3.6, 12).

Each test shows both sides, so that none of them holds by accident.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import httpx
import msgspec
import pytest
from asgi_connection import events
from fake_engine import FakeEngine
from serving import client_of
from starlette.applications import Starlette

from engine.errors import GenerationFailed
from engine.server.strict import DIFFERENCES
from engine.types import GenerateRequest, TokenEvent

USER = {"role": "user", "content": "Hi"}
CHAT = {"messages": [USER], "temperature": 0}
SHAPE = "Failed to deserialize the JSON body into the target type: "
JSON = {"content-type": "application/json"}


@pytest.fixture
async def tgis(make_app: Callable[..., Starlette]) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(make_app(tgi_compat="strict")) as client:
        yield client


def native(**parameters: Any) -> tuple[str, dict[str, Any]]:
    return "/generate", {"inputs": "The sea", "parameters": parameters}


def chat(**fields: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/chat/completions", CHAT | fields


def completion(**fields: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/completions", {"prompt": "The sea", "temperature": 0} | fields


SHAPES = [
    (*native(stop=None), "parameters.stop: invalid type: null"),
    (*native(do_sample=None), "parameters.do_sample: invalid type: null"),
    (*native(details=None), "parameters.details: invalid type: null"),
    (*native(watermark=None), "parameters.watermark: invalid type: null"),
    (*native(decoder_input_details=None), "parameters.decoder_input_details: invalid type: null"),
    ("/generate", {"inputs": "a", "parameters": None}, "parameters: invalid type: null"),
    ("/", {"inputs": "a", "stream": None}, "stream: invalid type: null"),
    (*chat(stream=None), "stream: invalid type: null"),
    (*chat(stream_options=None), "stream_options: invalid type: null"),
    (*completion(stream=None), "stream: invalid type: null"),
    (*native(stop="a"), "parameters.stop: invalid type: string, expected a sequence"),
    (*chat(stop="a"), "stop: invalid type: string, expected a sequence"),
    (*completion(stop="a"), "stop: invalid type: string, expected a sequence"),
    (*chat(logit_bias={"1": 2}), "logit_bias: invalid type: map, expected a sequence"),
    (*chat(response_format={"type": "json_schema", "json_schema": {"schema": {}}}), "response_format: missing field"),
    (*chat(response_format={"type": "text"}), "response_format: unknown variant `text`"),
    (*completion(prompt=[461, 5408]), "prompt: invalid type"),
    (*completion(prompt=[[461]]), "prompt: invalid type"),
]


@pytest.mark.parametrize(("path", "body", "reason"), SHAPES)
async def test_bodies_that_only_tgi_refuses_are_refused_in_plain_text(
    path: str, body: dict[str, Any], reason: str, tgis: httpx.AsyncClient, api: httpx.AsyncClient
) -> None:
    answer = await tgis.post(path, json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text.startswith(SHAPE + reason)
    assert (await api.post(path, json=body)).status_code == 200


@pytest.mark.parametrize("name", ["top_p", "typical_p"])
async def test_a_filter_of_one_is_refused(name: str, tgis: httpx.AsyncClient, api: httpx.AsyncClient) -> None:
    path, body = native(**{name: 1.0})
    answer = await tgis.post(path, json=body)
    message = f"Input validation error: `{name}` must be > 0.0 and < 1.0"
    assert (answer.status_code, answer.json()) == (422, {"error": message, "error_type": "validation"})
    assert (await api.post(path, json=body)).status_code == 200


@pytest.mark.parametrize(("given", "meant"), [(0, 2.0), (-1, 1.0), (0.5, 2.5)])
async def test_a_presence_penalty_is_a_repetition_penalty_of_two_more(
    given: float, meant: float, tgis: httpx.AsyncClient, api: httpx.AsyncClient, engine: FakeEngine
) -> None:
    path, body = chat(presence_penalty=given)
    for client, expected in ((tgis, (meant, 0.0)), (api, (1.0, given))):
        assert (await client.post(path, json=body)).status_code == 200
        params = engine.requests[-1].params
        assert (params.repetition_penalty, params.presence_penalty) == expected
    refused = await tgis.post(path, json=body | {"presence_penalty": -2})
    assert refused.json()["error"] == "Input validation error: `repetition_penalty` must be strictly positive"


@pytest.mark.parametrize(("path", "body"), [chat(frequency_penalty=1), completion(frequency_penalty=1)])
async def test_frequencies_are_relative_and_scores_come_after_the_filters(
    path: str, body: dict[str, Any], tgis: httpx.AsyncClient, api: httpx.AsyncClient, engine: FakeEngine
) -> None:
    for client, strict in ((tgis, True), (api, False)):
        await client.post(path, json=body)
        params = engine.requests[-1].params
        assert (params.relative_frequency, params.raw_logprobs) == (strict, not strict)


async def test_what_tgi_does_not_know_it_does_not_read(
    tgis: httpx.AsyncClient, api: httpx.AsyncClient, engine: FakeEngine
) -> None:
    beyond = {"min_p": 0.5, "ignore_eos": True, "logit_bias": {"1": 2.0}}
    await tgis.post("/generate", json={"inputs": "a", "parameters": beyond | {"do_sample": True}})
    params = engine.requests[-1].params
    assert (params.min_p, params.ignore_eos, params.logit_bias) == (0.0, False, ())
    for path, body in (chat(n=2), completion(n=2, best_of=2, echo=True, logprobs=1)):
        answers = [(await client.post(path, json=body)).json()["choices"] for client in (tgis, api)]
        assert [len(choices) for choices in answers] == [1, 2]
    text = (await tgis.post(*completion(n=2)[:1], json=completion(echo=True)[1])).json()["choices"][0]["text"]
    assert text == " is deep."


@pytest.mark.parametrize(("allowed", "scores"), [(False, 0), (True, 2)])
async def test_scores_of_the_prompt_need_the_servers_leave(
    allowed: bool, scores: int, make_app: Callable[..., Starlette]
) -> None:
    async with client_of(make_app(tgi_compat="strict", enable_prefill_logprobs=allowed)) as tgis:
        path, body = native(decoder_input_details=True)
        details = (await tgis.post(path, json=body)).json()["details"]
    assert len(details["prefill"]) == scores


async def test_an_unknown_adapter_is_the_base_model(tgis: httpx.AsyncClient, api: httpx.AsyncClient) -> None:
    path, body = native(adapter_id="nobody")
    assert (await tgis.post(path, json=body)).json() == {"generated_text": " is deep."}
    assert (await api.post(path, json=body)).status_code == 422


@pytest.mark.parametrize(
    ("asked", "counted", "window"), [(2000, 1024, 1000), (10_000, 1024, 1000), (999, 999, 1000), (2000, None, 2000)]
)
async def test_no_more_than_a_slice_counts_against_the_window(
    asked: int, counted: int | None, window: int, make_app: Callable[..., Starlette], engine: FakeEngine
) -> None:
    engine.info = msgspec.structs.replace(engine.info, max_total_tokens=window)
    path, body = native(max_new_tokens=asked)
    answers = []
    for options in ({"tgi_compat": "strict"}, {}):
        async with client_of(make_app(**options)) as client:
            answers.append(await client.post(path, json=body))
    assert answers[1].status_code == 422
    assert f"and {asked} `max_new_tokens`" in answers[1].json()["error"]
    if counted is None:
        assert answers[0].status_code == 200
        assert engine.requests[0].params.max_new_tokens == window - 2
    else:
        assert f"and {counted} `max_new_tokens`" in answers[0].json()["error"]


async def test_stop_sequences_stay_in_the_text(tgis: httpx.AsyncClient, api: httpx.AsyncClient) -> None:
    for client, text, reason in ((tgis, " is deep", "stop_sequence"), (api, " is", "stop")):
        choice = (await client.post("/v1/completions", json=completion(stop=[" deep"])[1])).json()["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == (text, reason)
        path, body = chat(stop=[" deep"])
        choice = (await client.post(path, json=body)).json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == (text, reason)


async def test_a_streamed_completion_ends_in_tgis_words(tgis: httpx.AsyncClient, api: httpx.AsyncClient) -> None:
    path, body = completion(stream=True)
    for client, reasons, last in (
        (tgis, ["", "", "", "eos_token"], "<|im_end|>"),
        (api, [None, None, None, "stop"], ""),
    ):
        *chunks, done = events((await client.post(path, json=body)).content)
        assert done == "[DONE]"
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == reasons
        assert chunks[-1]["choices"][0]["text"] == last
        assert [chunk["usage"] is None for chunk in chunks] == [True, True, True, False]


async def test_chats_are_written_as_in_tgi(tgis: httpx.AsyncClient, api: httpx.AsyncClient) -> None:
    path, body = chat(stream=True, logprobs=True, top_logprobs=1)
    for client, roles, with_bytes in ((tgis, [True] * 4, False), (api, [True, False, False, False], True)):
        *chunks, _ = events((await client.post(path, json=body)).content)
        choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
        assert ["role" in choice["delta"] for choice in choices] == roles
        assert [choice["delta"]["content"] for choice in choices] == [" is", " deep", ".", ""]
        assert ["bytes" in choice["logprobs"]["content"][0] for choice in choices] == [with_bytes] * 4
        assert choices[-1]["finish_reason"] == "stop"


async def test_choices_come_in_the_order_they_were_finished(
    make_app: Callable[..., Starlette], engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_ended = asyncio.Event()

    async def generate(request: GenerateRequest) -> AsyncGenerator[TokenEvent, None]:
        first = request.prompt == (461, 5408)
        if first:
            await second_ended.wait()
        try:
            async for event in FakeEngine.generate(engine, request):
                yield event
        finally:
            if not first:
                second_ended.set()

    monkeypatch.setattr(engine, "generate", generate)
    path, body = completion(prompt=["The sea", "The"])
    for options, indices in (({"tgi_compat": "strict"}, [1, 0]), ({}, [0, 1])):
        second_ended.clear()
        async with client_of(make_app(**options)) as client:
            choices = (await client.post(path, json=body)).json()["choices"]
        assert [choice["index"] for choice in choices] == indices


@pytest.mark.parametrize(("path", "body"), [chat(), completion()])
async def test_ids_are_empty(path: str, body: dict[str, Any], tgis: httpx.AsyncClient, api: httpx.AsyncClient) -> None:
    assert (await tgis.post(path, json=body)).json()["id"] == ""
    assert (await api.post(path, json=body)).json()["id"] != ""


@pytest.mark.parametrize(("path", "body"), [chat(), completion()])
async def test_errors_below_v1_are_flat(
    path: str, body: dict[str, Any], tgis: httpx.AsyncClient, engine: FakeEngine
) -> None:
    answer = await tgis.post(path, json=body | {"temperature": -1})
    message = "Input validation error: `temperature` must be strictly positive"
    assert (answer.status_code, answer.json()) == (422, {"error": message, "error_type": "validation"})
    assert int(answer.headers["content-length"]) == len(answer.content)
    engine.error = GenerationFailed("out of luck")
    failed = "Request failed during generation: out of luck"
    answer = await tgis.post(path, json=body)
    assert (answer.status_code, answer.json()) == (424, {"error": failed, "error_type": "generation"})
    streamed = events((await tgis.post(path, json=body | {"stream": True})).content)
    assert streamed == [{"error": {"message": failed, "http_status_code": 422}}, "[DONE]"]


@pytest.mark.parametrize(
    ("content", "headers", "status", "text"),
    [
        (b"{", JSON, 400, "Failed to parse the request body as JSON: "),
        (b"{}", {}, 415, "Expected request with `Content-Type: application/json`"),
        (b"{}", JSON, 422, SHAPE),
        (b'{"inputs": "' + b"a" * 100 + b'"}', JSON, 413, "Failed to buffer the request body: length limit exceeded"),
    ],
)
async def test_refused_bodies_are_told_so_in_plain_text(
    content: bytes, headers: dict[str, str], status: int, text: str, make_app: Callable[..., Starlette]
) -> None:
    async with client_of(make_app(tgi_compat="strict", payload_limit=100)) as tgis:
        answer = await tgis.post("/generate", content=content, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "text/plain; charset=utf-8")
    assert answer.text.startswith(text)
    assert "x-request-id" in answer.headers


async def test_unknown_routes_and_wrong_keys_get_no_word(make_app: Callable[..., Starlette]) -> None:
    async with client_of(make_app(tgi_compat="strict", api_keys=("a-Key",))) as tgis:
        answer = await tgis.post("/generate", json={"inputs": "a"}, headers={"authorization": "Bearer other"})
        assert (answer.status_code, answer.content) == (401, b"")
        key = {"authorization": "BEARER A-KEY"}
        assert (await tgis.post("/generate", json={"inputs": "a"}, headers=key)).status_code == 200
        for method, path, status in (("GET", "/nothing", 404), ("GET", "/generate", 405)):
            answer = await tgis.request(method, path, headers=key)
            assert (answer.status_code, answer.content) == (status, b"")
        assert answer.headers["allow"] == "POST"


async def test_what_is_no_difference_stays(tgis: httpx.AsyncClient, api: httpx.AsyncClient) -> None:
    path, body = native(details=True, stop=["deep"], temperature=0.5, seed=1, top_n_tokens=1, typical_p=0.5)
    answers = [(await client.post(path, json=body)) for client in (tgis, api)]
    assert answers[0].status_code == 200
    assert answers[0].content == answers[1].content
    path, body = native(temperature=0)
    assert (await tgis.post(path, json=body)).json() == (await api.post(path, json=body)).json()
    stream = {"inputs": "The sea", "parameters": {"details": True}}
    left, right = [(await client.post("/generate_stream", json=stream)).content for client in (tgis, api)]
    assert left == right


async def test_a_null_where_tgi_takes_one_is_taken(tgis: httpx.AsyncClient) -> None:
    names = (
        "best_of temperature repetition_penalty frequency_penalty top_k top_p typical_p seed max_new_tokens "
        "return_full_text truncate top_n_tokens grammar adapter_id"
    )
    absent = dict.fromkeys(names.split())
    path, body = native(**absent)
    assert (await tgis.post(path, json=body)).status_code == 200
    optional = ["model", "max_tokens", "top_p", "stop", "seed", "tools", "tool_choice", "response_format", "logprobs"]
    path, body = chat(**dict.fromkeys(optional))
    assert (await tgis.post(path, json=body)).status_code == 200


def test_every_difference_is_told_once() -> None:
    places = [difference.where for difference in DIFFERENCES]
    assert len(set(places)) == len(places)
    assert all(difference.ours != difference.tgis for difference in DIFFERENCES)
    assert not re.search(r"\bTODO\b|\n", json.dumps([vars(difference) for difference in DIFFERENCES]))

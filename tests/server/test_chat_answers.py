"""What a chat request can ask for besides tools: thoughts, a format, variables of the template, several answers."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import openai
import pytest
from asgi_connection import events
from fake_engine import FakeEngine
from huggingface_hub import InferenceClient
from pydantic import BaseModel
from serving import MODEL, client_of, listening
from speaking import app_over, engine_saying, prompt_of, server_over
from starlette.applications import Starlette

from engine.config import ServerOptions
from engine.text.chat import ChatTemplate
from engine.text.tokenizer import Tokenizer
from engine.types import Grammar

USER = {"role": "user", "content": "Hi"}
THINKING = (
    "{% for message in messages %}<|im_start|>{{ message.role }} {{ message.content }}<|im_end|>{% endfor %}"
    "{% if documents %}{% for document in documents %}[{{ document.text }}]{% endfor %}{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% if enable_thinking is not defined or enable_thinking %}"
    "<think>{% else %}<think></think>{% endif %}{% endif %}"
)


@pytest.fixture(scope="module")
def thinking() -> Tokenizer:
    """A model whose template opens the thoughts."""
    tokenizer = Tokenizer.load(MODEL)
    tokenizer.chat = ChatTemplate({"default": THINKING}, {})
    return tokenizer


@asynccontextmanager
async def answering(
    tokenizer: Tokenizer, text: str, **options: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, FakeEngine]]:
    engine = engine_saying(tokenizer, text)
    settings = {"tool_call_parser": "auto", "reasoning_parser": "auto", **options}
    async with server_over(engine, tokenizer, **settings) as (api, _):
        yield api, engine


async def ask(api: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await api.post("/v1/chat/completions", json={"messages": [USER]} | body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["choices"][0])


async def deltas(api: httpx.AsyncClient, **body: Any) -> list[dict[str, Any]]:
    answer = await api.post("/v1/chat/completions", json={"messages": [USER], "stream": True} | body)
    return [chunk["choices"][0]["delta"] for chunk in events(answer.content)[:-1]]


def joined(parts: list[dict[str, Any]], name: str) -> str:
    return "".join(part.get(name) or "" for part in parts)


async def test_thoughts_that_the_template_opens(thinking: Tokenizer) -> None:
    async with answering(thinking, "Let me see.\n</think>\n\nHello.") as (api, engine):
        choice = await ask(api)
        parts = await deltas(api)
        assert prompt_of(engine, thinking).endswith("assistant <think>")
        silent = await ask(api, chat_template_kwargs={"enable_thinking": False})
    message = {"role": "assistant", "content": "Hello.", "reasoning_content": "Let me see."}
    assert choice["message"] == message
    assert choice["finish_reason"] == "stop"
    assert (joined(parts, "content"), joined(parts, "reasoning_content")) == ("Hello.", "Let me see.")
    assert silent["message"]["content"] == "Let me see.\n</think>\n\nHello."


async def test_an_answer_that_is_cut_short_while_it_thinks(thinking: Tokenizer) -> None:
    async with answering(thinking, "Let me see") as (api, _):
        choice = await ask(api, max_tokens=2)
    assert choice["message"]["content"] is None
    assert "Let me see".startswith(choice["message"]["reasoning_content"])
    assert choice["finish_reason"] == "length"


@pytest.mark.parametrize("options", [{"reasoning_parser": "none"}, {"tgi_compat": "strict"}])
async def test_thoughts_are_text_where_they_are_not_told_apart(options: dict[str, str], thinking: Tokenizer) -> None:
    async with answering(thinking, "<think>a</think>b", **options) as (api, _):
        assert (await ask(api))["message"] == {"role": "assistant", "content": "<think>a</think>b"}


async def test_thoughts_of_a_model_whose_template_shows_none(tokenizer: Tokenizer) -> None:
    async with answering(tokenizer, "<think>a</think>b") as (api, _):
        assert (await ask(api))["message"]["content"] == "<think>a</think>b"
    async with answering(tokenizer, "<think>a</think>b", reasoning_parser="think") as (api, _):
        assert (await ask(api))["message"] == {"role": "assistant", "content": "b", "reasoning_content": "a"}


async def test_scores_come_with_thoughts_and_all_tokens(thinking: Tokenizer) -> None:
    async with answering(thinking, "a</think>b") as (api, engine):
        choice = await ask(api, logprobs=True, top_logprobs=1, seed=2)
        answer = await api.post(
            "/v1/chat/completions",
            json={"messages": [USER], "stream": True, "logprobs": True, "top_logprobs": 1, "seed": 2},
        )
    chunks = [chunk["choices"][0] for chunk in events(answer.content)[:-1]]
    scores = [score for chunk in chunks for score in (chunk["logprobs"] or {"content": []})["content"]]
    assert scores == choice["logprobs"]["content"]
    assert len(scores) == len(engine.script)


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FORMATS: list[tuple[dict[str, Any], Grammar | None]] = [
    ({"type": "text"}, None),
    ({"type": "json_object"}, Grammar("json", '{"type":"object"}')),
    ({"type": "json_object", "value": SCHEMA}, Grammar("json", json.dumps(SCHEMA, separators=(",", ":")))),
    (
        {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}},
        Grammar("json", json.dumps(SCHEMA, separators=(",", ":"))),
    ),
    ({"type": "regex", "value": "a+"}, Grammar("regex", "a+")),
    ({"type": "lark", "value": 'start: "a"'}, Grammar("lark", 'start: "a"')),
]


@pytest.mark.parametrize(("wanted", "grammar"), FORMATS)
async def test_a_response_format_reaches_the_engine(
    wanted: dict[str, Any], grammar: Grammar | None, tokenizer: Tokenizer
) -> None:
    async with answering(tokenizer, "a") as (api, engine):
        await ask(api, response_format=wanted)
        assert engine.requests[-1].params.grammar == grammar


async def test_thoughts_may_come_before_a_format(thinking: Tokenizer) -> None:
    async with answering(thinking, 'x</think>{"a": 1}') as (api, engine):
        choice = await ask(api, response_format={"type": "json_object", "value": SCHEMA})
        grammar = engine.requests[-1].params.grammar
    assert json.loads(choice["message"]["content"]) == {"a": 1}
    assert grammar is not None
    assert grammar.text.startswith("start: thoughts (text)")


async def test_a_format_that_cannot_be_used_is_refused(tokenizer: Tokenizer) -> None:
    async with answering(tokenizer, "a") as (api, engine):
        for stream in (False, True):
            body = {"messages": [USER], "stream": stream, "response_format": {"type": "regex", "value": "(a"}}
            answer = await api.post("/v1/chat/completions", json=body)
            assert answer.status_code == 422
            assert answer.json()["error"]["message"].startswith("Input validation error: grammar is not valid")
        assert not engine.requests


START, TURN = "<|im_start|>user\nHi<|im_end|>\n", "<|im_start|>assistant\n"
SAID = {"role": "assistant", "content": "The sea"}
PROMPTS: list[tuple[dict[str, Any], str]] = [
    ({}, START + TURN),
    ({"add_generation_prompt": False}, START),
    ({"messages": [USER, SAID]}, f"{START}{TURN}The sea"),
    ({"messages": [USER, SAID], "continue_final_message": True}, f"{START}{TURN}The sea"),
    ({"messages": [USER, SAID], "continue_final_message": False}, f"{START}{TURN}The sea<|im_end|>\n{TURN}"),
    ({"messages": [USER, SAID], "add_generation_prompt": True}, f"{START}{TURN}The sea<|im_end|>\n{TURN}"),
    (
        {"messages": [USER, SAID], "continue_final_message": False, "add_generation_prompt": False},
        f"{START}{TURN}The sea<|im_end|>\n",
    ),
    ({"messages": [{"role": "developer", "content": "Hi"}]}, f"<|im_start|>system\nHi<|im_end|>\n{TURN}"),
    ({"messages": [USER | {"content": [{"type": "refusal", "refusal": "Hi"}]}]}, START + TURN),
    ({"messages": [{"role": "user", "content": None, "refusal": "Hi"}]}, START + TURN),
    ({"messages": [{"role": "tool", "content": None}]}, f"<|im_start|>tool\n<|im_end|>\n{TURN}"),
    (
        {"messages": [{"role": "assistant", "reasoning_content": "Hm"}, USER]},
        f"<|im_start|>assistant\n<|im_end|>\n{START}{TURN}",
    ),
    ({"messages": [USER | {"name": "me", "unknown": 1}], "reasoning_effort": "low", "unknown": 1}, START + TURN),
]


@pytest.mark.parametrize(("body", "prompt"), PROMPTS)
async def test_the_prompt(body: dict[str, Any], prompt: str, tokenizer: Tokenizer) -> None:
    async with answering(tokenizer, "a") as (api, engine):
        await ask(api, **body)
        assert prompt_of(engine, tokenizer) == prompt


async def test_variables_of_the_template(thinking: Tokenizer) -> None:
    documents = [{"text": "one"}, {"text": "two"}]
    async with answering(thinking, "a") as (api, engine):
        for body in ({"documents": documents}, {"chat_template_kwargs": {"documents": documents}}):
            await ask(api, **body)
            assert "[one][two]" in prompt_of(engine, thinking)
        for name in ("messages", "tools", "add_generation_prompt"):
            refused = {"messages": [USER], "chat_template_kwargs": {name: []}}
            answer = await api.post("/v1/chat/completions", json=refused)
            assert answer.status_code == 422
            assert f"cannot set `{name}`" in answer.json()["error"]["message"]
        both = {"messages": [SAID], "continue_final_message": True, "add_generation_prompt": True}
        answer = await api.post("/v1/chat/completions", json=both)
        assert "exclude each other" in answer.json()["error"]["message"]


async def test_several_answers(thinking: Tokenizer) -> None:
    async with answering(thinking, "a</think>b", max_n=3) as (api, _):
        answer = (await api.post("/v1/chat/completions", json={"messages": [USER], "n": 3})).json()
        received = events(
            (await api.post("/v1/chat/completions", json={"messages": [USER], "n": 3, "stream": True})).content
        )[:-1]
        refused = await api.post("/v1/chat/completions", json={"messages": [USER], "n": 4})
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert {choice["message"]["reasoning_content"] for choice in answer["choices"]} == {"a"}
    for index in range(3):
        parts = [chunk["choices"][0]["delta"] for chunk in received if chunk["choices"][0]["index"] == index]
        assert (joined(parts, "role"), joined(parts, "content")) == ("assistant", "b")
        assert joined(parts, "reasoning_content") == "a"
    assert refused.json()["error"]["message"] == "Input validation error: `n` must be >= 1 and <= 3. Given: 4"


async def test_text_of_a_strict_server_is_tgis(tokenizer: Tokenizer) -> None:
    """The stop sequence stays, the end token has no text, every chunk tells the role (contract 3.4, traps 8 and 9)."""
    async with answering(tokenizer, "The sea is deep.", tgi_compat="strict") as (api, _):
        stopped = await ask(api, stop=[" sea"])
        parts = await deltas(api)
    assert (stopped["message"]["content"], stopped["finish_reason"]) == ("The sea", "stop_sequence")
    assert joined(parts, "content") == "The sea is deep."
    assert parts[-1] == {"role": "assistant", "content": ""}


async def test_deep_nesting_is_no_failure(tokenizer: Tokenizer) -> None:
    nested: Any = {}
    for _ in range(400):
        nested = {"properties": {"a": nested}}
    tool = {"type": "function", "function": {"name": "f", "parameters": nested}}
    async with answering(tokenizer, "a") as (api, _):
        for choice in ("auto", "required", "none"):
            body = {"messages": [USER], "tools": [tool], "tool_choice": choice}
            answer = await api.post("/v1/chat/completions", content=msgspec.json.encode(body), headers=JSON)
            assert answer.status_code in (200, 422)


JSON = {"content-type": "application/json"}


async def test_chat_tokenize(tokenizer: Tokenizer) -> None:
    async with answering(tokenizer, "a") as (api, engine):
        answer = await api.post("/chat_tokenize", json={"messages": [USER], "max_tokens": 0})
        refused = await api.post("/chat_tokenize", json={"messages": []})
        wrong = await api.post("/chat_tokenize", json={"messages": [USER], "tool_choice": "f"})
    assert answer.status_code == 200
    body = answer.json()
    assert list(body) == ["tokenize_response", "templated_text"]
    assert body["templated_text"] == START + TURN
    assert [token["text"] for token in body["tokenize_response"]][:2] == ["<|im_start|>", "user"]
    assert body["tokenize_response"][0] == {"id": 1, "text": "<|im_start|>", "start": 0, "stop": 12}
    assert not engine.requests
    assert (refused.status_code, refused.json()["error_type"]) == (422, "validation")
    assert wrong.json() == {"error": "Tool error: Tool with name f not found", "error_type": "tool_error"}


async def test_chat_tokenize_needs_the_key(tokenizer: Tokenizer) -> None:
    app: Starlette = app_over(engine_saying(tokenizer, "a"), tokenizer, api_keys=("secret",))
    async with client_of(app) as api:
        assert (await api.post("/chat_tokenize", json={"messages": [USER]})).status_code == 401
        headers = {"authorization": "Bearer secret"}
        assert (await api.post("/chat_tokenize", json={"messages": [USER]}, headers=headers)).status_code == 200
    app.state.service.close()


class Answer(BaseModel):
    a: int


def test_clients_read_formats_and_thoughts(thinking: Tokenizer) -> None:
    app = app_over(engine_saying(thinking, 'One.</think>{"a": 1}'), thinking)
    with (
        listening(app, ServerOptions(model_id="the/model")) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client,
    ):
        parsed = client.chat.completions.parse(model="m", messages=[USER], response_format=Answer).choices[0].message
        assert parsed.parsed == Answer(a=1)
        assert parsed.model_extra == {"reasoning_content": "One."}
        with client.chat.completions.stream(model="m", messages=[USER], response_format=Answer) as stream:
            final = stream.get_final_completion().choices[0].message
        assert (final.role, final.parsed) == ("assistant", Answer(a=1))
        hub = InferenceClient(base_url=url)
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
        answer = hub.chat_completion([USER], response_format=wanted)  # type: ignore[arg-type]  # as its users write it
        assert answer.choices[0].message.content == '{"a": 1}'
        chunks = list(hub.chat_completion([USER], response_format=wanted, stream=True))  # type: ignore[arg-type]  # as above
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == '{"a": 1}'

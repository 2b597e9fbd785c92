"""Tools in chats: what the model is told, what it is made to write, and what clients see of its calls."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from asgi_connection import events
from fake_engine import FakeEngine
from huggingface_hub import InferenceClient
from serving import MODEL, listening
from speaking import app_over, engine_saying, prompt_of, server_over

from engine.config import ServerOptions
from engine.server.service import Service
from engine.text.chat import ChatTemplate
from engine.text.tokenizer import Tokenizer

USER = {"role": "user", "content": "How deep is the Red Sea?"}
SCHEMA = {"type": "object", "properties": {"sea": {"type": "string"}}, "required": ["sea"]}
DEPTH = {"type": "function", "function": {"name": "depth", "description": "Metres", "parameters": SCHEMA}}
AREA = {"type": "function", "function": {"name": "area", "parameters": SCHEMA}}
CHAT: dict[str, Any] = {"messages": [USER], "tools": [DEPTH, AREA]}
RED, BLACK = '{"sea": "Red Sea"}', '{"sea": "Black Sea"}'
HERMES = (
    f'<tool_call>\n{{"name": "depth", "arguments": {RED}}}\n</tool_call>\n'
    f'<tool_call>\n{{"name": "area", "arguments": {BLACK}}}\n</tool_call>'
)
CALLED = [("depth", RED), ("area", BLACK)]
# How models of each format write the same two calls, and a template that shows the format.
ANSWERS = {
    "hermes": (HERMES, "<tool_call>"),
    "llama3": (
        f'{{"name": "depth", "parameters": {RED}}}; {{"name": "area", "parameters": {BLACK}}}',
        "<|python_tag|>",
    ),
    "mistral": (
        f'[TOOL_CALLS] [{{"name": "depth", "arguments": {RED}}}, {{"name": "area", "arguments": {BLACK}}}]',
        "[TOOL_CALLS]",
    ),
    "mistral named": (f"[TOOL_CALLS]depth[ARGS]{RED}[TOOL_CALLS]area[ARGS]{BLACK}", "[TOOL_CALLS][ARGS]"),
    "json": (f'[{{"name": "depth", "arguments": {RED}}}, {{"name": "area", "arguments": {BLACK}}}]', ""),
}
SPECIAL = ["[TOOL_CALLS]", "[ARGS]", "<tool_call>", "</tool_call>", "<|python_tag|>", "<think>", "</think>"]


def tokenizer_with(shown: str, files: Path | None = None) -> Tokenizer:
    """The built-in one with a template that knows tools and shows `shown`; in `files` with special tokens as well."""
    config = None
    if files is not None:
        config = files / "tokenizer_config.json"
        content = json.loads((MODEL / "tokenizer_config.json").read_text())
        for i, token in enumerate(SPECIAL):
            content["added_tokens_decoder"][str(8192 + i)] = {"content": token, "special": True}
        config.write_text(json.dumps(content))
    tokenizer = Tokenizer.load(MODEL, config)
    source = (
        f"{{% if false %}}{shown}{{% endif %}}{{% if tools %}}{{{{ tools | tojson }}}}{{{{ '\\n' }}}}{{% endif %}}"
        "{% for message in messages %}{{ message.role }}: {{ message.content or '' }}"
        "{% for call in message.tool_calls or [] %}{{ call.function.name }}({{ call.function.arguments.sea }})"
        "{% endfor %}{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    tokenizer.chat = ChatTemplate({"default": source}, {})
    return tokenizer


@pytest.fixture(scope="module")
def hermes() -> Tokenizer:
    return tokenizer_with("<tool_call>")


@asynccontextmanager
async def answering(
    tokenizer: Tokenizer, text: str, **options: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, FakeEngine, Service]]:
    engine = engine_saying(tokenizer, text)
    async with server_over(
        engine, tokenizer, **{"tool_call_parser": "auto", "reasoning_parser": "auto", **options}
    ) as (
        api,
        service,
    ):
        yield api, engine, service


async def ask(api: httpx.AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
    answer = await api.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    [choice] = answer.json()["choices"]
    return dict(choice)


async def stream(api: httpx.AsyncClient, body: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The message that the chunks of a stream come to, and their choices."""
    received = events((await api.post("/v1/chat/completions", json=body | {"stream": True})).content)
    assert received.pop() == "[DONE]"
    choices = [chunk["choices"][0] for chunk in received]
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "calls": []}
    for choice in choices:
        delta = choice["delta"]
        for name in ("content", "reasoning_content"):
            message[name] += delta.get(name) or ""
        for call in delta.get("tool_calls", ()):
            if call["index"] == len(message["calls"]):
                assert call["type"] == "function"
                message["calls"].append([call["id"], call["function"]["name"], ""])
            else:
                assert set(call) == {"index", "function"}
                assert set(call["function"]) == {"arguments"}
            message["calls"][call["index"]][2] += call["function"]["arguments"]
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    assert [choice["delta"].get("role") for choice in choices] == ["assistant"] + [None] * (len(choices) - 1)
    return message, choices


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("name", ANSWERS)
async def test_calls_in_the_format_of_the_model(name: str, special: bool, tmp_path: Path) -> None:
    """Detected from the template, with markers that are text and with markers that are special tokens."""
    text, shown = ANSWERS[name]
    tokenizer = tokenizer_with(shown, tmp_path if special else None)
    async with answering(tokenizer, text) as (api, _, _):
        choice = await ask(api, CHAT)
        streamed, choices = await stream(api, CHAT)
    message = choice["message"]
    assert message["content"] is None
    assert [(call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"]] == CALLED
    assert all(call["type"] == "function" and "index" not in call for call in message["tool_calls"])
    assert choice["finish_reason"] == choices[-1]["finish_reason"] == "tool_calls"
    assert [(call[1], call[2]) for call in streamed["calls"]] == CALLED
    assert streamed["content"] == ""
    ids = [call["id"] for call in message["tool_calls"]] + [call[0] for call in streamed["calls"]]
    assert len(set(ids)) == 4
    if name.startswith("mistral"):
        assert all(len(each) == 9 and each.isalnum() for each in ids)
    else:
        assert all(each.startswith("call_") for each in ids)


async def test_text_before_calls_and_thoughts_before_text(hermes: Tokenizer) -> None:
    text = f"<think>\nTwo seas.\n</think>\n\nI look it up.\n{HERMES}"
    async with answering(hermes, text, reasoning_parser="think") as (api, _, _):
        message = (await ask(api, CHAT))["message"]
        streamed, choices = await stream(api, CHAT)
    assert list(message) == ["role", "content", "reasoning_content", "tool_calls"]
    assert (message["content"], message["reasoning_content"]) == ("I look it up.\n", "Two seas.")
    assert (streamed["content"], streamed["reasoning_content"]) == ("I look it up.\n", "Two seas.")
    assert len(message["tool_calls"]) == len(streamed["calls"]) == 2
    arguments = [delta for choice in choices for delta in choice["delta"].get("tool_calls", ())]
    assert len(arguments) > 6  # they come as they are written


async def test_one_call_where_no_more_are_wanted(hermes: Tokenizer) -> None:
    async with answering(hermes, HERMES) as (api, _, _):
        body = CHAT | {"parallel_tool_calls": False}
        assert len((await ask(api, body))["message"]["tool_calls"]) == 1
        streamed, _ = await stream(api, body)
    assert [(call[1], call[2]) for call in streamed["calls"]] == CALLED[:1]


@pytest.mark.parametrize(
    "text", ["The Red Sea is deep.", "<tool_call>nonsense</tool_call>", '<tool_call>\n{"name": "other"}\n</tool_call>']
)
async def test_an_answer_without_a_call_is_text(text: str, hermes: Tokenizer) -> None:
    async with answering(hermes, text) as (api, _, _):
        choice = await ask(api, CHAT)
        streamed, choices = await stream(api, CHAT)
    assert choice["message"] == {"role": "assistant", "content": text}
    assert choice["finish_reason"] == choices[-1]["finish_reason"] == "stop"
    assert (streamed["content"], streamed["calls"]) == (text, [])


@pytest.mark.parametrize("off", [{"tool_choice": "none"}, {"tools": None}, {"tools": []}])
async def test_calls_are_text_where_there_are_no_tools(off: dict[str, Any], hermes: Tokenizer) -> None:
    async with answering(hermes, HERMES) as (api, engine, _):
        choice = await ask(api, CHAT | off)
        assert prompt_of(engine, hermes) == f"user: {USER['content']}\nassistant: "
    assert choice["message"] == {"role": "assistant", "content": HERMES}


async def test_a_parser_can_be_chosen_or_switched_off(hermes: Tokenizer) -> None:
    text, _ = ANSWERS["mistral"]
    async with answering(hermes, text, tool_call_parser="mistral") as (api, _, _):
        assert len((await ask(api, CHAT))["message"]["tool_calls"]) == 2
    async with answering(hermes, HERMES, tool_call_parser="none") as (api, _, _):
        assert (await ask(api, CHAT))["message"] == {"role": "assistant", "content": HERMES}


@pytest.mark.parametrize("tool_choice", ["required", {"type": "function", "function": {"name": "depth"}}])
async def test_a_call_that_was_asked_for_and_cut_short_is_given_as_far_as_it_got(
    hermes: Tokenizer, tool_choice: Any
) -> None:
    body = CHAT | {"max_tokens": 20, "tool_choice": tool_choice}
    async with answering(hermes, HERMES) as (api, _, _):
        choice = await ask(api, body)
        streamed, _ = await stream(api, body)
    assert choice["finish_reason"] == "length"
    assert not choice["message"]["content"]
    [call] = choice["message"]["tool_calls"]
    [[_, name, arguments]] = streamed["calls"]
    assert (call["function"]["name"], call["function"]["arguments"]) == (name, arguments) == ("depth", arguments)
    assert RED.startswith(arguments)


async def test_a_call_cut_short_is_text_or_what_there_was_of_it(hermes: Tokenizer) -> None:
    body = CHAT | {"max_tokens": 20}
    async with answering(hermes, HERMES) as (api, _, _):
        choice = await ask(api, body)
        streamed, choices = await stream(api, body)
    assert choice["finish_reason"] == choices[-1]["finish_reason"] == "length"
    assert HERMES.startswith(choice["message"]["content"])
    assert "tool_calls" not in choice["message"]
    [[_, name, arguments]] = streamed["calls"]
    assert name == "depth"
    assert RED.startswith(arguments)


async def test_a_stream_that_ends_within_a_call_has_not_called(hermes: Tokenizer) -> None:
    async with answering(hermes, HERMES[:60]) as (api, _, _):
        choice = await ask(api, CHAT)
        streamed, choices = await stream(api, CHAT)
    assert choice["message"] == {"role": "assistant", "content": HERMES[:60]}
    assert choice["finish_reason"] == choices[-1]["finish_reason"] == "stop"
    assert RED.startswith(streamed["calls"][0][2])


CHOICES: list[tuple[Any, list[str]]] = [
    ("required", ["depth", "area"]),
    ("depth", ["depth"]),
    ({"type": "function", "function": {"name": "area"}}, ["area"]),
    ({"function": {"name": "area"}}, ["area"]),
    (
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"function": {"name": "depth"}}]}},
        ["depth"],
    ),
]


@pytest.mark.parametrize(("choice", "names"), CHOICES)
async def test_a_choice_is_forced_by_a_grammar(choice: Any, names: list[str], hermes: Tokenizer) -> None:
    async with answering(hermes, HERMES) as (api, engine, _):
        await ask(api, CHAT | {"tool_choice": choice})
        grammar, prompt = engine.requests[-1].params.grammar, prompt_of(engine, hermes)
        await ask(api, CHAT | {"tool_choice": "auto"})
        assert engine.requests[-1].params.grammar is None
    assert grammar is not None
    assert grammar.kind == "lark"
    offered = [tool["function"]["name"] for tool in json.loads(prompt.partition("\n")[0])]
    assert offered == names
    assert [name for name in ("depth", "area") if f'\\"{name}\\"' in grammar.text] == names


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tool_choice": "other"}, "Tool error: Tool with name other not found"),
    ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "Tool error: Tool with name x not found"),
    ({"tool_choice": {"type": "function"}}, "Tool error: a tool is chosen by"),
    ({"tool_choice": "required", "tools": []}, 'Tool error: `tool_choice` is "required", but there are no `tools`'),
    ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}, "Tool error: `allowed_tools` needs"),
    (
        {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"function": {"name": "x"}}]}},
        "Tool error: Tool with name x not found",
    ),
    ({"tools": [{"type": "web_search", "function": {"name": "f"}}]}, "Tool error: tools of type `web_search`"),
    (
        {
            "tools": [{"function": {"name": "f", "strict": True, "parameters": {"properties": {"a": {"not": {}}}}}}],
            "tool_choice": "f",
        },
        "Input validation error: grammar is not valid",
    ),
]


@pytest.mark.parametrize(("body", "message"), REFUSED)
@pytest.mark.parametrize("streams", [False, True])
async def test_tools_that_cannot_be_called_are_refused(
    body: dict[str, Any], message: str, streams: bool, hermes: Tokenizer
) -> None:
    async with answering(hermes, HERMES) as (api, engine, service):
        answer = await api.post("/v1/chat/completions", json=CHAT | body | {"stream": streams})
        assert answer.status_code == 422
        assert answer.json()["error"]["message"].startswith(message)
        kind = "tool_error" if message.startswith("Tool error") else "validation"
        assert answer.json()["error_type"] == kind
        assert not engine.requests
        assert service.metrics.request_count.value() == 1


async def test_tools_and_a_response_format(hermes: Tokenizer) -> None:
    body = CHAT | {"response_format": {"type": "json_object"}}
    async with answering(hermes, HERMES) as (api, engine, _):
        assert len((await ask(api, body))["message"]["tool_calls"]) == 2
        either = engine.requests[-1].params.grammar
        assert either is not None
        assert "start: calls | text" in either.text
        await ask(api, body | {"tool_choice": "none"})
        text = engine.requests[-1].params.grammar
        assert text is not None
        assert text.kind == "json"
    async with answering(tokenizer_with(""), "{}") as (api, _, _):
        answer = await api.post("/v1/chat/completions", json=body)
        assert answer.json()["error"]["message"].startswith("Tool error: Grammar and tools are mutually exclusive")


async def test_a_conversation_with_calls_and_their_results(hermes: Tokenizer) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "depth", "arguments": RED}}
    messages = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "3040"}]},
    ]
    async with answering(hermes, "Deep.") as (api, engine, _):
        await ask(api, CHAT | {"messages": messages, "tool_choice": "none"})
        prompt = prompt_of(engine, hermes)
    assert prompt == f"user: {USER['content']}\nassistant: depth(Red Sea)\ntool: 3040\nassistant: "


async def test_a_template_without_tools_gets_them_as_text(tokenizer: Tokenizer) -> None:
    async with answering(tokenizer, ANSWERS["json"][0]) as (api, engine, _):
        choice = await ask(api, CHAT | {"tool_prompt": "Call one."})
        assert len(choice["message"]["tool_calls"]) == 2
        prompt = prompt_of(engine, tokenizer)
    head, _, rest = prompt.partition("\n---\n")
    listed, _, tail = rest.partition("\n")
    assert head.endswith(USER["content"])
    assert json.loads(listed) == [DEPTH, AREA]
    assert tail == "Call one.<|im_end|>\n<|im_start|>assistant\n"


async def test_strict_compatibility(hermes: Tokenizer) -> None:
    """TGI: one call, called 0, no content and no finish reason in a stream (contract 3.3)."""
    async with answering(hermes, HERMES, tgi_compat="strict") as (api, _, _):
        choice = await ask(api, CHAT)
        answer = await api.post("/v1/chat/completions", json=CHAT | {"stream": True})
        received = events(answer.content)
        refused = await api.post(
            "/v1/chat/completions",
            json={"messages": [USER], "tools": [], "response_format": {"type": "json", "value": {"properties": {}}}},
        )
    function = {"description": None, "name": "depth", "arguments": RED}
    assert choice["message"] == {
        "role": "assistant",
        "tool_calls": [{"id": "0", "type": "function", "function": function}],
    }
    assert choice["finish_reason"] == "stop"
    assert received.pop() == "[DONE]"
    deltas = [chunk["choices"][0] for chunk in received]
    assert {choice["finish_reason"] for choice in deltas} == {None}
    assert {choice["delta"]["role"] for choice in deltas} == {"assistant"}
    calls = [call for choice in deltas for call in choice["delta"].get("tool_calls", ())]
    assert {(call["index"], call["id"], call["type"]) for call in calls} == {(0, "0", "function")}
    assert [call["function"]["name"] for call in calls] == ["depth"] + [None] * (len(calls) - 1)
    assert "".join(call["function"]["arguments"] for call in calls) == RED
    assert refused.json() == {
        "error": "Tool error: Grammar and tools are mutually exclusive",
        "error_type": "tool_error",
    }


@pytest.fixture(scope="module")
def url(hermes: Tokenizer) -> Iterator[str]:
    app = app_over(engine_saying(hermes, HERMES), hermes)
    with listening(app, ServerOptions(model_id="the/model")) as address:
        yield address


TOOL_CHOICES: list[Any] = ["auto", "required", {"type": "function", "function": {"name": "depth"}}]


@pytest.mark.parametrize("choice", TOOL_CHOICES)
def test_the_openai_client(choice: Any, url: str) -> None:
    wanted = CALLED if isinstance(choice, str) else CALLED[:1]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        given: dict[str, Any] = {"model": "m", "messages": [USER], "tools": [DEPTH, AREA], "tool_choice": choice}
        answer = client.chat.completions.create(**given).choices[0]
        assert answer.finish_reason == "tool_calls"
        assert (answer.message.content is None) == (wanted == CALLED)
        with client.chat.completions.stream(**given) as opened:
            streamed = opened.get_final_completion().choices[0]
    for message in (answer.message, streamed.message):
        assert message.role == "assistant"
        called = [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
        assert called == wanted
    assert streamed.finish_reason == "tool_calls"


@pytest.mark.parametrize("choice", TOOL_CHOICES)
def test_the_hub_client(choice: Any, url: str) -> None:
    wanted = CALLED if isinstance(choice, str) else CALLED[:1]
    client = InferenceClient(base_url=url)
    answer = client.chat_completion([USER], tools=[DEPTH, AREA], tool_choice=choice).choices[0]
    assert answer.finish_reason == "tool_calls"
    assert [(call.function.name, call.function.arguments) for call in answer.message.tool_calls] == wanted
    names: list[str] = []
    arguments: dict[int, str] = {}
    for chunk in client.chat_completion([USER], tools=[DEPTH, AREA], tool_choice=choice, stream=True):
        for call in chunk.choices[0].delta.tool_calls or ():
            names += [call.function.name] if call.function.name else []
            arguments[call.index] = arguments.get(call.index, "") + call.function.arguments
    assert list(zip(names, arguments.values(), strict=True)) == wanted
    assert chunk.choices[0].finish_reason == "tool_calls"

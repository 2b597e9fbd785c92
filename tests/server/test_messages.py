"""`/v1/messages` on the wire: the objects and the order of events of Anthropic's documentation, and what is refused."""

import asyncio
import json
import re
from typing import Any

import msgspec
import pytest
from asgi_connection import Connection
from fake_engine import FakeEngine
from hypothesis import given, settings
from hypothesis import strategies as st
from speaking import CALL, OTHER_CALL, SEA_SCHEMA, app_over, named_events, only, prompt_of, server_over
from speaking import engine_saying as saying

from engine.errors import GenerationFailed, Overloaded
from engine.server.messages_input import to_conversation
from engine.server.schema.messages import MessagesBody
from engine.text.tokenizer import Tokenizer
from engine.text.tools import Tool
from engine.types import Timings

PATH = "/v1/messages"
USER = {"role": "user", "content": "Hi"}
BODY = {"model": "claude", "max_tokens": 50, "messages": [USER]}
TOOL = {"name": "depth", "description": "Of a sea", "input_schema": SEA_SCHEMA}
ID = re.compile(r"(msg|call)_[0-9a-f]{24,32}")
USED = {"input_tokens": 12, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
WHOLE = {
    "id": "<id>",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [{"type": "text", "text": " is deep."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": USED | {"output_tokens": 4},
}


def without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_ids(field) for key, field in value.items()}
    if isinstance(value, list):
        return [without_ids(item) for item in value]
    return "<id>" if isinstance(value, str) and ID.fullmatch(value) else value


async def answer_to(engine: FakeEngine, tokenizer: Tokenizer, body: dict[str, Any], **options: Any) -> Any:
    async with server_over(engine, tokenizer, **options) as (api, _):
        answer = await api.post(PATH, json=BODY | body, headers={"anthropic-version": "2023-06-01"})
    assert answer.status_code == 200, answer.text
    return named_events(answer.text) if body.get("stream") else answer.json()


async def test_a_whole_answer(tokenizer: Tokenizer, engine: FakeEngine) -> None:
    answer = await answer_to(engine, tokenizer, {})
    assert list(answer) == list(WHOLE)
    assert without_ids(answer) == WHOLE


async def test_the_events_of_a_text(tokenizer: Tokenizer, engine: FakeEngine) -> None:
    events = await answer_to(engine, tokenizer, {"stream": True})
    assert [data["type"] for _, data in events] == [name for name, _ in events]
    assert without_ids([data for _, data in events]) == [
        {
            "type": "message_start",
            "message": WHOLE | {"content": [], "stop_reason": None, "usage": USED | {"output_tokens": 0}},
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " is"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " deep"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "."}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": USED | {"output_tokens": 4},
        },
        {"type": "message_stop"},
    ]


async def test_thoughts_text_and_calls_are_blocks_in_their_order(tokenizer: Tokenizer) -> None:
    engine = saying(tokenizer, f"<think>Salty.</think>Wait.{CALL}{OTHER_CALL}")
    wanted = {"tools": [TOOL], "thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 200}
    whole = await answer_to(engine, tokenizer, wanted)
    assert without_ids(whole["content"]) == [
        {"type": "thinking", "thinking": "Salty.", "signature": ""},
        {"type": "text", "text": "Wait."},
        {"type": "tool_use", "id": "<id>", "name": "depth", "input": {"name": "Red Sea"}},
        {"type": "tool_use", "id": "<id>", "name": "depth", "input": {"name": "Baltic"}},
    ]
    assert (whole["stop_reason"], whole["stop_sequence"]) == ("tool_use", None)
    assert whole["content"][2]["id"] != whole["content"][3]["id"]

    events = await answer_to(engine, tokenizer, wanted | {"stream": True})
    kinds = [data.get("delta", {}).get("type", name) for name, data in events]
    assert [kind for i, kind in enumerate(kinds) if i == 0 or kind != kinds[i - 1]] == [
        "message_start",
        *("content_block_start", "ping", "thinking_delta", "signature_delta", "content_block_stop"),
        *("content_block_start", "text_delta", "content_block_stop"),
        *("content_block_start", "input_json_delta", "content_block_stop") * 2,
        *("message_delta", "message_stop"),
    ]
    begun = [data["content_block"] for name, data in events if name == "content_block_start"]
    assert without_ids(begun) == [
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "text", "text": ""},
        {"type": "tool_use", "id": "<id>", "name": "depth", "input": {}},
        {"type": "tool_use", "id": "<id>", "name": "depth", "input": {}},
    ]
    assert events[-2][1]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}


@pytest.mark.parametrize(
    ("body", "reason", "sequence", "text"),
    [
        ({"max_tokens": 2}, "max_tokens", None, " is deep"),
        ({"stop_sequences": ["x", "ee"]}, "stop_sequence", "ee", " is d"),
        ({"stop_sequences": ["."]}, "stop_sequence", ".", " is deep"),
        ({"stop_sequences": ["deep.", "deep"]}, "stop_sequence", "deep", " is "),
        ({"stop_sequences": ["nothing"]}, "end_turn", None, " is deep."),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_why_an_answer_ended(
    body: dict[str, Any],
    reason: str,
    sequence: str | None,
    text: str,
    stream: bool,
    tokenizer: Tokenizer,
    engine: FakeEngine,
) -> None:
    answer = await answer_to(engine, tokenizer, body | {"stream": stream})
    if stream:
        stop = answer[-2][1]["delta"]
        said = "".join(data["delta"]["text"] for name, data in answer if name == "content_block_delta")
    else:
        stop, said = only(answer, "stop_reason", "stop_sequence"), answer["content"][0]["text"]
    assert stop == {"stop_reason": reason, "stop_sequence": sequence}
    assert said == text


async def test_an_answer_without_text_has_no_content(tokenizer: Tokenizer) -> None:
    engine = saying(tokenizer, "")
    assert (await answer_to(engine, tokenizer, {}))["content"] == []
    events = await answer_to(engine, tokenizer, {"stream": True})
    assert [name for name, _ in events] == ["message_start", "message_delta", "message_stop"]


async def test_a_call_cut_off_is_not_called(tokenizer: Tokenizer) -> None:
    """Whole, it is the text that it is; in a stream the arguments stop where the answer does."""
    engine = saying(tokenizer, CALL)
    wanted = {"tools": [TOOL], "max_tokens": 25}
    whole = await answer_to(engine, tokenizer, wanted)
    assert (whole["stop_reason"], whole["content"][0]["type"]) == ("max_tokens", "text")
    events = await answer_to(engine, tokenizer, wanted | {"stream": True})
    assert events[-2][1]["delta"]["stop_reason"] == "max_tokens"
    assert [name for name, _ in events[-3:]] == ["content_block_stop", "message_delta", "message_stop"]


async def test_the_parts_of_the_prompt_add_up(tokenizer: Tokenizer, engine: FakeEngine) -> None:
    class Caches(FakeEngine):
        def _event(self, *arguments: Any) -> Any:
            timings = Timings(queue=0.0, prefill=0.0, decode=0.0, cached_tokens=5)
            event = super()._event(*arguments)
            return type(event)(
                **{name: getattr(event, name) for name in event.__struct_fields__} | {"timings": timings}
            )

    caching = Caches(engine.script)
    caching.healthy = True
    wanted = {"input_tokens": 7, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 5, "output_tokens": 4}
    assert (await answer_to(caching, tokenizer, {}))["usage"] == wanted
    assert (await answer_to(caching, tokenizer, {"stream": True}))[-2][1]["usage"] == wanted


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (GenerationFailed("broken"), "api_error"),
        (Overloaded("full"), "rate_limit_error"),
        (RuntimeError("a defect"), "api_error"),
    ],
)
async def test_a_stream_that_fails_says_so(
    error: Exception, kind: str, tokenizer: Tokenizer, engine: FakeEngine
) -> None:
    engine.error, engine.gate_step = error, 2
    events = await answer_to(engine, tokenizer, {"stream": True})
    assert [name for name, _ in events[-2:]] == ["content_block_delta", "error"]
    assert only(events[-1][1], "type") == {"type": "error"}
    assert events[-1][1]["error"]["type"] == kind
    assert "a defect" not in events[-1][1]["error"]["message"]


CALLING = {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "depth", "input": {"name": "a"}}]}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"model": None}, "model"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "`messages` cannot be empty"),
    ({"max_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ({"max_tokens": 5000}, "`inputs` tokens + `max_new_tokens` must be <= 64"),
    ({"temperature": -1}, "`temperature` must be strictly positive"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "`messages[0].role` must be user, assistant or system"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "image modality is not supported"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "text modality is not supported"),
    ({"messages": [USER, CALLING]}, "`tool_use` ids were found without `tool_result` blocks immediately after: t1"),
    ({"messages": [USER, CALLING, {"role": "assistant", "content": "a"}]}, "without `tool_result` blocks"),
    (
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t9"}]}]},
        "unexpected `tool_use_id` found in `tool_result` blocks: t9",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "`tool_result` needs `tool_use_id`"),
    ({"messages": [{"role": "assistant", "content": [{"type": "tool_use"}]}]}, "needs `id`, `name` and `input`"),
    ({"tools": [{"name": "bash", "type": "bash_20250124"}]}, "`tools[0].type` `bash_20250124` is not supported"),
    ({"tools": [{"name": "f"}]}, "`tools[0].input_schema` is missing"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "nope"}}, "nope"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "`tool_choice.type` must be auto, any, none, or tool"),
    ({"tools": [TOOL], "tool_choice": {"type": "some"}}, "`tool_choice.type` must be auto, any, none, or tool"),
    ({"output_config": {"format": {"type": "xml"}}}, "`output_config.format` must be"),
]


@pytest.mark.parametrize(("body", "message"), REFUSED)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_cannot_be_done_is_a_plain_422(
    body: dict[str, Any], message: str, stream: bool, tokenizer: Tokenizer, engine: FakeEngine
) -> None:
    wanted = {name: value for name, value in (BODY | body | {"stream": stream}).items() if value is not None}
    async with server_over(engine, tokenizer) as (api, service):
        answer = await api.post(PATH, json=wanted)
        assert service.permits.used == 0
    assert answer.status_code == 422
    assert only(answer.json(), "type") == {"type": "error"}
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert message in answer.json()["error"]["message"]
    assert not engine.requests


async def test_a_full_server_answers_429_to_a_stream_too(tokenizer: Tokenizer, engine: FakeEngine) -> None:
    async with server_over(engine, tokenizer, max_concurrent_requests=1) as (api, service):
        with service.permits.hold():
            answer = await api.post(PATH, json=BODY | {"stream": True})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert answer.json()["error"]["type"] == "rate_limit_error"


TURNS = [
    {"role": "user", "content": "How deep"},
    {"role": "user", "content": [{"type": "text", "text": " is it?"}]},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "s"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "I ask."},
            {"type": "tool_use", "id": "t1", "name": "depth", "input": {"name": "Red Sea"}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "3040 m"}]},
            {"type": "text", "text": "Sure?", "cache_control": {"type": "ephemeral"}},
        ],
    },
]


def test_turns_become_the_messages_of_a_template() -> None:
    system = [{"type": "text", "text": "You know seas."}, {"type": "text", "text": "Be brief."}]
    body = msgspec.convert(BODY | {"messages": TURNS, "system": system, "tools": [TOOL]}, MessagesBody)
    conversation = to_conversation(body)
    function = {"name": "depth", "arguments": {"name": "Red Sea"}}
    assert conversation.messages == [
        {"role": "system", "content": system},
        {"role": "user", "content": [{"type": "text", "text": "How deep"}, {"type": "text", "text": " is it?"}]},
        {
            "role": "assistant",
            "content": "I ask.",
            "reasoning_content": "Hm.",
            "tool_calls": [{"id": "t1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "t1", "name": "depth", "content": "3040 m"},
        {"role": "user", "content": "Sure?"},
    ]
    assert conversation.tools == (Tool(name="depth", description="Of a sea", parameters=SEA_SCHEMA),)


@pytest.mark.parametrize(
    ("thinking", "arguments"),
    [
        (None, {}),
        ({"type": "disabled"}, {"enable_thinking": False}),
        ({"type": "enabled", "budget_tokens": 1024}, {"enable_thinking": True}),
        ({"type": "adaptive"}, {"enable_thinking": True}),
    ],
)
def test_thinking_is_a_switch_of_the_template(thinking: dict[str, Any] | None, arguments: dict[str, Any]) -> None:
    conversation = to_conversation(msgspec.convert(BODY | {"thinking": thinking}, MessagesBody))
    assert conversation.template_arguments == arguments


async def test_an_answer_that_has_begun_is_continued(tokenizer: Tokenizer, engine: FakeEngine) -> None:
    await answer_to(engine, tokenizer, {"messages": [USER, {"role": "assistant", "content": "The sea"}]})
    assert prompt_of(engine, tokenizer).endswith("<|im_start|>assistant\nThe sea")


@pytest.mark.parametrize(
    ("choice", "offered", "forced"),
    [
        (None, True, False),
        ({"type": "auto", "disable_parallel_tool_use": True}, True, False),
        ({"type": "any"}, True, True),
        ({"type": "tool", "name": "depth"}, True, True),
        ({"type": "none"}, False, False),
    ],
)
async def test_the_choice_of_tools(
    choice: dict[str, Any] | None, offered: bool, forced: bool, tokenizer: Tokenizer
) -> None:
    engine = saying(tokenizer, CALL + OTHER_CALL)
    body = {"tools": [TOOL], "max_tokens": 200} | ({"tool_choice": choice} if choice else {})
    answer = await answer_to(engine, tokenizer, body)
    calls = [block for block in answer["content"] if block["type"] == "tool_use"]
    one = choice is not None and (choice["type"] == "tool" or "disable_parallel_tool_use" in choice)
    assert len(calls) == (0 if not offered else 1 if one else 2)
    assert ("depth" in prompt_of(engine, tokenizer)) is offered
    assert (engine.requests[0].params.grammar is not None) is forced


async def test_parameters_reach_the_engine(tokenizer: Tokenizer, engine: FakeEngine) -> None:
    await answer_to(engine, tokenizer, {"temperature": 0.5, "top_p": 0.9, "top_k": 3, "max_tokens": 9})
    await answer_to(engine, tokenizer, {"temperature": 0, "top_k": 0})
    first, second = (request.params for request in engine.requests)
    assert (first.temperature, first.top_p, first.top_k, first.max_new_tokens) == (0.5, 0.9, 3, 9)
    assert second.temperature == 0


async def test_the_format_of_the_output_is_a_grammar(tokenizer: Tokenizer) -> None:
    engine = saying(tokenizer, '{"name": "Red Sea"}')
    config = {"format": {"type": "json_schema", "schema": SEA_SCHEMA}}
    await answer_to(engine, tokenizer, {"output_config": config}, reasoning_parser="none")
    grammar = engine.requests[0].params.grammar
    assert grammar is not None
    assert json.loads(grammar.text) == SEA_SCHEMA


async def test_tokens_are_counted_as_the_request_would_be(tokenizer: Tokenizer) -> None:
    engine = saying(tokenizer, "Deep.")
    asked = {"messages": TURNS, "system": "You know seas.", "tools": [TOOL]}
    answer = await answer_to(engine, tokenizer, asked)
    async with server_over(engine, tokenizer) as (api, service):
        counted = await api.post(f"{PATH}/count_tokens", json={"model": "claude"} | asked)
        assert service.metrics.request_count.value() == 0
    assert counted.json() == {"input_tokens": answer["usage"]["input_tokens"]}
    assert len(engine.requests) == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": "a-key"}, 200),
        ({"authorization": "Bearer a-key"}, 200),
        ({"x-api-key": "other"}, 401),
        ({}, 401),
        ({"x-api-key": "Bearer a-key"}, 401),
        ({"x-api-key": "a-key", "authorization": "Bearer a-key"}, 401),
    ],
)
async def test_a_key_in_either_header(
    headers: dict[str, str], status: int, tokenizer: Tokenizer, engine: FakeEngine
) -> None:
    async with server_over(engine, tokenizer, api_keys=("a-key",)) as (api, _):
        for path, body in ((PATH, BODY), ("/generate", {"inputs": "a"})):
            assert (await api.post(path, json=body, headers=headers)).status_code == status
        refused = await api.post(PATH, json=BODY, headers={"x-api-key": "b"})
    assert refused.json()["error"]["type"] == "authentication_error"


async def test_headers_and_metrics(tokenizer: Tokenizer, engine: FakeEngine) -> None:
    async with server_over(engine, tokenizer) as (api, service):
        whole = await api.post(PATH, json=BODY)
        streamed = await api.post(PATH, json=BODY | {"stream": True})
    assert (whole.headers["x-prompt-tokens"], whole.headers["x-generated-tokens"]) == ("12", "4")
    assert whole.headers["x-compute-characters"] == streamed.headers["x-compute-characters"] == "52"
    assert service.metrics.request_count.value() == service.metrics.request_success.value() == 2


WORDS = st.text('ab <>/{}"thinktool_call:é', max_size=20)


@settings(derandomize=True, deadline=None, database=None, max_examples=30)
@given(thought=WORDS, text=WORDS, call=st.sampled_from(["", CALL, CALL + OTHER_CALL]))
async def test_deltas_join_to_the_whole(tokenizer: Tokenizer, thought: str, text: str, call: str) -> None:
    engine = saying(tokenizer, f"<think>{thought}</think>{text}{call}")
    wanted = {"tools": [TOOL], "max_tokens": 300}
    whole = await answer_to(engine, tokenizer, wanted)
    events = await answer_to(engine, tokenizer, wanted | {"stream": True})
    said = ["" for name, _ in events if name == "content_block_start"]
    for name, data in events:
        if name == "content_block_delta":
            [joined] = [value for key, value in data["delta"].items() if key != "type"]
            said[data["index"]] += joined
    for block, joined in zip(whole["content"], said, strict=True):
        assert json.loads(joined) == block["input"] if block["type"] == "tool_use" else joined == block[block["type"]]
    assert events[-2][1]["delta"] == only(whole, "stop_reason", "stop_sequence")


async def test_a_stream_that_the_end_of_the_server_cuts_off_says_so(tokenizer: Tokenizer, engine: FakeEngine) -> None:
    engine.gate, engine.gate_step = asyncio.Event(), 1
    app = app_over(engine, tokenizer)
    connection = Connection(app, PATH, BODY | {"stream": True})
    serving = asyncio.create_task(connection.run())
    await engine.waiting.wait()
    serving.cancel()
    await serving
    name, data = named_events(connection.body.decode())[-1]
    assert (name, data["error"]) == (
        "error",
        {"type": "overloaded_error", "message": "the server is shutting down"},
    )
    assert len(engine.cancelled) == 1
    app.state.service.close()

"""`/v1/responses` on the wire: the objects and the order of events of OpenAI's documentation, and what is refused."""

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
from speaking import ARGUMENTS, CALL, OTHER_CALL, SEA_SCHEMA, app_over, engine_saying, named_events, only, server_over

from engine.errors import GenerationFailed, Overloaded
from engine.server.responses_input import to_conversation
from engine.server.schema.responses import ResponsesBody
from engine.text.tokenizer import Tokenizer
from engine.text.tools import Tool
from engine.types import Grammar

PATH = "/v1/responses"
TOOL = {"type": "function", "name": "depth", "description": "Of a sea", "parameters": SEA_SCHEMA, "strict": True}
ID = re.compile(r"(resp|msg|rs|fc|call)_[0-9a-f]{24,32}")
MESSAGE_EVENTS = [
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
]
THOUGHT_EVENTS = [name.replace("output_text", "reasoning_text") for name in MESSAGE_EVENTS]
CALL_EVENTS = [
    "response.output_item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
]
BEGINNING = ["response.created", "response.in_progress"]

PART = {"type": "output_text", "text": " is deep.", "annotations": [], "logprobs": []}

# What a response says besides its output, by the documentation's example and our defaults.
PLAIN = {
    "id": "<id>",
    "object": "response",
    "created_at": 0,
    "completed_at": 0,
    "status": "completed",
    "background": False,
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "max_output_tokens": None,
    "model": "the/model",
    "output": [
        {
            "type": "message",
            "id": "<id>",
            "status": "completed",
            "role": "assistant",
            "content": [PART],
        }
    ],
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "service_tier": "default",
    "store": False,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "usage": {
        "input_tokens": 12,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 16,
    },
    "user": None,
    "metadata": {},
}


def without_what_varies(value: Any) -> Any:
    """Ids and times replaced, wherever they are."""
    if isinstance(value, dict):
        return {
            key: 0 if key.endswith("ed_at") and field is not None else without_what_varies(field)
            for key, field in value.items()
        }
    if isinstance(value, list):
        return [without_what_varies(item) for item in value]
    return "<id>" if isinstance(value, str) and ID.fullmatch(value) else value


async def answer_to(engine: FakeEngine, tokenizer: Tokenizer, body: dict[str, Any], **options: Any) -> Any:
    async with server_over(engine, tokenizer, **options) as (api, _):
        answer = await api.post(PATH, json={"input": "Hi"} | body)
    assert answer.status_code == 200, answer.text
    return named_events(answer.text) if body.get("stream") else answer.json()


def names_without_repeats(events: list[tuple[str, Any]]) -> list[str]:
    """The order of the events, each run of deltas as one."""
    names = [name for name, _ in events]
    return [name for i, name in enumerate(names) if i == 0 or name != names[i - 1] or not name.endswith("delta")]


async def test_a_whole_answer(tokenizer: Tokenizer, engine: FakeEngine) -> None:
    answer = await answer_to(engine, tokenizer, {})
    assert list(answer) == list(PLAIN)
    assert without_what_varies(answer) == PLAIN


async def test_the_events_of_a_message(tokenizer: Tokenizer, engine: FakeEngine) -> None:
    events = await answer_to(engine, tokenizer, {"stream": True})
    assert [name for name, _ in events] == [
        *BEGINNING,
        *MESSAGE_EVENTS[:3],
        "response.output_text.delta",
        *MESSAGE_EVENTS[2:],
        "response.completed",
    ]
    assert [data["type"] for _, data in events] == [name for name, _ in events]
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
    begun = PLAIN | {"status": "in_progress", "completed_at": None, "output": [], "usage": None}
    where = {"item_id": "<id>", "output_index": 0, "content_index": 0}
    item = {"type": "message", "id": "<id>", "status": "in_progress", "role": "assistant", "content": []}
    data = [{key: value for key, value in each.items() if key != "type"} for _, each in events]
    assert without_what_varies(data) == [
        {"sequence_number": 0, "response": begun},
        {"sequence_number": 1, "response": begun},
        {"sequence_number": 2, "output_index": 0, "item": item},
        {"sequence_number": 3, **where, "part": PART | {"text": ""}},
        {"sequence_number": 4, **where, "delta": " is", "logprobs": []},
        {"sequence_number": 5, **where, "delta": " deep", "logprobs": []},
        {"sequence_number": 6, **where, "delta": ".", "logprobs": []},
        {"sequence_number": 7, **where, "text": " is deep.", "logprobs": []},
        {"sequence_number": 8, **where, "part": PART},
        {"sequence_number": 9, "output_index": 0, "item": item | {"status": "completed", "content": [PART]}},
        {"sequence_number": 10, "response": PLAIN},
    ]


async def test_thoughts_text_and_calls_are_items_in_their_order(tokenizer: Tokenizer) -> None:
    engine = engine_saying(tokenizer, f"<think>Salty.</think>Wait.{CALL}{OTHER_CALL}")
    whole = await answer_to(engine, tokenizer, {"tools": [TOOL]})
    thought, text, first, second = whole["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "Salty."}]
    assert thought["summary"] == []
    assert text["content"][0]["text"] == "Wait."
    assert only(first, "type", "name", "arguments", "status") == {
        "type": "function_call",
        "name": "depth",
        "arguments": ARGUMENTS,
        "status": "completed",
    }
    assert json.loads(second["arguments"]) == {"name": "Baltic"}
    assert first["call_id"] != second["call_id"]
    assert whole["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    assert (whole["tools"], whole["status"]) == ([TOOL], "completed")

    events = await answer_to(engine, tokenizer, {"tools": [TOOL], "stream": True})
    assert names_without_repeats(events) == [
        *BEGINNING,
        *THOUGHT_EVENTS,
        *MESSAGE_EVENTS,
        *CALL_EVENTS,
        *CALL_EVENTS,
        "response.completed",
    ]
    assert without_what_varies(events[-1][1]["response"]) == without_what_varies(whole)
    done = [data for name, data in events if name == "response.function_call_arguments.done"]
    assert [each["output_index"] for each in done] == [2, 3]
    assert only(done[0], "name", "arguments") == {"name": "depth", "arguments": ARGUMENTS}


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_cut_off_is_incomplete(stream: bool, tokenizer: Tokenizer, engine: FakeEngine) -> None:
    answer = await answer_to(engine, tokenizer, {"max_output_tokens": 2, "stream": stream})
    if stream:
        assert answer[-1][0] == "response.incomplete"
        answer = answer[-1][1]["response"]
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert answer["completed_at"] is None
    assert answer["output"][0]["status"] == "incomplete"
    assert answer["usage"]["output_tokens"] == 2


async def test_an_answer_without_text_is_an_empty_message(tokenizer: Tokenizer) -> None:
    engine = engine_saying(tokenizer, "")
    whole = await answer_to(engine, tokenizer, {})
    assert whole["output"][0]["content"][0]["text"] == ""
    events = await answer_to(engine, tokenizer, {"stream": True})
    assert [name for name, _ in events[2:-1]] == [name for name in MESSAGE_EVENTS if not name.endswith("delta")]


@pytest.mark.parametrize("wanted", [{"include": ["message.output_text.logprobs"]}, {"top_logprobs": 2}])
async def test_log_probabilities_come_with_the_text(
    wanted: dict[str, Any], tokenizer: Tokenizer, engine: FakeEngine
) -> None:
    whole = await answer_to(engine, tokenizer, wanted)
    scores = whole["output"][0]["content"][0]["logprobs"]
    assert [score["token"] for score in scores] == [" is", " deep", "."]  # the end token is no text
    assert scores[0]["bytes"] == [32, 105, 115]
    assert [len(score["top_logprobs"]) for score in scores] == [wanted.get("top_logprobs", 0)] * 3
    events = await answer_to(engine, tokenizer, wanted | {"stream": True, "seed": 2})
    deltas = [data["logprobs"] for name, data in events if name == "response.output_text.delta"]
    done = next(data["logprobs"] for name, data in events if name == "response.output_text.done")
    assert [each for delta in deltas for each in delta] == done
    assert [score["token"] for score in done] == [" is", " deep", "."]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GenerationFailed("broken"), "server_error"),
        (Overloaded("full"), "rate_limit_exceeded"),
        (RuntimeError("a defect"), "server_error"),
    ],
)
async def test_a_stream_that_fails_says_so(
    error: Exception, code: str, tokenizer: Tokenizer, engine: FakeEngine
) -> None:
    engine.error, engine.gate_step = error, 2
    events = await answer_to(engine, tokenizer, {"stream": True})
    assert [name for name, _ in events[-3:]] == ["response.output_text.delta", "error", "response.failed"]
    told, failed = events[-2][1], events[-1][1]
    assert (told["code"], told["param"]) == (code, None)
    assert "a defect" not in told["message"]
    assert failed["response"]["error"] == only(told, "code", "message")
    assert (failed["response"]["status"], failed["response"]["output"]) == ("failed", [])
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))


async def test_a_stream_that_the_end_of_the_server_cuts_off_says_so(tokenizer: Tokenizer, engine: FakeEngine) -> None:
    engine.gate, engine.gate_step = asyncio.Event(), 2
    app = app_over(engine, tokenizer)
    connection = Connection(app, PATH, {"input": "Hi", "stream": True})
    serving = asyncio.create_task(connection.run())
    await engine.waiting.wait()
    serving.cancel()
    await serving
    events = named_events(connection.body.decode())
    assert [name for name, _ in events[-3:]] == ["response.output_text.delta", "error", "response.failed"]
    assert events[-2][1]["message"] == "the server is shutting down"
    assert events[-1][1]["response"]["status"] == "failed"
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
    assert len(engine.cancelled) == 1
    app.state.service.close()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"previous_response_id": "resp_1"}, "this server stores nothing"),
    ({"conversation": "conv_1"}, "this server stores nothing"),
    ({"prompt": {"id": "pmpt_1"}}, "this server stores nothing"),
    ({"background": True}, "`background` is not supported"),
    ({"input": []}, "`messages` cannot be empty"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "this server stores nothing"),
    ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "`input[0].type` `web_search_call` is not supported"),
    ({"input": [{"role": "robot", "content": "a"}]}, "`input[0].role` must be one of"),
    ({"input": [{"role": "user"}]}, "`input[0]` needs `content`"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input_image modality is not supported"),
    ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "needs `call_id`, `name` and `arguments`"),
    (
        {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "[]"}]},
        "`input[0].arguments` must be a JSON object",
    ),
    (
        {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]},
        "No tool output found for function call c",
    ),
    ({"input": [{"type": "function_call_output", "call_id": "c", "output": "1"}]}, "No tool call found"),
    ({"tools": [{"type": "web_search"}]}, "`tools[0].type` `web_search` is not supported"),
    ({"tools": [{"type": "function"}]}, "`tools[0].name` is missing"),
    ({"tool_choice": {"type": "file_search"}}, "`tool_choice` must be"),
    ({"tool_choice": {"type": "function", "name": "nope"}, "tools": [TOOL]}, "nope"),
    ({"tool_choice": "required"}, "tools"),
    ({"text": {"format": {"type": "xml"}}}, "type"),
    ({"max_output_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ({"max_output_tokens": 5000}, "`inputs` tokens + `max_new_tokens` must be <= 64"),
    ({"temperature": -1}, "`temperature` must be strictly positive"),
    ({"top_logprobs": 21}, "`top_n_tokens` must be"),
]


@pytest.mark.parametrize(("body", "message"), REFUSED)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_cannot_be_done_is_a_plain_422(
    body: dict[str, Any], message: str, stream: bool, tokenizer: Tokenizer, engine: FakeEngine
) -> None:
    async with server_over(engine, tokenizer) as (api, service):
        answer = await api.post(PATH, json={"input": "Hi", "stream": stream} | body)
    assert answer.status_code == 422
    assert message in answer.json()["error"]["message"]
    assert not engine.requests
    metrics = service.metrics
    assert metrics.request_count.value() == 1
    assert service.permits.used == 0


async def test_a_full_server_answers_429_to_a_stream_too(tokenizer: Tokenizer, engine: FakeEngine) -> None:
    async with server_over(engine, tokenizer, max_concurrent_requests=1) as (api, service):
        with service.permits.hold():
            answer = await api.post(PATH, json={"input": "Hi", "stream": True})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert answer.json()["error_type"] == "overloaded"


def test_items_become_the_messages_of_a_template() -> None:
    items = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "How deep"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "I ask.", "annotations": []}]},
        {"type": "function_call", "call_id": "c1", "name": "depth", "arguments": ARGUMENTS, "id": "fc_1"},
        {"type": "function_call", "call_id": "c2", "name": "depth", "arguments": "{}", "id": "fc_2"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "3040 m"}]},
        {"type": "function_call_output", "call_id": "c2", "output": ""},
        {"type": "reasoning", "id": "rs_2", "summary": [{"type": "summary_text", "text": "So."}]},
        {"type": "function_call", "call_id": "c3", "name": "depth", "arguments": ""},
        {"type": "function_call_output", "call_id": "c3", "output": "none"},
        {"role": "user", "content": "Sure?"},
    ]
    body = {"input": items, "instructions": "You know seas.", "tools": [TOOL]}
    conversation = to_conversation(msgspec.convert(body, ResponsesBody))

    def call(name: str, arguments: dict[str, str]) -> dict[str, Any]:
        return {"id": name, "type": "function", "function": {"name": "depth", "arguments": arguments}}

    assert conversation.messages == [
        {"role": "system", "content": "You know seas.\n\nBe brief."},
        {"role": "user", "content": [{"type": "text", "text": "How deep"}]},
        {
            "role": "assistant",
            "reasoning_content": "Hm.",
            "content": [{"type": "text", "text": "I ask."}],
            "tool_calls": [call("c1", {"name": "Red Sea"}), call("c2", {})],
        },
        {"role": "tool", "tool_call_id": "c1", "name": "depth", "content": "3040 m"},
        {"role": "tool", "tool_call_id": "c2", "name": "depth", "content": ""},
        {"role": "assistant", "reasoning_content": "So.", "tool_calls": [call("c3", {})], "content": ""},
        {"role": "tool", "tool_call_id": "c3", "name": "depth", "content": "none"},
        {"role": "user", "content": "Sure?"},
    ]
    assert conversation.tools == (Tool(name="depth", description="Of a sea", parameters=SEA_SCHEMA, strict=True),)


async def test_parameters_reach_the_engine(tokenizer: Tokenizer, engine: FakeEngine) -> None:
    body = {"temperature": 0.5, "top_p": 0.9, "top_k": 3, "seed": 7, "max_output_tokens": 9, "min_p": 0.1}
    await answer_to(engine, tokenizer, body)
    params = engine.requests[0].params
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.5, 0.9, 3, 0.1)
    assert (params.seed, params.max_new_tokens) == (7, 9)
    await answer_to(engine, tokenizer, {"temperature": 0})
    assert engine.requests[1].params.temperature == 0


async def test_the_format_of_the_text_is_a_grammar(tokenizer: Tokenizer) -> None:
    engine = engine_saying(tokenizer, ARGUMENTS)
    wanted = {"type": "json_schema", "name": "sea", "schema": SEA_SCHEMA, "strict": True}
    answer = await answer_to(engine, tokenizer, {"text": {"format": wanted}}, reasoning_parser="none")
    assert answer["text"] == {"format": wanted}
    grammar = engine.requests[0].params.grammar
    assert isinstance(grammar, Grammar)
    assert (grammar.kind, json.loads(grammar.text)) == ("json", SEA_SCHEMA)
    await answer_to(engine, tokenizer, {"text": {"format": {"type": "text"}}}, reasoning_parser="none")
    assert engine.requests[1].params.grammar is None


async def test_metadata_is_given_back_and_what_is_unknown_ignored(tokenizer: Tokenizer, engine: FakeEngine) -> None:
    body = {
        "metadata": {"a": "b"},
        "user": "me",
        "store": True,
        "truncation": "auto",
        "model": "gpt-6",
        "reasoning": {"effort": "high", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
        "service_tier": "auto",
        "prompt_cache_key": "k",
    }
    answer = await answer_to(engine, tokenizer, body)
    assert only(answer, "metadata", "user", "store", "truncation", "model") == {
        "metadata": {"a": "b"},
        "user": "me",
        "store": False,
        "truncation": "disabled",
        "model": "gpt-6",
    }


async def test_headers_and_metrics(tokenizer: Tokenizer, engine: FakeEngine) -> None:
    async with server_over(engine, tokenizer) as (api, service):
        whole = await api.post(PATH, json={"input": "Hi"})
        streamed = await api.post(PATH, json={"input": "Hi", "stream": True})
    assert (whole.headers["x-prompt-tokens"], whole.headers["x-generated-tokens"]) == ("12", "4")
    assert whole.headers["x-compute-characters"] == streamed.headers["x-compute-characters"] == "52"
    metrics = service.metrics
    assert metrics.request_count.value() == metrics.request_success.value() == 2
    assert metrics.request_validation_duration.count() == 2


WORDS = st.text('ab <>/{}"thinktool_call:é', max_size=20)


@settings(derandomize=True, deadline=None, database=None, max_examples=30)
@given(thought=WORDS, text=WORDS, call=st.sampled_from(["", CALL, CALL + OTHER_CALL]))
async def test_deltas_join_to_the_whole(tokenizer: Tokenizer, thought: str, text: str, call: str) -> None:
    engine = engine_saying(tokenizer, f"<think>{thought}</think>{text}{call}")
    body = {"tools": [TOOL], "seed": 0}
    whole = await answer_to(engine, tokenizer, body)
    events = await answer_to(engine, tokenizer, body | {"stream": True})
    final = events[-1][1]["response"]
    assert without_what_varies(final) == without_what_varies(whole)
    for index, item in enumerate(final["output"]):
        deltas = [data["delta"] for name, data in events if name.endswith("delta") and data["output_index"] == index]
        said = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        assert "".join(deltas) == said

"""The clients of OpenAI's responses and Anthropic's messages, unchanged, against a real port."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anthropic
import openai
import pytest
from fake_engine import FakeEngine
from pydantic import BaseModel
from serving import listening
from speaking import ARGUMENTS, CALL, OTHER_CALL, SEA_SCHEMA, app_over, engine_saying
from starlette.applications import Starlette

from engine.config import ServerOptions
from engine.errors import GenerationFailed, Overloaded
from engine.text.tokenizer import Tokenizer

OPTIONS = ServerOptions(model_id="the/model")
FUNCTION: Any = {
    "type": "function",
    "name": "depth",
    "description": "Of a sea",
    "parameters": SEA_SCHEMA,
    "strict": True,
}
TOOL: Any = {"name": "depth", "description": "Of a sea", "input_schema": SEA_SCHEMA}
USER: Any = {"role": "user", "content": "How deep is the Red Sea?"}
ANSWER = f"<think>Salty.</think>I ask.{CALL}{OTHER_CALL}"


class Sea(BaseModel):
    name: str


@contextmanager
def responding(app: Starlette) -> Iterator[openai.OpenAI]:
    with listening(app, OPTIONS) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        yield client


@contextmanager
def messaging(app: Starlette, key: str = "any") -> Iterator[anthropic.Anthropic]:
    with listening(app, OPTIONS) as url, anthropic.Anthropic(base_url=url, api_key=key, max_retries=0) as client:
        yield client


def test_openai_creates(make_app: Callable[..., Starlette]) -> None:
    with responding(make_app()) as client:
        answer = client.responses.create(
            model="gpt-6",
            input=[{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
            instructions="Be brief.",
            max_output_tokens=8,
            metadata={"a": "b"},
            include=["message.output_text.logprobs"],
            top_logprobs=1,
        )
    assert (answer.output_text, answer.status, answer.model) == (" is deep.", "completed", "gpt-6")
    assert (answer.metadata, answer.instructions, answer.max_output_tokens) == ({"a": "b"}, "Be brief.", 8)
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + 4
    assert (answer.usage.input_tokens_details.cached_tokens, answer.usage.output_tokens) == (0, 4)
    assert answer.output[0].type == "message"
    assert answer.output[0].content[0].type == "output_text"
    assert answer.output[0].content[0].logprobs is not None
    assert answer.output[0].content[0].logprobs[0].top_logprobs[0].token == " is"


def test_openai_streams(tokenizer: Tokenizer) -> None:
    with responding(app_over(engine_saying(tokenizer, ANSWER), tokenizer)) as client:
        with client.responses.stream(model="m", input="Hi", tools=[FUNCTION]) as stream:
            text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
            final = stream.get_final_response()
        with client.responses.create(model="m", input="Hi", tools=[FUNCTION], stream=True) as raw:
            events = list(raw)
    assert text == final.output_text == "I ask."
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call", "function_call"]
    assert final.output[2].type == "function_call"
    assert (final.output[2].name, final.output[2].arguments) == ("depth", ARGUMENTS)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"


def test_openai_parses(tokenizer: Tokenizer) -> None:
    app = app_over(engine_saying(tokenizer, ARGUMENTS), tokenizer, reasoning_parser="none")
    with responding(app) as client:
        answer = client.responses.parse(model="m", input="Hi", text_format=Sea)
        with client.responses.stream(model="m", input="Hi", text_format=Sea) as stream:
            streamed = stream.get_final_response()
    assert answer.output_parsed == streamed.output_parsed == Sea(name="Red Sea")


def test_openai_calls_a_tool_and_goes_on(tokenizer: Tokenizer) -> None:
    engine = engine_saying(tokenizer, f"<think>Salty.</think>{CALL}")
    pydantic_tool: Any = openai.pydantic_function_tool(Sea, name="depth")
    with responding(app_over(engine, tokenizer)) as client:
        first = client.responses.parse(
            model="m",
            input="Hi",
            tools=[pydantic_tool],
            tool_choice={"type": "function", "name": "depth"},
        )
        *_, call = first.output
        assert call.type == "function_call"
        assert call.parsed_arguments == Sea(name="Red Sea")
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "3040 m"}
        items: Any = [{"role": "user", "content": "Hi"}, *(item.to_dict() for item in first.output), result]
        second = client.responses.create(model="m", input=items, tools=[FUNCTION])
    assert second.status == "completed"
    assert "3040 m" in tokenizer.decode(engine.requests[1].prompt)


def test_openai_errors(make_app: Callable[..., Starlette], engine: FakeEngine) -> None:
    with responding(make_app()) as client:
        with pytest.raises(openai.UnprocessableEntityError, match="this server stores nothing"):
            client.responses.create(model="m", input="Hi", previous_response_id="resp_1")
        with pytest.raises(openai.UnprocessableEntityError, match="strictly positive"):
            client.responses.create(model="m", input="Hi", temperature=-1, stream=True)
        engine.error, engine.gate_step = GenerationFailed("broken"), 1
        with pytest.raises(openai.APIStatusError, match="broken"):
            client.responses.create(model="m", input="Hi")
        with client.responses.create(model="m", input="Hi", stream=True) as stream:
            *_, error, last = stream
        assert error.type == "error"
        assert "broken" in error.message
        assert last.type == "response.failed"
        assert last.response.error is not None
        assert last.response.error.code == "server_error"
        engine.error = Overloaded("the queue is full")
        with pytest.raises(openai.RateLimitError):
            client.responses.create(model="m", input="Hi")


async def test_openai_async(url: str) -> None:
    async with (
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any") as client,
        client.responses.stream(model="m", input="Hi") as stream,
    ):
        assert (await stream.get_final_response()).output_text == " is deep."


def test_anthropic_creates(make_app: Callable[..., Starlette]) -> None:
    with messaging(make_app(api_keys=("a-key",)), "a-key") as client:
        answer = client.messages.create(
            model="claude",
            max_tokens=9,
            system=[{"type": "text", "text": "Be brief."}],
            messages=[USER],
            stop_sequences=["!", "."],
            extra_body={"temperature": 0.5, "top_k": 3},
            metadata={"user_id": "me"},
        )
    assert [(block.type, block.text) for block in answer.content if block.type == "text"] == [("text", " is deep")]
    assert (answer.stop_reason, answer.stop_sequence, answer.model) == ("stop_sequence", ".", "claude")
    assert answer.usage.output_tokens == 3
    assert answer._request_id


def test_anthropic_streams(tokenizer: Tokenizer) -> None:
    with messaging(app_over(engine_saying(tokenizer, ANSWER), tokenizer)) as client:
        with client.messages.stream(model="m", max_tokens=200, messages=[USER], tools=[TOOL]) as stream:
            events = list(stream)
            final = stream.get_final_message()
        with client.messages.stream(model="m", max_tokens=200, messages=[USER]) as stream:
            assert "".join(stream.text_stream).startswith("I ask.")
    assert "".join(event.thinking for event in events if event.type == "thinking") == "Salty."
    assert "".join(event.text for event in events if event.type == "text") == "I ask."
    assert [block.type for block in final.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert [block.input for block in final.content if block.type == "tool_use"] == [
        {"name": "Red Sea"},
        {"name": "Baltic"},
    ]
    assert final.stop_reason == "tool_use"
    assert final.usage.output_tokens > 20


def test_anthropic_calls_a_tool_and_goes_on(tokenizer: Tokenizer) -> None:
    engine = engine_saying(tokenizer, f"<think>Salty.</think>{CALL}")
    with messaging(app_over(engine, tokenizer)) as client:
        first = client.messages.create(
            model="m", max_tokens=200, messages=[USER], tools=[TOOL], tool_choice={"type": "any"}
        )
        *_, call = first.content
        assert call.type == "tool_use"
        answered: Any = {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "3040 m"}],
        }
        second = client.messages.create(
            model="m", max_tokens=200, messages=[USER, first.to_param(), answered], tools=[TOOL]
        )
        counted = client.messages.count_tokens(model="m", messages=[USER, first.to_param(), answered], tools=[TOOL])
    assert "3040 m" in tokenizer.decode(engine.requests[1].prompt)
    assert counted.input_tokens == second.usage.input_tokens


def test_anthropic_parses(tokenizer: Tokenizer) -> None:
    app = app_over(engine_saying(tokenizer, ARGUMENTS), tokenizer, reasoning_parser="none")
    with messaging(app) as client:
        answer = client.messages.parse(model="m", max_tokens=50, messages=[USER], output_format=Sea)
    assert answer.parsed_output == Sea(name="Red Sea")


def test_anthropic_errors(make_app: Callable[..., Starlette], engine: FakeEngine) -> None:
    with messaging(make_app()) as client:
        with pytest.raises(anthropic.UnprocessableEntityError, match="invalid_request_error"):
            client.messages.create(model="m", max_tokens=5000, messages=[USER])
        with pytest.raises(anthropic.UnprocessableEntityError, match="strictly positive"):
            client.messages.create(
                model="m", max_tokens=5, messages=[USER], extra_body={"temperature": -1}, stream=True
            )
        engine.error, engine.gate_step = GenerationFailed("broken"), 1
        with (
            pytest.raises(anthropic.APIStatusError, match="broken"),
            client.messages.stream(model="m", max_tokens=5, messages=[USER]) as stream,
        ):
            stream.until_done()
        engine.error = Overloaded("the queue is full")
        with pytest.raises(anthropic.RateLimitError):
            client.messages.create(model="m", max_tokens=5, messages=[USER])
        engine.healthy = False
        with pytest.raises(anthropic.InternalServerError, match="overloaded_error"):
            client.messages.create(model="m", max_tokens=5, messages=[USER])
    with messaging(make_app(api_keys=("a-key",)), "wrong") as client, pytest.raises(anthropic.AuthenticationError):
        client.messages.create(model="m", max_tokens=5, messages=[USER])


async def test_anthropic_async(url: str) -> None:
    async with (
        anthropic.AsyncAnthropic(base_url=url, api_key="any") as client,
        client.messages.stream(model="m", max_tokens=9, messages=[USER]) as stream,
    ):
        assert await stream.get_final_text() == " is deep."

"""openai's client, and Anthropic's, over what they can ask of a server of text."""

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import jsonschema
import openai
import pytest
from pydantic import BaseModel

USER: Any = {"role": "user", "content": "What is the weather in Rome?"}


class Weather(BaseModel):
    unit: Literal["C", "F"]
    rain: bool


TOOL: Any = openai.pydantic_function_tool(Weather, name="weather")
NAMED: Any = {"type": "function", "function": {"name": "weather"}}


@pytest.fixture
def client(live_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live_url}/v1", api_key="any", max_retries=0) as opened:
        yield opened


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tgi",
        messages=[{"role": "system", "content": "Be brief."}, USER],
        max_completion_tokens=4,
        n=2,
        seed=3,
        logprobs=True,
        top_logprobs=2,
        logit_bias={"5": -100},
        stop=["zebra"],
        temperature=0.9,
        frequency_penalty=0.1,
        presence_penalty=0.1,
        user="me",
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 8
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        text = b"".join(bytes(each.bytes or ()) for each in choice.logprobs.content)
        assert (choice.message.content or "") in text.decode(errors="replace")


def test_chat_streamed(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="tgi", messages=[USER], max_tokens=6, temperature=0)
    with client.chat.completions.create(
        model="tgi",
        messages=[USER],
        max_tokens=6,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        *chunks, last = stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert last.usage is not None
    assert last.usage == whole.usage


@pytest.mark.parametrize("streamed", [False, True])
def test_structured_output(client: openai.OpenAI, streamed: bool) -> None:
    asked: Any = {"model": "tgi", "messages": [USER], "response_format": Weather, "max_tokens": 60, "seed": 1}
    if streamed:
        with client.chat.completions.stream(**asked) as stream:
            answer = stream.get_final_completion()
    else:
        answer = client.chat.completions.parse(**asked)
    assert isinstance(answer.choices[0].message.parsed, Weather)


def test_json_without_a_schema(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tgi", messages=[USER], response_format={"type": "json_object"}, max_tokens=300, seed=1, temperature=0
    )
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


@pytest.mark.parametrize("streamed", [False, True])
def test_tools(client: openai.OpenAI, streamed: bool) -> None:
    asked: Any = {"model": "tgi", "messages": [USER], "tools": [TOOL], "tool_choice": NAMED, "max_tokens": 100}
    if streamed:
        with client.chat.completions.stream(**asked) as stream:
            assert "tool_calls.function.arguments.delta" in {event.type for event in stream}
            answer = stream.get_final_completion()
    else:
        answer = client.chat.completions.parse(**asked)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    assert isinstance(choice.message.tool_calls[0].function.parsed_arguments, Weather)


def test_tool_choices(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tgi", "messages": [USER], "tools": [TOOL], "max_tokens": 60, "seed": 2}
    none = client.chat.completions.create(tool_choice="none", **asked)
    assert none.choices[0].message.tool_calls is None
    one = client.chat.completions.create(tool_choice="required", parallel_tool_calls=False, **asked)
    assert one.choices[0].message.tool_calls is not None
    [call] = one.choices[0].message.tool_calls
    assert call.type == "function"
    Weather.model_validate_json(call.function.arguments)
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    said: Any = one.choices[0].message.model_dump(exclude_none=True)
    after = client.chat.completions.create(
        model="tgi", messages=[USER, said, result], tools=[TOOL], tool_choice="auto", max_tokens=4
    )
    assert after.usage is not None
    assert one.usage is not None
    assert after.usage.prompt_tokens > one.usage.prompt_tokens


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="tgi", prompt=["A river is", "A hill is"], max_tokens=4, logprobs=2, echo=True, temperature=0, n=1
    )
    assert [choice.text[:7] for choice in answer.choices] == ["A river", "A hill "]
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.tokens is not None
    assert "".join(answer.choices[0].logprobs.tokens) == answer.choices[0].text
    whole = client.completions.create(model="tgi", prompt="A river is", max_tokens=4, temperature=0)
    with client.completions.create(
        model="tgi",
        prompt="A river is",
        max_tokens=4,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        *chunks, last = stream
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert last.usage is not None
    assert last.usage == whole.usage


def test_embeddings(client: openai.OpenAI) -> None:
    """Without `encoding_format` the client asks for base64 and decodes it."""
    answer = client.embeddings.create(model="e", input=["A river is wide.", "A hill."])
    assert [len(item.embedding) for item in answer.data] == [32, 32]
    assert (answer.model, answer.data[1].index) == ("e", 1)
    floats = client.embeddings.create(model="e", input="A river is wide.", encoding_format="float")
    assert floats.data[0].embedding == pytest.approx(answer.data[0].embedding, abs=1e-7)
    raw: Any = client.embeddings.create(model="e", input="A river is wide.", encoding_format="base64")
    decoded = struct.unpack("<32f", base64.b64decode(raw.data[0].embedding))
    assert list(decoded) == answer.data[0].embedding
    few = client.embeddings.create(model="e", input=[[461, 5408], [461]], dimensions=8, user="me")
    assert [len(item.embedding) for item in few.data] == [8, 8]
    assert few.usage.total_tokens == few.usage.prompt_tokens == 3
    with pytest.raises(openai.UnprocessableEntityError, match="must have less than 128 tokens"):
        client.embeddings.create(model="e", input="river " * 500)


def test_responses(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tgi", "input": "What is a river?", "instructions": "Be brief.", "max_output_tokens": 5}
    answer = client.responses.create(temperature=0, **asked)
    assert answer.usage is not None
    assert (answer.usage.output_tokens, answer.status) == (5, "incomplete")
    events: list[Any] = list(client.responses.create(temperature=0, stream=True, **asked))
    assert "".join(each.delta for each in events if each.type == "response.output_text.delta") == answer.output_text
    assert events[-1].type == "response.incomplete"


@pytest.mark.parametrize("streamed", [False, True])
def test_structured_responses(client: openai.OpenAI, streamed: bool) -> None:
    asked: Any = {"model": "tgi", "input": [USER], "text_format": Weather, "max_output_tokens": 60}
    if streamed:
        with client.responses.stream(**asked) as stream:
            answer: Any = stream.until_done().get_final_response()
    else:
        answer = client.responses.parse(**asked)
    assert isinstance(answer.output_parsed, Weather)


def test_tools_of_responses(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "name": "weather", "parameters": TOOL["function"]["parameters"], "strict": True}
    choice: Any = {"type": "function", "name": "weather"}
    answer = client.responses.create(model="tgi", input=[USER], tools=[tool], tool_choice=choice, max_output_tokens=100)
    [call] = [item for item in answer.output if item.type == "function_call"]
    jsonschema.validate(json.loads(call.arguments), tool["parameters"])
    items: Any = [USER, call.model_dump(exclude_none=True)]
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "rain"})
    assert client.responses.create(model="tgi", input=items, max_output_tokens=4).output


def test_models_and_errors(client: openai.OpenAI) -> None:
    models = [model.id for model in client.models.list()]
    assert models[0] == "built-in"
    assert client.models.retrieve(models[1]).id == models[1]
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.retrieve("another")
    with pytest.raises(openai.UnprocessableEntityError, match=r"`top_p` must be > 0.0 and < 1.0"):
        client.chat.completions.create(model="m", messages=[USER], top_p=2)


async def test_from_asyncio(live_url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{live_url}/v1", api_key="any", max_retries=0) as client:
        answer = await client.chat.completions.parse(
            model="tgi", messages=[USER], response_format=Weather, max_tokens=60
        )
        assert isinstance(answer.choices[0].message.parsed, Weather)
        stream = await client.chat.completions.create(model="tgi", messages=[USER], max_tokens=3, stream=True)
        assert len([chunk async for chunk in stream]) >= 3
        assert len((await client.embeddings.create(model="e", input="A river")).data) == 1


def test_anthropic(live_url: str) -> None:
    """The rest is with the fake engine, in tests/server."""
    with anthropic.Anthropic(base_url=live_url, api_key="any", max_retries=0) as client:
        answer = client.messages.create(model="tgi", max_tokens=4, messages=[USER], system="Be brief.")
        assert answer.stop_reason == "max_tokens"
        with client.messages.stream(model="tgi", max_tokens=4, messages=[USER]) as stream:
            assert "".join(stream.text_stream)
        assert client.messages.count_tokens(model="tgi", messages=[USER]).input_tokens > 0
        tool: Any = {"name": "weather", "input_schema": TOOL["function"]["parameters"]}
        answer = client.messages.create(
            model="tgi", max_tokens=100, messages=[USER], tools=[tool], tool_choice={"type": "tool", "name": "weather"}
        )
        [call] = [block for block in answer.content if block.type == "tool_use"]
        jsonschema.validate(call.input, tool["input_schema"])

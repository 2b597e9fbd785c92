"""huggingface_hub's InferenceClient and AsyncInferenceClient, over every method that a server of text can answer."""

import json
from typing import Any

import jsonschema
import numpy as np
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError, ValidationError

USER = {"role": "user", "content": "What is the weather in Rome?"}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"unit": {"enum": ["C", "F"]}, "rain": {"type": "boolean"}},
    "required": ["unit", "rain"],
    "additionalProperties": False,
}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "description": "The weather in a city", "parameters": SCHEMA},
}
JSON_FORMATS: list[dict[str, Any]] = [
    {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA, "strict": True}},
    {"type": "json_object", "value": SCHEMA},
]


@pytest.fixture(params=["", "/v1"])
def hub(live_url: str, request: pytest.FixtureRequest) -> InferenceClient:
    return InferenceClient(base_url=live_url + request.param)


def test_text_generation_with_details(hub: InferenceClient) -> None:
    answer = hub.text_generation(
        "A river is",
        details=True,
        decoder_input_details=True,
        max_new_tokens=5,
        do_sample=True,
        temperature=0.8,
        top_k=50,
        top_p=0.9,
        typical_p=0.9,
        repetition_penalty=1.1,
        frequency_penalty=0.1,
        seed=7,
        top_n_tokens=2,
        return_full_text=False,
    )
    assert answer.details is not None
    assert (answer.details.generated_tokens, answer.details.seed) == (len(answer.details.tokens), 7)
    assert answer.generated_text == "".join(token.text for token in answer.details.tokens if not token.special)
    assert [token.text for token in answer.details.prefill] == ["A", " river", " is"]
    assert answer.details.prefill[1].logprob < 0
    assert answer.details.top_tokens is not None
    assert all(len(top) == 2 for top in answer.details.top_tokens)


def test_best_of(hub: InferenceClient) -> None:
    answer = hub.text_generation("A river is", best_of=2, do_sample=True, details=True, max_new_tokens=3)
    assert answer.details is not None
    assert answer.details.best_of_sequences is not None
    assert len(answer.details.best_of_sequences) == 1


def test_text_generation_streamed_is_the_same_text(hub: InferenceClient) -> None:
    whole = hub.text_generation("A river is", max_new_tokens=6, return_full_text=False)
    assert "".join(hub.text_generation("A river is", max_new_tokens=6, stream=True)) == whole
    items = list(hub.text_generation("A river is", max_new_tokens=6, stream=True, details=True, return_full_text=False))
    assert items[-1].generated_text == whole
    assert items[-1].details is not None
    assert (items[-1].details.finish_reason, items[-1].details.input_length) == ("length", 3)


@pytest.mark.parametrize(
    "grammar", [{"type": "json", "value": SCHEMA}, {"type": "regex", "value": "(yes|no), [0-9]{2}"}]
)
def test_text_generation_with_a_grammar(hub: InferenceClient, grammar: Any) -> None:
    arguments: Any = {"grammar": grammar, "max_new_tokens": 60, "do_sample": True, "return_full_text": False}
    items = hub.text_generation("Rain?", stream=True, details=True, **arguments)
    streamed = "".join(item.token.text for item in items if not item.token.special)
    for text in (hub.text_generation("Rain?", **arguments), streamed):
        if grammar["type"] == "json":
            jsonschema.validate(json.loads(text), SCHEMA)
        else:
            assert text in {f"{word}, {number:02}" for word in ("yes", "no") for number in range(100)}


def test_chat_completion(hub: InferenceClient) -> None:
    answer = hub.chat_completion(
        [{"role": "system", "content": "Be brief."}, USER],
        max_tokens=5,
        temperature=0.5,
        top_p=0.9,
        frequency_penalty=0.1,
        presence_penalty=0.1,
        stop=["zebra"],
        n=1,
        seed=3,
        logprobs=True,
        top_logprobs=2,
    )
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert choice.logprobs is not None
    assert [len(each.top_logprobs) for each in choice.logprobs.content] == [2] * answer.usage.completion_tokens
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_chat_completion_streamed_with_usage(hub: InferenceClient) -> None:
    whole = hub.chat_completion([USER], max_tokens=6, temperature=0).choices[0].message.content
    chunks = list(
        hub.chat_completion(
            [USER], max_tokens=6, temperature=0, stream=True, stream_options={"include_usage": True}, logprobs=True
        )
    )
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == whole
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["length"]


@pytest.mark.parametrize("form", JSON_FORMATS, ids=["json_schema", "json_object"])
def test_chat_completion_in_a_format(hub: InferenceClient, form: Any) -> None:
    answer = hub.chat_completion([USER], response_format=form, max_tokens=60, seed=1)
    jsonschema.validate(json.loads(answer.choices[0].message.content), SCHEMA)
    chunks = hub.chat_completion([USER], response_format=form, max_tokens=60, seed=1, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert json.loads(text) == json.loads(answer.choices[0].message.content)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_chat_completion_with_tools(hub: InferenceClient, choice: Any) -> None:
    answer = hub.chat_completion([USER], tools=[TOOL], tool_choice=choice, max_tokens=200, seed=1)
    if choice != "required":  # where a small model goes on calling
        assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.tool_calls
    call = answer.choices[0].message.tool_calls[0]
    assert call.function.name == "weather"
    jsonschema.validate(json.loads(call.function.arguments), SCHEMA)
    streamed = hub.chat_completion([USER], tools=[TOOL], tool_choice=choice, max_tokens=200, seed=1, stream=True)
    deltas = [chunk.choices[0].delta for chunk in streamed]
    parts = [part for delta in deltas for part in delta.tool_calls or []]
    first = [part.function.arguments or "" for part in parts if part.index == 0]  # type: ignore[attr-defined]
    assert json.loads("".join(first)) == json.loads(call.function.arguments)


def test_chat_completion_goes_on_after_a_tool(hub: InferenceClient) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"unit": "C", "rain": true}'}}
    messages = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "rain, 12 C", "tool_call_id": "c1"},
    ]
    answer = hub.chat_completion(messages, tools=[TOOL], tool_choice="none", max_tokens=4)
    assert answer.choices[0].message.tool_calls is None
    assert answer.usage.completion_tokens > 0


def test_feature_extraction(hub: InferenceClient) -> None:
    single = hub.feature_extraction("A river is wide.")
    assert (single.shape, single.dtype) == ((1, 32), np.float32)
    batch = hub.feature_extraction(["A river is wide.", "A hill."])  # type: ignore[arg-type]
    assert batch.shape == (2, 32)
    np.testing.assert_array_equal(batch[0], single[0])
    np.testing.assert_allclose(np.linalg.norm(batch, axis=1), 1, rtol=1e-5)
    raw = hub.feature_extraction("A river is wide.", normalize=False)
    np.testing.assert_allclose(raw / np.linalg.norm(raw), single, rtol=1e-5, atol=1e-6)
    assert hub.feature_extraction("A river", dimensions=8, encoding_format="float").shape == (1, 8)
    cut = hub.feature_extraction("river " * 500, truncate=True, truncation_direction="right")
    assert cut.shape == (1, 32)
    with pytest.raises(HfHubHTTPError, match="must have less than"):
        hub.feature_extraction("river " * 500, truncate=False)


def test_refusals_are_errors_of_their_own(hub: InferenceClient) -> None:
    with pytest.raises(ValidationError, match=r"`top_p` must be > 0.0 and < 1.0"):
        hub.text_generation("A river is", top_p=2.0)
    with pytest.raises(HfHubHTTPError, match=r"`top_p` must be > 0.0 and < 1.0"):
        hub.chat_completion([USER], top_p=2.0)


async def test_everything_from_asyncio(live_url: str) -> None:
    async with AsyncInferenceClient(base_url=live_url) as hub:
        whole = await hub.text_generation("A river is", max_new_tokens=6, return_full_text=False)
        stream = await hub.text_generation("A river is", max_new_tokens=6, stream=True)
        assert "".join([piece async for piece in stream]) == whole
        details = await hub.text_generation("A river is", max_new_tokens=6, details=True)
        assert details.details is not None
        text = await hub.text_generation(
            "Rain?", grammar={"type": "regex", "value": "yes|no"}, max_new_tokens=9, return_full_text=False
        )
        assert text in ("yes", "no")
        answer = await hub.chat_completion([USER], response_format=JSON_FORMATS[0], max_tokens=60)
        jsonschema.validate(json.loads(answer.choices[0].message.content), SCHEMA)
        answer = await hub.chat_completion([USER], tools=[TOOL], tool_choice="required", max_tokens=200)
        assert answer.choices[0].message.tool_calls
        chunks = await hub.chat_completion([USER], max_tokens=4, stream=True, stream_options={"include_usage": True})
        assert [chunk.usage async for chunk in chunks][-1] is not None
        assert (await hub.feature_extraction("A river")).shape == (1, 32)
        assert (await hub.feature_extraction(["A river", "A hill"])).shape == (2, 32)  # type: ignore[arg-type]


def test_what_the_server_says_of_itself(live_url: str) -> None:
    hub = InferenceClient(model=live_url, provider="hf-inference")
    assert hub.health_check()
    info = hub.get_endpoint_info()
    assert info["embedding"]["size"] == 32

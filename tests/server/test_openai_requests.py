"""What the OpenAI routes accept and refuse, and what of it the engine and the template see."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from asgi_connection import events
from fake_engine import FakeEngine
from serving import client_of
from starlette.applications import Starlette

from engine.server.completion_choices import prompt_pieces
from engine.text.tokenizer import Tokenizer

USER = {"role": "user", "content": "Hi"}


async def prompt_of(
    messages: list[dict[str, Any]], api: httpx.AsyncClient, engine: FakeEngine, tokenizer: Tokenizer
) -> str:
    answer = await api.post("/v1/chat/completions", json={"messages": messages})
    assert answer.status_code == 200, answer.text
    return tokenizer.decode(engine.requests[-1].prompt, skip_special_tokens=False)


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([USER], "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}], "name": "me"}],
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            [{"role": "system", "content": ""}, USER],
            "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            [USER, {"role": "assistant", "content": "The sea"}],
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nThe sea",
        ),
        (
            [{"role": "assistant", "content": None, "tool_calls": [{"id": "0"}]}, {"role": "tool", "content": "7"}],
            '<|im_start|>assistant\n[{"id":"0"}]<|im_end|>\n<|im_start|>tool\n7<|im_end|>\n<|im_start|>assistant\n',
        ),
    ],
)
async def test_messages_become_the_templates_prompt(
    messages: list[dict[str, Any]], prompt: str, api: httpx.AsyncClient, engine: FakeEngine, tokenizer: Tokenizer
) -> None:
    assert await prompt_of(messages, api, engine, tokenizer) == prompt


@pytest.mark.parametrize("ids", [False, True])
async def test_offsets_of_an_echoed_prompt_count_its_characters(
    ids: bool, api: httpx.AsyncClient, tokenizer: Tokenizer
) -> None:
    """A character of several tokens counts once, and no offset lies behind the text."""
    prompt = "The \u6d77 sea\u00e9 is"
    given = tokenizer.encode(prompt) if ids else prompt
    body = {"prompt": given, "echo": True, "logprobs": 0, "max_tokens": 2}
    choice = (await api.post("/v1/completions", json=body)).json()["choices"][0]
    tokens, offsets = choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]
    found = {token: choice["text"][offset : offset + len(token)] for token, offset in zip(tokens, offsets, strict=True)}
    assert {token: text for token, text in found.items() if "\ufffd" not in token} == {
        token: token for token in tokens if "\ufffd" not in token
    }
    assert "\ufffd" in "".join(tokens), "the prompt has a character of several tokens"
    assert offsets == sorted(offsets)
    assert choice["text"][offsets[-1] :] == tokens[-1]


def test_a_token_that_the_tokenizer_added_is_not_in_the_text_of_a_prompt(tokenizer: Tokenizer) -> None:
    added, *_ = tokenizer.encode("<|im_start|>")
    assert added in tokenizer.special_ids
    text = "Hi <|im_start|>Hi"
    pieces = prompt_pieces(tokenizer, [added, *tokenizer.encode(text)], text)
    assert pieces[0] == ""
    assert "<|im_start|>" in pieces
    assert "".join(pieces) == text


CHAT_REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": []}, "validation", "`messages` cannot be empty"),
    ({"messages": [{"role": "user"}]}, "validation", "a message needs `content`, or `tool_calls`"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/"}}]}]},
        "validation",
        "image_url modality is not supported",
    ),
    ({"tools": [{"type": "function"}]}, "validation", "Object missing required field `function`"),
    ({"tools": [{"function": {"name": "f"}}], "tool_choice": "g"}, "tool_error", "Tool with name g not found"),
    ({"response_format": {"type": "xml"}}, "validation", "grammar is not valid: its `type` must be one of"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "validation", "must have a `schema`"),
    ({"top_logprobs": 1}, "validation", "`top_logprobs` needs `logprobs`: true"),
    ({"logprobs": True, "top_logprobs": 6}, "validation", "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ({"max_tokens": 1, "max_completion_tokens": 2}, "validation", "set one of them"),
    ({"n": 0}, "validation", "`n` must be >= 1 and <= 8. Given: 0"),
    ({"n": 9}, "validation", "`n` must be >= 1 and <= 8. Given: 9"),
    ({"temperature": -1}, "validation", "`temperature` must be strictly positive"),
    ({"presence_penalty": 3}, "validation", "`presence_penalty` must be >= -2.0 and <= 2.0"),
]


@pytest.mark.parametrize(("body", "error_type", "text"), CHAT_REFUSED)
async def test_a_chat_that_cannot_be_honoured_is_refused(
    body: dict[str, Any], error_type: str, text: str, api: httpx.AsyncClient, engine: FakeEngine
) -> None:
    answer = await api.post("/v1/chat/completions", json={"messages": [USER]} | body)
    assert answer.status_code == 422
    assert answer.json()["error_type"] == error_type
    assert text in answer.json()["error"]["message"]
    assert not engine.requests


CHAT_ACCEPTED: list[dict[str, Any]] = [
    {"tools": []},
    {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"},
    {"tool_choice": "auto"},
    {"response_format": {"type": "text"}},
    {"response_format": None, "tools": None, "tool_choice": None},
    {"logprobs": False, "top_logprobs": 0},
    {"max_tokens": 3, "max_completion_tokens": 3},
    {"stop": []},
    {"parallel_tool_calls": True, "service_tier": "auto", "reasoning_effort": "low"},
]


@pytest.mark.parametrize("body", CHAT_ACCEPTED)
async def test_a_chat_that_asks_for_nothing_special_is_answered(body: dict[str, Any], api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/chat/completions", json={"messages": [USER]} | body)
    assert answer.status_code == 200, answer.text


async def test_a_chat_without_a_template_is_a_template_error(
    make_app: Callable[..., Starlette], monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer
) -> None:
    app = make_app()
    monkeypatch.setattr(tokenizer, "chat", None)
    async with client_of(app) as api:
        for stream in (False, True):
            answer = await api.post("/v1/chat/completions", json={"messages": [USER], "stream": stream})
            assert answer.status_code == 422
            assert answer.json()["error_type"] == "template_error"
            assert answer.json()["error"]["message"] == "Template error: template not found"
    assert app.state.service.metrics.request_failure.value("template") == 2
    assert app.state.service.metrics.request_count.value() == 2


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("The sea", [(461, 5408)]),
        (["The sea", "The"], [(461, 5408), (461,)]),
        ([461, 5408], [(461, 5408)]),
        ([[461], [5408, 461]], [(461,), (5408, 461)]),
    ],
)
async def test_a_completion_takes_text_or_ids_one_or_several(
    prompt: Any, prompts: list[tuple[int, ...]], api: httpx.AsyncClient, engine: FakeEngine
) -> None:
    answer = await api.post("/v1/completions", json={"prompt": prompt})
    assert answer.status_code == 200, answer.text
    assert [request.prompt for request in engine.requests] == prompts
    assert [choice["index"] for choice in answer.json()["choices"]] == list(range(len(prompts)))


COMPLETIONS_REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": ""}, "validation", "`inputs` cannot be empty"),
    ({"prompt": []}, "validation", "`prompt` must be a string or a non-empty list"),
    ({"prompt": [[]]}, "validation", "`inputs` cannot be empty"),
    ({"prompt": ["a", 1]}, "validation", "`prompt` must be a string or a non-empty list"),
    ({"prompt": [1, [1]]}, "validation", "`prompt` must be a string or a non-empty list"),
    ({"prompt": [8192]}, "validation", "token ids must be < 8192. Given: 8192"),
    ({"prompt": ["a"] * 5}, "batch size exceeded", "exceeds the maximum allowed batch size of 4"),
    ({"best_of": 1, "n": 2}, "validation", "`best_of` must be >= `n` (2). Given: 1"),
    ({"best_of": 3}, "validation", "`best_of` must be > 0 and <= 2. Given: 3"),
    ({"logprobs": 6}, "validation", "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ({"max_tokens": 0}, "validation", "`max_new_tokens` must be strictly positive"),
]


@pytest.mark.parametrize(("body", "error_type", "text"), COMPLETIONS_REFUSED)
async def test_a_completion_that_cannot_be_honoured_is_refused(
    body: dict[str, Any], error_type: str, text: str, api: httpx.AsyncClient, engine: FakeEngine
) -> None:
    answer = await api.post("/v1/completions", json={"prompt": "a"} | body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error_type"] == error_type
    assert text in answer.json()["error"]["message"]
    assert not engine.requests


async def test_streamed_choices_keep_their_places_and_their_usage(api: httpx.AsyncClient) -> None:
    body = {"prompt": ["The sea", "The"], "n": 2, "stream": True}
    received = events((await api.post("/v1/completions", json=body)).content)
    assert received.pop() == "[DONE]"
    texts = dict.fromkeys(range(4), "")
    ends = {}
    for chunk in received:
        [choice] = chunk["choices"]
        texts[choice["index"]] += choice["text"]
        assert (chunk["usage"] is None) == (choice["finish_reason"] is None)
        if chunk["usage"]:
            ends[choice["index"]] = chunk["usage"]["prompt_tokens"]
    assert texts == dict.fromkeys(range(4), " is deep.")
    assert ends == {0: 2, 1: 2, 2: 1, 3: 1}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("include", [True, False])
async def test_usage_comes_once_at_the_end_if_asked_for(path: str, include: bool, api: httpx.AsyncClient) -> None:
    body = {"messages": [USER], "prompt": "Hi", "stream": True, "stream_options": {"include_usage": include}}
    received = events((await api.post(path, json=body)).content)
    assert received.pop() == "[DONE]"
    used = [chunk for chunk in received if chunk["usage"] is not None]
    assert len(used) == include
    if include:
        assert used == [received[-1]]
        assert used[0]["choices"] == []


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_usage_on_the_way_counts_every_token_and_timings_come_with_the_last(
    path: str, api: httpx.AsyncClient
) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {
        "messages": [USER],
        "prompt": "Hi",
        "stream": True,
        "echo": True,
        "stream_options": options,
        "timings": True,
    }
    *chunks, last, done = events((await api.post(path, json=body)).content)
    assert done == "[DONE]"
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    echoed = [0] if path == "/v1/completions" else []
    assert counts == [*echoed, *range(1, len(chunks) + 1 - len(echoed))]
    assert last["usage"] == chunks[-1]["usage"]
    assert set(last["timings"]) == {"queue", "prefill", "decode", "cached_tokens"}
    assert all("timings" not in chunk for chunk in chunks)


async def test_several_tokens_of_one_step_are_several_chunks(api: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = ((290, 4054), (17, 2))
    body = {"messages": [USER], "stream": True, "logprobs": True}
    received = events((await api.post("/v1/chat/completions", json=body)).content)[:-1]
    choices = [chunk["choices"][0] for chunk in received]
    assert [choice["delta"]["content"] for choice in choices] == [" is", " deep", ".", ""]
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, "stop"]
    assert all(len(choice["logprobs"]["content"]) == 1 for choice in choices)
    native = events((await api.post("/generate_stream", json={"inputs": "The sea"})).content)
    assert [event["index"] for event in native] == [1, 2, 3, 4]
    assert native[-1]["generated_text"] == " is deep."


@pytest.mark.parametrize(
    ("stop", "text", "tokens"), [("eep", " is d", 2), (" deep.", " is", 3), ("nothing", " is deep.", 4)]
)
async def test_a_stop_string_is_cut_off_and_ends_the_work(
    stop: str, text: str, tokens: int, api: httpx.AsyncClient, engine: FakeEngine
) -> None:
    body = {"messages": [USER], "stop": [stop]}
    answer = (await api.post("/v1/chat/completions", json=body)).json()
    assert answer["choices"][0]["message"]["content"] == text
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == tokens
    streamed = events((await api.post("/v1/chat/completions", json=body | {"stream": True})).content)[:-1]
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in streamed) == text
    assert len(engine.cancelled) == (0 if tokens == 4 else 2)


async def test_a_stop_string_at_the_last_token_allowed(api: httpx.AsyncClient) -> None:
    chat = {"messages": [USER], "stop": "deep", "max_tokens": 2}
    choice = (await api.post("/v1/chat/completions", json=chat)).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (" is ", "stop")
    native = {"inputs": "The sea", "parameters": {"stop": ["deep"], "max_new_tokens": 2, "details": True}}
    answer = (await api.post("/generate", json=native)).json()
    assert (answer["generated_text"], answer["details"]["finish_reason"]) == (" is deep", "length")


async def test_half_a_character_at_the_end_is_not_lost(api: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = ((224,), (162,), (228,))
    for body in ({"max_new_tokens": 2}, {"max_new_tokens": 3, "stop": ["x"]}):
        received = events((await api.post("/generate_stream", json={"inputs": "a", "parameters": body})).content)
        text = "".join(event["token"]["text"] for event in received)
        assert text == received[-1]["generated_text"]
        assert text.endswith("\ufffd")

"""Requests: complete HTTP, in the words of each API, asking only for what a server offers."""

import json
from dataclasses import replace

import pytest

from bench.api.encode import RequestOptions, as_text, encode
from bench.api.target import Target
from bench.client.address import Address
from bench.types import Api, Item, UsageError

CONVERSATION = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
]


def target(api=Api.COMPLETIONS, kind="openai", **fields):
    return Target(url="http://h:80", address=Address("http", "h", 8000), api=api, model="m", kind=kind, **fields)


def sent(to, item, options=None):
    request = encode(to, item, options or RequestOptions())
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert int(headers["Content-Length"]) == len(body)
    return first, headers, json.loads(body)


def test_the_head_names_host_path_and_key():
    to = target(base_path="/deep", headers={"Authorization": "Bearer k"})
    first, headers, _ = sent(to, Item(index=0, prompt="é"), RequestOptions(headers={"X-Run": "1"}))
    assert first == "POST /deep/v1/completions HTTP/1.1"
    assert headers["Host"] == "h:8000"
    assert headers["Authorization"] == "Bearer k"
    assert headers["X-Run"] == "1"
    assert headers["Accept"] == "text/event-stream"
    assert headers["Connection"] == "keep-alive"


def test_tgi_is_asked_greedily_and_with_details():
    _, _, body = sent(target(Api.TGI, "tgi"), Item(index=0, prompt="a", output_tokens=5), RequestOptions(seed=3))
    assert body == {
        "inputs": "a",
        "parameters": {"details": True, "do_sample": False, "max_new_tokens": 5, "seed": 3},
    }
    _, _, body = sent(target(Api.TGI, "tgi"), Item(index=0, prompt="a"), RequestOptions(temperature=0.5))
    assert body["parameters"] == {"details": True, "do_sample": True, "temperature": 0.5}


def test_openai_is_asked_for_usage_and_nothing_it_would_refuse():
    _, _, body = sent(target(), Item(index=0, prompt="a", output_tokens=5))
    assert body == {
        "prompt": "a",
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.0,
        "max_tokens": 5,
    }


@pytest.mark.parametrize("kind", ["vllm", "sglang", "ours", "mock"])
def test_usage_in_every_event_where_it_is_offered(kind):
    for api in (Api.COMPLETIONS, Api.CHAT):
        _, _, body = sent(target(api, kind), Item(index=0, prompt="a"))
        assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


def test_llama_cpp_counts_in_its_timings():
    _, _, body = sent(target(kind="llama.cpp"), Item(index=0, prompt="a"))
    assert body["timings_per_token"] is True
    assert body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("api", list(Api))
@pytest.mark.parametrize(
    ("offered", "asked", "length", "sends"),
    [
        (True, None, 5, True),
        (True, None, None, False),  # without a length the end token is the only end
        (False, None, 5, False),
        (False, True, 5, True),
        (True, False, 5, False),
    ],
)
def test_the_end_token_is_ignored_where_that_is_offered(api, offered, asked, length, sends):
    to = target(api, "vllm", can_ignore_eos=offered)
    _, _, body = sent(to, Item(index=0, prompt="a", output_tokens=length), RequestOptions(ignore_eos=asked))
    assert body.get("parameters", body).get("ignore_eos", False) is sends


def test_chat_takes_text_and_conversations():
    _, _, body = sent(target(Api.CHAT), Item(index=0, prompt="a"))
    assert body["messages"] == [{"role": "user", "content": "a"}]
    assert sent(target(Api.CHAT), Item(index=0, prompt=CONVERSATION))[2]["messages"] == CONVERSATION


@pytest.mark.parametrize(("api", "field"), [(Api.TGI, "inputs"), (Api.COMPLETIONS, "prompt")])
def test_an_api_without_chat_gets_a_conversation_as_text(api, field):
    _, _, body = sent(target(api), Item(index=0, prompt=CONVERSATION))
    assert body[field] == "user: a\nassistant: b\nuser: c\nassistant:" == as_text(CONVERSATION)


def test_token_ids_go_where_they_are_understood():
    ids = Item(index=0, prompt=[1, 2, 3])
    assert sent(target(), ids)[2]["prompt"] == [1, 2, 3]
    for api in (Api.TGI, Api.CHAT):
        with pytest.raises(UsageError, match="token ids"):
            encode(target(api), ids, RequestOptions())


def test_extra_fields_win():
    options = RequestOptions(extra={"top_p": 0.9, "temperature": 1.0}, min_tokens=2)
    _, _, body = sent(target(), Item(index=0, prompt="a"), options)
    assert (body["top_p"], body["temperature"], body["min_tokens"]) == (0.9, 1.0, 2)


@pytest.mark.parametrize("value", ["a\r\nb", "a\nb", "a\0"])
def test_a_header_stays_one_line(value):
    with pytest.raises(UsageError, match="one line"):
        encode(replace(target(), headers={"Authorization": value}), Item(index=0, prompt="a"), RequestOptions())

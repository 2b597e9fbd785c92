"""What the mock sends for each wish, and that its truth says the same."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest

from bench.mock import Behaviour, Fault, MockServer, Truth, tokens

CHAT, COMPLETIONS, TGI = "/v1/chat/completions", "/v1/completions", "/generate_stream"
FAST = {"ttft_ms": 0, "itl_ms": 0}


@pytest.fixture(scope="module")
def mock() -> Iterator[MockServer]:
    with MockServer.start(Behaviour(**FAST)) as server:
        yield server


def body(path: str, count: int, **more: Any) -> dict[str, Any]:
    if path == TGI:
        return {"inputs": "hello world", "parameters": {"max_new_tokens": count, "details": True}}
    prompt = {"messages": [{"role": "user", "content": "hello world"}]} if path == CHAT else {"prompt": "hello world"}
    return {"model": "mock-model", "max_tokens": count, "stream": True, **prompt, **more}


def events(mock: MockServer, path: str, count: int = 5, **more: Any) -> list[Any]:
    """The data of every event in order, `[DONE]` as a text and comments as None."""
    response = httpx.post(mock.url + path, json=body(path, count, **more))
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    parts = response.text.split("\n\n")
    assert parts.pop() == ""
    found = []
    for part in parts:
        data = part.removeprefix("data: ")
        found.append(None if part.startswith(":") else data if data == "[DONE]" else json.loads(data))
    return found


def text(listed: list[Any]) -> str:
    parts = []
    for event in listed:
        for choice in event["choices"] if isinstance(event, dict) else []:
            parts.append(choice["delta"].get("content") or "" if "delta" in choice else choice["text"])
    return "".join(parts)


def test_the_three_apis_stream_as_many_tokens_as_asked(mock: MockServer) -> None:
    mock.behave(Behaviour(**FAST))
    expected = "".join(tokens.output_piece(i) for i in range(5))
    for path in (CHAT, COMPLETIONS):
        listed = events(mock, path)
        assert text(listed) == expected
        assert listed[-1] == "[DONE]"
        assert [event["choices"][0]["finish_reason"] for event in listed[:-1]] == [None] * 4 + ["length"]
    listed = events(mock, TGI)
    assert [event["token"]["text"] for event in listed] == tokens.pieces(expected)
    assert listed[-1]["generated_text"] == expected
    assert listed[-1]["details"] == {
        "finish_reason": "length",
        "generated_tokens": 5,
        "seed": None,
        "input_length": 2,
    }
    truth = mock.truth()
    assert [stream.api for stream in truth.streams] == ["chat", "completions", "tgi"]
    for stream in truth.streams:
        assert stream.tokens == [1] * 5
        assert stream.sent_ns == sorted(stream.sent_ns)
        assert stream.received_ns <= stream.sent_ns[0] <= stream.ended_ns


def test_output_text_is_one_token_for_each_piece(mock: MockServer) -> None:
    joined = "".join(tokens.output_piece(i) for i in range(3 * len(tokens.WORDS)))
    assert tokens.count(joined) == 3 * len(tokens.WORDS)


@pytest.mark.parametrize("cycle", [(k,) for k in range(1, 9)] + [tuple(range(1, 9))])
def test_tokens_per_event_cycle_and_add_up(mock: MockServer, cycle: tuple[int, ...]) -> None:
    mock.behave(Behaviour(**FAST, tokens_per_event=cycle))
    listed = events(mock, COMPLETIONS, 50)
    counts = [tokens.count(event["choices"][0]["text"]) for event in listed[:-1]]
    assert sum(counts) == 50
    assert counts[:-1] == [cycle[i % len(cycle)] for i in range(len(counts) - 1)]
    assert mock.truth().streams[0].tokens == counts


def test_usage_comes_where_it_is_wished(mock: MockServer) -> None:
    usage = {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7}
    mock.behave(Behaviour(**FAST))
    assert not any("usage" in event for event in events(mock, COMPLETIONS)[:-1])
    listed = events(mock, COMPLETIONS, stream_options={"include_usage": True})
    assert listed[-2]["usage"] == usage
    assert listed[-2]["choices"] == []
    listed = events(mock, COMPLETIONS, stream_options={"include_usage": True, "continuous_usage_stats": True})
    assert [event["usage"]["completion_tokens"] for event in listed[:-1]] == [1, 2, 3, 4, 5, 5]
    mock.behave(Behaviour(**FAST, usage="last_choice", cached_tokens=1))
    listed = events(mock, COMPLETIONS)
    assert listed[-2]["usage"] == {**usage, "prompt_tokens_details": {"cached_tokens": 1}}
    assert listed[-2]["choices"][0]["text"]


def test_kinds_of_chat_deltas(mock: MockServer) -> None:
    mock.behave(Behaviour(**FAST, role="early", reasoning=2, tools=2, comments=2, finish="own", token_ids=True))
    listed = events(mock, CHAT, 6)
    assert listed.count(None) == 3
    deltas = [event["choices"][0]["delta"] for event in listed if event not in (None, "[DONE]")]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert [next(iter(delta), None) for delta in deltas[1:]] == [
        *["reasoning_content"] * 2,
        *["content"] * 2,
        *["tool_calls"] * 2,
        None,
    ]
    assert mock.truth().streams[0].kinds == ["reasoning"] * 2 + ["content"] * 2 + ["tool"] * 2
    assert listed[2]["choices"][0]["token_ids"] == [tokens.piece_id(" the")]


@pytest.mark.parametrize("shape", [{"coalesce": 4}, {"fragment": 7}, {"framing": "close"}, {"connection": "close"}])
def test_the_same_answer_in_other_pieces(mock: MockServer, shape: dict[str, Any]) -> None:
    mock.behave(Behaviour(**FAST))
    plain = events(mock, CHAT, 9)
    mock.behave(Behaviour(**FAST, **shape))
    assert events(mock, CHAT, 9) == plain
    stream = mock.truth().streams[0]
    assert stream.tokens == [1] * 9
    assert len(stream.sent_ns) == 9
    if "coalesce" in shape:
        assert len(set(stream.sent_ns)) == 3


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, TGI])
def test_faults(mock: MockServer, path: str) -> None:
    mock.behave(Behaviour(**FAST, faults=(Fault("status", 503),)))
    refused = httpx.post(mock.url + path, json=body(path, 5))
    assert (refused.status_code, mock.truth().streams[0].status) == (503, 503)

    mock.behave(Behaviour(**FAST, faults=(Fault("error", 2),)))
    listed = events(mock, path)
    assert len(listed) == 3
    assert "error" in listed[-1]
    assert mock.truth().streams[0].tokens == [1, 1]

    mock.behave(Behaviour(**FAST, faults=(Fault("end", 2),)))
    assert len(events(mock, path)) == 2

    mock.behave(Behaviour(**FAST, faults=(Fault("cut", 2),)))
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(mock.url + path, json=body(path, 5))
    assert mock.truth().streams[0].tokens == [1, 1]

    mock.behave(Behaviour(**FAST, faults=(Fault("empty"),)))
    if path == TGI:
        assert events(mock, path) == []
    else:
        assert events(mock, path)[-1] == "[DONE]"
        assert not text(events(mock, path))

    mock.behave(Behaviour(**FAST, faults=(Fault("json"),)))
    whole = httpx.post(mock.url + path, json=body(path, 5))
    assert whole.headers["content-type"] == "application/json"
    assert whole.json()


def test_a_hanging_answer_ends_when_the_client_leaves(mock: MockServer) -> None:
    mock.behave(Behaviour(**FAST, slots=1, faults=(Fault("hang", 2, 0.5),), seed=2))
    drawn = []
    for _ in range(6):
        with httpx.stream("POST", mock.url + TGI, json=body(TGI, 5)) as response:
            lines = response.iter_lines()
            drawn.append([next(lines) for _ in range(3)])
    streams = mock.truth().streams
    assert len(streams) == 6
    assert {stream.fault for stream in streams} == {"hang", None}
    assert all(stream.left for stream in streams if stream.fault == "hang")


def test_rates_of_faults_add_up(mock: MockServer) -> None:
    mock.behave(Behaviour(**FAST, faults=(Fault("status", 500, 0.3), Fault("empty", 0, 0.3))))
    with httpx.Client() as client:
        for _ in range(100):
            client.post(mock.url + COMPLETIONS, json=body(COMPLETIONS, 1))
    faults = [stream.fault for stream in mock.truth().streams]
    assert 15 <= faults.count("status") <= 45
    assert 15 <= faults.count("empty") <= 45
    assert 20 <= faults.count(None) <= 60


def test_without_stream_the_answer_is_one_object(mock: MockServer) -> None:
    mock.behave(Behaviour(**FAST))
    for path, wanted in (
        (COMPLETIONS, {"prompt": [1, 2, 3]}),
        (CHAT, {"messages": [{"role": "user", "content": "a"}]}),
    ):
        answer = httpx.post(mock.url + path, json={"max_tokens": 4, **wanted}).json()
        assert answer["usage"]["completion_tokens"] == 4
    assert httpx.post(mock.url + "/generate", json={"inputs": "a"}).json() == {
        "generated_text": "".join(tokens.output_piece(i) for i in range(16))
    }


def test_end_of_sequence_unless_ignored(mock: MockServer) -> None:
    mock.behave(Behaviour(**FAST, eos_after=3))
    assert events(mock, COMPLETIONS, 9)[-2]["choices"][0]["finish_reason"] == "stop"
    assert mock.truth().streams[0].tokens == [1] * 3
    assert events(mock, COMPLETIONS, 9, ignore_eos=True)[-2]["choices"][0]["finish_reason"] == "length"
    assert mock.truth().streams[1].tokens == [1] * 9


def test_the_truth_is_also_json_for_people(mock: MockServer) -> None:
    mock.behave(Behaviour(**FAST))
    events(mock, CHAT)
    shown = httpx.get(mock.url + "/truth")
    assert msgspec.json.decode(shown.content, type=Truth).streams == mock.truth().streams

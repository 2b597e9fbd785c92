"""Conversations: their turns, and the answers that are put into them."""

import json

import pytest
from test_workload_items import ByWord

from bench.api.corpus import Case, Expected
from bench.api.encode import RequestOptions
from bench.types import Api, PlannedRequest
from bench.workload.items import Workload, build
from bench.workload.sessions import conversation, filler, with_answers


def test_made_up_conversations():
    items = build(Workload(in_tokens=6, out_tokens=4, turns=3, seed=1), 8, ByWord())
    assert [(item.session, item.turn) for item in items] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
        (1, 1),
        (1, 2),
        (2, 0),
        (2, 1),
    ]
    assert [item.input_tokens for item in items[:3]] == [6, 6 + 4 + 6, 6 + 4 + 6 + 4 + 6]
    assert [len(item.prompt) for item in items[:3]] == [1, 3, 5]
    assert items[2].prompt[:3] == items[1].prompt
    assert all(item.input_estimated for item in items)


def test_answers_go_where_they_belong():
    messages = conversation(["a", "b", "c"])[2]
    filled = with_answers(messages, ["x", "y"])
    assert [message["content"] for message in filled] == ["a", "x", "b", "y", "c"]
    assert [message["content"] for message in with_answers(messages, ["x"])] == ["a", "x", "b", "", "c"]
    assert [message["content"] for message in messages] == ["a", "", "b", "", "c"]


@pytest.mark.parametrize("planned", [True, False], ids=["planned messages", "the item's"])
def test_a_later_turn_carries_the_earlier_answers(planned):
    items = build(Workload(in_tokens=4, turns=2, seed=1), 2, ByWord())
    body = ['data: {"choices":[{"delta":{"content":"the answer"}}]}\n\n', "data: [DONE]\n\n"]
    case = Case(name="a", api=Api.CHAT, body=body, expected=Expected())
    fill = filler(case.target, RequestOptions(), items)
    request = PlannedRequest(index=1, payload=b"", session=0, turn=1, messages=items[1].prompt if planned else None)
    sent = json.loads(fill(request, [case.stream()]).partition(b"\r\n\r\n")[2])
    assert [message["content"] for message in sent["messages"]] == [
        items[0].prompt[0]["content"],
        "the answer",
        items[1].prompt[2]["content"],
    ]

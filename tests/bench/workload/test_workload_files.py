"""Prompts from files: read as they are, refused with the line that is wrong."""

import json
import pickle

import pytest
from test_workload_items import ByWord

from bench.types import UsageError
from bench.workload.items import Workload, build

SHAREGPT = [
    {"id": "1", "conversations": [{"from": "human", "value": "one two"}, {"from": "gpt", "value": "a b c"}]},
    {
        "id": "2",
        "conversations": [
            {"from": "gpt", "value": "hello"},
            {"from": "human", "value": "three"},
            {"from": "gpt", "value": "d e"},
            {"from": "human", "value": "four five"},
            {"from": "gpt", "value": "f"},
            {"from": "human", "value": "six"},
        ],
    },
    {"id": "3", "conversations": []},
]


def written(path, content):
    path.write_text(content if isinstance(content, str) else "\n".join(json.dumps(line) for line in content))
    return path


def test_lines_with_prompts_texts_and_messages(tmp_path):
    messages = [{"role": "user", "content": "five six"}]
    lines = [{"prompt": "one two", "output_tokens": 7}, {"text": "three"}, {"messages": messages, "max_tokens": 3}]
    data = written(tmp_path / "a.jsonl", lines)
    items = build(Workload(data=data, out_tokens=None, seed=1), 3, ByWord())
    got = sorted((str(item.prompt), item.input_tokens, item.output_tokens, item.input_estimated) for item in items)
    assert got == sorted([("one two", 3, 7, False), ("three", 2, None, False), (str(messages), 3, 3, True)])


def test_lengths_of_the_workload_win(tmp_path):
    data = written(tmp_path / "a.jsonl", [{"prompt": "one", "output_tokens": 7}])
    assert [item.output_tokens for item in build(Workload(data=data, out_tokens=5), 1, ByWord())] == [5]


def test_a_file_that_is_too_short_begins_anew(tmp_path):
    data = written(tmp_path / "a.jsonl", [{"prompt": "one"}, {"prompt": "two"}])
    items = build(Workload(data=data, seed=1), 5, ByWord())
    assert [item.index for item in items] == [0, 1, 2, 3, 4]
    assert {item.prompt for item in items} == {"one", "two"}


def test_sharegpt_asks_for_as_much_as_was_answered(tmp_path):
    data = written(tmp_path / "s.json", json.dumps(SHAREGPT))
    items = build(Workload(data=data, out_tokens=None, seed=1), 2, ByWord())
    assert sorted((item.prompt, item.output_tokens) for item in items) == [("one two", 4), ("three", 3)]


def test_sharegpt_as_conversations(tmp_path):
    data = written(tmp_path / "s.json", json.dumps(SHAREGPT))
    items = build(Workload(data=data, out_tokens=None, turns=2, seed=1), 3, ByWord())
    assert [(item.session, item.turn, item.output_tokens) for item in items] == [(0, 0, 3), (0, 1, 2), (1, 0, 3)]
    assert items[1].prompt == [
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "four five"},
    ]
    # The first message, its answer, and the second message.
    assert items[1].input_tokens == 2 + 3 + 3


def test_what_does_not_fit_is_left_out(tmp_path):
    data = written(tmp_path / "a.jsonl", [{"prompt": "one two three"}, {"prompt": "four"}])
    items = build(Workload(data=data, out_tokens=2, seed=1), 3, ByWord(), max_context=5)
    assert {item.prompt for item in items} == {"four"}
    with pytest.raises(UsageError, match=r"no prompt of .* fits the server's context of 2 tokens"):
        build(Workload(data=data, out_tokens=2), 1, ByWord(), max_context=2)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"prompt": "a"}\n{"prompt": ', "line 2: "),
        ('{"prompt": "a"}\n\n5', "line 3: a line must be a JSON object"),
        ('{"question": "a"}', "line 1: an object needs `prompt`"),
        ('{"prompt": ""}', "line 1: an object needs `prompt`"),
        ('{"prompt": "a", "output_tokens": 0}', "line 1: `output_tokens` must be"),
        ('{"messages": [{"role": "user"}]}', "line 1: `messages` must be"),
        ('{"messages": 5}', "line 1: "),
        ("[1]", "entry 0: a line must be a JSON object"),
        ("[{", "is not JSON"),
        ("", "has no prompt"),
        ('[{"conversations": []}]', "has no prompt"),
    ],
)
def test_a_file_that_is_wrong(tmp_path, content, words):
    with pytest.raises(UsageError, match=words):
        build(Workload(data=written(tmp_path / "a.jsonl", content)), 1, ByWord())


def test_only_json_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(pickle.dumps([{"prompt": "a"}]))
    with pytest.raises(UsageError, match="line 1: "):
        build(Workload(data=path), 1, ByWord())
    with pytest.raises(UsageError, match=r"cannot read .*missing"):
        build(Workload(data=tmp_path / "missing"), 1, ByWord())


def test_conversations_of_one_turn_are_none(tmp_path):
    data = written(tmp_path / "a.jsonl", [{"prompt": "one"}])
    with pytest.raises(UsageError, match="no conversation of two turns"):
        build(Workload(data=data, turns=2), 2, ByWord())

"""Calls read out of answers: every format round-trips, however the text is cut, and nothing raises."""

import json
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import pytest
from chat_corpus import TEMPLATES
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.text.tools import FORMATS, CallArguments, CallStarted, Text, ToolEvent, detect_format
from engine.text.tools.json_scan import JSONScanner, NotJSON

TOOLS = ("weather", "send_mail")
LAW = settings(derandomize=True, deadline=None, database=None, max_examples=150)
Call = tuple[str, dict[str, Any]]


def read(name: str, portions: Sequence[str], **options: Any) -> list[ToolEvent]:
    """The events of an answer, neighbours of the same kind joined."""
    ids = count()
    parser = FORMATS[name](TOOLS, lambda: f"id{next(ids)}", **options)
    events = [event for portion in portions for event in parser.push(portion)] + parser.finish()
    joined: list[ToolEvent] = []
    for event in events:
        match joined[-1:], event:
            case [Text(before)], Text(text):
                joined[-1] = Text(before + text)
            case [CallArguments(i, before)], CallArguments(j, text) if i == j:
                joined[-1] = CallArguments(i, before + text)
            case _:
                joined.append(event)
    return joined


def calls_in(events: Sequence[ToolEvent]) -> list[Call]:
    names = {event.index: event.name for event in events if isinstance(event, CallStarted)}
    return [(names[event.index], json.loads(event.text)) for event in events if isinstance(event, CallArguments)]


def text_in(events: Sequence[ToolEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def hermes(calls: Sequence[Call]) -> str:
    return "\n".join(
        f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments)}}}\n</tool_call>'
        for name, arguments in calls
    )


def llama3(calls: Sequence[Call]) -> str:
    return "; ".join(json.dumps({"name": name, "parameters": arguments}) for name, arguments in calls)


def mistral_list(calls: Sequence[Call]) -> str:
    listed = [{"name": name, "arguments": arguments, "id": "123456789"} for name, arguments in calls]
    return f"[TOOL_CALLS] {json.dumps(listed)}"


def mistral_named(calls: Sequence[Call]) -> str:
    return "".join(f"[TOOL_CALLS]{name}[ARGS]{json.dumps(arguments)}" for name, arguments in calls)


def mistral_with_ids(calls: Sequence[Call]) -> str:
    return "".join(f"[TOOL_CALLS]{name}[CALL_ID]aB3[ARGS]{json.dumps(arguments)}" for name, arguments in calls)


def generic(calls: Sequence[Call]) -> str:
    return json.dumps([{"arguments": arguments, "name": name} for name, arguments in calls], indent=1)


def fenced(calls: Sequence[Call]) -> str:
    return f"```json\n{generic(calls)}\n```\n"


def granite(calls: Sequence[Call]) -> str:
    return f"<|tool_call|>{generic(calls)}<|/tool_call|>"


def tgi(calls: Sequence[Call]) -> str:
    return "\n".join(json.dumps({"function": {"_name": name, **arguments}}) for name, arguments in calls)


def openai(calls: Sequence[Call]) -> str:
    return ",".join(
        json.dumps({"id": "x", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}})
        for name, arguments in calls
    )


WRITERS: list[tuple[str, Callable[[Sequence[Call]], str]]] = [
    ("hermes", hermes),
    ("llama3", llama3),
    ("llama3", lambda calls: "<|python_tag|>" + llama3(calls)),
    ("mistral", mistral_list),
    ("mistral", mistral_named),
    ("mistral", mistral_with_ids),
    ("json", generic),
    ("json", fenced),
    ("json", granite),
    ("json", tgi),
    ("json", openai),
]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
keys = st.text().filter(lambda key: key != "_name")
call_lists = st.lists(
    st.tuples(st.sampled_from(TOOLS), st.dictionaries(keys, values, max_size=3)), min_size=1, max_size=3
)


def cut(text: str, draw: st.DrawFn) -> list[str]:
    """The text in portions of any size."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[start:stop] for start, stop in zip([0, *places], [*places, len(text)], strict=True)]


@st.composite
def cuts(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> tuple[str, list[str]]:
    text = draw(texts)
    return text, cut(text, draw)


@pytest.mark.parametrize(("name", "write"), WRITERS)
@LAW
@given(data=st.data())
def test_every_format_round_trips_however_it_is_cut(
    name: str, write: Callable[[Sequence[Call]], str], data: st.DataObject
) -> None:
    calls = data.draw(call_lists)
    text, portions = data.draw(cuts(st.just(write(calls))))
    for eager in (True, False):
        whole = read(name, [text], eager=eager)
        assert calls_in(whole) == calls, text
        assert text_in(whole) == ""
        assert [event.id for event in whole if isinstance(event, CallStarted)] == [f"id{i}" for i in range(len(calls))]
        assert read(name, portions, eager=eager) == whole
        assert read(name, list(text), eager=eager) == whole


FRAGMENTS = r"""
<tool_call> </tool_call> <tool_ [TOOL_CALLS] [ARGS] [CALL_ID] [TOOL_ <|python_tag|> <|tool_call|> <|/tool_call|>
{"name": "weather" "arguments": "parameters": "function": "_name": "send_mail" {"name":"weather","arguments":{}
{"name":"weather","parameters":{"a":1}} {"function":{"_name":"weather", {} {"city": { } [ ] : , ; " \ \u00
"id": 12 -1. 1e5 null true nul ``` ```json weather é "x\ud800" "{}" "{\"a\":1}" hello
"""
noise = st.lists(
    st.sampled_from([*FRAGMENTS.split(), " ", "\n", "\x00", "\U0001f49c"]) | st.text(max_size=3), max_size=14
).map("".join)


@pytest.mark.parametrize("name", FORMATS)
@LAW
@given(given_text=cuts(noise))
def test_noise_never_raises_and_reads_the_same_however_it_is_cut(name: str, given_text: tuple[str, list[str]]) -> None:
    text, portions = given_text
    for eager in (True, False):
        whole = read(name, [text], eager=eager)
        assert read(name, portions, eager=eager) == whole
        assert read(name, list(text), eager=eager) == whole
        started = [event for event in whole if isinstance(event, CallStarted)]
        assert all(event.name in TOOLS for event in started)
        assert [event.index for event in started] == list(range(len(started)))
        for event in whole:
            if isinstance(event, CallArguments) and not eager:
                assert isinstance(json.loads(event.text), dict)
        if not started:
            assert text_in(whole) == text


@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_text_before_calls_stays_text(name: str, write: Callable[[Sequence[Call]], str]) -> None:
    calls: list[Call] = [("weather", {"city": "Zürich"}), ("send_mail", {})]
    text = f"I will ask.\n{write(calls)}"
    found = read(name, [text])
    if FORMATS[name].bare and not any(marker in text for marker in FORMATS[name].markers):
        assert found == [Text(text)]  # without a marker a call is the whole answer
    else:
        assert found[0] == Text("I will ask.\n")
        assert calls_in(found) == calls


@pytest.mark.parametrize(
    ("name", "text", "events"),
    [
        ("hermes", "  \n", [Text("  \n")]),
        ("hermes", "a <b> c", [Text("a <b> c")]),
        ("hermes", '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>', None),
        ("hermes", '<tool_call>{"name": "weather", "arguments": {}, "arguments": {}}', None),
        ("hermes", '<tool_call>{"name": "weather", "arguments": [1]}</tool_call>', None),
        ("hermes", '<tool_call>{"arguments": {}}</tool_call>', None),
        ("hermes", "<tool_call>print('x')</tool_call>", None),
        ("hermes", "\n <tool_call>\n<tool_call> no\n", None),
        ("hermes", '<tool_call>{"name": "weather", "arguments": {"city": "Ber', None),
        ("llama3", '{"answer": 42}', None),
        ("llama3", '<|python_tag|>brave_search.call(query="x")', None),
        ("llama3", '{"name": "weather", "parameters": {"a": 01}}', None),
        ("mistral", '[{"name": "weather", "arguments": {}}]', None),
        ("mistral", "[TOOL_CALLS]unknown[ARGS]{}", None),
        ("mistral", "[TOOL_CALLS][]", None),
        ("json", "[1, 2]", None),
        ("json", "```python\nx\n```", None),
        ("json", '{"function": {"city": 1, "_name": "weather"}}', None),
    ],
)
def test_what_is_no_call_is_text(name: str, text: str, events: list[ToolEvent] | None) -> None:
    assert read(name, [text], eager=False) == (events or [Text(text)])


def test_a_call_is_given_out_while_it_is_written() -> None:
    parser = FORMATS["hermes"](TOOLS, lambda: "id")
    assert parser.push("Well") == [Text("Well")]
    assert parser.push('<tool_call>\n{"name": "weather", "arguments": ') == []
    assert parser.push("{") == [CallStarted(0, "id", "weather"), CallArguments(0, "{")]
    assert parser.push('"city": "Ber') == [CallArguments(0, '"city": "Ber')]
    assert parser.push('lin"}}\n</tool_call>') == [CallArguments(0, 'lin"}')]
    assert parser.finish() == []


def test_a_call_that_breaks_keeps_what_was_given_out_of_it() -> None:
    text = '<tool_call>{"name": "weather", "arguments": {"a": 1 oops}}</tool_call>'
    assert read("hermes", [text]) == [
        CallStarted(0, "id0", "weather"),
        CallArguments(0, '{"a": 1 '),
        Text("oops}}</tool_call>"),
    ]
    assert read("hermes", [text], eager=False) == [Text(text)]
    both = f"{text}\n{hermes([('send_mail', {})])}"
    assert calls_in(read("hermes", [both], eager=False)) == [("send_mail", {})]


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ('"arguments": {"text": "two\nlines\t"}', {"text": "two\nlines\t"}),
        ('"arguments": "{\\"a\\": 1}"', {"a": 1}),
        ('"arguments": ""', None),
        ('"arguments": null', {}),
        ('"type": "function", "id": 7', {}),
    ],
)
def test_arguments_that_models_write_in_their_own_ways(written: str, arguments: dict[str, Any] | None) -> None:
    found = read("hermes", [f'<tool_call>{{"name": "weather", {written}}}</tool_call>'])
    assert calls_in(found) == ([] if arguments is None else [("weather", arguments)])


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_a_limit_drops_the_calls_beyond_it(limit: int) -> None:
    calls: list[Call] = [("weather", {"n": i}) for i in range(3)]
    for name, write in WRITERS:
        for eager in (True, False):
            found = read(name, list(write(calls)), eager=eager, limit=limit)
            assert calls_in(found) == calls[:limit]
            assert text_in(found) == ""


def test_an_answer_that_ends_without_its_closing_tag_has_called() -> None:
    text = '<tool_call>\n{"name": "weather", "arguments": {}}'
    for ending in ("", "\n", "\n</tool_"):
        found = read("hermes", [text + ending])
        assert calls_in(found) == [("weather", {})]
        assert text_in(found) == ("\n</tool_" if ending == "\n</tool_" else "")


@pytest.mark.parametrize(
    ("template", "name"),
    [
        (TEMPLATES["qwen3"], "hermes"),
        (TEMPLATES["mistral_v3"], "mistral"),
        (TEMPLATES["llama3"], "llama3"),
        (TEMPLATES["granite"], "json"),
        (TEMPLATES["chatml"], "json"),
        ("", "json"),
    ],
)
def test_the_format_shows_in_the_template(template: str, name: str) -> None:
    assert detect_format(template) == name


def scan(text: str) -> str | None:
    """The text as the scanner passes it on; None where it refuses it or it goes on."""
    scanner = JSONScanner()
    try:
        passed = "".join(map(scanner.push, text))
    except NotJSON:
        return None
    return passed if scanner.done else None


def refuse(constant: str) -> None:
    raise ValueError(constant)


@settings(LAW, max_examples=400)
@given(
    text=st.dictionaries(st.text(), values, max_size=3).map(json.dumps)
    | st.lists(st.sampled_from([*'{}[],:"\\0123.-+eE', "true", "null", "fals", '"a"', " ", "\\u12ab"]), max_size=12)
    .map("".join)
    .map(lambda body: f"[{body}]")
)
def test_the_scanner_agrees_with_the_json_module(text: str) -> None:
    try:
        value = json.loads(text, strict=False, parse_constant=refuse)
    except ValueError:
        assert scan(text) is None
    else:
        passed = scan(text)
        assert passed is not None
        assert json.loads(passed) == value


def test_the_scanner_refuses_bottomless_nesting() -> None:
    assert scan("[" * 200 + "]" * 200) is not None
    assert scan("[" * 100_000 + "]" * 100_000) is None

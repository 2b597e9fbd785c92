"""Answers that must call: whatever a model would rather say, under the grammar it calls, and is read to have called."""

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import tokenizers
from chat_corpus import CALLED, TEMPLATES

from engine.text.grammar import JSON_OPTIONS, Compiler
from engine.text.reasoning import TAGS, ReasoningParser
from engine.text.tools import FORMATS, CallArguments, CallStarted, Text, Tool
from engine.text.tools.forced import JSON_OPTIONS as OPTIONS_WITHIN
from engine.text.tools.forced import answer_grammar, calls_grammar, markers_of
from engine.text.tools.prompt import DEFAULT_PROMPT, descriptions, fit_messages
from engine.types import Grammar

MODEL = Path(__file__).parents[2] / "engine" / "assets" / "default"
END, NEXT = 2, 8192  # the end token, and the first id that is free
PLACE = {"enum": ["sea", "land"]}
TOOLS = (
    Tool(
        name="weather",
        parameters={
            "properties": {"days": {"type": "integer", "minimum": 0, "maximum": 9}, "place": {"$ref": "#/$defs/place"}},
            "required": ["days", "place"],
            "$defs": {"place": PLACE},
        },
    ),
    Tool(name='say "now"', parameters={}, strict=True),
)
SCHEMAS: dict[str, Any] = {"weather": TOOLS[0].parameters, 'say "now"': {"maxProperties": 40}}
# A format, what its template shows, and which of its markers are special tokens.
MODELS: list[tuple[str, str, tuple[str, ...]]] = [
    ("hermes", "", ()),
    ("hermes", "", ("<tool_call>", "</tool_call>")),
    ("llama3", "", ("<|python_tag|>",)),
    ("mistral", "", ("[TOOL_CALLS]",)),
    ("mistral", "[ARGS]", ("[TOOL_CALLS]", "[ARGS]")),
    ("json", "", ()),
]


def with_special(tokens: tuple[str, ...]) -> tuple[tokenizers.Tokenizer, dict[str, int]]:
    """The built-in tokenizer with more special tokens, and their ids."""
    backend = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    backend.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in tokens])
    return backend, {token: backend.token_to_id(token) for token in tokens}


def walk(grammar: Grammar, backend: tokenizers.Tokenizer, seed: int, steps: int = 400) -> str | None:
    """A random text of the grammar, special tokens included; None where it did not end in time.

    The end token is taken as soon as it is allowed, and what closes a string or an object is preferred.
    """
    size = backend.get_vocab_size()
    matcher = Compiler(backend.to_str(), size, [END]).compile(grammar)
    draw, ids = random.Random(seed), []
    for _ in range(steps):
        mask = matcher.masks()[0]
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")[:size]).tolist()
        closing = [token for token in allowed if set(backend.id_to_token(token)) <= set('"}]') or token >= NEXT]
        token = END if END in allowed else draw.choice(closing if closing and draw.random() < 0.7 else allowed)
        if token == END:
            return str(backend.decode(ids, skip_special_tokens=False))
        ids.append(token)
        matcher.advance([token])
    return None


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize(("name", "template", "special"), MODELS)
def test_whatever_the_grammar_allows_is_read_as_calls(
    name: str, template: str, special: tuple[str, ...], many: bool
) -> None:
    backend, ids = with_special(special)
    marker = markers_of(ids)
    grammar = answer_grammar(calls_grammar(name, template, TOOLS, many, marker), None, None, False, marker)
    assert grammar is not None
    ended = 0
    for seed in range(6):
        text = walk(grammar, backend, seed)
        if text is None:
            continue
        ended += 1
        parser = FORMATS[name]([tool.name for tool in TOOLS], lambda: "id", eager=False)
        events = parser.push(text) + parser.finish()
        assert not [event for event in events if isinstance(event, Text)], text
        called = [event.name for event in events if isinstance(event, CallStarted)]
        given = [json.loads(event.text) for event in events if isinstance(event, CallArguments)]
        assert len(called) == len(given) >= 1
        assert many or len(called) == 1
        for tool, arguments in zip(called, given, strict=True):
            jsonschema.validate(arguments, SCHEMAS[tool])
    assert ended


def accepts(grammar: Grammar | None, text: str, special: tuple[str, ...] = ()) -> bool:
    """Whether a text matches, and can end where it does."""
    assert grammar is not None
    backend, _ = with_special(special)
    matcher = Compiler(backend.to_str(), backend.get_vocab_size(), [END]).compile(grammar)
    for token in backend.encode(text, add_special_tokens=False).ids:
        if not matcher.masks()[0][token // 32] >> token % 32 & 1:
            return False
        matcher.advance([token])
    return bool(matcher.masks()[0][0] >> END & 1)


CALL = '<tool_call>\n{"name": "weather", "arguments": {"days": 1, "place": "sea"}}\n</tool_call>'
PLAIN = markers_of({})


def test_a_forced_answer_has_the_arguments_of_its_tool() -> None:
    grammar = answer_grammar(calls_grammar("hermes", "", TOOLS, True, PLAIN), None, None, False, PLAIN)
    assert accepts(grammar, CALL)
    assert accepts(grammar, f"{CALL}\n{CALL}")
    for wrong in ("Hello", CALL.replace("sea", "sky"), CALL.replace("weather", "other"), CALL.replace("1", "12")):
        assert not accepts(grammar, wrong)
    one = answer_grammar(calls_grammar("hermes", "", TOOLS, False, PLAIN), None, None, False, PLAIN)
    assert not accepts(one, f"{CALL}\n{CALL}")


TEXTS = [
    (Grammar("json", '{"type": "object", "required": ["a"]}'), '{"a": 1}', "{}"),
    (Grammar("regex", "a/b\\d+"), "a/b12", "a/b"),
    (Grammar("lark", 'start: "a" X\nX: /x+/'), "axx", "a"),
]


@pytest.mark.parametrize(("text", "right", "wrong"), TEXTS)
def test_calls_or_a_text_of_a_grammar(text: Grammar, right: str, wrong: str) -> None:
    grammar = answer_grammar(calls_grammar("hermes", "", TOOLS, True, PLAIN), text, None, False, PLAIN)
    assert accepts(grammar, right)
    assert accepts(grammar, CALL)
    assert not accepts(grammar, wrong)


@pytest.mark.parametrize("special", [(), TAGS[0]])
@pytest.mark.parametrize(("text", "right", "wrong"), TEXTS)
def test_thoughts_may_come_before_a_text_of_a_grammar(
    text: Grammar, right: str, wrong: str, special: tuple[str, ...]
) -> None:
    _, ids = with_special(special)
    for opened in (False, True):
        grammar = answer_grammar(None, text, TAGS[0], opened, markers_of(ids))
        thoughts = ("" if opened else "<think>") + 'Is it\n\n{"b": 1} < 2?\n</think>\n\n'
        assert accepts(grammar, thoughts + right, special)
        assert not accepts(grammar, thoughts + wrong, special)
        assert opened or accepts(grammar, right, special)
        parser = ReasoningParser(TAGS[0], opened=opened)
        assert (parser.push(thoughts + right) + parser.finish())[-1] == Text(right)


def test_json_within_a_grammar_is_read_as_alone() -> None:
    assert OPTIONS_WITHIN == JSON_OPTIONS
    share = {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}
    parameters = {"properties": {"a": {"properties": {"b": share}, "required": ["b"]}}, "required": ["a"]}
    given = json.dumps(parameters)
    calls = calls_grammar("hermes", "", [Tool(name="f", parameters=parameters)], False, PLAIN)
    forced = answer_grammar(calls, None, None, False, PLAIN)
    either = answer_grammar(calls, Grammar("json", given), None, False, PLAIN)
    for arguments, fits in (('{"a": {"b": 0.5}}', True), ('{"a": {"b": 0}}', False), ('{"a": 7}', False)):
        call = f'<tool_call>\n{{"name": "f", "arguments": {arguments}}}\n</tool_call>'
        assert accepts(forced, call) == fits
        assert accepts(either, arguments) == fits
    assert json.dumps(parameters) == given  # what a client sent is not changed


def test_nothing_forced_is_no_grammar() -> None:
    assert answer_grammar(None, None, TAGS[0], True, PLAIN) is None
    assert answer_grammar(None, TEXTS[0][0], None, False, PLAIN) is TEXTS[0][0]


NOT_ENFORCED = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}


@pytest.mark.parametrize("strict", [False, True])
def test_only_a_strict_tool_must_be_enforced_whole(strict: bool) -> None:
    tool = Tool(name="f", parameters=NOT_ENFORCED, strict=strict)
    grammar = answer_grammar(calls_grammar("json", "", [tool], False, PLAIN), None, None, False, PLAIN)
    if strict:
        with pytest.raises(Exception, match="uniqueItems"):
            accepts(grammar, "")
    else:
        assert accepts(grammar, '{"name": "f", "arguments": {"a": [1, 1]}}')


WITH_TOOLS = "{% for tool in tools %}{{ tool | tojson }}{% endfor %}{{ messages[0].content }}"
WITHOUT = "{{ messages[0].content }}"


def test_tools_are_part_of_the_prompt() -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well"}]
    [asked, said] = fit_messages(messages, TOOLS, WITHOUT, None)
    listed = json.dumps(descriptions(TOOLS))
    assert asked["content"] == f"Hi\n---\n{listed}\n{DEFAULT_PROMPT}"
    assert said == messages[1]
    assert fit_messages(messages, TOOLS, WITHOUT, "Do!")[0]["content"] == f"Hi\n---\n{listed}\nDo!"
    assert fit_messages(messages, TOOLS, WITH_TOOLS, None) == messages
    assert fit_messages(messages, TOOLS, WITH_TOOLS, "Do!")[0]["content"] == "Hi\n---\nDo!"
    assert fit_messages(messages, (), WITHOUT, "Do!") == messages
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    assert fit_messages(parts, TOOLS, WITH_TOOLS, "Do!")[0]["content"][1] == {"type": "text", "text": "\n---\nDo!"}


def test_earlier_calls_are_text_where_a_template_does_not_know_them() -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": "é"}}}]
    messages = [{"role": "assistant", "content": None, "tool_calls": calls}]
    assert fit_messages(messages, (), "{{ message.tool_calls }}", None) == messages
    [as_text] = fit_messages(messages, (), WITHOUT, None)
    assert json.loads(as_text["content"]) == calls
    assert "tool_calls" not in as_text
    said = [{"role": "assistant", "content": "Well", "tool_calls": calls}]
    assert fit_messages(said, (), WITHOUT, None) == [{"role": "assistant", "content": "Well"}]


@pytest.mark.parametrize("name", ["llama3", "mistral_v3", "qwen3"])
def test_a_template_that_knows_tools_gets_messages_as_they_are(name: str) -> None:
    assert fit_messages(CALLED, TOOLS, TEMPLATES[name], None) == CALLED

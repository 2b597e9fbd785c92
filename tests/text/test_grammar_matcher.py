"""The tokens a grammar allows: none but those that keep the text on its way to a match."""

import json
from typing import Any

import numpy as np
import pytest
from grammar_text import END_IDS, PADDED, compiler, ids_of, tokenizer
from tiny_tokenizers import TOKENIZERS

from engine.errors import GenerationFailed, InvalidRequest
from engine.server.grammar import ANY_OBJECT
from engine.text.grammar import Compiler, Matcher
from engine.types import Grammar


def schema(**keys: Any) -> Grammar:
    return Grammar("json", json.dumps(keys))


def takes(grammar: Grammar, text: str) -> bool:
    """Whether the whole text matches, token by token."""
    matcher = compiler().compile(grammar)
    for token in tokenizer().encode(text, add_special_tokens=False):
        if token not in ids_of(matcher.masks()[0]):
            return False
        matcher.advance([token])
    return set(END_IDS) <= set(ids_of(matcher.masks()[0]))


def begun(grammar: Grammar, text: str) -> Matcher:
    matcher = compiler().compile(grammar)
    matcher.advance(tokenizer().encode(text, add_special_tokens=False))
    return matcher


PERSON = schema(
    type="object",
    properties={"name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "integer"}}},
    required=["name", "tags"],
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"name":"x","tags":[1,2]}', True),
        ('{"name": "x", "tags": [1, 2]}', True),
        ('{ "name" : "x" , "tags" : [ 1 , 2 ] }', True),
        ('{"name":"two  spaces\\nand a line","tags":[]}', True),
        ('{"name":  "x","tags":[]}', False),
        ('{"name":"x",\n"tags":[]}', False),
        ('{"name":"x","tags":[1,\t2]}', False),
        (' {"name":"x","tags":[]}', False),
        ('{"name":"x","tags":[]} ', False),
        ('{"name":"x"}', False),
        ('{"tags":[],"name":"x"}', False),  # in the schema's order
    ],
)
def test_json_has_at_most_one_space_between_tokens(text: str, expected: bool) -> None:
    assert takes(PERSON, text) is expected


def test_a_schema_cannot_choose_its_layout() -> None:
    loose = schema(
        type="object", **{"x-guidance": {"whitespace_pattern": r"[\n ]*", "lenient": True}}, uniqueItems=True
    )
    with pytest.raises(InvalidRequest, match="uniqueItems"):
        compiler().compile(loose)
    assert not takes(schema(type="object", **{"x-guidance": {"whitespace_pattern": r"\n"}}), "{\n}")


@pytest.mark.parametrize(
    ("grammar", "yes", "no"),
    [
        (Grammar("regex", "[ab]+c?"), ["a", "abba", "bc"], ["", "c", "abcc", "xa"]),
        (Grammar("regex", "^foo$|bar"), ["foo", "bar"], ["foobar", "^foo$"]),
        (Grammar("regex", 'a/"b"\\d'), ['a/"b"7'], ["a/b7"]),
        (Grammar("lark", 'start: word " " NAME\nword: "hi" | "hello"\nNAME: /[A-Z][a-z]*/'), ["hello Bo"], ["hi bo"]),
        (Grammar("lark", 'start: "(" start ")" | "x"'), ["((x))", "x"], ["((x)", "()"]),
        (ANY_OBJECT, ["{}", '{"a": [1, {"b": null}]}'], ["[]", '"text"', "{"]),
        (schema(), ["[]", "17", '"text"'], ["", "]"]),
        (schema(type="string", pattern="^a+$"), ['"aa"'], ['"ab"', '"b"']),
    ],
)  # fmt: skip
def test_what_matches(grammar: Grammar, yes: list[str], no: list[str]) -> None:
    assert [text for text in yes if not takes(grammar, text)] == []
    assert [text for text in no if takes(grammar, text)] == []


@pytest.mark.parametrize(
    ("keys", "yes", "no"),
    [
        ({"exclusiveMinimum": 41, "maximum": 41.5}, ["41.1", "41.5"], ["41", "41.0", "41.6"]),
        ({"exclusiveMinimum": 0, "exclusiveMaximum": 0.5}, ["0.1", "0.001"], ["0", "0.0", "0.5"]),
        ({"minimum": -18.5, "exclusiveMaximum": -18.0}, ["-18.5", "-18.01"], ["-18", "-18.0"]),
        ({"exclusiveMinimum": 2, "exclusiveMaximum": 9}, ["2.1", "8.9"], ["2", "9"]),
    ],
)
def test_an_exclusive_bound_is_excluded(keys: dict[str, float], yes: list[str], no: list[str]) -> None:
    assert [text for text in yes if not takes(schema(type="number", **keys), text)] == []
    assert [text for text in no if takes(schema(type="number", **keys), text)] == []


@pytest.mark.parametrize(
    ("keys", "yes", "no"),
    [
        ({"minimum": 2**53 + 1, "maximum": 2**53 + 3}, [2**53 + 2], [2**53, 2**53 + 4]),
        ({"minimum": -(2**53) - 3, "maximum": -(2**53) - 1}, [-(2**53) - 2], [-(2**53), -(2**53) - 4]),
        ({"exclusiveMinimum": 2**53 + 1, "exclusiveMaximum": 2**53 + 5}, [2**53 + 3], [2**53 + 1, 2**53 + 5]),
        ({"minimum": -(2**63), "maximum": 2**63 - 1}, [1024 - 2**63, 0, 2**63 - 1024], [-(2**63) - 1, 2**63]),
        ({"minimum": 0, "maximum": 2**64 - 1}, [0, 2**63 - 1024], [-1, 2**64]),
        ({"minimum": 5, "exclusiveMinimum": -(2**70), "exclusiveMaximum": 2**70}, [5, 2**60], [4]),
    ],
)
def test_a_bound_beyond_the_whole_numbers_of_a_float_holds(keys: dict[str, int], yes: list[int], no: list[int]) -> None:
    grammar = schema(type="integer", **keys)
    assert [number for number in yes if not takes(grammar, str(number))] == []
    assert [number for number in no if takes(grammar, str(number))] == []


@pytest.mark.parametrize(
    "keys", [{"minimum": 2**63}, {"exclusiveMaximum": -(2**64)}, {"minimum": 2**64, "maximum": 2**65}]
)
def test_bounds_that_no_number_of_64_bits_is_within_are_refused(keys: dict[str, int]) -> None:
    with pytest.raises(InvalidRequest, match="Unsatisfiable"):
        compiler().compile(schema(type="integer", **keys))


def test_what_has_properties_is_an_object() -> None:
    inner = {"properties": {"properties": {"type": "integer"}}, "required": ["properties"]}
    grammar = schema(properties={"type": inner, "list": {"items": inner}}, required=["type", "list"])
    assert takes(grammar, '{"type":{"properties":1},"list":[{"properties":2}]}')
    for text in ("7", '{"type":7,"list":[]}', '{"type":{"properties":1},"list":[7]}'):
        assert not takes(grammar, text)


def test_special_tokens_and_ids_without_a_token_are_never_allowed() -> None:
    allowed = set(ids_of(compiler().compile(Grammar("regex", "(.|\\n)*")).masks()[0]))
    assert len(allowed) > 8000
    assert not allowed & (tokenizer().special_ids - set(END_IDS))
    assert max(allowed) < tokenizer().vocab_size
    assert set(END_IDS) <= allowed  # the empty text matches


def test_end_tokens_are_allowed_where_the_text_matches_and_alone_where_it_cannot_go_on() -> None:
    open_ended, closed = Grammar("regex", "ab?"), Grammar("regex", "ab")
    assert not set(END_IDS) & set(ids_of(begun(open_ended, "").masks()[0]))
    assert set(END_IDS) < set(ids_of(begun(open_ended, "a").masks()[0]))
    finished = begun(closed, "ab")
    assert sorted(ids_of(finished.masks()[0])) == sorted(END_IDS)
    assert finished.finished
    finished.advance([END_IDS[0]])  # nothing changes
    assert sorted(ids_of(finished.masks()[0])) == sorted(END_IDS)


def test_an_end_token_with_a_text_of_its_own_is_not_text() -> None:
    """Here the token of "a" ends texts: it cannot be used to spell one."""
    own = TOKENIZERS["byte_level"]
    [a], [b] = own.encode("a", add_special_tokens=False), own.encode("b", add_special_tokens=False)
    matcher = Compiler(own.to_json(), own.vocab_size, [a]).compile(Grammar("regex", "(a|b)b"))
    assert ids_of(matcher.masks()[0]) == [b]


@pytest.mark.parametrize("kind", ["byte_level", "llama2"])
def test_tokenizers_of_other_kinds(kind: str) -> None:
    own = TOKENIZERS[kind]
    view = Compiler(own.to_json(), own.vocab_size + 7, [own.encode("</s>", add_special_tokens=False)[-1]])
    matcher = view.compile(Grammar("regex", " ?(hello|é日)\\."))
    written: list[int] = []
    while not matcher.finished:
        written.append(max(ids_of(matcher.masks()[0]), key=lambda i: (len(own.token_text(i)), i)))
        matcher.advance(written[-1:])
    assert own.decode(written).strip() in ("hello.", "é日.")


def test_a_tokenizer_that_cannot_be_read_is_refused() -> None:
    for kind in ("wordpiece", "unigram"):
        with pytest.raises(InvalidRequest, match="not supported with this model's tokenizer"):
            Compiler(TOKENIZERS[kind].to_json(), 400, [1])
    with pytest.raises(InvalidRequest, match="no end token"):
        Compiler(tokenizer().to_json(), PADDED, [])


def test_a_draft_is_followed_and_taken_back() -> None:
    grammar = Grammar("regex", "[ab]c*d")
    a, c, d, x = (tokenizer().encode(letter, add_special_tokens=False)[0] for letter in "acdx")
    matcher = compiler().compile(grammar)
    before = matcher.masks()
    rows = matcher.masks([a, c, c, d, END_IDS[0], a])
    steps = compiler().compile(grammar)
    for row, token in zip(rows[:5], [a, c, c, d, END_IDS[0]], strict=True):
        assert row.tobytes() == steps.masks()[0].tobytes()
        steps.advance([token])
    assert (rows[5:] == 0xFFFFFFFF).all()  # after the end token
    refused = matcher.masks([a, x, c])
    assert refused[1].tobytes() == rows[1].tobytes()
    assert (refused[2:] == 0xFFFFFFFF).all()
    assert matcher.masks().tobytes() == before.tobytes()
    assert rows.dtype == np.uint32
    assert rows.shape == (7, -(-PADDED // 32))


def test_matchers_of_one_grammar_do_not_disturb_each_other() -> None:
    one, other = compiler().compile(PERSON), compiler().compile(PERSON)
    one.advance(tokenizer().encode('{"name":"', add_special_tokens=False))
    assert len(ids_of(one.masks()[0])) > 5000
    assert len(ids_of(other.masks()[0])) < 10


INVALID = [
    (Grammar("regex", "["), "unclosed character class"),
    (Grammar("regex", "(?=a)b"), "look-around"),
    (Grammar("regex", r"[^\s\S]"), "no text matches it"),
    (Grammar("lark", "start: a"), "a"),
    (Grammar("lark", "no rules at all"), "Expected"),
    (Grammar("json", "{"), "must be a JSON object"),
    (Grammar("json", "false"), "must be a JSON object"),
    (schema(type="strin"), "Invalid type: strin"),
    (schema(type="string", format="colour"), "Unknown format: colour"),
    (schema(type="array", uniqueItems=True), "uniqueItems"),
    (schema(type="object", properties={"a": {"not": {}}}), "not"),
    (schema(type="integer", minimum=3, maximum=1), "Unsatisfiable"),
    (schema(**{"$ref": "http://127.0.0.1:9/schema"}), "Default retriever does not fetch resources"),
    (schema(**{"$ref": "#"}), "no text matches it"),
    (schema(const=2**64 - 1), "18446744073709551615 is not a number that JSON readers agree on"),
    (schema(properties={"a": {"enum": [1, 2**53 + 1]}}), "9007199254740993 is not a number"),
]


@pytest.mark.parametrize(("grammar", "why"), INVALID)
def test_what_cannot_be_used_is_refused_with_a_reason(grammar: Grammar, why: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        compiler().compile(grammar)
    assert str(raised.value).startswith("grammar is not valid: ")
    assert why in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_grammar_that_becomes_too_costly_fails_and_stays_failed() -> None:
    """It begins harmlessly; its automaton grows with every letter."""
    matcher = compiler().compile(Grammar("regex", "(.*a.{500}b.*|.*c.{499}d.*)*"))
    letters = [tokenizer().encode(letter, add_special_tokens=False)[0] for letter in "acxbd"]

    def write() -> None:
        for step in range(3000):
            matcher.masks()
            matcher.advance([letters[step * step % 5]])

    with pytest.raises(GenerationFailed, match="cannot be followed any further"):
        write()
    with pytest.raises(GenerationFailed, match="cannot be followed any further"):
        matcher.masks()


def test_a_token_that_does_not_match_is_noticed() -> None:
    matcher = compiler().compile(Grammar("regex", "abc"))
    matcher.advance(tokenizer().encode("x", add_special_tokens=False))
    with pytest.raises(GenerationFailed, match="doesn't satisfy the grammar"):
        matcher.masks()

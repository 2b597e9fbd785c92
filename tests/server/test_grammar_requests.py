"""Grammars as clients send them: every shape, the words of each refusal, and that none of them hurts anybody else."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fake_engine import INFO, FakeEngine
from serving import client_of
from starlette.applications import Starlette

from engine.errors import InvalidRequest, Overloaded
from engine.server import grammar as server_grammar
from engine.server.grammar import ANY_OBJECT, GrammarChecker, check_size, grammar_of
from engine.text.tokenizer import Tokenizer
from engine.types import Grammar

SCHEMA = {"properties": {"b": {"type": "string"}, "a": {"type": "integer"}}, "required": ["b"]}
TEXT = json.dumps(SCHEMA, separators=(",", ":"))
JSON = Grammar("json", TEXT)

SHAPES: list[tuple[dict[str, Any], Grammar | None]] = [
    ({"type": "json", "value": SCHEMA}, JSON),
    ({"type": "json", "value": json.dumps(SCHEMA)}, JSON),
    ({"type": "json_object", "value": SCHEMA}, JSON),
    ({"type": "json_schema", "value": {"schema": SCHEMA, "name": "thing", "strict": True}}, JSON),
    ({"type": "regex", "value": "[0-9]+"}, Grammar("regex", "[0-9]+")),
    ({"type": "json_schema", "json_schema": {"name": "thing", "strict": True, "schema": SCHEMA}}, JSON),
    ({"type": "json_schema", "name": "thing", "schema": SCHEMA, "strict": True}, JSON),
    ({"type": "json_object"}, ANY_OBJECT),
    ({"type": "text"}, None),
    ({"type": "lark", "value": 'start: "a"'}, Grammar("lark", 'start: "a"')),
]
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"type": "json", "value": 7}, "grammar is not supported"),
    ({"type": "json", "value": [SCHEMA]}, "grammar is not supported"),
    ({"type": "json"}, "grammar is not supported"),
    ({"type": "json", "value": "{"}, "grammar is not valid: the schema is not JSON: "),
    ({"type": "json", "value": "[" * 9999}, "grammar is not valid: the schema is not JSON: "),
    ({"type": "json_schema", "value": {}}, "grammar is not valid: a json_schema must have a `schema`"),
    ({"type": "json_schema", "json_schema": 1}, "grammar is not valid: a json_schema must have a `schema`"),
    ({"type": "regex", "value": SCHEMA}, "grammar is not valid: the `value` of a regex must be a string"),
    ({"type": "lark"}, "grammar is not valid: the `value` of a lark must be a string"),
    ({"type": "xml", "value": "<a/>"}, "grammar is not valid: its `type` must be one of: json, json_object, "),
    ({}, "grammar is not valid: its `type` must be one of: json, json_object, "),
]


@pytest.mark.parametrize(("value", "expected"), SHAPES)
def test_every_shape_is_understood(value: dict[str, Any], expected: Grammar | None) -> None:
    assert grammar_of(value) == expected  # with the properties in their order


@pytest.mark.parametrize(("value", "why"), WRONG)
def test_other_shapes_are_refused(value: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        grammar_of(value)
    assert str(raised.value).startswith(why)


def test_strict_takes_what_tgi_takes() -> None:
    taken = [value for value, _ in SHAPES if "value" in value and value["type"] != "lark"]
    assert len(taken) == 5
    for value, grammar in SHAPES:
        if value in taken:
            assert grammar_of(value, strict=True) == grammar
        else:
            with pytest.raises(InvalidRequest, match="it must have a `type`"):
                grammar_of(value, strict=True)
    with pytest.raises(InvalidRequest, match="Grammar must have a 'properties' field"):
        grammar_of({"type": "json", "value": {"type": "object"}}, strict=True)


def nested(depth: int) -> Grammar:
    return Grammar("json", '{"items":' * depth + '{"const":"[[{"}' + "}" * depth)


def test_size_and_depth_have_limits() -> None:
    check_size(Grammar("regex", "a" * 65_536))
    check_size(nested(63))
    with pytest.raises(InvalidRequest, match=r"at most 65536 characters\. Given: 65537"):
        check_size(Grammar("regex", "a" * 65_537))
    with pytest.raises(InvalidRequest, match="nested at most 64 deep"):
        check_size(nested(64))


async def generate(api: httpx.AsyncClient, grammar: object, **parameters: Any) -> httpx.Response:
    body = {"inputs": "The sea", "parameters": {"grammar": grammar, **parameters}}
    return await api.post("/generate", json=body)


async def test_a_grammar_reaches_the_engine(api: httpx.AsyncClient, engine: FakeEngine) -> None:
    answer = await generate(api, {"type": "json", "value": SCHEMA})
    assert answer.status_code == 200, answer.text
    assert engine.requests[-1].params.grammar == JSON
    assert (await generate(api, None)).status_code == 200
    assert engine.requests[-1].params.grammar is None


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        ({"type": "regex", "value": "["}, "regex parse error: [ ^ error: unclosed character class"),
        ({"type": "json", "value": {"type": "array", "uniqueItems": True}}, 'Unimplemented keys: ["uniqueItems"]'),
    ],
)
async def test_what_cannot_be_compiled_is_a_422(
    grammar: object, why: str, api: httpx.AsyncClient, engine: FakeEngine
) -> None:
    answer = await generate(api, grammar)
    assert answer.status_code == 422
    body = answer.json()
    assert body["error_type"] == "validation"
    assert body["error"].startswith("Input validation error: grammar is not valid: ")
    assert why in body["error"]
    assert engine.requests == []


async def test_the_grammar_is_checked_last(api: httpx.AsyncClient) -> None:
    answer = await generate(api, {"type": "regex", "value": "["}, max_new_tokens=10_000)
    assert "`max_new_tokens` must be <=" in answer.json()["error"]


async def test_a_server_without_grammars_says_so(make_app: Callable[..., Starlette]) -> None:
    async with client_of(make_app(disable_grammar_support=True)) as api:
        answer = await generate(api, {"type": "regex", "value": "a"})
    assert answer.status_code == 422
    assert answer.json()["error"] == "Input validation error: grammar is not supported"


def json_of(**keys: Any) -> Grammar:
    return Grammar("json", json.dumps(keys))


ENDLESS = json_of(allOf=[{"type": "integer", "multipleOf": prime} for prime in (97, 101, 103, 107)])
MANY_PROPERTIES = json_of(properties={f"p{i}": {} for i in range(4500)})
# All are harmless here: refused, or compiled in no time and bounded at every later token.
HOSTILE = {
    "nested quantifiers": Grammar("regex", "(a+)+b"),
    "a huge count": Grammar("regex", "a{1,1000000000}"),
    "counts of counts": Grammar("regex", "(((a{1,1000}){1,1000}){1,1000}){1,1000}"),
    "counts that cost later": Grammar("regex", "((a{1,100}){1,100}){1,100}"),
    "many alternatives": Grammar("regex", "|".join(f"w{i}" for i in range(9000))),
    "many overlapping alternatives": Grammar("regex", "|".join(f".*w{i}.*" for i in range(3000))),
    "exponential states": Grammar("regex", "(.*a.{30}){3}"),
    "deep parentheses": Grammar("regex", "(" * 30_000 + "a" + ")" * 30_000),
    "no text": Grammar("regex", r"[^\s\S]"),
    "a reference to itself": json_of(**{"$ref": "#"}),
    "references in a circle": json_of(
        **{"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
    ),
    "a reference elsewhere": json_of(**{"$ref": "http://127.0.0.1:9/schema"}),
    "a file": json_of(**{"$ref": "file:///etc/passwd"}),
    "all of any": json_of(allOf=[{"anyOf": [{"properties": {f"p{i}{k}": {}}} for k in range(10)]} for i in range(12)]),
    "a huge enum": json_of(enum=[f"v{i}" for i in range(5000)]),
    "very many properties": MANY_PROPERTIES,
    "a huge least length": json_of(type="string", minLength=10**9),
    "a huge greatest length": json_of(type="string", maxLength=10**9),
    "very many items": json_of(type="array", minItems=10**9),
    "arrays of arrays of arrays": json_of(maxItems=10**6, items={"maxItems": 10**6, "items": {"maxItems": 10**6}}),
    "a pattern bomb": json_of(type="string", pattern="^((a{1,1000}){1,1000}){1,1000}$"),
    "false": Grammar("json", "false"),
    "huge bounds": json_of(type="integer", minimum=-(10**30), maximum=10**30),
    "common multiples": ENDLESS,
    "patterns that overlap": json_of(patternProperties={f"^(a|b)*{i}": {} for i in range(200)}),
    "left recursion": Grammar("lark", 'start: start start | "a"'),
    "rules in a circle": Grammar("lark", "start: a\na: b\nb: a"),
    "deep Lark": Grammar("lark", "start: " + "(" * 5000 + '"a"' + ")" * 5000),
    "exponential rules": Grammar(
        "lark", "start: a0\n" + "\n".join(f"a{i}: a{i + 1} a{i + 1}" for i in range(40)) + '\na40: "x"'
    ),
    "intersections": Grammar("lark", "start: X\nX: /(.*a.{300})+/ & /(.*b.{301})+/ & ~/(.*c.{302})+/"),
}  # fmt: skip
REFUSED = {
    "no text", "a reference to itself", "references in a circle", "a reference elsewhere", "a file", "all of any",
    "false", "common multiples", "patterns that overlap", "rules in a circle",
    "deep Lark", "intersections", "deep parentheses", "counts of counts", "counts that cost later", "exponential rules",
}  # fmt: skip


@pytest.fixture
async def checker(tokenizer: Tokenizer) -> AsyncIterator[GrammarChecker]:
    made = GrammarChecker(tokenizer.to_json, INFO.vocab_size, INFO.eos_token_ids)
    yield made
    await asyncio.to_thread(made.close)


async def outcome(checker: GrammarChecker, grammar: Grammar) -> str | None:
    try:
        check_size(grammar)
        await checker.check(grammar)
    except InvalidRequest as error:
        return str(error)
    return None


async def test_hostile_grammars_end_and_good_ones_are_answered_afterwards(checker: GrammarChecker) -> None:
    outcomes = {name: await outcome(checker, grammar) for name, grammar in HOSTILE.items()}
    undecided = {"very many properties"}  # which takes about as long as it may
    assert {name for name, why in outcomes.items() if why is not None} - undecided == REFUSED
    assert all(len(why) < 600 for why in outcomes.values() if why is not None)
    slow = {name for name, why in outcomes.items() if why is not None and "it takes more than 1.5 s" in why}
    assert "common multiples" in slow
    assert slow <= {"common multiples"} | undecided
    assert await outcome(checker, JSON) is None


async def test_a_check_that_takes_too_long_is_killed(checker: GrammarChecker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await outcome(checker, JSON) is None
    first = checker.pid
    monkeypatch.setattr(server_grammar, "CHECK_SECONDS", 0.1)
    assert (
        await outcome(checker, ENDLESS) == "grammar is not valid: it takes more than 0.1 s to compile; make it simpler"
    )
    assert await outcome(checker, JSON) is None  # remembered
    monkeypatch.undo()
    assert await outcome(checker, ANY_OBJECT) is None
    assert checker.pid not in (None, first)


async def test_others_are_answered_while_a_hostile_grammar_is_checked(
    make_app: Callable[..., Starlette], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check is ended by hand here, and only after the others: no clock decides."""
    monkeypatch.setattr(server_grammar, "CHECK_SECONDS", 60.0)
    app = make_app()
    async with client_of(app) as api:
        assert (await generate(api, {"type": "json", "value": SCHEMA})).status_code == 200
        hostile = asyncio.create_task(generate(api, {"type": "json", "value": ENDLESS.text}))
        for _ in range(3):
            assert (await generate(api, None)).status_code == 200
            assert (await generate(api, {"type": "json", "value": SCHEMA})).status_code == 200  # known to be good
        assert not hostile.done()
        os.kill(app.state.service.grammars.pid, signal.SIGKILL)
        refused = await hostile
        assert refused.status_code == 422
        assert "it takes too much memory to compile" in refused.json()["error"]
        assert (await generate(api, {"type": "regex", "value": "a|b"})).status_code == 200


async def test_nobody_waits_for_ever_for_a_check(checker: GrammarChecker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_grammar, "CHECK_SECONDS", 60.0)
    await checker.check(JSON)
    endless = asyncio.create_task(checker.check(ENDLESS))
    while not checker._free.locked():
        await asyncio.sleep(0)
    monkeypatch.setattr(server_grammar, "PATIENCE", 0.0)
    with pytest.raises(Overloaded):
        await checker.check(ANY_OBJECT)
    await checker.check(JSON)
    assert checker.pid is not None
    os.kill(checker.pid, signal.SIGKILL)
    with pytest.raises(InvalidRequest, match="too much memory"):
        await endless


async def test_closing_ends_a_check_and_the_process(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_grammar, "CHECK_SECONDS", 60.0)
    checker = GrammarChecker(tokenizer.to_json, INFO.vocab_size, INFO.eos_token_ids)
    await checker.check(JSON)
    endless = asyncio.create_task(checker.check(ENDLESS))
    while not checker._free.locked():
        await asyncio.sleep(0)
    await asyncio.to_thread(checker.close)
    with pytest.raises(InvalidRequest):
        await endless
    assert checker.pid is None


async def test_what_is_remembered_has_a_limit(checker: GrammarChecker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_grammar, "MAX_KNOWN", 4)
    for i in range(12):
        assert await outcome(checker, Grammar("regex", f"a{i}")) is None
        assert "unclosed" in str(await outcome(checker, Grammar("regex", f"[{i}")))
    assert len(checker._known) == 4


async def test_a_tokenizer_that_cannot_be_read_is_said_so() -> None:
    checker = GrammarChecker(lambda: "{}", 100, [1])
    assert "grammar is not supported with this model's tokenizer" in str(await outcome(checker, JSON))
    await asyncio.to_thread(checker.close)

"""Whole answers against files written by hand from what TGI and the vendors document; each case names its source.

A case is one request and its answer. `options` are the server's, `engine` says what its engine does (`says`, `fails`,
`ends_early`, `gone`, `window`). Of the answer it has one of

- `response`, the JSON of the body; `text`, the body itself;
- `events`, the data of each server-sent event, or `{"event": ..., "data": ...}` where events have names; or the
  `first` and the `last` of them, and by a path of keys what the others say `joined`.

`compare` is "bytes" (fields in this order, the default), "value" (in any order, numbers to six digits), or "partial"
(at least these fields). In a text … stands for anything, and `VARYING` has more such.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_engine import FakeEngine
from serving import client_of
from starlette.applications import Starlette

from engine.errors import GenerationFailed
from engine.text.tokenizer import Tokenizer

GOLDEN = Path(__file__).parent / "golden"
CASES = [
    pytest.param(case, id=f"{file.stem}-{name}")
    for file in sorted(GOLDEN.glob("*.json"))
    for name, case in json.loads(file.read_text()).items()
]
# What differs from one answer to the next, by its placeholder in the files.
VARYING = {
    "<chatcmpl>": r'"chatcmpl-[0-9a-f]{32}"',
    "<cmpl>": r'"cmpl-[0-9a-f]{32}"',
    "<id>": r'"[a-z]+_[0-9a-zA-Z]{8,}"',
    "<time>": r"[0-9]{10}(\.[0-9]+)?",
    "<fingerprint>": r'"[0-9.]+-native"',
    "<integer>": r"[0-9]+",
    "<number>": r"-?[0-9.]+",
}
KEYS = {"contract", "method", "path", "options", "engine", "send", "request", "body", "status", "headers", "compare"}
ANSWERS = {"response", "text", "events", "first", "last", "joined"}


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def pattern_of(answer: Any) -> re.Pattern[str]:
    """Matches the compact JSON of `answer`, fields in this order, with anything fitting for a placeholder."""
    text = re.escape(compact(answer)).replace("…", ".*")
    for placeholder, pattern in VARYING.items():
        text = text.replace(f'"{placeholder}"', pattern)
    return re.compile(text)


def difference(expected: Any, found: Any, partial: bool, where: str = "$") -> str | None:
    """Where two values differ; fields may be in any order."""
    if isinstance(expected, dict) and isinstance(found, dict):
        names = set(expected) if partial else set(expected) | set(found)
        if missing := sorted(name for name in names if name not in expected or name not in found):
            return f"{where}: only one side has {missing}"
        parts = [(expected[name], found[name], f"{where}.{name}") for name in expected]
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        parts = [(left, right, f"{where}[{i}]") for i, (left, right) in enumerate(zip(expected, found, strict=True))]
    elif isinstance(expected, float) and isinstance(found, float):
        return None if found == pytest.approx(expected, rel=1e-6) else f"{where}: {found}, not {expected}"
    else:
        return None if pattern_of(expected).fullmatch(compact(found)) else f"{where}: {found!r}, not {expected!r}"
    return next((told for left, right, at in parts if (told := difference(left, right, partial, at))), None)


def check(text: str, expected: Any, compare: str) -> None:
    """One JSON text, or the `[DONE]` of a stream."""
    if expected == "[DONE]":
        assert text == expected
    elif compare == "bytes":
        assert pattern_of(expected).fullmatch(text), text
    else:
        told = difference(expected, json.loads(text), compare == "partial")
        assert told is None, f"{told} in {text}"


def events_of(body: str) -> list[tuple[str | None, str]]:
    """Name and data of each event. Every event is one line of data, after one with its name where it has one."""
    assert body.endswith("\n\n")
    found = []
    for block in body.removesuffix("\n\n").split("\n\n"):
        parts = re.fullmatch(r"(?:event: (\S+)\n)?data: (.+)", block)
        assert parts, block
        found.append((parts[1], parts[2]))
    return found


def check_event(event: tuple[str | None, str], expected: Any, compare: str) -> None:
    name, data = event
    if isinstance(expected, dict) and expected.keys() == {"event", "data"}:
        assert name == expected["event"]
        expected = expected["data"]
    else:
        assert name is None
    check(data, expected, compare)
    assert data == "[DONE]" or data == compact(json.loads(data))


def at(value: Any, path: str) -> str:
    """The text at a path such as `choices.0.text`; empty where there is none."""
    for key in path.split("."):
        if isinstance(value, list):
            value = value[int(key)] if int(key) < len(value) else None
        else:
            value = value.get(key) if isinstance(value, dict) else None
    return value or ""


def check_stream(body: str, case: dict[str, Any], compare: str) -> None:
    received = events_of(body)
    first, last = case.get("events") or case.get("first", []), case.get("last", [])
    assert len(received) == len(first) if "events" in case else len(received) >= len(first) + len(last), body
    for event, expected in zip(received, first, strict=False):
        check_event(event, expected, compare)
    for event, expected in zip(received[len(received) - len(last) :], last, strict=True):
        check_event(event, expected, compare)
    values = [json.loads(data) for _, data in received if data != "[DONE]"]
    for path, text in case.get("joined", {}).items():
        assert "".join(at(value, path) for value in values) == text


def prepare(engine: FakeEngine, tokenizer: Tokenizer, plan: dict[str, Any]) -> None:
    if "says" in plan:
        engine.script = [*((token,) for token in tokenizer.encode(plan["says"], add_special_tokens=False)), (2,)]
    if plan.get("ends_early"):
        engine.script = engine.script[:-1]
    if "fails" in plan:
        engine.error, engine.gate_step = GenerationFailed(plan["fails"]), plan.get("step", 0)
    engine.healthy = not plan.get("gone", False)
    engine.info = msgspec.structs.replace(
        engine.info, max_total_tokens=plan.get("window", engine.info.max_total_tokens)
    )


@pytest.mark.parametrize("case", CASES)
async def test_answers_equal_the_golden_files(
    case: dict[str, Any], make_app: Callable[..., Starlette], engine: FakeEngine, tokenizer: Tokenizer
) -> None:
    prepare(engine, tokenizer, case.get("engine", {}))
    body = case["body"].encode() if "body" in case else compact(case["request"]).encode() if "request" in case else b""
    sent = {"content-type": "application/json"} | case.get("send", {})
    async with client_of(make_app(**case.get("options", {})), raise_app_exceptions=False) as api:
        answer = await api.request(case.get("method", "POST"), case["path"], content=body, headers=sent)
    assert answer.status_code == case.get("status", 200), answer.text
    for name, pattern in case.get("headers", {}).items():
        assert re.fullmatch(pattern, answer.headers.get(name, "")), f"{name}: {answer.headers.get(name)}"
    compare = case.get("compare", "bytes")
    if "response" in case:
        assert answer.headers["content-type"] == "application/json"
        check(answer.text, case["response"], compare)
    elif "text" in case:
        assert re.fullmatch(re.escape(case["text"]).replace("…", ".*"), answer.text, re.DOTALL), answer.text
    else:
        assert re.fullmatch(r"text/event-stream(; charset=utf-8)?", answer.headers["content-type"])
        check_stream(answer.text, case, compare)


@pytest.mark.parametrize("case", CASES)
def test_a_case_names_its_source_and_says_what_it_expects(case: dict[str, Any]) -> None:
    assert re.match(r"(TGI|OpenAI|Anthropic|TEI|RFC|issue) ", case["contract"])
    assert case.keys() <= KEYS | ANSWERS
    assert case.keys() & ANSWERS


async def test_every_route_has_a_case(make_app: Callable[..., Starlette]) -> None:
    from engine.server.app import ENDPOINTS

    asked = {(case.get("method", "POST"), case["path"]) for [case] in (each.values for each in CASES)}
    asked |= {("GET", "/v1/models/{id}")} if any(path.startswith("/v1/models/") for _, path in asked) else set()
    assert {(each.method, each.path) for each in ENDPOINTS} - asked == set()

"""Whole answers against files written by hand: TGI's shapes on its routes, OpenAI's under `/v1/`."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgi_connection import events
from serving import client_of
from starlette.applications import Starlette

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
    "<time>": r"[0-9]{10}",
    "<fingerprint>": r'"[0-9.]+-native"',
}


def pattern_of(answer: Any) -> re.Pattern[str]:
    """Matches the compact JSON of `answer`, fields in this order, with anything fitting for a placeholder."""
    text = re.escape(json.dumps(answer, separators=(",", ":"), ensure_ascii=False))
    for placeholder, pattern in VARYING.items():
        text = text.replace(f'"{placeholder}"', pattern)
    return re.compile(text)


@pytest.mark.parametrize("case", CASES)
async def test_answers_equal_the_golden_files(case: dict[str, Any], make_app: Callable[..., Starlette]) -> None:
    async with client_of(make_app(enable_prefill_logprobs=True)) as api:
        answer = await api.post(case["path"], json=case["request"])
    assert answer.status_code == case.get("status", 200)
    if "events" not in case:
        assert answer.headers["content-type"] == "application/json"
        assert pattern_of(case["response"]).fullmatch(answer.text), answer.text
        return
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert len(events(answer.content)) == len(case["events"]), answer.text
    blocks = answer.text.removesuffix("\n\n").split("\n\n")
    for block, expected in zip(blocks, case["events"], strict=True):
        data = block.removeprefix("data: ")
        assert data == expected or pattern_of(expected).fullmatch(data), data

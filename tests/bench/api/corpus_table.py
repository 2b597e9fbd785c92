"""The corpus of answers as a table: what is written here by hand is what `bench/api/corpus.json` holds.

    python tests/bench/api/corpus_table.py > bench/api/corpus.json

`data(...)` is one event as it is on the wire. Expected events are (piece, tokens[, kind]), counted by hand.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parents[3]))

from bench.api.corpus import Case, Expected, ExpectedEvent
from bench.types import Api, Outcome, TokenSource

DONE = "data: [DONE]\n\n"
EACH, DELTA, IDS, SPREAD, EVENTS, NONE = (
    TokenSource.TGI_TOKEN,
    TokenSource.USAGE_DELTA,
    TokenSource.TOKEN_IDS,
    TokenSource.USAGE_SPREAD,
    TokenSource.EVENTS,
    TokenSource.NONE,
)


def data(event: object) -> str:
    return f"data: {event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)}\n\n"


def usage(prompt: int, completion: int | None, **more: Any) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + (completion or 0),
        **more,
    }


def token(text: str, index: int = 1, *, special: bool = False, last: str | None = None, **details: Any) -> str:
    """An event of TGI; `last` is the generated text that only the last one has."""
    body = {
        "index": index,
        "token": {"id": 100 + index, "text": text, "logprob": -0.5, "special": special},
        "generated_text": last,
        "details": {"finish_reason": "length", "generated_tokens": index, "seed": None, **details} if details else None,
    }
    return data(body)


def chunk(choices: list[dict[str, Any]], **more: Any) -> str:
    return data({"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": choices, **more})


def text(piece: str, finish: str | None = None, ids: list[int] | None = None, **more: Any) -> str:
    """An event of /v1/completions."""
    choice: dict[str, Any] = {"index": 0, "text": piece, "logprobs": None, "finish_reason": finish}
    if ids is not None:
        choice["token_ids"] = ids
    return chunk([choice], **more)


def delta(fields: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> str:
    """An event of /v1/chat/completions; `delta("a")` is content."""
    choice = {"index": 0, "delta": fields, "logprobs": None, "finish_reason": finish}
    return chunk([choice], **more)


def say(words: str, finish: str | None = None, **more: Any) -> str:
    return delta({"content": words}, finish, **more)


def think(words: str, field: str = "reasoning_content", **more: Any) -> str:
    return delta({field: words}, **more)


def call(name: str | None, arguments: str | None, **more: Any) -> str:
    function = {"name": name, "arguments": arguments}
    return delta({"tool_calls": [{"index": 0, "id": "0", "type": "function", "function": function}]}, **more)


ROLE = delta({"role": "assistant", "content": ""})
ROLE_NULL = delta({"role": "assistant", "content": None})


class Table:
    def __init__(self) -> None:
        self.cases: list[Case] = []

    def add(
        self,
        api: Api,
        name: str,
        body: Sequence[str] = (),
        events: Sequence[tuple[Any, ...]] = (),
        source: TokenSource = NONE,
        outcome: Outcome = Outcome.OK,
        *,
        variants: bool = False,
        **fields: Any,
    ) -> None:
        """One case; with `variants` also as it looks framed and cut in every other way."""
        names = set(Expected.__struct_fields__) - {"status"}
        expected = {key: fields.pop(key) for key in list(fields) if key in names}
        expected["status"] = fields.pop("code", 200)
        wanted = Expected(
            outcome=outcome, source=source, events=[ExpectedEvent(*event) for event in events], **expected
        )
        given = {"api": api, "body": list(body), "expected": wanted, **fields}
        self.cases.append(Case(name=f"{api}: {name}", **given))
        if variants:
            for reads in ("one", 1, 7, 100):
                self.cases.append(Case(name=f"{api}: {name}, reads={reads}", **{**given, "reads": reads}))
            for framing in ("length", "close"):
                self.cases.append(Case(name=f"{api}: {name}, {framing}", **{**given, "framing": framing}))


def cases() -> list[Case]:
    import corpus_chat
    import corpus_completions
    import corpus_cut
    import corpus_errors
    import corpus_tgi

    table = Table()
    corpus_tgi.tgi(table)
    corpus_completions.completions(table)
    corpus_chat.chat(table)
    corpus_errors.error_events(table)
    corpus_errors.http_errors(table)
    corpus_cut.cut(table)
    corpus_cut.no_stream(table)
    corpus_cut.nothing_at_all(table)
    return table.cases


def main() -> None:
    encode = msgspec.json.Encoder().encode
    sys.stdout.write("".join(encode(case).decode() + "\n" for case in cases()))


if __name__ == "__main__":
    main()

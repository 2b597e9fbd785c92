"""Streams of TGI's own route: see `corpus_table`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from corpus_table import DONE, EACH, data, token

from bench.types import Api, Outcome

if TYPE_CHECKING:
    from corpus_table import Table


def tgi(table: "Table") -> None:
    def add(name: str, body: Sequence[str], events: Sequence[tuple[Any, ...]], **fields: Any) -> None:
        table.add(Api.TGI, name, body, events, EACH, kind=fields.pop("kind", "tgi"), **fields)

    length = {"finish_reason": "length", "input_tokens": 3}
    last = token(" is", 3, last="The sea is", input_length=3)
    three = [token("The"), token(" sea", 2), last]
    add("three tokens", three, [(0, 1), (1, 1), (2, 1)], text="The sea is", variants=True, **length)
    add("one token", [token("a", last="a", input_length=3)], [(0, 1)], text="a", **length)
    end = token("</s>", 2, special=True, last="The", input_length=3, finish_reason="eos_token")
    add(
        "the end token counts, but is no text",
        [token("The"), end],
        [(0, 1), (1, 1)],
        text="The",
        finish_reason="eos_token",
        input_tokens=3,
        variants=True,
    )
    add("without details", [token("a"), token("b", 2, last="ab")], [(0, 1), (1, 1)], text="ab")
    add("details without the generated text", [token("a", input_length=3)], [(0, 1)], text="a", **length)
    add("the generated text is empty", [token("</s>", special=True, last="")], [(0, 1)])
    held = [token("", 1), token("é", 2, last="é")]
    add("a token whose text is held back", held, [(0, 1), (1, 1)], text="é", variants=True)
    add(
        "letters of several bytes",
        [token("日本"), token("語😀", 2, last="")],
        [(0, 1), (1, 1)],
        text="日本語😀",
        variants=True,
    )
    two = [token("a") + token("b", 2), token("c", 3, last="abc")]
    add("two tokens in one write", two, [(0, 1), (0, 1), (1, 1)], text="abc")
    add(
        "four tokens in one write",
        ["".join(token("a", i) for i in (1, 2, 3)) + token("a", 4, last="aaaa")],
        [(0, 1)] * 4,
        text="aaaa",
    )
    add(
        "keep-alive comments",
        [":\n\n", token("a"), ": ping\n\n", token("b", 2, last="ab")],
        [(1, 1), (3, 1)],
        text="ab",
        variants=True,
    )
    add(
        "without a space after the colon",
        [s.replace("data: ", "data:") for s in three],
        [(0, 1), (1, 1), (2, 1)],
        text="The sea is",
        **length,
    )
    add(
        "lines end with CR LF",
        [s.replace("\n", "\r\n") for s in three],
        [(0, 1), (1, 1), (2, 1)],
        text="The sea is",
        variants=True,
        **length,
    )
    add("a [DONE] that TGI does not send", [token("a", last="a"), DONE], [(0, 1)], text="a")
    add(
        "the last blank line is missing",
        [token("a"), token("b", 2, last="ab").rstrip("\n")],
        [(0, 1), (1, 1)],
        text="ab",
    )
    timings = {"queue": 0.25, "prefill": 0.5, "decode": 1.5, "cached_tokens": 16}
    add(
        "our own times",
        [token("a", last="a", input_length=3, timings=timings)],
        [(0, 1)],
        text="a",
        kind="ours",
        server={"queue": 0.25, "prefill": 0.5, "decode": 1.5},
        cached_tokens=16,
        **length,
    )
    add(
        "times in the head",
        [token("a", last="a")],
        [(0, 1)],
        text="a",
        headers={"x-queue-time": "12"},
        server={"queue": 0.012},
    )
    add("a time in the head that is none", [token("a", last="a")], [(0, 1)], text="a", headers={"x-queue-time": "soon"})
    add(
        "with top tokens",
        [
            data(
                {
                    "index": 1,
                    "token": {"id": 1, "text": "a", "logprob": None, "special": False},
                    "top_tokens": [],
                    "generated_text": "a",
                    "details": None,
                }
            )
        ],
        [(0, 1)],
        text="a",
    )
    nothing = data({"index": 1, "token": None, "generated_text": "", "details": None})
    table.add(
        Api.TGI, "complete without a token", [nothing], [], EACH, Outcome.EMPTY, error="without a token", kind="tgi"
    )

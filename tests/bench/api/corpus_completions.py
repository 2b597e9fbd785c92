"""Streams of /v1/completions: see `corpus_table`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from corpus_table import DELTA, DONE, EACH, EVENTS, IDS, SPREAD, chunk, data, text, usage

from bench.types import Api

if TYPE_CHECKING:
    from corpus_table import Table

UNFINISHED_DONE = DONE.rstrip("\n")


def completions(table: "Table") -> None:
    def add(
        name: str, body: Sequence[str], events: Sequence[tuple[Any, ...]], source: Any = DELTA, **fields: Any
    ) -> None:
        table.add(Api.COMPLETIONS, name, body, events, source, **fields)

    stop = {"finish_reason": "stop"}
    for k in range(1, 9):
        body = [
            text("w" * k, usage=usage(5, k)),
            text("w" * k, "length", usage=usage(5, 2 * k)),
            chunk([], usage=usage(5, 2 * k)),
            DONE,
        ]
        add(
            f"{k} tokens in each event",
            body,
            [(0, k), (1, k)],
            text="w" * 2 * k,
            finish_reason="length",
            input_tokens=5,
            kind="vllm",
            variants=k in (1, 3),
        )
    uneven = [text("a", usage=usage(5, 1)), text("bcd", usage=usage(5, 4)), text("e", "stop", usage=usage(5, 5)), DONE]
    add(
        "uneven steps",
        uneven,
        [(0, 1), (1, 3), (2, 1)],
        text="abcde",
        input_tokens=5,
        kind="sglang",
        variants=True,
        **stop,
    )
    add(
        "text held back, then released",
        [text("", usage=usage(5, 1)), text("é", "stop", usage=usage(5, 2)), DONE],
        [(0, 1), (1, 1)],
        text="é",
        input_tokens=5,
        kind="vllm",
        **stop,
    )
    add(
        "the end token comes with the last, empty event",
        [text("a", usage=usage(5, 1)), text("", "stop", usage=usage(5, 2)), DONE],
        [(0, 1), (1, 1)],
        text="a",
        input_tokens=5,
        kind="vllm",
        **stop,
    )
    add(
        "text without a token",
        [text("a", usage=usage(5, 1)), text("b", "stop", usage=usage(5, 1)), DONE],
        [(0, 1)],
        text="ab",
        input_tokens=5,
        **stop,
    )
    add(
        "an event without text or token",
        [text("a", usage=usage(5, 1)), text("", usage=usage(5, 1)), text("b", "stop", usage=usage(5, 2)), DONE],
        [(0, 1), (2, 1)],
        text="ab",
        input_tokens=5,
        **stop,
    )
    add(
        "a count that goes back is no token",
        [text("a", usage=usage(5, 2)), text("b", usage=usage(5, 1)), text("c", "stop", usage=usage(5, 3)), DONE],
        [(0, 2), (2, 1)],
        text="abc",
        input_tokens=5,
        **stop,
    )
    add(
        "counts, and a final one that is higher",
        [text("a", usage=usage(5, 1)), text("", "stop"), chunk([], usage=usage(5, 2)), DONE],
        [(0, 1), (1, 1)],
        text="a",
        input_tokens=5,
        **stop,
    )
    add(
        "counts and ids: counts win",
        [text("ab", ids=[1], usage=usage(5, 2)), text("", "stop", ids=[2], usage=usage(5, 3)), DONE],
        [(0, 2), (1, 1)],
        text="ab",
        input_tokens=5,
        **stop,
    )
    add(
        "ids",
        [text("a", ids=[7]), text("bc", ids=[8, 9]), text("", "length", ids=[]), DONE],
        [(0, 1), (1, 2)],
        IDS,
        text="abc",
        finish_reason="length",
        variants=True,
    )
    add(
        "ids of a token without text",
        [text("a", ids=[7]), text("", "stop", ids=[2]), DONE],
        [(0, 1), (1, 1)],
        IDS,
        text="a",
        **stop,
    )
    add(
        "ids and a final count",
        [text("a", ids=[7]), text("bc", "stop", ids=[8, 9]), chunk([], usage=usage(5, 3)), DONE],
        [(0, 1), (1, 2)],
        IDS,
        text="abc",
        input_tokens=5,
        **stop,
    )
    final = [text("a"), text("b"), text("c", "length"), chunk([], usage=usage(5, 3)), DONE]
    add(
        "a final count, one each",
        final,
        [(0, 1), (1, 1), (2, 1)],
        SPREAD,
        text="abc",
        finish_reason="length",
        input_tokens=5,
        variants=True,
    )
    add(
        "a final count, spread by length",
        [text("aaa"), text("b", "length"), chunk([], usage=usage(5, 6)), DONE],
        [(0, 4), (1, 2)],
        SPREAD,
        text="aaab",
        finish_reason="length",
        input_tokens=5,
    )
    add(
        "fewer tokens than events",
        [text("a"), text("b"), text("c"), text("d", "length"), chunk([], usage=usage(5, 2)), DONE],
        [(0, 0.5), (1, 0.5), (2, 0.5), (3, 0.5)],
        SPREAD,
        text="abcd",
        finish_reason="length",
        input_tokens=5,
    )
    add(
        "usage: null until the end",
        [text("a", usage=None), text("b", "stop", usage=None), chunk([], usage=usage(5, 2)), DONE],
        [(0, 1), (1, 1)],
        SPREAD,
        text="ab",
        input_tokens=5,
        **stop,
    )
    add(
        "the count is on the last event",
        [text("a"), text("b", "eos_token", usage=usage(5, 2)), DONE],
        [(0, 1), (1, 1)],
        SPREAD,
        text="ab",
        input_tokens=5,
        finish_reason="eos_token",
        variants=True,
    )
    add(
        "the only event has the count",
        [text("abc", "stop", usage=usage(5, 3)), DONE],
        [(0, 3)],
        text="abc",
        input_tokens=5,
        **stop,
    )
    add(
        "counts in some events only",
        [text("a", usage=usage(5, 1)), text("b"), text("c", "stop", usage=usage(5, 3)), DONE],
        [(0, 1), (1, 1), (2, 1)],
        SPREAD,
        text="abc",
        input_tokens=5,
        **stop,
    )
    each = [text("a"), text(""), text("b", "length"), chunk([], usage=usage(5, 3)), DONE]
    for kind in ("tgi", "ours"):
        add(
            f"{kind}: one event for each token",
            each,
            [(0, 1), (1, 1), (2, 1)],
            EACH,
            text="ab",
            finish_reason="length",
            input_tokens=5,
            kind=kind,
        )
    add(
        "tgi, but the count does not confirm it",
        [text("a"), text("b", "length"), chunk([], usage=usage(5, 4)), DONE],
        [(0, 2), (1, 2)],
        SPREAD,
        text="ab",
        finish_reason="length",
        input_tokens=5,
        kind="tgi",
    )
    add(
        "nobody counts",
        [text("a"), text(""), text("b", "stop"), DONE],
        [(0, 1), (2, 1)],
        EVENTS,
        text="ab",
        variants=True,
        **stop,
    )
    timed = [
        text("a", timings={"prompt_n": 4, "prompt_ms": 20.0, "predicted_n": 1, "predicted_ms": 5.0, "cache_n": 3}),
        text(
            "",
            "stop",
            usage=usage(7, 2),
            timings={"prompt_n": 4, "prompt_ms": 20.0, "predicted_n": 2, "predicted_ms": 9.0, "cache_n": 3},
        ),
        DONE,
    ]
    add(
        "llama.cpp's timings",
        timed,
        [(0, 1), (1, 1)],
        text="a",
        input_tokens=7,
        cached_tokens=3,
        server={"prefill": 0.02, "decode": 0.009},
        kind="llama.cpp",
        **stop,
    )
    metrics = {
        "queue_time_ms": 5.0,
        "time_to_first_token_ms": 40.0,
        "generation_time_ms": 90.0,
        "mean_itl_ms": 3.0,
        "tokens_per_second": None,
    }
    add(
        "vLLM's metrics",
        [text("a", "stop", usage=usage(5, 1)), chunk([], usage=usage(5, 1), metrics=metrics), DONE],
        [(0, 1)],
        text="a",
        input_tokens=5,
        server={"queue": 0.005, "prefill": 0.04, "decode": 0.09},
        kind="vllm",
        **stop,
    )
    add(
        "metrics that mean something else",
        [text("a", "stop", usage=usage(5, 1), metrics="none", timings=[1]), DONE],
        [(0, 1)],
        text="a",
        input_tokens=5,
        **stop,
    )
    cached = usage(5, 1, prompt_tokens_details={"cached_tokens": 4})
    add(
        "cached tokens",
        [text("a", "stop", usage=cached), DONE],
        [(0, 1)],
        text="a",
        input_tokens=5,
        cached_tokens=4,
        **stop,
    )
    add(
        "no details of the prompt",
        [text("a", "stop", usage=usage(5, 1, prompt_tokens_details=None)), DONE],
        [(0, 1)],
        text="a",
        input_tokens=5,
        **stop,
    )
    add(
        "finish reasons that are empty",
        [text("a", "", usage=usage(5, 1)), text("b", "length", usage=usage(5, 2)), DONE],
        [(0, 1), (1, 1)],
        text="ab",
        finish_reason="length",
        input_tokens=5,
    )
    add(
        "error: null",
        [text("a", "stop", usage=usage(5, 1), error=None), DONE],
        [(0, 1)],
        text="a",
        input_tokens=5,
        **stop,
    )
    add(
        "the answer talks of errors",
        [text('{"error": "x"}', "stop", usage=usage(5, 4)), DONE],
        [(0, 4)],
        text='{"error": "x"}',
        input_tokens=5,
        **stop,
    )
    add(
        "the answer talks of the end",
        [text("data: [DONE]\n\n", "stop", usage=usage(5, 4)), DONE],
        [(0, 4)],
        text="data: [DONE]\n\n",
        input_tokens=5,
        variants=True,
        **stop,
    )
    add(
        "ids, events and retries of the stream",
        ["retry: 5\n\n", "id: 7\nevent: message\n" + text("a", "stop", usage=usage(5, 1)), DONE],
        [(1, 1)],
        text="a",
        input_tokens=5,
        **stop,
    )
    add(
        "an event over two data lines",
        ['data: {"choices":[{"text":"a",\ndata: "finish_reason":"stop"}],"usage":{"completion_tokens":1}}\n\n', DONE],
        [(0, 1)],
        text="a",
        **stop,
    )
    add(
        "comments within an event",
        [": x\n" + text("a", "stop", usage=usage(5, 1)), DONE],
        [(0, 1)],
        text="a",
        input_tokens=5,
        **stop,
    )
    add(
        "a byte order mark",
        ["\ufeff" + text("a", "stop", usage=usage(5, 1)), DONE],
        [(0, 1)],
        text="a",
        input_tokens=5,
        **stop,
    )
    add(
        "[DONE] without its blank line",
        [text("a", "stop", usage=usage(5, 1)), UNFINISHED_DONE],
        [(0, 1)],
        text="a",
        input_tokens=5,
        **stop,
    )
    add(
        "choices: null",
        [chunk([], usage=None), data({"choices": None}), text("a", "stop", usage=usage(5, 1)), DONE],
        [(2, 1)],
        text="a",
        input_tokens=5,
        **stop,
    )
    add(
        "no content type",
        [text("a", "stop", usage=usage(5, 1)), DONE],
        [(0, 1)],
        text="a",
        input_tokens=5,
        content_type="",
        **stop,
    )
    add(
        "a charset",
        [text("a", "stop", usage=usage(5, 1)), DONE],
        [(0, 1)],
        text="a",
        input_tokens=5,
        content_type="Text/Event-Stream; charset=utf-8",
        **stop,
    )
    add(
        "words after [DONE]",
        [text("a", "stop", usage=usage(5, 1)), DONE, text("b", usage=usage(5, 2))],
        [(0, 1)],
        text="a",
        input_tokens=5,
        **stop,
    )
    add(
        "broken after [DONE]",
        [text("a", "stop", usage=usage(5, 1)), DONE],
        [(0, 1)],
        text="a",
        input_tokens=5,
        lost=5,
        broken="reset",
        **stop,
    )
    add(
        "timed out after [DONE]",
        [text("a", "stop", usage=usage(5, 1)), DONE],
        [(0, 1)],
        text="a",
        input_tokens=5,
        lost=5,
        timed_out=True,
        **stop,
    )

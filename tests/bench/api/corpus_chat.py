"""Streams of /v1/chat/completions: see `corpus_table`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from corpus_table import (
    DELTA,
    DONE,
    EACH,
    EVENTS,
    ROLE,
    ROLE_NULL,
    SPREAD,
    call,
    chunk,
    delta,
    say,
    think,
    usage,
)

from bench.types import Api

if TYPE_CHECKING:
    from corpus_table import Table


def chat(table: "Table") -> None:
    def add(
        name: str, body: Sequence[str], events: Sequence[tuple[Any, ...]], source: Any = DELTA, **fields: Any
    ) -> None:
        table.add(Api.CHAT, name, body, events, source, **fields)

    stop = {"finish_reason": "stop", "input_tokens": 5}
    zero = usage(5, 0)
    early = delta({"role": "assistant", "content": ""}, usage=zero)
    final = chunk([], usage=usage(5, 2))
    add(
        "the role comes alone and early",
        [ROLE, say("a"), say("b", "stop"), final, DONE],
        [(1, 1), (2, 1)],
        SPREAD,
        text="ab",
        variants=True,
        **stop,
    )
    add(
        "the role comes with null",
        [ROLE_NULL, say("a"), say("b", "stop"), final, DONE],
        [(1, 1), (2, 1)],
        SPREAD,
        text="ab",
        **stop,
    )
    add(
        "the role comes with the first words",
        [delta({"role": "assistant", "content": "a"}), say("b", "stop"), final, DONE],
        [(0, 1), (1, 1)],
        SPREAD,
        text="ab",
        **stop,
    )
    add(
        "the role comes in every event",
        [delta({"role": "assistant", "content": c}, f) for c, f in (("a", None), ("b", "stop"))] + [final, DONE],
        [(0, 1), (1, 1)],
        SPREAD,
        text="ab",
        **stop,
    )
    add(
        "counts from the role on",
        [early, say("a", usage=usage(5, 1)), say("b", "stop", usage=usage(5, 2)), final, DONE],
        [(1, 1), (2, 1)],
        text="ab",
        kind="vllm",
        variants=True,
        **stop,
    )
    add(
        "a step of two",
        [early, say("ab", usage=usage(5, 2)), delta({}, "stop", usage=usage(5, 3)), DONE],
        [(1, 2), (2, 1)],
        text="ab",
        **stop,
    )
    add(
        "an empty delta at the end",
        [ROLE, say("a"), say("b"), delta({}, "stop"), final, DONE],
        [(1, 1), (2, 1)],
        SPREAD,
        text="ab",
        **stop,
    )
    add(
        "delta: null at the end",
        [say("a"), say("b"), delta(None, "stop"), final, DONE],
        [(0, 1), (1, 1)],
        SPREAD,
        text="ab",
        **stop,
    )
    add(
        "the count is on the event that ends",
        [say("a"), say("b"), delta({}, "stop", usage=usage(5, 2)), DONE],
        [(0, 1), (1, 1)],
        SPREAD,
        text="ab",
        **stop,
    )
    for field in ("reasoning_content", "reasoning"):
        body = [
            early,
            think("hm", field, usage=usage(5, 1)),
            think("..", field, usage=usage(5, 3)),
            say("a", "stop", usage=usage(5, 4)),
            DONE,
        ]
        add(
            f"thoughts in {field}",
            body,
            [(1, 1, "reasoning"), (2, 2, "reasoning"), (3, 1)],
            text="a",
            variants=field == "reasoning",
            **stop,
        )
    add(
        "only thoughts",
        [think("hm", usage=usage(5, 1)), delta({}, "length", usage=usage(5, 2)), DONE],
        [(0, 1, "reasoning"), (1, 1, "reasoning")],
        finish_reason="length",
        input_tokens=5,
    )
    add(
        "thoughts, spread",
        [think("aa"), say("bb", "stop"), chunk([], usage=usage(5, 4)), DONE],
        [(0, 2, "reasoning"), (1, 2)],
        SPREAD,
        text="bb",
        **stop,
    )
    add(
        "empty thoughts beside words",
        [delta({"content": "a", "reasoning_content": ""}, "stop", usage=usage(5, 1)), DONE],
        [(0, 1)],
        text="a",
        **stop,
    )
    add(
        "empty words beside thoughts",
        [
            delta({"content": "", "reasoning_content": "hm"}, usage=usage(5, 1)),
            say("a", "stop", usage=usage(5, 2)),
            DONE,
        ],
        [(0, 1, "reasoning"), (1, 1)],
        text="a",
        **stop,
    )
    add(
        "null words beside thoughts",
        [
            delta({"content": None, "reasoning_content": "hm"}, usage=usage(5, 1)),
            say("a", "stop", usage=usage(5, 2)),
            DONE,
        ],
        [(0, 1, "reasoning"), (1, 1)],
        text="a",
        **stop,
    )
    tools = [
        ROLE_NULL,
        call("sum", "", usage=usage(5, 2)),
        call(None, '{"a":', usage=usage(5, 5)),
        call(None, "1}", usage=usage(5, 6)),
        delta({}, "tool_calls", usage=usage(5, 7)),
        DONE,
    ]
    add(
        "a tool call",
        tools,
        [(1, 2, "tool"), (2, 3, "tool"), (3, 1, "tool"), (4, 1, "tool")],
        finish_reason="tool_calls",
        input_tokens=5,
        variants=True,
    )
    add(
        "a tool call, spread",
        [call("sum", "{"), call(None, "}x"), delta({}, "tool_calls"), chunk([], usage=usage(5, 5)), DONE],
        [(0, 3, "tool"), (1, 2, "tool")],
        SPREAD,
        finish_reason="tool_calls",
        input_tokens=5,
    )
    add(
        "a tool call without a finish reason",
        [call("f", "{}", usage=usage(5, 3)), DONE],
        [(0, 3, "tool")],
        input_tokens=5,
        kind="tgi",
    )
    add(
        "a tool call that only has an id",
        [
            delta({"tool_calls": [{"index": 0, "id": "x", "function": None}]}, usage=usage(5, 0)),
            call("f", "{}", usage=usage(5, 3)),
            DONE,
        ],
        [(1, 3, "tool")],
        input_tokens=5,
    )
    add(
        "two tool calls in one event",
        [
            delta(
                {"tool_calls": [{"function": {"name": "f"}}, {"function": {"name": "g", "arguments": "{}"}}]},
                "tool_calls",
                usage=usage(5, 6),
            ),
            DONE,
        ],
        [(0, 6, "tool")],
        finish_reason="tool_calls",
        input_tokens=5,
    )
    add(
        "words, then a tool call",
        [say("a", usage=usage(5, 1)), call("f", "{}", usage=usage(5, 3)), DONE],
        [(0, 1), (1, 2, "tool")],
        text="a",
        input_tokens=5,
    )
    predicted = [
        delta({"role": "assistant", "content": None})
        + say("a", timings={"prompt_ms": 10.0, "predicted_n": 1, "predicted_ms": 1.0}),
        say("b", timings={"prompt_ms": 10.0, "predicted_n": 2, "predicted_ms": 2.0}),
        delta({}, "stop"),
        chunk([], usage=usage(5, 3), timings={"prompt_ms": 10.0, "predicted_n": 3, "predicted_ms": 3.0}),
        DONE,
    ]
    add(
        "llama.cpp",
        predicted,
        [(0, 1), (1, 1), (2, 1)],
        text="ab",
        server={"prefill": 0.01, "decode": 0.003},
        kind="llama.cpp",
        variants=True,
        **stop,
    )
    for kind in ("tgi", "ours"):
        add(
            f"{kind}: one event for each token",
            [say("a"), say(""), say("b"), say("", "stop"), chunk([], usage=usage(5, 4)), DONE],
            [(0, 1), (1, 1), (2, 1), (3, 1)],
            EACH,
            text="ab",
            kind=kind,
            **stop,
        )
    add(
        "a refusal is not counted as words",
        [say("a", "stop", usage=usage(5, 1)), delta({"refusal": None}, usage=usage(5, 1)), DONE],
        [(0, 1)],
        text="a",
        **stop,
    )
    add(
        "usage chunks between the events",
        [say("a"), chunk([], usage=usage(5, 1)), say("b", "stop"), chunk([], usage=usage(5, 2)), DONE],
        [(0, 1), (2, 1)],
        SPREAD,
        text="ab",
        **stop,
    )
    add("nobody counts", [ROLE, think("hm"), say("a"), DONE], [(1, 1, "reasoning"), (2, 1)], EVENTS, text="a")
    add(
        "two choices in one chunk",
        [
            chunk(
                [
                    {"index": 0, "delta": {"content": "a"}},
                    {"index": 1, "delta": {"content": "b"}, "finish_reason": "stop"},
                ],
                usage=usage(5, 2),
            ),
            DONE,
        ],
        [(0, 2)],
        text="ab",
        **stop,
    )
    add(
        "a comment before everything",
        [": OPENROUTER PROCESSING\n\n", say("a", "stop", usage=usage(5, 1)), DONE],
        [(1, 1)],
        text="a",
        variants=True,
        **stop,
    )
    early_hints = "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    add(
        "an interim response first",
        [say("a", "stop", usage=usage(5, 1)), DONE],
        [(0, 1)],
        text="a",
        before=early_hints,
        variants=True,
        **stop,
    )

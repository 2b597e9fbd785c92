"""Answers that are not whole, or no streams: see `corpus_table`."""

import json
from typing import TYPE_CHECKING, Any

from corpus_table import DELTA, DONE, EACH, EVENTS, NONE, ROLE, SPREAD, chunk, delta, say, text, token, usage

from bench.types import Api, Outcome

if TYPE_CHECKING:
    from corpus_table import Table

ONE = text("a", usage=usage(5, 1))
OPENAI = {"error": {"message": "the engine died", "type": "InternalServerError", "param": None, "code": 500}}


def cut(table: "Table") -> None:
    def add(api: Api, name: str, body: list[str], events: Any, source: Any, **fields: Any) -> None:
        fields = {"outcome": Outcome.CUT, "error": "before it was complete", **fields}
        table.add(api, name, body, events, source, **fields)

    tgi, completions, chat = Api
    reset = "connection reset by peer"
    add(tgi, "no last event", [token("a"), token("b", 2)], [(0, 1), (1, 1)], EACH, text="ab", variants=True)
    add(tgi, "reset between events", [token("a")], [(0, 1)], EACH, text="a", broken=reset, lost=5, error=reset)
    add(
        tgi,
        "reset within an event",
        [token("a"), token("b", 2, last="ab")],
        [(0, 1)],
        EACH,
        text="a",
        broken=reset,
        lost=20,
    )
    add(
        completions,
        "no [DONE]",
        [ONE, text("b", "stop", usage=usage(5, 2))],
        [(0, 1), (1, 1)],
        DELTA,
        text="ab",
        finish_reason="stop",
        input_tokens=5,
        variants=True,
    )
    add(
        completions,
        "reset after the first event",
        [ONE],
        [(0, 1)],
        DELTA,
        text="a",
        input_tokens=5,
        broken=reset,
        lost=5,
        error=reset,
    )
    add(completions, "cut within [DONE]", [ONE, DONE], [(0, 1)], DELTA, text="a", input_tokens=5, broken=reset, lost=11)
    add(
        completions,
        "cut within an event",
        [ONE, text("b", "stop")],
        [(0, 1)],
        DELTA,
        text="a",
        input_tokens=5,
        broken=reset,
        lost=40,
    )
    add(
        completions,
        "nobody counted so far",
        [text("a"), text("b")],
        [(0, 1), (1, 1)],
        EVENTS,
        text="ab",
        broken=reset,
        lost=5,
    )
    add(
        completions,
        "cut before the final count",
        [text("a"), text("b", "stop"), chunk([], usage=usage(5, 2))],
        [(0, 1), (1, 1)],
        EVENTS,
        text="ab",
        finish_reason="stop",
        broken=reset,
        lost=30,
    )
    add(completions, "closed in good order", [ONE], [(0, 1)], DELTA, text="a", input_tokens=5, framing="close")
    add(
        completions,
        "fewer bytes than the length says",
        [ONE, DONE],
        [(0, 1)],
        DELTA,
        text="a",
        input_tokens=5,
        framing="length",
        lost=14,
        broken=reset,
    )
    unfinished = [ROLE, say("a"), say("b", "stop")]
    add(chat, "no [DONE]", unfinished, [(1, 1), (2, 1)], EVENTS, text="ab", finish_reason="stop")
    add(chat, "the role, and no more", [ROLE], [], NONE, broken=reset, lost=5)
    add(
        chat,
        "all but [DONE]",
        [ROLE, say("a", "stop"), chunk([], usage=usage(5, 1))],
        [(1, 1)],
        SPREAD,
        text="a",
        finish_reason="stop",
        input_tokens=5,
    )
    for api in Api:
        head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        begin = {"outcome": Outcome.CUT, "events": [], "source": NONE}
        table.add(api, "the head, and no more", [], **begin, raw=head, broken=reset, error="before its first event")
        table.add(api, "a stream of nothing", [], **begin, raw=head + "0\r\n\r\n", error="before its first event")
        table.add(api, "half a head", [], **begin, raw=head[:30], broken=reset, error="before the head", code=0)
        table.add(api, "no answer", [], **begin, raw="", broken=reset, error=reset, code=0)
        table.add(api, "not HTTP", [], **begin, raw="SSH-2.0-OpenSSH_9.6\r\n", error="not HTTP", code=0)
        table.add(api, "a chunk of no size", [], **begin, raw=head + "xyz\r\n", error="a chunk has the size", code=0)
        table.add(api, "only comments", [": ping\n\n"], **begin, error="before its first event")
    early, late = [token("a"), token("b", 2)], [ROLE, say("a", usage=usage(5, 1))]
    over = {"lost": 5, "input_tokens": 5, "text": "a"}
    add(
        tgi,
        "a timeout between tokens",
        early,
        [(0, 1), (1, 1)],
        EACH,
        outcome=Outcome.TIMEOUT,
        timed_out=True,
        lost=5,
        text="ab",
        error="within",
    )
    add(
        chat,
        "a timeout between words",
        late,
        [(1, 1)],
        DELTA,
        outcome=Outcome.TIMEOUT,
        timed_out=True,
        error="within",
        **over,
    )
    add(
        tgi,
        "cancelled between tokens",
        early,
        [(0, 1), (1, 1)],
        EACH,
        outcome=Outcome.CANCELLED,
        cancelled=True,
        lost=5,
        text="ab",
        error="the run ended",
    )
    add(
        chat,
        "cancelled between words",
        late,
        [(1, 1)],
        DELTA,
        outcome=Outcome.CANCELLED,
        cancelled=True,
        error="the run ended",
        **over,
    )
    for outcome, flag in ((Outcome.TIMEOUT, "timed_out"), (Outcome.CANCELLED, "cancelled")):
        table.add(completions, f"{outcome} before the head", outcome=outcome, raw="", code=0, error="", **{flag: True})
        table.add(
            completions,
            f"{outcome} after the head",
            outcome=outcome,
            raw="HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n",
            error="",
            **{flag: True},
        )


def no_stream(table: "Table") -> None:
    def add(name: str, body: list[str], **fields: Any) -> None:
        fields = {"error": "not a stream", "framing": "length", **fields}
        table.add(Api.COMPLETIONS, name, body, outcome=Outcome.NOT_A_STREAM, **fields)

    whole = json.dumps({"object": "text_completion", "choices": [{"text": "a"}], "usage": usage(5, 1)})
    add("the whole answer as JSON", [whole], content_type="application/json")
    add("the whole answer as JSON, in chunks", [whole], content_type="application/json", framing="chunked")
    add("JSON that claims to be a stream", [whole])
    add("a web page", ["<!doctype html>\n\n<p>data: hello"], content_type="text/html; charset=utf-8")
    add("lines of text", ["hello\nworld\n\n"], content_type="text/plain")
    add("an empty body", [], content_type="application/json")
    add("JSON lines", [whole + "\n" + whole + "\n"], content_type="application/x-ndjson")
    add("an error with status 200", [json.dumps(OPENAI)], content_type="application/json", error="the engine died")
    table.add(
        Api.TGI,
        "the whole answer as JSON",
        [json.dumps([{"generated_text": "a"}])],
        outcome=Outcome.NOT_A_STREAM,
        content_type="application/json",
        framing="length",
        error="not a stream",
    )
    table.add(
        Api.CHAT,
        "complete without a token",
        [ROLE, delta({}, "stop"), DONE],
        outcome=Outcome.EMPTY,
        finish_reason="stop",
        error="without a token",
        variants=True,
    )
    table.add(
        Api.CHAT,
        "complete, and counted as nothing",
        [ROLE, delta({}, "stop"), chunk([], usage=usage(5, 0)), DONE],
        [],
        SPREAD,
        Outcome.EMPTY,
        finish_reason="stop",
        input_tokens=5,
        error="without a token",
    )
    table.add(Api.CHAT, "only [DONE]", [DONE], outcome=Outcome.EMPTY, error="without a token")
    table.add(
        Api.COMPLETIONS,
        "only usage",
        [chunk([], usage=usage(5, 0)), DONE],
        [],
        SPREAD,
        Outcome.EMPTY,
        input_tokens=5,
        error="without a token",
    )
    table.add(
        Api.COMPLETIONS,
        "an empty text",
        [text("", "stop"), DONE],
        outcome=Outcome.EMPTY,
        finish_reason="stop",
        error="without a token",
    )
    table.add(
        Api.COMPLETIONS,
        "an end token and no text",
        [text("", "stop", usage=usage(5, 1)), DONE],
        [(0, 1)],
        DELTA,
        finish_reason="stop",
        input_tokens=5,
    )


def nothing_at_all(table: "Table") -> None:
    for api in Api:
        common = {"raw": "", "code": 0, "sent": False}
        table.add(
            api,
            "no connection",
            outcome=Outcome.CONNECT,
            connect_error="connection refused",
            error="connection refused",
            **common,
        )
        table.add(api, "never sent", outcome=Outcome.NEVER_SENT, error="before this request was sent", **common)
        table.add(
            api,
            "cancelled before it was sent",
            outcome=Outcome.NEVER_SENT,
            cancelled=True,
            error="before this request was sent",
            **common,
        )

"""Answers that say that something failed: see `corpus_table`."""

import json
from typing import TYPE_CHECKING, Any

from corpus_table import DELTA, DONE, EACH, EVENTS, NONE, ROLE, data, say, text, token, usage

from bench.types import Api, Outcome

if TYPE_CHECKING:
    from corpus_table import Table

ONE = text("a", usage=usage(5, 1))
NATIVE = {"error": "Model is overloaded", "error_type": "overloaded"}
OPENAI = {"error": {"message": "the engine died", "type": "InternalServerError", "param": None, "code": 500}}


def error_events(table: "Table") -> None:
    def add(api: Api, name: str, body: list[str], events: Any, source: Any, error: str, **fields: Any) -> None:
        table.add(api, name, body, events, source, Outcome.STREAM_ERROR, error=error, **fields)

    tgi, completions, chat = Api
    add(tgi, "refused in the stream", [data(NATIVE)], [], EACH, "Model is overloaded", kind="tgi")
    add(
        tgi,
        "an error after two tokens",
        [token("a"), token("b", 2), data(NATIVE)],
        [(0, 1), (1, 1)],
        EACH,
        "overloaded",
        text="ab",
        kind="tgi",
        variants=True,
    )
    add(
        tgi,
        "an error after the end",
        [token("a", last="a"), data(NATIVE)],
        [(0, 1)],
        EACH,
        "overloaded",
        text="a",
        kind="tgi",
    )
    add(completions, "refused in the stream", [data(OPENAI), DONE], [], NONE, "the engine died")
    add(
        completions,
        "an error, then [DONE]",
        [ONE, data(OPENAI), DONE],
        [(0, 1)],
        DELTA,
        "the engine died",
        text="a",
        input_tokens=5,
        variants=True,
    )
    add(
        completions,
        "an error, then nothing",
        [ONE, data(OPENAI)],
        [(0, 1)],
        DELTA,
        "the engine died",
        text="a",
        input_tokens=5,
    )
    add(
        completions,
        "an error that is a string",
        [ONE, data({"error": "out of memory"}), DONE],
        [(0, 1)],
        DELTA,
        "out of memory",
        text="a",
        input_tokens=5,
    )
    add(
        completions,
        "an error without words",
        [ONE, data({"error": {"code": 500}}), DONE],
        [(0, 1)],
        DELTA,
        '{"code":500}',
        text="a",
        input_tokens=5,
    )
    old = {"object": "error", "message": "too long", "type": "BadRequestError", "code": 400}
    add(completions, "an error in the old form", [data(old), DONE], [], NONE, "too long")
    add(
        completions,
        "an event named error",
        [ONE, "event: error\n" + data({"message": "no more"}), DONE],
        [(0, 1)],
        DELTA,
        "no more",
        text="a",
        input_tokens=5,
    )
    add(
        completions,
        "an error field",
        [ONE, "error: " + json.dumps({"message": "slot lost"}) + "\n\n"],
        [(0, 1)],
        DELTA,
        "slot lost",
        text="a",
        input_tokens=5,
    )
    add(
        completions,
        "an event named error, in words",
        [ONE, "event: error\ndata: it broke\n\n"],
        [(0, 1)],
        DELTA,
        "it broke",
        text="a",
        input_tokens=5,
    )
    add(
        completions,
        "an event that is not JSON",
        [ONE, data("{oops"), DONE],
        [(0, 1)],
        DELTA,
        "cannot be read",
        text="a",
        input_tokens=5,
        variants=True,
    )
    add(
        completions,
        "an event that is no object",
        [ONE, data("[]"), DONE],
        [(0, 1)],
        DELTA,
        "cannot be read",
        text="a",
        input_tokens=5,
    )
    add(completions, "text that is no text", [data({"choices": [{"text": 5}]}), DONE], [], NONE, "cannot be read")
    add(
        completions,
        "an error and a timeout",
        [ONE, data(OPENAI)],
        [(0, 1)],
        DELTA,
        "the engine died",
        text="a",
        input_tokens=5,
        timed_out=True,
        lost=5,
    )
    add(chat, "an error instead of the first words", [ROLE, data(OPENAI), DONE], [], NONE, "the engine died")
    broken_off = [ROLE, say("a"), data(OPENAI), DONE]
    add(chat, "an error after words", broken_off, [(1, 1)], EVENTS, "the engine died", text="a")
    add(
        chat,
        "an error beside words",
        [data({"choices": [{"delta": {"content": "a"}}], "error": {"message": "overloaded"}}), DONE],
        [],
        NONE,
        "overloaded",
    )
    add(
        chat,
        "two errors: the first counts",
        [data({"error": "first"}), data({"error": "second"}), DONE],
        [],
        NONE,
        "first",
    )
    fastapi = {"error": {"detail": [{"msg": "field required"}]}}
    add(chat, "an error of FastAPI", [data(fastapi), DONE], [], NONE, "field required")


def http_errors(table: "Table") -> None:
    def add(name: str, status: str, body: str, error: str, **fields: Any) -> None:
        fields = {"api": Api.COMPLETIONS, "content_type": "application/json", "framing": "length", **fields}
        code = int(status[:3])
        table.add(
            fields.pop("api"),
            name,
            [body] if body else [],
            outcome=Outcome.HTTP_ERROR,
            status=status,
            code=code,
            error=error,
            **fields,
        )

    add(
        "overloaded",
        "429 Too Many Requests",
        json.dumps(NATIVE),
        "HTTP 429: Model is overloaded",
        api=Api.TGI,
        variants=True,
    )
    add(
        "invalid",
        "422 Unprocessable Entity",
        json.dumps({"error": "`inputs` cannot be empty", "error_type": "validation"}),
        "cannot be empty",
        api=Api.TGI,
    )
    add(
        "text, not JSON",
        "400 Bad Request",
        "Failed to parse the request body as JSON",
        "HTTP 400: Failed to parse",
        content_type="text/plain",
    )
    add("no words", "401 Unauthorized", "", "HTTP 401: Unauthorized")
    add("no words and no reason", "502 ", "", "HTTP 502: no reason given")
    add(
        "OpenAI's",
        "404 Not Found",
        json.dumps({"error": {"message": "The model `x` does not exist.", "code": 404}}),
        "does not exist",
        api=Api.CHAT,
    )
    add("FastAPI's", "404 Not Found", json.dumps({"detail": "Not Found"}), "HTTP 404: Not Found", api=Api.CHAT)
    add("old vLLM's", "400 Bad Request", json.dumps({"object": "error", "message": "too long"}), "too long")
    add("a page of a proxy", "503 Service Unavailable", "<html>busy</html>", "busy", content_type="text/html")
    add(
        "a stream of errors",
        "500 Internal Server Error",
        data(OPENAI),
        "engine died",
        content_type="text/event-stream",
        framing="chunked",
    )
    add("an error that was cut", "500 Internal Server Error", json.dumps(OPENAI), "HTTP 500: ", broken="reset", lost=10)
    add("an error that took too long", "504 Gateway Timeout", "{", "HTTP 504: ", timed_out=True)
    add("a redirect", "307 Temporary Redirect", "", "HTTP 307", headers={"location": "/elsewhere"})
    add("nothing to say", "204 No Content", "", "HTTP 204")

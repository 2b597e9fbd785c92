"""`tgi generate --url`: what is sent to a server, and what becomes of all it may answer."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from cli_runner import Run, assert_refused


class StubServer:
    """Answers every POST with what a test put here, and keeps what it was sent."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b""
        self.cut = False  # announce more than is sent
        self.path = ""
        self.headers: dict[str, str] = {}
        self.sent: dict[str, Any] = {}
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_POST(self) -> None:
                stub.path, stub.headers = self.path, {name.lower(): value for name, value in self.headers.items()}
                stub.sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(stub.status)
                self.send_header("Content-Length", str(len(stub.body) + stub.cut))
                self.end_headers()
                self.wfile.write(stub.body)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def stream(self, *events: object, end: bytes = b"") -> None:
        self.body = b"".join(b"data:" + json.dumps(event).encode() + b"\n\n" for event in events) + end


@pytest.fixture
def server() -> Iterator[StubServer]:
    stub = StubServer()
    thread = Thread(target=stub.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield stub
    stub.http.shutdown()
    stub.http.server_close()
    thread.join()


def token(id: int, text: str, *, special: bool = False, **last: object) -> dict[str, object]:
    return {"index": id, "token": {"id": id, "text": text, "logprob": -0.5, "special": special}, **last}


TOKENS = (
    token(1, "Hel"),
    token(2, "lo"),
    token(
        3,
        "</s>",
        special=True,
        generated_text="Hello",
        details={"finish_reason": "eos_token", "generated_tokens": 3, "seed": 7},
    ),
)


def delta(text: str, finish: str | None = None) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": finish}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}}


def test_a_completion_comes_from_tgis_route(server: StubServer, tgi: Run) -> None:
    server.stream(*TOKENS)
    result = tgi("generate", "Say hello", "--url", server.url)
    assert (result.code, result.out, result.err) == (0, "Hello", "")
    assert server.path == "/generate_stream"
    assert server.sent == {
        "inputs": "Say hello",
        "parameters": {"details": True, "do_sample": False, "max_new_tokens": 128},
    }
    assert "authorization" not in server.headers


def test_sampling_parameters_are_sent_and_what_is_off_is_not(server: StubServer, tgi: Run) -> None:
    server.stream(*TOKENS)
    flags = "--temperature 0.5 --top-k 0 --top-p 0.9 --min-p 0.1 --typical-p 1 --seed 3 --stop a --stop b --ignore-eos"
    tgi("generate", "x", "--url", server.url, *flags.split(), "--max-new-tokens", "5", "--repetition-penalty", "1.2")
    assert server.sent["parameters"] == {
        "details": True, "do_sample": True, "max_new_tokens": 5, "temperature": 0.5, "top_p": 0.9, "min_p": 0.1,
        "seed": 3, "stop": ["a", "b"], "ignore_eos": True, "repetition_penalty": 1.2,
    }  # fmt: skip
    tgi("generate", "x", "--url", server.url, "--temperature", "0", "--top-p", "0.9")
    assert server.sent["parameters"] == {"details": True, "do_sample": False, "max_new_tokens": 128}


def test_json_from_a_server_is_json_from_here(server: StubServer, tgi: Run) -> None:
    server.stream(*TOKENS)
    answer = json.loads(tgi("generate", "x", "--url", server.url, "--json").out)
    assert answer["generated_text"] == "Hello"
    assert answer["details"] == {
        "finish_reason": "eos_token",
        "generated_tokens": 3,
        "seed": 7,
        "prefill": [],
        "tokens": [item["token"] for item in TOKENS],
    }


@pytest.mark.parametrize("base", ["", "/", "/v1", "/v1/"])
def test_a_chat_comes_from_openais_route(server: StubServer, tgi: Run, base: str) -> None:
    server.stream(delta("Hel"), delta("lo"), delta("", "stop"), USAGE, end=b"data: [DONE]\n\ndata: never\n\n")
    arguments = (
        "--url",
        server.url + base,
        "--system",
        "Be brief.",
        "--model",
        "m",
        "--max-tokens",
        "9",
        "--seed",
        "1",
    )
    result = tgi("generate", "Hi", *arguments)
    assert (result.code, result.out, result.err) == (0, "Hello", "")
    assert server.path == "/v1/chat/completions"
    assert server.sent == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.0,
        "max_tokens": 9,
        "seed": 1,
    }
    details = json.loads(tgi("generate", "Hi", *arguments, "--json").out)["details"]
    assert details == {"finish_reason": "stop", "generated_tokens": 3, "seed": None, "prefill": [], "tokens": []}
    details = json.loads(tgi("generate", "Hi", *arguments, "--json", "--temperature", "1").out)["details"]
    assert details["seed"] == 1


def test_the_key_is_sent_and_never_shown(server: StubServer, tgi: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "canary")
    server.status = 401
    result = tgi("generate", "x", "--url", server.url)
    assert_refused(result, "API_KEY", "401", code=2)
    assert server.headers["authorization"] == "Bearer canary"
    assert "canary" not in result.err


@pytest.mark.parametrize(
    ("status", "body", "words", "code"),
    [
        (422, {"error": "Input validation error: too long", "error_type": "validation"}, ["too long"], 1),
        (429, {"error": "Model is overloaded", "error_type": "overloaded"}, ["Model is overloaded"], 1),
        (424, {"error": "Request failed", "error_type": "generation"}, ["Request failed"], 1),
        (500, {"error": {"message": "broken", "type": "server_error"}}, ["broken", "500"], 1),
        (503, "come back", ["come back", "503"], 1),
        (400, "", ["no reason given", "400"], 1),
        (404, "", ["/generate_stream is not there", "--chat"], 2),
    ],
)
def test_what_a_server_refuses(
    server: StubServer, tgi: Run, status: int, body: object, words: list[str], code: int
) -> None:
    server.status = status
    server.body = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    assert_refused(tgi("generate", "x", "--url", server.url), *words, code=code)


def test_an_error_within_a_stream(server: StubServer, tgi: Run) -> None:
    server.stream(TOKENS[0], {"error": "Request failed during generation", "error_type": "generation"})
    result = tgi("generate", "x", "--url", server.url)
    assert result.out == "Hel"
    assert_refused(result, "Request failed during generation")
    server.stream(delta("Hel"), {"error": {"message": "too much", "http_status_code": 429}}, end=b"data: [DONE]\n\n")
    assert_refused(tgi("generate", "x", "--chat", "--url", server.url), "too much")


@pytest.mark.parametrize("chat", [[], ["--chat"]])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"data: nonsense\n\n",
        b"data: []\n\n",
        b"data: 3\n\n",
        b'data: {"a": 1}\n\n',
        b'data: {"choices": [{}]}\n\n',
    ],
)
def test_answers_that_are_none(server: StubServer, tgi: Run, body: bytes, chat: list[str]) -> None:
    server.body = body
    assert_refused(tgi("generate", "x", *chat, "--url", server.url))


def test_a_connection_that_breaks(server: StubServer, tgi: Run) -> None:
    server.stream(TOKENS[0])
    server.cut = True
    assert_refused(tgi("generate", "x", "--url", server.url), "broke the connection off")


def test_other_lines_of_a_stream_are_skipped(server: StubServer, tgi: Run) -> None:
    server.stream(*TOKENS)
    server.body = b": keep-alive\n\nevent: token\n" + server.body
    assert tgi("generate", "x", "--url", server.url).out == "Hello"

"""Finding out who answers, and saying plainly why nobody does."""

import json
import socket
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from bench.api.detect import detect
from bench.mock import Behaviour, Fault, MockServer
from bench.types import Api, BenchError, UsageError


@contextmanager
def server(pages, key=None):
    """Pages by "METHOD path": a status, or an object for 200."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            length = int(self.headers.get("content-length", 0))
            self.rfile.read(length)
            page = pages.get(f"{self.command} {self.path}", 404)
            if key is not None and self.headers.get("authorization") != f"Bearer {key}":
                page = 401
            status, body = (page, {"error": f"status {page}"}) if isinstance(page, int) else (200, page)
            if isinstance(page, tuple):
                status, body = page
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = answer

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = Thread(target=http.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}"
        finally:
            http.shutdown()
            thread.join()


def models(*names, **fields):
    return {"object": "list", "data": [{"id": name, "object": "model", **fields} for name in names]}


@pytest.mark.parametrize(
    ("kind", "api", "context", "tokenizes", "ids"),
    [
        ("mock", Api.TGI, 32768, True, False),
        ("tgi", Api.TGI, 32768, True, False),
        ("vllm", Api.COMPLETIONS, 32768, True, True),
        ("sglang", Api.COMPLETIONS, 32768, False, True),
        ("llama.cpp", Api.COMPLETIONS, 32768, True, True),
        ("openai", Api.COMPLETIONS, None, False, False),
    ],
)
def test_each_kind_is_known(kind, api, context, tokenizes, ids):
    with MockServer.start(Behaviour(kind=kind)) as mock:
        target = detect(mock.url)
        assert (target.kind, target.api, target.model) == (kind, api, "mock-model")
        assert (target.max_context, target.can_token_ids) == (context, ids)
        assert (target.tokenize_path is not None) == tokenizes
        assert target.can_ignore_eos == (kind not in ("tgi", "openai"))
        assert detect(mock.url, api="openai").api is Api.COMPLETIONS
        assert detect(mock.url + "/v1/chat/completions").api is Api.CHAT
        assert detect(mock.url + "/v1/").url == mock.url


def test_our_own_server_is_known(live_server):
    target = detect(live_server.url)
    assert (target.kind, target.api) == ("ours", Api.TGI)
    assert target.max_context == target.info["max_total_tokens"]
    assert target.can_ignore_eos
    assert detect(live_server.url, api="openai").can_token_ids


def test_openai_means_chat_where_there_are_no_completions():
    with server({"GET /v1/models": models("a", "b")}) as url:
        assert detect(url, api="openai").api is Api.CHAT
        assert detect(url).model == "a"
        assert detect(url, model="b").model == "b"


def test_a_server_without_a_list_of_models():
    with server({"POST /v1/chat/completions": 422}) as url:
        target = detect(url)
        assert (target.api, target.model, target.kind) == (Api.CHAT, "default", "openai")


@pytest.mark.parametrize("fault", ["cut:0", "hang:0", "end:0", "json"])
def test_a_server_whose_streams_are_broken_is_still_known(fault):
    with MockServer.start(Behaviour(kind="openai", faults=(Fault.parse(fault),))) as mock:
        assert detect(mock.url, timeout=1.0).api is Api.COMPLETIONS


def test_a_path_before_the_routes():
    with server({"GET /deep/v1/models": models("a", owned_by="vllm"), "POST /deep/tokenize": {"tokens": []}}) as url:
        target = detect(f"{url}/deep/v1")
        assert (target.kind, target.base_path) == ("vllm", "/deep")
        assert (target.path, target.tokenize_path) == ("/deep/v1/completions", "/deep/tokenize")


def test_nothing_listens():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(BenchError, match=r"cannot reach http://127.0.0.1:\d+: .*refused.* Is the server running"):
        detect(f"http://127.0.0.1:{port}")


def test_something_listens_and_never_answers():
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(BenchError, match="did not answer GET /info in time"),
    ):
        detect(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=0.05)


def test_a_key_is_wanted():
    with server({"GET /v1/models": models("a")}, key="k") as url:
        with pytest.raises(BenchError, match=r"wants a key: give it with --key \(HTTP 401"):
            detect(url)
        with pytest.raises(BenchError, match="refuses the key given with --key"):
            detect(url, key="wrong")
        assert detect(url, key="k").headers == {"Authorization": "Bearer k"}


def test_a_key_of_tgi_is_asked_for_before_the_run():
    pages = {"GET /info": {"model_id": "m", "max_total_tokens": 10, "sha": "x"}, "POST /tokenize": 401}
    with server(pages) as url, pytest.raises(BenchError, match="wants a key"):
        detect(url)


def test_no_api_is_there():
    with server({}) as url:
        with pytest.raises(BenchError, match="is this the address of the model server"):
            detect(url)
        with pytest.raises(BenchError, match="it is not a TGI server"):
            detect(url, api="tgi")


@pytest.mark.parametrize("kind", ["tgi", "vllm", "openai"])
def test_a_wrong_model(kind):
    with (
        MockServer.start(Behaviour(kind=kind)) as mock,
        pytest.raises(BenchError, match="has no model 'x'; it has mock"),
    ):
        detect(mock.url, model="x")


@pytest.mark.parametrize("api", ["auto", "tgi"])
def test_a_server_with_nothing_but_generate_stream(api):
    with server({"POST /generate_stream": {}}) as url:
        assert detect(url, api=api, model="any").api is Api.TGI


def test_a_wrong_model_where_none_are_listed():
    refused = (404, {"error": {"message": "The model `x` does not exist"}})
    with (
        server({"POST /v1/completions": refused}) as url,
        pytest.raises(BenchError, match="does not serve the model 'x'"),
    ):
        detect(url, model="x")


@pytest.mark.parametrize("url", ["ftp://host", "http://", "http://host?x=1", "http://me@host", "http://host:port"])
def test_what_is_no_address(url):
    with pytest.raises(UsageError):
        detect(url)


def test_an_api_that_is_none():
    with pytest.raises(UsageError, match="--api must be one of auto, tgi, openai"):
        detect("http://127.0.0.1:1", api="grpc")

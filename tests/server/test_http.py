"""HTTP around the routes: bodies, unknown paths, keys, origins, headers."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fake_engine import FakeEngine
from serving import client_of
from starlette.applications import Starlette

from engine.server.app import ENDPOINTS

JSON = {"content-type": "application/json"}
PUBLIC = {("GET", "/health"), ("GET", "/ping"), ("GET", "/metrics")}
SHAPE = "Failed to deserialize the JSON body into the target type: "
SYNTAX = "Failed to parse the request body as JSON: "

BAD_BODIES: list[tuple[bytes, int, str]] = [
    (b"", 400, SYNTAX),
    (b"{", 400, SYNTAX),
    (b'{"inputs": "a"} trailing', 400, SYNTAX),
    (b"{'inputs': 'a'}", 400, SYNTAX),
    (b'\xef\xbb\xbf{"inputs": "a"}', 400, SYNTAX),
    (b'{"inputs": "\xff"}', 400, SYNTAX),
    (b'{"inputs": "a", "unknown": "\xff"}', 400, SYNTAX),
    (b'{"inputs": "\\ud800"}', 400, SYNTAX),
    (b'{"inputs": "a", "parameters": {"temperature": NaN}}', 400, SYNTAX),
    (b'{"inputs": "a", "parameters": {"temperature": Infinity}}', 400, SYNTAX),
    (b'{"inputs": "a", "inputs": "b"}', 400, SYNTAX + "duplicate field `inputs`"),
    (b'{"inputs": "a", "\\u0069nputs": "b"}', 400, SYNTAX + "duplicate field `inputs`"),
    (b'{"inputs": "a", "parameters": {"seed": 1, "seed": 2}}', 400, SYNTAX + "duplicate field `seed`"),
    (b'{"inputs": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, SYNTAX + "nested too deeply"),
    (b"[]", 422, SHAPE + "Expected `object`, got `array`"),
    (b"{}", 422, SHAPE + "Object missing required field `inputs`"),
    (b'{"inputs": null}', 422, SHAPE + "inputs: Expected `str`, got `null`"),
    (b'{"inputs": {"a": 1}}', 422, SHAPE + "inputs: Expected `str`, got `object`"),
    (b'{"inputs": "a", "parameters": []}', 422, SHAPE + "parameters: "),
    (b'{"inputs": "a", "parameters": {"top_k": "1"}}', 422, SHAPE + "parameters.top_k: "),
    (b'{"inputs": "a", "parameters": {"top_k": true}}', 422, SHAPE + "parameters.top_k: "),
    (b'{"inputs": "a", "parameters": {"top_k": 2147483648}}', 422, SHAPE + "parameters.top_k: "),
    (b'{"inputs": "a", "parameters": {"max_new_tokens": -1}}', 422, SHAPE + "parameters.max_new_tokens: "),
    (b'{"inputs": "a", "parameters": {"temperature": 1e999}}', 422, SHAPE),
    (b'{"inputs": "a", "parameters": {"seed": -1}}', 422, SHAPE + "parameters: `seed` must be >= 0 and < 2^64"),
    (b'{"inputs": "a", "parameters": {"seed": 18446744073709551616}}', 422, SHAPE + "parameters: `seed` must be"),
    (b'{"inputs": "a", "parameters": {"seed": ' + b"9" * 5000 + b"}}", 422, SHAPE + "parameters.seed: "),
    (b'{"inputs": "a", "parameters": {"stop": [1]}}', 422, SHAPE + "parameters.stop[0]: "),
]


@pytest.mark.parametrize(("body", "status", "beginning"), BAD_BODIES)
@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/", "/v1", "/tokenize"])
async def test_a_bad_body_is_refused_with_a_reason(
    path: str, body: bytes, status: int, beginning: str, api: httpx.AsyncClient, engine: FakeEngine
) -> None:
    answer = await api.post(path, content=body, headers=JSON)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(beginning), answer.text
    assert len(answer.content) < 400
    assert not engine.requests


@pytest.mark.parametrize(
    "body",
    [
        {"messages": "Hi"},
        {"messages": [{"content": "Hi"}]},
        {"messages": [{"role": "user", "content": {"text": "Hi"}}]},
        {"messages": [], "n": "1"},
        {"messages": [], "stream_options": True},
        {"messages": [], "logit_bias": [1.0]},
    ],
)
async def test_a_chat_of_the_wrong_shape_is_an_openai_error(body: dict[str, Any], api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/chat/completions", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith(SHAPE)


async def test_unknown_fields_are_ignored(api: httpx.AsyncClient) -> None:
    body = b'{"inputs": "a", "parameters": {"new": 1e400, "deep": {"a": [1, {"b": null}]}}, "x": 1' + b"0" * 5000 + b"}"
    answer = await api.post("/generate", content=body, headers=JSON)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
        ({"content-type": "application/json; charset=utf-8"}, 200),
        ({"content-type": "Application/JSON"}, 200),
        ({"content-type": "application/problem+json"}, 200),
    ],
)
async def test_only_plain_json_is_taken(headers: dict[str, str], status: int, api: httpx.AsyncClient) -> None:
    answer = await api.post("/generate", content=b'{"inputs": "a"}', headers=headers)
    assert answer.status_code == status
    if status == 415:
        assert answer.json()["error_type"] == "unsupported_media_type"


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 10):
        yield body[start : start + 10]


async def test_a_body_over_the_limit_is_refused_while_it_arrives(make_app: Callable[..., Starlette]) -> None:
    fits = json.dumps({"inputs": "a" * 20}).encode()
    async with client_of(make_app(payload_limit=len(fits))) as api:
        for content in (fits, in_pieces(fits)):
            assert (await api.post("/generate", content=content, headers=JSON)).status_code == 200
        for content in (fits + b" ", in_pieces(fits + b" ")):
            answer = await api.post("/generate", content=content, headers=JSON)
            assert answer.status_code == 413
            assert answer.json()["error"].startswith("Failed to buffer the request body: length limit exceeded")


async def test_a_large_body_is_decoded_all_the_same(api: httpx.AsyncClient, engine: FakeEngine) -> None:
    answer = await api.post("/generate", json={"inputs": " sea" * 50_000, "parameters": {"truncate": 5}})
    assert answer.status_code == 200
    assert len(engine.requests[0].prompt) == 5


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("GET", "/nothing", 404, None),
        ("POST", "/generate/", 404, None),
        ("GET", "/generate", 405, "POST"),
        ("DELETE", "/v1/chat/completions", 405, "POST"),
        ("POST", "/health", 405, "GET HEAD"),
    ],
)
async def test_other_paths_and_methods_are_refused_in_json(
    method: str, path: str, status: int, allowed: str | None, api: httpx.AsyncClient
) -> None:
    answer = await api.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error_type"] == {404: "not_found", 405: "method_not_allowed"}[status]
    assert sorted(answer.headers.get("allow", "").replace(",", "").split()) == (allowed or "").split()


WRONG_KEYS = [
    {},
    {"authorization": ""},
    {"authorization": "Bearer"},
    {"authorization": "Bearer "},
    {"authorization": "Bearer FIRST-key"},
    {"authorization": "Bearer first-ke"},
    {"authorization": "Bearer first-key2"},
    {"authorization": "Bearer first-key second-key"},
    {"authorization": "Basic first-key"},
    {"authorization": "first-key"},
    {"authorization": "Bearer clé".encode("latin-1")},
    {"x-api-key": "FIRST-key"},
    {"x-api-key": "Bearer first-key"},
    {"x-api-key": "first-key", "authorization": "Bearer first-key"},
    [("x-api-key", "first-key"), ("x-api-key", "first-key")],
]


def inventory() -> list[tuple[str, str]]:
    return sorted((each.method, each.path) for each in ENDPOINTS)


@pytest.mark.parametrize("headers", WRONG_KEYS)
async def test_without_a_key_only_the_public_routes_answer(
    headers: Any, make_app: Callable[..., Starlette], engine: FakeEngine
) -> None:
    async with client_of(make_app(api_keys=("first-key", "second-key"))) as api:
        for method, path in [*inventory(), ("GET", "/nothing"), ("POST", "/health"), ("GET", "/v1/models/the/model")]:
            answer = await api.request(method, path, headers=headers)
            if (method, path) in PUBLIC:
                assert answer.status_code == 200
            else:
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
                assert "Missing or wrong API key" in answer.text
    assert not engine.requests


async def test_each_family_is_refused_in_its_own_words(make_app: Callable[..., Starlette]) -> None:
    async with client_of(make_app(api_keys=("a-key",))) as api:
        native, openais, anthropics = [
            (await api.post(path)).json() for path in ("/generate", "/v1/completions", "/v1/messages")
        ]
    assert native["error_type"] == "unauthorized"
    assert openais["error"]["code"] == "invalid_api_key"
    assert (anthropics["type"], anthropics["error"]["type"]) == ("error", "authentication_error")


RIGHT_KEYS = [
    {"authorization": "Bearer first-key"},
    {"authorization": "Bearer second-key"},
    {"authorization": "bearer second-key"},
    {"x-api-key": "second-key"},  # Anthropic's clients
]


@pytest.mark.parametrize("headers", RIGHT_KEYS)
async def test_every_key_opens_every_route(headers: dict[str, str], make_app: Callable[..., Starlette]) -> None:
    async with client_of(make_app(api_keys=("first-key", "second-key")), raise_app_exceptions=False) as api:
        for method, path in inventory():
            assert (await api.request(method, path, headers=headers)).status_code != 401
        answer = await api.post("/generate", json={"inputs": "a"}, headers=headers)
        assert answer.status_code == 200


@pytest.mark.parametrize("host", ["server/health?", "server/health#", "x@y", "", "a b"])
async def test_the_host_header_opens_nothing(host: str, make_app: Callable[..., Starlette]) -> None:
    async with client_of(make_app(api_keys=("a-key",))) as api:
        answer = await api.post("/generate", json={"inputs": "a"}, headers={"host": host})
        assert answer.status_code == 401


INFO_ROUTES = ["/", "/info", "/v1/models", "/v1/models/the/model", "/docs/", "/api-doc/openapi.json"]


@pytest.mark.parametrize("path", INFO_ROUTES)
async def test_public_info_reopens_what_tgi_leaves_open(path: str, make_app: Callable[..., Starlette]) -> None:
    for public, status in ((False, 401), (True, 200)):
        async with client_of(make_app(api_keys=("a-key",), public_info=public)) as api:
            assert (await api.get(path)).status_code == status
            assert (await api.post("/generate", json={"inputs": "a"})).status_code == 401


async def test_other_origins_are_let_in_only_by_name(make_app: Callable[..., Starlette]) -> None:
    preflight = {
        "origin": "https://app.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type, x-stainless-lang",
    }
    async with client_of(make_app(api_keys=("a-key",))) as api:
        answer = await api.get("/health", headers={"origin": "https://app.example"})
        assert "access-control-allow-origin" not in answer.headers
    async with client_of(make_app(api_keys=("a-key",), cors_allow_origin=("https://app.example",))) as api:
        answer = await api.options("/generate", headers=preflight)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "authorization" in answer.headers["access-control-allow-headers"]
        for path, status in (("/health", 200), ("/info", 401)):  # a page is told why it is refused
            answer = await api.get(path, headers={"origin": "https://app.example"})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == "https://app.example"
            exposed = answer.headers["access-control-expose-headers"].split(", ")
            assert {"x-request-id", "x-compute-time", "x-generated-tokens", "retry-after"} <= set(exposed)
        answer = await api.options("/generate", headers=preflight | {"origin": "https://other.example"})
        assert answer.status_code == 400


@pytest.mark.parametrize(
    ("given", "kept"), [("my-id.1:2_3", True), ("a" * 128, True), ("a" * 129, False), ("a b", False), ("", False)]
)
async def test_every_answer_has_a_request_id(given: str, kept: bool, api: httpx.AsyncClient) -> None:
    for path in ("/health", "/nothing"):
        answer = await api.get(path, headers={"x-request-id": given})
        assert (answer.headers["x-request-id"] == given) == kept
        assert len(answer.headers["x-request-id"]) >= 1
    assert "x-request-id" in (await api.post("/generate_stream", json={"inputs": "a"})).headers


@pytest.mark.parametrize("kind", ["unauthorized", "preflight", "overloaded", "defect", "bad body"])
async def test_so_has_every_refusal(kind: str, make_app: Callable[..., Starlette], engine: FakeEngine) -> None:
    app = make_app(
        api_keys=("a-key",), max_concurrent_requests=1 if kind == "overloaded" else 9, cors_allow_origin=("http://a",)
    )
    engine.error = RuntimeError("a defect") if kind == "defect" else None
    headers = {"x-request-id": "mine"} | ({} if kind == "unauthorized" else {"authorization": "Bearer a-key"})
    async with client_of(app, raise_app_exceptions=False) as api:
        if kind == "preflight":
            headers |= {"origin": "http://a", "access-control-request-method": "POST"}
            answer = await api.options("/generate", headers=headers)
        elif kind == "bad body":
            answer = await api.post("/generate", content=b"{", headers=headers | JSON)
        else:
            parameters = {"best_of": 2, "do_sample": True} if kind == "overloaded" else {}
            answer = await api.post("/generate", json={"inputs": "a", "parameters": parameters}, headers=headers)
    expected = {"unauthorized": 401, "preflight": 200, "overloaded": 429, "defect": 500, "bad body": 400}
    assert answer.status_code == expected[kind]
    assert answer.headers["x-request-id"] == "mine"
    assert ("retry-after" in answer.headers) == (kind == "overloaded")


@pytest.mark.parametrize("path", ["/v1/models/the/model", "/v1/models/the%2Fmodel"])
async def test_one_model_by_its_id(path: str, api: httpx.AsyncClient) -> None:
    answer = await api.get(path)
    assert (answer.status_code, answer.json()) == (
        200,
        {"id": "the/model", "object": "model", "created": 0, "owned_by": "the/model"},
    )
    assert answer.json() in (await api.get("/v1/models")).json()["data"]


@pytest.mark.parametrize("path", ["/v1/models/other/model", "/v1/models/the", "/v1/models/the/model/"])
async def test_an_unknown_model_is_openais_404(path: str, api: httpx.AsyncClient) -> None:
    answer = await api.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert answer.json()["error"]["message"].startswith(
        f"The model `{path.removeprefix('/v1/models/')}` does not exist"
    )


async def test_plain_answers_tell_what_they_cost(api: httpx.AsyncClient) -> None:
    times = ("x-total-time", "x-validation-time", "x-queue-time", "x-inference-time", "x-time-per-token")
    for path, body, characters, prompt_tokens, seconds in [
        ("/generate", {"inputs": "The sea é"}, 9, 4, True),
        ("/", {"inputs": "The sea"}, 7, 2, True),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}, 52, 12, True),
        ("/v1/completions", {"prompt": ["The sea", "The"]}, 10, 3, False),
    ]:
        headers = (await api.post(path, json=body)).headers
        assert headers["x-compute-type"] == "reference"
        assert headers["x-compute-characters"] == str(characters)
        assert headers["x-prompt-tokens"] == str(prompt_tokens)
        assert headers["x-generated-tokens"] == ("8" if path == "/v1/completions" else "4")
        assert all(headers[name].isdecimal() for name in times)
        assert ("x-compute-time" in headers) == seconds


async def test_streams_say_what_is_known_at_their_start(
    make_app: Callable[..., Starlette], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPUTE_TYPE", "1-test")
    async with client_of(make_app()) as api:
        headers = (await api.post("/generate_stream", json={"inputs": "The sea"})).headers
    assert headers["x-compute-type"] == "1-test"
    assert headers["x-compute-characters"] == "7"
    assert headers["x-accel-buffering"] == "no"
    assert headers["cache-control"] == "no-cache"
    assert "content-length" not in headers

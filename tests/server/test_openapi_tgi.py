"""TGI's published OpenAPI document (3.3.6-dev0), corrected where TGI itself did otherwise, validates our answers."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from asgi_connection import events
from fake_engine import FakeEngine
from jsonschema import Draft202012Validator
from serving import client_of
from speaking import CALL, OTHER_CALL, SEA_SCHEMA, app_over, engine_saying
from starlette.applications import Starlette

from engine.errors import EngineDead, GenerationFailed
from engine.text.tokenizer import Tokenizer

PUBLISHED = Path(__file__).parents[1] / "data" / "tgi-openapi.json"
ERROR = {"$ref": "#/components/schemas/ErrorResponse"}
NESTED = {
    "type": "object",
    "required": ["error", "error_type"],
    "properties": {
        "error": {"type": "object", "required": ["message", "type", "param", "code", "http_status_code"]},
        "error_type": {"type": "string"},
    },
}


def json_content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def any_of(*names: str) -> dict[str, Any]:
    return {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in names]}


@dataclass(frozen=True)
class Correction:
    """`place` in the document becomes `value`. `strict`: true of TGI too, so also of a strict server."""

    why: str
    place: tuple[str, ...]
    value: Any
    strict: bool = True


GENERATE = {"type": "array", "items": {"$ref": "#/components/schemas/GenerateResponse"}}
CHOICE = ("components", "schemas", "CompletionComplete", "properties")
DELTA = ("components", "schemas", "ChatCompletionDelta")

CORRECTIONS = (
    Correction(
        "`/v1/models` is a list, not one model",
        ("paths", "/v1/models", "get", "responses", "200"),
        json_content(
            {
                "type": "object",
                "required": ["object", "data"],
                "properties": {
                    "object": {"enum": ["list"]},
                    "data": {"type": "array", "items": {"$ref": "#/components/schemas/ModelInfo"}},
                },
            }
        ),
    ),
    Correction(
        "`GET /` is missing",
        ("paths", "/", "get"),
        {"responses": {"200": {}, "503": json_content(ERROR)}},
    ),
    Correction(
        "`GET /ping` is missing",
        ("paths", "/ping"),
        {"get": {"responses": {"200": {}, "503": json_content(ERROR)}}},
    ),
    Correction(
        "`POST /vertex` is missing",
        ("paths", "/vertex"),
        {
            "post": {
                "responses": {
                    "200": json_content(
                        {
                            "type": "object",
                            "required": ["predictions"],
                            "properties": {"predictions": {"type": "array", "items": {"type": "string"}}},
                        }
                    ),
                    "422": json_content(ERROR),
                    "500": json_content(ERROR),
                }
            }
        },
    ),
    Correction(
        "`/invocations` gives the list that `POST /` gives",
        ("components", "schemas", "SagemakerResponse"),
        {"anyOf": [GENERATE, *any_of("ChatCompletion", "CompletionFinal")["anyOf"]]},
    ),
    Correction(
        "a stream's errors are events after a 200",
        ("paths", "/generate_stream", "post", "responses", "200", "content", "text/event-stream", "schema"),
        any_of("StreamResponse", "ErrorResponse"),
    ),
    Correction(
        "a chat's message may have a text and calls",
        ("components", "schemas", "OutputMessage"),
        any_of("TextMessage", "ToolCallMessage"),
    ),
    Correction(
        "the engine's death has a status",
        ("paths", "/generate", "post", "responses", "503"),
        json_content(ERROR),
    ),
    Correction(
        "the role is in the first chunk only, an end in a chunk without text, and thoughts in one of their own",
        DELTA,
        {
            "type": "object",
            "properties": {
                "role": {"type": "string"},
                "content": {"type": "string"},
                "reasoning_content": {"type": "string"},
                "tool_calls": {"type": "array", "items": {"$ref": "#/components/schemas/DeltaToolCall"}},
            },
        },
        strict=False,
    ),
    Correction(
        "the later parts of a call do not repeat its id",
        ("components", "schemas", "DeltaToolCall", "required"),
        ["index", "function"],
        strict=False,
    ),
    Correction(
        "a completion's finish reason is null until there is one, as OpenAI's, not the empty text",
        (*CHOICE, "finish_reason"),
        {"type": "string", "nullable": True},
        strict=False,
    ),
    Correction(
        "a completion's log probabilities are OpenAI's object",
        (*CHOICE, "logprobs"),
        {"type": "object", "required": ["tokens", "token_logprobs", "top_logprobs", "text_offset"], "nullable": True},
        strict=False,
    ),
    *(
        Correction(
            "errors under /v1 are OpenAI's object",
            ("paths", path, "post", "responses", status),
            json_content(NESTED),
            strict=False,
        )
        for path in ("/v1/chat/completions", "/v1/completions")
        for status in ("422", "424", "429", "500")
    ),
    *(
        Correction(
            "errors of the body and of the key are JSON too",
            ("paths", path, "post", "responses", status),
            json_content(NESTED if path.startswith("/v1") else ERROR),
            strict=False,
        )
        for path in ("/generate", "/v1/chat/completions", "/v1/completions")
        for status in ("400", "401", "413", "415")
    ),
)


def as_json_schema(part: Any) -> Any:
    """OpenAPI 3.0's dialect as JSON Schema: the difference that matters is `nullable`."""
    if isinstance(part, list):
        return [as_json_schema(each) for each in part]
    if not isinstance(part, dict):
        return part
    plain = {key: as_json_schema(value) for key, value in part.items() if key not in ("nullable", "example")}
    return {"anyOf": [plain, {"type": "null"}]} if part.get("nullable") is True else plain


def corrected(*, strict: bool) -> dict[str, Any]:
    document = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    for correction in CORRECTIONS:
        if strict and not correction.strict:
            continue
        *way, last = correction.place
        inside = document
        for name in way:
            inside = inside[name]
        assert inside.get(last) != correction.value, f"needs no correction: {correction.why}"
        inside[last] = correction.value
    found: dict[str, Any] = as_json_schema(document)
    return found


DOCUMENTS = {"default": corrected(strict=False), "strict": corrected(strict=True)}


@dataclass(frozen=True)
class Case:
    path: str
    body: Any = None
    status: int = 200
    method: str = "post"
    headers: dict[str, str] = field(default_factory=dict)
    strict: bool = True  # also on a strict server
    ready: Callable[[FakeEngine], None] = lambda engine: None
    options: dict[str, Any] = field(default_factory=dict)
    says: str | None = None  # what the engine generates


def generate(**parameters: Any) -> dict[str, Any]:
    return {"inputs": "A river is", "parameters": parameters}


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Who are you?"}], **fields}


def complete(**fields: Any) -> dict[str, Any]:
    return {"prompt": "A river is", **fields}


def fail(engine: FakeEngine) -> None:
    engine.error, engine.gate_step = GenerationFailed("the logits are not finite"), 1


def die(engine: FakeEngine) -> None:
    engine.error = EngineDead("the engine is gone")


def end_early(engine: FakeEngine) -> None:
    engine.script = ((290,),)


def ail(engine: FakeEngine) -> None:
    engine.healthy = False


TOOLS = [{"type": "function", "function": {"name": "depth", "parameters": SEA_SCHEMA}}]
ALL_DETAILS = {"details": True, "top_n_tokens": 2, "do_sample": True, "return_full_text": True}
CASES = {
    "generate": Case("/generate", generate()),
    "generate details": Case("/generate", generate(**ALL_DETAILS)),
    "generate best of": Case("/generate", generate(best_of=2, **ALL_DETAILS)),
    "generate prompt scores": Case("/generate", generate(decoder_input_details=True)),
    "generate at root": Case("/", generate(details=True)),
    "stream at root": Case("/", {**generate(details=True), "stream": True}),
    "stream": Case("/generate_stream", generate(**ALL_DETAILS)),
    "stream refused": Case("/generate_stream", generate(best_of=2)),
    "stream fails": Case("/generate_stream", generate(), ready=fail),
    "tokenize": Case("/tokenize", {"inputs": "A river is"}),
    "chat tokenize": Case("/chat_tokenize", chat()),
    "chat": Case("/v1/chat/completions", chat()),
    "chat logprobs": Case("/v1/chat/completions", chat(logprobs=True, top_logprobs=2)),
    "chat several": Case("/v1/chat/completions", chat(n=2, seed=1)),
    "chat stream": Case(
        "/v1/chat/completions", chat(stream=True, logprobs=True, stream_options={"include_usage": True})
    ),
    "chat calls": Case("/v1/chat/completions", chat(tools=TOOLS), says=CALL),
    "chat says and calls": Case("/v1/chat/completions", chat(tools=TOOLS), says=f"I will look.{CALL}{OTHER_CALL}"),
    "chat calls stream": Case("/v1/chat/completions", chat(tools=TOOLS, stream=True), says=CALL + OTHER_CALL),
    "chat thinks": Case("/v1/chat/completions", chat(stream=True), says="<think>So.</think>Deep.", strict=False),
    "completion": Case("/v1/completions", complete()),
    "completion logprobs": Case("/v1/completions", complete(logprobs=2), strict=False),
    "completions": Case("/v1/completions", {"prompt": ["A river is", "A hill is"]}),
    "completion stream": Case("/v1/completions", complete(stream=True)),
    "invocations inputs": Case("/invocations", generate(details=True)),
    "invocations chat": Case("/invocations", chat()),
    "invocations prompt": Case("/invocations", complete()),
    "vertex": Case("/vertex", {"instances": [generate(), chat()]}),
    "vertex empty": Case("/vertex", {"instances": []}, 422),
    "vertex fails": Case("/vertex", {"instances": [generate()]}, 500, ready=fail),
    "health": Case("/health", method="get"),
    "ill": Case("/health", None, 503, method="get", ready=ail),
    "health at root": Case("/", method="get"),
    "ping": Case("/ping", method="get"),
    "info": Case("/info", method="get"),
    "models": Case("/v1/models", method="get"),
    "dead": Case("/generate", generate(), 503, ready=die),
    **{
        f"{name} {path}": Case(path, body, status, **others)
        for path, body in (("/generate", generate()), ("/v1/chat/completions", chat()), ("/v1/completions", complete()))
        for name, status, others in (
            ("fails", 424, {"ready": fail}),
            ("ends early", 500, {"ready": end_early}),
            ("overloaded", 429, {"options": {"max_concurrent_requests": 0}}),
            ("no key", 401, {"options": {"api_keys": ("secret",)}, "strict": False}),
            ("too large", 413, {"options": {"payload_limit": 8}, "strict": False}),
            ("undeclared", 415, {"headers": {"content-type": "text/plain"}, "strict": False}),
        )
    },
    **{
        f"{name} {path}": Case(path, body, status, strict=strict)
        for name, body, status, strict in (
            ("refused", {**generate(temperature=0.0), **chat(top_p=0.0), **complete()}, 422, True),
            ("not JSON", b"{", 400, False),
        )
        for path in ("/generate", "/v1/chat/completions", "/v1/completions")
    },
}


@pytest.mark.parametrize(
    ("name", "compat"),
    [(name, compat) for name, case in CASES.items() for compat in DOCUMENTS if case.strict or compat == "default"],
)
async def test_answers_are_as_published(
    name, compat, engine: FakeEngine, tokenizer: Tokenizer, make_app: Callable[..., Starlette]
):
    case, document = CASES[name], DOCUMENTS[compat]
    case.ready(engine)
    if case.says is None:
        app = make_app(tgi_compat=compat, **case.options)
    else:
        app = app_over(engine_saying(tokenizer, case.says), tokenizer, tgi_compat=compat)
    headers = {"content-type": "application/json", **case.headers}
    content = (
        case.body if isinstance(case.body, bytes) else None if case.body is None else json.dumps(case.body).encode()
    )
    async with client_of(app) as client:
        answer = await client.request(case.method, case.path, content=content, headers=headers)
    assert answer.status_code == case.status, answer.text
    described = document["paths"][case.path][case.method]["responses"][str(case.status)].get("content")
    if described is None:
        assert answer.content == b""
        return
    media_type = answer.headers["content-type"].partition(";")[0]
    schema = {**described[media_type]["schema"], "components": document["components"]}
    found = [answer.json()] if media_type == "application/json" else events(answer.content)
    assert found
    for each in found:
        if each != "[DONE]":
            Draft202012Validator(schema).validate(each)


def test_every_published_route_is_tried():
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))["paths"]
    routes = {(method, path) for path, item in published.items() for method in item}
    assert routes - {("get", "/metrics")} <= {(case.method, case.path) for case in CASES.values()}

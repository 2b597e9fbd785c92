"""The OpenAPI 3.1 document of a server, made from its `Endpoint`s and the structs they name.

Types come from msgspec, what the fields mean and their ranges from `descriptions.py`, errors from the code
that writes them. The document says what holds for this server: its limits, and which routes want a key.
"""

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec
from msgspec.inspect import DataclassType, StructType, type_info
from starlette.requests import Request
from starlette.responses import Response

from engine.config import ServerOptions
from engine.errors import EngineDead, EngineError, GenerationFailed, InvalidRequest, Overloaded
from engine.server.descriptions import ABOUT, EXAMPLES, STRICT, TAGS, Keywords, field_keywords
from engine.server.endpoint import Endpoint
from engine.server.errors import (
    BadJSON,
    IncompleteGeneration,
    PayloadTooLarge,
    Unauthorized,
    UnsupportedMediaType,
    dialect,
    error_body,
)
from engine.server.schema.errors import AnthropicErrorResponse, ErrorResponse, OpenAIErrorResponse
from engine.server.service import VERSION, service

SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "One of the server's keys, where it has any."},
    "x-api-key": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "The same key, as Anthropic's clients send it.",
    },
}
SCHEMAS = "#/components/schemas/"
HOME = "engine.server.schema."  # msgspec's prefix for structs of one name in several modules

ERRORS = {"tgi": ErrorResponse, "openai": OpenAIErrorResponse, "anthropic": AnthropicErrorResponse}
READS = {  # of their bodies' fields, routes that generate nothing; the others they leave unchecked
    "/tokenize": ("inputs",),
    "/chat_tokenize": (
        "messages",
        "tools",
        "tool_choice",
        "tool_prompt",
        "response_format",
        "chat_template_kwargs",
        "continue_final_message",
        "add_generation_prompt",
    ),
}
PASSED_ON = {"/invocations": ErrorResponse | OpenAIErrorResponse}  # routes that answer as one of several others

# For each status what it means, and a failure that has it; the example is what the server makes of that.
FAILURES: dict[int, tuple[str, EngineError]] = {
    400: ("The body is not JSON.", BadJSON("Failed to parse the request body as JSON: Input data was truncated")),
    401: ("The key is missing or wrong.", Unauthorized("Missing or wrong API key")),
    404: ("There is nothing of this name.", EngineError("Not Found")),
    413: ("The body is larger than `--payload-limit`.", PayloadTooLarge("length limit exceeded")),
    415: ("The body is not declared as JSON.", UnsupportedMediaType("Expected `Content-Type: application/json`")),
    422: (
        "A field is missing, of the wrong type or out of its range, or the prompt does not fit.",
        InvalidRequest("`temperature` must be strictly positive"),
    ),
    424: ("The engine failed on this request; others go on.", GenerationFailed("the logits are not finite")),
    429: ("As many requests are running as the server allows.", Overloaded("128 of 128 requests are running")),
    500: ("The engine stopped before the answer was whole.", IncompleteGeneration("Incomplete generation")),
    503: ("The engine is gone or starting again.", EngineDead("the engine is not running")),
}
OF_A_BODY = (400, 413, 415, 422)
HEADERS = {
    "x-request-id": "The request's id: the one it came with, or a new one.",
    "retry-after": "Seconds to wait before the next try.",
    "www-authenticate": "`Bearer`",
}
COST = {  # of answers that were generated; streams have the first two
    "x-compute-type": "The hardware.",
    "x-compute-characters": "Characters of the prompt.",
    "x-compute-time": "Seconds from arrival to answer.",
    "x-total-time": "Milliseconds from arrival to answer.",
    "x-validation-time": "Milliseconds to check and tokenize the request.",
    "x-queue-time": "Milliseconds until its first step.",
    "x-inference-time": "Milliseconds of its steps.",
    "x-time-per-token": "Milliseconds of its steps for each token.",
    "x-prompt-tokens": "Tokens of the prompt.",
    "x-generated-tokens": "Tokens of the answer.",
}


async def openapi_json(request: Request) -> Response:
    """`GET /api-doc/openapi.json` and `/openapi.json`"""
    state = request.app.state
    if not hasattr(state, "openapi"):
        state.openapi = msgspec.json.encode(document(state.endpoints, service(request).options))
    return Response(state.openapi, media_type="application/json")


def document(endpoints: Iterable[Endpoint], options: ServerOptions) -> dict[str, Any]:
    """The OpenAPI document of these routes. Equal arguments give an equal document, in the same order."""
    described = [each for each in endpoints if each.described]
    schemas = _Schemas(described, field_keywords(options))
    paths: dict[str, dict[str, Any]] = {}
    for each in described:
        public = not options.api_keys or each.access == "open" or (each.access == "info" and options.public_info)
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, schemas, public=public)
    used = {each.tag for each in described}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tgi",
            "version": VERSION,
            "description": ABOUT + (STRICT if options.strict else ""),
            "license": {"name": "Apache-2.0"},
        },
        "tags": [{"name": name, "description": text} for name, text in TAGS.items() if name in used],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "headers": {
                name: {"description": text, "required": True, "schema": {"type": "string"}}
                for name, text in HEADERS.items()
            }
            | {name: {"description": text, "schema": {"type": "string"}} for name, text in COST.items()},
            "securitySchemes": SECURITY_SCHEMES,
        },
    }


def _operation(endpoint: Endpoint, schemas: "_Schemas", *, public: bool) -> dict[str, Any]:
    names = re.findall(r"{(\w+)", endpoint.path)
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": _slug(f"{endpoint.method.lower()} {endpoint.path}"),
        "tags": [endpoint.tag],
        "security": [] if public else [{name: []} for name in SECURITY_SCHEMES],
    }
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if endpoint.body is not None:
        schema = schemas.part_of(endpoint.body, READS[endpoint.path]) if endpoint.path in READS else None
        content: dict[str, Any] = {"schema": schema or schemas.of(endpoint.body)}
        if endpoint.path in EXAMPLES:
            content["example"] = EXAMPLES[endpoint.path]
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    operation["responses"] = _responses(endpoint, schemas, public=public)
    return operation


def _slug(text: str) -> str:
    return re.sub(r"\W+", "_", text).strip("_")


def _responses(endpoint: Endpoint, schemas: "_Schemas", *, public: bool) -> dict[str, Any]:
    statuses = {*endpoint.errors, *(OF_A_BODY if endpoint.body is not None else ()), *(() if public else (401,))}
    responses = {
        "200": {"description": "The answer.", "headers": _headers(200, endpoint), **_content(endpoint, schemas)}
    }
    for status in sorted(statuses):
        description, failure = FAILURES.get(status, (HTTPStatus(status).phrase, EngineError("")))
        media: dict[str, Any] = {"schema": schemas.of(_failure(endpoint))}
        if status in FAILURES:
            media["example"] = msgspec.json.decode(error_body(endpoint.path, failure))
        responses[str(status)] = {
            "description": description,
            "headers": _headers(status, endpoint),
            "content": {"application/json": media},
        }
    return responses


def _failure(endpoint: Endpoint) -> Any:
    return PASSED_ON.get(endpoint.path, ERRORS[dialect(endpoint.path)])


def _headers(status: int, endpoint: Endpoint) -> dict[str, Any]:
    names = ["x-request-id"]
    if status == 200 and 424 in endpoint.errors and endpoint.tag != "Embeddings":
        names += COST
    if status in (429, 503):
        names.append("retry-after")
    if status == 401:
        names.append("www-authenticate")
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _content(endpoint: Endpoint, schemas: "_Schemas") -> dict[str, Any]:
    """What a 200 may hold: JSON, events, text, or nothing."""
    content: dict[str, Any] = {}
    if endpoint.answer is not None:
        content[endpoint.media_type] = {"schema": schemas.of(endpoint.answer)}
    elif endpoint.media_type != "application/json":
        content[endpoint.media_type] = {"schema": {"type": "string"}}
    if endpoint.event is not None:
        content["text/event-stream"] = {"schema": _event(endpoint, schemas)}
    return {"content": content} if content else {}


def _event(endpoint: Endpoint, schemas: "_Schemas") -> dict[str, Any]:
    """One event as a browser's EventSource gives it, which is how OpenAPI 3.2 describes streams."""
    members = [*_members(schemas.of(endpoint.event)), *_members(schemas.of(_failure(endpoint)))]
    data: dict[str, Any] = {"contentMediaType": "application/json", "contentSchema": {"anyOf": members}}
    if dialect(endpoint.path) == "openai" or endpoint.path in PASSED_ON:
        data = {"anyOf": [{"const": "[DONE]", "description": "The stream's end."}, data]}
    return {
        "description": "One event; the stream is many. A failure on the way is an event too, and the status stays 200.",
        "type": "object",
        "properties": {"data": {"type": "string", **data}, "event": {"type": "string"}},
        "required": ["data"],
    }


def _members(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return schema["anyOf"] if set(schema) == {"anyOf"} else [schema]


class _Schemas:
    """The schemas of all types that the routes name, each struct once under `components`."""

    def __init__(self, endpoints: Iterable[Endpoint], keywords: Mapping[str, Keywords]) -> None:
        read = [part for each in endpoints for part in _parts(each.body)]
        written = [part for each in endpoints for type_ in (each.answer, each.event) for part in _parts(type_)]
        written += ERRORS.values()
        structs = {info.cls: info for part in (*read, *written) for info in _structs(part)}
        types = list(dict.fromkeys([*read, *written, *structs]))
        found, components = msgspec.json.schema_components(types, ref_template=SCHEMAS + "{name}")
        self._schemas = dict(zip(types, map(_without_home, found), strict=True))
        self.components = {name.removeprefix(HOME): _without_home(each) for name, each in sorted(components.items())}
        self._unbounded: dict[Any, dict[str, Any]] = {}
        bodies = {info.cls for part in read for info in _structs(part)}
        for struct, info in structs.items():
            component = self.components[self._schemas[struct]["$ref"].removeprefix(SCHEMAS)]
            if struct in bodies:
                self._unbounded[struct] = copy.deepcopy(component)
                _describe(component, struct.__name__, keywords)
            else:
                _always_written(component, info)

    def of(self, type_: Any) -> dict[str, Any]:
        schemas = [self._schemas[part] for part in _parts(type_)]
        return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}

    def part_of(self, struct: Any, names: Iterable[str]) -> dict[str, Any]:
        """Some of a struct's fields, without their ranges."""
        whole = self._unbounded[struct]
        described = self.components[self._schemas[struct]["$ref"].removeprefix(SCHEMAS)]["properties"]
        properties = {name: dict(whole["properties"][name]) for name in names if name in described}
        for name, schema in properties.items():
            schema.pop("default", None)
            schema["description"] = described[name].get("description", "")
        required = [name for name in whole.get("required", ()) if name in properties]
        return {"type": "object", "properties": properties, "required": required}


def _parts(type_: Any) -> tuple[Any, ...]:
    """A union's members: msgspec takes no union of untagged structs, an endpoint may name one."""
    if type_ is None:
        return ()
    return get_args(type_) if get_origin(type_) in (Union, UnionType) else (type_,)


def _structs(type_: Any) -> Iterator[StructType | DataclassType]:
    """The struct types inside a type, each once."""
    seen = set()
    waiting = [type_info(type_)]
    while waiting:
        info = waiting.pop()
        if isinstance(info, (StructType, DataclassType)):
            if info.cls in seen:
                continue
            seen.add(info.cls)
            yield info
            waiting += [field.type for field in info.fields]
        for name in ("item_type", "key_type", "value_type", "type"):
            if hasattr(info, name):
                waiting.append(getattr(info, name))
        for name in ("types", "item_types"):
            waiting += getattr(info, name, ())


def _without_home(schema: Any) -> Any:
    """References with the short names."""
    if isinstance(schema, dict):
        return {key: _without_home(value) for key, value in schema.items()}
    if isinstance(schema, (list, tuple)):
        return [_without_home(each) for each in schema]
    return schema.replace(SCHEMAS + HOME, SCHEMAS) if isinstance(schema, str) else schema


def _describe(component: dict[str, Any], name: str, keywords: Mapping[str, Keywords]) -> None:
    """Write into a request's struct what its fields mean, and their ranges."""
    for field, schema in component.get("properties", {}).items():
        if schema.get("default", 0) is None:  # null is absence, which `required` says already
            del schema["default"]
        known = keywords.get(f"{name}.{field}", keywords.get(field))
        if known is None:
            continue
        schema["description"] = known.description
        for member in schema.get("anyOf", [schema]):
            member.update(known.limits.get(member.get("type"), {}))


def _always_written(component: dict[str, Any], info: StructType | DataclassType) -> None:
    """In an answer a field with a default is there all the same, unless the struct leaves defaults out."""
    if isinstance(info, StructType) and info.cls.__struct_config__.omit_defaults:
        return
    required = set(component.get("required", ()))
    for field, schema in component.get("properties", {}).items():
        if "default" in schema:
            del schema["default"]
            required.add(field)
    component["required"] = [field for field in component.get("properties", {}) if field in required]

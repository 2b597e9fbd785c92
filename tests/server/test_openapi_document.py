"""The server's own OpenAPI document: valid, whole, the same each time, and true."""

import json
import re
from typing import Any

import httpx
import msgspec
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from serving import client_of

from engine.config import ServerOptions
from engine.server.app import ENDPOINTS
from engine.server.errors import dialect
from engine.server.openapi import document

OPTIONS = ServerOptions(model_id="the/model")
METHODS = ("get", "post")


def made(**options: Any) -> dict[str, Any]:
    return document(ENDPOINTS, ServerOptions(model_id="the/model", **options))


DOCUMENT = made()
OPERATIONS = {
    f"{method.upper()} {path}": item[method]
    for path, item in DOCUMENT["paths"].items()
    for method in METHODS
    if method in item
}


def schema_of(name: str) -> dict[str, Any]:
    """A component as a schema of its own."""
    return {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}


def test_it_is_valid():
    validate(DOCUMENT)


async def test_it_is_served_at_both_places_as_the_same_bytes(make_app):
    answers = []
    for _ in range(2):
        async with client_of(make_app()) as client:
            answers += [await client.get(path) for path in ("/api-doc/openapi.json", "/openapi.json")]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert answers[0].json() == DOCUMENT


def test_every_route_is_in_it():
    described = {f"{each.method} {each.path}" for each in ENDPOINTS if each.described}
    assert set(OPERATIONS) == described
    assert {tag for each in OPERATIONS.values() for tag in each["tags"]} == {tag["name"] for tag in DOCUMENT["tags"]}
    assert len({each["operationId"] for each in OPERATIONS.values()}) == len(OPERATIONS)


def test_names_are_short():
    assert [name for name in DOCUMENT["components"]["schemas"] if not re.fullmatch(r"(\w+\.)?\w+", name)] == []


def test_every_field_of_a_request_is_described():
    bodies = [
        each["requestBody"]["content"]["application/json"]["schema"]
        for each in OPERATIONS.values()
        if "requestBody" in each
    ]
    waiting, seen = bodies, set()
    missing = []
    while waiting:
        schema = waiting.pop()
        if isinstance(schema, list):
            waiting += schema
        elif isinstance(schema, dict):
            waiting += schema.values()
            name = str(schema.get("$ref", "")).rpartition("/")[2]
            if name and name not in seen:
                seen.add(name)
                component = DOCUMENT["components"]["schemas"][name]
                waiting.append(component)
                properties = component.get("properties", {})
                missing += [f"{name}.{field}" for field, each in properties.items() if "description" not in each]
    assert missing == [], "describe them in engine/server/descriptions.py"


@pytest.mark.parametrize("public_info", [False, True])
async def test_keys_are_wanted_where_it_says_so(make_app, public_info):
    document = made(api_keys=("secret",), public_info=public_info)
    async with client_of(make_app(api_keys=("secret",), public_info=public_info)) as client:
        for path, item in document["paths"].items():
            for method, operation in item.items():
                answer = await client.request(method, re.sub(r"{\w+}", "x", path))
                wanted = operation["security"] == [{"bearer": []}, {"x-api-key": []}]
                assert (answer.status_code == 401) == wanted, f"{method} {path}"
                assert ("401" in operation["responses"]) == wanted
    assert all(operation["security"] == [] for operation in OPERATIONS.values())


def test_streams_are_described_where_there_are_any():
    streams = {f"{each.method} {each.path}" for each in ENDPOINTS if each.event is not None}
    found = {
        name for name, each in OPERATIONS.items() if "text/event-stream" in each["responses"]["200"].get("content", {})
    }
    assert found == streams
    assert {"POST /generate_stream", "POST /v1/chat/completions", "POST /v1/completions"} <= found


async def test_headers_that_tell_the_cost_are_described(api):
    answer = await api.post("/generate", json={"inputs": "Hi"})
    described = OPERATIONS["POST /generate"]["responses"]["200"]["headers"]
    assert {name for name in answer.headers if name.startswith("x-")} == set(described)


def test_examples_of_errors_are_what_the_schema_says():
    for name, operation in OPERATIONS.items():
        for status, response in operation["responses"].items():
            media = response.get("content", {}).get("application/json", {})
            if status == "200" or "example" not in media:
                continue
            schema = {**media["schema"], "components": DOCUMENT["components"]}
            Draft202012Validator(schema).validate(media["example"])
            family = {"tgi": "", "openai": "OpenAI", "anthropic": "Anthropic"}[dialect(name.split(" ")[1])]
            if name != "POST /invocations":  # which answers as the route it passes the body on to
                assert media["schema"]["$ref"].endswith(f"/{family}ErrorResponse")


@pytest.mark.parametrize("path", [name for name, each in OPERATIONS.items() if "requestBody" in each])
async def test_examples_of_requests_are_answered(api: httpx.AsyncClient, path):
    body = OPERATIONS[path]["requestBody"]["content"]["application/json"].get("example")
    assert body is not None, "give it one in engine/server/descriptions.py"
    answer = await api.post(path.removeprefix("POST "), json=body)
    assert answer.status_code == 200, answer.text


# Structs of requests with the least each needs, and where to send it.
LEAST: dict[str, tuple[str, dict[str, Any]]] = {
    "GenerateParameters": ("/generate", {}),
    "ChatBody": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
    "CompletionBody": ("/v1/completions", {"prompt": "Hi"}),
}


def bounds(struct: str) -> list[Any]:
    """For each bounded number of a struct the values on both sides of each bound, and whether they are inside."""
    found = []
    for field, schema in DOCUMENT["components"]["schemas"][struct]["properties"].items():
        for member in schema.get("anyOf", [schema]):
            step = 1 if member.get("type") == "integer" else 0.001
            for keyword, (inside, outside) in {
                "minimum": (0, -step),
                "maximum": (0, step),
                "exclusiveMinimum": (step, 0),
                "exclusiveMaximum": (-step, 0),
            }.items():
                limit = member.get(keyword)
                if limit is None or abs(limit) >= 2**31 - 1:
                    continue
                for value, allowed in ((limit + inside, True), (limit + outside, False)):
                    found.append(pytest.param(struct, field, value, allowed, id=f"{struct}.{field}={value:g}"))
    return found


@pytest.mark.parametrize(("struct", "field", "value", "allowed"), [each for struct in LEAST for each in bounds(struct)])
async def test_ranges_are_those_of_the_server(api, struct, field, value, allowed):
    path, least = LEAST[struct]
    given = {field: value}
    if field == "top_logprobs":
        given["logprobs"] = True
    if field == "best_of" and value > 1:
        given |= {"do_sample": True} if struct == "GenerateParameters" else {}
    body = {"inputs": "Hi", "parameters": given} if struct == "GenerateParameters" else {**least, **given}
    answer = await api.post(path, json=body)
    assert (answer.status_code == 200) == allowed, answer.text
    assert answer.status_code in (200, 422)


def test_the_seed_has_64_bits():
    schema = DOCUMENT["components"]["schemas"]["GenerateParameters"]["properties"]["seed"]
    assert schema["anyOf"][0] | {} == {"type": "integer", "minimum": 0, "maximum": 2**64 - 1}


async def test_limits_follow_the_options(make_app):
    async with client_of(make_app(max_best_of=5, max_stop_sequences=7, max_top_n_tokens=9, max_n=3)) as client:
        schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
    native = schemas["GenerateParameters"]["properties"]
    assert native["best_of"]["anyOf"][0]["maximum"] == 5
    assert native["stop"]["anyOf"][1]["maxItems"] == 7
    assert native["top_n_tokens"]["anyOf"][0]["maximum"] == 9
    assert schemas["ChatBody"]["properties"]["n"]["anyOf"][0]["maximum"] == 3
    strict = made(tgi_compat="strict")["components"]["schemas"]["GenerateParameters"]["properties"]["top_p"]
    assert strict["anyOf"][0] == {"type": "number", "exclusiveMinimum": 0.0, "exclusiveMaximum": 1.0}


def test_answers_name_what_is_always_there():
    chunk = DOCUMENT["components"]["schemas"]["ChatChunk"]
    assert {"object", "usage"} <= set(chunk["required"])
    assert "timings" not in chunk["required"]


def test_unions_and_structs_of_one_name_need_no_care():
    from engine.server.endpoint import Endpoint

    def struct(module: str) -> type[msgspec.Struct]:
        return msgspec.defstruct("Thing", [("x", int)], module=f"engine.server.schema.{module}")

    one, other = struct("one"), struct("other")
    endpoint = Endpoint(
        method="POST", path="/x/{name}", handler=ENDPOINTS[0].handler, summary="x", tag="Server",
        body=one | other, answer=list[one] | other, event=one | other,
    )  # fmt: skip
    found = document((endpoint,), OPTIONS)
    validate(found)
    assert {"one.Thing", "other.Thing"} <= set(found["components"]["schemas"])
    operation = found["paths"]["/x/{name}"]["post"]
    assert operation["parameters"][0]["name"] == "name"
    assert operation["requestBody"]["content"]["application/json"]["schema"] == {
        "anyOf": [{"$ref": "#/components/schemas/one.Thing"}, {"$ref": "#/components/schemas/other.Thing"}]
    }
    json.dumps(found)

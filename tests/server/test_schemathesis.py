"""Schemathesis against the server's own document: what it allows and what it forbids, and every answer in its shape.

All checks run but `positive_data_acceptance`: a 422 may have a reason that no schema can express. Those reasons
are listed below, each with a body that the document allows.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fake_engine import INFO, FakeEngine
from hypothesis import HealthCheck, settings
from jsonschema import Draft202012Validator
from schemathesis import Case, Response
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.generation.hypothesis.builder import HypothesisTestConfig, HypothesisTestMode, create_test
from schemathesis.python import asgi
from serving import MODEL, SCRIPT

from engine.config import ServerOptions
from engine.server.app import ENDPOINTS, create_app
from engine.text.tokenizer import Tokenizer

OPTIONS = ServerOptions(model_id="the/model", api_keys=("secret",))
KEY = {"authorization": "Bearer secret"}
# An end token, and after it for requests that ignore it more than fits.
LONG = (*SCRIPT, *(((17,),) * INFO.max_total_tokens))
ROUTES = [f"{each.method} {each.path}" for each in ENDPOINTS if each.described]
SAME = ("POST /v1", "POST /invocations")  # handlers of other routes, which the longer test sees

load_all_checks()
EXCEPT = CHECKS.get_by_names(["positive_data_acceptance"])
REJECTION = CHECKS.get_by_names(["negative_data_rejection"])


@pytest.fixture(scope="module")
def session() -> Iterator[asgi.ASGIClient]:
    """The server, started once."""
    with asgi.get_client(create_app(FakeEngine(LONG), Tokenizer.load(MODEL), OPTIONS)) as client:
        yield client


@pytest.fixture(scope="module")
def described(session: asgi.ASGIClient) -> Any:
    """The document, as the server gives it."""
    config = schemathesis.Config.from_dict({"auth": {"openapi": {"bearer": {"bearer": "secret"}}}})
    return schemathesis.openapi.from_asgi("/openapi.json", session.app, config=config, headers=KEY)


def is_refused_stream(response: Response) -> bool:
    """A refusal after the status line, as TGI's streams make it: the first event is the error."""
    if not response.headers.get("content-type", [""])[0].startswith("text/event-stream"):
        return False
    data = next(line for line in response.text.splitlines() if line.startswith("data: "))
    return "error" in json.loads(data.removeprefix("data: "))


def check(case: Case, session: asgi.ASGIClient) -> None:
    # A key is taken to open routes too: without one nobody learns which methods a path has.
    is_open = not case.operation.definition.raw["security"]
    response = case.call(session=session, headers=KEY if is_open else None)
    excluded = EXCEPT + (REJECTION if is_refused_stream(response) else [])
    case.validate_response(response, excluded_checks=excluded, transport_kwargs={"session": session})


def explore(route: str, described: Any, session: asgi.ASGIClient, examples: int) -> None:
    """Bodies at every limit of the schema and beyond it, then as many random ones, valid and not."""
    method, path = route.split(" ")
    operation = described[path][method]
    rules = settings(
        max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    config = HypothesisTestConfig(project=operation.schema.config, modes=list(HypothesisTestMode), settings=rules)
    create_test(operation=operation, test_func=lambda case: check(case, session), config=config)()


@pytest.mark.parametrize("route", [route for route in ROUTES if route not in SAME])
def test_a_route_is_as_described(route, described, session):
    explore(route, described, session, examples=8)


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES)
def test_a_route_is_as_described_at_length(route, described, session):
    explore(route, described, session, examples=300)


def generate(inputs: str = "A river is", **parameters: Any) -> dict[str, Any]:
    return {"inputs": inputs, "parameters": parameters}


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}], **fields}


def says(*parts: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts), **fields}]}


def complete(prompt: Any = "Hi", **fields: Any) -> dict[str, Any]:
    return {"prompt": prompt, **fields}


TOOL = {"type": "function", "function": {"name": "depth", "parameters": {"type": "object"}}}
TINY = 2.0**-150  # above zero, and zero as a float32

# What the document allows and the server refuses: (route, body, words of the refusal)
REFUSED = (
    # How long a text is, only the tokenizer knows.
    ("/generate", generate("river " * 80), "must have less than 63 tokens"),
    ("/generate", generate(max_new_tokens=63), "must be <= 64. Given: 3 `inputs` tokens and 63"),
    ("/generate", generate(truncate=64), "`truncate` must be strictly positive and less than 63"),
    ("/v1/chat/completions", chat(max_tokens=64), "must be <= 64"),
    ("/v1/completions", complete([1] * 64), "must have less than 63 tokens"),
    # Parameters that hold only together.
    ("/generate", generate(best_of=2), "you must use sampling when `best_of` is > 1"),
    ("/generate", generate(best_of=2, do_sample=True, seed=1), "`seed` must not be set when `best_of` > 1"),
    ("/v1/chat/completions", chat(top_logprobs=1), "`top_logprobs` needs `logprobs`"),
    ("/v1/chat/completions", chat(max_tokens=1, max_completion_tokens=2), "mean the same"),
    ("/v1/chat/completions", chat(tool_choice="required"), "tool_choice"),
    ("/v1/chat/completions", chat(tools=[TOOL], tool_choice="width"), "width"),
    ("/v1/completions", complete(n=2, best_of=1), "`best_of` must be >= `n`"),
    # Numbers that TGI reads as float32.
    ("/generate", generate(temperature=TINY), "`temperature` must be strictly positive"),
    ("/generate", generate(repetition_penalty=TINY), "`repetition_penalty` must be strictly positive"),
    # What this version, or this model, cannot do.
    ("/generate", generate(watermark=True), "`watermark` is not supported"),
    ("/generate", generate(adapter_id="mine"), "`adapter_id` names an adapter that is not loaded"),
    ("/v1/completions", complete(suffix="."), "Suffix is not supported"),
    ("/v1/responses", {"input": "Hi", "background": True}, "`background` is not supported"),
    ("/v1/responses", {"input": "Hi", "previous_response_id": "resp_1"}, "previous_response_id"),
    ("/v1/chat/completions", says({"type": "image_url"}), "image_url modality is not supported"),
    ("/v1/messages", {"model": "m", "max_tokens": 1, **says({"type": "image"})}, "image"),
    # What a dictionary, a list or a text must hold.
    ("/generate", generate(grammar={"type": "json"}), "grammar"),
    ("/generate", generate(grammar={"type": "regex", "value": "("}), "grammar"),
    ("/generate", generate(logit_bias={"8192": 1}), "`logit_bias` keys must be token ids < 8192"),
    ("/v1/chat/completions", chat(response_format={"type": "yaml"}), "its `type` must be one of"),
    ("/v1/chat/completions", {"messages": [{"role": "user"}]}, "a message needs `content`"),
    ("/v1/completions", complete([]), "prompt"),
    ("/v1/completions", complete([8192]), "token ids must be < 8192"),
    ("/v1/completions", complete(["Hi"] * 5), "Number of prompts exceeds the maximum allowed batch size of 4"),
    ("/vertex", {"instances": []}, "Input validation error"),
    ("/vertex", {"instances": [{}]}, "did not match any variant"),
)


@pytest.mark.parametrize(
    ("path", "body", "words"), [pytest.param(*each, id=f"{each[0]} {each[2][:48]}") for each in REFUSED]
)
def test_no_schema_says_why_this_is_refused(path, body, words, session):
    document = session.get("/openapi.json", headers=KEY).json()
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    Draft202012Validator({**schema, "components": document["components"]}).validate(body)
    answer = session.post(path, json=body, headers=KEY)
    assert answer.status_code == 422
    assert words in answer.text

"""Spans of requests: TGI's names and fields (contract 5), the caller's trace, and times that fit into each other."""

import builtins
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import pytest
from fake_engine import FakeEngine
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from serving import client_of

from engine.config import ServerOptions
from engine.errors import ConfigError, GenerationFailed
from engine.server.app import create_app
from engine.server.tracing import make_provider
from engine.text.tokenizer import Tokenizer

USER = {"role": "user", "content": "Hi"}
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
FIELDS = {
    "parameters",
    "total_time",
    "validation_time",
    "queue_time",
    "inference_time",
    "time_per_token",
    "seed",
}
GENERATIONS: list[tuple[str, dict[str, Any], str, int]] = [
    ("/generate", {"inputs": "The sea", "parameters": {"seed": 7, "do_sample": True}}, "generate", 1),
    ("/generate", {"inputs": "The sea", "parameters": {"best_of": 2, "do_sample": True}}, "generate", 2),
    ("/generate_stream", {"inputs": "The sea"}, "generate_stream", 1),
    ("/", {"inputs": "The sea"}, "compat_generate", 1),
    ("/v1", {"inputs": "The sea", "stream": True}, "compat_generate", 1),
    ("/v1/chat/completions", {"messages": [USER]}, "chat_completions", 1),
    ("/v1/chat/completions", {"messages": [USER], "n": 2, "stream": True}, "chat_completions", 2),
    ("/v1/completions", {"prompt": ["a", "b"], "stream": True}, "completions", 2),
    ("/invocations", {"prompt": "a"}, "sagemaker_compatibility", 1),
    ("/vertex", {"instances": [{"inputs": "a"}]}, "vertex_compatibility", 1),
]
OTHERS = [
    ("GET", "/health", "health"),
    ("GET", "/info", "get_model_info"),
    ("GET", "/v1/models", "openai_get_model_info"),
    ("POST", "/tokenize", "tokenize"),
    ("GET", "/metrics", "/metrics"),
]


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
async def traced(
    engine: FakeEngine, tokenizer: Tokenizer, exporter: InMemorySpanExporter
) -> AsyncIterator[httpx.AsyncClient]:
    options = ServerOptions(model_id="the/model", otlp_service_name="my-service")
    app = create_app(engine, tokenizer, options, engine.info, make_provider(options, exporter))
    async with app.router.lifespan_context(app), client_of(app, raise_app_exceptions=False) as client:
        yield client


def tree(spans: tuple[ReadableSpan, ...]) -> dict[str, list[ReadableSpan]]:
    """The spans by name; each must lie within its parent, and all in one trace."""
    by_id = {span.context.span_id: span for span in spans}
    assert len({span.context.trace_id for span in spans}) == 1
    found: dict[str, list[ReadableSpan]] = {}
    for span in spans:
        found.setdefault(span.name, []).append(span)
        assert span.start_time is not None
        assert span.end_time is not None
        assert span.start_time <= span.end_time
        if span.parent is not None and span.parent.span_id in by_id:
            assert span.end_time <= (by_id[span.parent.span_id].end_time or 0)
    return found


@pytest.mark.parametrize(("path", "body", "name", "answers"), GENERATIONS)
async def test_a_generation_has_tgis_span_with_its_fields(
    path: str, body: dict[str, Any], name: str, answers: int, traced: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    assert (await traced.post(path, json=body)).status_code == 200
    spans = tree(exporter.get_finished_spans())
    [request], [work] = spans[f"POST {path}"], spans[name]
    assert work.parent is not None
    assert request.context.span_id == work.parent.span_id
    assert request.kind is SpanKind.SERVER
    assert request.attributes == {
        "http.request.method": "POST",
        "url.path": path,
        "http.response.status_code": 200,
    }
    assert request.resource.attributes["service.name"] == "my-service"
    assert set(work.attributes or {}) == FIELDS
    assert len(spans["validate"]) == 1
    assert len(spans["infer"]) == len(spans["queued"]) == answers


async def test_the_fields_say_what_was_asked_and_what_it_took(
    traced: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    path, body, name, _ = GENERATIONS[0]
    await traced.post(path, json=body)
    [work] = tree(exporter.get_finished_spans())[name]
    fields = work.attributes or {}
    assert fields["seed"] == "Some(7)"
    parameters = json.loads(str(fields["parameters"]))
    assert (parameters["seed"], parameters["do_sample"], parameters["top_k"]) == (7, True, None)
    seconds = [fields[each] for each in sorted(FIELDS) if each.endswith(("_time", "_token"))]
    assert all(isinstance(each, float) and each >= 0 for each in seconds)
    exporter.clear()
    await traced.post("/generate", json={"inputs": "a", "parameters": {}})
    [greedy] = tree(exporter.get_finished_spans())["generate"]
    assert (greedy.attributes or {})["seed"] == "None"


@pytest.mark.parametrize(("method", "path", "name"), OTHERS)
async def test_other_routes_have_a_span_too(
    method: str, path: str, name: str, traced: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    await traced.request(method, path, json={"inputs": "a"} if method == "POST" else None)
    spans = tree(exporter.get_finished_spans())
    assert set(spans) == {f"{method} {path}", name}


async def test_a_callers_trace_is_continued(traced: httpx.AsyncClient, exporter: InMemorySpanExporter) -> None:
    await traced.get("/health", headers={"traceparent": CALLER})
    [request] = tree(exporter.get_finished_spans())["GET /health"]
    assert request.parent is not None
    assert f"{request.context.trace_id:032x}" == CALLER.split("-")[1]
    assert f"{request.parent.span_id:016x}" == CALLER.split("-")[2]


@pytest.mark.parametrize("header", ["", "nonsense", "00-" + "0" * 32 + "-b7ad6b7169203331-01"])
async def test_a_bad_trace_header_begins_a_trace(
    header: str, traced: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    assert (await traced.get("/health", headers={"traceparent": header})).status_code == 200
    [request] = tree(exporter.get_finished_spans())["GET /health"]
    assert request.parent is None


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(GenerationFailed("x"), 424, StatusCode.UNSET), (RuntimeError("x"), 500, StatusCode.ERROR)],
)
async def test_a_failure_is_seen(
    error: Exception,
    status: int,
    code: StatusCode,
    traced: httpx.AsyncClient,
    engine: FakeEngine,
    exporter: InMemorySpanExporter,
) -> None:
    engine.error = error
    assert (await traced.post("/generate", json={"inputs": "a"})).status_code == status
    [request] = tree(exporter.get_finished_spans())["POST /generate"]
    assert request.status.status_code is code


class Collector(TraceServiceServicer):
    """What receives traces over OTLP, as an operator's does."""

    def __init__(self) -> None:
        self.received: list[ExportTraceServiceRequest] = []

    def Export(self, request: ExportTraceServiceRequest, context: object) -> ExportTraceServiceResponse:
        self.received.append(request)
        return ExportTraceServiceResponse()


async def test_a_collector_receives_the_spans_when_the_server_ends(engine: FakeEngine, tokenizer: Tokenizer) -> None:
    collector, listener = Collector(), grpc.server(ThreadPoolExecutor(1))
    add_TraceServiceServicer_to_server(collector, listener)
    port = listener.add_insecure_port("127.0.0.1:0")
    listener.start()
    try:
        options = ServerOptions(model_id="m", otlp_endpoint=f"http://127.0.0.1:{port}", otlp_service_name="far")
        app = create_app(engine, tokenizer, options, engine.info, make_provider(options))
        async with app.router.lifespan_context(app), client_of(app) as api:
            assert (await api.post("/generate", json={"inputs": "a"})).status_code == 200
    finally:
        listener.stop(None).wait()
    [resource] = [found for request in collector.received for found in request.resource_spans]
    assert "far" in {attribute.value.string_value for attribute in resource.resource.attributes}
    names = {span.name for scope in resource.scope_spans for span in scope.spans}
    assert names == {"POST /generate", "generate", "validate", "infer", "queued", "prefill", "decode"}


@pytest.fixture
def without_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **named: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(f"No module named '{name}'")
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.usefixtures("without_opentelemetry")
def test_a_missing_extra_is_named() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'tgi\[otel\]'"):
        make_provider(ServerOptions(model_id="m", otlp_endpoint="http://127.0.0.1:4317"))


def test_a_server_without_traces_imports_nothing_of_it() -> None:
    code = "import sys, engine.server.app; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0

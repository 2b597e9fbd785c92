"""Traces in OpenTelemetry's protocol, with TGI's spans and fields: an extra, and nothing where it is not asked for.

    POST /generate                      the HTTP request; continues the caller's trace (W3C `traceparent`)
    └── generate                        parameters, total_time, validation_time, queue_time, inference_time,
        ├── validate                    time_per_token, seed; named by the route as in TGI
        └── infer                       one for each answer, with what it spent in the queue, and in
            ├── queued                  prefill and decode
            ├── prefill
            └── decode

The rest of the server calls `record`, `validated` and `answered`, which do nothing outside of a traced request.
"""

import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING

import msgspec
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.config import ServerOptions
from engine.errors import ConfigError
from engine.types import Timings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

# What TGI calls the work of a route; other routes have a span of their path.
NAMES = {
    ("POST", "/"): "compat_generate",
    ("POST", "/v1"): "compat_generate",
    ("POST", "/generate"): "generate",
    ("POST", "/generate_stream"): "generate_stream",
    ("POST", "/invocations"): "sagemaker_compatibility",
    ("POST", "/vertex"): "vertex_compatibility",
    ("POST", "/tokenize"): "tokenize",
    ("POST", "/v1/completions"): "completions",
    ("POST", "/v1/chat/completions"): "chat_completions",
    ("GET", "/"): "health",
    ("GET", "/health"): "health",
    ("GET", "/ping"): "health",
    ("GET", "/info"): "get_model_info",
    ("GET", "/v1/models"): "openai_get_model_info",
}
Value = str | int | float | bool
EXPORT_SECONDS = 3.0  # that a collector gets; a server that ends waits for the last spans


class _Work:
    """The span of the request that is being answered."""

    def __init__(self, tracer: "Tracer", span: "Span") -> None:
        self.tracer = tracer
        self.span = span
        self.started = time.time_ns()

    def child(self, name: str, start: int, end: int, parent: "Span | None" = None, **fields: Value) -> "Span":
        """A span of the past. Times are in nanoseconds since 1970."""
        from opentelemetry.trace import set_span_in_context

        span = self.tracer.start_span(
            name, set_span_in_context(parent or self.span), start_time=start, attributes=fields
        )
        span.end(end)
        return span


_work: ContextVar[_Work | None] = ContextVar("work", default=None)


def record(**fields: object) -> None:
    """Fields of the request's span; structs are written as JSON."""
    if (work := _work.get()) is not None:
        for name, value in fields.items():
            work.span.set_attribute(name, value if isinstance(value, Value) else msgspec.json.encode(value).decode())


def validated(seconds: float) -> None:
    """The request has been checked and tokenized."""
    if (work := _work.get()) is not None:
        now = time.time_ns()
        work.child("validate", now - _nanoseconds(seconds), now)
        work.span.set_attribute("validation_time", seconds)


def answered(queue: float, inference: float, tokens: int, seed: int | None, timings: Timings | None) -> None:
    """One answer is complete, `queue` and `inference` seconds after it was submitted."""
    if (work := _work.get()) is None:
        return
    end = time.time_ns()
    admitted = end - _nanoseconds(inference)
    submitted = admitted - _nanoseconds(queue)
    infer = work.child("infer", submitted, end, generated_tokens=tokens)
    work.child("queued", submitted, admitted, infer)
    if timings is not None:
        first = min(end, admitted + _nanoseconds(timings.prefill))
        work.child("prefill", admitted, first, infer, cached_tokens=timings.cached_tokens)
        work.child("decode", first, end, infer)
    record(queue_time=queue, inference_time=inference, time_per_token=inference / max(1, tokens))
    record(seed="None" if seed is None else f"Some({seed})")


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


class Traced:
    """Gives every request its spans; they end when the last byte of the answer has been sent."""

    def __init__(self, app: ASGIApp, provider: "TracerProvider") -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.app = app
        self._tracer = provider.get_tracer("tgi")
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode

        method: str = scope["method"]
        path: str = scope["path"]
        context = self._propagator.extract(dict(Headers(scope=scope)))
        request: Mapping[str, Value] = {"http.request.method": method, "url.path": path}
        with self._tracer.start_as_current_span(
            f"{method} {path}", context, kind=SpanKind.SERVER, attributes=request
        ) as outer:

            async def send_and_see(message: Message) -> None:
                if message["type"] == "http.response.start":
                    outer.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        outer.set_status(Status(StatusCode.ERROR))
                await send(message)

            with self._tracer.start_as_current_span(NAMES.get((method, path), path)) as inner:
                token = _work.set(_Work(self._tracer, inner))
                try:
                    await self.app(scope, receive, send_and_see)
                finally:
                    _work.reset(token)


def make_provider(options: ServerOptions, exporter: "SpanExporter | None" = None) -> "TracerProvider":
    """What makes the spans of a server and sends them to `--otlp-endpoint`, or to `exporter` at once.

    Raises ConfigError where the extra is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
    except ImportError as error:
        raise ConfigError(
            f"--otlp-endpoint needs the extra 'otel' ({error}); install it with: pip install 'tgi[otel]'"
        ) from None
    provider = TracerProvider(resource=Resource.create({"service.name": options.otlp_service_name}))
    if exporter is not None:
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    else:
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(options.otlp_endpoint, timeout=EXPORT_SECONDS)))
    return provider

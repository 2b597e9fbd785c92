"""`create_app`: every route of the server in one table, and what surrounds them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, compile_path

from engine.client import EngineClient
from engine.config import ServerOptions
from engine.errors import EngineError
from engine.server import (
    chat,
    completions,
    embeddings,
    messages,
    openai,
    pages,
    platforms,
    responses,
    root,
    strict,
    tgi,
    tracing,
)
from engine.server.auth import BearerAuth
from engine.server.endpoint import Endpoint, Handler
from engine.server.errors import engine_error_response, http_error_response, unexpected_error_response
from engine.server.headers import COST_HEADERS, EMBEDDING_HEADERS, STREAM_HEADERS
from engine.server.request_id import RequestId
from engine.server.service import Embedder, Service
from engine.server.sse import ClientGone
from engine.text.tokenizer import Tokenizer
from engine.types import EngineInfo

ENDPOINTS: tuple[Endpoint, ...] = (
    *root.ENDPOINTS,
    *tgi.ENDPOINTS,
    *chat.ENDPOINTS,
    *completions.ENDPOINTS,
    *openai.ENDPOINTS,
    *responses.ENDPOINTS,
    *messages.ENDPOINTS,
    *embeddings.ENDPOINTS,
    *platforms.ENDPOINTS,
    *pages.ENDPOINTS,
)

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

EXPOSED = ["x-request-id", "retry-after", *STREAM_HEADERS, *COST_HEADERS, *EMBEDDING_HEADERS]


def create_app(
    client: EngineClient,
    tokenizer: Tokenizer,
    options: ServerOptions,
    info: EngineInfo | None = None,
    provider: "TracerProvider | None" = None,
    encoder: Embedder | None = None,
) -> Starlette:
    """The ASGI application. Its lifespan starts `client` unless `info` says that it is running, and closes it.

    An `encoder` beside the model, which answers requests for embeddings, is started and closed with it.
    Requests are traced where there is a `provider` of spans (`tracing.make_provider`), which is closed too.
    Raises ConfigError (from the lifespan where the engine starts there) when the limits do not fit the engine.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            if info is None:
                if encoder is not None:
                    await encoder.start()
                app.state.service = Service(client, tokenizer, options, await client.start(), encoder)
            yield
        finally:
            await client.close()
            if encoder is not None:
                await encoder.client.close()
            if hasattr(app.state, "service"):
                app.state.service.close()
            if provider is not None:
                await asyncio.to_thread(provider.shutdown)

    app = Starlette(
        routes=_routes(),
        lifespan=lifespan,
        middleware=[
            Middleware(RequestId),
            *([Middleware(tracing.Traced, provider=provider)] if provider is not None else []),
            *_cors(options),
            Middleware(BearerAuth, keys=options.api_keys, public=_public(options), as_tgi=options.strict),
        ],
        exception_handlers={
            EngineError: strict.error_response if options.strict else engine_error_response,
            HTTPException: strict.unknown_route_response if options.strict else http_error_response,
            ClientGone: _client_gone,
            ClientDisconnect: _client_gone,
            Exception: unexpected_error_response,
        },
    )
    app.router.redirect_slashes = False
    app.state.strict = options.strict
    app.state.endpoints = ENDPOINTS
    if info is not None:
        app.state.service = Service(client, tokenizer, options, info, encoder)
    return app


def _routes() -> list[Route]:
    """One route for each path, so that a 405 names all its methods."""
    paths: dict[str, dict[str, Handler]] = {}
    for each in ENDPOINTS:
        paths.setdefault(_pattern(each), {})[each.method] = each.handler
    return [Route(path, _by_method(handlers), methods=list(handlers)) for path, handlers in paths.items()]


def _by_method(handlers: dict[str, Handler]) -> Handler:
    async def handle(request: Request) -> Response:
        return await handlers["GET" if request.method == "HEAD" else request.method](request)

    return handle


def _pattern(endpoint: Endpoint) -> str:
    """The path as Starlette reads it. A part in braces may hold slashes, as ids of models do."""
    return endpoint.path.replace("}", ":path}")


def _public(options: ServerOptions) -> Callable[[str, str], bool]:
    """Whether a method and a path need no key. What is not named here, now or later, needs one."""
    access = ("open", "info") if options.public_info else ("open",)
    routes = [each for each in ENDPOINTS if each.access in access]
    patterns = [
        (("GET", "HEAD") if each.allows_head else ("POST",), compile_path(_pattern(each))[0]) for each in routes
    ]
    return lambda method, path: any(method in methods and pattern.match(path) for methods, pattern in patterns)


def _cors(options: ServerOptions) -> list[Middleware]:
    """Browsers of other origins are let in only where the operator names them."""
    if not options.cors_allow_origin:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=options.cors_allow_origin,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # authorization, content-type, and what the clients of others add of their own
            expose_headers=EXPOSED,
        )
    ]


async def _client_gone(request: Request, error: Exception) -> Response:
    """Nobody reads this; 499 is what nginx writes into its log for it."""
    return Response(status_code=499)

"""`create_app`: every route of the server in one table, and what surrounds them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from engine.client import EngineClient
from engine.config import ServerOptions
from engine.errors import EngineError
from engine.server import chat, completions, openai, tgi
from engine.server.auth import BearerAuth
from engine.server.endpoint import Endpoint
from engine.server.errors import engine_error_response, http_error_response, unexpected_error_response
from engine.server.request_id import RequestId
from engine.server.service import Service
from engine.server.sse import ClientGone
from engine.text.tokenizer import Tokenizer
from engine.types import EngineInfo

ENDPOINTS: tuple[Endpoint, ...] = (*tgi.ENDPOINTS, *chat.ENDPOINTS, *completions.ENDPOINTS, *openai.ENDPOINTS)


def create_app(
    client: EngineClient, tokenizer: Tokenizer, options: ServerOptions, info: EngineInfo | None = None
) -> Starlette:
    """The ASGI application. Its lifespan starts `client` unless `info` says that it is running, and closes it.

    Raises ConfigError (from the lifespan where the engine starts there) when the limits do not fit the engine.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            if info is None:
                app.state.service = Service(client, tokenizer, options, await client.start())
            yield
        finally:
            await client.close()
            if hasattr(app.state, "service"):
                app.state.service.close()

    app = Starlette(
        routes=[Route(each.path, each.handler, methods=[each.method]) for each in ENDPOINTS],
        lifespan=lifespan,
        middleware=[
            Middleware(RequestId),
            *_cors(options),
            Middleware(BearerAuth, keys=options.api_keys, public=_public(options)),
        ],
        exception_handlers={
            EngineError: engine_error_response,
            HTTPException: http_error_response,
            ClientGone: _client_gone,
            ClientDisconnect: _client_gone,
            Exception: unexpected_error_response,
        },
    )
    app.router.redirect_slashes = False
    if info is not None:
        app.state.service = Service(client, tokenizer, options, info)
    return app


def _public(options: ServerOptions) -> set[tuple[str, str]]:
    """Methods and paths that need no key. What is not named here, now or later, needs one."""
    access = ("open", "info") if options.public_info else ("open",)
    routes = [each for each in ENDPOINTS if each.access in access]
    return {(method, each.path) for each in routes for method in (("GET", "HEAD") if each.allows_head else ("POST",))}


def _cors(options: ServerOptions) -> list[Middleware]:
    """Browsers of other origins are let in only where the operator names them."""
    if not options.cors_allow_origin:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=options.cors_allow_origin,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
            expose_headers=["x-request-id"],
        )
    ]


async def _client_gone(request: Request, error: Exception) -> Response:
    """Nobody reads this; 499 is what nginx writes into its log for it."""
    return Response(status_code=499)

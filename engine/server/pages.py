"""The pages people open in a browser: the API's documentation and a playground. Both need no other machine."""

import hashlib
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from engine.server.endpoint import Endpoint, Handler
from engine.server.openapi import openapi_json

STATIC = Path(__file__).parent / "static"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}

# Pages run our scripts and ask our server, nothing else; nobody frames them or learns where a link came from.
PROTECTION = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",  # ask each time; the answer is 304 while the file is the same
}


@cache
def _file(name: str) -> tuple[bytes, str]:
    """A file's bytes and its ETag."""
    content = (STATIC / name).read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def _serve(name: str) -> Handler:
    async def serve(request: Request) -> Response:
        content, tag = _file(name)
        headers = {**PROTECTION, "etag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(None, 304, headers)
        return Response(content, headers=headers, media_type=MEDIA_TYPES[Path(name).suffix])

    return serve


def _redirect(target: str) -> Handler:
    """To a relative address, so that it holds behind a proxy that adds a prefix."""

    async def redirect(request: Request) -> Response:
        return RedirectResponse(target)

    return redirect


def _page(path: str, handler: Handler, summary: str) -> Endpoint:
    return Endpoint(
        method="GET", path=path, handler=handler, summary=summary, tag="Server", access="info", described=False
    )


ENDPOINTS = (
    _page("/api-doc/openapi.json", openapi_json, "This API as an OpenAPI document"),
    _page("/openapi.json", openapi_json, "The same, where FastAPI has it"),
    _page("/docs", _redirect("docs/"), "The documentation page"),
    _page("/docs/", _serve("docs.html"), "The documentation page"),
    _page("/docs/docs.js", _serve("docs.js"), "Its script"),
    _page("/docs/docs.css", _serve("docs.css"), "Its style"),
    _page("/docs/swagger-ui-bundle.js", _serve("swagger/swagger-ui-bundle.js"), "Swagger UI"),
    _page("/docs/swagger-ui.css", _serve("swagger/swagger-ui.css"), "Swagger UI's style"),
    _page("/ui", _serve("playground.html"), "The playground"),
    _page("/ui/", _redirect("../ui"), "The playground"),
    _page("/ui/playground.js", _serve("playground.js"), "Its script"),
    _page("/ui/playground.css", _serve("playground.css"), "Its style"),
)

"""Bearer keys. With keys set, every route needs one unless its `Endpoint` says otherwise."""

import hashlib
import hmac
from collections.abc import Container, Iterable

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.server.errors import Unauthorized, error_body


class BearerAuth:
    """Lets a request pass when it names a public route or carries one of the keys.

    Keys are compared as SHA-256 digests in constant time, case-sensitively. The decision rests on the
    path the router will see, never on a URL rebuilt from the Host header.
    """

    def __init__(self, app: ASGIApp, keys: Iterable[str], public: Container[tuple[str, str]] = ()) -> None:
        self.app = app
        self._public = public
        self._digests = tuple(_digest(key.encode()) for key in keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._allows(scope):
            await self.app(scope, receive, send)
            return
        error = Unauthorized("Missing or wrong API key; send it as `Authorization: Bearer <key>`")
        headers = {"www-authenticate": "Bearer"}
        body = error_body(scope["path"], error)
        await Response(body, error.status, headers, media_type="application/json")(scope, receive, send)

    def _allows(self, scope: Scope) -> bool:
        if not self._digests or (scope.get("method"), scope["path"]) in self._public:
            return True
        given = Headers(scope=scope).getlist("authorization")
        if len(given) != 1:
            return False
        scheme, _, key = given[0].partition(" ")
        digest = _digest(key.encode("latin-1"))
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return scheme.lower() == "bearer" and any(matches)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()

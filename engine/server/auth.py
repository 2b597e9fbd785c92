"""Bearer keys. With keys set, every route needs one unless its `Endpoint` says otherwise."""

import hashlib
import hmac
from collections.abc import Callable, Iterable

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.server.errors import Unauthorized, error_body

HEADERS = {"www-authenticate": "Bearer"}
MISSING = Unauthorized("Missing or wrong API key; send it as `Authorization: Bearer <key>`")


class BearerAuth:
    """Lets a request pass when its method and path are `public` or when it carries one of the keys.

    Keys are compared as SHA-256 digests in constant time, case-sensitively; Anthropic's clients bring them
    as `x-api-key`. The decision rests on the path the router will see, never on a URL rebuilt from the Host
    header. With `as_tgi` the whole header is compared without regard to case, and a refusal says nothing.
    """

    def __init__(
        self, app: ASGIApp, keys: Iterable[str], public: Callable[[str, str], bool], *, as_tgi: bool = False
    ) -> None:
        self.app = app
        self._public = public
        self._as_tgi = as_tgi
        self._digests = tuple(_digest(self._compared(key.encode())) for key in keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._allows(scope):
            await self.app(scope, receive, send)
            return
        if self._as_tgi:
            await Response(status_code=MISSING.status)(scope, receive, send)
            return
        body = error_body(scope["path"], MISSING)
        await Response(body, MISSING.status, HEADERS, media_type="application/json")(scope, receive, send)

    def _allows(self, scope: Scope) -> bool:
        if not self._digests or self._public(scope.get("method", ""), scope["path"]):
            return True
        key = _key(Headers(scope=scope))
        if key is None:
            return False
        digest = _digest(self._compared(key))
        matches = [hmac.compare_digest(digest, known) for known in self._digests]  # all of them, whichever matches
        return any(matches)

    def _compared(self, key: bytes) -> bytes:
        return key.lower() if self._as_tgi else key


def _key(headers: Headers) -> bytes | None:
    """The key a request brings; None where it brings none, or more than one."""
    bearers, bare = headers.getlist("authorization"), headers.getlist("x-api-key")
    if len(bearers) + len(bare) != 1:
        return None
    if bare:
        return bare[0].encode("latin-1")
    scheme, _, key = bearers[0].partition(" ")
    return key.strip(" \t").encode("latin-1") if scheme.lower() == "bearer" else None


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()

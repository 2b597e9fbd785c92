"""`Endpoint`: all there is to know about one route. Routing, keys and the OpenAPI document read the same table.

Each module of handlers has its `ENDPOINTS`; `app.py` joins them.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

Handler = Callable[[Request], Awaitable[Response]]

# Who may call where the server has keys: who brings one; anyone; anyone where --public-info says so.
Access = Literal["key", "open", "info"]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    method: Literal["GET", "POST"]
    path: str
    handler: Handler
    summary: str
    tag: str  # the heading it stands under in the documentation
    access: Access = "key"
    body: Any = None  # the msgspec struct (or union) of the request; None = no body
    answer: Any = None  # what a 200 holds as JSON; None = nothing, or what `media_type` says
    event: Any = None  # what each server-sent event holds where the route can stream; None = it cannot
    media_type: str = "application/json"
    errors: tuple[int, ...] = ()  # statuses of failures, besides those of every route with a body
    described: bool = True  # part of the OpenAPI document

    @property
    def allows_head(self) -> bool:
        return self.method == "GET"

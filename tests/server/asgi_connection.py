"""One request at the ASGI level, whose client can leave in the middle, and one event stream read apart."""

import asyncio
import json
from typing import Any

from starlette.types import ASGIApp, Message


class Connection:
    """Send one JSON request and keep what comes back. `leave` is what a closed connection looks like."""

    def __init__(self, app: ASGIApp, path: str, body: Any) -> None:
        self._app = app
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("server", 80),
        }
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._incoming.put_nowait({"type": "http.request", "body": json.dumps(body).encode(), "more_body": False})
        self.status: int | None = None
        self.body = b""

    async def run(self) -> None:
        await self._app(self._scope, self._incoming.get, self._send)

    def leave(self) -> None:
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.body += message.get("body", b"")


def events(body: bytes) -> list[Any]:
    """The data of each event, decoded; `[DONE]` as it is. Comments are left out."""
    found = []
    for block in body.decode().split("\n\n"):
        if block.startswith("data: "):
            data = block.removeprefix("data: ")
            found.append(data if data == "[DONE]" else json.loads(data))
        else:
            assert block == "" or block.startswith(":"), block
    return found

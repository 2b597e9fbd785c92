"""Ways to reach a server in a test: in memory, and over a loopback port."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette

from engine.config import ServerOptions
from engine.server.run import bind, make_server

MODEL = Path(__file__).parents[2] / "engine" / "assets" / "default"
SCRIPT = ((290,), (4054,), (17,), (2,))  # " is", " deep", ".", the end token


def client_of(app: Starlette, **arguments: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, **arguments), base_url="http://server")


@contextmanager
def listening(app: Starlette, options: ServerOptions) -> Iterator[str]:
    """Run an application under uvicorn in a thread. Gives its URL."""
    ready = threading.Event()
    with bind("127.0.0.1", 0) as listener:
        server = make_server(app, options, ready.set)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        assert ready.wait(30)
        port = listener.getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join()

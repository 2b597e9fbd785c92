"""Server-sent events, written as bytes, and what to do when the client is no longer there.

Starlette ends a streaming response when its client leaves but lets a plain handler run on; both must give
their blocks back, so both are raced against the disconnect here.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.errors import EngineDead, EngineError
from engine.server.errors import IncompleteGeneration, IncompleteStream, Internal, dialect, error_body

log = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 15.0
KEEP_ALIVE = b":\n\n"
DONE = b"data: [DONE]\n\n"

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed the connection before its answer was complete."""


def event(payload: bytes, name: str | None = None) -> bytes:
    """One event. Those of OpenAI's responses and of Anthropic's messages have names."""
    if name is None:
        return b"data: " + payload + b"\n\n"
    return b"event: " + name.encode() + b"\ndata: " + payload + b"\n\n"


async def begun(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """`events` after their first item, an empty one, which says that every check is passed.

    What is raised before that can still be a plain answer with a status of its own.
    """
    await anext(events)
    return events


ErrorBody = Callable[[EngineError], bytes]


def event_stream(
    events: AsyncGenerator[bytes, None], path: str, headers: Mapping[str, str], body: ErrorBody | None = None
) -> "EventStream":
    """Sends the events, and if they fail one more that says why, since the status line was sent long ago.

    A stream of OpenAI's then ends with `[DONE]` however it went, a native one with its last event. `body`
    writes the error otherwise than the other routes of the family do.
    """
    write = body or (lambda error: error_body(path, error))
    end = DONE if dialect(path) == "openai" else b""
    return EventStream(_with_errors(events, path, write, end), headers, lambda error: event(write(error)) + end)


async def _with_errors(
    events: AsyncGenerator[bytes, None], path: str, write: ErrorBody, end: bytes
) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        try:
            async for chunk in events:
                yield chunk
        except EngineError as error:
            yield event(write(_as_in_stream(error)))
        except Exception:
            log.exception("a stream of %s failed", path)
            yield event(write(Internal("Internal server error")))
    if end:
        yield end


def _as_in_stream(error: EngineError) -> EngineError:
    return IncompleteStream("Incomplete generation stream") if isinstance(error, IncompleteGeneration) else error


async def wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_disconnected(request: Request, work: Coroutine[object, object, T]) -> T:
    """Await `work`, but cancel it and raise ClientGone when the client leaves first.

    Raises EngineDead when the server ends before the work does.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.create_task(wait_for_disconnect(request.receive))
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    except asyncio.CancelledError:
        raise _shutting_down() from None
    finally:
        await _cancel(task, watcher)


def _shutting_down() -> EngineDead:
    return EngineDead("the server is shutting down")


async def _cancel(*tasks: asyncio.Future[T] | asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class EventStream(Response):
    """Sends what `events` yields, each item one or more whole events, until it ends or the client leaves.

    A comment goes out after 15 silent seconds, so that proxies keep the connection. However the stream
    ends, the generator is closed, which cancels the request at the engine. `failure` writes what the stream
    says instead of its end where the server ends first.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], headers: Mapping[str, str], failure: ErrorBody) -> None:
        super().__init__(None, headers={"cache-control": "no-cache", "x-accel-buffering": "no", **headers})
        del self.headers["content-length"]
        self._events = events
        self._failure = failure
        self._silent = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        pump = asyncio.create_task(self._pump(send))
        watcher = asyncio.create_task(self._watch(receive, send))
        try:
            await asyncio.wait((pump, watcher), return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                pump.result()
        except asyncio.CancelledError:
            # The server ends while the answer is unfinished: say so rather than just stop.
            await _cancel(pump)
            last_words = self._failure(_shutting_down())
            await send({"type": "http.response.body", "body": last_words, "more_body": False})
        finally:
            await _cancel(pump, watcher)
            await self._events.aclose()

    async def _pump(self, send: Send) -> None:
        async for chunk in self._events:
            self._silent = False
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _watch(self, receive: Receive, send: Send) -> None:
        """Return when the client has left; until then keep a silent connection open."""
        while True:
            self._silent = True
            try:
                async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                    await wait_for_disconnect(receive)
                    return
            except TimeoutError:
                if self._silent:
                    await send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})

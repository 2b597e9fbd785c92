"""`Exchange`: one request for an answer that streams as events with names, and that answer as it comes.

OpenAI's responses and Anthropic's messages differ in what they say, not in how they run.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing

import msgspec

from engine.errors import EngineError
from engine.server.conversation import Conversation, Reply, Step, render
from engine.server.generation import Stopwatch, observed
from engine.server.headers import compute_headers, stream_headers
from engine.server.schema.common import encode
from engine.server.service import Service
from engine.server.sse import event

log = logging.getLogger(__name__)

Events = Iterable[msgspec.Struct]  # tagged ones: the tag is the name of the event


class Exchange(ABC):
    """Run it by `complete` or by `events`, once. `reply` is there when every check is passed."""

    reply: Reply
    watch: Stopwatch

    def __init__(self, here: Service, conversation: Callable[[], Conversation]) -> None:
        """`conversation` raises InvalidRequest where the request is none; it is called when requests are counted."""
        self.here = here
        self._conversation = conversation
        self._admitted = False

    @abstractmethod
    def opening(self) -> Events:
        """What a stream begins with, before the first step."""

    @abstractmethod
    def read(self, step: Step) -> Events:
        """Take in a step. Returns what a stream says of it."""

    @abstractmethod
    def closing(self) -> Events:
        """What a stream says after the last step."""

    @abstractmethod
    def failure(self, error: EngineError) -> bytes:
        """What a stream that has begun says instead of its end."""

    async def complete(self) -> None:
        """Take in the whole answer."""
        async with aclosing(self._steps(eager=False)) as steps:
            async for step in steps:
                if step is not None:
                    self.read(step)

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The stream (see `begun`). Failures after its beginning are part of it."""
        try:
            async with aclosing(self._steps(eager=True)) as steps:
                async for step in steps:
                    if step is None:
                        yield b""
                        yield encoded(self.opening())
                    elif chunk := encoded(self.read(step)):
                        yield chunk
            yield encoded(self.closing())
        except EngineError as error:
            if not self._admitted:
                raise
            yield self.failure(error)
        except Exception:
            if not self._admitted:
                raise
            log.exception("a stream failed")
            yield self.failure(EngineError("Internal server error"))

    def headers(self) -> dict[str, str]:
        """Those of a whole answer."""
        reply = self.reply
        return compute_headers(
            self.here,
            self.watch,
            reply.generations,
            characters=len(reply.prompt),
            prompt_tokens=reply.prompt_tokens,
        )

    def stream_headers(self) -> dict[str, str]:
        return stream_headers(self.here, len(self.reply.prompt))

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens found in the prefix cache, known with the first token of the answer."""
        timings = self.reply.generations[0].timings
        return timings.cached_tokens if timings else 0

    @property
    def generated_tokens(self) -> int:
        return len(self.reply.generations[0].pieces)

    async def _steps(self, *, eager: bool) -> AsyncGenerator[Step | None, None]:
        """None when the request has been admitted, then the steps of the answer."""
        with observed(self.here.metrics) as self.watch:
            conversation = self._conversation()
            prompt = await render(self.here, conversation)
            with self.here.permits.hold():
                self.reply = Reply(self.here, conversation, prompt, self.watch)
                await self.reply.start()
                self._admitted = True
                yield None
                async with aclosing(self.reply.steps(eager=eager)) as steps:
                    async for step in steps:
                        yield step


def encoded(events: Events) -> bytes:
    return b"".join(event(encode(each), str(each.__struct_config__.tag)) for each in events)

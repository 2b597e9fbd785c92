"""How a server or a program reaches an engine: one protocol, two ways to run the engine behind it.

`InlineClient` runs the engine in a thread of this process, `ProcessClient` in a process of its own that it
watches and restarts. Everything else about them is the same, and one set of tests holds for both.
"""

import asyncio
import contextlib
import itertools
import logging
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from queue import SimpleQueue
from typing import Any, Protocol

from engine.config import EngineOptions
from engine.errors import EngineDead, EngineError, GenerationFailed, InvalidRequest, Overloaded, StartError, start_error
from engine.types import (
    Embedding,
    EmbedRequest,
    EngineInfo,
    EngineStats,
    FinishReason,
    GenerateRequest,
    TokenEvent,
)
from engine.wire import (
    Cancel,
    Embed,
    FrameReader,
    Message,
    Ready,
    Refused,
    Reply,
    StartFailed,
    Step,
    Stop,
    Submit,
    decode_reply,
    frame,
)

log = logging.getLogger(__name__)

HANG_SECONDS = 300.0  # without a frame from the engine; an idle one sends one every second
RESTART_DELAYS = (0.0, 0.5, 2.0, 8.0)  # seconds before the restarts within RESTART_WINDOW
RESTART_WINDOW = 600.0
STOP_SECONDS = 5.0  # for an engine that was asked to end


# Starts an engine process, and gives it with our half of the socket pair to it.
Spawn = Callable[[EngineOptions], tuple["subprocess.Popen[bytes]", socket.socket]]


class EngineClient(Protocol):
    """Six methods; `InlineClient`, `ProcessClient` and the tests' fake engine implement them.

    `on_step` may be set to what shall see the counters of every step, of which `stats` shows the newest;
    `on_lost` to what shall learn that the engine is gone for good, and why.
    """

    on_step: Callable[[EngineStats], None]
    on_lost: Callable[[str], None]

    async def start(self) -> EngineInfo:
        """Load the model. Raises the subclasses of `StartError`."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenEvent, None]:
        """Yield an event for every step that adds tokens; the last has a finish reason.

        Closing the generator early (`aclose`) cancels the request, also while it waits.
        Raises InvalidRequest (it can never fit), Overloaded, GenerationFailed (the engine failed this
        request), EngineDead (the engine process died under it).
        """

    async def embed(self, request: EmbedRequest) -> Embedding:
        """The pooled vector of one text. Cancelling the call cancels the request.

        Raises what `generate` raises; InvalidRequest for a text of more than `EngineInfo.max_embed_tokens`.
        """

    @property
    def stats(self) -> EngineStats:
        """The newest counters; zeros in use while the engine is down."""

    @property
    def healthy(self) -> bool:
        """Whether an engine is there and answering."""

    async def close(self) -> None:
        """Cancel what runs and end the engine. Idempotent."""


class _Client:
    """What both clients share: the open requests, and the delivery of replies to them."""

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._ids = itertools.count(1)
        self._open: dict[int, asyncio.Queue[Any]] = {}  # TokenEvents or an Embedding, or an EngineError
        self._stats = EngineStats()
        self.on_step: Callable[[EngineStats], None] = lambda stats: None
        self.on_lost: Callable[[str], None] = lambda why: None
        self._healthy = False

    @property
    def stats(self) -> EngineStats:
        return self._stats

    @property
    def healthy(self) -> bool:
        return self._healthy

    def _send(self, message: Message) -> None:
        raise NotImplementedError

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenEvent, None]:
        self._check_healthy()
        request_id, finished = next(self._ids), False
        queue: asyncio.Queue[TokenEvent | EngineError] = asyncio.Queue()
        self._open[request_id] = queue
        try:
            self._send(Submit(request_id, request))
            while not finished:
                item = await queue.get()
                if isinstance(item, EngineError):
                    finished = True
                    raise item
                finished = item.finish_reason is not None
                if item.finish_reason is FinishReason.ERROR:
                    raise GenerationFailed(item.error or "the engine gave no reason")
                yield item
        finally:
            del self._open[request_id]
            if not finished:
                self._send(Cancel(request_id))

    async def embed(self, request: EmbedRequest) -> Embedding:
        self._check_healthy()
        request_id, answered = next(self._ids), False
        queue: asyncio.Queue[Embedding | EngineError] = asyncio.Queue()
        self._open[request_id] = queue
        try:
            self._send(Embed(request_id, request))
            answer = await queue.get()
            answered = True
        finally:
            del self._open[request_id]
            if not answered:
                self._send(Cancel(request_id))
        if isinstance(answer, EngineError):
            raise answer
        if answer.error is not None:
            raise GenerationFailed(answer.error)
        return answer

    def _check_healthy(self) -> None:
        if not self._healthy:
            raise EngineDead("the engine is not running; it is starting, restarting or has been closed")

    def _deliver(self, reply: Reply) -> None:
        match reply:
            case Step():
                self._report(reply.stats)
                answers: tuple[TokenEvent | Embedding, ...] = (*reply.events, *reply.embeddings)
                for event in answers:
                    if (queue := self._open.get(event.request_id)) is not None:
                        queue.put_nowait(event)
            case Refused():
                kind = Overloaded if reply.kind == Overloaded.__name__ else InvalidRequest
                if (queue := self._open.get(reply.request_id)) is not None:
                    queue.put_nowait(kind(reply.message))

    def _report(self, stats: EngineStats) -> None:
        self._stats = stats
        self.on_step(stats)

    def _engine_gone(self, why: str) -> None:
        """Nothing is in use any more, and whoever waits learns that no answer will come."""
        self._healthy = False
        self._report(EngineStats(blocks_total=self._stats.blocks_total))
        for queue in self._open.values():
            queue.put_nowait(EngineDead(why))


class InlineClient(_Client):
    """Runs the engine in a thread: for programs, tests and `tgi generate`."""

    def __init__(self, options: EngineOptions) -> None:
        super().__init__(options)
        self._inbox: SimpleQueue[Message] = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def start(self) -> EngineInfo:
        loop = asyncio.get_running_loop()
        started: asyncio.Future[EngineInfo] = loop.create_future()

        def receive(reply: Reply) -> None:
            match reply:
                case Ready() | StartFailed() if started.done():  # nobody waits any more
                    pass
                case Ready():
                    self._healthy = True
                    started.set_result(reply.info)
                case StartFailed():
                    started.set_exception(start_error(reply.kind, reply.message))
                case _:
                    self._deliver(reply)

        def ended(error: BaseException | None) -> None:
            if not started.done():
                started.set_exception(StartError(f"the engine failed while it was loading: {error!r}"))
            self._engine_gone(f"the engine ended: {error!r}" if error else "the engine has been closed")

        def run() -> None:
            error: BaseException | None = None
            try:
                from engine.core import Channel, serve

                serve(self._options, Channel(self._inbox, lambda reply: _post(loop, receive, reply)))
            except Exception as caught:
                log.exception("the engine thread failed")
                error = caught
            _post(loop, ended, error)

        self._thread = threading.Thread(target=run, name="engine", daemon=True)
        self._thread.start()
        return await started

    def _send(self, message: Message) -> None:
        self._inbox.put(message)

    async def close(self) -> None:
        if self._thread is not None:
            self._send(Stop())
            await asyncio.to_thread(self._thread.join)
            self._thread = None
            self._engine_gone("the engine has been closed")


def _post(loop: asyncio.AbstractEventLoop, call, *arguments: object) -> None:  # type: ignore[no-untyped-def]
    """Call from another thread; a loop that has ended since has nobody left to tell."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call, *arguments)


class ProcessClient(_Client):
    """Runs the engine in a process of its own, watches it, and starts another when it dies or hangs."""

    def __init__(self, options: EngineOptions, hang_seconds: float = HANG_SECONDS, spawn: Spawn | None = None) -> None:
        super().__init__(options)
        self._spawn = spawn
        self._hang_seconds = hang_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._info: EngineInfo | None = None

    @property
    def pid(self) -> int | None:
        """The engine process of the moment."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> EngineInfo:
        reader = await self._launch()
        self._supervisor = asyncio.create_task(self._supervise(reader))
        assert self._info is not None
        return self._info

    async def _launch(self) -> asyncio.StreamReader:
        from engine.process import spawn

        self._process, connection = (self._spawn or spawn)(self._options)
        connection.setblocking(False)
        reader, self._writer = await asyncio.open_unix_connection(sock=connection)
        self._frames = FrameReader()
        try:
            reply = await self._first_reply(reader)
            if isinstance(reply, StartFailed):
                raise start_error(reply.kind, reply.message)
            if not isinstance(reply, Ready):
                status = await self._end()
                raise StartError(f"the engine process ended while it was loading (exit status {status})")
        except BaseException:
            await self._end()
            raise
        self._info = reply.info
        self._healthy = True
        return reader

    async def _first_reply(self, reader: asyncio.StreamReader) -> Reply | None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                for body in self._frames.feed(data):
                    return decode_reply(body)
        return None

    async def _supervise(self, reader: asyncio.StreamReader) -> None:
        """Deliver replies for as long as there is an engine; replace it when it is gone."""
        restarts: deque[float] = deque(maxlen=len(RESTART_DELAYS))
        while True:
            why = await self._read_until_gone(reader)
            log.error("%s", why)
            self._engine_gone(why)
            await self._end()
            now = time.monotonic()
            while restarts and now - restarts[0] > RESTART_WINDOW:
                restarts.popleft()
            if len(restarts) == len(RESTART_DELAYS):
                self.on_lost(f"the engine died {len(restarts) + 1} times within {RESTART_WINDOW:.0f} s")
                return
            await asyncio.sleep(RESTART_DELAYS[len(restarts)])
            restarts.append(now)
            try:
                reader = await self._launch()
            except StartError as error:
                self.on_lost(f"the engine could not be restarted: {error}")
                return
            log.warning("the engine has been restarted (process %d)", self.pid)

    async def _read_until_gone(self, reader: asyncio.StreamReader) -> str:
        """Return why the engine can no longer be used."""
        try:
            while data := await asyncio.wait_for(reader.read(1 << 16), self._hang_seconds):
                for body in self._frames.feed(data):
                    self._deliver(decode_reply(body))
        except TimeoutError:
            await self._dump_stacks()
            return f"the engine has not answered for {self._hang_seconds:.0f} s; it is ended"
        except (ConnectionError, ValueError) as error:
            return f"the connection to the engine broke: {error}"
        return "the engine process ended unexpectedly"

    async def _dump_stacks(self) -> None:
        """Ask a hung engine for the stacks of its threads; they go to its standard error."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGUSR1)
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, 1.0)

    async def _end(self, patience: float = 0.0) -> int:
        """Wait `patience` seconds for the engine process to end, then kill it. Return its exit status."""
        process, self._process = self._process, None
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if process is None:
            return 0
        try:
            return await asyncio.to_thread(process.wait, patience)
        except subprocess.TimeoutExpired:
            process.kill()
            return await asyncio.to_thread(process.wait)

    def _send(self, message: Message) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frame(message))

    async def close(self) -> None:
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
            self._supervisor = None
        self._engine_gone("the engine has been closed")
        self._send(Stop())
        await self._end(STOP_SECONDS)

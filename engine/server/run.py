"""`serve`: an application on a port, from the first signal of life to the last."""

import asyncio
import errno
import gc
import logging
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from engine.client import EngineClient
from engine.config import ServerOptions
from engine.errors import AddressInUse, ConfigError, EngineDead
from engine.server.app import create_app
from engine.server.protocol import LimitedProtocol
from engine.server.service import Embedder
from engine.server.tracing import make_provider
from engine.text.tokenizer import Tokenizer
from engine.types import EngineInfo

log = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 60  # that an idle connection stays open
LAST_WORDS_SECONDS = 2.0  # for cancelled requests to tell their clients so
OnReady = Callable[[str, EngineInfo], None]
BACKLOG = 2048  # connections that wait to be accepted


def serve(
    client: EngineClient,
    tokenizer: Tokenizer,
    options: ServerOptions,
    on_ready: OnReady = lambda url, info: print(f"ready at {url}", flush=True),
    encoder: Embedder | None = None,
) -> None:
    """Serve until a signal ends it; returns when all is closed. `on_ready` is called with the URL and what was loaded.

    The address is taken first and opened last: a port in use is reported before a model is loaded, and
    nothing can connect before the engine is ready. SIGTERM or SIGINT lets running requests finish for up
    to `graceful_termination_timeout` seconds; a second one ends them at once. Where the engine of an `encoder`
    beside the model is lost for good, the server goes on without embeddings.

    Raises AddressInUse, ConfigError, what `client.start` raises, and EngineDead where the engine is lost for good.
    """
    with bind(options.hostname, options.port) as listener, asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(client, tokenizer, options, listener, on_ready, encoder))


def bind(hostname: str, port: int) -> socket.socket:
    """Take an address without listening on it yet. Raises AddressInUse and ConfigError; never another address."""
    if not hostname:
        raise ConfigError("--hostname is empty; use 127.0.0.1 for this machine only, or 0.0.0.0 for all interfaces")
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port must be >= 0 and <= 65535. Given: {port}")
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(hostname, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--hostname '{hostname}' (port {port}) cannot be resolved: {error}") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _cannot_listen(hostname, port, error) from None
    listener.setblocking(False)
    return listener


def _cannot_listen(hostname: str, port: int, error: OSError) -> AddressInUse | ConfigError:
    if error.errno == errno.EADDRINUSE:
        return AddressInUse(f"port {port} of {hostname} is in use; end the other program or choose another --port")
    return ConfigError(f"cannot listen on port {port} of {hostname}: {error.strerror}")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop


async def _serve(
    client: EngineClient,
    tokenizer: Tokenizer,
    options: ServerOptions,
    listener: socket.socket,
    on_ready: OnReady,
    encoder: Embedder | None,
) -> None:
    try:
        provider = make_provider(options) if options.otlp_endpoint is not None else None
        if encoder is not None:
            await encoder.start()  # first: the KV cache of the other may take what memory is left
            encoder.client.on_lost = lambda why: log.error("%s; embeddings are no longer answered", why)
        info = await client.start()
        app = create_app(client, tokenizer, options, info, provider, encoder)
        try:
            listener.listen(BACKLOG)
        except OSError as error:  # another program began to listen while the model was loading
            raise _cannot_listen(options.hostname, options.port, error) from None
        url = _url(listener)
        server = make_server(app, options, lambda: on_ready(url, info))
        client.on_lost = server.give_up
        gc.collect()
        gc.freeze()  # what start-up made stays: looking through it again and again would hold streams up
        await server.serve([listener])
        if server.lost:
            raise EngineDead(f"{server.lost}; the server ends")
    finally:
        await client.close()
        if encoder is not None:
            await encoder.client.close()


def make_server(app: ASGIApp, options: ServerOptions, on_ready: Callable[[], None]) -> "Server":
    config = uvicorn.Config(
        app,
        http=LimitedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=options.graceful_termination_timeout,
    )
    return Server(config, on_ready)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn's server that says when it listens, and takes signals as orders rather than passing them on."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self.lost: str | None = None  # why there is no engine any more

    def give_up(self, why: str) -> None:
        """End as after a signal, because nothing can be answered any more."""
        self.lost = why
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn cancels the requests that are left over but does not wait for their last words.

        Nor does it let the application close what it opened when a second signal has cut the first one short.
        """
        await super().shutdown(sockets)
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=LAST_WORDS_SECONDS)
        if self.force_exit:
            await self.lifespan.shutdown()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains; a second cancels what still runs."""
        running = len(self.server_state.tasks)
        if not self.should_exit and running:
            patience = self.config.timeout_graceful_shutdown
            log.info("finishing %d requests, for at most %s s; a second signal ends them", running, patience)
        if self.should_exit:
            self.force_exit = True
            for task in self.server_state.tasks:
                task.cancel()
        self.should_exit = True

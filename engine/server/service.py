"""`Service`: what the handlers of one server share. Built once, when the engine is ready."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

from starlette.requests import Request

from engine.client import EngineClient
from engine.config import ServerOptions
from engine.errors import ConfigError
from engine.metrics import Metrics
from engine.server.limits import Permits
from engine.text.tokenizer import Tokenizer
from engine.types import EngineInfo

T = TypeVar("T")

try:
    VERSION = version("tgi")
except PackageNotFoundError:  # run from a source tree that was never installed
    VERSION = "0"
SYSTEM_FINGERPRINT = f"{VERSION}-native"


class Service:
    """The engine's client and everything a handler needs beside it.

    Tokenizing and templating run in `executor`, off the event loop. Raises ConfigError when the limits
    in the options do not fit the engine.
    """

    def __init__(self, client: EngineClient, tokenizer: Tokenizer, options: ServerOptions, info: EngineInfo) -> None:
        self.client = client
        self.tokenizer = tokenizer
        self.options = options
        self.info = info
        self.max_input_tokens = info.max_total_tokens - 1
        if options.max_input_tokens is not None:
            if options.max_input_tokens >= info.max_total_tokens:
                raise ConfigError(
                    f"--max-input-tokens ({options.max_input_tokens}) must be less than --max-total-tokens "
                    f"({info.max_total_tokens}); lower the first or raise the second"
                )
            self.max_input_tokens = options.max_input_tokens
        self.compute_type = os.environ.get("COMPUTE_TYPE", info.runtime)
        self.permits = Permits(options.max_concurrent_requests)
        self.metrics = Metrics(info, self.max_input_tokens)
        client.on_step = self.metrics.observe_step
        self.executor = ThreadPoolExecutor(options.validation_workers, thread_name_prefix="validation")

    async def in_executor(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.executor, function, *arguments)

    def close(self) -> None:
        self.executor.shutdown(wait=False)


def service(request: Request) -> Service:
    found = request.app.state.service
    assert isinstance(found, Service)
    return found

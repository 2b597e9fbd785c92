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
from engine.server.grammar import GrammarChecker
from engine.server.limits import Permits
from engine.text.tokenizer import Tokenizer
from engine.types import EngineInfo

T = TypeVar("T")

try:
    VERSION = version("tgi")
except PackageNotFoundError:  # run from a source tree that was never installed
    VERSION = "0"
SYSTEM_FINGERPRINT = f"{VERSION}-native"


class Embedder:
    """A model that turns texts into vectors: an encoder with an engine of its own, or the served model itself."""

    def __init__(
        self,
        model_id: str,
        client: EngineClient,
        tokenizer: Tokenizer,
        info: EngineInfo | None = None,
    ) -> None:
        self.model_id = model_id
        self.client = client
        self.tokenizer = tokenizer
        self._info = info

    @property
    def info(self) -> EngineInfo:
        assert self._info is not None, "the engine has not been started"
        return self._info

    async def start(self) -> None:
        """Raises what `EngineClient.start` raises."""
        if self._info is None:
            self._info = await self.client.start()


class Service:
    """The engine's client and everything a handler needs beside it.

    Tokenizing and templating run in `executor`, off the event loop. Raises ConfigError when the limits
    in the options do not fit the engine.
    """

    def __init__(
        self,
        client: EngineClient,
        tokenizer: Tokenizer,
        options: ServerOptions,
        info: EngineInfo,
        encoder: Embedder | None = None,
    ) -> None:
        self.client = client
        self.tokenizer = tokenizer
        self.options = options
        self.strict = options.strict  # TGI's behaviour also where ours is better: engine/server/strict.py
        self.info = info
        if encoder is not None and info.is_encoder:
            raise ConfigError(
                f"{options.model_id} is an encoder and embeds texts itself; leave out --embedding-model-id"
            )
        self.embedder = encoder or Embedder(options.model_id, client, tokenizer, info)
        self.max_embed_tokens = self.embedder.info.max_embed_tokens
        self.max_input_tokens = info.max_embed_tokens if info.is_encoder else info.max_total_tokens - 1
        if options.max_input_tokens is not None:
            if options.max_input_tokens >= info.max_total_tokens:
                raise ConfigError(
                    f"--max-input-tokens ({options.max_input_tokens}) must be less than --max-total-tokens "
                    f"({info.max_total_tokens}); lower the first or raise the second"
                )
            self.max_input_tokens = options.max_input_tokens
            if self.embedder.client is client:
                self.max_embed_tokens = min(self.max_embed_tokens, options.max_input_tokens)
        self.compute_type = os.environ.get("COMPUTE_TYPE", info.runtime)
        self.permits = Permits(options.max_concurrent_requests)
        self.metrics = Metrics(info, self.max_input_tokens, self.max_embed_tokens)
        client.on_step = self.metrics.observe_step
        self.grammars = GrammarChecker(
            tokenizer.to_json, max(info.vocab_size, tokenizer.vocab_size), info.eos_token_ids
        )
        self._closed = False
        self.executor = ThreadPoolExecutor(options.validation_workers, thread_name_prefix="validation")

    @property
    def healthy(self) -> bool:
        """Whether every engine is there and answering."""
        return self.client.healthy and self.embedder.client.healthy

    async def in_executor(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.executor, function, *arguments)

    def close(self) -> None:
        """End the threads and processes. Idempotent."""
        if not self._closed:
            self._closed = True
            self.executor.shutdown(wait=False)
            self.grammars.close()


def service(request: Request) -> Service:
    found = request.app.state.service
    assert isinstance(found, Service)
    return found

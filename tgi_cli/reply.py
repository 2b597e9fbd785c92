"""An answer on its way to the user, whether it comes from an engine in this process or from a server."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Protocol, TypedDict

from tgi_cli.sampling import Sampling


class Message(TypedDict):
    role: str
    content: str


class Reply(ABC):
    """Iterate over `texts()`, then read what it came to."""

    def __init__(self) -> None:
        self.text = ""
        self.finish_reason: str | None = None  # None until the end, and where it was interrupted
        self.num_tokens = 0
        self.prompt_tokens = 0  # 0 where a server does not say
        self.seed: int | None = None
        self.tokens: list[dict[str, Any]] = []  # as TGI lists them: id, text, logprob, special
        self.seconds_to_first = 0.0
        self.seconds = 0.0

    @abstractmethod
    def _run(self) -> AsyncGenerator[str, None]:
        """Yield the text and fill in the facts. Raises EngineError."""

    async def texts(self) -> AsyncGenerator[str, None]:
        start = time.monotonic()
        try:
            async with aclosing(self._run()) as pieces:
                async for piece in pieces:
                    self.seconds_to_first = self.seconds_to_first or time.monotonic() - start
                    self.text += piece
                    if piece:
                        yield piece
        finally:
            self.seconds = time.monotonic() - start

    def add_token(self, id: int, text: str, logprob: float | None, special: bool) -> None:
        shown = logprob if logprob is not None and math.isfinite(logprob) else None
        self.tokens.append({"id": id, "text": text, "logprob": shown, "special": special})

    @property
    def speed(self) -> float:
        """Tokens a second after the first; of the whole answer where it has only one."""
        rest = self.seconds - self.seconds_to_first
        if self.num_tokens > 1 and rest > 0:
            return (self.num_tokens - 1) / rest
        return self.num_tokens / self.seconds if self.seconds else 0.0

    def summary(self) -> str:
        first = f"first after {self.seconds_to_first:.2f} s, " if self.num_tokens else ""
        tokens = "1 token" if self.num_tokens == 1 else f"{self.num_tokens} tokens"
        return f"{tokens}, {first}{self.speed:.1f} tokens/s"

    def as_json(self) -> dict[str, Any]:
        """The object TGI answers `/generate` with, details included."""
        details = {
            "finish_reason": self.finish_reason,
            "generated_tokens": self.num_tokens,
            "seed": self.seed,
            "prefill": [],
            "tokens": self.tokens,
        }
        return {"generated_text": self.text, "details": details}


class Backend(Protocol):
    """What answers: an engine here, or a server."""

    @property
    def name(self) -> str: ...

    async def start(self) -> None: ...

    async def aclose(self) -> None: ...

    def complete(self, prompt: str, sampling: Sampling) -> Reply:
        """Continue a text as it is."""

    def chat(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        """Answer the last message, through the model's chat template."""

    def fits(self, messages: Sequence[Message], sampling: Sampling) -> bool:
        """Whether the context has room for the messages and an answer."""

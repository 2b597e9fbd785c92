"""How a server or a program reaches an engine: one protocol, two ways to run the engine behind it."""

from collections.abc import AsyncGenerator
from typing import Protocol

from engine.types import EngineInfo, EngineStats, GenerateRequest, TokenEvent


class EngineClient(Protocol):
    """Five methods; `InlineClient`, `ProcessClient` and the tests' fake engine implement them."""

    async def start(self) -> EngineInfo:
        """Load the model. Raises the subclasses of `StartError`."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenEvent, None]:
        """Yield an event for every step that adds tokens; the last has a finish reason.

        Closing the generator early (`aclose`) cancels the request, also while it waits.
        Raises InvalidRequest (it can never fit), Overloaded, GenerationFailed (the engine failed this
        request), EngineDead (the engine process died under it).
        """

    @property
    def stats(self) -> EngineStats:
        """The newest counters; zeros in use while the engine is down."""

    @property
    def healthy(self) -> bool:
        """Whether an engine is there and answering."""

    async def close(self) -> None:
        """Cancel what runs and end the engine. Idempotent."""

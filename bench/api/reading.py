"""What an answer's events say, in one form for all dialects."""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from bench.api.counting import Piece
from bench.api.sse import Event


class Reading(msgspec.Struct, kw_only=True):
    """Everything but arrival times. `exact` where every piece is one token."""

    pieces: list[Piece] = []
    done: bool = False  # the event that completes the stream came
    error: str | None = None
    exact: bool = False
    text: str = ""  # the answer without reasoning and tool calls
    finish_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    server: dict[str, float] = {}  # seconds


Reader = Callable[[Iterable[Event]], Reading]


class Timings(msgspec.Struct):
    """Seconds as our own server counts them, or llama.cpp's milliseconds."""

    queue: float | None = None
    prefill: float | None = None
    decode: float | None = None
    cached_tokens: int | None = None
    prompt_ms: float | None = None
    predicted_ms: float | None = None
    predicted_n: int | None = None
    cache_n: int | None = None

    def seconds(self) -> dict[str, float]:
        prefill, decode = self.prefill, self.decode
        if self.prompt_ms is not None:
            prefill = self.prompt_ms / 1e3
        if self.predicted_ms is not None:
            decode = self.predicted_ms / 1e3
        given = {"queue": self.queue, "prefill": prefill, "decode": decode}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def cached(self) -> int | None:
        return self.cached_tokens if self.cache_n is None else self.cache_n


def message(error: Any) -> str:
    """The words in an error body, whose shapes are many: TGI's, OpenAI's, FastAPI's, or none at all."""
    if isinstance(error, dict):
        for key in ("message", "error", "detail", "msg"):
            if error.get(key):
                return message(error[key])
        return msgspec.json.encode(error).decode()
    if isinstance(error, list) and error:
        return message(error[0])
    return str(error)


def unreadable(data: bytes, why: Exception) -> str:
    return f"an event cannot be read ({why}): {data[:100].decode(errors='replace')}"

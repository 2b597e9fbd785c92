"""OpenAI's dialects: the chunks of `POST /v1/completions`, and of `POST /v1/chat/completions` (see `chat`).

Beside OpenAI's own fields those of vLLM (`metrics`, `token_ids`), SGLang and llama.cpp (`timings`) are read.
"""

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import msgspec

from bench.api.counting import UNKNOWN, Piece
from bench.api.reading import Reading, Timings, message, unreadable
from bench.api.sse import DONE, Event


class PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None


class Metrics(msgspec.Struct):
    """vLLM's of one request. Its time to first token is counted from scheduling, so it is the prefill."""

    queue_time_ms: float | None = None
    time_to_first_token_ms: float | None = None
    generation_time_ms: float | None = None

    def seconds(self) -> dict[str, float]:
        given = {
            "queue": self.queue_time_ms,
            "prefill": self.time_to_first_token_ms,
            "decode": self.generation_time_ms,
        }
        return {name: value / 1e3 for name, value in given.items() if value is not None}


class TextChoice(msgspec.Struct, gc=False):
    text: str | None = None
    finish_reason: str | None = None
    token_ids: list[int] | None = None


C = TypeVar("C")


class Chunk(msgspec.Struct, Generic[C]):
    choices: list[C] | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    metrics: Metrics | None = None
    error: Any = None
    message: Any = None  # alone it is an error, in the form of older vLLM and SGLang servers


_DECODER = msgspec.json.Decoder(Chunk[TextChoice])


def read(events: Iterable[Event]) -> Reading:
    return read_chunks(events, _DECODER, lambda choice: (choice.text or "", "content"))


def read_chunks(
    events: Iterable[Event], decoder: "msgspec.json.Decoder[Any]", text_of: Callable[[Any], tuple[str, str]]
) -> Reading:
    """What both dialects share. `text_of` gives the text of a choice and its kind, "" for that of the one before."""
    found = Reading()
    pieces: list[Piece] = []
    append = pieces.append
    answer: list[str] = []
    kind = "content"
    decode = decoder.decode
    for data, end, is_error in events:
        if data == DONE:
            found.done = True
            break
        try:
            chunk = decode(data)
        except msgspec.ValidationError as error:
            lenient = _without_extras(decoder, data)
            if lenient is None:
                found.error = found.error or unreadable(data, error)
                continue
            chunk = lenient
        except msgspec.MsgspecError as error:
            found.error = found.error or (data.decode(errors="replace") if is_error else unreadable(data, error))
            continue
        if is_error or chunk.error is not None or (chunk.message is not None and not chunk.choices):
            found.error = found.error or _error(chunk, data)
            continue
        total = UNKNOWN
        if chunk.usage is not None or chunk.timings is not None or chunk.metrics is not None:
            total = _extras(found, chunk)
        if not chunk.choices:
            continue
        ids, joined = UNKNOWN, ""
        for choice in chunk.choices:
            text, own_kind = text_of(choice)
            if text:
                joined = joined + text if joined else text
            if own_kind:
                kind = own_kind
                if text and kind == "content":
                    answer.append(text)
            if choice.token_ids is not None:
                ids = max(ids, 0) + len(choice.token_ids)
            if choice.finish_reason:
                found.finish_reason = choice.finish_reason
        append(Piece(end, joined, kind, total, ids))
    found.pieces = pieces
    found.text = "".join(answer)
    return found


def _without_extras(decoder: "msgspec.json.Decoder[Any]", data: bytes) -> Chunk[Any] | None:
    """A chunk whose extras mean something else at this server, without them; None if that was not it."""
    fields = msgspec.json.decode(data)
    if not isinstance(fields, dict):
        return None
    rest = {name: value for name, value in fields.items() if name not in ("timings", "metrics")}
    try:
        chunk: Chunk[Any] = msgspec.convert(rest, decoder.type)
    except msgspec.ValidationError:
        return None
    return chunk


def _error(chunk: Chunk[Any], data: bytes) -> str:
    return message(next((part for part in (chunk.error, chunk.message) if part is not None), data.decode()))


def _extras(found: Reading, chunk: Chunk[Any]) -> int:
    """Notes what a chunk says beside text; returns its count of output tokens so far."""
    total = UNKNOWN
    if chunk.timings is not None:
        found.server |= chunk.timings.seconds()
        if chunk.timings.cached is not None:
            found.cached_tokens = chunk.timings.cached
        if chunk.timings.predicted_n is not None:
            total = chunk.timings.predicted_n
    if chunk.metrics is not None:
        found.server |= chunk.metrics.seconds()
    usage = chunk.usage
    if usage is not None:
        if usage.prompt_tokens is not None:
            found.input_tokens = usage.prompt_tokens
        if usage.completion_tokens is not None:
            total = usage.completion_tokens
        if usage.prompt_tokens_details is not None and usage.prompt_tokens_details.cached_tokens is not None:
            found.cached_tokens = usage.prompt_tokens_details.cached_tokens
    if total >= 0:
        found.output_tokens = max(total, found.output_tokens or 0)
    return total

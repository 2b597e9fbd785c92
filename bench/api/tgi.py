"""TGI's own dialect: `POST /generate_stream`, one event for each token, without a `[DONE]` at the end."""

from collections.abc import Iterable
from typing import Any

import msgspec

from bench.api.counting import Piece
from bench.api.reading import Reading, Timings, message, unreadable
from bench.api.sse import DONE, Event


class Token(msgspec.Struct, gc=False):
    text: str = ""
    special: bool = False


class Details(msgspec.Struct):
    finish_reason: str | None = None
    generated_tokens: int | None = None
    input_length: int | None = None
    timings: Timings | None = None


class StreamEvent(msgspec.Struct, gc=False):
    token: Token | None = None
    generated_text: str | None = None
    details: Details | None = None
    error: Any = None


_decode = msgspec.json.Decoder(StreamEvent).decode


def read(events: Iterable[Event]) -> Reading:
    """A stream is complete with the event that has `generated_text` or `details`, which only the last one has."""
    found = Reading(exact=True)
    pieces: list[Piece] = []
    append = pieces.append
    text: list[str] = []
    for data, end, is_error in events:
        if data == DONE:  # not TGI's, but no reason to refuse a server that sends it
            continue
        try:
            event = _decode(data)
        except msgspec.MsgspecError as error:
            found.error = found.error or (data.decode(errors="replace") if is_error else unreadable(data, error))
            continue
        if event.error is not None or is_error:
            found.error = found.error or message(data.decode() if event.error is None else event.error)
            continue
        token = event.token
        if token is not None:
            append(Piece(end, token.text, "content"))
            if not token.special:
                text.append(token.text)
        if event.generated_text is not None or event.details is not None:
            _ending(found, event)
    found.pieces = pieces
    found.text = "".join(text)
    return found


def _ending(found: Reading, event: StreamEvent) -> None:
    found.done = True
    details = event.details
    if details is None:
        return
    found.finish_reason = details.finish_reason
    found.output_tokens = details.generated_tokens
    found.input_tokens = details.input_length
    if details.timings is not None:
        found.server = details.timings.seconds()
        found.cached_tokens = details.timings.cached

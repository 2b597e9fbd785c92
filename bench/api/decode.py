"""`decode`: from what the wire brought to tokens over time. Runs after a stream has ended, never while it lasts."""

from collections.abc import Sequence

import msgspec

from bench.api import chat, completions, tgi
from bench.api.counting import Piece, Retokenizer, count
from bench.api.reading import Reader, Reading, message
from bench.api.response import Malformed, Response, parse, reads_of
from bench.api.sse import DONE, Event, split
from bench.api.target import Target
from bench.types import Api, Item, Outcome, OutputEvent, RawStream, Read, Record, TokenSource

MESSAGE_LIMIT = 500  # characters of a server's error that are kept

READERS: dict[Api, Reader] = {Api.TGI: tgi.read, Api.COMPLETIONS: completions.read, Api.CHAT: chat.read}


def decode(raw: RawStream, target: Target, item: Item, *, tokenizer: Retokenizer | None = None) -> Record:
    """What happened, in the terms of `bench.types.Record`. Never raises over what a server sent.

    An event arrives when the read that completed it did. A stream is complete with `[DONE]` on OpenAI's routes, with
    the event that has the generated text on TGI's. `tokenizer` counts where the server says nothing.
    """
    record = Record(
        index=raw.index,
        phase=raw.phase,
        outcome=Outcome.OK,
        scheduled_ns=raw.scheduled_ns,
        sent_ns=raw.sent_ns,
        ended_ns=raw.ended_ns,
        wanted_tokens=item.output_tokens,
        input_tokens=item.input_tokens,
        input_source=_planned_source(item),
        session=item.session,
        turn=item.turn,
        group=item.group,
        user_lag_ns=max((read.user_ns - read.kernel_ns for read in raw.reads if read.kernel_ns), default=0),
    )
    if raw.sent_ns == 0:
        return _fail(record, *_unsent(raw))
    try:
        response = parse(b"".join([read.data for read in raw.reads]))
    except Malformed as error:
        return _fail(record, Outcome.CUT, str(error))
    if response is None:
        return _fail(record, *_interrupted(raw, "the connection ended before the head of the answer"))
    record.status = response.status
    record.server = _header_times(response)
    if response.status != 200:
        return _fail(record, Outcome.HTTP_ERROR, _http_error(response))
    events, tail = split(response.body)
    if not events and tail is None:
        return _fail(record, *_no_events(raw, response))
    if tail is not None and _is_whole(tail):
        events.append(tail)
    reading = READERS[target.api](events)
    _fill(record, raw, response, reading, target, tokenizer)
    outcome, error_text = _outcome(raw, reading, record)
    return record if outcome is Outcome.OK else _fail(record, outcome, error_text)


def _fail(record: Record, outcome: Outcome, error: str) -> Record:
    record.outcome = outcome
    record.error = error if len(error) <= MESSAGE_LIMIT else error[:MESSAGE_LIMIT] + "..."
    return record


def _planned_source(item: Item) -> str:
    if item.input_tokens is None:
        return "none"
    return "estimated" if item.input_estimated else "planned"


def _unsent(raw: RawStream) -> tuple[Outcome, str]:
    if raw.connect_error is not None:
        return Outcome.CONNECT, raw.connect_error
    return Outcome.NEVER_SENT, "the run ended before this request was sent"


def _interrupted(raw: RawStream, otherwise: str) -> tuple[Outcome, str]:
    """Why a request that was sent has no complete answer."""
    if raw.timed_out:
        return Outcome.TIMEOUT, f"no complete answer within {(raw.ended_ns - raw.sent_ns) / 1e9:.1f} s"
    if raw.cancelled:
        return Outcome.CANCELLED, "the run ended before the answer was complete"
    return Outcome.CUT, otherwise if raw.broken is None else f"{otherwise}: {raw.broken}"


def _no_events(raw: RawStream, response: Response) -> tuple[Outcome, str]:
    """A 200 without a single event: it was cut, or is something else than a stream."""
    beginning = response.body.lstrip()[:100]
    is_stream = response.content_type == "text/event-stream" and beginning[:1] not in (b"{", b"[", b"<")
    over = response.complete or not (raw.timed_out or raw.cancelled or raw.broken)
    if is_stream or not over:
        return _interrupted(raw, "the stream ended before its first event")
    words = beginning.decode(errors="replace") or "nothing"
    return Outcome.NOT_A_STREAM, f"the answer is {response.content_type or 'untyped'}, not a stream: {words}"


def _http_error(response: Response) -> str:
    try:
        words = message(msgspec.json.decode(response.body))
    except msgspec.DecodeError:
        words = response.body.decode(errors="replace").strip()
    return f"HTTP {response.status}: {words or response.reason or 'no reason given'}"


def _header_times(response: Response) -> dict[str, float]:
    """TGI's headers, in milliseconds there. Streams carry them only where a server knows the times beforehand."""
    names = {"queue": "x-queue-time", "validation": "x-validation-time", "inference": "x-inference-time"}
    times = {}
    for name, header in names.items():
        try:
            times[name] = float(response.headers[header]) / 1e3
        except (KeyError, ValueError):
            continue
    return times


def _is_whole(tail: Event) -> bool:
    """Whether a last event lacks only its blank line: JSON that was cut is no JSON."""
    data, _, _ = tail
    if data == DONE:
        return True
    try:
        return isinstance(msgspec.json.decode(data), dict)
    except msgspec.DecodeError:
        return False


def _fill(
    record: Record,
    raw: RawStream,
    response: Response,
    reading: Reading,
    target: Target,
    retokenizer: Retokenizer | None,
) -> None:
    pieces = reading.pieces
    if reading.exact:
        tokens, source = [1.0] * len(pieces), TokenSource.TGI_TOKEN
    else:
        tokens, source = count(
            pieces, reading.output_tokens, one_each=target.one_event_each_token, retokenizer=retokenizer
        )
    record.token_source = source
    record.output_tokens = sum(tokens)
    arrived = reads_of(response, raw.reads, [piece.end for piece in pieces])
    record.events, record.coalesced = _output_events(pieces, tokens, arrived, raw.reads)
    record.text = reading.text
    record.finish_reason = reading.finish_reason
    record.cached_tokens = reading.cached_tokens
    record.server |= reading.server
    if reading.input_tokens is not None:
        record.input_tokens, record.input_source = reading.input_tokens, "server"


def _output_events(
    pieces: Sequence[Piece], tokens: Sequence[float], arrived: Sequence[int], reads: Sequence[Read]
) -> tuple[list[OutputEvent], int]:
    """The events with tokens, and how many of them share the stamp of a later one."""
    events: list[OutputEvent] = []
    coalesced = 0
    last = -1
    for piece, number, read in zip(pieces, tokens, arrived, strict=True):
        if number > 0:
            if read == last:
                events[-1].coalesced = True
                coalesced += 1
            events.append(OutputEvent(reads[read].at_ns, number, piece.kind))
            last = read
    return events, coalesced


def _outcome(raw: RawStream, reading: Reading, record: Record) -> tuple[Outcome, str]:
    if reading.error is not None:
        return Outcome.STREAM_ERROR, reading.error
    if not reading.done:
        return _interrupted(raw, "the stream ended before it was complete")
    if not record.events:
        return Outcome.EMPTY, "a complete stream without a token"
    return Outcome.OK, ""

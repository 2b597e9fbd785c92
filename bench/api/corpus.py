"""A corpus of answers as servers send them, with what each of them means: the test that `decode` is held to.

`corpus.json` has one case a line. A case gives the pieces of a body, how they are framed and cut into reads, and what
must be read out of them. It is made from the table in `tests/bench/api/corpus_table.py`, where it is easier to review.
"""

from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Literal

import msgspec

from bench.api.decode import decode
from bench.api.target import Kind, Target
from bench.client.address import Address
from bench.types import Api, Item, Outcome, Phase, RawStream, Read, Record, TokenSource

STEP_NS = 10_000_000  # from read to read
SENT_NS = 1_000_000_000
TOLERANCE = 1e-9


class ExpectedEvent(msgspec.Struct, array_like=True):
    """`piece` is the piece of the body that completes the event."""

    piece: int
    tokens: float
    kind: str = "content"


class Expected(msgspec.Struct, kw_only=True, omit_defaults=True):
    outcome: Outcome = Outcome.OK
    error: str | None = None  # part of the message
    status: int = 200
    events: list[ExpectedEvent] = []
    source: TokenSource = TokenSource.NONE
    text: str = ""
    finish_reason: str | None = None
    input_tokens: int | None = None
    cached_tokens: int | None = None
    server: dict[str, float] = {}


class Case(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`reads`: one read for each piece, all in one, or so many bytes at a time whatever that cuts."""

    name: str
    api: Api
    kind: Kind = "openai"
    status: str = "200 OK"
    content_type: str = "text/event-stream"
    headers: dict[str, str] = {}
    body: list[str] = []
    framing: Literal["chunked", "length", "close"] = "chunked"
    reads: Literal["pieces", "one"] | int = "pieces"
    lost: int = 0  # bytes at the end that never came
    before: str = ""  # what comes before the head
    raw: str | None = None  # in place of all of the above
    connect_error: str | None = None
    broken: str | None = None
    timed_out: bool = False
    cancelled: bool = False
    sent: bool = True
    expected: Expected

    @property
    def target(self) -> Target:
        return Target(
            url="http://127.0.0.1:1", address=Address("http", "127.0.0.1", 1), api=self.api, model="m", kind=self.kind
        )

    @property
    def item(self) -> Item:
        return Item(index=0, prompt="a", output_tokens=4)

    def wire(self) -> tuple[bytes, list[int]]:
        """The response, and where each piece of the body ends in it."""
        if self.raw is not None:
            return self.raw.encode(), []
        pieces = [piece.encode() for piece in self.body]
        headers = {"content-type": self.content_type, **self.headers}
        if self.framing == "chunked":
            headers["transfer-encoding"] = "chunked"
        elif self.framing == "length":
            headers["content-length"] = str(sum(map(len, pieces)))
        wire = f"{self.before}HTTP/1.1 {self.status}\r\n".encode()
        wire += b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items()) + b"\r\n"
        ends = []
        for piece in pieces:
            if self.framing == "chunked":
                wire += f"{len(piece):x}\r\n".encode()
            wire += piece
            ends.append(len(wire))
            if self.framing == "chunked":
                wire += b"\r\n"
        if self.framing == "chunked":
            wire += b"0\r\n\r\n"
        return wire[: len(wire) - self.lost], ends

    def cuts(self) -> list[int]:
        """Where each read ends on the wire."""
        wire, ends = self.wire()
        if self.reads == "one" or (self.reads == "pieces" and not ends):
            cuts = [len(wire)]
        elif isinstance(self.reads, int):
            cuts = [*range(self.reads, len(wire), self.reads), len(wire)]
        else:
            cuts = [*(end for end in ends if end < len(wire)), len(wire)]
        return [cut for cut in cuts if cut]

    def stream(self) -> RawStream:
        wire, _ = self.wire()
        cuts = self.cuts()
        reads = [
            Read(at := SENT_NS + (i + 1) * STEP_NS, at + 5_000 + i, wire[start:end])
            for i, (start, end) in enumerate(pairwise([0, *cuts]))
        ]
        return RawStream(
            index=0,
            phase=Phase.MEASURED,
            scheduled_ns=SENT_NS - 1000,
            sent_ns=SENT_NS if self.sent else 0,
            ended_ns=SENT_NS + (len(reads) + 1) * STEP_NS,
            reads=reads if self.sent else [],
            connect_error=self.connect_error,
            broken=self.broken,
            timed_out=self.timed_out,
            cancelled=self.cancelled,
        )

    def events(self) -> list[tuple[int, float, str, bool]]:
        """Stamp, tokens, kind and coalesced of each event that must be found."""
        _, ends = self.wire()
        cuts = self.cuts()
        wanted = self.expected.events
        reads = [next(i for i, cut in enumerate(cuts) if cut >= ends[event.piece]) for event in wanted]
        shared = [read == after for read, after in pairwise([*reads, -1])]
        return [
            (SENT_NS + (read + 1) * STEP_NS, event.tokens, event.kind, coalesced)
            for read, event, coalesced in zip(reads, wanted, shared, strict=True)
        ]

    def mistakes(self) -> list[str]:
        """What `decode` makes of it that is not what it is."""
        record = decode(self.stream(), self.target, self.item)
        expected = self.expected
        found = [
            f"{name}: {got!r}, not {want!r}"
            for name, got, want in (
                ("outcome", record.outcome, expected.outcome),
                ("status", record.status, expected.status),
                ("token source", record.token_source, expected.source),
                ("text", record.text, expected.text),
                ("finish reason", record.finish_reason, expected.finish_reason),
                ("input tokens", record.input_tokens, expected.input_tokens),
                ("cached tokens", record.cached_tokens, expected.cached_tokens),
                ("server times", record.server, expected.server),
            )
            if got != want
        ]
        if (expected.error or "") not in (record.error or "") or (record.error is None) != (expected.error is None):
            found.append(f"error: {record.error!r}, not {expected.error!r}")
        return found + self._event_mistakes(record)

    def _event_mistakes(self, record: Record) -> list[str]:
        want = self.events()
        got = [(event.at_ns, event.tokens, event.kind, event.coalesced) for event in record.events]
        total = sum(event[1] for event in want)
        same = len(got) == len(want) and all(
            a[0] == b[0] and abs(a[1] - b[1]) < TOLERANCE and a[2:] == b[2:] for a, b in zip(got, want, strict=True)
        )
        found = [] if same else [f"events: {got}, not {want}"]
        if abs(record.output_tokens - total) > TOLERANCE:
            found.append(f"output tokens: {record.output_tokens}, not {total}")
        if record.coalesced != sum(event[3] for event in want):
            found.append(f"coalesced: {record.coalesced}, not {sum(event[3] for event in want)}")
        return found


@cache
def load() -> tuple[Case, ...]:
    """Every case of the corpus."""
    lines = files("bench.api").joinpath("corpus.json").read_bytes().splitlines()
    return tuple(msgspec.json.decode(line, type=Case) for line in lines)

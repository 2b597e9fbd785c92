"""What a run and its workers say to each other: msgspec structs behind a length prefix, over a socket pair."""

import struct

import msgspec

from bench.client.address import Endpoint
from bench.types import Health, Phase, PlannedRequest, RawStream

HEADER = struct.Struct("<I")


class Begin(msgspec.Struct, tag=True):
    """The first frame to a worker: all it has to do, and how many connections to open before it begins."""

    worker: int
    endpoint: Endpoint
    timeout_ns: int
    clock_offset_ns: int
    requests: list[PlannedRequest]
    places: int | None  # of the measured phase
    warmup_places: int
    connections: int  # to open ahead of the measured phase, and
    spare: int  # to keep open beyond those in use
    closed: bool


class Go(msgspec.Struct, tag=True):
    """Run a phase; all workers start at the same instant."""

    phase: Phase
    start_ns: int
    deadline_ns: int | None = None


class Fill(msgspec.Struct, tag=True):
    index: int
    payload: bytes | None


class Drain(msgspec.Struct, tag=True):
    """Send nothing more; let what is in flight end."""


class Cancel(msgspec.Struct, tag=True):
    """End what is in flight, now."""


ToWorker = Begin | Go | Fill | Drain | Cancel


class Ready(msgspec.Struct, tag=True):
    """The connections are open, or as many of them as the server accepts."""


class Ended(msgspec.Struct, tag=True):
    stream: RawStream


class Tick(msgspec.Struct, tag=True):
    """Counts since the phase began; `open_streams` at this moment."""

    sent: int
    reads: int
    open_streams: int


class Report(msgspec.Struct, tag=True):
    health: Health


class Done(msgspec.Struct, tag=True):
    phase: Phase


FromWorker = Ready | Ended | Tick | Report | Done

_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


def frame(message: ToWorker | FromWorker) -> bytes:
    body = _encoder.encode(message)
    return HEADER.pack(len(body)) + body


def to_worker(body: bytes) -> ToWorker:
    return _to_worker.decode(body)


def from_worker(body: bytes) -> FromWorker:
    return _from_worker.decode(body)


class FrameReader:
    """Cuts a byte stream into the bodies of its frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        self._buffer += data
        bodies: list[bytes] = []
        start = 0
        while len(self._buffer) - start >= HEADER.size:
            (length,) = HEADER.unpack_from(self._buffer, start)
            end = start + HEADER.size + length
            if end > len(self._buffer):
                break
            bodies.append(bytes(self._buffer[start + HEADER.size : end]))
            start = end
        del self._buffer[:start]
        return bodies

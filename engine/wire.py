"""The frames between the HTTP process and the engine process: msgspec structs behind a length prefix.

Both ends hold one half of an inherited socket pair, so there is no port, no name and no stranger on the
line; the end of the stream is the death of the other side. A frame is its length (4 bytes, little endian)
and a msgpack object.
"""

import struct

import msgspec

from engine.types import Embedding, EmbedRequest, EngineInfo, EngineStats, GenerateRequest, TokenEvent

HEADER = struct.Struct("<I")
MAX_FRAME = 1 << 30


class Submit(msgspec.Struct, frozen=True, tag=True):
    request_id: int
    request: GenerateRequest


class Embed(msgspec.Struct, frozen=True, tag=True):
    request_id: int
    request: EmbedRequest


class Cancel(msgspec.Struct, frozen=True, tag=True):
    request_id: int


class Stop(msgspec.Struct, frozen=True, tag=True):
    """End the engine; what still runs is dropped."""


class Wake(msgspec.Struct, frozen=True, tag=True):
    """From one thread of an engine to another: look again, something has become ready."""


Message = Submit | Embed | Cancel | Stop | Wake


class Ready(msgspec.Struct, frozen=True, tag=True):
    info: EngineInfo


class StartFailed(msgspec.Struct, frozen=True, tag=True):
    """The engine cannot start; `kind` names a subclass of StartError."""

    kind: str
    message: str


class Refused(msgspec.Struct, frozen=True, tag=True):
    """A request that was not admitted; `kind` is InvalidRequest or Overloaded."""

    request_id: int
    kind: str
    message: str


class Step(msgspec.Struct, frozen=True, tag=True):
    """What one step brought: one frame for all requests. Without events it is a heartbeat."""

    events: tuple[TokenEvent, ...]
    stats: EngineStats
    embeddings: tuple[Embedding, ...] = ()


Reply = Ready | StartFailed | Refused | Step

_encoder = msgspec.msgpack.Encoder()
_message_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
_reply_decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def frame(item: msgspec.Struct | object) -> bytes:
    """Encode one message, reply or options record with its length in front."""
    body = _encoder.encode(item)
    return HEADER.pack(len(body)) + body


def decode_message(body: bytes) -> Message:
    return _message_decoder.decode(body)


def decode_reply(body: bytes) -> Reply:
    return _reply_decoder.decode(body)


class FrameReader:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add what arrived; return the bodies of the frames that are complete now.

        Raises ValueError on a length no frame can have: the stream is out of step.
        """
        self._buffer += data
        bodies: list[bytes] = []
        start = 0
        while len(self._buffer) - start >= HEADER.size:
            (length,) = HEADER.unpack_from(self._buffer, start)
            if length > MAX_FRAME:
                raise ValueError(f"a frame of {length} bytes is larger than the limit of {MAX_FRAME}")
            end = start + HEADER.size + length
            if end > len(self._buffer):
                break
            bodies.append(bytes(self._buffer[start + HEADER.size : end]))
            start = end
        del self._buffer[:start]
        return bodies

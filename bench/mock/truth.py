"""What the mock did, and when: every stamp is taken just before the send it is about."""

from collections.abc import Iterator

import msgspec


class TruthStream(msgspec.Struct, kw_only=True):
    """One request. `sent_ns`, `tokens` and `kinds` have one entry for each event that carried a token, in order.

    Its number is also in the response header `x-mock-stream`, by which a client finds it (`stream_number`).
    """

    number: int
    api: str
    prompt_tokens: int = 0
    output_tokens: int = 0  # planned; `sum(tokens)` were sent
    received_ns: int = 0  # the request was read whole
    started_ns: int = 0  # it had a slot; 0 = never
    ended_ns: int = 0
    sent_ns: list[int] = []
    tokens: list[int] = []
    kinds: list[str] = []
    fault: str | None = None
    status: int = 200
    left: bool = False  # the client closed the connection first


class Truth(msgspec.Struct, kw_only=True):
    """Everything since the start, or since the last reset. Times are of CLOCK_MONOTONIC."""

    first_request_ns: int = 0
    stalls: list[tuple[int, int]] = []  # from, to
    streams: list[TruthStream] = []
    connections: int = 0  # accepted
    blocked: int = 0  # sends that found the socket's buffer full: the client did not keep up

    def by_number(self) -> dict[int, TruthStream]:
        return {stream.number: stream for stream in self.streams}

    def arrivals(self) -> Iterator[int]:
        for stream in self.streams:
            yield from stream.sent_ns


def stream_number(response: bytes) -> int | None:
    """The number that the head of a response of the mock names; None where there is none."""
    head = response.partition(b"\r\n\r\n")[0].lower()
    _, found, rest = head.partition(b"\r\nx-mock-stream:")
    return int(rest.partition(b"\r\n")[0]) if found else None

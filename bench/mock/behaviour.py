"""What the mock does: how fast it answers, in what pieces, and what it gets wrong."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from bench.types import UsageError

NotNegative = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]

FaultKind = Literal["status", "error", "cut", "hang", "empty", "json", "end"]


class Fault(msgspec.Struct, frozen=True):
    """One way to fail, and the share of the requests that meet it.

    status    the answer is HTTP `value`, with a message
    error     an error event after `value` tokens, where a 200 was sent long ago
    cut       the connection is closed after `value` tokens
    end       the response ends in good order after `value` tokens, but without the event that completes it
    hang      nothing more is sent after `value` tokens
    empty     a complete stream without a token
    json      one JSON object in place of a stream
    """

    kind: FaultKind
    value: Count = 0
    rate: Share = 1.0

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """`KIND[:VALUE][@RATE]`, such as `status:503@0.1`. Raises UsageError."""
        head, _, rate = text.partition("@")
        kind, _, value = head.partition(":")
        try:
            return msgspec.convert({"kind": kind, "value": int(value or 0), "rate": float(rate or 1)}, cls)
        except ValueError as error:
            raise UsageError(
                f"a fault is KIND[:VALUE][@RATE], such as status:503@0.1 or cut:5. Given: {text!r} ({error})"
            ) from None


class Stall(msgspec.Struct, frozen=True):
    """From `at_s` after the first request the whole server is frozen for `for_s`: it reads and sends nothing."""

    at_s: NotNegative
    for_s: NotNegative

    @classmethod
    def parse(cls, text: str) -> "Stall":
        """`AT:FOR` in seconds, such as `2:5`. Raises UsageError."""
        at, _, duration = text.partition(":")
        try:
            return msgspec.convert({"at_s": float(at), "for_s": float(duration)}, cls)
        except ValueError as error:
            raise UsageError(f"a stall is AT:FOR in seconds, such as 2:5. Given: {text!r} ({error})") from None


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """Times are of a request that finds a free slot. What is random depends on `seed` and the request's number."""

    # How fast
    ttft_ms: NotNegative = 20.0  # from the whole request to the first token
    ttft_sigma: NotNegative = 0.0  # above 0: log-normal around that mean, with this sigma
    itl_ms: NotNegative = 5.0  # from event to event; 0 = as fast as the client reads
    itl_sigma: NotNegative = 0.0
    itl_load_ms: NotNegative = 0.0  # added to `itl_ms` for every other running request
    prefill_us: NotNegative = 0.0  # added to `ttft_ms` for each token of the prompt
    slots: Annotated[int, Meta(ge=1)] | None = None  # requests served at once; others wait. None = all
    queue: Count | None = None  # requests that may wait; more are refused with 429. None = all
    stalls: tuple[Stall, ...] = ()
    faults: tuple[Fault, ...] = ()

    # What an answer looks like
    tokens_per_event: tuple[Annotated[int, Meta(ge=1)], ...] = (1,)  # in turn; TGI has one event for each token
    coalesce: Annotated[int, Meta(ge=1)] = 1  # events in one send
    fragment: Count = 0  # bytes in one send, wherever that cuts; 0 = whole events
    usage: Literal["asked", "none", "final", "continuous", "last_choice"] = (
        "asked"  # asked = as `stream_options` wishes
    )
    role: Literal["early", "first", "none"] = (
        "first"  # a chat's role: in an event of its own at once, or with the first
    )
    finish: Literal["with_last", "own"] = "with_last"  # the event that has `finish_reason`
    reasoning: Count = 0  # the first tokens of a chat are thoughts
    reasoning_field: Literal["reasoning_content", "reasoning"] = "reasoning_content"
    tools: Count = 0  # the last tokens of a chat are the arguments of a tool call
    comments: Count = 0  # a `:` comment before every so many events
    token_ids: bool = False  # events list their token ids, asked for or not
    timings: Literal["none", "llama.cpp"] = "none"
    cached_tokens: Count = 0  # of every prompt, as usage tells it
    eos_after: Annotated[int, Meta(ge=1)] | None = None  # tokens of an answer, where `ignore_eos` does not forbid it
    connection: Literal["keep-alive", "close"] = "keep-alive"
    framing: Literal["chunked", "close"] = "chunked"  # close = the end of the connection ends the stream

    # What the server is
    kind: Literal["mock", "tgi", "vllm", "sglang", "llama.cpp", "openai"] = "mock"  # which pages it has
    chat_only: bool = False  # no /v1/completions
    model: str = "mock-model"
    max_context: Annotated[int, Meta(ge=1)] = 32768
    key: str | None = None
    seed: int = 0

    @property
    def itl_ns(self) -> int:
        return round(self.itl_ms * 1e6)

    def capacity(self, output_tokens: int) -> float:
        """The most requests a second it can complete, of `output_tokens` each with one token an event."""
        if self.slots is None:
            return float("inf")
        return self.slots * 1e3 / (self.ttft_ms + (output_tokens - 1) * self.itl_ms)

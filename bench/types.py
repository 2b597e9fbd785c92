"""The records a benchmark is made of: what is planned, what the wire brought, and what it means.

    Item             what to ask for, in tokens and text            bench.workload
    PlannedRequest   the bytes to send, and when                    bench.api, bench.load
    RawStream        what came back, stamped, not yet understood    bench.client
    Record           the same as tokens over time                   bench.api, bench.counting

All times are integer nanoseconds of CLOCK_MONOTONIC, the same clock in every process of a machine.
"""

from enum import StrEnum

import msgspec


class Api(StrEnum):
    """The dialects spoken. `auto` finds out which one a server understands."""

    TGI = "tgi"  # POST /generate_stream
    COMPLETIONS = "completions"  # POST /v1/completions
    CHAT = "chat"  # POST /v1/chat/completions


class Phase(StrEnum):
    WARMUP = "warmup"
    MEASURED = "measured"


class Outcome(StrEnum):
    """How a request ended. Only OK counts for latency; everything else is charged in goodput."""

    OK = "ok"
    HTTP_ERROR = "http_error"  # a status other than 200
    STREAM_ERROR = "stream_error"  # an error event after status 200
    CUT = "cut"  # the stream ended, or the connection broke, before it was complete
    EMPTY = "empty"  # a complete stream without a token
    NOT_A_STREAM = "not_a_stream"  # a body that is not server-sent events
    CONNECT = "connect"  # no connection could be made
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"  # the run ended first
    NEVER_SENT = "never_sent"  # planned for a time the run did not reach, or no connection was free


ONE_PER_EVENT = "estimated: one token per event"  # said of every figure of tokens that nobody counted


class TokenSource(StrEnum):
    """Where the number of tokens of an event comes from, the most trusted first."""

    TGI_TOKEN = "tgi_token"  # noqa: S105 - a TGI event is exactly one token
    USAGE_DELTA = "usage_delta"  # the server's cumulative usage in every event
    TOKEN_IDS = "token_ids"  # noqa: S105 - the events list their ids
    USAGE_SPREAD = "usage_spread"  # the server's final usage, spread by text: estimated
    RETOKENIZED = "retokenized"  # a local tokenizer on the joined text: estimated
    EVENTS = "events"  # nobody counts, so each event with output is taken for one token: estimated
    NONE = "none"  # no output

    @property
    def estimated(self) -> bool:
        return self not in (TokenSource.TGI_TOKEN, TokenSource.USAGE_DELTA, TokenSource.TOKEN_IDS)


class Item(msgspec.Struct, kw_only=True):
    """One thing to ask for. `prompt` is text, token ids, or chat messages."""

    index: int
    prompt: str | list[int] | list[dict[str, str]]
    input_tokens: int | None = None  # None = not known before the server says
    input_estimated: bool = False
    output_tokens: int | None = None  # what to ask for; None = leave it to the server
    group: int | None = None  # requests of one group share a prefix
    session: int | None = None  # turns of one session follow each other
    turn: int = 0


class PlannedRequest(msgspec.Struct, kw_only=True):
    """One request, ready to be sent. `payload` is the whole HTTP/1.1 request, head and body."""

    index: int
    payload: bytes
    phase: Phase = Phase.MEASURED
    at_ns: int | None = None  # after the start of the phase; None = as soon as a place is free (closed loop)
    session: int | None = None  # sent only after the session's earlier turn has ended
    think_ns: int = 0  # pause after that
    turn: int = 0
    messages: list[dict[str, str]] | None = None  # of a later turn, whose answers so far are filled in before sending


class Read(msgspec.Struct, array_like=True, gc=False):
    """One receive call: the kernel's stamp of its last segment (0 = none), ours when it returned, and the bytes."""

    kernel_ns: int
    user_ns: int
    data: bytes

    @property
    def at_ns(self) -> int:
        """The kernel's stamp where there is one."""
        return self.kernel_ns or self.user_ns


class RawStream(msgspec.Struct, kw_only=True):
    """What happened on the wire for one request. `reads` hold the response from its status line on."""

    index: int
    phase: Phase
    scheduled_ns: int  # when it should have been sent; in a closed loop, when its place became free
    sent_ns: int  # just before the send call; 0 = never sent
    ended_ns: int  # when the stream was known to be over
    reads: list[Read] = []
    connect_error: str | None = None
    broken: str | None = None  # why the connection ended before the response did
    timed_out: bool = False
    cancelled: bool = False
    reused: bool = False  # on a connection that had carried another request


class OutputEvent(msgspec.Struct, array_like=True, gc=False):
    """An event that carried at least one generated token: when it arrived, how many, and of what kind."""

    at_ns: int
    tokens: float  # whole numbers unless the source is estimated
    kind: str = "content"  # content, reasoning or tool
    coalesced: bool = False  # not the last event of its read: the stamp is the last one's


class Record(msgspec.Struct, kw_only=True):
    """One request as tokens over time. Times are absolute; 0 stands for never."""

    index: int
    phase: Phase
    outcome: Outcome
    error: str | None = None  # in words, for everything but OK
    status: int = 0  # HTTP
    scheduled_ns: int
    sent_ns: int
    ended_ns: int
    events: list[OutputEvent] = []
    input_tokens: int | None = None
    input_source: str = "none"  # server, planned or estimated
    output_tokens: float = 0
    token_source: TokenSource = TokenSource.NONE
    wanted_tokens: int | None = None  # what the plan asked for
    finish_reason: str | None = None
    text: str = ""
    server: dict[str, float] = {}  # queue, prefill, decode, ... in seconds, where the server says
    cached_tokens: int | None = None
    user_lag_ns: int = 0  # the largest lag of our clock behind the kernel's stamp in this stream
    coalesced: int = 0  # events whose stamp is that of a later one
    session: int | None = None
    turn: int = 0
    group: int | None = None


class Health(msgspec.Struct, kw_only=True):
    """What the client saw of itself, once a second for each worker. A client that is too slow measures itself."""

    at_ns: int
    worker: int
    lag_p50_ns: int = 0  # of the stamps in Python behind the kernel's
    lag_p99_ns: int = 0
    late_p99_ns: int = 0  # of the sends behind the schedule
    sends: int = 0
    events: int = 0  # reads
    open_streams: int = 0
    cpu: float = 0.0  # share of one core
    memory_bytes: int = 0
    open_files: int = 0


class Verdict(StrEnum):
    """Whether the measurement can be trusted."""

    VALID = "VALID"
    DEGRADED = "DEGRADED"
    INVALID = "INVALID"


class Sample(msgspec.Struct, kw_only=True):
    """The server's own view at one moment, in one schema whatever its dialect; None = it does not say."""

    at_ns: int
    running: float | None = None
    waiting: float | None = None
    kv_used: float | None = None  # share of the cache, 0 to 1
    prompt_tokens: float | None = None  # since its start
    generated_tokens: float | None = None
    prefix_hits: float | None = None  # tokens
    prefix_queries: float | None = None
    requests: float | None = None
    preemptions: float | None = None
    cpu: float | None = None  # cores busy on this machine
    memory_bytes: float | None = None
    gpu_watts: float | None = None
    gpu_use: float | None = None


class BenchError(Exception):
    """Something a user can mend; `exit_code` is the program's."""

    exit_code = 1


class UsageError(BenchError):
    exit_code = 2


class InvalidRun(BenchError):
    """A measurement that cannot be trusted, or brought nothing."""

    exit_code = 3

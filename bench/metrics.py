"""What is measured: the definitions, the metrics of one request, and the objectives they are held against.

The definitions are printed in every report, because tools that use the same names mean different things by them.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from bench.types import OutputEvent, Record, UsageError

DEFINITIONS_VERSION = 2

DEFINITIONS = """\
t_sched is the planned start (in a closed loop: when a place became free), t_send is just before the send call, and
t_i is when the kernel received event i (our own clock where the kernel gives no stamp, as under TLS).
Output event: carries at least one generated token. Role-only, empty, usage-only and comment events are none.
k_i, tokens in event i: TGI token events have 1; else the server's cumulative usage; else token ids; else the final
usage spread over the text, or the joined text tokenized again: both are marked estimated. Where nobody counts,
k_i is 1 and every figure of tokens is marked "estimated: one token per event". A chunk is never silently a token.
N is the sum of k_i.
TTFT        t_1 - t_send                       time to the first token
TTFT_sched  t_1 - t_sched                      the same from the schedule: a server that stalls cannot hide it
TTFO        time from t_send to the first event that is not reasoning
TPOT        (t_last - t_1) / (N - k_1)         undefined if N = k_1; requests weigh the same
ITL         (t_i - t_(i-1)) / k_i, k_i times   per token; smeared where an event holds more than one
ICL         t_i - t_(i-1)                      per event: what a user sees
E2E         t_last - t_send; E2E_sched from t_sched; NTPOT = E2E / N; max_stall is the largest ICL of a request
Queue       as the server says; never guessed
Percentiles interpolate linearly; std divides by n. Latencies are those of complete streams only; `adjusted_`
percentiles count every other planned request as infinite (null).
Failed      ended otherwise than complete, cancelled with the run, or never sent (these two are counted apart)
Duration    from the start of the measured phase to the end of its last request
Throughput  tokens of complete streams / duration. Steady: tokens that arrived in the steady window, of complete and
of cancelled streams, / its length; the window runs from when the load was first fully on to the last request sent.
Goodput     requests that met every objective / duration; its share is of all planned requests, failed, cancelled
and never sent included.
Effective samples: as many independent samples as would say as much as these, which resemble their neighbours.
A percentile p is reliable from 3 / (1 - p) of them on: 300 for p99. Run to run, the run is the unit.
"""


@dataclass(frozen=True, slots=True)
class RequestMetrics:
    """One request in seconds; None where undefined. Lists hold a value for each token (itl) or event (icl)."""

    ttft: float | None
    ttft_sched: float | None
    ttfo: float | None
    tpot: float | None
    e2e: float | None
    e2e_sched: float | None
    ntpot: float | None
    max_stall: float | None
    queue: float | None
    itl: list[float]
    icl: list[float]
    smeared: bool  # some event held more than one token, so that itl is a mean


KEYS = {  # of a RequestMetrics: its name in summary.json, which is vLLM's where vLLM has one
    "ttft": "ttft",
    "ttft_sched": "ttft_sched",
    "ttfo": "ttfo",
    "tpot": "tpot",
    "itl": "itl",
    "icl": "icl",
    "e2e": "e2el",
    "e2e_sched": "e2el_sched",
    "ntpot": "ntpot",
    "max_stall": "max_stall",
    "queue": "queue",
}


def request_metrics(record: Record) -> RequestMetrics:
    """The metrics of one request, of whatever outcome, from its events."""
    queue = record.server.get("queue")
    events = record.events
    if not events:
        return RequestMetrics(None, None, None, None, None, None, None, None, queue, [], [], False)
    first, last = events[0].at_ns, events[-1].at_ns
    after_first = record.output_tokens - events[0].tokens
    icl = [(b.at_ns - a.at_ns) / 1e9 for a, b in pairwise(events)]
    answer = next((event.at_ns for event in events if event.kind != "reasoning"), None)
    return RequestMetrics(
        ttft=(first - record.sent_ns) / 1e9,
        ttft_sched=(first - record.scheduled_ns) / 1e9,
        ttfo=None if answer is None else (answer - record.sent_ns) / 1e9,
        tpot=(last - first) / 1e9 / after_first if after_first > 0 and len(events) > 1 else None,
        e2e=(last - record.sent_ns) / 1e9,
        e2e_sched=(last - record.scheduled_ns) / 1e9,
        ntpot=(last - record.sent_ns) / 1e9 / record.output_tokens if record.output_tokens > 0 else None,
        max_stall=max(icl, default=None),
        queue=queue,
        itl=_token_gaps(events),
        icl=icl,
        smeared=any(event.tokens > 1 for event in events[1:]),
    )


def _token_gaps(events: Sequence[OutputEvent]) -> list[float]:
    """Gap / k, k times, for each event after the first.

    Estimated counts are fractions: they are rounded cumulatively, so that their sum stays right, and the gap of
    an event that rounds to no token is part of the next one's.
    """
    gaps: list[float] = []
    since = events[0].at_ns
    total = events[0].tokens
    counted = round(total)
    for event in events[1:]:
        total += event.tokens
        whole = round(total) - counted
        if whole > 0:
            gap = (event.at_ns - since) / 1e9
            gaps.extend([gap] if whole == 1 else [gap / whole] * whole)
            since = event.at_ns
            counted += whole
    return gaps


_ALIASES = {"e2el": "e2e", "e2el_sched": "e2e_sched"}
_UNITS = {"us": 1e6, "ms": 1e3, "s": 1.0, "": 1e3}  # of them in a second
_LIMIT = re.compile(
    r"(?P<metric>[a-z0-9_]+?)(?:_(?P<statistic>mean|median|p\d+(?:\.\d+)?))?"
    r"(?P<operator><=?|:)(?P<number>\d+(?:\.\d*)?|\.\d+)(?P<unit>us|ms|s|)"
)


@dataclass(frozen=True)
class Limit:
    """`metric` must not exceed `seconds`: its `statistic` over the run, or each request's own value."""

    metric: str
    statistic: str | None
    seconds: float

    @property
    def key(self) -> str:
        """Where summary.json has the measured value, in milliseconds."""
        return f"{self.statistic}_{KEYS[self.metric]}_ms"

    def __str__(self) -> str:
        name = f"{self.metric}_{self.statistic}<" if self.statistic else f"{self.metric}:"
        return f"{name}{self.seconds * 1e3:g}{'ms' if self.statistic else ''}"


@dataclass(frozen=True)
class Slo:
    """Service level objectives, all of which must hold.

    `ttft_p99<500ms,tpot_p95<50ms` limits percentiles of the run; `ttft:500,tpot:50` (milliseconds, as in
    `vllm bench serve --goodput`) limits every single request. Both may be mixed.
    """

    limits: tuple[Limit, ...]

    @classmethod
    def parse(cls, text: str) -> "Slo":
        """Raises UsageError for what is not an objective."""
        parts = [part.strip() for part in re.split(r"[,\s]+", text.strip()) if part.strip()]
        if not parts:
            raise UsageError("no objective given: write for example ttft_p99<500ms,tpot_p95<50ms or ttft:500,tpot:50")
        return cls(tuple(_limit(part) for part in parts))

    def good(self, metrics: RequestMetrics) -> bool:
        """Whether one request meets every limit. What is undefined for it, such as the TPOT of one token, is met."""
        for limit in self.limits:
            value = getattr(metrics, limit.metric)
            values = value if isinstance(value, list) else () if value is None else (value,)
            if any(one > limit.seconds for one in values):
                return False
        return True

    def ratios(self, summary: Mapping[str, Any]) -> dict[str, float]:
        """Measured / allowed for each limit on the run; infinite where nothing was measured."""
        found = {}
        for limit in self.limits:
            if limit.statistic is not None:
                value = summary.get(limit.key)
                found[str(limit)] = math.inf if value is None else value / 1e3 / limit.seconds
        return found

    def met(self, summary: Mapping[str, Any]) -> bool:
        """Whether the run as a whole meets every limit on it."""
        return all(ratio <= 1 for ratio in self.ratios(summary).values())

    def __str__(self) -> str:
        return ",".join(map(str, self.limits))


def _limit(text: str) -> Limit:
    match = _LIMIT.fullmatch(text.lower())
    if not match:
        raise UsageError(f"{text!r} is not an objective: write for example ttft_p99<500ms or ttft:500")
    metric = _ALIASES.get(match["metric"], match["metric"])
    if metric not in KEYS:
        raise UsageError(f"{text!r}: there is no metric {match['metric']!r}; there are {', '.join(KEYS)}")
    statistic = match["statistic"]
    if (statistic is None) != (match["operator"] == ":"):
        raise UsageError(
            f"{text!r}: a limit on the run names a statistic ({metric}_p99<...); one on each request is {metric}:500"
        )
    if statistic and statistic.startswith("p") and not 0 < float(statistic[1:]) < 100:
        raise UsageError(f"{text!r}: a percentile lies between 0 and 100")
    seconds = float(match["number"]) / _UNITS[match["unit"]]
    if seconds <= 0:
        raise UsageError(f"{text!r}: the limit must be above 0")
    return Limit(metric, statistic, seconds)

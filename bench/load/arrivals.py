"""When requests arrive: a closed loop, or times drawn before the run begins.

An open loop is drawn in units of requests first (gaps of mean 1) and then mapped to time through the integral of
the rate, so that a ramp changes the rate of any arrival process without changing its character.

Its number of requests is no matter of chance: gaps are stretched so that as many fall into the run as its rate says
(a Poisson process whose number is known). Else ten seconds of 50 requests a second would bring 500 give or take 22,
and every figure of the run would carry that.
"""

import math
import random
from dataclasses import dataclass
from itertools import accumulate

from bench.types import UsageError

BILLION = 1_000_000_000


@dataclass(frozen=True)
class Load:
    """The load of one run: exactly one of `concurrency` (closed loop), `rate` and `trace` (open loop).

    `rate` is requests per second; `inf` sends all at once. `arrival` is `constant`, `poisson` or `gamma:B`, where
    B is the burstiness as in vLLM: 1 is Poisson, less is burstier. `ramp` is (rate at the start, seconds until
    `rate` is reached). `trace` lists seconds after the start, `trace_scale` multiplies them. A run ends after
    `duration_s` or `requests`, whichever comes first. `max_concurrency` makes arrivals of an open loop wait while
    so many are in flight; the wait counts in what is measured from the schedule. Raises UsageError.
    """

    concurrency: int | None = None
    rate: float | None = None
    arrival: str = "poisson"
    ramp: tuple[float, float] | None = None
    duration_s: float | None = None
    requests: int | None = None
    trace: list[float] | None = None
    trace_scale: float = 1.0
    max_concurrency: int | None = None

    def __post_init__(self) -> None:
        if sum(choice is not None for choice in (self.concurrency, self.rate, self.trace)) != 1:
            raise UsageError("a load needs exactly one of a concurrency, a rate and a trace")
        _require_positive("concurrency", self.concurrency)
        _require_positive("max_concurrency", self.max_concurrency)
        _require_positive("rate", self.rate, finite=False)
        _require_positive("duration", self.duration_s)
        _require_positive("requests", self.requests)
        _require_positive("trace_scale", self.trace_scale)
        if self.closed and self.max_concurrency is not None:
            raise UsageError("max_concurrency is for an open loop; a closed loop has its concurrency")
        if self.duration_s is None and self.requests is None and self.trace is None:
            raise UsageError("a load needs an end: a duration, a number of requests, or both")
        if self.rate == math.inf and self.requests is None:
            raise UsageError("an infinite rate needs a number of requests")
        if self.ramp is not None:
            self._check_ramp(*self.ramp)
        if self.trace is not None and not all(math.isfinite(time) and time >= 0 for time in self.trace):
            raise UsageError("the times of a trace must be seconds after its start, 0 or more")
        if self.trace == []:
            raise UsageError("the trace is empty")
        self._burstiness()

    def _check_ramp(self, start_rate: float, seconds: float) -> None:
        if self.rate is None or self.rate == math.inf:
            raise UsageError("a ramp needs a finite rate to end at")
        if not (math.isfinite(start_rate) and start_rate >= 0 and math.isfinite(seconds) and seconds > 0):
            raise UsageError(f"a ramp goes from a rate of 0 or more over some seconds, not {start_rate} over {seconds}")

    def _burstiness(self) -> float:
        """The shape of the gamma law of the gaps; `inf` = constant."""
        if self.arrival == "constant":
            return math.inf
        if self.arrival == "poisson":
            return 1.0
        name, _, value = self.arrival.partition(":")
        try:
            burstiness = float(value) if name == "gamma" else math.nan
        except ValueError:
            burstiness = math.nan
        if not (math.isfinite(burstiness) and burstiness > 0):
            raise UsageError(f"arrival is {self.arrival!r}; it must be constant, poisson, or gamma:B with B above 0")
        return burstiness

    @property
    def closed(self) -> bool:
        return self.concurrency is not None

    @property
    def duration_ns(self) -> int | None:
        return None if self.duration_s is None else round(self.duration_s * BILLION)

    def times(self, rng: random.Random) -> list[int] | None:
        """Nanoseconds after the start at which requests are due, in order; None for a closed loop."""
        if self.closed:
            return None
        if self.trace is not None:
            due = sorted(round(time * self.trace_scale * BILLION) for time in self.trace)
            end = self.duration_ns
            return [time for time in due if end is None or time < end][: self.requests]
        if self.rate == math.inf:
            return [0] * (self.requests or 0)
        return self._draw(rng)

    def _draw(self, rng: random.Random) -> list[int]:
        """On the scale where one request arrives per unit, there are `units` of it."""
        burstiness, end = self._burstiness(), self.duration_ns
        units = math.inf if self.duration_s is None else self._arrived(self.duration_s)
        if burstiness == math.inf:
            most = math.ceil(units) if self.requests is None else self.requests
            times = [round(self._when(float(number)) * BILLION) for number in range(most)]
            return [due for due in times if end is None or due < end]
        units = min(units, math.inf if self.requests is None else self.requests)
        gaps = [rng.gammavariate(burstiness, 1 / burstiness) for _ in range(max(1, round(units)) + 1)]
        stretch = units / sum(gaps)
        return [int(self._when(arrived * stretch) * BILLION) for arrived in accumulate(gaps[:-1])]

    def _arrived(self, second: float) -> float:
        """The integral of the rate up to a second."""
        assert self.rate is not None
        if self.ramp is None:
            return self.rate * second
        start, seconds = self.ramp
        inside = min(second, seconds)
        slope = (self.rate - start) / seconds
        return start * inside + slope / 2 * inside * inside + self.rate * (second - inside)

    def _when(self, arrived: float) -> float:
        """The second at which the integral of the rate reaches `arrived`: the inverse of `_arrived`."""
        assert self.rate is not None
        if self.ramp is None:
            return arrived / self.rate
        start, seconds = self.ramp
        in_ramp = (start + self.rate) / 2 * seconds
        if arrived >= in_ramp:
            return seconds + (arrived - in_ramp) / self.rate
        # Solves start * t + slope / 2 * t^2 = arrived in the form that does not divide by a slope of zero.
        slope = (self.rate - start) / seconds
        root = math.sqrt(max(0.0, start * start + 2 * slope * arrived))
        return 2 * arrived / (start + root) if arrived else 0.0


def _require_positive(name: str, value: float | None, *, finite: bool = True) -> None:
    if value is not None and not (value > 0 and (not finite or math.isfinite(value))):
        raise UsageError(f"{name} is {value}; it must be above 0")

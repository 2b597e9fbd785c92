"""One thing the load tester claims of itself, what was measured, and the bounds it must keep."""

import math
from collections.abc import Callable, Sequence

import msgspec

from bench.types import BenchError

ATTEMPTS = 3


class Check(msgspec.Struct, kw_only=True):
    name: str
    figure: float  # NaN: could not be measured
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.low <= self.figure <= self.high

    @property
    def bound(self) -> str:
        if self.low == self.high:
            return f"{self.low:g}"
        if self.low == -math.inf:
            return "" if self.high == math.inf else f"<= {self.high:g}"
        return f">= {self.low:g}" if self.high == math.inf else f"{self.low:g} to {self.high:g}"

    @property
    def excess(self) -> float:
        """How far out of bounds, as a share of the bound that is broken; 0 if it passed."""
        if self.passed:
            return 0.0
        if math.isnan(self.figure):
            return math.inf
        broken = self.low if self.figure < self.low else self.high
        return abs(self.figure - broken) / abs(broken) if broken else abs(self.figure)


def failure(name: str, reason: object) -> Check:
    return Check(name=name, figure=math.nan, note=str(reason))


Measurement = Callable[[bool], Sequence[Check]]  # asked whether it should be quick


def best_of(measure: Measurement, quick: bool, attempts: int = ATTEMPTS) -> list[Check]:
    """Measure again while a check fails, and keep the best of each: other programs on a machine only ever harm.

    For figures that noise can worsen but not improve. The note says how often was measured.
    """
    best: dict[str, Check] = {}
    known: list[Check] = []
    for attempt in range(1, attempts + 1):
        for check in measured(measure, quick):
            if attempt > 1:
                check.note = "; ".join(filter(None, (check.note, f"best of {attempt}")))
            held = best.get(check.name)
            if held is None or check.excess < held.excess:
                best[check.name] = check
        # An attempt that could not be made counts only as long as no other was.
        known = [check for check in best.values() if not math.isnan(check.figure)] or list(best.values())
        if all(check.passed for check in known):
            break
    return known


def measured(measure: Measurement, quick: bool) -> list[Check]:
    """The checks, or one that failed and says why where the measurement itself did."""
    try:
        return list(measure(quick))
    except BenchError as error:
        return [failure(measure.__name__.replace("_", " "), error)]

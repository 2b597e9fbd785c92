"""The largest load that meets the objectives, in few probes: a pure search that is told what each probe measured.

    finder = Finder(low=1, high=1000)
    while (load := finder.propose()) is not None:
        finder.observe(load, slo.ratios(measure(load)))
    finder.result()

A probe's value is measured / allowed, the largest of all objectives; it rises with the load, and is noisy. The load
is raised by a constant factor until an objective is missed, the gap is halved on a logarithmic scale until it is
narrow, and what probes are left repeat loads close to the edge. The answer is where the isotonic fit through all of
them crosses 1, so that no single unlucky probe decides.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bench.stats.isotonic import crossing, pava

CLIP = math.log(100)  # how much over or under the limit says nothing about where it lies
NOISE = 0.1  # assumed of log(measured / allowed) until probes show it
NARROW = 0.03  # gap in log(load) at which probes repeat instead of halving
STEPS = 4  # factors from low to high
CLIFF = math.log(2)  # a rise this large across a narrow gap is a cliff


@dataclass(frozen=True)
class Probe:
    load: float
    ratio: float  # measured / allowed, the largest of all objectives
    binding: str  # which objective that was


@dataclass(frozen=True)
class Found:
    """`load` is None if even the lowest load misses an objective. `low` and `high` bound it where probes are clear."""

    load: float | None
    low: float
    high: float
    limited: bool  # False: every load up to the highest one met the objectives
    edge: str  # cliff, smooth, or none
    binding: str | None  # the objective that is missed first
    probes: tuple[Probe, ...]


class Finder:
    """Proposes loads and learns from what they measured; `whole` for loads that are counts, such as concurrency."""

    def __init__(self, low: float = 1, high: float = 1000, *, probes: int = 12, whole: bool = False) -> None:
        if not 0 < low < high:
            raise ValueError(f"loads must satisfy 0 < low < high, got {low} and {high}")
        if probes < 2:
            raise ValueError(f"a search needs at least 2 probes, got {probes}")
        self.low, self.high, self.whole = low, high, whole
        self._most = probes
        self._probes: list[Probe] = []
        self._factor = min(8.0, max(2.0, (high / low) ** (1 / STEPS)))

    def propose(self) -> float | None:
        """The next load to measure, or None when there is nothing more to learn."""
        if len(self._probes) >= self._most:
            return None
        if not self._probes:
            return self.low
        loads, fitted = self._fit()
        if fitted[-1] <= 0:
            return self._confirm(self.high) if loads[-1] >= self.high else self._round(loads[-1] * self._factor)
        if fitted[0] > 0:
            return self._confirm(self.low) if loads[0] <= self.low else self._round(loads[0] / self._factor)
        last = int(np.flatnonzero(fitted <= 0)[-1])
        below, above = loads[last], loads[last + 1]
        gap = math.log(above / below)
        if gap > NARROW and not (self.whole and above - below <= 1):
            return self._round(math.sqrt(above * below))
        return self._repeat(loads, fitted, last)

    def observe(self, load: float, ratios: float | Mapping[str, float]) -> None:
        """`ratios`: measured / allowed of each objective, or of the only one. Not a number counts as missed."""
        named = ratios if isinstance(ratios, Mapping) else {"": float(ratios)}
        if not named:
            raise ValueError("a probe needs at least one objective's measured / allowed")
        known = {name: math.inf if math.isnan(ratio) else ratio for name, ratio in named.items()}
        binding = max(known, key=lambda name: known[name])
        self._probes.append(Probe(load, known[binding], binding))

    def result(self) -> Found:
        """What is known so far. Raises ValueError before the first probe."""
        if not self._probes:
            raise ValueError("no load has been measured")
        probes = tuple(self._probes)
        loads, fitted = self._fit()
        if fitted[-1] <= 0:
            return Found(float(loads[-1]), float(loads[-1]), math.inf, False, "none", None, probes)
        over = [probe for probe in sorted(probes, key=lambda probe: probe.load) if probe.ratio > 1]
        binding = over[0].binding if over else None
        if fitted[0] > 0:
            return Found(None, 0.0, float(loads[0]), True, "none", binding, probes)
        last = int(np.flatnonzero(fitted <= 0)[-1])
        cross = crossing(np.log(loads).tolist(), fitted.tolist())
        assert cross is not None
        load = float(loads[last]) if self.whole else math.exp(cross)
        clear = 2 * self._noise(fitted)
        sure_below = loads[fitted <= -clear]
        sure_above = loads[fitted >= clear]
        low = float(sure_below[-1]) if sure_below.size else 0.0
        high = float(sure_above[0]) if sure_above.size else math.inf
        edge = "cliff" if fitted[last + 1] - fitted[last] > CLIFF else "smooth"
        return Found(load, min(low, load), max(high, load), True, edge, binding, probes)

    def _fit(self) -> tuple[np.ndarray, np.ndarray]:
        """Loads in rising order, each once, and the isotonic fit of log(measured / allowed) at each. [n], [n]"""
        values: dict[float, list[float]] = {}
        for probe in self._probes:
            values.setdefault(probe.load, []).append(_log(probe.ratio))
        loads = sorted(values)
        means = [sum(values[load]) / len(values[load]) for load in loads]
        return np.array(loads), pava(means, [float(len(values[load])) for load in loads])

    def _noise(self, fitted: np.ndarray) -> float:
        """Spread of log(measured / allowed) about the fit, where probes enough show it."""
        loads, _ = self._fit()
        residuals = [_log(probe.ratio) - fitted[int(np.searchsorted(loads, probe.load))] for probe in self._probes]
        free = len(residuals) - np.unique(fitted).size
        return NOISE if free < 2 else math.sqrt(sum(r * r for r in residuals) / free)

    def _repeat(self, loads: np.ndarray, fitted: np.ndarray, last: int) -> float | None:
        """The side of the edge that was measured less; None once both are clear of the limit or known well."""
        sides = (last, last + 1)
        times = [sum(probe.load == loads[side] for probe in self._probes) for side in sides]
        open_sides = [
            (count, abs(float(fitted[side])), float(loads[side]))
            for side, count in zip(sides, times, strict=True)
            if abs(fitted[side]) * math.sqrt(count) < 3 * NOISE
        ]
        return min(open_sides)[2] if open_sides else None

    def _confirm(self, load: float) -> float | None:
        """An end of the range is measured twice before it is the answer."""
        return load if sum(probe.load == load for probe in self._probes) < 2 else None

    def _round(self, load: float) -> float:
        load = min(self.high, max(self.low, load))
        return float(round(load)) if self.whole else load


def _log(ratio: float) -> float:
    if ratio <= 0:
        return -CLIP
    return min(CLIP, max(-CLIP, math.log(ratio)))

"""Proofs by simulation: that intervals cover, that equal things are not told apart, that changes and limits are found.

Latencies are made as servers make them: lognormal, and each resembling the one before (an autoregressive process on
the logarithm). Everything follows from the seed.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.stats.find import Finder
from bench.stats.intervals import t_quantile
from bench.stats.paired import Change, Samples, judge

RHO = 0.9  # correlation of one request's latency with the next one's
REQUESTS = 600  # of each run
SIGMA = 0.1  # spread of log latency within a run
DRIFT = 0.02  # spread of the machine's speed from pair to pair, which both runs of a pair share
PAIRS = 10


@dataclass(frozen=True)
class Outcome:
    """A share of trials, and the bounds it must keep."""

    name: str
    share: float
    low: float
    high: float
    trials: int

    @property
    def passed(self) -> bool:
        return self.low <= self.share <= self.high


def latencies(
    rng: np.random.Generator, series: int, requests: int = REQUESTS, sigma: float = SIGMA
) -> NDArray[np.float64]:
    """Stationary lognormal latencies around 1 with autocorrelated logarithms. [series, requests]"""
    noise = rng.standard_normal((requests, series))
    log = np.empty_like(noise)
    log[0] = noise[0]
    keep = math.sqrt(1 - RHO * RHO)
    for i in range(1, requests):
        log[i] = RHO * log[i - 1] + keep * noise[i]
    return np.asarray(np.exp(sigma * log.T))


def coverage(trials: int = 2000, runs: int = 5, seed: int = 1, sigma: float = 0.3) -> Outcome:
    """How often the 95 % t interval over the means of a few runs holds the true mean."""
    means = latencies(np.random.default_rng(seed), trials * runs, sigma=sigma).mean(axis=1).reshape(trials, runs)
    half = t_quantile(0.975, runs - 1) * means.std(axis=1, ddof=1) / math.sqrt(runs)
    held = np.abs(means.mean(axis=1) - math.exp(sigma * sigma / 2)) <= half
    return Outcome(f"95 % interval over {runs} runs holds the mean", float(held.mean()), 0.93, 0.97, trials)


def false_alarms(trials: int = 2000, pairs: int = PAIRS, seed: int = 2) -> Outcome:
    """How often A against A is called better or worse."""
    share = _differences(trials, pairs, 1.0, seed, {Change.BETTER, Change.WORSE})
    return Outcome(f"A against A told apart in {pairs} pairs", share, 0.0, 0.06, trials)


def power(trials: int = 2000, pairs: int = PAIRS, change: float = 0.03, seed: int = 3) -> Outcome:
    """How often a latency that rose by `change` is called worse."""
    share = _differences(trials, pairs, 1 + change, seed, {Change.WORSE})
    return Outcome(f"a change of {change:.0%} found in {pairs} pairs", share, 0.8, 1.0, trials)


def _differences(trials: int, pairs: int, factor: float, seed: int, verdicts: set[Change]) -> float:
    rng = np.random.default_rng(seed)
    means = latencies(rng, trials * pairs * 2).mean(axis=1).reshape(trials, pairs, 2)
    means *= np.exp(DRIFT * rng.standard_normal((trials, pairs, 1)))
    means[:, :, 1] *= factor
    found = (judge({"latency": Samples(runs[:, 0].tolist(), runs[:, 1].tolist())})["latency"].verdict for runs in means)
    return sum(verdict in verdicts for verdict in found) / trials


@dataclass(frozen=True)
class Server:
    """A made-up server: measured / allowed at a load, which crosses 1 at `capacity`.

    A queue that grows toward saturation, `idle` being its ratio when idle; or with idle 0 a cliff: flat at 0.3 up
    to the capacity, and a backlog beyond it.
    """

    capacity: float
    idle: float

    def ratio(self, load: float) -> float:
        if self.idle == 0:
            return 0.3 if load <= self.capacity else 2 + 20 * (load / self.capacity - 1)
        saturation = self.capacity / (1 - self.idle)
        return self.idle / (1 - load / saturation) if load < saturation * 0.99 else 100 * self.idle * load / saturation


def find_accuracy(trials: int = 2000, seed: int = 4, noise: float = 0.1, probes: int = 12) -> Outcome:
    """How often the search on [1, 1000] lands within 5 % of the capacity of a noisy server."""
    rng = np.random.default_rng(seed)
    near = 0
    for _ in range(trials):
        idle = 0.0 if rng.random() < 0.3 else float(rng.uniform(0.05, 0.25))
        server = Server(float(np.exp(rng.uniform(math.log(1.5), math.log(900)))), idle)
        finder = Finder(1, 1000, probes=probes)
        used = 0
        while (load := finder.propose()) is not None:
            finder.observe(load, server.ratio(load) * math.exp(noise * rng.standard_normal()))
            used += 1
        found = finder.result().load
        near += used <= probes and found is not None and abs(found / server.capacity - 1) <= 0.05
    return Outcome(f"capacity found within 5 % in {probes} probes", near / trials, 0.95, 1.0, trials)


def all_simulations(trials: int = 2000) -> list[Outcome]:
    """Every simulation with its fixed seed."""
    return [coverage(trials), false_alarms(trials), power(trials), find_accuracy(trials)]

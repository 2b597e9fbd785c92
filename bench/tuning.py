"""The search for good settings of a server: which configuration to measure next, and what the measurements say.

Nothing here starts a server or a clock: trials in, jobs out. A search is resumed by handing in the trials it has.

Successive halving (Jamieson and Talwalkar 2016): a short run of every configuration, then `ETA` times longer runs of
the best third, and so on; the last few are run again several times, and the median counts.
"""

import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from bench.ranges import numbers, plain
from bench.types import UsageError

ETA = 3
FINALISTS = 3
LARGEST_GRID = 2000
# Compared by the Pareto set: tokens a second, the wait for the first one, the pace of the rest.
AXES = (("output_throughput", 1), ("p90_ttft_ms", -1), ("p90_tpot_ms", -1))
NAME = re.compile(r"[A-Za-z][\w-]*")

Configuration = Mapping[str, str]


@dataclass(frozen=True)
class Knob:
    name: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Knob":
        """`NAME=16,32,64`, `NAME=512..4096x2` or words. Raises UsageError."""
        name, equals, values = text.partition("=")
        if not equals or not NAME.fullmatch(name) or not values:
            raise UsageError(f"--knob {text!r}: write NAME=VALUE,VALUE or NAME=LOW..HIGHxFACTOR")
        if ".." in values:
            return cls(name, tuple(plain(value) for value in numbers(values, f"--knob {name}")))
        return cls(name, tuple(dict.fromkeys(value.strip() for value in values.split(",") if value.strip())))


def grid(knobs: Sequence[Knob]) -> list[dict[str, str]]:
    """Every combination of the knobs' values. Raises UsageError for none, a knob named twice, or far too many."""
    if not knobs:
        raise UsageError("name at least one knob: --knob max_batch_size=16,32,64")
    names = [knob.name for knob in knobs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"--knob {min(twice)} is given twice; list all its values in one")
    size = math.prod(len(knob.values) for knob in knobs)
    if size > LARGEST_GRID:
        raise UsageError(f"the knobs make {size} configurations; give fewer values, at most {LARGEST_GRID} together")
    return [dict(zip(names, values, strict=True)) for values in product(*(knob.values for knob in knobs))]


@dataclass(frozen=True)
class Job:
    """One measurement to take: a configuration (an index), in a round, for the how-manieth time."""

    round: int
    configuration: int
    repeat: int


@dataclass(frozen=True)
class Trial:
    """A measurement taken. `numbers` are those of summary.json; `error` says why there are none."""

    job: Job
    numbers: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    text_hash: str | None = None  # of the greedy answers: settings that change it change what users read
    meets_slo: bool = True
    token_note: str = ""  # how far the figures of tokens can be trusted, where not wholly


@dataclass(frozen=True)
class Search:
    """What is searched for: `objective` is a key of summary.json, the larger the better if `sign` is 1."""

    count: int
    method: str = "halving"  # or grid
    repeats: int = 3
    objective: str = "output_throughput"

    def __post_init__(self) -> None:
        if self.method not in ("halving", "grid"):
            raise UsageError(f"--search {self.method!r} is neither halving nor grid")
        if self.repeats < 1:
            raise UsageError(f"--repeats must be 1 or more, not {self.repeats}")

    @property
    def sign(self) -> int:
        return -1 if self.objective.endswith("_ms") else 1

    def rounds(self) -> list[int]:
        """How many configurations each round measures."""
        if self.method == "grid":
            return [self.count]
        sizes = [self.count]
        while math.ceil(sizes[-1] / ETA) > FINALISTS:
            sizes.append(math.ceil(sizes[-1] / ETA))
        return [*sizes, min(FINALISTS, self.count)]

    def repeats_in(self, number: int) -> int:
        return self.repeats if number == len(self.rounds()) - 1 else 1

    def scale(self, number: int) -> int:
        """How many times more requests a run of this round has than one of the first."""
        return int(ETA**number)

    def score(self, trials: Iterable[Trial]) -> tuple[bool, float]:
        """The median of a configuration's trials; those within the SLO rank before all others."""
        found = [trial for trial in trials if trial.error is None and self.objective in trial.numbers]
        if not found:
            return False, -math.inf
        median = statistics.median(trial.numbers[self.objective] for trial in found)
        return sum(trial.meets_slo for trial in found) * 2 > len(found), self.sign * median

    def ranked(self, trials: Sequence[Trial], number: int, entrants: Iterable[int]) -> list[int]:
        """The configurations of a round, the best first; among equals the one named first."""

        def key(configuration: int) -> tuple[bool, float]:
            own = [t for t in trials if t.job.round == number and t.job.configuration == configuration]
            return self.score(own)

        return sorted(entrants, key=key, reverse=True)

    def next_jobs(self, trials: Sequence[Trial]) -> list[Job]:
        """What is still to be measured in the first round that is not complete; nothing at the end."""
        done = {trial.job for trial in trials}
        entrants = list(range(self.count))
        for number, size in enumerate(self.rounds()):
            if number:
                entrants = self.ranked(trials, number - 1, entrants)[:size]
            jobs = [Job(number, each, repeat) for repeat in range(self.repeats_in(number)) for each in entrants]
            failed = {t.job.configuration for t in trials if t.error is not None}
            missing = [job for job in jobs if job not in done and job.configuration not in failed]
            if missing:
                return missing
        return []

    def final(self, trials: Sequence[Trial]) -> dict[int, list[Trial]]:
        """The trials of each configuration's last round, the best configuration first."""
        last: dict[int, list[Trial]] = {}
        for trial in sorted(trials, key=lambda trial: trial.job.round):
            own = last.setdefault(trial.job.configuration, [])
            if own and own[0].job.round < trial.job.round:
                own.clear()
            own.append(trial)
        # A configuration that came further was better than those left behind, whatever the noise of the last round.
        order = sorted(last, key=lambda each: (last[each][0].job.round, *self.score(last[each])), reverse=True)
        return {each: last[each] for each in order}


def medians(trials: Iterable[Trial]) -> dict[str, float]:
    """The median of every number over the trials that worked."""
    found: dict[str, list[float]] = {}
    for trial in trials:
        if trial.error is None:
            for key, value in trial.numbers.items():
                found.setdefault(key, []).append(value)
    return {key: statistics.median(values) for key, values in found.items()}


def pareto(points: Mapping[int, Mapping[str, float]]) -> list[int]:
    """The configurations that no other one equals or beats on every axis and beats on one."""
    known = {
        each: tuple(sign * values[key] for key, sign in AXES)
        for each, values in points.items()
        if all(key in values for key, _ in AXES)
    }
    return [
        each
        for each, own in known.items()
        if not any(other != own and all(o >= v for o, v in zip(other, own, strict=True)) for other in known.values())
    ]


def main_effects(
    configurations: Sequence[Configuration], trials: Sequence[Trial], objective: str
) -> dict[str, dict[str, float]]:
    """For each knob and value, the median of the first round's objective over the configurations that have it."""
    first = [trial for trial in trials if trial.job.round == 0 and objective in trial.numbers]
    found: dict[str, dict[str, list[float]]] = {}
    for trial in first:
        for name, value in configurations[trial.job.configuration].items():
            found.setdefault(name, {}).setdefault(value, []).append(trial.numbers[objective])
    return {name: {value: statistics.median(seen) for value, seen in values.items()} for name, values in found.items()}


def flag_of(words: Sequence[str], knob: str) -> str | None:
    """The flag whose value is `{knob}` in a serve command, without its dashes."""
    place = f"{{{knob}}}"
    for before, word in zip(["", *words], words, strict=False):
        if word == place and before.startswith("--"):
            return before[2:]
        if word.startswith("--") and word.endswith(f"={place}"):
            return word[2:].partition("=")[0]
    return None


def preset(words: Sequence[str], configuration: Configuration, reasons: Iterable[str]) -> str:
    """The configuration as a TOML file of flags, as `tgi serve --config` reads it; `reasons` stand above."""
    lines = [f"# {line}".rstrip() for reason in reasons for line in reason.splitlines()]
    for name, value in configuration.items():
        key = (flag_of(words, name) or name).replace("-", "_")
        lines.append(f"{key} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def _toml(value: str) -> str:
    if re.fullmatch(r"[+-]?\d+|[+-]?\d+\.\d+|true|false", value):
        return value
    return json.dumps(value)

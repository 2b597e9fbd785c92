"""Engines taking turns on the same cases in one run, so that what disturbs the machine disturbs all of them.

Every engine is loaded once and stays; while one computes the others wait for input. The order of turns is reversed
from round to round. A figure is the median over the rounds; a ratio is taken round by round, and its median stands
with the lowest and the highest.
"""

import json
import math
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.tables import table
from bench.types import UsageError

if TYPE_CHECKING:
    from bench.cpu import Case

ROOT = Path(__file__).parents[2]
PAUSE = 0.2  # seconds in which the threads of the last engine stop spinning
WARMUP_STEPS = 2
OWN = "tgi"
PRECISIONS = ("bf16", "int8", "int4")
VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {  # engine -> precision -> how that engine calls it
    "llama.cpp": {"bf16": ("BF16", "F16"), "int8": ("Q8_0",), "int4": ("Q4_0",)},
    "openvino": {"bf16": ("fp16", "fp16:f32"), "int8": ("int8",), "int4": ("int4-g32", "int4-g64")},
    "transformers": {"bf16": ("bfloat16",)},
    "vllm": {"bf16": ("bfloat16",)},
}


@dataclass(frozen=True)
class Contender:
    engine: str
    variant: str
    python: str  # the interpreter of its environment

    @property
    def name(self) -> str:
        return f"{self.engine} {self.variant}"


class EngineFailed(Exception):
    """An engine could not do what it was asked; the message is its own."""


@dataclass
class Child:
    """The process of one engine. `facts` are its version, its seconds to load and its memory."""

    contender: Contender
    process: "subprocess.Popen[str]"
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def start(cls, contender: Contender, model: Path, threads: int, tokens: int) -> "Child":
        """Raises EngineFailed where the engine does not load the model."""
        command = [contender.python, "-m", "bench.peers.child", contender.engine, str(model), contender.variant]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
        started = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603  # the interpreters the user named
            [*command, str(threads), str(tokens)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        child = cls(contender, process)
        try:
            child.facts = child._answer() | {"start_seconds": time.perf_counter() - started}
        except EngineFailed:
            child.close()
            raise
        return child

    def ask(self, do: str, **arguments: int | list[int]) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": do} | arguments) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, as its missing answer tells
        return self._answer()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise EngineFailed(f"its process ended with code {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EngineFailed(answer["error"])
        return answer


@dataclass(frozen=True)
class Ratio:
    """Ours over the best peer's; that peer has the highest median of all."""

    own: str
    peer: str
    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


@dataclass
class CaseResult:
    """Tokens a second of each engine in each round; what failed has its reason in `failed`."""

    case: str
    rates: dict[str, list[float]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def median(self, name: str) -> float | None:
        return statistics.median(self.rates[name]) if name in self.rates else None

    def ratio(self, own: str) -> Ratio | None:
        """None where either side has no figure."""
        peers = [name for name in self.rates if not name.startswith(OWN + " ")]
        if own not in self.rates or not peers:
            return None
        best = max(peers, key=lambda name: statistics.median(self.rates[name]))
        each = [mine / theirs for mine, theirs in zip(self.rates[own], self.rates[best], strict=True)]
        return Ratio(own, best, statistics.median(each), min(each), max(each))


@dataclass
class Comparison:
    """One model at one precision."""

    shape: str
    precision: str
    engines: dict[str, dict[str, Any]] = field(default_factory=dict)  # name -> facts, or its error
    cases: list[CaseResult] = field(default_factory=list)

    @property
    def own(self) -> list[str]:
        return [name for name in self.engines if name.startswith(OWN + " ")]


def contenders(
    peers: Sequence[str], precision: str, own: Sequence[str], pythons: Mapping[str, str], own_python: str
) -> list[Contender]:
    """Who takes part at a precision: ours first. `pythons` maps an engine, or "" for the rest, to its interpreter.

    Raises UsageError for an unknown engine or one without an interpreter.
    """
    found = [Contender(OWN, variant, own_python) for variant in own]
    for peer in peers:
        if peer not in VARIANTS:
            raise UsageError(f"no peer is called {peer!r}; choose among: {', '.join(VARIANTS)}")
        python = pythons.get(peer, pythons.get(""))
        if python is None:
            raise UsageError(f"no interpreter for {peer}; name one with --peer-python {peer}=PATH")
        found += [Contender(peer, variant, python) for variant in VARIANTS[peer].get(precision, ())]
    return found


def compare(
    models: Path,
    shape: str,
    precision: str,
    taking_part: Sequence[Contender],
    cases: Sequence["Case"],
    *,
    threads: int,
    rounds: int,
    steps: int,
    on_case: Callable[[CaseResult], None] | None = None,
) -> Comparison:
    """Load every contender, then run all cases. A contender that fails is left out, with its reason."""
    comparison = Comparison(shape, precision)
    room = WARMUP_STEPS + rounds * steps
    tokens = max(case.batch * (case.context + room + 1 if case.context else case.tokens) for case in cases)
    with ExitStack() as stack:
        children = []
        for contender in taking_part:
            try:
                child = Child.start(contender, models / shape, threads, tokens)
            except EngineFailed as error:
                comparison.engines[contender.name] = {"error": str(error)}
                continue
            stack.callback(child.close)
            comparison.engines[contender.name] = child.facts
            children.append(child)
        for case in cases:
            result = CaseResult(case.name)
            run = _decode(children, case, rounds, steps) if case.context else _prefill(children, case, rounds)
            for child, rate in run:
                _record(result, child, rate)
            comparison.cases.append(result)
            if on_case:
                on_case(result)
    return comparison


Turn = tuple[Child, float | EngineFailed | None]  # tokens a second; None where it is not measured


def _prefill(children: Sequence[Child], case: "Case", rounds: int) -> Iterator[Turn]:
    def turn(child: Child, number: int) -> float:
        return case.tokens / float(child.ask("prefill", tokens=case.tokens, seed=number)["seconds"])

    yield from _rounds(children, rounds, turn)


def _decode(children: Sequence[Child], case: "Case", rounds: int, steps: int) -> Iterator[Turn]:
    room = WARMUP_STEPS + rounds * steps
    started = []
    for child in children:
        try:
            child.ask("start", batch=case.batch, context=case.context, room=room)
            started.append(child)
        except EngineFailed as error:
            yield child, error

    def turn(child: Child, number: int) -> float:
        count = steps if number else WARMUP_STEPS
        return case.batch * count / float(child.ask("decode", steps=count)["seconds"])

    yield from _rounds(started, rounds, turn)
    for child in started:
        try:
            child.facts["peak_rss"] = child.ask("stop")["peak_rss"]
        except EngineFailed as error:
            yield child, error


def _rounds(children: Sequence[Child], rounds: int, turn: Callable[[Child, int], float]) -> Iterator[Turn]:
    """Round 0 warms up and is not measured. Who fails takes no further turn."""
    left = list(children)
    for number in range(rounds + 1):
        for child in list(left)[:: -1 if number % 2 else 1]:
            time.sleep(PAUSE)
            try:
                rate = turn(child, number)
            except EngineFailed as error:
                left.remove(child)
                yield child, error
            else:
                yield child, rate if number else None


def _record(result: CaseResult, child: Child, rate: float | EngineFailed | None) -> None:
    name = child.contender.name
    if isinstance(rate, EngineFailed):
        result.rates.pop(name, None)
        result.failed[name] = str(rate)
    elif rate is not None:
        result.rates.setdefault(name, []).append(rate)


def perplexity(contender: Contender, model: Path, windows: Sequence[list[int]], threads: int) -> float:
    """exp of the mean negative log probability of every token but the first of its window. Raises EngineFailed."""
    child = Child.start(contender, model, threads, max(map(len, windows)))
    try:
        total = sum(float(child.ask("score", tokens=window)["logprob"]) for window in windows)
    finally:
        child.close()
    return math.exp(-total / sum(len(window) - 1 for window in windows))


def as_table(comparison: Comparison) -> str:
    """Median tokens a second of every engine in every case, then the ratios, then what failed."""
    cases = comparison.cases
    head = (f"{comparison.shape} {comparison.precision}", *(case.case for case in cases), "start s", "MB", "peak MB")
    rows: list[tuple[object, ...]] = []
    for name, facts in comparison.engines.items():
        sizes = [facts[key] / 1e6 if key in facts else None for key in ("rss", "peak_rss")]
        rows.append((name, *(case.median(name) for case in cases), facts.get("start_seconds"), *sizes))
    for own in comparison.own:
        ratios = [case.ratio(own) for case in cases]
        if any(ratios):
            rows.append((f"{own} / best peer", *(str(ratio) if ratio else None for ratio in ratios), "", "", ""))
    lines = [table(head, rows)]
    for name, facts in comparison.engines.items():
        if "error" in facts:
            lines.append(f"{name}: {facts['error']}")
    lines += [f"{name}, {case.case}: {reason}" for case in cases for name, reason in case.failed.items()]
    return "\n".join(lines)


def as_json(comparison: Comparison) -> dict[str, Any]:
    data = asdict(comparison)
    for case, found in zip(comparison.cases, data["cases"], strict=True):
        found["ratios"] = [asdict(ratio) for own in comparison.own if (ratio := case.ratio(own))]
    return data


def as_markdown(comparisons: Sequence[Mapping[str, Any]], own: str) -> str:
    """What `as_json` made, as a table of ratios for each shape: the median, its range, and which peer was the best."""
    blocks = []
    for shape in dict.fromkeys(each["shape"] for each in comparisons):
        chosen = [each for each in comparisons if each["shape"] == shape]
        names = list(dict.fromkeys(case["case"] for each in chosen for case in each["cases"]))
        lines = [f"| {shape} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for each in chosen:
            ratios = {
                case["case"]: f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f}), {ratio['peer']}"
                for case in each["cases"]
                for ratio in case["ratios"]
                if ratio["own"].startswith(f"{OWN} {own}")
            }
            lines.append(f"| {each['precision']} | {' | '.join(ratios.get(name, '-') for name in names)} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)

"""Comparing two results for a gate: `tgi bench compare OLD NEW --gate gate.toml`.

    min_runs = 3                    # of each side, where a metric does not say otherwise

    [[metric]]
    name = "mean_ttft_ms"           # a key of summary.json
    direction = "lower"             # which way is better
    max_regression = 0.05           # 5 %; "5%" may be written too

Exit codes: 0 nothing got worse, 1 a regression, 2 an improvement that needs a new baseline, 3 inconclusive or invalid.
With several runs on each side a regression is a change for the worse by more than is allowed that chance does not
explain. With one run on a side nothing is known of chance, and nothing is proven: without a gate that is inconclusive,
a gate decides by its limits alone.
"""

import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from bench.report.manifest import Manifest
from bench.report.rundir import SUMMARY, load_manifest
from bench.stats.paired import ALPHA, Change, Judgement, Samples
from bench.stats.unpaired import judge_groups
from bench.types import BenchError, TokenSource, UsageError, Verdict

OK, REGRESSION, IMPROVEMENT, UNDECIDED = 0, 1, 2, 3


class Finding(StrEnum):
    OK = "ok"
    REGRESSION = "regression"
    IMPROVEMENT = "improvement"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Rule:
    """How much worse one metric may get. `max_regression` is a share of the old value."""

    metric: str
    higher_is_better: bool
    max_regression: float
    min_runs: int = 1


@dataclass(frozen=True)
class Gate:
    rules: tuple[Rule, ...]

    @classmethod
    def load(cls, path: Path) -> "Gate":
        """Raises UsageError for a file that cannot be read or has a mistake."""
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} is not TOML: {error}") from error
        try:
            return cls.parse(document)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "Gate":
        """Raises UsageError."""
        _only(document, {"min_runs", "metric"}, "a gate")
        tables = document.get("metric")
        if not isinstance(tables, list) or not tables:
            raise UsageError("a gate needs at least one [[metric]]")
        return cls(tuple(_rule(table, document.get("min_runs", 1)) for table in tables))


DEFAULT_GATE = Gate(
    (
        Rule("output_throughput", True, 0.05, min_runs=2),
        Rule("mean_ttft_ms", False, 0.05, min_runs=2),
        Rule("mean_tpot_ms", False, 0.05, min_runs=2),
        Rule("mean_e2el_ms", False, 0.05, min_runs=2),
    )
)


@dataclass(frozen=True)
class Row:
    """What a rule found. `judgement` is None where there is nothing to compare."""

    rule: Rule
    old: tuple[float, ...]  # a value for each run
    new: tuple[float, ...]
    finding: Finding
    reason: str
    judgement: Judgement | None = None


@dataclass(frozen=True)
class Comparison:
    rows: tuple[Row, ...]
    problems: tuple[str, ...]  # why nothing can be said at all

    @property
    def exit_code(self) -> int:
        findings = {row.finding for row in self.rows}
        if self.problems:
            return UNDECIDED
        if Finding.REGRESSION in findings:
            return REGRESSION
        if Finding.INCONCLUSIVE in findings:
            return UNDECIDED
        return IMPROVEMENT if Finding.IMPROVEMENT in findings else OK

    @property
    def judgements(self) -> dict[str, Judgement]:
        return {row.rule.metric: row.judgement for row in self.rows if row.judgement is not None}

    @property
    def verdict(self) -> str:
        """In a line."""
        if self.problems:
            return "not comparable: " + "; ".join(self.problems)
        parts = [f"{row.rule.metric}: {row.finding.value} ({row.reason})" for row in self.rows]
        return "; ".join(parts)


@dataclass(frozen=True)
class Side:
    """One run: where it lies, what it was, and its summary."""

    path: Path
    manifest: Manifest
    summary: dict[str, Any]


def compare(old: Path, new: Path, gate: Gate = DEFAULT_GATE, *, allow_mismatch: bool = False) -> Comparison:
    """Compare two run directories, each of a run or a series. Raises UsageError where there is none.

    Runs of different machines, servers, loads or data are refused, unless `allow_mismatch`: what differs is named.
    """
    before, after = list(_sides(old)), list(_sides(new))
    problems = []
    if not allow_mismatch:
        problems = [*_mixed(old, before), *_mixed(new, after)] or list(_mismatches(before, after))
    problems += [
        f"{side.path} is INVALID" for side in (*before, *after) if side.summary.get("verdict") == Verdict.INVALID
    ]
    if problems:
        return Comparison((), tuple(dict.fromkeys(problems)))
    return Comparison(_rows(before, after, gate), ())


def _sides(path: Path) -> Iterator[Side]:
    manifest = load_manifest(path)
    if manifest.kind == "run":
        yield Side(path, manifest, _summary(path / SUMMARY))
    for member in manifest.members:
        yield from _sides(path / member)


def _summary(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise BenchError(f"cannot read {path}: {error}") from error


def _mixed(path: Path, sides: Sequence[Side]) -> Iterator[str]:
    """A sweep has no one figure that another could be held against."""
    loads = {msgspec.json.encode(side.manifest.load, order="sorted") for side in sides}
    if len(loads) > 1:
        yield f"{path} holds runs of {len(loads)} loads: compare them one by one, such as {sides[0].path}"


def _mismatches(before: Sequence[Side], after: Sequence[Side]) -> Iterator[str]:
    """What must be the same for numbers to be compared, where both sides say what it is."""
    first = _identity(before[0])
    for side in (*before[1:], *after):
        for name, value in _identity(side).items():
            if first[name] is not None and value is not None and value != first[name]:
                yield f"{name} differs: {_difference(first[name], value)}"


def _difference(old: Any, new: Any) -> str:
    """Two values that differ; of tables only the parts that do."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return f"{old} and {new}"
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return ", ".join(f"{name} {old.get(name)} and {new.get(name)}" for name in names)


def _identity(side: Side) -> dict[str, Any]:
    manifest = side.manifest
    info = manifest.server.get("info") or {}
    source = side.summary.get("token_source")
    return {
        "definitions": manifest.definitions or None,
        "cpu": manifest.machine.cpu,
        "cores": manifest.machine.cores or None,
        "device": info.get("model_device_type") if isinstance(info, dict) else None,
        "model": manifest.server.get("model"),
        "api": manifest.server.get("api"),
        "load": manifest.load or None,
        "workload": {key: value for key, value in manifest.workload.items() if key != "seed"} or None,
        "dataset": manifest.dataset_sha256,
        "tokens": None if source is None else "one per event" if source == TokenSource.EVENTS else "counted",
    }


def _rows(before: Sequence[Side], after: Sequence[Side], gate: Gate) -> tuple[Row, ...]:
    columns = {rule: (_column(before, rule.metric), _column(after, rule.metric)) for rule in gate.rules}
    positive = {
        rule.metric: Samples(old, new, rule.higher_is_better)
        for rule, (old, new) in columns.items()
        if old and new and min(*old, *new) > 0
    }
    judgements = judge_groups(positive) if positive else {}
    rows = []
    for rule, (old, new) in columns.items():
        judgement = judgements.get(rule.metric)
        missing = _too_little(rule, before, after, old, new)
        if missing:
            said = "" if judgement is None else f"{judgement.change:+.1%}, "
            finding, reason = Finding.INCONCLUSIVE, said + missing
        elif judgement is None:
            finding, reason = _from_zero(rule, old, new)
        else:
            finding, reason = _find(rule, judgement)
        rows.append(Row(rule, old, new, finding, reason, judgement))
    return tuple(rows)


def _column(sides: Sequence[Side], metric: str) -> tuple[float, ...]:
    values = (side.summary.get(metric) for side in sides)
    return tuple(float(value) for value in values if isinstance(value, int | float))


def _too_little(
    rule: Rule, before: Sequence[Side], after: Sequence[Side], old: Sequence[float], new: Sequence[float]
) -> str | None:
    """Why nothing can be said of this metric, if so."""
    if not old or not new:
        return "no run has it" if not old and not new else f"the {'new' if old else 'old'} runs do not have it"
    if min(len(old), len(new)) == 1 < rule.min_runs:
        return f"cannot tell with one run whether that is chance: {rule.min_runs} of each side are needed (--runs)"
    if min(len(old), len(new)) < rule.min_runs:
        return f"{rule.min_runs} runs of each side are needed, there are {len(old)} and {len(new)}"
    for side in (*before, *after):
        if side.summary.get(f"{rule.metric}_reliable") is False:
            needs = side.summary.get(f"{rule.metric}_needs")
            return f"too few samples in {side.path}" + (f", {needs} requests are needed" if needs else "")
    return None


def _from_zero(rule: Rule, old: Sequence[float], new: Sequence[float]) -> tuple[Finding, str]:
    """Counts such as failures may be 0, which has no ratio: means are compared."""
    a, b = sum(old) / len(old), sum(new) / len(new)
    said = f"{a:g} and {b:g}"
    worse = (a - b if rule.higher_is_better else b - a) - rule.max_regression * abs(a)
    if worse > 0:
        return Finding.REGRESSION, said
    better = b - a if rule.higher_is_better else a - b
    return (Finding.IMPROVEMENT if better > rule.max_regression * abs(a) else Finding.OK), said


def _find(rule: Rule, judgement: Judgement) -> tuple[Finding, str]:
    sign = -1 if rule.higher_is_better else 1
    worse = sign * math.log1p(judgement.change)
    allowed = math.log1p(rule.max_regression)
    said = f"{judgement.change:+.1%}"
    if not math.isfinite(judgement.high):
        within = abs(worse) <= allowed
        said += f", {'within' if within else 'beyond'} the gate's {100 * rule.max_regression:g} %"
        said += "; cannot tell with one run whether that is chance"
        if within:
            return Finding.OK, said
        return (Finding.REGRESSION if worse > 0 else Finding.IMPROVEMENT), said
    said += f", 95 % interval {judgement.low:+.1%} to {judgement.high:+.1%}"
    edge = judgement.low if rule.higher_is_better else judgement.high
    certain = judgement.p_adjusted <= ALPHA
    if certain and worse > allowed:
        return Finding.REGRESSION, said
    if certain and worse < -allowed:
        return Finding.IMPROVEMENT, said
    if sign * math.log1p(edge) <= allowed:
        return Finding.OK, said
    more = f", about {judgement.more_pairs} more runs" if judgement.verdict is Change.INCONCLUSIVE else ""
    return Finding.INCONCLUSIVE, said + more


def _rule(table: Any, min_runs: Any) -> Rule:
    if not isinstance(table, dict) or not isinstance(table.get("name"), str):
        raise UsageError("every [[metric]] needs a name, which is a key of summary.json")
    name = table["name"]
    _only(table, {"name", "direction", "max_regression", "min_runs"}, name)
    direction = table.get("direction", "higher" if "throughput" in name or "goodput" in name else "lower")
    if direction not in ("lower", "higher"):
        raise UsageError(f"{name}: direction is {direction!r}; it says which way is better: lower or higher")
    runs = table.get("min_runs", min_runs)
    if not isinstance(runs, int) or isinstance(runs, bool) or runs < 1:
        raise UsageError(f"{name}: min_runs is {runs!r}; it must be a whole number, 1 or more")
    return Rule(name, direction == "higher", _share(name, table.get("max_regression", 0.05)), runs)


def _share(name: str, value: Any) -> float:
    """A share of 1, or a percentage as text."""
    try:
        share = float(value.removesuffix("%")) / 100 if isinstance(value, str) and value.endswith("%") else float(value)
    except (TypeError, ValueError):
        share = math.nan
    if not 0 <= share < 1:
        raise UsageError(f'{name}: max_regression is {value!r}; write a share such as 0.05, or "5%"')
    return share


def _only(table: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise UsageError(f"{where} has no {', '.join(unknown)}; it knows {', '.join(sorted(known))}")

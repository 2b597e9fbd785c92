"""`report.md`: the figures as tables that fit into a pull request."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.metrics import DEFINITIONS
from bench.report.figures import (
    STATISTICS,
    change,
    headline,
    interval,
    latency_rows,
    load_label,
    metric_name,
    number,
    outcome,
)
from bench.report.loads import POINT_COLUMNS, mean, point_figure, points, token_words, worst_verdict
from bench.report.manifest import Manifest
from bench.report.rundir import RunDir
from bench.stats.paired import Judgement


def run_report(run: RunDir) -> str:
    """The report of one run."""
    figures = [[f"**{one.name}**", f"{one.value} {one.unit}".strip(), one.note] for one in headline(run.summary)]
    latencies = [[name, *values] for name, _, values in latency_rows(run.summary)]
    return _document(
        _title(run.manifest),
        _verdict(run.summary),
        _table(["", "", ""], figures),
        _table(["milliseconds", *STATISTICS], latencies),
        _failures(run),
        _small_print(run.manifest),
    )


def series_report(manifest: Manifest, runs: Sequence[RunDir]) -> str:
    """The report of several runs, a row for each load."""
    rows = [
        [
            point.label,
            str(len(point.runs)),
            *(point_figure(point, key) for key, _ in POINT_COLUMNS),
            str(worst_verdict(point) or ""),
        ]
        for point in points(runs)
    ]
    head = ["load", "runs", *(name for _, name in POINT_COLUMNS), "verdict"]
    return _document(_title(manifest), _table(head, rows), token_words(runs), _small_print(manifest))


def comparison_report(
    title: str,
    old: Sequence[RunDir],
    new: Sequence[RunDir],
    judgements: Mapping[str, Judgement],
    verdict: str = "",
) -> str:
    """Old against new, a row for each metric. Arguments as those of html.comparison_page."""
    before, after = points(old), points(new)
    rows = [
        [
            metric_name(key),
            number(mean(before, key)),
            number(mean(after, key)),
            change(judgement.change),
            interval(judgement),
            outcome(judgement),
        ]
        for key, judgement in judgements.items()
    ]
    head = ["", "old", "new", "change", "95 % interval", "verdict"]
    words = token_words([*old, *new])
    return _document(f"# {_cell(title)}", verdict, _table(head, rows), words, _small_print(new[0].manifest))


def _document(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


def _cell(text: str) -> str:
    """Text that cannot end a cell, a line or a block."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    if not body:
        return ""
    rule = "|" + "|".join([":---", *["---:"] * (len(head) - 1)]) + "|"
    return "\n".join([f"| {' | '.join(map(_cell, head))} |", rule, *body])


def _title(manifest: Manifest) -> str:
    facts = [str(manifest.server.get(key) or "") for key in ("model", "url", "kind")]
    facts += [load_label(manifest.load)] if manifest.load and manifest.kind == "run" else []
    facts += [manifest.machine.cpu or "", manifest.created.replace("T", " ")]
    line = ", ".join(_cell(fact) for fact in facts if fact)
    return f"# {_cell(manifest.title or 'Benchmark')}\n\n{line}"


def _verdict(summary: Mapping[str, Any]) -> str:
    reasons = "".join(f"\n- {_cell(str(reason))}" for reason in summary.get("reasons") or [])
    return f"**{summary['verdict']}**{reasons}" if summary.get("verdict") else ""


def _failures(run: RunDir) -> str:
    counts: dict[str, list[str]] = {}
    for record in run.records:
        if record.error is not None and record.outcome.value != "ok":
            counts.setdefault(record.outcome.value, []).append(record.error)
    rows = [[kind, str(len(errors)), errors[0][:120]] for kind, errors in counts.items()]
    return _table(["failures", "", "the first"], rows)


def _small_print(manifest: Manifest) -> str:
    command = " ".join(manifest.argv).replace("`", "'")
    run = f"Run with `{_cell(command)}`.\n\n" if command else ""
    return f"{run}<details><summary>Definitions</summary>\n\n```text\n{DEFINITIONS.rstrip()}\n```\n\n</details>"

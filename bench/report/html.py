"""`report.html`: one file that needs no network, for one run, a series of runs, or old against new.

Words and tables are written here and can be read without JavaScript; the plots are drawn by static/*.js from the JSON
of bench.report.data. uPlot draws the lines; its licence stands in the page.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import msgspec

from bench.metrics import DEFINITIONS
from bench.report.data import run_view
from bench.report.figures import (
    STATISTICS,
    Figure,
    change,
    headline,
    interval,
    latency_rows,
    load_label,
    metric_name,
    number,
    outcome,
)
from bench.report.loads import (
    POINT_COLUMNS,
    Point,
    load_curves,
    load_of,
    mean,
    point_figure,
    points,
    token_words,
    worst_verdict,
)
from bench.report.manifest import Manifest
from bench.report.rundir import RunDir
from bench.stats.paired import Change, Judgement
from bench.types import Verdict

STATIC = Path(__file__).parent / "static"
STYLES = ("uPlot.min.css", "report.css")
SCRIPTS = ("uPlot.iife.min.js", "charts.js", "drawings.js", "page.js")
TONES = {Verdict.VALID: "good", Verdict.DEGRADED: "warn", Verdict.INVALID: "bad"}
CHANGE_TONES = {Change.BETTER: "good", Change.WORSE: "bad", Change.EQUIVALENT: "flat", Change.INCONCLUSIVE: "warn"}
SPAN = 0.25  # relative change at the edge of the comparison's axis, at least
LONG = 40  # values of a list that are shown
DETAILED = 24  # runs of a series that can be looked at one by one


def run_page(run: RunDir) -> str:
    """The report of one run."""
    content = [
        _header(run.manifest, [load_label(load_of(run)), *_facts(run.manifest)]),
        _verdict(run.summary),
        _cards(headline(run.summary)),
        _latency_table(run.summary),
        '<main id="plots"></main>',
        _definitions(),
        _manifest(run.manifest),
        _footer(run.manifest),
    ]
    data = {"kind": "run", "runs": [run_view(run)]}
    return page(run.manifest.title or "Benchmark", content, data)


def series_page(manifest: Manifest, runs: Sequence[RunDir]) -> str:
    """The report of a sweep, or of the same load several times."""
    found = points(runs)
    shown = _detailed(found)
    content = [
        _header(manifest, [f"{len(runs)} runs", f"{len(found)} loads", *_facts(manifest)]),
        _points_table(found),
        _paragraph(token_words(runs)),
        '<main id="plots"></main>',
        _definitions(),
        _manifest(manifest),
        _footer(manifest),
    ]
    data = {
        "kind": "series",
        "runs": [_named(run) for run in shown],
        "loads": load_curves({"": found}, manifest.slo),
        "firsts": [shown.index(point.runs[0]) for point in found if point.runs[0] in shown],
        "chosen": len(shown) // 2,
    }
    return page(manifest.title or "Benchmark", content, data)


def comparison_page(
    title: str,
    old: Sequence[RunDir],
    new: Sequence[RunDir],
    judgements: Mapping[str, Judgement],
    verdict: str = "",
) -> str:
    """Old against new. `judgements` are by key of the summary, such as `p99_ttft_ms`; `verdict` says it in a line."""
    before, after = points(old), points(new)
    shown = [*_detailed(before), *_detailed(after)]
    content = [
        _header(new[0].manifest, [f"{len(old)} old and {len(new)} new runs", *_facts(new[0].manifest)], title),
        _paragraph(verdict),
        _changes_table(before, after, judgements),
        _paragraph(token_words([*old, *new])),
        '<main id="plots"></main>',
        _definitions(),
        _manifest(old[0].manifest, "How the old was run"),
        _manifest(new[0].manifest, "How the new was run"),
        _footer(new[0].manifest),
    ]
    data = {
        "kind": "comparison",
        "runs": [_named(run, "old" if run in old else "new") for run in shown],
        "loads": load_curves({"old": before, "new": after}, new[0].manifest.slo),
        "pair": [shown.index(before[-1].runs[0]), shown.index(after[-1].runs[0])],
        "chosen": shown.index(after[-1].runs[0]),
    }
    return page(title, content, data)


def page(title: str, content: Iterable[str], data: Mapping[str, Any]) -> str:
    """One whole HTML file. In the data `<` is escaped, so that no text of a server can end the script."""
    encoded = msgspec.json.encode(data).decode().replace("<", "\\u003c")
    return Template(_static("page.html")).substitute(
        title=html.escape(title),
        licence=_static("uPlot.LICENSE").strip(),
        styles="\n".join(map(_static, STYLES)),
        content="\n".join(part for part in content if part),
        data=encoded,
        scripts="\n".join(f"<script>\n{_static(name)}</script>" for name in SCRIPTS),
    )


def _static(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def _named(run: RunDir, side: str = "") -> dict[str, Any]:
    view = run_view(run)
    return view | {"name": " ".join(part for part in (side, view["label"], run.path.name) if part)}


def _detailed(found: Sequence[Point]) -> list[RunDir]:
    """The runs whose plots go into the page: the first of every load, then others while there is room."""
    firsts = [point.runs[0] for point in found]
    others = [run for point in found for run in point.runs[1:]]
    kept = firsts + others[: max(0, DETAILED - len(firsts))]
    return [run for point in found for run in point.runs if any(run is one for one in kept)]


def _facts(manifest: Manifest) -> list[str]:
    machine = manifest.machine
    cores = f"{machine.cores} cores" if machine.cores else ""
    facts = [
        str(manifest.server.get("model") or ""),
        str(manifest.server.get("url") or ""),
        str(manifest.server.get("kind") or ""),
        ", ".join(part for part in (machine.cpu, cores) if part),
        manifest.created.replace("T", " "),
    ]
    return [fact for fact in facts if fact]


def _header(manifest: Manifest, facts: Sequence[str], title: str = "") -> str:
    words = "".join(f"<span>{html.escape(fact)}</span>" for fact in facts)
    return (
        f"<header><div><h1>{html.escape(title or manifest.title or 'Benchmark')}</h1>"
        f'<p class="subtitle">{words}</p></div><button id="theme" type="button">Dark</button></header>'
    )


def _pill(text: str, tone: str) -> str:
    return f'<span class="pill tone-{tone}">{html.escape(text)}</span>'


def _verdict(summary: Mapping[str, Any]) -> str:
    verdict = summary.get("verdict")
    if verdict is None:
        return ""
    reasons = "".join(f"<li>{html.escape(str(reason))}</li>" for reason in summary.get("reasons") or [])
    words = f"<ul>{reasons}</ul>" if reasons else "<span>The client kept up, and the figures can be trusted.</span>"
    return f'<div class="verdict">{_pill(str(verdict), TONES[Verdict(verdict)])}{words}</div>'


def _paragraph(words: str) -> str:
    return f'<p class="verdict">{html.escape(words)}</p>' if words else ""


def _cards(figures: Sequence[Figure]) -> str:
    return f'<div class="cards">{"".join(map(_card, figures))}</div>'


def _card(one: Figure) -> str:
    name, value, unit, note = map(html.escape, one)
    size = " long" if len(value) > 9 else ""
    return (
        f'<div class="card"><div class="name">{name}</div>'
        f'<div class="value{size}">{value}<span class="unit">{unit}</span></div><div class="note">{note}</div></div>'
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML already. The first of a row is its heading."""
    first = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(f"<tr><th>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{first}</tr></thead><tbody>{body}</tbody></table></div>'


def _latency_table(summary: Mapping[str, Any]) -> str:
    rows = [
        [f"{html.escape(name)}<small>{html.escape(meaning)}</small>", *map(html.escape, values)]
        for name, meaning, values in latency_rows(summary)
    ]
    return f"<h2>Latency in milliseconds</h2>{_table(['', *STATISTICS], rows)}" if rows else ""


def _points_table(found: Sequence[Point]) -> str:
    rows = []
    for point in found:
        worst = worst_verdict(point)
        cells = [html.escape(point_figure(point, key)) for key, _ in POINT_COLUMNS]
        rows.append(
            [html.escape(point.label), str(len(point.runs)), *cells, _pill(worst, TONES[worst]) if worst else ""]
        )
    return f"<h2>Loads</h2>{_table(['load', 'runs', *(name for _, name in POINT_COLUMNS), ''], rows)}"


def _changes_table(before: Sequence[Point], after: Sequence[Point], judgements: Mapping[str, Judgement]) -> str:
    bounds = [abs(edge) for j in judgements.values() for edge in (j.change, j.low, j.high) if abs(edge) < 1]
    span = max([SPAN, *bounds]) * 1.05
    rows = []
    for key, judgement in judgements.items():
        old, new = (mean(found, key) for found in (before, after))
        rows.append(
            [
                html.escape(metric_name(key)),
                number(old),
                number(new),
                change(judgement.change),
                interval(judgement),
                _bar(judgement, span),
                _pill(outcome(judgement), CHANGE_TONES[judgement.verdict]),
            ]
        )
    head = ["", "old", "new", "change", "95 % interval", f"-{span:.0%} to +{span:.0%}", ""]
    return f"<h2>What changed</h2>{_table(head, rows)}" if rows else ""


def _bar(judgement: Judgement, span: float) -> str:
    """The change and its interval on an axis from -span to +span."""

    def place(relative: float) -> float:
        return 50 + 50 * max(-1.0, min(1.0, relative / span))

    low, high = place(judgement.low), place(judgement.high)
    return (
        f'<div class="change tone-{CHANGE_TONES[judgement.verdict]}"><div class="axis"></div>'
        f'<div class="range" style="left:{low:.2f}%;width:{high - low:.2f}%"></div>'
        f'<div class="dot" style="left:{place(judgement.change):.2f}%"></div></div>'
    )


def _definitions() -> str:
    return f"<h2>Small print</h2><details><summary>Definitions</summary><pre>{html.escape(DEFINITIONS)}</pre></details>"


def _manifest(manifest: Manifest, title: str = "How it was run") -> str:
    fields = _shortened(msgspec.to_builtins(manifest))
    text = msgspec.json.format(msgspec.json.encode(fields), indent=2).decode()
    return f"<details><summary>{title}</summary><pre>{html.escape(text)}</pre></details>"


def _shortened(value: Any) -> Any:
    """Long lists, such as the times of a trace, by their length: manifest.json has them."""
    if isinstance(value, dict):
        return {name: _shortened(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return f"{len(value)} values" if len(value) > LONG else [_shortened(inner) for inner in value]
    return value


def _footer(manifest: Manifest) -> str:
    version = manifest.packages.get("tgi", "")
    hint = "Drag across a plot to look closer, double click to go back."
    return f"<footer>tgi bench {html.escape(version)}. {hint}</footer>"

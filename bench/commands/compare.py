"""`tgi bench compare OLD NEW`: whether something got worse, as an exit code."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bench.compare import Comparison


def compare(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="Run directory, or a series of runs.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The same, of what is to be judged.")],
    gate: Annotated[
        Path | None, typer.Option("--gate", metavar="FILE", help="TOML file: metrics, directions, largest regressions")
    ] = None,
    allow_mismatch: Annotated[
        bool, typer.Option("--allow-mismatch", help="Compare runs of different machines, loads or data all the same")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Write DIR/report.html and report.md")
    ] = None,
) -> None:
    """Compare two results by their numbers and the chance in them.

    Exit code: 0 nothing got worse, 1 a regression, 2 an improvement that needs a new baseline, 3 inconclusive or
    invalid.
    """
    from bench import compare as comparing
    from bench.types import BenchError, InvalidRun

    try:
        limits = comparing.Gate.load(gate) if gate else comparing.DEFAULT_GATE
        found = comparing.compare(old, new, limits, allow_mismatch=allow_mismatch)
    except BenchError as error:  # its own exit code could be read as a verdict
        raise InvalidRun(str(error)) from None
    print(_text(found))
    if output is not None and found.rows:
        _write(found, old, new, output)
    raise typer.Exit(found.exit_code)


def _text(found: "Comparison") -> str:
    from bench.tables import table

    if found.problems:
        return "\n".join(["not comparable:", *(f"  - {problem}" for problem in found.problems)])
    rows = [
        (
            row.rule.metric,
            row.finding.value,
            sum(row.old) / len(row.old) if row.old else None,
            sum(row.new) / len(row.new) if row.new else None,
            row.reason,
        )
        for row in found.rows
    ]
    return table(("metric", "finding", "old", "new", "change"), rows, left=2)


def _write(found: "Comparison", old: Path, new: Path, output: Path) -> None:
    from bench.report.html import comparison_page
    from bench.report.markdown import comparison_report
    from bench.report.rundir import HTML, MARKDOWN, load_runs, make_folder, write_atomically

    make_folder(output)
    title, before, after = f"{old.name} and {new.name}", load_runs(old), load_runs(new)
    page = comparison_page(title, before, after, found.judgements, found.verdict)
    report = comparison_report(title, before, after, found.judgements, found.verdict)
    write_atomically(output / HTML, page.encode())
    write_atomically(output / MARKDOWN, report.encode())
    typer.echo(f"{output / HTML}", err=True)

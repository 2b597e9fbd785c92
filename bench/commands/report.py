"""`tgi bench report DIR`: the reports of a run directory, made anew from what was measured."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    place: Annotated[Path, typer.Argument(metavar="DIR", help="Run directory, or a series of runs.")],
) -> None:
    """Write DIR/report.html and report.md anew, and print the figures."""
    from bench.commands.session import points_text, run_text
    from bench.report.rundir import HTML, RunDir, load_manifest, load_runs, write_series

    manifest = load_manifest(place)
    if manifest.kind == "run":
        measured = RunDir.load(place)
        measured.write()
        print(run_text(measured))
    else:
        runs = load_runs(place)
        write_series(place, manifest, runs)
        print(points_text(runs))
    typer.echo(f"\n{place / HTML}", err=True)

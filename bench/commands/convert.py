"""`tgi bench export` and `import`: the files of other load testers, from our runs and for comparison with them."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    place: Annotated[Path, typer.Argument(metavar="DIR", help="Run directory.")],
    tool: Annotated[str, typer.Option("--as", metavar="vllm|guidellm|aiperf|csv", help="Whose files to write")],
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="Where; unset: into DIR")] = None,
) -> None:
    """Write a run as another load tester would have, computed from the event log by its definitions."""
    from bench.formats import export as files_of
    from bench.report.rundir import RunDir, make_folder, write_atomically

    measured = RunDir.load(place)
    files = files_of(tool, measured.records, measured.summary)
    folder = output or place
    make_folder(folder)
    for name, content in files.items():
        write_atomically(folder / name, content)
        print(folder / name)


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Result of vLLM, guidellm or aiperf.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Run directory to write")],
) -> None:
    """Read another load tester's result into a run directory, for `compare`."""
    from bench.formats import Imported, read
    from bench.report.manifest import Manifest
    from bench.report.rundir import RunDir, write_series

    def directory(found: Imported, place: Path) -> RunDir:
        manifest = Manifest(title=found.title, server={"kind": found.tool, "notes": list(found.notes)})
        run = RunDir(path=place, manifest=manifest, records=found.records, summary=found.summary)
        run.write()
        return run

    results = read(file)
    for note in dict.fromkeys(note for found in results for note in found.notes):
        typer.echo(f"note: {note}", err=True)
    if len(results) == 1:
        directory(results[0], output)
    else:
        runs = [directory(found, output / f"run-{i:02}") for i, found in enumerate(results, 1)]
        write_series(output, Manifest(title=results[0].title), runs)
    print(output)

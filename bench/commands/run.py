"""`tgi bench [URL]`: a plain run, or several of the same load."""

from typing import Annotated

import typer

from bench.commands.options import Options

COMMANDS = (
    "sweep",
    "find",
    "tune",
    "ab",
    "compare",
    "report",
    "export",
    "import",
    "selftest",
    "mock",
    "offline",
    "micro",
)


def run(
    url: Annotated[
        str | None, typer.Argument(help="Server to measure; unset: that of port 3000, or our own, started for this.")
    ] = None,
    *,
    options: Options,
) -> None:
    """Measure a server under one load, and write DIR/summary.json, report.html and all that was seen."""
    from bench.commands import setup
    from bench.commands.session import Session, run_text, say, spread_text

    setup.check_url(url, COMMANDS)
    count = setup.runs(options, 1)
    scenario = setup.scenario(options)
    session = Session(options)
    with setup.server(options, url, most=scenario.load.concurrency or scenario.load.max_concurrency or 0) as subject:
        place = setup.output(options)
        say(options, subject.label)
        if count == 1:
            measured = session.measure(subject, scenario, place)
            runs, text = [measured], run_text(measured)
        else:
            runs = session.series(subject, [scenario], place, runs=count, what="Runs")
            text = spread_text(runs)
    session.finish(runs, place, text=text)

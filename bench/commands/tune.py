"""`tgi bench tune`: settings of a server, tried out by starting it with each, or changed while it runs."""

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands.options import Options

if TYPE_CHECKING:
    from bench.tuning import Search


def tune(
    *,
    knob: Annotated[
        list[str] | None, typer.Option("--knob", metavar="NAME=VALUES", help="Setting to vary: 16,32 or 512..4096x2")
    ] = None,
    serve: Annotated[
        str | None,
        typer.Option(
            "--serve",
            metavar="COMMAND",
            help="Starts the server; {port} and {NAME} are filled in, {config} is a TOML file of the knobs "
            "[default: tgi serve --port {port} --config {config}]",
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="Where it listens, if the command has no {port}")
    ] = None,
    live: Annotated[
        str | None, typer.Option("--live", metavar="PATH", help="POST the knobs as JSON to this route of --url instead")
    ] = None,
    search: Annotated[str, typer.Option("--search", metavar="halving|grid", help="What to measure")] = "halving",
    repeats: Annotated[int, typer.Option("--repeats", metavar="N", help="Runs of each of the last few")] = 3,
    objective: Annotated[
        str, typer.Option("--objective", metavar="KEY", help="Number of summary.json to make best")
    ] = "output_throughput",
    options: Options,
) -> None:
    """Find good settings of a server. Killed in the middle, the same command with the same --output goes on."""
    import sys

    from bench.commands import setup
    from bench.commands.session import INTERRUPTED, Session, say
    from bench.commands.trials import Trials
    from bench.tuning import Knob, Search, grid

    configurations = grid([Knob.parse(text) for text in knob or []])
    made = Search(len(configurations), search, repeats, objective)
    words = _words(serve, url, live, tuple(configurations[0]))
    scenario = setup.scenario(options)
    place = setup.output(options)
    session = Session(replace(options, quiet=True))
    trials = Trials(session, place, configurations, made, scenario, words, url, live)
    trials.resume()
    say(options, f"{_plan(made)}; {len(trials.done)} done" if trials.done else _plan(made))
    while (jobs := made.next_jobs(trials.done)) and not session.interrupted:
        say(options, f"{len(trials.done) + 1:4}  {trials.measure(jobs[0])}")
    if session.interrupted:
        say(options, "interrupted; the same command goes on from here")
        sys.exit(INTERRUPTED)
    print(trials.report())
    say(options, f"results in {place}")


def _plan(search: "Search") -> str:
    runs = sum(size * search.repeats_in(number) for number, size in enumerate(search.rounds()))
    return f"{search.count} configurations, {runs} runs"


def _words(serve: str | None, url: str | None, live: str | None, knobs: tuple[str, ...]) -> list[str]:
    """The serve command; empty for live knobs. Raises UsageError for a knob that would change nothing."""
    from bench.server.launch import own_command
    from bench.types import UsageError

    if live is not None:
        if url is None or serve is not None:
            raise UsageError("--live changes the knobs of a running server: give --url, and no --serve")
        return []
    words = own_command("--config", "{config}") if serve is None else shlex.split(serve)
    if any("{config}" in word for word in words):
        return words
    unused = [name for name in knobs if not any(f"{{{name}}}" in word for word in words)]
    if unused:
        raise UsageError(f"--knob {unused[0]} changes nothing: --serve has neither {{{unused[0]}}} nor {{config}}")
    return words

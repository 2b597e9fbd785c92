"""`tgi bench`: its commands, and how it ends.

`tgi bench URL --concurrency 64` is a plain run: `run` is the command where none is named.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from bench.commands.ab import ab
from bench.commands.compare import compare
from bench.commands.convert import export, import_
from bench.commands.find import find
from bench.commands.micro import micro
from bench.commands.mock import mock
from bench.commands.offline import offline
from bench.commands.options import CONTEXT, SectionedCommand, with_options
from bench.commands.report import report
from bench.commands.run import run
from bench.commands.selftest import selftest
from bench.commands.sweep import sweep
from bench.commands.tune import tune

DEFAULT = "run"
HELP = ("-h", "--help")
INTERRUPTED = 130  # what shells say of a program that ended by SIGINT


class BenchGroup(TyperGroup):
    """Runs `run` where no command is named, and says what went wrong in one line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in HELP):
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except typer.Exit:
            raise
        except Exception as error:
            from bench.types import BenchError

            if not isinstance(error, BenchError) or os.environ.get("TGI_DEBUG"):
                raise
            typer.echo(f"{typer.style('error:', fg='red', bold=True)} {error}", err=True)
            sys.exit(error.exit_code)


app = typer.Typer(
    name="bench",
    cls=BenchGroup,
    context_settings=CONTEXT,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    """Measure a language model server: TGI's API or OpenAI's, ours or another's.

    `tgi bench URL --concurrency 64` measures a server; without a URL, the one on port 3000, or else our own with the
    built-in model. `tgi bench run --help` shows the options of such a run.
    """


MEASURING: dict[Callable[..., None], str] = {  # with what their line in the list of commands says
    run: "Measure a server under one load.",
    sweep: "One load after the other.",
    find: "The largest load that meets --slo.",
    tune: "Good settings of a server.",
    ab: "Two servers in turns, and which is better.",
}
OTHERS: dict[Callable[..., None], str] = {
    compare: "Whether a result got worse, for a gate.",
    report: "Write the reports of a result anew.",
    export: "A run in another load tester's format.",
    import_: "Another load tester's result as a run.",
    selftest: "Measure the client itself.",
    mock: "A server that answers at known times.",
    offline: "The engine without HTTP.",
    micro: "Kernels against the machine's limits.",
}
for command, line in MEASURING.items():
    app.command(cls=SectionedCommand, hidden=command is run, short_help=line)(with_options(command))
for command, line in OTHERS.items():
    app.command(command.__name__.rstrip("_"), short_help=line)(command)

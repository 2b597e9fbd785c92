"""The `tgi` program: its commands, its version, and how it ends.

Commands import what they need when they run, so that `tgi --help` answers at once.
"""

import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from engine.errors import EngineError
from tgi_cli import ui
from tgi_cli.download import download
from tgi_cli.flags import SectionedCommand, with_flags
from tgi_cli.generate import generate
from tgi_cli.inspect import inspect
from tgi_cli.options import FLAGS
from tgi_cli.sampling import SAMPLING
from tgi_cli.serve import serve

# Rich help and tracebacks cost a tenth of a second, and their boxes hide what scripts look for.
PLAIN: dict[str, Any] = {"add_completion": False, "rich_markup_mode": None, "pretty_exceptions_enable": False}
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

app = typer.Typer(name="tgi", no_args_is_help=True, context_settings=CONTEXT, **PLAIN)
launch = typer.Typer(name="text-generation-launcher", **PLAIN)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"tgi {version('tgi')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """Serve, run and look at language models. Every command works offline with the built-in model."""


app.command("serve", cls=SectionedCommand, context_settings=CONTEXT)(with_flags(serve, FLAGS))
app.command("generate", cls=SectionedCommand, context_settings=CONTEXT)(with_flags(generate, SAMPLING))
app.command("download")(download)
app.command("download-weights", hidden=True)(download)
app.command("inspect")(inspect)
launch.command(cls=SectionedCommand, context_settings=CONTEXT)(with_flags(serve, FLAGS))


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script `tgi`; always ends by SystemExit."""
    _run(app, "tgi", arguments)


def launcher(arguments: Sequence[str] | None = None) -> None:
    """The console script `text-generation-launcher`: `tgi serve` under the name TGI users know."""
    _run(launch, "text-generation-launcher", arguments)


def _run(program: typer.Typer, name: str, arguments: Sequence[str] | None) -> None:
    """Run a command. What goes wrong is one line on standard error; TGI_DEBUG=1 shows where it happened."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a character that the terminal cannot show ends no answer
    try:
        program(args=arguments, prog_name=name)
    except EngineError as error:
        if os.environ.get("TGI_DEBUG"):
            raise
        ui.error(str(error))
        sys.exit(error.exit_code)
    except Exception as error:
        if os.environ.get("TGI_DEBUG"):
            raise
        ui.error(f"{type(error).__name__}: {error}. This is a bug in tgi; TGI_DEBUG=1 shows where")
        sys.exit(1)

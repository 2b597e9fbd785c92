"""The `tgi` program: its commands, its version, and how it ends.

Commands import what they need when they run, so that `tgi --help` answers at once.
"""

import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer

from engine.errors import EngineError
from tgi_cli import ui
from tgi_cli.bench import bench
from tgi_cli.download import download
from tgi_cli.flags import SectionedCommand, with_flags
from tgi_cli.generate import MODEL_FLAGS, generate
from tgi_cli.inspect import PRECISION_FLAGS, inspect
from tgi_cli.options import FLAGS
from tgi_cli.quantize import quantize
from tgi_cli.sampling import SAMPLING
from tgi_cli.serve import serve
from tgi_cli.version import Version

# Rich help and tracebacks cost a tenth of a second, and their boxes hide what scripts look for.
PLAIN: dict[str, Any] = {"add_completion": False, "rich_markup_mode": None, "pretty_exceptions_enable": False}
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

app = typer.Typer(name="tgi", no_args_is_help=True, context_settings=CONTEXT, **PLAIN)
launch = typer.Typer(name="text-generation-launcher", **PLAIN)

CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


@app.callback()
def _root(version: Version = False) -> None:
    """Serve, run and look at language models. Every command works offline with the built-in model."""


app.command("serve", cls=SectionedCommand, context_settings=CONTEXT)(with_flags(serve, FLAGS))
app.command("generate", cls=SectionedCommand, context_settings=CONTEXT)(with_flags(generate, (*MODEL_FLAGS, *SAMPLING)))
app.command("download")(download)
app.command("download-weights", hidden=True)(download)
app.command("inspect", cls=SectionedCommand, context_settings=CONTEXT)(with_flags(inspect, PRECISION_FLAGS))
app.command("quantize")(quantize)
app.add_typer(bench)
launch.command(cls=SectionedCommand, context_settings=CONTEXT)(with_flags(serve, FLAGS))


def main(arguments: Sequence[str] | None = None) -> None:
    """The program `tgi`; always ends by SystemExit. Its console script is in `entry`."""
    _run(app, "tgi", arguments)


def launcher(arguments: Sequence[str] | None = None) -> None:
    """The program `text-generation-launcher`: `tgi serve` under the name TGI users know."""
    _run(launch, "text-generation-launcher", arguments)


def _run(program: typer.Typer, name: str, arguments: Sequence[str] | None) -> None:
    """Run a command. What goes wrong is one line on standard error; TGI_DEBUG=1 shows where it happened."""
    sys.stdout = sys.stdout or ClosedOutput()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a character that the terminal cannot show ends no answer
    try:
        try:
            program(args=arguments, prog_name=name)
        finally:
            sys.stdout.flush()  # here, where a full disk is reported, and not after the end
    except EngineError as error:
        if os.environ.get("TGI_DEBUG"):
            raise
        ui.error(str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        if os.environ.get("TGI_DEBUG"):
            raise
        _end_without_output(error)
    except Exception as error:
        if os.environ.get("TGI_DEBUG"):
            raise
        _report_bug(error)
        sys.exit(1)


def _report_bug(error: Exception) -> None:
    ui.error(f"{type(error).__name__}: {error}. This is a bug in tgi; TGI_DEBUG=1 shows where")


def _end_without_output(error: OSError) -> NoReturn:
    """End after standard output failed. A reader that went away, as `head` does, is no news."""
    if error.filename is None and error.errno in CANNOT_WRITE:
        ui.error(f"cannot write the output: {error.strerror}")
    elif not isinstance(error, BrokenPipeError):
        _report_bug(error)
    sys.stdout = ClosedOutput()  # Python would try to write what is left, and say so
    sys.exit(1)


class ClosedOutput(io.TextIOBase):
    """Standard output where there is none (`>&-`): a command that does not write is not troubled by it."""

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, "standard output is closed")

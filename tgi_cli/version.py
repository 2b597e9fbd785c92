"""`--version`, of both programs."""

from typing import Annotated

import typer


def _show(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"tgi {version('tgi')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", "-V", callback=_show, is_eager=True, help="Show the version and end.")
]

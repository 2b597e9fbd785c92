"""`tgi bench`, mounted: its commands are loaded when one of them, or their list, is asked for."""

from functools import cached_property
from typing import Any

import typer
from typer.core import TyperGroup


class LazyBench(TyperGroup):
    """Stands for `bench.commands.app`, which is imported at the first use."""

    @cached_property
    def real(self) -> Any:
        from bench.commands.app import app

        return typer.main.get_command(app)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return self.real.make_context(info_name, args, parent=parent, **extra)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.real.list_commands(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return self.real.get_command(ctx, cmd_name)


bench = typer.Typer(name="bench", cls=LazyBench, help="Measure a server: load, sweeps, comparisons, tuning.")

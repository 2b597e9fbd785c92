"""What a flag is: its name, the values it takes, and how a text becomes one of them.

Flags are data, so that the command line, the environment, a TOML file and `/set` in a session read the same
values with the same messages. `with_flags` turns a table of them into the options of a Typer command.
"""

import inspect
import math
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from engine.errors import ConfigError

Value = str | int | float | bool | tuple[str, ...]

KIND_NAMES = {str: "TEXT", int: "INTEGER", float: "FLOAT", bool: ""}
TRUE = ("true", "1", "yes", "on")
FALSE = ("false", "0", "no", "off")


@dataclass(frozen=True)
class Flag:
    name: str  # as typed, without the dashes
    help: str
    _: KW_ONLY
    group: str = "Options"  # the heading it stands under in --help
    kind: type[str] | type[int] | type[float] | type[bool] = str
    many: bool = False  # may be repeated, and holds a comma-separated list elsewhere
    short: str | None = None
    aliases: tuple[str, ...] = ()
    env: str | None = None  # the environment variable that sets it too
    metavar: str | None = None
    default: str | None = None  # as --help shows it
    choices: tuple[str, ...] = ()
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    fills: str | None = None  # the field it sets, such as `scheduler.max_batch_size`
    no_effect: str | None = None  # why setting it changes nothing
    as_it_is: tuple[Value, ...] = ()  # values of such a flag that ask for what is the case anyway
    unavailable: str | None = None  # why setting it is refused
    negative: bool = False  # a switch that also comes as --no-NAME
    secret: bool = False

    @property
    def key(self) -> str:
        """The name in Python and in TOML files."""
        return self.name.replace("-", "_")

    @property
    def allowed(self) -> str:
        """The values it takes, in words."""
        if self.choices:
            return "one of: " + ", ".join(self.choices)
        if self.kind is bool:
            return "true or false"
        words = {str: "a text", int: "a whole number", float: "a number"}[self.kind]
        limits = [(self.at_least, "at least"), (self.above, "above"), (self.at_most, "at most")]
        bounds = " and ".join(f"{word} {limit}" for limit, word in limits if limit is not None)
        return f"{words} of {bounds}" if bounds.startswith("at") else f"{words} {bounds}".rstrip()

    def parse(self, value: object, source: str) -> Value:
        """Read a value as typed, or as TOML gives it. Raises ConfigError that names `source`."""
        if self.many:
            items = value.split(",") if isinstance(value, str) else value
            if not isinstance(items, list | tuple):
                raise self._refuse(value, source)
            return tuple(str(self._parse_one(item, source)) for item in items if item != "")
        return self._parse_one(value, source)

    def _parse_one(self, value: object, source: str) -> str | int | float | bool:
        read = self._read(value)
        if read is None or not self._within(read):
            raise self._refuse(value, source)
        return read

    def _read(self, value: object) -> str | int | float | bool | None:
        """The value in this flag's type; None where it is not one of them."""
        if isinstance(value, str | int | float | bool) and type(value) is self.kind:
            return value
        if self.kind is bool and isinstance(value, str):
            text = value.strip().lower()
            return True if text in TRUE else False if text in FALSE else None
        try:
            if self.kind is int and isinstance(value, str):
                return int(value)
            if self.kind is float and isinstance(value, str | int) and not isinstance(value, bool):
                return float(value)
        except (ValueError, OverflowError):
            pass
        return None

    def _within(self, value: str | int | float | bool) -> bool:
        if self.choices:
            return value in self.choices
        if isinstance(value, str | bool):
            return not (isinstance(value, str) and "\0" in value)
        return (
            (isinstance(value, int) or math.isfinite(value))
            and (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
            and (self.above is None or value > self.above)
        )

    def _refuse(self, value: object, source: str) -> ConfigError:
        shown = "the value given" if self.secret else textwrap.shorten(_quoted(value), 80, placeholder="...")
        return ConfigError(f"{source}: {shown} must be {self.allowed}")

    def option(self) -> Any:
        """The Typer option for this flag. It leaves parsing to `parse`: None where the flag was not given."""
        names = [f"--{name}" for name in (self.name, *self.aliases)] + ([f"-{self.short}"] if self.short else [])
        if self.negative:
            names[0] += f"/--no-{self.name}"
        notes = [f"env {self.env}"] if self.env else []
        notes += [f"default {self.default}"] if self.default else []
        return typer.Option(
            *names,
            help=self.help + (f" [{'; '.join(notes)}]" if notes else ""),
            metavar=self.metavar or ("|".join(self.choices) if self.choices else KIND_NAMES[self.kind]) or None,
            rich_help_panel=self.group,
            show_default=False,
        )

    @property
    def annotation(self) -> object:
        if self.kind is bool:
            return bool | None
        return list[str] | None if self.many else str | None


def as_written(value: object) -> str:
    """A value as a user writes it: true for True, a,b for a list."""
    if isinstance(value, tuple):
        return ",".join(as_written(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _quoted(value: object) -> str:
    return as_written(value) if isinstance(value, bool) else repr(value)


def with_flags(command: Callable[..., None], flags: Iterable[Flag]) -> Callable[..., None]:
    """Give a command one option for each flag in place of its `**given` parameter."""
    signature = inspect.signature(command)
    own = [item for item in signature.parameters.values() if item.kind is not inspect.Parameter.VAR_KEYWORD]
    extra = [
        inspect.Parameter(
            flag.key,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[flag.annotation, flag.option()],
        )
        for flag in flags
    ]

    def run(**given: object) -> None:
        command(**given)

    run.__doc__ = command.__doc__
    run.__signature__ = signature.replace(parameters=own + extra)  # type: ignore[attr-defined]  # read by Typer
    return run


class SectionedCommand(TyperCommand):
    """A command whose --help lists its options under headings, in plain text."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                heading = getattr(param, "rich_help_panel", None)
                heading = heading or ("Arguments" if param.param_type_name == "argument" else "Options")
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)

"""The options that the measuring commands share, and where their values come from.

    flag > --config file > --preset > default

A file holds the long names with underscores: `concurrency = 16`, `max_concurrency = 64`, `in = "lognormal:512,0.6"`.
Presets are such files in configs/bench.
"""

import inspect
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand

TARGET, LOAD, WORK, CHECKS, CLIENT, OUTPUT = "Server", "Load", "Requests", "Checks", "Client", "Output"
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@dataclass(frozen=True)
class Option:
    names: tuple[str, ...]
    help: str
    group: str
    metavar: str | None = None
    env: str | None = None

    @property
    def key(self) -> str:
        """The name in a file."""
        return self.names[0].partition("/")[0].lstrip("-").replace("-", "_")


def option(default: Any, group: str, *names: str, help: str, metavar: str | None = None, env: str | None = None) -> Any:
    return field(default=default, metadata={"option": Option(names, help, group, metavar, env)})


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured, and how. None stands for: decided by the command, the server or the machine."""

    api: str = option("auto", TARGET, "--api", metavar="auto|openai|chat|tgi", help="Dialect to speak")
    model: str | None = option(
        None, TARGET, "--model", metavar="NAME", help="Model to ask for; unset: the server's own"
    )
    key: str | None = option(
        None, TARGET, "--key", "--api-key", metavar="KEY", env="TGI_BENCH_KEY", help="Key to bring with every request"
    )
    concurrency: str | None = option(
        None, LOAD, "--concurrency", "-c", metavar="N", help="Requests open at once: the next starts when one ends"
    )
    rate: str | None = option(
        None, LOAD, "--rate", "-r", metavar="R", help="Requests started a second, whether others have ended or not"
    )
    arrival: str = option(
        "poisson", LOAD, "--arrival", metavar="poisson|constant|gamma:B", help="How the starts of --rate are spaced"
    )
    ramp: str | None = option(
        None, LOAD, "--ramp", metavar="R:S", help="Rise from R requests a second to --rate over S seconds"
    )
    replay: str | None = option(
        None, LOAD, "--replay", metavar="FILE[xS]", help="Start requests at the times of a trace, S times as fast"
    )
    max_concurrency: int | None = option(
        None, LOAD, "--max-concurrency", metavar="N", help="With --rate: most requests open at once"
    )
    requests: int | None = option(
        None, LOAD, "--requests", "-n", metavar="N", help="Measured requests; warm-up is extra"
    )
    duration: float | None = option(
        None, LOAD, "--duration", "-d", metavar="SECONDS", help="Length of the measured run"
    )
    warmup: int | None = option(
        None, LOAD, "--warmup", metavar="N", help="Requests before the measured ones [default: one for each place]"
    )
    in_tokens: str = option(
        "128", WORK, "--in", metavar="N|DIST", help="Prompt tokens: a number, lognormal:MEAN,SIGMA or uniform:A,B"
    )
    out_tokens: str = option("64", WORK, "--out", metavar="N|DIST", help="Answer tokens, likewise")
    data: str | None = option(
        None, WORK, "--data", metavar="FILE", help="Prompts of a ShareGPT or JSONL file in place of synthetic ones"
    )
    prefix: str | None = option(
        None, WORK, "--prefix", metavar="SPEC", help="Shared beginnings: groups=16,len=2k,zipf=1.1"
    )
    turns: int = option(1, WORK, "--turns", metavar="N", help="Turns of a conversation")
    think: float = option(0.0, WORK, "--think", metavar="SECONDS", help="Pause between the turns")
    token_ids: bool = option(False, WORK, "--token-ids", help="Send prompts as token ids")
    tokenizer: str | None = option(
        None, WORK, "--tokenizer", metavar="PATH", help="tokenizer.json to count with where the server does not"
    )
    seed: int | None = option(None, WORK, "--seed", metavar="N", help="Seed of prompts and arrivals; unset: drawn anew")
    temperature: float = option(0.0, WORK, "--temperature", metavar="T", help="Sampling temperature; 0 is greedy")
    ignore_eos: bool | None = option(
        None, WORK, "--ignore-eos/--stop-at-eos", help="Make every answer as long as asked [default: where offered]"
    )
    slo: str | None = option(
        None, CHECKS, "--slo", metavar="SPEC", help="What the run must meet: ttft_p99<500ms,tpot_p95<50ms"
    )
    goodput: str | None = option(
        None, CHECKS, "--goodput", metavar="SPEC", help="What a request must meet to count: ttft:500,tpot:50 (ms)"
    )
    workers: int | None = option(None, CLIENT, "--workers", metavar="N", help="Client processes [default: as needed]")
    timeout: float = option(600.0, CLIENT, "--timeout", metavar="SECONDS", help="Longest time for one request")
    scrape: bool = option(True, CLIENT, "--scrape/--no-scrape", help="Read the server's /metrics meanwhile")
    runs: int | None = option(
        None, OUTPUT, "--runs", metavar="N", help="Runs of each load, with fresh seeds [default: 1; pairs of ab: 5]"
    )
    output: str | None = option(
        None, OUTPUT, "--output", "-o", metavar="DIR", help="Where the results go [default: bench-results/TIME]"
    )
    json: bool = option(False, OUTPUT, "--json", help="Print summary.json on standard output")
    quiet: bool = option(False, OUTPUT, "--quiet", "-q", help="Show no progress")


OPTIONS: dict[str, Option] = {item.name: item.metadata["option"] for item in fields(Options)}
BY_KEY = {each.key: name for name, each in OPTIONS.items()}
KINDS: dict[str, type] = {
    name: next((kind for kind in get_args(hint) if kind is not type(None)), hint)
    for name, hint in get_type_hints(Options).items()
}


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command every shared option, and hand it an `Options` as `options`."""
    signature = inspect.signature(command)
    own = [item for name, item in signature.parameters.items() if name != "options"]
    shared = [_parameter(name, each) for name, each in OPTIONS.items()]
    shared += [_file_parameter("config", "FILE", "TOML file of these options"), _preset_parameter()]

    def run(**given: Any) -> None:
        typed = {name: given.pop(name) for name in (*OPTIONS, "config", "preset")}
        command(**given, options=gather(typed))

    run.__doc__ = command.__doc__
    run.__name__ = command.__name__
    positional = [item for item in own if item.kind is not inspect.Parameter.KEYWORD_ONLY]
    keyword = [item for item in own if item.kind is inspect.Parameter.KEYWORD_ONLY]
    run.__signature__ = signature.replace(parameters=[*positional, *keyword, *shared])  # type: ignore[attr-defined]  # read by Typer
    return run


def _parameter(name: str, each: Option) -> inspect.Parameter:
    default = next(item.default for item in fields(Options) if item.name == name)
    shown = "" if default in (None, False, True) else f" [default: {default}]"
    made = typer.Option(
        *each.names,
        help=each.help + shown,
        metavar=each.metavar,
        envvar=each.env,
        show_default=False,
        show_envvar=True,
        rich_help_panel=each.group,
    )
    annotation = Annotated[KINDS[name] | None, made]  # type: ignore[valid-type]  # made at run time, read by Typer
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _file_parameter(name: str, metavar: str, help: str) -> inspect.Parameter:
    made = typer.Option(f"--{name}", metavar=metavar, help=help, show_default=False, rich_help_panel=OUTPUT)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, made])


def _preset_parameter() -> inspect.Parameter:
    return _file_parameter(
        "preset", "NAME", "Options that belong together, from configs/bench: " + ", ".join(presets())
    )


def gather(typed: Mapping[str, Any]) -> Options:
    """The options as typed, completed by the files they name. Raises UsageError."""
    values = {name: typed[name] for name in OPTIONS if typed.get(name) is not None}
    for source, find in (("config", Path), ("preset", preset_path)):
        if typed.get(source):
            for name, value in read_file(find(str(typed[source])).expanduser()).items():
                values.setdefault(name, value)
    return Options(**values)


def folder() -> Path:
    """Where the presets lie: beside this package when installed, in configs/ of a checkout."""
    here = Path(__file__).parents[1]
    packaged = here / "presets" / "bench"
    return packaged if packaged.is_dir() else here.parent / "configs" / "bench"


def presets() -> list[str]:
    return sorted(path.stem for path in folder().glob("*.toml"))


def preset_path(name: str) -> Path:
    """The file of a preset. Raises UsageError for an unknown one."""
    if name not in presets():
        from bench.types import UsageError

        raise UsageError(f"--preset {name}: there is no such preset; choose one of: {', '.join(presets())}")
    return folder() / f"{name}.toml"


def read_file(path: Path) -> dict[str, Any]:
    """The options of a TOML file by field name. Raises UsageError that names the file and the key."""
    from bench.types import UsageError

    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"cannot read {path}: {reason}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    values = {}
    for key, value in table.items():
        name = BY_KEY.get(key)
        if name is None:
            close = get_close_matches(key, BY_KEY, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else "; keys are the long option names with underscores"
            raise UsageError(f"{path}: unknown key '{key}'{hint}")
        values[name] = _typed(value, KINDS[name], f"{path}: {key}")
    return values


def _typed(value: object, kind: type, where: str) -> object:
    if kind is bool and isinstance(value, bool):
        return value
    if not isinstance(value, bool):
        if kind is int and isinstance(value, int):
            return value
        if kind is float and isinstance(value, int | float):
            return float(value)
        if kind is str and isinstance(value, str | int | float):
            return str(value)
    from bench.types import UsageError

    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind]
    raise UsageError(f"{where}: {value!r} is not {words}")


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

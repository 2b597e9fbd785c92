"""`tgi bench mock`: a server that answers at known times, to try clients on."""

from pathlib import Path
from typing import Annotated, Any

import typer


def mock(
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", metavar="PORT", help="Port to listen on; 0: a free one")] = 8000,
    ttft: Annotated[float | None, typer.Option("--ttft", metavar="MS", help="To the first token")] = None,
    itl: Annotated[float | None, typer.Option("--itl", metavar="MS", help="Between events")] = None,
    tokens: Annotated[
        str | None, typer.Option("--tokens-per-event", metavar="N,N", help="Tokens of each event, in turn")
    ] = None,
    slots: Annotated[int | None, typer.Option("--slots", metavar="N", help="Requests served at once")] = None,
    queue: Annotated[int | None, typer.Option("--queue", metavar="N", help="Requests that may wait")] = None,
    stall: Annotated[
        list[str] | None, typer.Option("--stall", metavar="AT:FOR", help="Freeze at a second, for so many")
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option("--fault", metavar="KIND[:VALUE][@RATE]", help="Fail: status:503@0.1, cut:5, ..."),
    ] = None,
    kind: Annotated[str | None, typer.Option("--kind", metavar="NAME", help="Server to look like")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="Name of the model")] = None,
    key: Annotated[str | None, typer.Option("--key", metavar="KEY", help="Key that requests must bring")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="TOML file of these and finer settings")
    ] = None,
) -> None:
    """Serve made-up answers whose times are known, over TGI's API and OpenAI's; GET /truth has the stamps."""
    from bench.mock.behaviour import Behaviour, Fault, Stall
    from bench.mock.server import listen, serve
    from bench.types import UsageError

    typed: dict[str, Any] = {
        "ttft_ms": ttft,
        "itl_ms": itl,
        "tokens_per_event": None if tokens is None else _numbers(tokens),
        "slots": slots,
        "queue": queue,
        "stalls": tuple(map(Stall.parse, stall)) if stall else None,
        "faults": tuple(map(Fault.parse, fault)) if fault else None,
        "kind": kind,
        "model": model,
        "key": key,
    }
    behaviour = _behaviour(Behaviour, config, {name: value for name, value in typed.items() if value is not None})
    if not 0 <= port < 65536:
        raise UsageError(f"--port {port} is no TCP port")
    with listen(host, port) as listener:
        typer.echo(f"ready at http://{host}:{listener.getsockname()[1]}", err=True)
        try:
            serve(listener, behaviour)
        except KeyboardInterrupt:
            return


def _numbers(text: str) -> tuple[int, ...]:
    from bench.types import UsageError

    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--tokens-per-event {text!r}: write whole numbers, such as 1,2,4") from None


def _behaviour(kind: type, config: Path | None, typed: dict[str, Any]) -> Any:
    """The settings of a file and those typed, which win. Raises UsageError for what the mock cannot do."""
    import tomllib

    import msgspec

    from bench.types import UsageError

    settings: dict[str, Any] = {}
    if config is not None:
        try:
            settings = tomllib.loads(config.read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"cannot read {config}: {error.strerror}") from None
        except ValueError as error:
            raise UsageError(f"{config} is not TOML: {error}") from None
    known = kind.__struct_fields__  # type: ignore[attr-defined]  # a msgspec struct
    for name in settings:
        if name not in known:
            raise UsageError(f"{config}: unknown key '{name}'; known: {', '.join(known)}")
    try:
        return msgspec.convert({**settings, **msgspec.to_builtins(typed)}, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"the mock cannot do that: {error}") from None

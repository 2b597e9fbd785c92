"""`tgi bench micro`: kernels, and whole steps of a model, against the limits of this machine."""

import json
from typing import Annotated

import typer


def micro(
    only: Annotated[str, typer.Option("--only", metavar="TEXT", help="Kernels with this in their name")] = "",
    steps: Annotated[bool, typer.Option("--steps", help="Whole steps of a model in place of kernels")] = False,
    model: Annotated[
        str | None, typer.Option("--model", metavar="ID|DIR", help="With --steps; unset: built-in")
    ] = None,
    runtime: Annotated[str | None, typer.Option("--runtime", metavar="NAME", help="What computes")] = None,
    threads: Annotated[int | None, typer.Option("--threads", metavar="N", help="With --steps: threads")] = None,
    seconds: Annotated[float, typer.Option("--seconds", metavar="S", help="Time for each case")] = 0.2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """Measure kernels or whole steps without a server, and hold them against the machine's limits."""
    if steps:
        from bench import cpu

        report = cpu.run(cpu.Setup(model, runtime or "auto", threads=threads), seconds=seconds)
        machine, text, data = report.machine, cpu.as_table(report), cpu.as_json(report)
    else:
        from bench import micro as kernels

        name = runtime or "reference"
        machine, results = kernels.run(name, only=only, seconds=seconds)
        text, data = kernels.as_table(results), kernels.as_json(name, machine, results)
    print(json.dumps(data) if as_json else f"machine: {machine}\n\n{text}")

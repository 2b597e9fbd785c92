"""`tgi bench offline`: the engine without HTTP."""

import json
from typing import Annotated

import typer


def offline(
    model: Annotated[str | None, typer.Argument(help="Hub id or directory; unset: the built-in model.")] = None,
    batch: Annotated[int, typer.Option("--batch", "-b", metavar="N", help="Prompts at once")] = 32,
    input_tokens: Annotated[int, typer.Option("--in", metavar="N", help="Tokens of a prompt")] = 128,
    output_tokens: Annotated[int, typer.Option("--out", metavar="N", help="Tokens of an answer")] = 64,
    runs: Annotated[int, typer.Option("--runs", metavar="N", help="Batches to measure")] = 3,
    runtime: Annotated[str, typer.Option("--runtime", metavar="NAME", help="What computes the model")] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", metavar="N", help="Threads to compute with")] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the prompts")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """Measure the engine in this process: no server, no HTTP, batches of random prompts."""
    from bench import offline as engine

    result = engine.run(
        model,
        batch=batch,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        runs=runs,
        runtime=runtime,
        threads=threads,
        seed=seed,
    )
    if as_json:
        print(json.dumps(engine.as_json(result)))
        return
    print(f"{result.model} on the {result.runtime} runtime, {result.batch} prompts at once\n")
    print(engine.as_table(result))
    mean = result.output_throughput
    print(f"\n{mean.center:,.1f} output tokens/s (95 % interval over batches: {mean.low:,.1f} to {mean.high:,.1f})")

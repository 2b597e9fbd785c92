"""The command lines of `python -m bench.cpu` and `python -m bench.peers`."""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from bench.ceilings import available_cores, ceilings
from bench.peers.side_by_side import (
    OWN,
    PRECISIONS,
    ROOT,
    VARIANTS,
    as_json,
    as_markdown,
    as_table,
    compare,
    contenders,
)
from bench.types import UsageError

BUILT_IN = "built-in"  # the shape of the model that comes with the package, which is copied


def cpu(arguments: list[str] | None = None) -> None:
    """Steps of one model, or engines side by side. What is wrong with the arguments ends it with code 2."""
    from bench import cpu as steps

    parser = argparse.ArgumentParser(
        "python -m bench.cpu", description=steps.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", metavar="LIST", help="like 'prefill 512,decode 8@2048'; unset: all there are")
    parser.add_argument("--threads", type=int, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    own = parser.add_argument_group("one model")
    own.add_argument("--model", metavar="DIR|ID", help="unset: the built-in model")
    own.add_argument("--runtime", default="auto", metavar="NAME")
    own.add_argument("--dtype", metavar="NAME")
    own.add_argument("--quantize", metavar="NAME")
    own.add_argument("--kv-cache-dtype", metavar="NAME")
    own.add_argument("--seconds", type=float, default=0.5, metavar="S", help="for each prefill and each limit")
    peers = parser.add_argument_group("side by side")
    peers.add_argument("--peers", metavar="LIST", help=f"some of {','.join(VARIANTS)}")
    peers.add_argument("--models", type=Path, metavar="DIR", help="what `python -m bench.peers make` wrote")
    peers.add_argument("--shape", default="135m", metavar="LIST", help="folders of --models")
    peers.add_argument("--precision", default=",".join(PRECISIONS), metavar="LIST")
    peers.add_argument("--own", default="auto", metavar="RUNTIMES", help="ours that take part; empty: none")
    peers.add_argument("--peer-python", action="append", default=[], metavar="[NAME=]PATH", help="its interpreter")
    peers.add_argument("--perplexity", type=Path, metavar="FILE", help="of llama.cpp's files, on the texts there")
    peers.add_argument("--rounds", type=int, default=10, metavar="N")
    peers.add_argument("--steps", type=int, default=16, metavar="N", help="decoded in one turn")
    args = parser.parse_args(arguments)
    try:
        data = _side_by_side(args) if args.peers else _one(args)
    except UsageError as error:
        parser.error(str(error))
    if args.json:
        args.json.write_text(json.dumps(data, indent=1), encoding="utf-8")


def _one(args: argparse.Namespace) -> object:
    from bench import cpu as steps

    setup = steps.Setup(args.model, args.runtime, args.dtype, args.quantize, args.kv_cache_dtype, args.threads)
    cases = [steps.case(text) for text in args.cases.split(",")] if args.cases else None
    report = steps.run(setup, cases=cases, seconds=args.seconds)
    print(f"machine: {report.machine}\n\n{steps.as_table(report)}")
    return steps.as_json(report)


def _side_by_side(args: argparse.Namespace) -> object:
    from bench import cpu as steps
    from bench.micro import native_probes

    if args.models is None:
        raise UsageError("--peers needs --models, a folder that `python -m bench.peers make` filled")
    if min(args.rounds, args.steps) < 1:
        raise UsageError("--rounds and --steps must be 1 or more")
    cases = [steps.case(text) for text in args.cases.split(",")] if args.cases else steps.CASES[:4]
    threads = args.threads or available_cores()
    pythons = dict(part.split("=", 1) if "=" in part else ("", part) for part in args.peer_python)
    if args.perplexity:
        return _perplexity(args, pythons, threads)
    machine = ceilings(probes=native_probes(), threads=threads)
    print(f"machine: {machine}; {threads} threads, {args.rounds} rounds; tokens/s")
    found = []
    for shape in args.shape.split(","):
        for precision in args.precision.split(","):
            if precision not in PRECISIONS:
                raise UsageError(f"no precision {precision!r}; choose among: {', '.join(PRECISIONS)}")
            own = [f"{runtime}:{precision}" for runtime in args.own.split(",") if runtime]
            taking_part = contenders(args.peers.split(","), precision, own, pythons, sys.executable)
            comparison = compare(
                args.models, shape, precision, taking_part, cases, threads=threads, rounds=args.rounds, steps=args.steps
            )
            print(f"\n{as_table(comparison)}", flush=True)
            found.append(as_json(comparison))
    return {"machine": machine.as_dict(), "threads": threads, "own": OWN, "comparisons": found}


def _perplexity(args: argparse.Namespace, pythons: dict[str, str], threads: int) -> object:
    from bench import cpu as steps
    from bench.peers.side_by_side import perplexity

    found = {}
    for shape in args.shape.split(","):
        windows = steps.score_windows(str(args.models / shape / "hf"), args.perplexity)
        for precision in args.precision.split(","):
            for contender in contenders(["llama.cpp"], precision, [], pythons, sys.executable):
                value = perplexity(contender, args.models / shape, windows, threads)
                found[f"{shape} {contender.name}"] = value
                print(f"{shape} {contender.name}: perplexity {value:.4f} over {len(windows)} windows", flush=True)
    return found


def peers(arguments: list[str] | None = None) -> None:
    """Make the models, convert them with the peers' interpreters, and report what a comparison found."""
    from bench.peers import models

    parser = argparse.ArgumentParser(
        "python -m bench.peers", description=models.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="write the checkpoints")
    make.add_argument("models", type=Path, metavar="MODELS")
    make.add_argument("--shape", default=",".join((*models.SHAPES, BUILT_IN)), metavar="LIST")
    convert = commands.add_parser("convert", help="write what llama.cpp and OpenVINO read")
    convert.add_argument("models", type=Path, metavar="MODELS")
    convert.add_argument("--shape", default=",".join((*models.SHAPES, BUILT_IN)), metavar="LIST")
    convert.add_argument("--to", default=",".join(CONVERTERS), metavar="LIST")
    convert.add_argument("--peer-python", required=True, metavar="PATH", help="an interpreter with the converters")
    report = commands.add_parser("report", help="the ratios of a comparison as Markdown")
    report.add_argument("result", type=Path, metavar="FILE", help="what --json wrote")
    report.add_argument("--own", default="auto", metavar="RUNTIME", help="whose ratios")
    args = parser.parse_args(arguments)
    if args.command == "report":
        print(as_markdown(json.loads(args.result.read_text(encoding="utf-8"))["comparisons"], args.own))
        return
    try:
        for shape in args.shape.split(","):
            folder = args.models / shape
            if args.command == "make":
                if shape == BUILT_IN:
                    shutil.copytree(ROOT / "engine" / "assets" / "default", folder / "hf", dirs_exist_ok=True)
                    print(folder / "hf")
                    continue
                if shape not in models.SHAPES:
                    raise UsageError(
                        f"no shape is called {shape!r}; choose among: {', '.join((*models.SHAPES, BUILT_IN))}"
                    )
                models.make(models.SHAPES[shape], folder / "hf")
                print(folder / "hf")
            else:
                for name in args.to.split(","):
                    _convert(name, folder, args.peer_python)
    except UsageError as error:
        parser.error(str(error))


CONVERTERS = {"gguf": "bench.peers.gguf_files", "openvino": "bench.peers.openvino_files"}


def _convert(name: str, folder: Path, python: str) -> None:
    if name not in CONVERTERS:
        raise UsageError(f"there is no converter to {name!r}; choose among: {', '.join(CONVERTERS)}")
    command = [python, "-m", CONVERTERS[name], str((folder / "hf").resolve()), str((folder / name).resolve())]
    done = subprocess.run(command, cwd=ROOT)  # noqa: S603  # the interpreter the user named
    if done.returncode != 0:
        raise UsageError(f"{' '.join(command)} ended with code {done.returncode}; it says above why")
    print(folder / name)

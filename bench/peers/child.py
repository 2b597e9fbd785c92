"""One engine in a process of its own: `PYTHON -m bench.peers.child ENGINE MODEL VARIANT THREADS TOKENS`.

TOKENS is how many tokens the requests hold together at most. The process reads a JSON object a line from standard
input, {"do": "prefill", "tokens": 512, "seed": 3}, and answers each with one. What the engine itself prints goes to
standard error.
"""

import json
import os
import resource
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.peers.engine import Engine, Scorer, prompt

ENGINES = {  # name -> where its class is
    "tgi": ("bench.peers.tgi", "Tgi"),
    "llama.cpp": ("bench.peers.llama_cpp", "LlamaCpp"),
    "openvino": ("bench.peers.openvino", "OpenVino"),
    "transformers": ("bench.peers.transformers", "Transformers"),
    "vllm": ("bench.peers.vllm", "Vllm"),
}


def main(name: str, model: str, variant: str, threads: int, tokens: int) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    module, kind = ENGINES[name]
    try:
        engine: Engine = getattr(import_module(module), kind)(model, variant, threads, tokens)
    except Exception as error:
        print(json.dumps({"error": described(error)}), file=answers)
        sys.exit(1)
    print(json.dumps({"version": engine.version} | memory()), file=answers)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = COMMANDS[asked.pop("do")](engine, **asked)
        except Exception as error:
            answer = {"error": described(error)}
        print(json.dumps(answer), file=answers)


def described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def prefill(engine: Engine, tokens: int, seed: int) -> dict[str, Any]:
    return {"seconds": engine.prefill(prompt(seed, tokens))}


def start(engine: Engine, batch: int, context: int, room: int) -> dict[str, Any]:
    engine.start([prompt(seed, context) for seed in range(batch)], room)
    return {}


def decode(engine: Engine, steps: int) -> dict[str, Any]:
    return {"seconds": engine.decode(steps)}


def stop(engine: Engine) -> dict[str, Any]:
    engine.stop()
    return memory()


def score(engine: Scorer, tokens: list[int]) -> dict[str, Any]:
    return {"logprob": engine.score(tokens)}


def memory() -> dict[str, int]:
    """Bytes of this process that lie in memory, mapped files included: now, and at most so far."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"rss": pages * resource.getpagesize(), "peak_rss": peak}


COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {
    "prefill": prefill,
    "start": start,
    "decode": decode,
    "stop": stop,
    "score": score,
}

if __name__ == "__main__":
    name, model, variant, threads, tokens = sys.argv[1:]
    main(name, model, variant, int(threads), int(tokens))

"""The engine without HTTP: batches of prompts through `engine.LLM`, in tokens a second.

What a server adds is the difference between this and a run of `tgi bench` with as many requests at once.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bench.stats.intervals import Interval, t_interval
from bench.tables import table
from bench.types import UsageError


@dataclass(frozen=True)
class Batch:
    """One batch, from the first prompt handed in to the last token out."""

    seconds: float
    input_tokens: int
    output_tokens: int

    @property
    def output_throughput(self) -> float:
        return self.output_tokens / self.seconds


@dataclass(frozen=True)
class Offline:
    model: str
    runtime: str
    batch: int
    batches: list[Batch]

    @property
    def output_throughput(self) -> Interval:
        """Output tokens a second: the mean over batches with its 95 % interval."""
        return t_interval([batch.output_throughput for batch in self.batches])


def run(
    model: str | None = None,
    *,
    batch: int = 32,
    input_tokens: int = 128,
    output_tokens: int = 64,
    runs: int = 3,
    runtime: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    on_batch: Callable[[Batch], None] | None = None,
) -> Offline:
    """Generate `runs` batches of different random prompts after a short warm-up. Raises the engine's errors."""
    from engine.config import SchedulerOptions
    from engine.llm import LLM
    from engine.types import SamplingParams

    if min(batch, input_tokens, output_tokens, runs) < 1:
        raise UsageError("--batch, --in, --out and --runs must be 1 or more")
    params = SamplingParams(max_new_tokens=output_tokens, ignore_eos=True)
    random = np.random.default_rng(seed)
    with LLM(model, runtime=runtime, threads=threads, scheduler=SchedulerOptions(max_batch_size=batch)) as llm:
        llm.generate([[1, 2, 3]], SamplingParams(max_new_tokens=2, ignore_eos=True))
        if input_tokens + output_tokens > llm.info.max_total_tokens:
            limit = llm.info.max_total_tokens
            raise UsageError(f"--in {input_tokens} and --out {output_tokens} exceed the model's {limit} tokens")
        batches = []
        for _ in range(runs):
            prompts = [random.integers(0, llm.info.vocab_size, input_tokens).tolist() for _ in range(batch)]
            start = time.perf_counter()
            answers = llm.generate(prompts, params)
            seconds = time.perf_counter() - start
            made = sum(len(answer.pieces) for answer in answers)
            batches.append(Batch(seconds, batch * input_tokens, made))
            if on_batch:
                on_batch(batches[-1])
        return Offline(model or "built-in", llm.info.runtime, batch, batches)


def as_table(result: Offline) -> str:
    rows = [
        (str(i + 1), each.seconds, each.input_tokens, each.output_tokens, each.output_throughput)
        for i, each in enumerate(result.batches)
    ]
    return table(("batch", "seconds", "in", "out", "output tokens/s"), rows)


def as_json(result: Offline) -> dict[str, Any]:
    return asdict(result)

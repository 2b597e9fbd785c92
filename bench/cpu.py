"""Whole steps of a CPU runtime on a real model, without scheduler or server: prefill, and decode at several batches.

The limit of a case is what the machine's memory bandwidth and arithmetic allow for the bytes and operations that the
model's shape makes necessary. It is computed for the weights as this runtime holds them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bench.ceilings import Ceilings, Timing, ceilings, measure
from bench.tables import table
from bench.types import UsageError

if TYPE_CHECKING:
    from engine.runtimes import Worker
    from engine.sched.plan import Enter, StepPlan

BLOCK = 16
CONTEXT = 128  # tokens before the measured decode steps
DECODE_STEPS = 16


@dataclass(frozen=True)
class Case:
    """`batch` requests, each with `tokens` computed in a step after `context` earlier ones."""

    name: str
    batch: int
    tokens: int
    context: int = 0


CASES = (
    Case("prefill 512", 1, 512),
    Case("prefill 8 x 64", 8, 64),
    Case("decode 1", 1, 1, CONTEXT),
    Case("decode 8", 8, 1, CONTEXT),
    Case("decode 32", 32, 1, CONTEXT),
)


@dataclass(frozen=True)
class Result:
    case: Case
    step: Timing
    tokens_per_second: float
    limit: float  # tokens a second
    model: str
    runtime: str


def run(
    model: str | None = None,
    *,
    runtime: str = "auto",
    threads: int | None = None,
    cases: Sequence[Case] = CASES,
    seconds: float = 0.5,
    on_result: Callable[[Result], None] | None = None,
) -> tuple[Ceilings, list[Result]]:
    """Measure a model: a directory or hub id, None for the built-in one. Raises the engine's start-up errors."""
    from engine.config import CacheOptions, EngineOptions, ModelOptions, SchedulerOptions
    from engine.hub import builtin_model_path, resolve
    from engine.runtimes import load_worker

    path = builtin_model_path() if model is None else resolve(model, None)
    longest = max(case.context + max(case.tokens, DECODE_STEPS) for case in cases)
    batch = max(case.batch for case in cases)
    blocks = 1 + max(case.batch * _blocks(case) for case in cases)
    worker = load_worker(
        EngineOptions(
            model=ModelOptions(path=str(path), runtime=runtime, threads=threads),
            cache=CacheOptions(block_size=BLOCK, num_blocks=blocks),
            scheduler=SchedulerOptions(max_batch_size=batch),
        )
    )
    if longest > worker.info.max_context:
        raise UsageError(f"{model} takes {worker.info.max_context} tokens; the cases need {longest}")
    machine, results = ceilings(seconds), []
    try:
        for case in cases:
            result = _measured(worker, case, machine, model or "built-in", seconds)
            results.append(result)
            if on_result:
                on_result(result)
    finally:
        worker.close()
    return machine, results


def _blocks(case: Case) -> int:
    return -(-(case.context + max(case.tokens, DECODE_STEPS)) // BLOCK)


def _measured(worker: "Worker", case: Case, machine: Ceilings, model: str, seconds: float) -> Result:
    if case.context:
        steps = _decode(worker, case)
        timing = measure(lambda: worker.execute(next(steps)), seconds=0, least=DECODE_STEPS - 1)
    else:
        plan = _prefill_plan(worker, case)
        timing = measure(lambda: worker.execute(plan), seconds=seconds, least=2)
    tokens = case.batch * case.tokens
    info = worker.info
    least = max(2 * info.num_parameters * tokens / machine.flops, info.weight_bytes / machine.bytes_per_second)
    return Result(case, timing, tokens / timing.median, tokens / least, model, info.runtime)


def _enter(worker: "Worker", case: Case, count: int) -> tuple["Enter", ...]:
    from engine.sched.plan import Enter
    from engine.types import SamplingParams

    vocab = worker.info.vocab_size
    params = SamplingParams(max_new_tokens=DECODE_STEPS, ignore_eos=True, seed=0)
    return tuple(
        Enter(i, i + 1, tuple((7 * i + 13 * j) % vocab for j in range(count)), count, params) for i in range(case.batch)
    )


def _table(case: Case, request: int) -> tuple[int, ...]:
    """The blocks of a request; block 0 is reserved."""
    each = _blocks(case)
    return tuple(range(1 + request * each, 1 + (request + 1) * each))


def _prefill_plan(worker: "Worker", case: Case) -> "StepPlan":
    """The same step each time: its requests leave and enter again."""
    from engine.sched.plan import Chunk, StepPlan

    entered = _enter(worker, case, case.tokens)
    chunks = tuple(Chunk(e.request_id, e.slot, 0, e.tokens, 0, _table(case, e.request_id), True) for e in entered)
    return StepPlan(0, chunks, entered, tuple(e.slot for e in entered))


def _decode(worker: "Worker", case: Case) -> Iterator["StepPlan"]:
    """Compute the context, then yield one decode step after the other."""
    from engine.sched.plan import Chunk, StepPlan

    entered = _enter(worker, case, case.context)
    chunks = tuple(Chunk(e.request_id, e.slot, 0, e.tokens, 0, _table(case, e.request_id), True) for e in entered)
    worker.execute(StepPlan(0, chunks, entered, tuple(e.slot for e in entered)))
    for step in range(DECODE_STEPS):
        position = case.context + step
        yield StepPlan(
            step + 1,
            tuple(Chunk(e.request_id, e.slot, position, (1,), 0, _table(case, e.request_id), True) for e in entered),
        )


def as_table(results: list[Result]) -> str:
    rows = [
        (
            result.case.name,
            result.step.median * 1e3,
            result.step.best * 1e3,
            result.tokens_per_second,
            result.limit,
            f"{100 * result.tokens_per_second / result.limit:.1f} %",
        )
        for result in results
    ]
    return table(("step", "ms", "best ms", "tokens/s", "limit", "of limit"), rows)


def as_json(machine: Ceilings, results: list[Result]) -> dict[str, Any]:
    return {"machine": machine.as_dict(), "results": [asdict(result) for result in results]}

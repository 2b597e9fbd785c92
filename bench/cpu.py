"""Whole steps of a CPU runtime on a model, without scheduler or server: prefill, and decode at several batches.

    python -m bench.cpu --model DIR --runtime native --quantize int8
    python -m bench.cpu --peers llama.cpp,openvino --models DIR --shape 135m --precision int8

The limit of a case is what the machine's memory bandwidth and arithmetic allow for the bytes and operations that the
model's shape makes necessary, with the weights as this runtime holds them. With `--peers`, other engines run the same
cases in turn with this one (`bench.peers`).
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.ceilings import Ceilings, Timing, ceilings, measure
from bench.micro import native_probes
from bench.peers.child import memory
from bench.peers.engine import prompt
from bench.tables import table
from bench.types import UsageError

if TYPE_CHECKING:
    from engine.runtimes import Worker
    from engine.sched.plan import Enter

BLOCK = 16
DECODE_STEPS = 32
STEP_TOKENS = 4096  # of a prompt in one step; the scheduler's default
DTYPE_WIDTHS = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}  # bytes of a weight
WIDTHS: dict[str | None, float] = {  # the same in the layers, with the scales of groups where there are any
    "int8": 1.0,
    "eetq": 1.0,
    "fp8": 1.0,
    "int4": 0.5 + 2 / 32,
    "bitsandbytes-nf4": 0.5 + 2 / 64,
    "bitsandbytes-fp4": 0.5 + 2 / 64,
}
HEAD_WIDTHS: dict[str | None, float] = {"int8": 1.0, "int4": 1.0}  # other methods leave the head alone
INTEGER = ("int8", "int4", "eetq")  # weights that integer dot products are computed with


@dataclass(frozen=True)
class Case:
    """`batch` requests, each with `tokens` computed in a step after `context` earlier ones."""

    name: str
    batch: int
    tokens: int
    context: int = 0

    @property
    def longest(self) -> int:
        """Tokens a request has at the end."""
        return self.context + (1 + DECODE_STEPS if self.context else self.tokens)

    @property
    def blocks(self) -> int:
        """Of the KV cache, for all its requests."""
        return self.batch * -(-self.longest // BLOCK)


def case(text: str) -> Case:
    """`prefill 512`, or `decode 8@2048`: eight requests after 2048 tokens each. Raises UsageError."""
    match = re.fullmatch(
        r"(?:prefill (?P<tokens>[1-9]\d*)|decode (?P<batch>[1-9]\d*)@(?P<context>[1-9]\d*))", text.strip()
    )
    if match is None:
        raise UsageError(f"{text!r} is no case; write 'prefill 512' or 'decode 8@2048'")
    if match["tokens"]:
        return Case(text.strip(), 1, int(match["tokens"]))
    return Case(text.strip(), int(match["batch"]), 1, int(match["context"]))


CASES = tuple(
    case(text)
    for text in (
        "prefill 512",
        *("decode 1@128", "decode 8@128", "decode 32@128"),
        *("decode 1@2048", "decode 8@2048", "decode 32@2048"),
    )
)


@dataclass(frozen=True)
class Setup:
    """What computes, and how."""

    model: str | None = None  # a directory or hub id; None = the built-in one
    runtime: str = "auto"
    dtype: str | None = None
    quantize: str | None = None
    kv_cache_dtype: str | None = None
    threads: int | None = None

    def load(self, *, batch: int, num_blocks: int) -> "Worker":
        """Raises the engine's start-up errors."""
        from engine.config import CacheOptions, EngineOptions, ModelOptions, SchedulerOptions
        from engine.hub import builtin_model_path, resolve
        from engine.runtimes import load_worker

        path = builtin_model_path() if self.model is None else resolve(self.model, None)
        return load_worker(
            EngineOptions(
                model=ModelOptions(
                    path=str(path),
                    runtime=self.runtime,
                    dtype=self.dtype,
                    quantize=self.quantize,
                    kv_cache_dtype=self.kv_cache_dtype,
                    threads=self.threads,
                ),
                cache=CacheOptions(block_size=BLOCK, num_blocks=num_blocks),
                scheduler=SchedulerOptions(max_batch_size=batch),
            )
        )


class Steps:
    """Gives a worker the plans a scheduler would make for requests of equal length that come and go together."""

    def __init__(self, worker: "Worker") -> None:
        self.last: list[int] = []  # the newest token of each request, which is yet to be computed
        self._worker = worker
        self._step = 0
        self._slots: tuple[int, ...] = ()
        self._tables: list[tuple[int, ...]] = []  # blocks of each request
        self._length = 0  # tokens computed of each request

    def start(self, prompts: Sequence[Sequence[int]], room: int) -> None:
        """Compute the prompts and one token each; `room` more can follow."""
        from engine.sched.plan import Enter
        from engine.types import SamplingParams

        each = -(-(len(prompts[0]) + room + 1) // BLOCK)
        params = SamplingParams(max_new_tokens=room + 1, ignore_eos=True, seed=0)
        self._slots = tuple(range(1, len(prompts) + 1))
        self._tables = [tuple(range(1 + i * each, 1 + (i + 1) * each)) for i in range(len(prompts))]
        self._length = len(prompts[0])
        self.last = [
            self._compute(Enter(slot, slot, tuple(tokens), len(tokens), params), blocks)
            for slot, tokens, blocks in zip(self._slots, prompts, self._tables, strict=True)
        ]

    def decode(self) -> None:
        """One more token for every request."""
        from engine.sched.plan import Chunk, StepPlan

        self._step += 1
        chunks = tuple(
            Chunk(slot, slot, self._length, (token,), 0, blocks, True)
            for slot, token, blocks in zip(self._slots, self.last, self._tables, strict=True)
        )
        outputs = self._worker.execute(StepPlan(self._step, chunks)).outputs
        self.last = [outputs[slot].tokens[0] for slot in self._slots]
        self._length += 1

    def stop(self) -> None:
        from engine.sched.plan import StepPlan

        self._step += 1
        self._worker.execute(StepPlan(self._step, (), leave=self._slots))
        self._slots = ()

    def _compute(self, enter: "Enter", blocks: tuple[int, ...]) -> int:
        """A prompt in as many steps as it takes; the token after it."""
        from engine.sched.plan import Chunk, StepPlan

        count = len(enter.tokens)
        for first in range(0, count, STEP_TOKENS):
            part = enter.tokens[first : first + STEP_TOKENS]
            chunk = Chunk(enter.request_id, enter.slot, first, part, 0, blocks, first + len(part) == count)
            self._step += 1
            result = self._worker.execute(StepPlan(self._step, (chunk,), () if first else (enter,)))
        return result.outputs[enter.request_id].tokens[0]


@dataclass(frozen=True)
class Work:
    """What a step cannot do without, from the model's shape and the weights as they are held."""

    weight_bytes: int
    kv_bytes: float
    linear_ops: float  # a multiply-add counts 2
    attention_ops: float
    integer: bool  # linears can use integer dot products

    def least_seconds(self, machine: Ceilings) -> float:
        linear_peak = machine.dot_ops if self.integer and machine.dot_ops else machine.flops
        reading = (self.weight_bytes + self.kv_bytes) / machine.bytes_per_second
        return max(reading, self.linear_ops / linear_peak + self.attention_ops / machine.flops)


@dataclass(frozen=True)
class Result:
    case: Case
    step: Timing
    work: Work
    limit: float  # tokens a second

    @property
    def tokens_per_second(self) -> float:
        return self.case.batch * self.case.tokens / self.step.median


@dataclass(frozen=True)
class Report:
    setup: Setup
    runtime: str
    load_seconds: float
    rss: int  # bytes in memory after loading, mapped files included
    peak_rss: int  # at most, until the end
    machine: Ceilings
    results: list[Result]


def run(
    setup: Setup,
    *,
    cases: Sequence[Case] | None = None,
    seconds: float = 0.5,
    on_result: Callable[[Case, Timing], None] | None = None,
) -> Report:
    """Measure `cases`, or those of `CASES` that the model is long enough for.

    Raises UsageError for a case that the model is too short for, and the engine's start-up errors.
    """
    wanted = CASES if cases is None else cases
    started = time.perf_counter()
    blocks = 1 + max(each.blocks for each in wanted)
    worker = setup.load(batch=max(each.batch for each in wanted), num_blocks=blocks)
    load_seconds, rss = time.perf_counter() - started, memory()["rss"]
    try:
        info = worker.info
        fitting = [each for each in wanted if each.longest <= info.max_context]
        if not fitting or (cases is not None and len(fitting) < len(wanted)):
            longest = max(each.longest for each in wanted)
            raise UsageError(f"{setup.model or 'the built-in model'} takes {info.max_context} tokens, not {longest}")
        work = necessary_work(setup, worker, fitting)

        def limits() -> Ceilings:
            size = work[0].weight_bytes
            return ceilings(seconds, buffer_bytes=size, threads=setup.threads, probes=native_probes())

        machine, timings = limits(), []
        for each in fitting:
            timings.append(_measured(worker, each, seconds))
            if on_result:
                on_result(each, timings[-1])
        machine = machine.best(limits())
    finally:
        worker.close()
    results = [
        Result(each, timing, needed, each.batch * each.tokens / needed.least_seconds(machine))
        for each, timing, needed in zip(fitting, timings, work, strict=True)
    ]
    return Report(setup, info.runtime, load_seconds, rss, memory()["peak_rss"], machine, results)


def necessary_work(setup: Setup, worker: "Worker", cases: Sequence[Case]) -> list[Work]:
    """Every weight is read once, and every key and value before a query; only the last row of a request has logits."""
    from engine.hub import builtin_model_path, resolve
    from engine.models.checkpoint import read_config
    from engine.models.registry import family
    from engine.models.spec import parameters

    info = worker.info
    config = read_config(builtin_model_path() if setup.model is None else resolve(setup.model, None))
    spec = family(config).spec(config, None)
    head = spec.vocab_size * spec.hidden_size
    inner = sum(
        shape[0] * shape[1] for name, shape in parameters(spec).items() if len(shape) == 2 and name.startswith("layers")
    )
    plain = 4.0 if info.runtime == "reference" else DTYPE_WIDTHS[info.dtype]
    weight_bytes = inner * WIDTHS.get(setup.quantize, plain) + head * HEAD_WIDTHS.get(setup.quantize, plain)
    kv_token = info.kv_bytes / (info.num_blocks * BLOCK)
    return [
        Work(
            weight_bytes=int(weight_bytes),
            kv_bytes=case.batch * case.context * kv_token,
            linear_ops=2.0 * (inner * case.tokens + head) * case.batch,
            attention_ops=4.0
            * spec.num_heads
            * spec.head_dim
            * spec.num_layers
            * case.batch
            * sum(range(case.context + 1, case.context + case.tokens + 1)),
            integer=setup.quantize in INTEGER,
        )
        for case in cases
    ]


def _measured(worker: "Worker", case: Case, seconds: float) -> Timing:
    steps = Steps(worker)
    prompts = [prompt(i, case.context or case.tokens) for i in range(case.batch)]
    if case.context:
        steps.start(prompts, DECODE_STEPS)
        timing = measure(steps.decode, seconds=0, least=DECODE_STEPS - 1)
        steps.stop()
        return timing

    def whole() -> None:
        steps.start(prompts, 0)
        steps.stop()

    return measure(whole, seconds=seconds, least=2)


def score_windows(model: str, file: Path) -> list[list[int]]:
    """The token windows that `tgi inspect --perplexity` scores, so that another engine can score the same."""
    from engine.llm import LLM
    from engine.perplexity import cut_windows, read_documents

    with LLM(model) as llm:
        return list(cut_windows(llm, read_documents(file), llm.max_total_tokens - 1))


def as_table(report: Report) -> str:
    rows = [
        (
            result.case.name,
            result.step.median * 1e3,
            result.step.best * 1e3,
            result.tokens_per_second,
            result.limit,
            f"{100 * result.tokens_per_second / result.limit:.1f} %",
        )
        for result in report.results
    ]
    text = table(("step", "ms", "best ms", "tokens/s", "limit", "of limit"), rows)
    held = f"{report.rss / 1e6:.0f} MB then, {report.peak_rss / 1e6:.0f} MB at most"
    return "\n".join([text, "", f"loaded in {report.load_seconds:.2f} s; {held}", *bandwidth_notes(report)])


def bandwidth_notes(report: Report) -> list[str]:
    """How near decoding comes to reading weights, and then keys and values, at the machine's bandwidth."""
    bandwidth = report.machine.bytes_per_second
    notes = []
    by_batch: dict[int, list[Result]] = {}
    for result in report.results:
        if result.case.context:
            by_batch.setdefault(result.case.batch, []).append(result)
    for batch, results in by_batch.items():
        short, *longer = sorted(results, key=lambda result: result.case.context)
        if batch == 1:
            share = short.work.weight_bytes / short.step.median / bandwidth
            notes.append(f"{short.case.name} reads the weights at {100 * share:.0f} % of the bandwidth")
        for long in longer:
            extra = (long.work.kv_bytes - short.work.kv_bytes) / bandwidth
            factor = (long.step.median - short.step.median) / extra
            notes.append(f"{long.case.name} over @{short.case.context}: {factor:.2f}x the time of its KV bytes")
    return notes


def as_json(report: Report) -> dict[str, Any]:
    return asdict(report) | {"notes": bandwidth_notes(report)}


if __name__ == "__main__":
    from bench.peers.commands import cpu

    cpu()

"""A scheduler driven by hand, one step at a time, with a worker that answers what it is told."""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.config import CacheOptions, SchedulerOptions
from engine.sched.plan import ChunkOutput, StepPlan, StepResult
from engine.sched.request import Request
from engine.sched.scheduler import Scheduler, Update
from engine.types import SamplingParams

EOS = 0
WORD = 7  # what is sampled where nothing else is said
VECTOR = b"\0\0\x80?"


def scheduler(*, blocks: int = 100, block_size: int = 4, prefix_caching: bool = True, **options: Any) -> Scheduler:
    """A scheduler with so many usable blocks."""
    return Scheduler(
        SchedulerOptions(**options),
        CacheOptions(block_size=block_size, prefix_caching=prefix_caching),
        num_blocks=blocks + 1,
        max_total_tokens=options.get("max_total_tokens") or 10_000,
        hash_key=b"secret",
    )


def ask(
    request_id: int,
    prompt: Sequence[int],
    max_new_tokens: int = 4,
    *,
    priority: int = 0,
    tenant: int = 0,
    salt: bytes = b"",
    **params: Any,
) -> Request:
    return Request(
        id=request_id,
        tokens=list(prompt),
        prompt_len=len(prompt),
        params=SamplingParams(max_new_tokens=max_new_tokens, **params),
        eos_ids=frozenset() if params.get("ignore_eos") else frozenset({EOS}),
        priority=priority,
        tenant=tenant,
        salt=salt,
    )


def text(request_id: int, prompt: Sequence[int], *, priority: int = 0) -> Request:
    """One to embed."""
    return Request(
        id=request_id,
        tokens=list(prompt),
        prompt_len=len(prompt),
        params=SamplingParams(max_new_tokens=0),
        priority=priority,
        embed=True,
        bidirectional=True,
    )


def words(count: int, first: int = 100) -> list[int]:
    """A prompt of so many different tokens."""
    return list(range(first, first + count))


def planned(s: Scheduler) -> StepPlan:
    plan = s.schedule()
    assert plan is not None
    return plan


def answer(s: Scheduler, plan: StepPlan, outputs: Mapping[int, ChunkOutput] | None = None) -> dict[int, Update]:
    """Commit the plan; where `outputs` says nothing, a sampling chunk gets one WORD, and a text to embed a vector.

    Returns updates by request id.
    """
    told = outputs or {}
    results = {
        chunk.request_id: told.get(
            chunk.request_id,
            ChunkOutput(tokens=(WORD,) if chunk.sample else (), embedding=VECTOR if chunk.embed else b""),
        )
        for chunk in plan.chunks
    }
    return {update.request_id: update for update in s.commit(StepResult(plan.step, results))}


def step(s: Scheduler, outputs: Mapping[int, ChunkOutput] | None = None) -> tuple[StepPlan, dict[int, Update]]:
    plan = planned(s)
    return plan, answer(s, plan, outputs)


def run(s: Scheduler, limit: int = 1_000) -> dict[int, list[int]]:
    """Go on until nothing is left; what each request was given on the way."""
    given: dict[int, list[int]] = {}
    for _ in range(limit):
        plan = s.schedule()
        if plan is None:
            return given
        for request_id, update in answer(s, plan).items():
            given.setdefault(request_id, []).extend(update.tokens)
    raise AssertionError(f"still at work after {limit} steps")


def sizes(plan: StepPlan) -> dict[int, int]:
    """Request id -> tokens of its chunk."""
    return {chunk.request_id: len(chunk.tokens) for chunk in plan.chunks}

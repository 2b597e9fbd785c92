"""The same request gives the same answer whatever the engine is told to do meanwhile: one table of engine options.

Tokens and scores are compared exactly. `tests/runtimes` proves the same of the logits, as bytes.
"""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tiny_models import make_checkpoint

from engine.client import InlineClient
from engine.config import CacheOptions, EngineOptions, ModelOptions, SchedulerOptions, SpecOptions
from engine.types import EngineStats, GenerateRequest, SamplingParams, TokenEvent

SHARED = tuple(range(40, 73))


def ask(prompt: tuple[int, ...], **params: Any) -> GenerateRequest:
    sampling = SamplingParams(max_new_tokens=24, logprobs=True, ignore_eos=True, **params)
    return GenerateRequest(prompt=prompt, params=sampling)


REQUESTS = [
    ask((*SHARED, 2, 3)),
    ask(SHARED * 2, repetition_penalty=1.2),
    ask((*SHARED[:17], 9), temperature=0.9, top_p=0.9, seed=11),
    ask(SHARED, temperature=1.3, top_k=20, presence_penalty=0.5, seed=12),
    ask((5,), temperature=0.7, seed=13),
    ask((*SHARED, 2), frequency_penalty=1.0),
]


ROOMY = CacheOptions(num_blocks=256)


@dataclass(frozen=True)
class Case:
    cache: CacheOptions = ROOMY
    scheduler: SchedulerOptions = field(default_factory=SchedulerOptions)
    spec: SpecOptions = field(default_factory=SpecOptions)
    rounds: int = 1  # the last one is compared
    seen: str = ""  # a counter that shows that the case did what it is for


CASES = {
    "batched": Case(),
    "chunked": Case(scheduler=SchedulerOptions(max_batch_prefill_tokens=7)),
    "cached": Case(rounds=2, seen="cached_tokens"),
    "preempted": Case(cache=CacheOptions(num_blocks=13, block_size=8), seen="preemptions"),
    "small-blocks": Case(cache=CacheOptions(num_blocks=2000, block_size=1), rounds=2, seen="cached_tokens"),
    "speculated": Case(spec=SpecOptions(num_draft=3), seen="drafted_tokens"),
    "everything": Case(
        cache=CacheOptions(num_blocks=25, block_size=4),
        scheduler=SchedulerOptions(max_batch_prefill_tokens=11, max_batch_size=3),
        spec=SpecOptions(num_draft=5),
        rounds=2,
        seen="preemptions",
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"), vocab_size=96)


async def answers(model: Path, case: Case, *, together: bool) -> tuple[list[list[TokenEvent]], EngineStats]:
    client = InlineClient(
        EngineOptions(model=ModelOptions(path=str(model)), cache=case.cache, scheduler=case.scheduler, spec=case.spec)
    )

    async def collect(request: GenerateRequest) -> list[TokenEvent]:
        return [event async for event in client.generate(request)]

    await client.start()
    try:
        for _ in range(case.rounds):
            if together:
                got = await asyncio.gather(*(collect(request) for request in REQUESTS))
            else:
                got = [await collect(request) for request in REQUESTS]
        return list(got), client.stats
    finally:
        await client.close()


def content(events: list[TokenEvent]) -> tuple[list[int], list[float]]:
    return [t for event in events for t in event.tokens], [s for event in events for s in event.logprobs]


@pytest.fixture(scope="module")
def plain(model: Path) -> list[tuple[list[int], list[float]]]:
    case = Case(cache=CacheOptions(num_blocks=256, prefix_caching=False))
    got, stats = asyncio.run(answers(model, case, together=False))
    assert stats.cached_tokens == stats.preemptions == stats.drafted_tokens == 0
    return [content(events) for events in got]


@pytest.mark.parametrize("name", CASES)
async def test_every_way_of_running_gives_the_plain_answer(
    name: str, model: Path, plain: list[tuple[list[int], list[float]]]
) -> None:
    got, stats = await answers(model, CASES[name], together=True)
    assert [content(events) for events in got] == plain
    assert all(len(ids) == 24 for ids, _ in plain)
    if CASES[name].seen:
        assert getattr(stats, CASES[name].seen) > 0
    assert stats.blocks_used == 0


async def test_another_seed_gives_another_answer(model: Path, plain: list[tuple[list[int], list[float]]]) -> None:
    client = InlineClient(EngineOptions(model=ModelOptions(path=str(model)), cache=CacheOptions(num_blocks=256)))
    await client.start()
    events = [event async for event in client.generate(ask((5,), temperature=0.7, seed=14))]
    await client.close()
    assert content(events)[0] != plain[4][0]

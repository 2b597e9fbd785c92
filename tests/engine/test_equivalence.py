"""The same request gives the same answer whatever the engine is told to do meanwhile: one table of engine options.

Tokens and scores are compared exactly, with the plain answer in blocks of the same size: the native runtime's
attention adds up in the order of the cache's slots. `tests/runtimes` proves the same of the logits, as bytes.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
from tiny_models import make_checkpoint

from engine.client import InlineClient
from engine.config import CacheOptions, EngineOptions, ModelOptions, SchedulerOptions, SpecOptions
from engine.runtimes.native import available
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


MODELS: dict[str, dict[str, Any]] = {
    "reference": {"runtime": "reference"},
    "native": {"runtime": "native"},
    "native-int4": {"runtime": "native", "quantize": "int4", "kv_cache_dtype": "int8"},
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelOptions:
    chosen = MODELS[request.param]
    if chosen["runtime"] == "native" and (reason := available()):
        pytest.skip(reason)
    return ModelOptions(path=str(make_checkpoint(tmp_path_factory.mktemp("model"), vocab_size=96)), **chosen)


async def answers(model: ModelOptions, case: Case, *, together: bool) -> tuple[list[list[TokenEvent]], EngineStats]:
    client = InlineClient(EngineOptions(model=model, cache=case.cache, scheduler=case.scheduler, spec=case.spec))

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


Answers = list[tuple[list[int], list[float]]]


@pytest.fixture(scope="module")
def plain(model: ModelOptions) -> Callable[[int], Answers]:
    """The answers of each request alone, by the size of the blocks."""

    @cache
    def answer(block_size: int) -> Answers:
        case = Case(cache=CacheOptions(num_blocks=4096 // block_size, block_size=block_size, prefix_caching=False))
        with ThreadPoolExecutor() as thread:  # a test has an event loop of its own already
            got, stats = thread.submit(asyncio.run, answers(model, case, together=False)).result()
        assert stats.cached_tokens == stats.preemptions == stats.drafted_tokens == 0
        return [content(events) for events in got]

    return answer


@pytest.mark.parametrize("name", CASES)
async def test_every_way_of_running_gives_the_plain_answer(
    name: str, model: ModelOptions, plain: Callable[[int], Answers]
) -> None:
    got, stats = await answers(model, CASES[name], together=True)
    expected = plain(CASES[name].cache.block_size)
    assert [content(events) for events in got] == expected
    assert all(len(ids) == 24 for ids, _ in expected)
    if CASES[name].seen:
        assert getattr(stats, CASES[name].seen) > 0
    assert stats.blocks_used == 0


async def test_another_seed_gives_another_answer(model: ModelOptions, plain: Callable[[int], Answers]) -> None:
    client = InlineClient(EngineOptions(model=model, cache=ROOMY))
    await client.start()
    events = [event async for event in client.generate(ask((5,), temperature=0.7, seed=14))]
    await client.close()
    assert content(events)[0] != plain(ROOMY.block_size)[4][0]

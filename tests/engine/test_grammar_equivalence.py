"""A request with a grammar gives the same answer whatever the engine does meanwhile, and changes nobody else's."""

import asyncio
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from test_equivalence import CASES, Case, content
from tiny_models import DEFAULT_MODEL, make_checkpoint

from engine.client import InlineClient
from engine.config import CacheOptions, EngineOptions, ModelOptions
from engine.runtimes.native import available
from engine.text.tokenizer import Tokenizer
from engine.types import EngineStats, FinishReason, GenerateRequest, Grammar, SamplingParams, TokenEvent

SHARED = tuple(range(40, 73))
RECORD = Grammar(
    "json",
    json.dumps(
        {
            "type": "object",
            "properties": {
                "id": {"type": "integer", "minimum": 0, "maximum": 99999},
                "name": {"type": "string", "maxLength": 12},
                "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 2, "maxItems": 3},
            },
            "required": ["id", "name", "tags"],
            "additionalProperties": False,
        }
    ),
)
LIST = Grammar("regex", "(one, two, three, ){2,4}four")  # which repeats itself: much to speculate on
WORDS = Grammar("lark", 'start: WORD ("-" WORD)*\nWORD: /[a-z]{2,6}/')


def ask(prompt: tuple[int, ...], grammar: Grammar | None, new: int = 32, **params: Any) -> GenerateRequest:
    sampling = SamplingParams(max_new_tokens=new, logprobs=True, ignore_eos=True, grammar=grammar, **params)
    return GenerateRequest(prompt=prompt, params=sampling)


REQUESTS = [
    ask((*SHARED, 2, 3), RECORD, 60),
    ask(SHARED * 2, None, repetition_penalty=1.2),
    ask((*SHARED[:17], 9), LIST, 40, temperature=0.9, seed=11),
    ask(SHARED, RECORD, 60, temperature=1.3, top_k=20, presence_penalty=0.5, seed=12, raw_logprobs=True),
    ask((5,), None, temperature=0.7, seed=13),
    ask((*SHARED, 2), WORDS, 24, frequency_penalty=1.0, relative_frequency=True),
    ask((*SHARED, 2), LIST, 40),
]


@pytest.fixture(scope="module", params=["reference", "native"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelOptions:
    if request.param == "native" and (reason := available()):
        pytest.skip(reason)
    path = make_checkpoint(tmp_path_factory.mktemp("model"), tokenizer=True, max_position_embeddings=192)
    return ModelOptions(path=str(path), runtime=request.param)


async def answers(
    model: ModelOptions, case: Case, requests: list[GenerateRequest], *, together: bool
) -> tuple[list[list[TokenEvent]], EngineStats]:
    client = InlineClient(EngineOptions(model=model, cache=case.cache, scheduler=case.scheduler, spec=case.spec))

    async def collect(request: GenerateRequest) -> list[TokenEvent]:
        return [event async for event in client.generate(request)]

    await client.start()
    try:
        for _ in range(case.rounds):
            if together:
                got = await asyncio.gather(*(collect(request) for request in requests))
            else:
                got = [await collect(request) for request in requests]
        return list(got), client.stats
    finally:
        await client.close()


Answers = list[tuple[list[int], list[float]]]


@pytest.fixture(scope="module")
def plain(model: ModelOptions) -> Callable[[int], Answers]:
    """The answers of each request alone, by the size of the blocks."""

    @cache
    def answer(block_size: int) -> Answers:
        case = Case(cache=CacheOptions(num_blocks=4096 // block_size, block_size=block_size, prefix_caching=False))
        with ThreadPoolExecutor() as thread:  # a test has an event loop of its own already
            got, _ = thread.submit(asyncio.run, answers(model, case, REQUESTS, together=False)).result()
        return [content(events) for events in got]

    return answer


CHOSEN = {name: CASES[name] for name in ("batched", "chunked", "cached", "preempted", "speculated", "everything")}
CHOSEN["everything"] = replace(CASES["everything"], cache=CacheOptions(num_blocks=34, block_size=4))
CHOSEN["preempted"] = Case(cache=CacheOptions(num_blocks=26, block_size=8), seen="preemptions")


@pytest.mark.parametrize("name", CHOSEN)
async def test_every_way_of_running_gives_the_plain_answer(
    name: str, model: ModelOptions, plain: Callable[[int], Answers]
) -> None:
    got, stats = await answers(model, CHOSEN[name], REQUESTS, together=True)
    assert [content(events) for events in got] == plain(CHOSEN[name].cache.block_size)
    if CHOSEN[name].seen:
        assert getattr(stats, CHOSEN[name].seen) > 0
    if name == "speculated":
        assert stats.accepted_tokens > 0
    assert stats.blocks_used == 0


async def test_the_answers_match_their_grammars(model: ModelOptions, plain: Callable[[int], Answers]) -> None:
    """Also where the end tokens are to be ignored: nothing else could follow."""
    tokenizer = Tokenizer.load(DEFAULT_MODEL)
    got, _ = await answers(model, Case(), REQUESTS, together=True)
    texts = [tokenizer.decode(content(events)[0]) for events in got]
    reasons = [events[-1].finish_reason for events in got]
    for i, pattern in ((2, r"(one, two, three, ){2,4}four"), (6, r"(one, two, three, ){2,4}four")):
        assert reasons[i] is FinishReason.EOS
        assert re.fullmatch(pattern, texts[i])
    for i in (0, 3):
        if reasons[i] is FinishReason.EOS:
            assert list(json.loads(texts[i])) == ["id", "name", "tags"]
        else:
            assert texts[i].startswith("{")
    assert re.fullmatch(r"[a-z-]+", texts[5])
    logprobs = [content(events)[1] for events in got]
    assert 0.0 in logprobs[2]  # a token that the grammar forces is certain
    assert max(logprobs[3]) < 0  # but not to the model


async def test_a_request_without_a_grammar_does_not_notice_those_with_one(model: ModelOptions) -> None:
    without = [request for request in REQUESTS if request.params.grammar is None]
    alone, _ = await answers(model, Case(), without, together=True)
    mixed, _ = await answers(model, Case(), REQUESTS, together=True)
    assert [content(events) for events in alone] == [content(mixed[1]), content(mixed[4])]

"""Whether every token is counted, and every kind of stream taken for what it is."""

from collections.abc import Iterator

from bench.api.corpus import load
from bench.load.arrivals import Load
from bench.mock import Behaviour
from bench.selftest.check import Check
from bench.selftest.rig import exchange
from bench.types import Api

REQUESTS = 8
TOKENS = 61  # prime: the last event is a short one


def _behaviours() -> Iterator[tuple[Api, Behaviour]]:
    """Every number of tokens in an event, each with every way a server can tell it."""
    cycles = [(k,) for k in range(1, 9)] + [(3, 1, 8, 2, 5, 7, 4, 6)]
    for cycle in cycles:
        for api in (Api.COMPLETIONS, Api.CHAT):
            yield api, Behaviour(ttft_ms=0, itl_ms=1, tokens_per_event=cycle)
            yield api, Behaviour(ttft_ms=0, itl_ms=1, tokens_per_event=cycle, usage="final", token_ids=True)
        yield (
            Api.CHAT,
            Behaviour(ttft_ms=0, itl_ms=1, tokens_per_event=cycle, role="early", reasoning=9, tools=7, comments=2),
        )
    yield Api.TGI, Behaviour(ttft_ms=0, itl_ms=1)
    yield Api.TGI, Behaviour(ttft_ms=0, itl_ms=1, coalesce=5, fragment=11)


def tokens(quick: bool) -> list[Check]:
    wrong = events = streams = 0
    load = Load(concurrency=REQUESTS, requests=REQUESTS)
    cases = list(_behaviours())
    for api, behaviour in cases[:: 6 if quick else 1]:
        run = exchange(behaviour, load, requests=REQUESTS, output_tokens=TOKENS, api=api)
        for pair in run.pairs:
            streams += 1
            events += len(pair.truth.tokens)
            wrong += pair.record.output_tokens != TOKENS
            seen = [(event.tokens, event.kind) for event in pair.record.events]
            true = zip(pair.truth.tokens, pair.truth.kinds, strict=True)
            wrong += sum(one != other for one, other in zip(seen, true, strict=True))
    note = f"{events:,} events of {streams:,} streams"
    return [Check(name="wrong token counts, 1 to 8 tokens per event", figure=wrong, low=0, high=0, note=note)]


def corpus(quick: bool) -> list[Check]:
    cases = load()
    wrong = [case.name for case in cases if case.mistakes()]
    note = f"{len(cases)} streams" + "".join(f"; {name}" for name in wrong[:3])
    return [
        Check(name="streams of the corpus", figure=len(cases), low=200),
        Check(name="streams of the corpus taken for something else", figure=len(wrong), low=0, high=0, note=note),
    ]

"""Both clients keep the same promises: streams, refusals, cancellation, and nothing left in use."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from engine.client import InlineClient, ProcessClient
from engine.config import CacheOptions, EngineOptions, ModelOptions, SchedulerOptions, SpecOptions
from engine.errors import EngineDead, InvalidRequest, ModelNotFound, Overloaded, StartError
from engine.types import EngineStats, FinishReason, GenerateRequest, SamplingParams, TokenEvent

MODEL = Path(__file__).parents[2] / "engine" / "assets" / "default"
PROMPT = tuple(range(100, 140))
KINDS = [InlineClient, ProcessClient]

Client = InlineClient | ProcessClient


def options(**changes: object) -> EngineOptions:
    return EngineOptions(
        model=ModelOptions(path=str(MODEL), dtype="float32"),
        cache=CacheOptions(num_blocks=64),
        **changes,  # type: ignore[arg-type]
    )


@pytest.fixture(params=KINDS, ids=["inline", "process"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    client: Client = request.param(options())
    await client.start()
    try:
        yield client
    finally:
        await client.close()


def ask(n: int = 8, **params: object) -> GenerateRequest:
    params = {"ignore_eos": True, **params}
    return GenerateRequest(prompt=PROMPT, params=SamplingParams(max_new_tokens=n, **params))  # type: ignore[arg-type]


async def collect(client: Client, request: GenerateRequest) -> list[TokenEvent]:
    return [event async for event in client.generate(request)]


def tokens(events: list[TokenEvent]) -> list[int]:
    return [token for event in events for token in event.tokens]


async def until_idle(client: Client) -> None:
    """Wait for the core's next reports until nothing runs; the test's time limit is the bound."""
    while client.stats.running or client.stats.waiting or client.stats.blocks_used:
        await asyncio.sleep(0.01)


async def test_a_request_streams_its_tokens_and_ends_once(client: Client) -> None:
    events = await collect(client, ask(8, seed=5))
    assert len(tokens(events)) == 8
    assert [event.finish_reason for event in events[:-1]] == [None] * (len(events) - 1)
    last = events[-1]
    assert last.finish_reason is FinishReason.LENGTH
    assert last.seed == 5
    assert last.timings is not None
    assert min(last.timings.queue, last.timings.prefill, last.timings.decode) >= 0
    await until_idle(client)
    assert client.stats.generated_tokens == 8
    assert client.stats.prompt_tokens == len(PROMPT)


async def test_a_seed_is_drawn_returned_and_repeats_the_text(client: Client) -> None:
    first = await collect(client, ask(8, temperature=1.0))
    other = await collect(client, ask(8, temperature=1.0))
    seed = first[-1].seed
    assert seed is not None
    assert seed != other[-1].seed
    assert tokens(await collect(client, ask(8, temperature=1.0, seed=seed))) == tokens(first)


async def test_together_they_give_what_each_gives_alone(client: Client) -> None:
    requests = [ask(6, temperature=0.8, seed=seed) for seed in range(5)]
    alone = [tokens(await collect(client, request)) for request in requests]
    together = await asyncio.gather(*(collect(client, request) for request in requests))
    assert [tokens(events) for events in together] == alone


async def test_prompt_scores_come_once_with_the_first_token(client: Client) -> None:
    events = await collect(client, ask(3, prompt_logprobs=True, logprobs=True, top_n_tokens=2))
    assert len(events[0].prompt_logprobs) == len(PROMPT) - 1
    assert all(not event.prompt_logprobs for event in events[1:])
    assert all(score <= 0 for score in events[0].prompt_logprobs)
    assert all(len(event.logprobs) == len(event.tokens) == len(event.top) for event in events)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (GenerateRequest(prompt=(), params=SamplingParams()), "empty"),
        (GenerateRequest(prompt=(10**6,), params=SamplingParams()), "vocabulary"),
        (GenerateRequest(prompt=PROMPT, params=SamplingParams(max_new_tokens=5000)), "max_new_tokens"),
        (GenerateRequest(prompt=PROMPT, params=SamplingParams(temperature=float("nan"))), "temperature"),
    ],
    ids=["empty", "vocabulary", "too-long", "nan"],
)
async def test_a_bad_request_is_refused_and_the_next_one_served(
    client: Client, request_: GenerateRequest, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        await collect(client, request_)
    assert len(tokens(await collect(client, ask(2)))) == 2


async def test_closing_a_stream_cancels_its_request(client: Client) -> None:
    async with aclosing(client.generate(ask(900))) as stream:
        await anext(stream)
        assert client.stats.running == 1
    await until_idle(client)
    assert client.stats.generated_tokens < 900


async def test_cancelling_the_task_of_a_waiting_request_frees_it(client: Client) -> None:
    tasks = [asyncio.create_task(collect(client, ask(400))) for _ in range(6)]
    while not client.stats.running:
        await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    await until_idle(client)
    assert len(tokens(await collect(client, ask(2)))) == 2


async def test_a_closed_client_refuses(client: Client) -> None:
    await client.close()
    await client.close()
    assert not client.healthy
    with pytest.raises(EngineDead):
        await collect(client, ask(1))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_model_that_is_not_there_is_a_typed_error(kind: type[Client], tmp_path: Path) -> None:
    client = kind(EngineOptions(model=ModelOptions(path=str(tmp_path / "none"))))
    with pytest.raises(ModelNotFound, match="none"):
        await client.start()
    await client.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_full_queue_is_overloaded(kind: type[Client]) -> None:
    client = kind(options(scheduler=SchedulerOptions(max_batch_size=1, max_waiting_requests=1)))
    await client.start()
    async with aclosing(client.generate(ask(500))) as running:
        await anext(running)
        asked = [asyncio.create_task(collect(client, ask(1))) for _ in range(3)]
        refused, waiting = await asyncio.wait(asked[1:])  # the first one waits
        assert not waiting
        assert all(isinstance(task.exception(), Overloaded) for task in refused)
    assert len(tokens(await asked[0])) == 1
    await client.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_speculation_changes_nothing_but_the_number_of_steps(kind: type[Client]) -> None:
    plain, guessing = kind(options()), kind(options(spec=SpecOptions(num_draft=4)))
    request = GenerateRequest(prompt=PROMPT * 3, params=SamplingParams(max_new_tokens=60, ignore_eos=True))
    want = await _once(plain, request)
    got = await _once(guessing, request)
    assert tokens(got) == tokens(want)
    assert sum(event.accepted for event in got) > 0
    assert len(got) < len(want)


async def _once(client: Client, request: GenerateRequest) -> list[TokenEvent]:
    await client.start()
    try:
        return await collect(client, request)
    finally:
        await client.close()


async def test_killing_the_engine_frees_everything_and_it_comes_back() -> None:
    client = ProcessClient(options())
    info = await client.start()
    want = tokens(await collect(client, ask(4)))
    stream = client.generate(ask(900))
    await anext(stream)
    assert client.stats.blocks_used > 0
    os.kill(info.pid, signal.SIGKILL)
    with pytest.raises(EngineDead):
        async for _ in stream:
            pass
    assert client.stats.blocks_used == 0
    while not client.healthy:
        await asyncio.sleep(0.01)
    assert client.pid != info.pid
    assert tokens(await collect(client, ask(4))) == want
    await client.close()


@pytest.mark.parametrize("order", [signal.SIGTERM, signal.SIGINT])
async def test_the_engine_leaves_the_signals_of_its_group_to_the_parent(order: signal.Signals) -> None:
    client = ProcessClient(options())
    info = await client.start()
    os.kill(info.pid, order)
    assert len(tokens(await collect(client, ask(2)))) == 2
    assert client.pid == info.pid
    await client.close()


async def test_every_step_is_reported_also_those_that_bring_no_request_a_token() -> None:
    client = InlineClient(options(scheduler=SchedulerOptions(max_batch_prefill_tokens=16)))
    reported: list[EngineStats] = []
    client.on_step = reported.append
    await client.start()
    await collect(client, ask(3))  # 40 prompt tokens: three steps to the first token
    await client.close()
    steps = {stats.steps: stats for stats in reported}
    assert list(steps) == [1, 2, 3, 4, 5, 0]  # 0: it is gone
    assert [stats.step_prefill for stats in steps.values()] == [True, True, True, False, False, False]
    assert all(stats.step_size == 1 for stats in reported if stats.steps)


async def test_an_engine_that_keeps_dying_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.client.RESTART_DELAYS", (0.0,))
    client = ProcessClient(options())
    lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    client.on_lost = lost.set_result
    info = await client.start()
    os.kill(info.pid, signal.SIGKILL)
    while client.pid in (None, info.pid) or not client.healthy:
        await asyncio.sleep(0.01)
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)
    assert "died 2 times" in await lost
    assert not client.healthy
    await client.close()


async def test_a_hung_engine_is_replaced() -> None:
    client = ProcessClient(options(), hang_seconds=3.0)
    info = await client.start()
    os.kill(info.pid, signal.SIGSTOP)
    with pytest.raises(EngineDead, match="has not answered"):
        await collect(client, ask(1))
    while not client.healthy:
        await asyncio.sleep(0.01)
    assert len(tokens(await collect(client, ask(2)))) == 2
    await client.close()


async def test_an_engine_that_ends_while_loading_is_a_start_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.process.ENTRY_POINT", "engine.no_such_module")
    client = ProcessClient(options())
    with pytest.raises(StartError, match="ended while it was loading"):
        await client.start()


async def test_the_engine_ends_when_its_parent_does() -> None:
    from engine.process import spawn

    process, connection = spawn(options())
    assert connection.recv(1)  # it is loaded and running
    connection.close()
    assert await asyncio.to_thread(process.wait, 20) == 0

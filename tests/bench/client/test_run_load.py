"""A whole run with worker processes: phases, places, sessions, schedules, early ends and lost workers."""

import math
import os
import resource
import signal
import socket
from collections import defaultdict

import pytest
from scripted_server import HEAD, LAST, ScriptedServer, Talk, answer, chunk
from send_plan import post

from bench.client import pool
from bench.client.address import Address
from bench.client.pool import LoadResult, Progress, StopSignal, WorkerLost, run_load
from bench.load.arrivals import Load
from bench.types import Phase, PlannedRequest, RawStream, UsageError

EVENT = chunk(b"data: 1\n\n")


async def stream_well(talk: Talk) -> None:
    while await talk.request() is not None:
        with talk.server.answering():
            await talk.send(HEAD, EVENT, EVENT, LAST)


async def hold(talk: Talk) -> None:
    """Begins an answer and never ends it."""
    await talk.request()
    await talk.send(HEAD, EVENT)
    await talk.closed_by_client()


def posts(count: int, **changes) -> list[PlannedRequest]:
    return [post(index, b"%d" % index, **changes) for index in range(count)]


def closed(concurrency: int, requests: int = 1) -> Load:
    return Load(concurrency=concurrency, requests=requests)


class Recorder:
    """An `on_progress` that keeps what it was told, and may act on it."""

    def __init__(self, act=lambda progress: None) -> None:
        self.told: list[Progress] = []
        self.act = act

    def __call__(self, progress: Progress) -> None:
        self.told.append(progress)
        self.act(progress)

    @property
    def streams(self) -> list[RawStream]:
        return [stream for progress in self.told for stream in progress.finished]


def by_index(result: LoadResult, phase: Phase = Phase.MEASURED) -> dict[int, RawStream]:
    return {stream.index: stream for stream in result.streams if stream.phase is phase}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_closed_loop_warms_up_and_then_measures_everything_once(workers):
    planned = [*posts(6, phase=Phase.WARMUP), *posts(40)]
    told = Recorder()
    with ScriptedServer.start(stream_well) as server:
        result = run_load(server.address, planned, closed(5, 40), workers=workers, on_progress=told)
    assert sorted(by_index(result)) == list(range(40))
    assert sorted(by_index(result, Phase.WARMUP)) == list(range(6))
    assert server.most_open <= 5
    assert server.connections == 5
    assert result.workers == workers
    start, end = result.window_ns
    measured = by_index(result).values()
    assert all(start <= stream.scheduled_ns <= stream.sent_ns < stream.ended_ns <= end for stream in measured)
    assert all(stream.ended_ns < start for stream in by_index(result, Phase.WARMUP).values())
    assert all(stream.reused for stream in list(measured)[5:])
    assert end == max(stream.ended_ns for stream in measured)
    assert sorted(stream.index for stream in told.streams) == sorted(stream.index for stream in result.streams)
    last = told.told[-1]
    assert (last.phase, last.planned, last.sent, last.done, last.in_flight) == (Phase.MEASURED, 40, 40, 40, 0)
    assert last.reads == sum(len(stream.reads) for stream in measured)
    assert last.failed == {}
    assert sum(second.sends for second in result.health) == 40
    assert sum(second.events for second in result.health) == last.reads
    assert {second.worker for second in result.health} == set(range(workers))
    assert all(second.memory_bytes > 1e6 and second.open_files > 5 for second in result.health)


def test_an_open_loop_sends_each_request_when_it_is_due_and_never_before():
    planned = [post(index, at_ns=index * 2_000_000) for index in range(50)]
    with ScriptedServer.start(stream_well) as server:
        result = run_load(server.address, planned, Load(rate=500.0, duration_s=0.1), workers=2)
    start, end = result.window_ns
    streams = by_index(result)
    assert end - start == 100_000_000
    for index in range(50):
        assert streams[index].scheduled_ns == start + index * 2_000_000
        assert streams[index].sent_ns >= streams[index].scheduled_ns


def test_all_at_once_is_on_connections_that_were_made_before():
    planned = [post(index, at_ns=0) for index in range(60)]
    with ScriptedServer.start(hold) as server:
        stop = StopSignal()
        told = Recorder(lambda progress: progress.sent == 60 and [stop.set(), stop.set()])
        result = run_load(
            server.address, planned, Load(rate=math.inf, requests=60), workers=1, on_progress=told, stop=stop
        )
        assert server.connections == 60
    assert all(stream.cancelled for stream in result.streams)


def test_a_limit_on_an_open_loop_holds_and_the_wait_is_on_the_schedule():
    planned = [post(index, at_ns=0) for index in range(12)]
    with ScriptedServer.start(stream_well) as server:
        load = Load(rate=math.inf, requests=12, max_concurrency=3)
        result = run_load(server.address, planned, load, workers=2)
    assert server.most_open <= 3
    assert {stream.scheduled_ns for stream in result.streams} == {result.window_ns[0]}


def test_turns_of_a_session_follow_each_other_and_are_filled_in():
    planned = []
    for session in range(4):
        for turn in range(3):
            messages = [{"role": "user", "content": "?"}] if turn else None
            planned.append(post(len(planned), b"-", session=session, turn=turn, messages=messages))

    def fill(request: PlannedRequest, earlier: list[RawStream]) -> bytes:
        assert len(earlier) == request.turn
        return post(0, b"after " + b",".join(b"%d" % stream.index for stream in earlier)).payload

    with ScriptedServer.start(stream_well) as server:
        result = run_load(server.address, planned, closed(3, 12), workers=2, fill_turn=fill)
    streams = by_index(result)
    assert sorted(streams) == list(range(12))
    for first in range(0, 12, 3):
        assert streams[first].ended_ns <= streams[first + 1].scheduled_ns
        assert streams[first + 1].ended_ns <= streams[first + 2].scheduled_ns
    sent = {body for _, body in server.requests}
    assert {b"after 0", b"after 0,1", b"after 9,10"} <= sent


def test_a_session_ends_where_its_answer_failed_or_cannot_be_used():
    planned = [
        post(0, b"bad", session=0),
        post(1, b"-", session=0, turn=1, messages=[]),
        post(2, b"good", session=1),
        post(3, b"-", session=1, turn=1, messages=[]),
        post(4, b"good"),
    ]
    asked = []

    async def script(talk: Talk) -> None:
        while (body := await talk.request()) is not None:
            await talk.send(answer(b"", b"500 Broken") if body == b"bad" else answer(b"ok"))

    def fill(request: PlannedRequest, earlier: list[RawStream]) -> None:
        asked.append(request.index)

    with ScriptedServer.start(script) as server:
        result = run_load(server.address, planned, closed(1, 5), fill_turn=fill)
    assert asked == [3]
    assert {index: stream.sent_ns > 0 for index, stream in by_index(result).items()} == {
        0: True, 1: False, 2: True, 3: False, 4: True,
    }  # fmt: skip


def test_failures_are_counted_by_kind():
    answers = [answer(b"", b"503 Busy"), answer(b"", b"429 Slow Down"), HEAD + EVENT, HEAD + LAST]

    async def script(talk: Talk) -> None:
        while (body := await talk.request()) is not None:
            response = answers[int(body) % 4]
            await talk.send(response)
            if not response.endswith(LAST) and response.startswith(HEAD):
                break

    told = Recorder()
    with ScriptedServer.start(script) as server:
        run_load(server.address, posts(8), closed(2, 8), on_progress=told)
    assert told.told[-1].failed == {"503": 2, "429": 2, "cut": 2}


def test_stop_lets_what_is_in_flight_end_and_sends_nothing_more():
    stop = StopSignal(grace_s=1e6)

    async def script(talk: Talk) -> None:
        while await talk.request() is not None:
            await talk.send(HEAD)
            if stop.is_set():
                await talk.send(EVENT, LAST)
                continue
            while not stop.is_set():
                await talk.send(EVENT)
                await talk.pause()
            await talk.send(LAST)

    told = Recorder(lambda progress: progress.in_flight == 3 and not stop.is_set() and stop.set())
    with ScriptedServer.start(script) as server:
        result = run_load(server.address, posts(20), closed(3, 20), on_progress=told, stop=stop)
    sent = [stream for stream in result.streams if stream.sent_ns]
    assert len(result.streams) == 20
    assert 3 <= len(sent) < 20
    assert not any(stream.cancelled or stream.broken for stream in sent)
    assert told.told[-1].failed == {"never sent": 20 - len(sent)}
    assert result.window_ns[1] == max(stream.ended_ns for stream in sent)


@pytest.mark.parametrize("twice", [True, False])
def test_what_does_not_end_within_its_grace_is_cancelled(twice):
    stop = StopSignal(grace_s=1e6 if twice else 0.0)
    told = Recorder(lambda progress: progress.in_flight == 2 and [stop.set() for _ in range(1 + twice)])
    with ScriptedServer.start(hold) as server:
        result = run_load(server.address, posts(5), closed(2, 5), workers=2, on_progress=told, stop=stop)
    assert told.told[-1].failed == {"cancelled": 2, "never sent": 3}
    assert len(result.streams) == 5


def test_of_a_duration_the_supply_that_was_not_needed_is_no_loss():
    async def script(talk: Talk) -> None:
        while await talk.request() is not None:
            await talk.send(HEAD)
            for _ in range(20):
                await talk.send(EVENT)
                await talk.pause()
            await talk.send(LAST)

    with ScriptedServer.start(script) as server:
        result = run_load(server.address, posts(100_000), Load(concurrency=2, duration_s=0.3))
    start, end = result.window_ns
    assert end == start + 300_000_000
    assert 2 <= len(result.streams) < 100_000
    assert all(stream.sent_ns < end for stream in result.streams)
    assert not any(stream.cancelled or stream.broken for stream in result.streams)


def children() -> set[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return {int(pid) for pid in file.read().split()}


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="finds its children in /proc")
def test_a_worker_that_dies_is_reported_with_all_that_was_collected():
    before = children()
    ends: defaultdict[str, int] = defaultdict(int)

    def kill(progress: Progress) -> None:
        ends["done"] += len(progress.finished)
        if ends["done"] >= 8 and progress.in_flight == 4 and not ends["killed"]:
            ends["killed"] = min(children() - before)
            os.kill(ends["killed"], signal.SIGKILL)

    async def script(talk: Talk) -> None:
        while (body := await talk.request()) is not None:
            await (hold(talk) if int(body) >= 8 else talk.send(HEAD, EVENT, LAST))

    async def hold(talk: Talk) -> None:
        await talk.send(HEAD, EVENT)
        await talk.closed_by_client()

    with ScriptedServer.start(script) as server, pytest.raises(WorkerLost, match="killed by signal 9") as caught:
        run_load(server.address, posts(20), closed(4, 20), workers=2, on_progress=kill)
    streams = by_index(caught.value.partial)
    assert sorted(streams) == list(range(20))
    assert all(streams[index].broken is None for index in range(8))
    lost = [stream for stream in streams.values() if stream.broken]
    assert lost
    assert all("the worker process was killed by signal 9" in (stream.broken or "") for stream in lost)
    assert caught.value.exit_code == 3
    assert children() == before


def test_no_worker_outlives_a_run_that_is_broken_off():
    before = children()

    def fail(progress: Progress) -> None:
        raise KeyboardInterrupt

    with ScriptedServer.start(hold) as server, pytest.raises(KeyboardInterrupt):
        run_load(server.address, posts(2), closed(2, 2), on_progress=fail)
    assert children() == before


def test_a_server_that_is_not_there_fails_every_request():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = Address("http", "127.0.0.1", sock.getsockname()[1])
        told = Recorder()
        result = run_load(address, posts(300), closed(4, 300), on_progress=told)
    assert len(result.streams) == 300
    assert told.told[-1].failed == {"connect": 300}


def test_too_few_open_files_are_a_clear_refusal(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 1024))
    with pytest.raises(UsageError, match=r"2000 connections in one worker need 2064 open files.* allows 1024"):
        run_load(Address("http", "127.0.0.1", 1), posts(1) * 2000, closed(2000), workers=1)


def test_what_is_asked_for_in_the_wrong_way_is_refused():
    address = Address("http", "127.0.0.1", 1)
    with pytest.raises(ValueError, match="need their times"):
        run_load(address, posts(1), Load(rate=1.0, requests=1))
    with pytest.raises(ValueError, match="need a fill_turn"):
        run_load(address, [post(0, messages=[])], closed(1))
    with pytest.raises(UsageError, match="workers is 0"):
        run_load(address, posts(1), closed(1), workers=0)


@pytest.mark.parametrize(
    ("load", "cores", "workers"),
    [
        (closed(8), 16, 1),
        (closed(2000), 16, 4),
        (closed(2000), 2, 1),
        (Load(rate=100.0, requests=1), 16, 1),
        (Load(rate=math.inf, requests=1), 16, 8),
    ],
)
def test_the_number_of_workers_follows_the_load(monkeypatch, load, cores, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    assert pool._workers(load) == workers

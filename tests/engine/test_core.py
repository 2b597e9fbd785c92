"""The step loop: one failure ends one request, a cancel beats the commit, prompt scores survive a preemption."""

from collections.abc import Callable, Iterable
from queue import SimpleQueue

import pytest

from engine.config import CacheOptions, EngineOptions, ModelOptions, SchedulerOptions
from engine.core import Channel, EngineCore
from engine.errors import InvalidRequest
from engine.runtimes import Masks, WorkerInfo
from engine.sched.plan import Chunk, ChunkOutput, StepPlan, StepResult
from engine.types import FinishReason, GenerateRequest, SamplingParams, TokenEvent
from engine.wire import Cancel, Message, Refused, Reply, Step, Stop, Submit

EOS = 7


class CountingWorker:
    """Says 10, 11, 12, ... and does to a step what the test wants."""

    def __init__(self, num_blocks: int = 16) -> None:
        self.info = WorkerInfo(
            architecture="Counting",
            runtime="test",
            dtype="float32",
            vocab_size=1000,
            eos_token_ids=(EOS,),
            max_context=64,
            num_blocks=num_blocks,
            num_slots=9,
            num_parameters=0,
            weight_bytes=0,
            kv_bytes=0,
        )
        self.before_answer: Callable[[StepPlan], None] = lambda plan: None
        self.failing: set[int] = set()
        self.closed = False

    def execute(self, plan: StepPlan, masks: Masks | None = None) -> StepResult:
        self.before_answer(plan)
        return StepResult(plan.step, {chunk.request_id: self._answer(chunk) for chunk in plan.chunks})

    def _answer(self, chunk: Chunk) -> ChunkOutput:
        if chunk.request_id in self.failing:
            return ChunkOutput(error="a logit is not a number")
        end = chunk.start + len(chunk.tokens)
        scores = range(chunk.start + 1, min(end + 1, 12)) if chunk.prompt_logprobs else range(0)
        return ChunkOutput(tokens=(end,) if chunk.sample else (), prompt_logprobs=tuple(-float(p) for p in scores))

    def close(self) -> None:
        self.closed = True


def core(worker: CountingWorker, **scheduler: int) -> EngineCore:
    options = EngineOptions(
        model=ModelOptions(path="none"),
        cache=CacheOptions(block_size=4),
        scheduler=SchedulerOptions(**{"max_batch_size": 8, **scheduler}),  # type: ignore[arg-type]
    )
    clock = iter(range(10**6))
    return EngineCore(worker, options, clock=lambda: float(next(clock)))


def request(length: int = 5, new: int = 4, **params: object) -> GenerateRequest:
    sampling = SamplingParams(max_new_tokens=new, ignore_eos=True, **params)  # type: ignore[arg-type]
    return GenerateRequest(prompt=tuple(range(100, 100 + length)), params=sampling)


def run(engine: EngineCore) -> list[TokenEvent]:
    events: list[TokenEvent] = []
    while engine.has_work:
        events += engine.step()
    return events


def tokens(events: Iterable[TokenEvent], request_id: int) -> list[int]:
    return [token for event in events if event.request_id == request_id for token in event.tokens]


def test_events_carry_tokens_seed_and_times() -> None:
    engine = core(CountingWorker())
    engine.add(1, request(5, 3))
    events = run(engine)
    assert tokens(events, 1) == [5, 6, 7]
    last = events[-1]
    assert last.finish_reason is FinishReason.LENGTH
    assert last.seed is not None
    assert last.timings is not None
    assert (last.timings.queue, last.timings.prefill) == (1.0, 1.0)  # the clock ticks once a reading
    assert last.timings.decode > 0
    stats = engine.stats
    assert (stats.prompt_tokens, stats.generated_tokens, stats.blocks_used) == (5, 3, 0)


def test_a_request_that_fails_in_the_worker_ends_alone() -> None:
    worker = CountingWorker()
    engine = core(worker)
    worker.failing = {2}
    for request_id in (1, 2, 3):
        engine.add(request_id, request())
    events = run(engine)
    assert [event.error for event in events if event.request_id == 2] == ["a logit is not a number"]
    assert len(tokens(events, 1)) == len(tokens(events, 3)) == 4
    assert engine.stats.blocks_used == 0


def test_a_step_that_fails_ends_its_requests_and_the_engine_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    worker = CountingWorker()
    engine = core(worker)

    def fail(plan: StepPlan) -> None:
        raise RuntimeError("out of luck")

    worker.before_answer = fail
    engine.add(1, request())
    (event,) = engine.step()
    assert event.finish_reason is FinishReason.ERROR
    assert event.error is not None
    assert "out of luck" in event.error
    assert "step 1 failed" in caplog.text
    assert (engine.stats.steps, engine.stats.step_failed, engine.stats.prompt_tokens) == (1, True, 0)
    worker.before_answer = lambda plan: None
    engine.add(2, request())
    assert len(tokens(run(engine), 2)) == 4
    assert engine.stats.blocks_used == 0


def test_a_prompt_token_counts_once_whether_computed_found_or_computed_again() -> None:
    engine = core(CountingWorker(num_blocks=9), max_batch_prefill_tokens=3, max_batch_size=2)
    engine.add(1, request(12, 20))
    engine.add(2, request(10, 20))
    run(engine)
    assert engine.stats.preemptions > 0
    assert engine.stats.prompt_tokens == 22
    engine.add(3, request(12, 1))
    run(engine)
    assert engine.stats.cached_tokens > 0
    assert engine.stats.prompt_tokens == 34


def test_a_cancel_that_arrives_during_a_step_beats_its_commit() -> None:
    engine = core(CountingWorker())
    engine.add(1, request())
    assert engine.step(drain=lambda: engine.cancel(1)) == []
    assert not engine.has_work
    assert engine.stats.blocks_used == 0
    engine.cancel(1)


def test_prompt_scores_join_over_chunks_and_count_once_after_a_preemption() -> None:
    worker = CountingWorker(num_blocks=9)
    engine = core(worker, max_batch_prefill_tokens=3, max_batch_size=2)
    engine.add(1, request(12, 20))
    engine.add(2, request(12, 20, prompt_logprobs=True))
    events = run(engine)
    assert engine.stats.preemptions > 0
    scored = [event for event in events if event.prompt_logprobs]
    assert [event.request_id for event in scored] == [2]
    assert scored[0].prompt_logprobs == tuple(-float(p) for p in range(1, 12))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (GenerateRequest(prompt=(), params=SamplingParams()), "empty"),
        (GenerateRequest(prompt=(1000,), params=SamplingParams()), "token id 1000"),
        (GenerateRequest(prompt=(-1,), params=SamplingParams()), "token id -1"),
        (request(60, 60), "max_new_tokens"),
        (request(top_p=float("nan")), "top_p"),
        (request(logit_bias=((1000, 1.0),)), "logit_bias"),
    ],
)
def test_bad_requests_are_refused_and_leave_nothing(bad: GenerateRequest, message: str) -> None:
    engine = core(CountingWorker())
    with pytest.raises(InvalidRequest, match=message):
        engine.add(1, bad)
    assert not engine.has_work
    engine.add(1, request())
    assert len(tokens(run(engine), 1)) == 4


def test_the_loop_serves_messages_until_told_to_stop() -> None:
    inbox: SimpleQueue[Message] = SimpleQueue()
    replies: list[Reply] = []
    messages = [Submit(1, request()), Submit(2, GenerateRequest(prompt=(), params=SamplingParams())), Cancel(9)]
    for message in messages:
        inbox.put(message)

    def send(reply: Reply) -> None:
        replies.append(reply)
        if isinstance(reply, Step) and any(event.finish_reason for event in reply.events):
            inbox.put(Stop())

    core(CountingWorker()).run(Channel(inbox, send))
    assert Refused(2, "InvalidRequest", "`inputs` cannot be empty") in replies
    events = [event for reply in replies if isinstance(reply, Step) for event in reply.events]
    assert tokens(events, 1) == [5, 6, 7, 8]
    final = replies[-1]
    assert isinstance(final, Step)
    assert final.stats.blocks_used == 0

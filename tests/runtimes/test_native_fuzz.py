"""Plans that no scheduler would make, at the native worker: whatever the mixture, each request gets what it gets alone.

Requests of any prompt and parameters come and go; their tokens are computed in any pieces and batches, with guesses
behind them, over blocks that they may share, up to the last position that the context has.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("engine.runtimes.native._native", exc_type=ImportError)

from step_driver import Request, StepDriver
from tiny_models import make_checkpoint
from worker_laws import BLOCK, options

from engine.config import CacheOptions, SchedulerOptions
from engine.runtimes import Worker
from engine.runtimes.native.worker import NativeWorker
from engine.runtimes.reference.worker import ReferenceWorker
from engine.sched.plan import ChunkOutput, Enter, StepPlan
from engine.types import SamplingParams

VOCAB, CONTEXT = 96, 128
FLOAT: dict[str, Any] = {"dtype": "float32", "kv_cache_dtype": "float32"}
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": FLOAT,
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"quantize": "int8"},
    "int4 over int8": {"quantize": "int4", "kv_cache_dtype": "int8"},
}

token = st.integers(0, VOCAB - 1)
greedy = st.builds(SamplingParams, logprobs=st.just(True), top_n_tokens=st.just(3), prompt_logprobs=st.booleans())
anything = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.5, 2.0]),
    top_k=st.sampled_from([0, 1, 7]),
    top_p=st.sampled_from([1.0, 0.8]),
    typical_p=st.sampled_from([1.0, 0.7]),
    min_p=st.sampled_from([0.0, 0.1]),
    repetition_penalty=st.sampled_from([1.0, 1.4]),
    frequency_penalty=st.sampled_from([0.0, 0.3]),
    logit_bias=st.lists(st.tuples(token, st.floats(-5, 5)), max_size=2).map(tuple),
    seed=st.integers(0, 2**64 - 1),
    logprobs=st.booleans(),
    raw_logprobs=st.booleans(),
    top_n_tokens=st.integers(0, 4),
    prompt_logprobs=st.booleans(),
)


@dataclass(frozen=True)
class Piece:
    """What one request does in one step: a share of its gap, then guesses (all right up to `right` of them)."""

    of: int
    share: float
    drafts: tuple[int, ...]
    right: int
    restart: bool  # leaves first, and comes back for all its tokens
    borrow: bool  # takes the full blocks of another one with the same prompt, where it has none of its own


pieces = st.builds(
    Piece,
    of=st.integers(0, 3),
    share=st.sampled_from([0.0, 0.3, 0.9, 1.0, 1.0]),
    drafts=st.lists(token, max_size=5).map(tuple),
    right=st.integers(0, 5),
    restart=st.integers(0, 7).map(lambda n: n == 0),
    borrow=st.booleans(),
)
steps = st.lists(st.lists(pieces, max_size=4, unique_by=lambda piece: piece.of), min_size=1, max_size=12)
prompts = st.one_of(st.lists(token, min_size=1, max_size=30), st.integers(1, CONTEXT).map(lambda n: [n % VOCAB] * n))


def asked(params: st.SearchStrategy[SamplingParams]) -> st.SearchStrategy[list[tuple[list[int], SamplingParams]]]:
    """Four requests, the last with the prompt of the first."""
    first = st.lists(st.tuples(prompts, params), min_size=3, max_size=3)
    return st.tuples(first, params).map(lambda drawn: [*drawn[0], (drawn[0][0][0], drawn[1])])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("fuzz"))


@cache
def loaded(kind: type[NativeWorker] | type[ReferenceWorker], path: Path, precision: str, copy: int = 0) -> Worker:
    """One worker for all examples: what the last left in the cache must not matter."""
    model = PRECISIONS[precision] if kind is NativeWorker else {}
    large = {"cache": CacheOptions(block_size=BLOCK, num_blocks=2000), "scheduler": SchedulerOptions(max_batch_size=8)}
    return kind.load(options(path, model, **large))


class Fuzz:
    """Carries out the drawn steps with one worker. Blocks are not used twice in an example."""

    def __init__(
        self, worker: Worker, requests: list[tuple[list[int], SamplingParams]], right: list[list[int]]
    ) -> None:
        self.driver = StepDriver(worker, BLOCK)
        self.requests = [self.driver.request(*request) for request in requests]
        self.right = right
        self.before: dict[int, tuple[int, int]] = {}  # tokens known and computed before its last step, by request id

    def step(self, drawn: list[Piece]) -> dict[int, ChunkOutput]:
        return self.driver.step(*(work for piece in drawn for work in self.work(piece)))

    def work(self, piece: Piece) -> Iterator[tuple[Request, int, tuple[int, ...]]]:
        request = self.requests[piece.of]
        if piece.restart:
            self.leave(request)
        if piece.borrow and not request.blocks and piece.of in (0, 3):
            self.borrow(request, self.requests[3 - piece.of])
        room = CONTEXT - len(request.tokens)
        if request.gap == 0 or room < 0:
            return
        known = self.right[piece.of][len(request.tokens) :][: piece.right]
        drafts = (*known, *piece.drafts[len(known) :])[: min(room, 5)]
        self.before[request.id] = len(request.tokens), request.computed
        yield request, max(1, round(piece.share * request.gap)), drafts

    def borrow(self, request: Request, lender: Request) -> None:
        full = min(lender.computed, lender.prompt_len - 1) // BLOCK
        request.blocks, request.computed = lender.blocks[:full], full * BLOCK

    def leave(self, request: Request) -> None:
        request.blocks = []  # not given back: another request may read them
        self.driver.preempt(request)

    def close(self) -> None:
        for request in self.requests:
            self.leave(request)
        assert self.driver.step() == {}


def alone(worker: Worker, prompt: list[int], params: SamplingParams, length: int) -> tuple[Request, list[ChunkOutput]]:
    """A request by itself, its prompt in one chunk, then token by token; what every step gave."""
    driver = StepDriver(worker, BLOCK)
    request = driver.request(prompt, params)
    outputs = []
    while len(request.tokens) < length:
        outputs.append(driver.step((request, request.gap, ()))[request.id])
    driver.preempt(request)
    driver.step()
    return request, outputs


@pytest.mark.parametrize("precision", PRECISIONS)
@settings(max_examples=40)
@given(requests=asked(anything), plan=steps)
def test_each_request_gets_what_it_gets_alone(
    llama: Path, precision: str, requests: list[tuple[list[int], SamplingParams]], plan: list[list[Piece]]
) -> None:
    worker = loaded(NativeWorker, llama, precision, 1)
    lengths = [min(len(prompt) + 15, CONTEXT + 1) for prompt, _ in requests]
    truth = [alone(worker, *request, length) for request, length in zip(requests, lengths, strict=True)]
    fuzz = Fuzz(loaded(NativeWorker, llama, precision), requests, [request.tokens for request, _ in truth])
    for drawn in plan:
        outputs = fuzz.step(drawn)
        for request, (whole, expected) in zip(fuzz.requests, truth, strict=True):
            if request.id in outputs:
                check(outputs[request.id], expected, whole, *fuzz.before[request.id])
    fuzz.close()


def check(output: ChunkOutput, alone: list[ChunkOutput], whole: Request, known: int, start: int) -> None:
    """`output` came with `known` tokens before it; a request alone gave one token in each of its steps."""
    assert output.error is None
    first = known - whole.prompt_len
    expected = alone[first : first + len(output.tokens)]
    assert output.tokens[: len(expected)] == tuple(token for one in expected for token in one.tokens)
    assert output.logprobs[: len(expected)] == tuple(number for one in expected for number in one.logprobs)
    assert output.top[: len(expected)] == tuple(top for one in expected for top in one.top)
    count = len(output.prompt_logprobs)
    assert output.prompt_logprobs == tuple(whole.prompt_logprobs[start : start + count])
    assert output.prompt_top == alone[0].prompt_top[start : start + len(output.prompt_top)]


@settings(max_examples=40)
@given(requests=asked(greedy), plan=steps)
def test_in_float32_it_is_what_the_reference_gives(
    llama: Path, requests: list[tuple[list[int], SamplingParams]], plan: list[list[Piece]]
) -> None:
    ours = Fuzz(loaded(NativeWorker, llama, "float32"), requests, [[]] * 4)
    theirs = Fuzz(loaded(ReferenceWorker, llama, "float32"), requests, [[]] * 4)
    for drawn in plan:
        a, b = ours.step(drawn), theirs.step(drawn)
        assert a.keys() == b.keys()
        for request_id in a:
            assert a[request_id].tokens == b[request_id].tokens
            assert a[request_id].logprobs == pytest.approx(b[request_id].logprobs, abs=1e-4)
            assert a[request_id].prompt_logprobs == pytest.approx(b[request_id].prompt_logprobs, abs=1e-4)
            for mine, other in zip(a[request_id].top, b[request_id].top, strict=True):
                assert [score.logprob for score in mine] == pytest.approx([s.logprob for s in other], abs=1e-4)
    ours.close()
    theirs.close()


SPOILED = [
    {"slot": -1},
    {"slot": 9},
    {"tokens": (1, VOCAB)},
    {"tokens": (-1, 2)},
    {"tokens": (1,) * (CONTEXT + 2)},
    {"prompt_len": -1},
    {"prompt_len": 3},
    {"params": SamplingParams(logit_bias=((0, 1.0), (VOCAB, 1.0)))},
    {"params": SamplingParams(logit_bias=((-1, 1.0),))},
    {"params": SamplingParams(temperature=1.0)},  # without a seed
]


@pytest.mark.parametrize("spoil", SPOILED, ids=str)
def test_a_request_that_cannot_enter_changes_nothing(llama: Path, spoil: dict[str, Any]) -> None:
    worker = loaded(NativeWorker, llama, "float32")
    params = SamplingParams(temperature=1.0, seed=1, repetition_penalty=1.2)
    expected, _ = alone(worker, [1, 2, 3], params, 8)
    driver = StepDriver(worker, BLOCK)
    request = driver.request([1, 2, 3], params)
    driver.step((request, 3, ()))
    assert request.slot is not None
    enter = Enter(9, request.slot, (1, 2), 2, SamplingParams())
    with pytest.raises(ValueError, match=r"\w"):
        worker.execute(StepPlan(99, (), enter=(replace(enter, **spoil),)))
    while len(request.tokens) < 8:
        driver.step((request, 1, ()))
    assert request.tokens == expected.tokens
    driver.preempt(request)
    driver.step()

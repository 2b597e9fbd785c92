"""The reference worker: whatever the plans, the same tokens from the same bytes; one bad request ends no other."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from step_driver import RecordingSampler, Request, StepDriver
from tiny_models import make_checkpoint, reference_logits

from engine.config import CacheOptions, EngineOptions, ModelOptions, SchedulerOptions, SpecOptions
from engine.runtimes import load_worker
from engine.runtimes.reference.worker import ReferenceWorker
from engine.sample.sampler import Sampler
from engine.sched.plan import StepPlan, StepResult
from engine.spec import NgramProposer
from engine.types import SamplingParams

BLOCK = 4
NEW_TOKENS = 12
REQUESTS = [
    ([5, 9, 5, 9, 5], SamplingParams(logprobs=True)),
    (list(range(40, 63)), SamplingParams(temperature=1.5, top_p=0.95, seed=11, logprobs=True)),
    ([7], SamplingParams(temperature=2.0, repetition_penalty=1.3, frequency_penalty=0.5, seed=2**63, logprobs=True)),
]


def options(path: Path, **changes: Any) -> EngineOptions:
    base: dict[str, Any] = {
        "model": ModelOptions(path=str(path)),
        "cache": CacheOptions(block_size=BLOCK, num_blocks=120),
        "scheduler": SchedulerOptions(max_batch_size=8),
    }
    return EngineOptions(**base | changes)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def sampler(llama: Path) -> RecordingSampler:
    """Shared by all tests that use it: logits are compared across them."""
    return RecordingSampler(Sampler(96))


@pytest.fixture
def worker(llama: Path, sampler: RecordingSampler) -> ReferenceWorker:
    worker = ReferenceWorker.load(options(llama))
    worker.sampler = sampler
    return worker


@pytest.fixture(scope="module")
def plain(llama: Path, sampler: RecordingSampler) -> list[Request]:
    """Each request by itself, its prompt in one chunk, then token by token."""
    worker = ReferenceWorker.load(options(llama))
    worker.sampler = sampler
    driver = StepDriver(worker, BLOCK)
    return [driver.run(driver.request(*request), NEW_TOKENS + 4) for request in REQUESTS]


def test_info(worker: ReferenceWorker, llama: Path) -> None:
    info = worker.info
    assert (info.architecture, info.runtime, info.dtype) == ("LlamaForCausalLM", "reference", "float32")
    assert (info.vocab_size, info.eos_token_ids, info.max_context) == (96, (2,), 128)
    assert (info.num_blocks, info.num_slots) == (120, 9)
    assert info.kv_bytes == 2 * 3 * 120 * BLOCK * 2 * 8 * 4
    weights = (llama / "model.safetensors").stat().st_size
    assert weights - 8192 < info.weight_bytes < weights
    assert info.num_parameters * 4 == info.weight_bytes


def test_an_empty_plan(worker: ReferenceWorker) -> None:
    assert worker.execute(StepPlan(7, ())) == StepResult(7)


def test_greedy_is_the_highest_logit(plain: list[Request], llama: Path) -> None:
    logits = reference_logits(llama, plain[0].tokens)
    greedy = logits.argmax(-1)[plain[0].prompt_len - 1 : -1]
    assert plain[0].output == greedy.tolist()


def draw_drafts(rng: random.Random, request: Request, right: list[int]) -> list[int]:
    """Up to four guesses: all right, or right up to somewhere."""
    drafts = right[len(request.tokens) :][: rng.randint(0, 4)]
    if drafts and rng.random() < 0.5:
        at = rng.randrange(len(drafts))
        drafts[at] = (drafts[at] + 1) % 96
    return drafts


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_any_plan_gives_the_plain_tokens(worker_of_the_walks: ReferenceWorker, plain: list[Request], seed: int) -> None:
    """Random batches, chunks, preemptions and drafts, for greedy and sampled requests, with their logprobs."""
    rng = random.Random(seed)
    driver = StepDriver(worker_of_the_walks, BLOCK, rng)
    requests = [driver.request(*request) for request in REQUESTS]
    while unfinished := [request for request in requests if len(request.output) < NEW_TOKENS]:
        batch = rng.sample(unfinished, rng.randint(1, len(unfinished)))
        pieces = []
        for request in batch:
            count = rng.choice([request.gap, rng.randint(1, request.gap)])
            pieces.append((request, count, draw_drafts(rng, request, plain[requests.index(request)].tokens)))
        driver.step(*pieces)
        if rng.random() < 0.3:
            driver.preempt(rng.choice(requests))
    for request, expected in zip(requests, plain, strict=True):
        length = len(request.output)
        assert request.output == expected.output[:length]
        assert request.logprobs == expected.logprobs[:length]


@pytest.fixture(scope="module")
def worker_of_the_walks(llama: Path, sampler: RecordingSampler) -> ReferenceWorker:
    worker = ReferenceWorker.load(options(llama))
    worker.sampler = sampler
    return worker


def test_a_right_draft_is_accepted_and_a_wrong_one_replaced(worker: ReferenceWorker, plain: list[Request]) -> None:
    driver = StepDriver(worker, BLOCK)
    right = plain[0].output
    request = driver.request(*REQUESTS[0])
    output = driver.step((request, request.gap, right[:3]))[request.id]
    assert output.tokens == tuple(right[:4])
    wrong = [right[4], (right[5] + 1) % 96, right[6]]
    output = driver.step((request, request.gap, wrong))[request.id]
    assert output.tokens == tuple(right[4:6])
    assert driver.run(request, NEW_TOKENS).output == right[:NEW_TOKENS]


def test_a_shared_prefix_gives_the_same_logits(worker: ReferenceWorker) -> None:
    """A request that starts behind another's blocks; the recording sampler compares the logits of both."""
    driver = StepDriver(worker, BLOCK)
    prompt = list(range(10, 31))
    first = driver.request(prompt)
    driver.step((first, first.gap, ()))
    second = driver.request(prompt)
    second.blocks, second.computed = first.blocks[:5], 20
    driver.step((second, second.gap, ()), (first, first.gap, ()))
    driver.step((second, second.gap, ()))
    assert second.output == first.output


@pytest.mark.parametrize("sizes", [[23], [1, 22], [22, 1], [8, 8, 7], [1] * 23])
def test_prompt_logprobs_come_in_whatever_chunks(worker: ReferenceWorker, llama: Path, sizes: list[int]) -> None:
    prompt = list(range(40, 63))
    logits = reference_logits(llama, prompt).astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    driver = StepDriver(worker, BLOCK)
    request = driver.request(prompt, SamplingParams(prompt_logprobs=True, top_n_tokens=2))
    other = driver.request([1, 2, 3])
    driver.step((other, 3, ()))
    tops = []
    for size in sizes:
        outputs = driver.step((request, size, ()), (other, 1, ()))
        tops += outputs[request.id].prompt_top
        assert not outputs[other.id].prompt_logprobs
    np.testing.assert_allclose(request.prompt_logprobs, logprobs[np.arange(22), prompt[1:]], rtol=1e-6)
    assert [[score.id for score in top] for top in tops] == np.argsort(-logprobs[:22])[:, :2].tolist()


def test_prompt_logprobs_after_a_preemption_cover_the_prompt_only(worker: ReferenceWorker) -> None:
    driver = StepDriver(worker, BLOCK)
    request = driver.request([3, 4, 5], SamplingParams(prompt_logprobs=True))
    for _ in range(3):
        driver.step((request, request.gap, ()))
    assert len(request.prompt_logprobs) == 2
    driver.preempt(request)
    output = driver.step((request, request.gap, ()))[request.id]
    assert list(output.prompt_logprobs) == request.prompt_logprobs[:2]


def test_top_tokens(worker: ReferenceWorker) -> None:
    driver = StepDriver(worker, BLOCK)
    request = driver.request([3, 4], SamplingParams(logprobs=True, top_n_tokens=3))
    output = driver.step((request, 2, ()))[request.id]
    assert len(output.top) == 1
    assert len(output.top[0]) == 3
    assert output.top[0][0].id == output.tokens[0]
    assert output.top[0][0].logprob == output.logprobs[0]


class FailingSampler(RecordingSampler):
    """Finds nothing to sample where the prompt starts with 66, as a bug in a sampling law would."""

    def sample(self, logits: Any, params: SamplingParams, tokens: Any, prompt_len: int) -> Any:
        if tokens[0] == 66:
            raise RuntimeError("no such law")
        return super().sample(logits, params, tokens, prompt_len)


def test_one_failure_ends_one_request(
    worker: ReferenceWorker, plain: list[Request], caplog: pytest.LogCaptureFixture
) -> None:
    worker.sampler = FailingSampler(Sampler(96))
    driver = StepDriver(worker, BLOCK)
    bad, good = driver.request([66, 1, 2]), driver.request(*REQUESTS[0])
    outputs = driver.step((bad, 3, [4, 4]), (good, good.gap, ()))
    assert outputs[bad.id].error == "RuntimeError: no such law"
    assert outputs[bad.id].tokens == ()
    assert list(outputs[good.id].tokens) == plain[0].output[:1]
    assert f"request {bad.id} failed" in caplog.text


def test_logits_that_are_no_numbers_end_one_request(tmp_path: Path) -> None:
    """A token whose embedding is not a number: its request fails, the one beside it does not notice."""
    worker = ReferenceWorker.load(options(make_checkpoint(tmp_path, tie_word_embeddings=False)))
    alone = StepDriver(worker, BLOCK)
    expected = alone.run(alone.request([5, 6, 7]), 2).output
    worker.model.weights["embed.weight"] = worker.model.weights["embed.weight"].copy()
    worker.model.weights["embed.weight"][66] = np.nan
    driver = StepDriver(worker, BLOCK)
    bad, good = driver.request([66, 1]), driver.request([5, 6, 7])
    outputs = driver.step((bad, 2, ()), (good, 3, ()))
    assert "NaN" in str(outputs[bad.id].error)
    driver.step((good, 1, ()))
    assert good.output == expected


def test_ids_without_a_token_are_never_sampled(tmp_path: Path) -> None:
    """The vocabulary is padded from 8192 tokens to 8320 rows, all with the same logit but for a bias on one of them."""
    path = make_checkpoint(tmp_path, tokenizer=True, vocab_size=8320, tie_word_embeddings=False)
    worker = ReferenceWorker.load(options(path))
    worker.model.weights["final_norm.weight"] = np.zeros(32, np.float32)
    driver = StepDriver(worker, BLOCK)
    hot = driver.request([5], SamplingParams(temperature=1.0, seed=3))
    greedy = driver.request([5], SamplingParams(logit_bias=((8200, 50.0),)))
    for _ in range(40):
        driver.step((hot, 1, ()), (greedy, 1, ()))
    assert max(hot.output + greedy.output) < 8192


def test_drafts_follow_the_tokens(llama: Path) -> None:
    worker = load_worker(options(llama, spec=SpecOptions(num_draft=3)))
    driver = StepDriver(worker, BLOCK)
    request = driver.request([1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3])
    half = driver.step((request, 4, ()))[request.id]
    assert half.draft == ()
    for _ in range(5):
        output = driver.step((request, request.gap, ()))[request.id]
        assert output.draft == NgramProposer(3).propose(request.tokens)


def test_a_rounded_dtype_is_that_of_the_stored_weights(tmp_path: Path, llama: Path) -> None:
    for dtype in ("bfloat16", "float16"):
        stored = make_checkpoint(tmp_path / dtype, dtype=dtype)
        rounded = ReferenceWorker.load(options(llama, model=ModelOptions(path=str(llama), dtype=dtype)))
        assert rounded.info.dtype == dtype
        rounded.sampler = recording = RecordingSampler(Sampler(96))
        driver = StepDriver(rounded, BLOCK)
        driver.run(driver.request([1, 2, 3]), 1)
        assert recording.rows[1, 2, 3] == reference_logits(stored, [1, 2, 3])[-1].tobytes()
        assert recording.rows[1, 2, 3] != reference_logits(llama, [1, 2, 3])[-1].tobytes()

"""What every runtime's worker must do, whatever the plans: the same tokens from the same request, and no more than one
request ended by what is wrong with it. A runtime's test class derives from `WorkerLaws` and brings the fixtures.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from step_driver import Request, StepDriver
from tiny_models import make_checkpoint, reference_logits

from engine.config import CacheOptions, EngineOptions, ModelOptions, SchedulerOptions, SpecOptions
from engine.runtimes import Worker
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


def options(path: Path, model: dict[str, Any] | None = None, **changes: Any) -> EngineOptions:
    base: dict[str, Any] = {
        "model": ModelOptions(path=str(path), **(model or {})),
        "cache": CacheOptions(block_size=BLOCK, num_blocks=120),
        "scheduler": SchedulerOptions(max_batch_size=8),
    }
    return EngineOptions(**base | changes)


def run_plain(worker: Worker) -> list[Request]:
    """Each of REQUESTS by itself, its prompt in one chunk, then token by token."""
    driver = StepDriver(worker, BLOCK)
    return [driver.run(driver.request(*request), NEW_TOKENS + 4) for request in REQUESTS]


def run_at_random(worker: Worker, plain: list[Request], seed: int, block_size: int = BLOCK) -> None:
    """Random batches, chunks, preemptions and drafts, for greedy and sampled requests, give the plain tokens."""
    rng = random.Random(seed)
    driver = StepDriver(worker, block_size, rng)
    requests = [driver.request(*request) for request in REQUESTS]
    while unfinished := [request for request in requests if len(request.output) < NEW_TOKENS]:
        batch = rng.sample(unfinished, rng.randint(1, len(unfinished)))
        pieces = []
        for request in batch:
            count = rng.choice([request.gap, rng.randint(1, request.gap)])
            pieces.append((request, count, _draw_drafts(rng, request, plain[requests.index(request)].tokens)))
        driver.step(*pieces)
        if rng.random() < 0.3:
            driver.preempt(rng.choice(requests))
    for request in requests:
        driver.preempt(request)
    driver.step()
    for request, expected in zip(requests, plain, strict=True):
        length = len(request.output)
        assert request.output == expected.output[:length]
        assert request.logprobs == expected.logprobs[:length]


def _draw_drafts(rng: random.Random, request: Request, right: list[int]) -> list[int]:
    """Up to four guesses: all right, or right up to somewhere."""
    drafts = right[len(request.tokens) :][: rng.randint(0, 4)]
    if drafts and rng.random() < 0.5:
        at = rng.randrange(len(drafts))
        drafts[at] = (drafts[at] + 1) % 96
    return drafts


def edit_checkpoint(path: Path, change: Callable[[dict[str, np.ndarray]], None]) -> Path:
    """Change the tensors of a checkpoint with one file."""
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


class WorkerLaws:
    """Fixtures: `worker`, a fresh one of the checkpoint `llama`, and `plain`, what `run_plain` gives on another."""

    tolerance: float  # of log probabilities against those of the reference's logits, relative

    def load(self, options: EngineOptions) -> Worker:
        raise NotImplementedError

    def test_an_empty_plan(self, worker: Worker) -> None:
        assert worker.execute(StepPlan(7, ())) == StepResult(7)

    def test_leaving_twice(self, worker: Worker) -> None:
        assert worker.execute(StepPlan(1, (), leave=(1, 5))) == StepResult(1)
        assert worker.execute(StepPlan(2, (), leave=(1,))) == StepResult(2)

    def test_greedy_is_the_highest_logit(self, plain: list[Request], llama: Path) -> None:
        logits = reference_logits(llama, plain[0].tokens)
        greedy = logits.argmax(-1)[plain[0].prompt_len - 1 : -1]
        assert plain[0].output == greedy.tolist()

    def test_a_right_draft_is_accepted_and_a_wrong_one_replaced(self, worker: Worker, plain: list[Request]) -> None:
        driver = StepDriver(worker, BLOCK)
        right = plain[0].output
        request = driver.request(*REQUESTS[0])
        output = driver.step((request, request.gap, right[:3]))[request.id]
        assert output.tokens == tuple(right[:4])
        wrong = [right[4], (right[5] + 1) % 96, right[6]]
        output = driver.step((request, request.gap, wrong))[request.id]
        assert output.tokens == tuple(right[4:6])
        assert driver.run(request, NEW_TOKENS).output == right[:NEW_TOKENS]

    def test_a_shared_prefix_gives_the_same_scores(self, worker: Worker) -> None:
        """A request that starts behind another's blocks."""
        driver = StepDriver(worker, BLOCK)
        prompt, params = list(range(10, 31)), SamplingParams(logprobs=True, top_n_tokens=5)
        first = driver.request(prompt, params)
        whole = driver.step((first, first.gap, ()))[first.id]
        second = driver.request(prompt, params)
        second.blocks, second.computed = first.blocks[:5], 20
        part = driver.step((second, second.gap, ()), (first, first.gap, ()))[second.id]
        driver.step((second, second.gap, ()))
        assert part == whole
        assert (second.output, second.logprobs) == (first.output, first.logprobs)

    @pytest.mark.parametrize("sizes", [[23], [1, 22], [22, 1], [8, 8, 7], [1] * 23])
    def test_prompt_logprobs_come_in_whatever_chunks(self, worker: Worker, llama: Path, sizes: list[int]) -> None:
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
        expected = logprobs[np.arange(22), prompt[1:]]
        np.testing.assert_allclose(request.prompt_logprobs, expected, rtol=self.tolerance)
        assert [[score.id for score in top] for top in tops] == np.argsort(-logprobs[:22])[:, :2].tolist()

    def test_prompt_logprobs_after_a_preemption_cover_the_prompt_only(self, worker: Worker) -> None:
        driver = StepDriver(worker, BLOCK)
        request = driver.request([3, 4, 5], SamplingParams(prompt_logprobs=True))
        for _ in range(3):
            driver.step((request, request.gap, ()))
        assert len(request.prompt_logprobs) == 2
        driver.preempt(request)
        output = driver.step((request, request.gap, ()))[request.id]
        assert list(output.prompt_logprobs) == request.prompt_logprobs[:2]

    def test_top_tokens(self, worker: Worker) -> None:
        driver = StepDriver(worker, BLOCK)
        request = driver.request([3, 4], SamplingParams(logprobs=True, top_n_tokens=3))
        output = driver.step((request, 2, ()))[request.id]
        assert len(output.top) == 1
        assert len(output.top[0]) == 3
        assert output.top[0][0].id == output.tokens[0]
        assert output.top[0][0].logprob == output.logprobs[0]

    def test_logits_that_are_no_numbers_end_one_request(self, tmp_path: Path) -> None:
        """A token whose embedding is not a number: its request fails, the one beside it does not notice."""
        path = make_checkpoint(tmp_path, tie_word_embeddings=False)
        alone = StepDriver(self.load(options(path)), BLOCK)
        expected = alone.run(alone.request([5, 6, 7]), 2).output

        def spoil(tensors: dict[str, np.ndarray]) -> None:
            tensors["model.embed_tokens.weight"][66] = np.nan

        driver = StepDriver(self.load(options(edit_checkpoint(path, spoil))), BLOCK)
        bad, good = driver.request([66, 1]), driver.request([5, 6, 7])
        outputs = driver.step((bad, 2, (9, 9)), (good, 3, ()))
        assert outputs[bad.id].error == (
            "the scores of the next token hold NaN: check the model's weights, or serve it in float32"
        )
        driver.step((good, 1, ()))
        assert good.output == expected
        reused = driver.request([8, 9, 10])  # takes the blocks that hold what is not a number
        driver.preempt(bad)
        fresh = alone.run(alone.request([8, 9, 10]), 4)
        assert driver.run(reused, 4).output == fresh.output

    def test_ids_without_a_token_are_never_sampled(self, tmp_path: Path) -> None:
        """The vocabulary is padded from 8192 tokens to 8320 rows, all with the same logit but for a bias on one."""

        def flatten(tensors: dict[str, np.ndarray]) -> None:
            tensors["model.norm.weight"][:] = 0

        path = make_checkpoint(tmp_path, tokenizer=True, vocab_size=8320, tie_word_embeddings=False)
        driver = StepDriver(self.load(options(edit_checkpoint(path, flatten))), BLOCK)
        hot = driver.request([5], SamplingParams(temperature=1.0, seed=3))
        greedy = driver.request([5], SamplingParams(logit_bias=((8200, 50.0),)))
        for _ in range(40):
            driver.step((hot, 1, ()), (greedy, 1, ()))
        assert max(hot.output + greedy.output) < 8192

    def test_drafts_follow_the_tokens(self, llama: Path) -> None:
        worker = self.load(options(llama, spec=SpecOptions(num_draft=3)))
        driver = StepDriver(worker, BLOCK)
        request = driver.request([1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3])
        half = driver.step((request, 4, ()))[request.id]
        assert half.draft == ()
        for _ in range(5):
            output = driver.step((request, request.gap, ()))[request.id]
            assert output.draft == NgramProposer(3).propose(request.tokens)

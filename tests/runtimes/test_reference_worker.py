"""The reference worker under the laws of all workers; and the logits it samples from are compared byte by byte."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from step_driver import RecordingSampler, Request, StepDriver
from tiny_models import make_checkpoint, reference_logits
from worker_laws import BLOCK, REQUESTS, WorkerLaws, options, run_at_random, run_plain

from engine.config import EngineOptions
from engine.runtimes.reference.worker import ReferenceWorker
from engine.sample.sampler import Sampler
from engine.types import SamplingParams


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def sampler() -> RecordingSampler:
    """Shared by all tests that use it: logits are compared across them."""
    return RecordingSampler(Sampler(96))


def recorded(llama: Path, sampler: RecordingSampler) -> ReferenceWorker:
    worker = ReferenceWorker.load(options(llama))
    worker.sampler = sampler
    return worker


@pytest.fixture
def worker(llama: Path, sampler: RecordingSampler) -> ReferenceWorker:
    return recorded(llama, sampler)


@pytest.fixture(scope="module")
def worker_of_the_walks(llama: Path, sampler: RecordingSampler) -> ReferenceWorker:
    return recorded(llama, sampler)


@pytest.fixture(scope="module")
def plain(llama: Path, sampler: RecordingSampler) -> list[Request]:
    return run_plain(recorded(llama, sampler))


class TestReference(WorkerLaws):
    tolerance = 1e-6

    def load(self, options: EngineOptions) -> ReferenceWorker:
        return ReferenceWorker.load(options)


def test_info(worker: ReferenceWorker, llama: Path) -> None:
    info = worker.info
    assert (info.architecture, info.runtime, info.dtype) == ("LlamaForCausalLM", "reference", "float32")
    assert (info.vocab_size, info.eos_token_ids, info.max_context) == (96, (2,), 128)
    assert (info.num_blocks, info.num_slots) == (120, 9)
    assert info.kv_bytes == 2 * 3 * 120 * BLOCK * 2 * 8 * 4
    weights = (llama / "model.safetensors").stat().st_size
    assert weights - 8192 < info.weight_bytes < weights
    assert info.num_parameters * 4 == info.weight_bytes


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_any_plan_gives_the_plain_tokens(worker_of_the_walks: ReferenceWorker, plain: list[Request], seed: int) -> None:
    run_at_random(worker_of_the_walks, plain, seed)


class FailingSampler(RecordingSampler):
    """Finds nothing to sample where the prompt starts with 66, as a bug in a sampling law would."""

    def sample(self, logits: Any, params: SamplingParams, tokens: Any, prompt_len: int, allowed: Any = None) -> Any:
        if tokens[0] == 66:
            raise RuntimeError("no such law")
        return super().sample(logits, params, tokens, prompt_len, allowed)


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


def test_a_rounded_dtype_is_that_of_the_stored_weights(tmp_path: Path, llama: Path) -> None:
    for dtype in ("bfloat16", "float16"):
        stored = make_checkpoint(tmp_path / dtype, dtype=dtype)
        rounded = ReferenceWorker.load(options(llama, {"dtype": dtype}))
        assert rounded.info.dtype == dtype
        rounded.sampler = recording = RecordingSampler(Sampler(96))
        driver = StepDriver(rounded, BLOCK)
        driver.run(driver.request([1, 2, 3]), 1)
        assert recording.rows[1, 2, 3] == reference_logits(stored, [1, 2, 3])[-1].tobytes()
        assert recording.rows[1, 2, 3] != reference_logits(llama, [1, 2, 3])[-1].tobytes()

"""The native worker under the laws of all workers: every kind of weights and KV cache, on every instruction set."""

import contextlib
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("engine.runtimes.native._native", exc_type=ImportError)

from native_machine import ISAS
from step_driver import Request, StepDriver
from tiny_models import make_checkpoint
from worker_laws import BLOCK, REQUESTS, WorkerLaws, options, run_at_random, run_plain

from engine.config import CacheOptions, EngineOptions, ModelOptions
from engine.errors import ConfigError
from engine.runtimes import load_worker
from engine.runtimes.native.weights import KV_KINDS, METHODS
from engine.runtimes.native.worker import NativeWorker
from engine.sched.plan import Chunk, Enter, StepPlan
from engine.types import SamplingParams

FLOAT = {"runtime": "native", "dtype": "float32"}
SAMPLE = [
    *({"dtype": dtype} for dtype in ("float32", "bfloat16", "float16")),
    *({"quantize": method} for method in METHODS),
    *({"kv_cache_dtype": dtype} for dtype in KV_KINDS),
    *({"threads": threads} for threads in (1, 5)),
    {"quantize": "int4", "kv_cache_dtype": "int8", "threads": 3},
]
ALL = [{"quantize": method, "kv_cache_dtype": kv} for method, kv in itertools.product((None, *METHODS), KV_KINDS)]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def worker(llama: Path) -> NativeWorker:
    return NativeWorker.load(options(llama, FLOAT))


@pytest.fixture(scope="module")
def plain(llama: Path) -> list[Request]:
    return run_plain(NativeWorker.load(options(llama, FLOAT)))


class TestNative(WorkerLaws):
    tolerance = 1e-4

    def load(self, options: EngineOptions) -> NativeWorker:
        return NativeWorker.load(replace(options, model=replace(options.model, dtype="float32")))


def named(model: dict[str, Any]) -> str:
    return ",".join(str(value) for value in model.values())


def check_at_random(llama: Path, model: dict[str, Any], seeds: range) -> None:
    plain = run_plain(NativeWorker.load(options(llama, model)))
    worker = NativeWorker.load(options(llama, model))
    for seed in seeds:
        run_at_random(worker, plain, seed)


@pytest.mark.parametrize("model", SAMPLE, ids=named)
def test_any_plan_gives_the_plain_tokens(llama: Path, model: dict[str, Any]) -> None:
    check_at_random(llama, model, range(8))


@pytest.mark.parametrize("isa", ISAS)
def test_any_plan_gives_the_plain_tokens_on_every_machine(
    llama: Path, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TGI_ISA", isa)
    for model in ({"dtype": "float32"}, {"quantize": "int8"}, {"quantize": "int4", "kv_cache_dtype": "int8"}):
        check_at_random(llama, model, range(4))


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("model", ALL, ids=named)
def test_any_plan_gives_the_plain_tokens_everywhere(
    llama: Path, model: dict[str, Any], isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TGI_ISA", isa)
    check_at_random(llama, model, range(20))


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_a_long_lived_worker_keeps_to_the_plain_tokens(
    long_lived: NativeWorker, plain: list[Request], seed: int
) -> None:
    run_at_random(long_lived, plain, seed)


@pytest.fixture(scope="module")
def long_lived(llama: Path) -> NativeWorker:
    return NativeWorker.load(options(llama, FLOAT))


def test_threads_and_batch_change_no_byte_of_a_large_batch(tmp_path: Path) -> None:
    """Enough rows for blocked products and split attention: 600 tokens in one step, and the same one by one."""
    path = make_checkpoint(tmp_path, max_position_embeddings=1024, vocab_size=96)
    params = SamplingParams(logprobs=True, prompt_logprobs=True, temperature=0.8, seed=5)
    answers = []
    for threads, sizes in ((1, [600]), (2, [600]), (3, [599, 1]), (2, [256, 300, 44]), (2, [7] * 85 + [5])):
        given = options(
            path, {"quantize": "int8", "threads": threads}, cache=CacheOptions(block_size=16, num_blocks=120)
        )
        driver = StepDriver(NativeWorker.load(given), 16)
        beside = driver.request([9, 8, 7])
        driver.step((beside, 3, ()))
        request = driver.request([i * 7 % 96 for i in range(600)], params)
        for size in sizes:
            driver.step((request, size, ()), (beside, 1, ()))
        answers.append((request.prompt_logprobs, request.output, request.logprobs))
    assert all(answer == answers[0] for answer in answers)


def test_info(worker: NativeWorker, llama: Path) -> None:
    info = worker.info
    assert (info.architecture, info.runtime, info.dtype) == ("LlamaForCausalLM", "native", "float32")
    assert (info.vocab_size, info.eos_token_ids, info.max_context) == (96, (2,), 128)
    assert (info.num_blocks, info.num_slots) == (120, 9)
    assert info.kv_bytes == worker.program.kv_bytes > 2 * 3 * 120 * BLOCK * 2 * 8 * 4
    weights = (llama / "model.safetensors").stat().st_size
    assert weights - 8192 < info.num_parameters * 4 < weights < info.weight_bytes + 8192


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
def test_weights_stay_as_stored(tmp_path: Path, stored: str) -> None:
    path = make_checkpoint(tmp_path, dtype=stored)
    as_stored, exact = (NativeWorker.load(options(path, model)) for model in ({}, {"dtype": "float32"}))
    assert as_stored.info.dtype == stored
    assert exact.info.dtype == "float32"
    assert as_stored.info.weight_bytes == exact.info.weight_bytes


def test_a_rounded_dtype_is_that_of_the_stored_weights(tmp_path: Path, llama: Path) -> None:
    """Norms, embeddings and all: a float32 checkpoint rounded at load answers as one that was stored so."""
    for dtype in ("bfloat16", "float16"):
        stored = run_plain(NativeWorker.load(options(make_checkpoint(tmp_path / dtype, dtype=dtype))))
        rounded = run_plain(NativeWorker.load(options(llama, {"dtype": dtype})))
        assert [(r.output, r.logprobs) for r in rounded] == [(r.output, r.logprobs) for r in stored]


def test_a_fault_behind_a_refused_draft_is_nobodys(tmp_path: Path) -> None:
    """Rows after a refused draft are computed for nothing; what they hold must not end the request."""
    import numpy as np
    from worker_laws import edit_checkpoint

    def spoil(tensors: dict[str, np.ndarray]) -> None:
        tensors["model.embed_tokens.weight"][66] = np.nan

    path = edit_checkpoint(make_checkpoint(tmp_path, tie_word_embeddings=False), spoil)
    driver = StepDriver(NativeWorker.load(options(path, FLOAT)), BLOCK)
    request = driver.request(*REQUESTS[0])
    output = driver.step((request, request.gap, (66, 66)))[request.id]
    assert output.error is None
    assert len(output.tokens) == 1


def test_a_step_that_cannot_be_computed_leaves_the_worker_as_it_was(worker: NativeWorker, plain: list[Request]) -> None:
    driver = StepDriver(worker, BLOCK)
    request = driver.request(*REQUESTS[1])
    driver.step((request, 5, ()))
    chunk = driver._chunk(request, 3, ())
    for bad in (
        replace(chunk, slot=7),
        replace(chunk, blocks=(500, 501)),
        replace(chunk, tokens=(1, 96, 2)),
        replace(chunk, tokens=(1, -1, 2)),
        replace(chunk, start=1000),
    ):
        with pytest.raises(ValueError, match=r"\d"):
            worker.execute(StepPlan(99, (bad,)))
    assert driver.run(request, 4).output == plain[1].output[:4]


# How it starts


def test_a_forced_instruction_set(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for isa in ISAS:
        monkeypatch.setenv("TGI_ISA", isa)
        assert NativeWorker.load(options(llama)).program.isa == isa
    monkeypatch.setenv("TGI_ISA", "mmx")
    with pytest.raises(ConfigError, match=r"TGI_ISA: this machine cannot run 'mmx'; choose one of: .*portable"):
        NativeWorker.load(options(llama))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"dtype": "int3"}, "unknown dtype 'int3'; choose one of: float32, bfloat16, float16"),
        ({"quantize": "gptq"}, "cannot quantize to 'gptq'; choose one of: int8, int4"),
        ({"kv_cache_dtype": "fp8"}, "unknown KV cache dtype 'fp8'; choose one of: float32, bfloat16, int8"),
    ],
)
def test_bad_options(llama: Path, model: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_worker(options(llama, model))


@pytest.mark.parametrize("num_blocks", [2**31 - 1, 2**31, 10**18])
def test_more_cache_than_there_is_memory(llama: Path, num_blocks: int) -> None:
    with pytest.raises(ConfigError, match="takes more memory than this machine gives"):
        load_worker(options(llama, cache=CacheOptions(num_blocks=num_blocks, block_size=512)))


def test_auto_takes_it(llama: Path) -> None:
    assert load_worker(options(llama)).info.runtime == "native"
    assert load_worker(options(llama, {"runtime": "reference"})).info.runtime == "reference"


def test_without_it_the_reference_serves_and_says_so(
    llama: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("engine.runtimes.native.available", lambda: "the native runtime is not built; do this")
    assert load_worker(options(llama)).info.runtime == "reference"
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "serving on the slow reference runtime: the native runtime is not built; do this"
    ]
    for model in ({"quantize": "int8"}, {"kv_cache_dtype": "int8"}):
        with pytest.raises(ConfigError, match="needs the native runtime"):
            load_worker(options(llama, model))
    with pytest.raises(ConfigError, match="is not built"):
        load_worker(EngineOptions(model=ModelOptions(path=str(llama), runtime="native")))


# Plans that no scheduler would make


@settings(max_examples=150)
@given(
    chunk=st.builds(
        Chunk,
        request_id=st.just(1),
        slot=st.integers(-1, 10),
        start=st.integers(-3, 140),
        tokens=st.lists(st.integers(-2, 100), max_size=30).map(tuple),
        num_draft=st.integers(-1, 5),
        blocks=st.lists(st.integers(-1, 125), max_size=40).map(tuple),
        sample=st.booleans(),
        prompt_logprobs=st.booleans(),
    )
)
def test_a_plan_of_nonsense_is_refused_or_computed(
    long_lived: NativeWorker, plain: list[Request], chunk: Chunk
) -> None:
    """It must not read or write where it has no business: another request goes on as ever."""
    driver = StepDriver(long_lived, BLOCK)
    driver.free_blocks = [block for block in range(1, 120) if block not in chunk.blocks]
    good = driver.request(*REQUESTS[0])
    driver.step((good, 4, ()))
    slot = 1 if good.slot != 1 else 2
    long_lived.program.enter(Enter(2, slot, (1, 2, 3), 3, SamplingParams()))
    if chunk.slot != good.slot:
        with contextlib.suppress(ValueError):
            long_lived.program.step([chunk])
    long_lived.program.leave(slot)
    assert driver.run(good, 6).output == plain[0].output[:6]
    driver.step()

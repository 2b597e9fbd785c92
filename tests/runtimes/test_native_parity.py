"""The native runtime in float32 against transformers, and against the reference runtime, for every family."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("engine.runtimes.native._native", exc_type=ImportError)

from native_machine import ISAS
from step_driver import StepDriver
from tiny_models import CONFIGS, DEFAULT_MODEL, make_checkpoint, reference_logits

from engine.config import CacheOptions, EngineOptions, ModelOptions
from engine.runtimes.native.worker import NativeWorker
from engine.sched.plan import Chunk, Enter
from engine.types import SamplingParams


def load(path: Path, **model: Any) -> NativeWorker:
    return NativeWorker.load(
        EngineOptions(model=ModelOptions(path=str(path), **model), cache=CacheOptions(num_blocks=64))
    )


def logits(worker: NativeWorker, tokens: list[int]) -> np.ndarray:
    """`[T, V]`: the prompt goes on with another token, so that all rows are looked at."""
    prompt = (*tokens, 0)
    worker.program.enter(Enter(1, 1, prompt, len(prompt), SamplingParams(prompt_logprobs=True)))
    blocks = tuple(range(1, 2 + len(tokens) // 16))
    rows: np.ndarray = worker.program.logits([Chunk(1, 1, 0, tuple(tokens), 0, blocks, False, True)])
    worker.program.leave(1)
    return rows


def prompt(length: int) -> list[int]:
    return np.random.default_rng(0).integers(0, 96, length).tolist()


@pytest.mark.parametrize("architecture", CONFIGS)
def test_float32_logits_are_those_of_the_reference(
    tmp_path: Path, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_checkpoint(tmp_path, architecture, seed=1)
    tokens = prompt(100)
    expected = reference_logits(path, tokens)
    for isa in ISAS:
        monkeypatch.setenv("TGI_ISA", isa)
        np.testing.assert_allclose(logits(load(path, dtype="float32"), tokens), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_float32_logits_are_those_of_transformers(tmp_path: Path, architecture: str) -> None:
    """From bfloat16 shards, whose numbers are exact in float32."""
    pytest.importorskip("transformers")
    from test_llama_parity import their_logits

    path = make_checkpoint(tmp_path, architecture, dtype="bfloat16", shards=3)
    tokens = prompt(90)
    ours = logits(load(path, dtype="float32"), tokens)
    np.testing.assert_allclose(ours, their_logits(path, tokens), rtol=0, atol=1e-4)


def test_the_built_in_model_continues_as_in_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    import torch
    from test_llama_parity import load_theirs

    tokenizer = transformers.AutoTokenizer.from_pretrained(DEFAULT_MODEL)
    theirs = load_theirs(DEFAULT_MODEL)
    driver = StepDriver(load(DEFAULT_MODEL, dtype="float32"), 16)
    for text in ("Once upon a time", "The capital of France", "def main():\n", "1 2 3 4"):
        ids = tokenizer(text).input_ids
        ours = driver.run(driver.request(ids), 32)
        with torch.no_grad():
            expected = theirs.generate(
                torch.tensor([ids]), do_sample=False, min_new_tokens=32, max_new_tokens=32, eos_token_id=None
            )
        assert ours.tokens == expected[0].tolist()


def test_sampled_tokens_are_those_of_the_reference() -> None:
    """The same logits to 1e-5 and the same noise: seeds give the same text on both runtimes."""
    from engine.runtimes.reference.worker import ReferenceWorker

    params = SamplingParams(temperature=0.9, top_p=0.95, top_k=50, repetition_penalty=1.1, seed=7, logprobs=True)
    reference = ReferenceWorker.load(
        EngineOptions(model=ModelOptions(path=str(DEFAULT_MODEL)), cache=CacheOptions(num_blocks=64))
    )
    runs = []
    for worker in (reference, load(DEFAULT_MODEL, dtype="float32")):
        driver = StepDriver(worker, 16)
        runs.append(driver.run(driver.request([0, 500, 600, 700], params), 40))
    assert runs[1].output == runs[0].output
    np.testing.assert_allclose(runs[1].logprobs, runs[0].logprobs, rtol=0, atol=1e-3)

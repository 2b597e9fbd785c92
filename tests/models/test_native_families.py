"""The native runtime in float32 gives transformers' logits for every family and option that has a parity case."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from oracle import BLOCK, distance, prompt, their_logits, tiny
from test_parity import CASES, WINDOWED

pytest.importorskip("engine.runtimes.native._native", exc_type=ImportError)

from engine.config import CacheOptions, EngineOptions, ModelOptions
from engine.runtimes.native.worker import NativeWorker
from engine.sched.plan import Chunk, Enter
from engine.types import SamplingParams


def native_logits(path: Path, tokens: Sequence[int], chunk: int | None = None) -> np.ndarray:
    """Logits `[T, vocab_size]`, `chunk` tokens a step. The prompt has a token more, so every row is asked for."""
    count = -(-len(tokens) // BLOCK)
    worker = NativeWorker.load(
        EngineOptions(
            model=ModelOptions(path=str(path), dtype="float32"),
            cache=CacheOptions(block_size=BLOCK, num_blocks=count + 1),
        )
    )
    whole = (*tokens, 0)
    worker.program.enter(Enter(1, 1, whole, len(whole), SamplingParams(prompt_logprobs=True)))
    blocks = tuple((np.random.default_rng(2).permutation(count) + 1).tolist())
    step = chunk or len(tokens)
    rows = [
        worker.program.logits([Chunk(1, 1, start, tuple(tokens[start : start + step]), 0, blocks, False, True)])
        for start in range(0, len(tokens), step)
    ]
    return np.concatenate(rows)


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    name, options = CASES[case]
    model = tiny(name, **options)
    model.save_pretrained(tmp_path)
    tokens = prompt(40)
    assert distance(native_logits(tmp_path, tokens), their_logits(model, tokens)) < 1e-4


@pytest.mark.parametrize("case", WINDOWED)
def test_lengths_and_chunks_around_the_window(case: str, tmp_path: Path) -> None:
    name, options = WINDOWED[case]
    model = tiny(name, **options)
    model.save_pretrained(tmp_path)
    for length, chunk in itertools.product(range(7, 12), (1, 2, 9, 12)):
        tokens = prompt(length)
        theirs = their_logits(model, tokens)
        assert distance(native_logits(tmp_path, tokens, chunk), theirs) < 1e-4, (length, chunk)

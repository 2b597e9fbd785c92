"""The logits of the reference runtime under the law of all runtimes: see logit_laws."""

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logit_laws import (
    LLAMA,
    SEQUENCES,
    SPECS,
    Piece,
    Walk,
    alone_and_whole,
    check_position_in_the_batch,
    whole,
)
from tiny_models import random_parameters

from engine.models.spec import LayerSpec, ModelSpec
from engine.runtimes.reference.kv import KVCache
from engine.runtimes.reference.model import Model, Span


class ReferenceMachine:
    def __init__(self, spec: ModelSpec, num_blocks: int, block_size: int) -> None:
        self.model = tiny_model(spec)
        self.cache = KVCache(spec, num_blocks, block_size)
        self.cache.keys[:] = self.cache.values[:] = np.nan

    def logits(self, pieces: Sequence[Piece]) -> list[bytes]:
        spans = [Span(piece.start, piece.tokens[piece.start : piece.end], np.array(piece.blocks)) for piece in pieces]
        return [row.tobytes() for row in self.model.logits(self.model.forward(spans, self.cache))]


@cache
def tiny_model(spec: ModelSpec) -> Model:
    return Model(spec, random_parameters(spec))


@cache
def truth(name: str) -> list[list[bytes]]:
    return alone_and_whole(partial(ReferenceMachine, SPECS[name]))


@pytest.mark.parametrize("name", SPECS)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), block_size=st.sampled_from([1, 3, 8, 16]))
def test_logits_are_a_function_of_the_tokens_before_them(name: str, seed: int, block_size: int) -> None:
    Walk(partial(ReferenceMachine, SPECS[name]), truth(name), block_size, random.Random(seed)).run()


@pytest.mark.parametrize("name", SPECS)
def test_position_in_the_batch(name: str) -> None:
    check_position_in_the_batch(partial(ReferenceMachine, SPECS[name]), truth(name))


def test_a_window_reads_no_position_before_it() -> None:
    """Blocks that have slid out of every window may hold anything, as a cache that gives them back would leave them."""
    machine = ReferenceMachine(replace(LLAMA, layers=(LayerSpec(window=5),) * 2), 5, 16)
    tokens, blocks = SEQUENCES[2], range(1, 5)
    rows = machine.logits([whole(tokens, blocks)])
    machine.cache.keys[:, 1] = machine.cache.values[:, 1] = np.nan
    assert machine.logits([Piece(tokens, 20, len(tokens), blocks)]) == rows[20:]

"""The law of the reference runtime: the bytes of a row of logits depend on the tokens up to it and on nothing else.

Every row of every step is compared, under random batches, chunks, block tables, preemptions and shared prefixes.
"""

import random
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import random_parameters

from engine.models.spec import LayerSpec, ModelSpec, RopeSpec
from engine.runtimes.reference.kv import KVCache
from engine.runtimes.reference.model import Model, Span

LLAMA = ModelSpec(
    architecture="test",
    vocab_size=50,
    hidden_size=40,
    intermediate_size=56,
    num_heads=4,
    num_kv_heads=2,
    head_dim=10,
    max_context=64,
    layers=(LayerSpec(),) * 3,
    ropes=(RopeSpec(inv_freq=(1.0, 0.5, 0.2, 0.1, 0.01)),),
    norm_eps=1e-5,
    attention_scale=0.3,
)
ROPES = (
    RopeSpec(inv_freq=(1.0, 0.3, 0.05), attention_factor=1.2, interleaved=True),
    RopeSpec(inv_freq=(0.9, 0.1)),
)
SPECS = {
    "llama": LLAMA,
    "windows, caps, both norms": replace(
        LLAMA,
        layers=(LayerSpec(window=5), LayerSpec(rope=None), LayerSpec(window=17)),
        norm_unit_offset=True,
        post_norm=True,
        qk_norm="head",
        attention_softcap=5.0,
        activation="gelu_tanh",
        embedding_scale=40**0.5,
        logits_softcap=3.0,
        tied=True,
    ),
    "layer norms, biases, learned positions": replace(
        LLAMA,
        num_kv_heads=4,
        layers=(LayerSpec(rope=None),) * 2,
        learned_positions=64,
        norm="layer",
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        activation="gelu",
        gated=False,
    ),
    "parallel residual, partial rope": replace(
        LLAMA, num_kv_heads=1, layers=(LayerSpec(rope=1),) * 2, ropes=ROPES, norm="layer", parallel_residual=True
    ),
    "norms after, full qk norm, scales": replace(
        LLAMA,
        layers=(LayerSpec(rope=0), LayerSpec(rope=1, window=1), LayerSpec(rope=None)),
        ropes=ROPES,
        pre_norm=False,
        post_norm=True,
        qk_norm="full",
        residual_scale=0.5,
        logits_scale=0.25,
    ),
}

SHARED = 24  # tokens that the last two sequences have in common
_RNG = np.random.default_rng(1)
_PREFIX = _RNG.integers(0, 50, SHARED).tolist()
SEQUENCES = [
    _RNG.integers(0, 50, 1).tolist(),
    _RNG.integers(0, 50, 16).tolist(),
    _PREFIX + _RNG.integers(0, 50, 20).tolist(),
    _PREFIX + _RNG.integers(0, 50, 9).tolist(),
]


@cache
def tiny_model(name: str) -> Model:
    return Model(SPECS[name], random_parameters(SPECS[name]))


def poisoned_cache(spec: ModelSpec, num_blocks: int, block_size: int) -> KVCache:
    """A cache in which every position that was not written is not a number."""
    kv = KVCache(spec, num_blocks, block_size)
    kv.keys[:] = np.nan
    kv.values[:] = np.nan
    return kv


def logits_of(model: Model, spans: list[Span], kv: KVCache) -> list[bytes]:
    return [row.tobytes() for row in model.logits(model.forward(spans, kv))]


@cache
def alone_and_whole(name: str) -> list[list[bytes]]:
    """The logits of each sequence as one chunk, alone in a fresh cache."""
    truth = []
    for tokens in SEQUENCES:
        kv = poisoned_cache(SPECS[name], 5, 16)
        truth.append(logits_of(tiny_model(name), [Span(0, tokens, np.arange(1, 5))], kv))
        assert all(np.isfinite(np.frombuffer(row, np.float32)).all() for row in truth[-1])
    return truth


@dataclass
class Progress:
    tokens: list[int]
    expected: list[bytes]
    computed: int = 0
    blocks: list[int] = field(default_factory=list)


class Walk:
    """Computes all sequences in random chunks and batches, and compares every row."""

    def __init__(self, name: str, block_size: int, rng: random.Random) -> None:
        self.model, self.rng, self.block_size = tiny_model(name), rng, block_size
        self.kv = poisoned_cache(SPECS[name], 200, block_size)
        self.free = rng.sample(range(1, 200), 199)
        self.sequences = [Progress(*pair) for pair in zip(SEQUENCES, alone_and_whole(name), strict=True)]

    def preempt(self) -> None:
        """Forget what was computed of one sequence. Its blocks stay as they are and are not used again."""
        sequence = self.rng.choice(self.sequences)
        sequence.computed, sequence.blocks = 0, []

    def share(self) -> None:
        """Give the last sequence the full blocks that the one before it has computed of their common prefix."""
        donor, taker = self.sequences[-2:]
        full = min(donor.computed, SHARED) // self.block_size
        if taker.computed == 0 and full:
            taker.blocks, taker.computed = donor.blocks[:full], full * self.block_size

    def step(self) -> None:
        unfinished = [sequence for sequence in self.sequences if sequence.computed < len(sequence.tokens)]
        batch = self.rng.sample(unfinished, self.rng.randint(1, len(unfinished)))
        spans = [self.span(sequence) for sequence in batch]
        rows = iter(logits_of(self.model, spans, self.kv))
        for sequence, span in zip(batch, spans, strict=True):
            for position in range(span.start, span.end):
                assert next(rows) == sequence.expected[position], f"position {position} of {len(sequence.tokens)}"
            sequence.computed = span.end

    def span(self, sequence: Progress) -> Span:
        left = len(sequence.tokens) - sequence.computed
        end = sequence.computed + self.rng.choice([1, self.rng.randint(1, left), left])
        while len(sequence.blocks) * self.block_size < end:
            sequence.blocks.append(self.free.pop())
        return Span(sequence.computed, sequence.tokens[sequence.computed : end], np.array(sequence.blocks))


@pytest.mark.parametrize("name", SPECS)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), block_size=st.sampled_from([1, 3, 8, 16]))
def test_logits_are_a_function_of_the_tokens_before_them(name: str, seed: int, block_size: int) -> None:
    rng = random.Random(seed)
    walk = Walk(name, block_size, rng)
    for _ in range(2):
        if rng.random() < 0.5:
            walk.share()
        walk.step()
        walk.preempt()
    walk.share()
    while any(sequence.computed < len(sequence.tokens) for sequence in walk.sequences):
        walk.step()


@pytest.mark.parametrize("name", SPECS)
def test_position_in_the_batch(name: str) -> None:
    """A row of every residue modulo the tile, beside other rows."""
    model, truth = tiny_model(name), alone_and_whole(name)
    tokens = SEQUENCES[1]
    for before in range(1, 18, 4):
        kv = poisoned_cache(SPECS[name], 8, 16)
        spans = [Span(0, [7] * before, np.array([1, 2])), Span(0, tokens, np.array([3]))]
        assert logits_of(model, spans, kv)[before:] == truth[1]


def test_a_window_reads_no_position_before_it() -> None:
    """Blocks that have slid out of every window may hold anything, as a cache that gives them back would leave them."""
    spec = replace(LLAMA, layers=(LayerSpec(window=5),) * 2)
    model = Model(spec, random_parameters(spec))
    kv = poisoned_cache(spec, 5, 16)
    tokens, blocks = SEQUENCES[2], np.arange(1, 5)
    whole = logits_of(model, [Span(0, tokens, blocks)], kv)
    kv.keys[:, 1] = kv.values[:, 1] = np.nan
    assert logits_of(model, [Span(20, tokens[20:], blocks)], kv) == whole[20:]

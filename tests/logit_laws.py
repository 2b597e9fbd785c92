"""The law of the runtimes: the bytes of a row of logits depend on the tokens up to it and on nothing else.

Every row of every step is compared, under random batches, chunks, block tables, preemptions and shared prefixes. A
runtime under test is a `Machine`: it computes pieces of sequences over a small cache in which every position that was
not written is not a number.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from engine.models.spec import LayerSpec, ModelSpec, RopeSpec

LLAMA = ModelSpec(
    architecture="test",
    vocab_size=51,
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

POISON = 50  # a token that no sequence has, whose keys and values may be made other than numbers
SHARED = 24  # tokens that the last two sequences have in common
_RNG = np.random.default_rng(1)
_PREFIX = _RNG.integers(0, 50, SHARED).tolist()
SEQUENCES: list[list[int]] = [
    _RNG.integers(0, 50, 1).tolist(),
    _RNG.integers(0, 50, 16).tolist(),
    _PREFIX + _RNG.integers(0, 50, 20).tolist(),
    _PREFIX + _RNG.integers(0, 50, 9).tolist(),
]


@dataclass(frozen=True)
class Piece:
    """The positions from `start` to `end` of a sequence of tokens, to be computed over its block table."""

    tokens: Sequence[int]
    start: int
    end: int
    blocks: Sequence[int]


class Machine(Protocol):
    def logits(self, pieces: Sequence[Piece]) -> list[bytes]:
        """Compute the pieces in one step; the logits of every row."""


MakeMachine = Callable[[int, int], Machine]  # of a number of blocks and their size


def whole(tokens: Sequence[int], blocks: Sequence[int]) -> Piece:
    return Piece(tokens, 0, len(tokens), blocks)


def alone_and_whole(make: MakeMachine, block_size: int = 16) -> list[list[bytes]]:
    """The logits of each sequence as one piece, alone in a fresh cache."""
    truth = []
    for tokens in SEQUENCES:
        num_blocks = -(-len(tokens) // block_size)
        truth.append(make(num_blocks + 1, block_size).logits([whole(tokens, range(1, num_blocks + 1))]))
        for row in truth[-1]:
            assert np.isfinite(np.frombuffer(row, np.float32)[:POISON]).all()
    return truth


@dataclass
class Progress:
    tokens: list[int]
    expected: list[bytes]
    computed: int = 0
    blocks: list[int] = field(default_factory=list)


class Walk:
    """Computes all sequences in random pieces and batches, and compares every row."""

    def __init__(self, make: MakeMachine, truth: list[list[bytes]], block_size: int, rng: random.Random) -> None:
        self.machine, self.rng, self.block_size = make(200, block_size), rng, block_size
        self.free = rng.sample(range(1, 200), 199)
        self.sequences = [Progress(*pair) for pair in zip(SEQUENCES, truth, strict=True)]

    def run(self) -> None:
        for _ in range(2):
            if self.rng.random() < 0.5:
                self.share()
            self.step()
            self.preempt()
        self.share()
        while any(sequence.computed < len(sequence.tokens) for sequence in self.sequences):
            self.step()

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
        pieces = [self.piece(sequence) for sequence in batch]
        rows = iter(self.machine.logits(pieces))
        for sequence, piece in zip(batch, pieces, strict=True):
            for position in range(piece.start, piece.end):
                assert next(rows) == sequence.expected[position], f"position {position} of {len(sequence.tokens)}"
            sequence.computed = piece.end

    def piece(self, sequence: Progress) -> Piece:
        left = len(sequence.tokens) - sequence.computed
        end = sequence.computed + self.rng.choice([1, self.rng.randint(1, left), left])
        while len(sequence.blocks) * self.block_size < end:
            sequence.blocks.append(self.free.pop())
        return Piece(sequence.tokens, sequence.computed, end, list(sequence.blocks))


def check_position_in_the_batch(make: MakeMachine, truth: list[list[bytes]]) -> None:
    """A sequence behind more and more rows of another: every residue modulo the tile."""
    for before in range(1, 18, 4):
        pieces = [whole([7] * before, [1, 2]), whole(SEQUENCES[1], [3])]
        assert make(8, 16).logits(pieces)[before:] == truth[1]

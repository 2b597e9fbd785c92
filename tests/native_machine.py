"""The native runtime as a `Machine` of the logit laws, with any kind of weights, KV cache and instruction set."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from logit_laws import POISON, SPECS, Piece, whole
from tiny_models import random_parameters

from engine.runtimes.native import _native
from engine.runtimes.native.program import compile_tape
from engine.runtimes.native.weights import Weights, load_weights
from engine.runtimes.native.worker import make_program
from engine.sched.plan import Chunk, Enter
from engine.types import SamplingParams

WEIGHTS: dict[str, dict[str, str | None]] = {
    "f32": {},
    "bf16": {"dtype": "bfloat16"},
    "f16": {"dtype": "float16"},
    "int8": {"quantize": "int8"},
    "int4": {"quantize": "int4"},
    "eetq": {"quantize": "eetq"},
    "nf4": {"quantize": "bitsandbytes-nf4"},
    "fp4": {"quantize": "bitsandbytes-fp4"},
    "fp8": {"quantize": "fp8"},
}
KV_KINDS = ("f32", "bf16", "int8")
ISAS = tuple(_native.isas())


class Parameters(dict[str, np.ndarray]):
    """Parameters that are in no file, for `load_weights`."""

    tied_head_bits = None
    quantized_to = None

    def quantized(self, name: str) -> None:
        return None

    def release(self, name: str) -> None:
        pass


@cache
def pool(threads: int) -> Any:
    return _native.Pool(threads)


@cache
def packed(name: str, kind: str) -> Weights:
    """The weights of one of SPECS; those of the poisonous token's embedding are no numbers."""
    spec = SPECS[name]
    values = random_parameters(spec)
    values["embed.weight"] = values["embed.weight"].copy()
    values["embed.weight"][POISON] = np.nan
    return load_weights(spec, compile_tape(spec), Parameters(values), pool(2), **WEIGHTS[kind])  # type: ignore[arg-type]


@dataclass(frozen=True)
class Setting:
    """What a program is made of, and on how many threads it runs."""

    spec: str = "llama"
    weights: str = "f32"
    kv: str = "f32"
    isa: str = ""
    threads: int = 2

    def __str__(self) -> str:
        return f"{self.spec}-{self.weights}-{self.kv}-{self.isa or 'best'}-{self.threads}"

    def machine(self, num_blocks: int, block_size: int) -> "NativeMachine":
        return NativeMachine(self, num_blocks, block_size)


class NativeMachine:
    def __init__(self, setting: Setting, num_blocks: int, block_size: int) -> None:
        self.spec = SPECS[setting.spec]
        self.program = make_program(
            self.spec,
            compile_tape(self.spec),
            packed(setting.spec, setting.weights),
            pool(setting.threads),
            isa=setting.isa,
            kv_kind=setting.kv,
            num_blocks=num_blocks,
            block_size=block_size,
            num_slots=16,
            num_tokens=self.spec.vocab_size,
        )
        self._poison(num_blocks, block_size)

    def _poison(self, num_blocks: int, block_size: int) -> None:
        """Fill every block with the keys and values of a token that is not a number."""
        longest = (self.spec.max_context - 1) // block_size
        blocks = range(1, num_blocks)
        for first in range(0, len(blocks), longest):
            some = blocks[first : first + longest]
            self.logits([whole([POISON] * (len(some) * block_size), some)])

    def logits(self, pieces: Sequence[Piece]) -> list[bytes]:
        """Every row of a piece comes before a token of a longer prompt, so all are looked at."""
        chunks = []
        for slot, piece in enumerate(pieces, start=1):
            tokens = (*piece.tokens, 0)
            params = SamplingParams(prompt_logprobs=True)
            self.program.enter(Enter(slot, slot, tokens, len(tokens), params))
            chunks.append(self._chunk(slot, piece))
        rows = self.program.logits(chunks)
        for slot in range(1, len(pieces) + 1):
            self.program.leave(slot)
        return [row.tobytes() for row in rows]

    def _chunk(self, slot: int, piece: Piece) -> Chunk:
        return Chunk(
            request_id=slot,
            slot=slot,
            start=piece.start,
            tokens=tuple(piece.tokens[piece.start : piece.end]),
            num_draft=0,
            blocks=tuple(piece.blocks),
            sample=False,
            prompt_logprobs=True,
        )


def float_logits(setting: Setting, tokens: Sequence[int]) -> np.ndarray:
    """The logits `[T, V]` of one prompt in one piece, the column of the poisonous token left out."""
    rows = setting.machine(6, 16).logits([whole(tokens, range(1, 6))])
    return np.stack([np.frombuffer(row, np.float32)[:POISON] for row in rows])

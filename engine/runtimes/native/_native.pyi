"""The compiled module: packed weights, the tape and its execution, sampling, and the kernels for tests and benchmarks.

Nothing here knows a model family: `program.py` writes the tape. Arrays are C-contiguous. A weight kind is named `f32`,
`bf16`, `f16`, `int8`, `int4`, `nf4`, `fp4` or `fp8`; a KV kind `f32`, `bf16` or `int8`; an instruction set `portable`,
`avx2`, `avx512`, `avx512vnni` or `neon`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.sched.plan import Chunk, Enter

F32 = NDArray[np.float32]

def isas() -> list[str]:
    """The instruction sets this machine can run, best first; the last is `portable`."""

class Pool:
    """The threads that compute; the calling one is among them. Make it in the process that uses it, after any fork."""

    def __init__(self, threads: int) -> None: ...
    @property
    def threads(self) -> int: ...

class PackedLinear:
    """The panels of one linear, as `Linear` in src/kernels.h describes them. Arrays are views."""

    @property
    def kind(self) -> str:
        """`table4` where the table is neither that of nf4 nor that of fp4."""
    @property
    def outputs(self) -> int: ...
    @property
    def inputs(self) -> int: ...
    @property
    def group(self) -> int:
        """Weights that share a scale, of int4 and tables; otherwise 0."""
    @property
    def asymmetric(self) -> bool: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def panels(self) -> NDArray[np.uint8]:
        """`[panels, bytes of one]`"""
    @property
    def scales(self) -> F32 | None:
        """`[panels * 32]`, of int8 and fp8."""
    @property
    def bias(self) -> F32 | None:
        """`[panels * 32]`"""

def pack(
    pool: Pool,
    kind: str,
    matrices: Sequence[tuple[NDArray[Any], str]],
    bias: F32 | None = None,
    *,
    group: int = 0,
    steps: int = 127,
) -> PackedLinear:
    """Stack matrices `[out, in]` and round them to `kind`.

    A matrix comes with its type, `f32`, `bf16` (as uint16) or `f16`. `group`: 32, 64 or 128, of int4, nf4 and fp4.
    `steps`: of int8, whose scale is the largest magnitude of a row divided by it. Raises ValueError and MemoryError.
    """

def pack_codes(
    pool: Pool,
    kind: str,
    codes: NDArray[np.uint8],
    scales: F32,
    zeros: NDArray[np.uint8] | None = None,
    bias: F32 | None = None,
    *,
    table: F32 | None = None,
    group: int = 0,
) -> PackedLinear:
    """Weights `[out, in]` that are quantized already: int8, int4, nf4 or fp4.

    `codes` `[out, in]`, one a byte: 0..15, or of int8 the bytes of int8. `scales` `[out, groups]` ([out, 1] of int8),
    and of asymmetric int4 `zeros`, likewise. `table`: 16 numbers in place of those of nf4 or fp4. Raises ValueError and
    MemoryError.
    """

def kv_block_bytes(kind: str, block_size: int, num_kv_heads: int, head_dim: int, num_layers: int) -> int:
    """Bytes of one block over all layers, keys and values and their scales."""

class Row(NamedTuple):
    """What was drawn from, or scored in, one row of logits: a plain tuple in fact, in this order.

    `top` holds (token id, log probability), most probable first. `fault` says what the row held instead of usable
    scores: "NaN", "plus infinity" or "nothing but minus infinity"; the other fields then mean nothing.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    fault: str | None

class Program:
    """A tape with its weights, its KV cache and its slots. One thread at a time may call it."""

    def __init__(
        self,
        pool: Pool,
        *,
        isa: str,  # "": the best; the worker passes the environment variable TGI_ISA here
        buffers: Sequence[int],  # widths in floats
        ops: Sequence[tuple[str, Sequence[int], Sequence[float]]],  # name, operands, numbers; see src/program.h
        linears: Sequence[PackedLinear],
        vectors: Sequence[F32],
        embedding: NDArray[
            np.uint8
        ],  # [vocab_size, hidden_size * bytes of a number]: the bytes of the table, not copied
        positions: NDArray[np.uint8] | None,  # the learned position table, of float32
        embedding_kind: str,  # f32, bf16 or f16
        ropes: Sequence[tuple[F32, float, bool]],  # inv_freq, attention_factor, interleaved
        num_layers: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        kv_kind: str,
        num_blocks: int,
        block_size: int,
        num_slots: int,  # counts slot 0
        max_context: int,
        num_tokens: int,  # ids from here on have no token and are never drawn
        embed_rows: str = "last",  # of a text to embed: all, first or last
    ) -> None:
        """Raises ValueError where the tape does not fit together, MemoryError where the KV cache finds no room."""

    @property
    def isa(self) -> str: ...
    @property
    def kv_bytes(self) -> int: ...
    def enter(self, enter: Enter) -> None:
        """Fill a slot: its tokens, the length of its prompt and its sampling parameters (the seed must be set)."""

    def leave(self, slot: int) -> None:
        """Empty a slot, or do nothing where it is empty."""

    def tokens(self, slot: int) -> NDArray[np.int64]:
        """The tokens of a slot, `[max_context + 1]`, as far as they are known: a view, to be read and written.

        `step` writes a chunk's tokens, drafts too, at their positions. Whoever accepts choices writes those.
        """

    def step(
        self, chunks: Sequence[Chunk], masks: Callable[[], Sequence[NDArray[np.uint32] | None]] | None = None
    ) -> list[Any]:
        """Compute the chunks, write their keys and values, and look at the rows that are asked for.

        For each chunk, in order: the rows that score a prompt token (with `prompt_logprobs`: every row whose next
        position is in the prompt; `token` is that token, the log probability of the model's own distribution), then
        the rows that draw a token (with `sample`: the last known one and each draft; a row counts the drafts up to
        its own position as context). All rows are drawn, so a row after a refused draft, and its fault, must be
        ignored. `masks` is called once there are logits to draw from, perhaps by another thread; it returns for each
        chunk the bits of the tokens that may be drawn, `[num_draft + 1, ceil(vocab_size / 32)]` or wider, or None for
        every token. For a chunk to embed, instead of both lists: the hidden states of `embed_rows`, an F32 array
        `[rows, hidden_size]`. The GIL is released. Raises ValueError for an empty slot or a position, block or token
        out of range; nothing was computed then.
        """

    def logits(self, chunks: Sequence[Chunk]) -> F32:
        """Compute the chunks as `step` does, and return the logits `[rows, vocab_size]` of the same rows, unsampled."""

class Kernels:
    """The kernels of one instruction set on plain arrays, for tests and micro benchmarks."""

    def __init__(self, isa: str = "") -> None: ...
    @property
    def name(self) -> str: ...
    def linear(self, pool: Pool, linear: PackedLinear, x: F32) -> F32:
        """`[T, inputs]` -> `[T, outputs]`."""

    def time_linear(self, pool: Pool, linears: Sequence[PackedLinear], rows: int, rounds: int) -> float:
        """Seconds of one pass over the linears, one after the other (the best of the rounds), on inputs made up."""

    def embed(self, row: NDArray[np.uint8], kind: str, scale: float) -> F32: ...
    def norm(self, kind: str, x: F32, weight: F32, bias: F32 | None, eps: float) -> F32:
        """kind: `rms` or `layer`; x `[T, n]`."""

    def add(self, x: F32, y: F32, scale: float) -> F32: ...
    def activate(self, kind: str, gate: F32, up: F32 | None) -> F32:
        """kind: `silu`, `gelu` or `gelu_tanh`; `[T, n]`."""

    def rotate(self, heads: F32, cos: F32, sin: F32, interleaved: bool, scale: float) -> F32:
        """heads `[T, dim]`, cos and sin `[T, half]`."""

    def scale_cap(self, x: F32, scale: float, cap: float) -> F32: ...
    def argmax(self, row: F32) -> int: ...
    def attention(
        self,
        kind: str,
        queries: F32,
        keys: F32,
        values: F32,
        *,
        block_size: int = 16,
        window: int = 0,
        softcap: float = 0.0,
        causal: bool = True,
        split: int = 0,
        stale: float = 0.0,
    ) -> F32:
        """Attention of the last n of c positions over a small paged cache whose blocks lie in reverse order.

        queries `[n, heads, head_dim]`, scaled already; keys and values `[c, kv_heads, head_dim]`. `split`: 0 for
        `attend`, otherwise `attend_partial` on runs of that many partitions, then `combine`. Slots without a position
        are filled with `stale` before (f32 only).
        """

def read_bandwidth(isa: str, bytes: int, threads: int) -> float:
    """Bytes a second that `threads` threads read together from a buffer of that size, in huge pages."""

def fma_peak(isa: str, threads: int) -> float:
    """Floating point operations a second of `threads` threads (a multiply-add counts 2)."""

def dot_peak(isa: str, threads: int) -> float:
    """Operations a second of 8-bit integer dot products (a multiply-add counts 2)."""

def __getattr__(name: str) -> Any: ...  # what sampler_bindings.cpp adds

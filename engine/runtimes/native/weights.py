"""From a checkpoint to what the tape computes with: packed linears, float vectors, and tables of embeddings.

Linears are packed one after the other, straight from the memory-mapped file, whose pages are then given back. So
loading takes the packed weights and at most one tensor more. An embedding in the type that is asked for stays in the
file: its rows are read where they lie.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from engine.errors import ConfigError
from engine.models.spec import ModelSpec
from engine.quant import QuantizedMatrix
from engine.runtimes.native import _native
from engine.runtimes.native.program import Tape
from engine.weights.load import Checkpoint

FLOATS: dict[str, np.dtype[Any]] = {
    "f32": np.dtype(np.float32),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f16": np.dtype(np.float16),
}
ROUNDED = {"float32": None, "bfloat16": "bf16", "float16": "f16"}  # what a dtype rounds the weights to
NAMES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
KV_KINDS = {"float32": "f32", "bfloat16": "bf16", "int8": "int8"}


@dataclass(frozen=True)
class Method:
    """How linear layers are quantized when a checkpoint is loaded.

    Norms, biases, embeddings and positions stay floats. So does the head under the methods of other programs, which
    leave it alone; our own take it too, in 8 bits, because it is the largest matrix of a small model.
    """

    kind: str
    group: int = 0
    steps: int = 127  # of an int8 scale in the largest weight of its output
    head: str | None = None  # its kind; None = not quantized


METHODS = {
    "int8": Method("int8", head="int8"),
    "int4": Method("int4", group=32, head="int8"),
    "eetq": Method("int8", steps=128),
    "bitsandbytes-nf4": Method("nf4", group=64),
    "bitsandbytes-fp4": Method("fp4", group=64),
    "fp8": Method("fp8"),
}
STORED = "compressed-tensors"  # TGI's name for weights that are quantized in the file


@dataclass(frozen=True)
class Weights:
    linears: tuple[_native.PackedLinear, ...]
    vectors: tuple[NDArray[np.float32], ...]
    embedding: NDArray[np.uint8]  # [vocab_size, hidden_size * bytes of a number]
    positions: (
        NDArray[np.uint8] | None
    )  # as the embedding, but of float32, from position 0 on, with the token type added
    embedding_kind: str
    dtype: str  # of what is not quantized
    format: str  # of the linear layers, in words

    @property
    def nbytes(self) -> int:
        arrays = (*self.linears, *self.vectors, self.embedding, *(() if self.positions is None else (self.positions,)))
        return sum(array.nbytes for array in arrays)


def find_dtype(name: str | None) -> str | None:
    """The kind that a dtype rounds weights to; None = they stay as stored. Raises ConfigError.

    `float32` rounds nothing, and numbers that were stored in 16 bits need no more to be exact.
    """
    if name is not None and name not in ROUNDED:
        raise ConfigError(f"unknown dtype '{name}'; choose one of: {', '.join(ROUNDED)}")
    return ROUNDED[name] if name else None


def find_method(name: str | None) -> Method | None:
    """What is done to weights; None = nothing, also where they are quantized already. Raises ConfigError."""
    if name in (None, STORED):
        return None
    if name not in METHODS:
        raise ConfigError(f"this runtime cannot quantize to '{name}'; choose one of: {', '.join((*METHODS, STORED))}")
    return METHODS[name]


def check_stored(checkpoint: Checkpoint, quantize: str | None) -> None:
    """Refuse to quantize what is quantized already, and to take for quantized what is not. Raises ConfigError."""
    stored = checkpoint.quantized_to
    if stored is not None and quantize not in (None, STORED):
        raise ConfigError(f"quantize '{quantize}': the model's weights are {stored} already; leave it out")
    if stored is None and quantize == STORED:
        raise ConfigError(
            f"quantize '{STORED}': the model's weights are not quantized; `tgi quantize` does that, "
            f"or choose one of: {', '.join(METHODS)}"
        )


def find_kv_kind(name: str | None, dtype: str | None) -> str:
    """The kind of the KV cache: as asked, else float32 with the dtype of that name and bfloat16 with others.

    Raises ConfigError.
    """
    if name is not None and name not in KV_KINDS:
        raise ConfigError(f"unknown KV cache dtype '{name}'; choose one of: {', '.join(KV_KINDS)}")
    return KV_KINDS[name or ("float32" if dtype == "float32" else "bfloat16")]


def load_weights(
    spec: ModelSpec,
    tape: Tape,
    checkpoint: Checkpoint,
    pool: _native.Pool,
    *,
    dtype: str | None = None,
    quantize: str | None = None,
) -> Weights:
    """Pack the weights of `checkpoint` for `tape` on the threads of `pool`.

    Weights that are quantized are made from the stored numbers; `dtype` rounds the others. Raises ConfigError and
    WeightsError.
    """
    kind, method = find_dtype(dtype), find_method(quantize)
    check_stored(checkpoint, quantize)

    def stored(name: str) -> NDArray[Any]:
        return _stored(checkpoint[name])

    embedding, positions, embedding_kind = _tables(spec, stored, kind)
    return Weights(
        linears=tuple(_pack(parts, checkpoint, pool, kind, method) for parts in tape.linears),
        vectors=tuple(_vector(spec, name, stored(name), kind) for name in tape.vectors),
        embedding=embedding,
        positions=positions,
        embedding_kind=embedding_kind,
        dtype=dtype or NAMES[embedding_kind],
        format=checkpoint.quantized_to or quantize or dtype or NAMES[embedding_kind],
    )


def _stored(value: NDArray[Any]) -> NDArray[Any]:
    """A parameter as it is stored, but rows adjacent, and float64 as float32."""
    dtype = value.dtype if value.dtype in FLOATS.values() else np.dtype(np.float32)
    return np.require(value, dtype, ["C_CONTIGUOUS", "ALIGNED"])


def _pack(
    parts: Sequence[str], checkpoint: Checkpoint, pool: _native.Pool, kind: str | None, method: Method | None
) -> _native.PackedLinear:
    """One linear of the parameters `{part}.weight`, one below the other, and of their biases."""
    bias = _bias(parts, checkpoint, kind)
    matrices = [checkpoint.quantized(f"{part}.weight") for part in parts]
    quantized = [matrix for matrix in matrices if matrix is not None]
    if len(quantized) == len(parts):
        return _pack_codes(pool, quantized, bias)
    arrays = [checkpoint[f"{part}.weight"] for part in parts]
    if method is not None and parts[0].startswith("layers."):
        packed = pack_floats(pool, method.kind, arrays, bias, group=method.group, steps=method.steps)
    elif (method is not None and method.head is not None) or (parts == ("embed",) and checkpoint.tied_head_bits == 8):
        packed = pack_floats(pool, (method and method.head) or "int8", arrays, bias)
    else:
        packed = pack_floats(pool, kind, arrays, bias)
    for part in parts:
        checkpoint.release(f"{part}.weight")
    return packed


def pack_floats(
    pool: _native.Pool,
    kind: str | None,
    arrays: Sequence[NDArray[Any]],
    bias: NDArray[np.float32] | None,
    *,
    group: int = 0,
    steps: int = 127,
) -> _native.PackedLinear:
    """Pack matrices as they are stored, one below the other, as `kind`; None = the kind that holds them all."""
    stored = [_stored(array) for array in arrays]
    kinds = [_kind(array) for array in stored]
    matrices = [(_bits(array), own) for array, own in zip(stored, kinds, strict=True)]
    return _native.pack(pool, kind or _common(kinds), matrices, bias, group=group, steps=steps)


def _pack_codes(
    pool: _native.Pool, matrices: Sequence[QuantizedMatrix], bias: NDArray[np.float32] | None
) -> _native.PackedLinear:
    """Pack matrices that are quantized already, one below the other; all alike, as the format sees to it."""
    codes = np.concatenate([matrix.codes for matrix in matrices])
    scales = np.concatenate([matrix.scales for matrix in matrices])
    bits, group = matrices[0].bits, matrices[0].group
    unsigned = codes.view(np.uint8) if bits == 8 else (codes + np.int8(8)).view(np.uint8)
    return _native.pack_codes(pool, f"int{bits}", unsigned, scales, None, bias, group=group)


def _bias(parts: Sequence[str], checkpoint: Checkpoint, kind: str | None) -> NDArray[np.float32] | None:
    """One after the other; a linear has a bias in all of its parts or in none."""
    names = [f"{part}.bias" for part in parts]
    if names[0] not in set(checkpoint):
        return None
    return np.concatenate([_rounded(_stored(checkpoint[name]), kind) for name in names])


def _vector(spec: ModelSpec, name: str, value: NDArray[Any], kind: str | None) -> NDArray[np.float32]:
    vector = _rounded(value, kind)
    return vector + np.float32(1) if spec.norm_unit_offset and name.endswith("norm.weight") else vector


def _rounded(value: NDArray[Any], kind: str | None) -> NDArray[np.float32]:
    """In float32, as a copy, rounded to `kind` first."""
    rounded: NDArray[np.float32] = (value if kind is None else value.astype(FLOATS[kind])).astype(np.float32)
    return rounded


def _tables(
    spec: ModelSpec, stored: Callable[[str], NDArray[Any]], kind: str | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None, str]:
    """The embedding and the learned positions as bytes, and the kind of the embedding."""
    table = stored("embed.weight")
    embedding_kind = kind or _kind(table)
    rows = table.astype(FLOATS[embedding_kind], copy=False).view(np.uint8)
    if spec.learned_positions is None:
        return rows, None, embedding_kind
    positions = _rounded(stored("positions.weight"), kind)[spec.position_offset :]
    if spec.token_types is not None:
        positions = positions + _rounded(stored("token_types.weight"), kind)[0]
    return rows, np.ascontiguousarray(positions).view(np.uint8), embedding_kind


def _kind(array: NDArray[Any]) -> str:
    return next(kind for kind, dtype in FLOATS.items() if array.dtype == dtype)


def _common(kinds: Sequence[str]) -> str:
    """The kind that holds the numbers of all."""
    return kinds[0] if len(set(kinds)) == 1 else "f32"


def _bits(array: NDArray[Any]) -> NDArray[Any]:
    """numpy's arrays of bfloat16 are known to no other library."""
    return array.view(np.uint16) if _kind(array) == "bf16" else array

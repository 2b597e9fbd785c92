"""Reading safetensors files: memory-mapped, without copies, and never trusting the file.

The format: 8 bytes with the length of a JSON header (little-endian), the header, then the bytes of all tensors
without gaps. https://huggingface.co/docs/safetensors
"""

import math
import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ml_dtypes
import msgspec
import numpy as np

from engine.errors import ModelNotFound, ModelUnsupported, WeightsError

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]  # first byte and one past the last, after the header


class _Index(msgspec.Struct):
    weight_map: dict[str, str]  # tensor -> file


def read_checkpoint(path: str | Path) -> dict[str, np.ndarray]:
    """Every tensor of the checkpoint in the directory `path`, as a read-only view of its file.

    Reads `model.safetensors`, or the shards that `model.safetensors.index.json` names. Raises ModelNotFound
    (no weights), ModelUnsupported (only pickle files) and WeightsError (a missing shard or tensor, a corrupt file).
    """
    directory = Path(path)
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.is_file():
        return read_safetensors(single)
    if index.is_file():
        return _read_shards(index)
    if any(found for pattern in PICKLES for found in directory.glob(pattern)):
        raise ModelUnsupported(
            f"'{path}' holds its weights only as pickle files, which can run code when they are read; "
            "convert them to safetensors, or choose a revision that has them"
        )
    raise ModelNotFound(f"'{path}' has neither model.safetensors nor model.safetensors.index.json")


def read_safetensors(file: Path) -> dict[str, np.ndarray]:
    """Every tensor of one file. Raises WeightsError naming the file and, where it is one tensor's fault, the tensor."""
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, 2)
            if size < 8:
                raise WeightsError(f"'{file}' is truncated: {size} bytes, a safetensors file has at least 8")
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise WeightsError(f"cannot read '{file}': {error}") from error
    length = int.from_bytes(data[:8], "little")
    if length > min(size - 8, MAX_HEADER_BYTES):
        raise WeightsError(f"'{file}' is truncated or corrupt: a header of {length} bytes in a file of {size}")
    entries = _parse_header(data[8 : 8 + length], file)
    _check_layout(entries, size - 8 - length, file)
    return {name: _view(data, 8 + length, entry, name, file) for name, entry in entries.items()}


def release(view: np.ndarray) -> None:
    """Take the pages of a view of a file out of this process's memory; they are read again when they are touched.

    Does nothing to an array that is not one, such as a copy.
    """
    base: Any = view
    while isinstance(base, np.ndarray):
        base = base.base
    if not isinstance(base, mmap.mmap) or not hasattr(base, "madvise") or not view.size:
        return
    low, high = np.lib.array_utils.byte_bounds(view)
    start = low - np.frombuffer(base, np.uint8).ctypes.data
    first = start // mmap.PAGESIZE * mmap.PAGESIZE
    base.madvise(mmap.MADV_DONTNEED, first, high - low + start - first)


def _parse_header(header: bytes, file: Path) -> dict[str, _Entry]:
    try:
        fields = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise WeightsError(f"'{file}' is corrupt: its header is not a JSON object: {error}") from error
    entries = {}
    for name, raw in fields.items():
        try:
            if name == "__metadata__":
                msgspec.json.decode(raw, type=dict[str, str])
            else:
                entries[name] = msgspec.json.decode(raw, type=_Entry)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise WeightsError(f"'{file}' is corrupt: header of '{name}': {error}") from error
    return entries


def _check_layout(entries: dict[str, _Entry], size: int, file: Path) -> None:
    """Tensors must be of a known type, fill their bytes exactly, and follow each other without gap or overlap."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        dtype = DTYPES.get(entry.dtype)
        if dtype is None:
            raise WeightsError(f"'{file}': tensor '{name}' has the unknown dtype '{entry.dtype}'")
        if any(length < 0 for length in entry.shape):
            raise WeightsError(f"'{file}': tensor '{name}' has the impossible shape {entry.shape}")
        start, stop = entry.data_offsets
        if start != end or stop < start:
            raise WeightsError(f"'{file}': tensor '{name}' lies at bytes {start} to {stop}, expected from {end} on")
        if stop > size:
            raise WeightsError(f"'{file}' is truncated: tensor '{name}' ends at byte {stop} of {size}")
        if stop - start != math.prod(entry.shape) * dtype.itemsize:
            raise WeightsError(
                f"'{file}': tensor '{name}' has {stop - start} bytes, too few or too many "
                f"for the shape {entry.shape} in {entry.dtype}"
            )
        end = stop
    if end != size:
        raise WeightsError(f"'{file}' is corrupt: {size - end} bytes at its end belong to no tensor")


def _view(data: mmap.mmap, base: int, entry: _Entry, name: str, file: Path) -> np.ndarray:
    try:
        return np.ndarray(entry.shape, DTYPES[entry.dtype], buffer=data, offset=base + entry.data_offsets[0])
    except (ValueError, OverflowError) as error:  # more dimensions, or longer ones, than an array can have
        raise WeightsError(f"'{file}': tensor '{name}' has the impossible shape {entry.shape}: {error}") from error


def _read_shards(index: Path) -> dict[str, np.ndarray]:
    try:
        weight_map = msgspec.json.decode(index.read_bytes(), type=_Index).weight_map
    except (OSError, RecursionError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise WeightsError(f"cannot read '{index}': {error}") from error
    tensors: dict[str, np.ndarray] = {}
    for shard in _shards(weight_map.values(), index):
        found = read_safetensors(shard)
        if twice := tensors.keys() & found.keys():
            raise WeightsError(f"'{shard}': tensor '{min(twice)}' is in another shard as well")
        if absent := {name for name, file in weight_map.items() if file == shard.name} - found.keys():
            raise WeightsError(f"'{shard}' lacks the tensor '{min(absent)}', which '{index.name}' places there")
        tensors |= found
    return tensors


def _shards(names: Iterable[str], index: Path) -> list[Path]:
    shards = []
    for name in sorted(set(names)):
        if Path(name).name != name:
            raise WeightsError(f"'{index}' names the shard '{name}', which is not a file beside it")
        if not (index.parent / name).is_file():
            raise WeightsError(f"the shard '{name}' that '{index}' names is missing; download the model again")
        shards.append(index.parent / name)
    return shards

"""From the tensors of a checkpoint to the parameters of a `ModelSpec`: strict, and lazy.

Strict: nothing missing, nothing of a wrong shape, nothing left over. A silently dropped bias or a misread
config changes the text a little and is found months later; here it is an error at start.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from engine.errors import ModelUnsupported, WeightsError
from engine.models.checkpoint import read_config
from engine.models.spec import Family, ModelSpec, Source, parameters
from engine.quant import QuantizedMatrix, compressed_tensors
from engine.weights.files import DTYPES, read_checkpoint, release

Tensor = np.ndarray | QuantizedMatrix
T = TypeVar("T", np.ndarray, QuantizedMatrix)
FLOATS = tuple(DTYPES[name] for name in ("F64", "F32", "F16", "BF16"))


class Checkpoint(Mapping[str, np.ndarray]):
    """The parameters of a model by canonical name, each made from its source when it is asked for.

    Arrays are as stored (bfloat16, float16, float32, ...), read-only, and views of the file but where a fused
    tensor has to be taken apart; what is quantized comes as float32. A wrong shape raises WeightsError when the
    parameter is asked for. `tied_head_bits`: in how many bits a tied head is to be made from the embedding, if any.
    """

    def __init__(
        self,
        spec: ModelSpec,
        sources: Mapping[str, Source],
        tensors: Mapping[str, Tensor],
        tied_head_bits: int | None = None,
    ) -> None:
        self.tied_head_bits = tied_head_bits
        self._shapes = parameters(spec)
        bits = {each.bits for each in tensors.values() if isinstance(each, QuantizedMatrix)}
        # The format of its linear layers, as the head may have more bits; None where they are floats.
        self.quantized_to = f"int{min(bits)}" if bits else None
        self.sources = sources
        self.tensors = tensors
        self._head_dim = spec.head_dim

    def __getitem__(self, name: str) -> np.ndarray:
        matrix = self.quantized(name)
        if matrix is not None:
            return matrix.dequantized()
        source = self.sources[name]
        stored = self.tensors[source.name]
        assert isinstance(stored, np.ndarray)
        if stored.dtype not in FLOATS:
            raise WeightsError(f"tensor '{source.name}' is stored as {stored.dtype}; expected floating point numbers")
        return self._take(name, stored, lambda tensor: _resolve(tensor, source, self._head_dim))

    def quantized(self, name: str) -> QuantizedMatrix | None:
        """A parameter whose weights are stored as whole numbers, with its scales; None for any other."""
        # Columns are inputs in the file too, also of a layer that is stored the other way round as floats.
        source = replace(self.sources[name], transpose=False)
        stored = self.tensors[source.name]
        if not isinstance(stored, QuantizedMatrix):
            return None
        return self._take(name, stored, lambda matrix: matrix.rows(lambda rows: _resolve(rows, source, self._head_dim)))

    def _take(self, name: str, stored: T, resolve: Callable[[T], T]) -> T:
        """The part of a tensor that is the parameter. Raises WeightsError where there is none of its shape."""
        shape = self._shapes[name]
        try:
            value = resolve(stored)
        except (ValueError, IndexError):
            value = stored
        if value.shape != shape:
            raise WeightsError(
                f"tensor '{self.sources[name].name}' has the shape {list(stored.shape)}, from which {name} of shape "
                f"{list(shape)} cannot be taken; config.json and weights do not belong together"
            )
        return value

    def release(self, name: str) -> None:
        """Take the file's pages of a parameter out of memory; they are read again when they are touched."""
        stored = self.tensors[self.sources[name].name]
        if isinstance(stored, np.ndarray):
            release(stored)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def load(spec: ModelSpec, family: Family, path: str | Path) -> Checkpoint:
    """Open the checkpoint in the directory `path` as the parameters of `spec`.

    Raises WeightsError (missing, unexpected or corrupt tensors), ModelUnsupported (pickled weights, or quantized in
    a way this version cannot read) and ModelNotFound (no weights).
    """
    sources = family.sources(spec)
    stored = _with_base_prefix(read_checkpoint(path), sources["embed.weight"].name)
    quantization = read_config(path).get("quantization_config")
    tensors = _quantized_layers(path, stored, quantization) if quantization else stored
    _check_names(sources, tensors, spec, family)
    _check_rows(sources, tensors)
    tied_head_bits = compressed_tensors.tied_head_bits(quantization) if quantization else None
    return Checkpoint(spec, sources, tensors, tied_head_bits)


def _quantized_layers(
    path: str | Path, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]
) -> Mapping[str, Tensor]:
    method = config.get("quant_method") if isinstance(config, Mapping) else None
    if method != compressed_tensors.METHOD:
        raise ModelUnsupported(
            f"'{path}' is quantized ({method}), which this version cannot read; it reads {compressed_tensors.METHOD} "
            "as `tgi quantize` writes it. Use the model it was made from"
        )
    return compressed_tensors.Layers(tensors, compressed_tensors.group_size(config))


def _check_names(sources: Mapping[str, Source], tensors: Mapping[str, Tensor], spec: ModelSpec, family: Family) -> None:
    used = {source.name for source in sources.values()}
    if missing := used - tensors.keys():
        raise WeightsError(f"the weights lack {_listed(missing)}, which {spec.architecture} needs")
    ignored = re.compile("|".join(family.IGNORED) or r"(?!)")
    unused = {name for name in tensors.keys() - used if not ignored.fullmatch(name)}
    if spec.tied:  # some checkpoints store a copy of the embedding as the head
        unused.discard(family.sources(replace(spec, tied=False))["head.weight"].name)
    if unused:
        raise WeightsError(f"the weights hold {_listed(unused)}, for which {spec.architecture} has no place")


def _check_rows(sources: Mapping[str, Source], tensors: Mapping[str, Tensor]) -> None:
    """The rows taken from a fused tensor must reach its end."""
    ends: dict[str, int] = {}
    for source in sources.values():
        if source.rows is not None:
            ends[source.name] = max(source.rows[1], ends.get(source.name, 0))
    for source in sources.values():
        if source.rows is None:
            continue
        tensor = tensors[source.name]
        shape = tensor.shape
        axis = -1 if source.transpose and isinstance(tensor, np.ndarray) else 0
        if len(shape) < 1 or shape[axis] != ends[source.name]:
            raise WeightsError(
                f"tensor '{source.name}' has the shape {list(shape)}; its parts are {ends[source.name]} rows together"
            )


def _with_base_prefix(tensors: Mapping[str, np.ndarray], embedding: str) -> Mapping[str, np.ndarray]:
    """Name the tensors as in the whole model where they were saved from the model without its head (GPT-2's were)."""
    prefix = embedding.partition(".")[0] + "."
    if embedding in tensors or embedding.removeprefix(prefix) not in tensors:
        return tensors
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _resolve(tensor: np.ndarray, source: Source, head_dim: int) -> np.ndarray:
    """Apply the steps of `source` in their order."""
    if source.transpose:
        tensor = tensor.T
    if source.rows is not None:
        tensor = tensor[slice(*source.rows)]
    if source.part is not None:
        i, n = source.part
        tensor = tensor.reshape(-1, n, head_dim, *tensor.shape[1:])[:, i].reshape(-1, *tensor.shape[1:])
    return tensor


def _listed(names: set[str]) -> str:
    """The first few of the names, and how many more there are."""
    shown = sorted(names)[:3]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ("the tensor " if len(names) == 1 else "the tensors ") + ", ".join(shown) + more

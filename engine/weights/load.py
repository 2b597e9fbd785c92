"""From the tensors of a checkpoint to the parameters of a `ModelSpec`: strict, and lazy.

Strict: nothing missing, nothing of a wrong shape, nothing left over. A silently dropped bias or a misread
config changes the text a little and is found months later; here it is an error at start.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine.errors import ModelUnsupported, WeightsError
from engine.models.checkpoint import read_config
from engine.models.spec import Family, ModelSpec, Source, parameters
from engine.weights.files import DTYPES, read_checkpoint

FLOATS = tuple(DTYPES[name] for name in ("F64", "F32", "F16", "BF16"))


class Checkpoint(Mapping[str, np.ndarray]):
    """The parameters of a model by canonical name, each made from its source when it is asked for.

    Arrays are as stored (bfloat16, float16, float32, ...), read-only, and views of the file but where a fused
    tensor has to be taken apart. A wrong shape raises WeightsError when the parameter is asked for.
    """

    def __init__(self, spec: ModelSpec, sources: Mapping[str, Source], tensors: Mapping[str, np.ndarray]) -> None:
        self._shapes = parameters(spec)
        self._sources = sources
        self._tensors = tensors
        self._head_dim = spec.head_dim

    def __getitem__(self, name: str) -> np.ndarray:
        shape, source = self._shapes[name], self._sources[name]
        stored = self._tensors[source.name]
        if stored.dtype not in FLOATS:
            raise WeightsError(f"tensor '{source.name}' is stored as {stored.dtype}; expected floating point numbers")
        try:
            value = _resolve(stored, source, self._head_dim)
        except (ValueError, IndexError):
            value = stored
        if value.shape != shape:
            raise WeightsError(
                f"tensor '{source.name}' has the shape {list(stored.shape)}, from which {name} of shape "
                f"{list(shape)} cannot be taken; config.json and weights do not belong together"
            )
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def load(spec: ModelSpec, family: Family, path: str | Path) -> Checkpoint:
    """Open the checkpoint in the directory `path` as the parameters of `spec`.

    Raises WeightsError (missing, unexpected or corrupt tensors), ModelUnsupported (quantized or pickled weights)
    and ModelNotFound (no weights).
    """
    if read_config(path).get("quantization_config"):
        raise ModelUnsupported(f"'{path}' is quantized, which is not supported; use the model it was made from")
    sources = family.sources(spec)
    tensors = _with_base_prefix(read_checkpoint(path), sources["embed.weight"].name)
    _check_names(sources, tensors, spec, family)
    _check_rows(sources, tensors)
    return Checkpoint(spec, sources, tensors)


def _check_names(
    sources: Mapping[str, Source], tensors: Mapping[str, np.ndarray], spec: ModelSpec, family: Family
) -> None:
    used = {source.name for source in sources.values()}
    if missing := used - tensors.keys():
        raise WeightsError(f"the weights lack {_listed(missing)}, which {spec.architecture} needs")
    ignored = re.compile("|".join(family.IGNORED) or r"(?!)")
    unused = {name for name in tensors.keys() - used if not ignored.fullmatch(name)}
    if spec.tied:  # some checkpoints store a copy of the embedding as the head
        unused.discard(family.sources(replace(spec, tied=False))["head.weight"].name)
    if unused:
        raise WeightsError(f"the weights hold {_listed(unused)}, for which {spec.architecture} has no place")


def _check_rows(sources: Mapping[str, Source], tensors: Mapping[str, np.ndarray]) -> None:
    """The rows taken from a fused tensor must reach its end."""
    ends: dict[str, int] = {}
    for source in sources.values():
        if source.rows is not None:
            ends[source.name] = max(source.rows[1], ends.get(source.name, 0))
    for source in sources.values():
        shape = tensors[source.name].shape
        if source.rows is not None and (len(shape) < 1 or shape[-1 if source.transpose else 0] != ends[source.name]):
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

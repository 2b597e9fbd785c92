"""The compressed-tensors format, in the two schemes that `tgi quantize` writes.

    int8   format `int-quantized`:  X.weight int8 [out, in], X.weight_scale [out, 1]
    int4   format `pack-quantized`: X.weight_packed int32 [out, ceil(in / 8)], eight codes + 8 in a word, the first in
           its low bits; X.weight_scale [out, in / group]; X.weight_shape int64 [2]

Both symmetric. A model whose head has another scheme than its layers is `mixed-precision`: each group of
`config.json`'s `quantization_config.config_groups` then names its own format.
https://github.com/vllm-project/compressed-tensors
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ModelUnsupported, WeightsError
from engine.quant import QuantizedMatrix

METHOD = "compressed-tensors"
FORMATS = {8: "int-quantized", 4: "pack-quantized"}
GROUPS = (32, 64, 128)
PER_WORD = 8  # codes of 4 bits


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How one kind of layer is quantized; a group of 0 means one scale for each output."""

    bits: int
    group: int = 0

    def as_config(self, targets: str) -> dict[str, Any]:
        """An entry of `config_groups`. Activations are quantized while the model runs, as the weights are."""
        common = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": True}
        inputs = {"strategy": "group", "group_size": self.group} if self.group else {"strategy": "token"}
        weights = {"strategy": "group", "group_size": self.group} if self.group else {"strategy": "channel"}
        return {
            "format": FORMATS[self.bits],
            "targets": [targets],
            "weights": {**common, **weights, "num_bits": self.bits, "dynamic": False},
            "input_activations": {**common, **inputs},
        }


def make_config(layers: Scheme, head: Scheme | None, *, tied: bool) -> dict[str, Any]:
    """The `quantization_config` of a model with these schemes; None = a head that is not quantized.

    A tied head has no tensor of its own: it is made from the embedding when the model is loaded, and `tied_head_bits`,
    a key of ours that others ignore, says in how many bits.
    """
    groups = {"group_0": layers.as_config("Linear")}
    of_its_own = head is not None and not tied
    if head is not None and not tied:
        groups["group_1"] = head.as_config("re:.*(lm_head|embed_out)$")
    mixed = len({group["format"] for group in groups.values()}) > 1
    config: dict[str, Any] = {
        "quant_method": METHOD,
        "quantization_status": "compressed",
        "format": "mixed-precision" if mixed else FORMATS[layers.bits],
        "config_groups": groups,
        "ignore": [] if of_its_own else ["lm_head"],
    }
    return config | ({"tied_head_bits": head.bits} if head is not None and tied else {})


def group_size(config: Mapping[str, Any]) -> int:
    """Of the weights of 4 bits; 0 where there are none.

    Raises ModelUnsupported for what `read` could not give back exactly.
    """
    found = 0
    for name, group in dict(config.get("config_groups") or {}).items():
        weights = (group.get("weights") if isinstance(group, dict) else None) or {}
        bits, strategy = weights.get("num_bits"), weights.get("strategy")
        known = (bits, strategy) == (8, "channel") or (bits, strategy) == (4, "group")
        if not known or weights.get("type") != "int" or weights.get("symmetric") is not True or weights.get("actorder"):
            raise ModelUnsupported(
                f"{METHOD}: {name} has weights of {bits} bits, {weights.get('type')}, {strategy}; this version reads "
                "symmetric integers, of 8 bits with a scale for each output or of 4 bits in groups"
            )
        if bits == 4:
            size = weights.get("group_size")
            if size not in GROUPS or found not in (0, size):
                raise ModelUnsupported(
                    f"{METHOD}: {name} has groups of {size}; this version reads groups of 32, 64 or 128, all alike"
                )
            found = size
    if not config.get("config_groups"):
        raise ModelUnsupported(f"{METHOD}: the configuration has no config_groups")
    return found


def tied_head_bits(config: Mapping[str, Any]) -> int | None:
    """In how many bits a tied head is to be made when the model is loaded; None = as it is."""
    bits = config.get("tied_head_bits")
    return bits if type(bits) is int and bits in FORMATS else None


def write(name: str, matrix: QuantizedMatrix) -> dict[str, NDArray[Any]]:
    """The tensors of the linear layer `name` (without `.weight`)."""
    if matrix.bits == 8:
        return {f"{name}.weight": matrix.codes, f"{name}.weight_scale": matrix.scales}
    return {
        f"{name}.weight_packed": pack_words(matrix.codes),
        f"{name}.weight_scale": matrix.scales.astype(np.float16),
        f"{name}.weight_shape": np.array(matrix.shape, np.int64),
    }


class Layers(Mapping[str, NDArray[Any] | QuantizedMatrix]):
    """The tensors of a checkpoint, those of each quantized layer taken together as its `X.weight`.

    A matrix is unpacked when it is asked for. `group` is that of the weights of 4 bits. Raises WeightsError then.
    """

    def __init__(self, tensors: Mapping[str, NDArray[Any]], group: int) -> None:
        self._tensors = tensors
        self._group = group
        self._quantized = {
            f"{name.removesuffix('.weight_scale')}.weight" for name in tensors if name.endswith(".weight_scale")
        }
        parts = {f"{name}{part}" for name in self._quantized for part in ("_packed", "_scale", "_shape")}
        self._names = dict.fromkeys([*(tensors.keys() - parts), *self._quantized])

    def __getitem__(self, name: str) -> NDArray[Any] | QuantizedMatrix:
        if name not in self._quantized:
            return self._tensors[name]
        scales, packed = self._tensors[f"{name}_scale"], self._tensors.get(f"{name}_packed")
        if packed is None:
            return _matrix(name, self._tensors.get(name), scales, bits=8, group=0)
        codes = _unpacked(name, packed, self._tensors.get(f"{name}_shape"))
        return _matrix(name, codes, scales, bits=4, group=self._group)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _unpacked(name: str, packed: Any, shape: Any) -> NDArray[np.int8]:
    if shape is None or shape.shape != (2,) or packed.ndim != 2 or packed.dtype != np.int32:
        raise WeightsError(f"'{name}_packed' is not what {METHOD} stores; download the model again")
    rows, columns = (int(length) for length in shape)
    if packed.shape != (rows, -(-columns // PER_WORD)):
        raise WeightsError(
            f"'{name}_packed' has the shape {list(packed.shape)}, which cannot hold {rows} x {columns} codes"
        )
    return unpack_words(packed, columns)


def _matrix(name: str, codes: Any, scales: Any, *, bits: int, group: int) -> QuantizedMatrix:
    if codes is None or codes.ndim != 2 or codes.dtype != np.int8 or scales.ndim != 2:
        raise WeightsError(f"'{name}_scale' has no weights of int8 beside it")
    rows, columns = codes.shape
    if scales.shape != (rows, -(-columns // group) if group else 1):
        raise WeightsError(
            f"'{name}_scale' has the shape {list(scales.shape)}, which does not fit {rows} x {columns} weights"
        )
    return QuantizedMatrix(codes=codes, scales=scales.astype(np.float32), bits=bits, group=group)


def pack_words(codes: NDArray[np.int8]) -> NDArray[np.int32]:
    """Codes -8..7 `[out, in]` as words `[out, ceil(in / 8)]`."""
    rows, columns = codes.shape
    padded = np.zeros((rows, -(-columns // PER_WORD) * PER_WORD), np.uint8)
    padded[:, :columns] = codes + 8
    pairs = padded[:, ::2] | padded[:, 1::2] << 4
    words: NDArray[np.int32] = pairs.view("<i4").astype(np.int32, copy=False)
    return words


def unpack_words(words: NDArray[np.int32], columns: int) -> NDArray[np.int8]:
    """The inverse of `pack_words`."""
    pairs = np.ascontiguousarray(words).astype("<i4", copy=False).view(np.uint8)
    codes = np.empty((len(words), pairs.shape[1] * 2), np.int8)
    codes[:, ::2], codes[:, 1::2] = pairs & 15, pairs >> 4
    return codes[:, :columns] - np.int8(8)

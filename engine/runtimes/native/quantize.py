"""What `--quantize` makes at load, taken out of the packed panels again, to be written to a file.

So a model that is read back from the file computes the same tokens, by construction.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ConfigError, ModelUnsupported
from engine.models.checkpoint import read_config
from engine.models.registry import family
from engine.quant import QuantizedMatrix, compressed_tensors
from engine.quant.compressed_tensors import Scheme
from engine.runtimes.native import _native
from engine.runtimes.native.cores import physical_cores
from engine.runtimes.native.program import compile_tape
from engine.runtimes.native.weights import METHODS, Method, pack_floats
from engine.weights.load import Checkpoint, load

WRITABLE = ("int8", "int4")
PANEL = 32  # outputs that lie side by side in a panel
BIAS = np.uint8(128)  # what a panel's bytes have more than the codes


class Quantization:
    """A model and how it is to be written. Raises the subclasses of `StartError`."""

    def __init__(self, path: str | Path, method: str, threads: int | None = None) -> None:
        if method not in WRITABLE:
            raise ConfigError(f"a checkpoint cannot be written as '{method}'; choose one of: {', '.join(WRITABLE)}")
        self._method: Method = METHODS[method]
        self._config = read_config(path)
        module = family(self._config)
        self._spec = module.spec(self._config, None)
        self._checkpoint: Checkpoint = load(self._spec, module, path)
        if self._config.get("quantization_config"):
            raise ModelUnsupported(f"'{path}' is quantized already; use the model it was made from")
        self._pool = _native.Pool(threads or physical_cores())
        linears = [name for parts in compile_tape(self._spec).linears for name in parts]
        self._kinds = {
            self._checkpoint.sources[f"{name}.weight"].name: self._kind(name) for name in linears if name != "embed"
        }

    def _kind(self, name: str) -> str | None:
        return self._method.kind if name.startswith("layers.") else self._method.head

    @property
    def config(self) -> dict[str, Any]:
        """`config.json` of the quantized model."""
        layers = Scheme(bits=8 if self._method.kind == "int8" else 4, group=self._method.group)
        head = Scheme(bits=8) if self._method.head == "int8" else None
        return self._config | {
            "quantization_config": compressed_tensors.make_config(layers, head, tied=self._spec.tied)
        }

    def tensors(self, progress: Callable[[int, int], None] | None = None) -> Iterator[tuple[str, NDArray[Any]]]:
        """Name and content of every tensor to be written; `progress` gets the number done and of all."""
        transposed = {source.name for source in self._checkpoint.sources.values() if source.transpose}
        names = dict.fromkeys(source.name for source in self._checkpoint.sources.values())
        for done, name in enumerate(names, start=1):
            stored = self._checkpoint.tensors[name]
            assert isinstance(stored, np.ndarray)
            kind = self._kinds.get(name)
            if kind is None or not name.endswith(".weight"):
                yield name, stored
            else:
                matrix = self._quantized(stored.T if name in transposed else stored, kind)
                yield from compressed_tensors.write(name.removesuffix(".weight"), matrix).items()
            if progress is not None:
                progress(done, len(names))

    def _quantized(self, matrix: NDArray[Any], kind: str) -> QuantizedMatrix:
        group = self._method.group if kind == self._method.kind else 0
        return read_panels(pack_floats(self._pool, kind, [matrix], None, group=group, steps=self._method.steps))


def read_panels(linear: _native.PackedLinear) -> QuantizedMatrix:
    """The codes and scales of a packed linear of kind int8 or int4 (symmetric); see src/kernels.h for its layout."""
    rows, columns, group = linear.outputs, linear.inputs, linear.group
    if linear.kind == "int8":
        words = linear.panels.reshape(len(linear.panels), -1, PANEL, 4)
        codes = words.transpose(0, 2, 1, 3).reshape(len(words) * PANEL, -1)[:rows, :columns]
        assert linear.scales is not None
        scales = linear.scales[:rows, None].copy()
        return QuantizedMatrix(codes=(codes - BIAS).view(np.int8), scales=scales, bits=8, group=0)
    groups = linear.panels.reshape(len(linear.panels), -1, group * PANEL // 2 + 2 * PANEL)
    words = groups[..., : group * PANEL // 2].reshape(*groups.shape[:2], group // 8, PANEL, 4)
    nibbles = np.stack([words & 15, words >> 4], axis=-2)  # [panels, groups, group / 8, 32, 2, 4]
    codes = nibbles.transpose(0, 3, 1, 2, 4, 5).reshape(len(groups) * PANEL, -1)[:rows, :columns]
    halves = np.ascontiguousarray(groups[..., group * PANEL // 2 :]).view(np.float16)  # [panels, groups, 32]
    scales = halves.transpose(0, 2, 1).reshape(len(groups) * PANEL, -1)[:rows].astype(np.float32)
    return QuantizedMatrix(codes=codes.astype(np.int8) - np.int8(8), scales=scales, bits=4, group=group)

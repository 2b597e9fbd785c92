"""Weights that are whole numbers times scales, as files hold them. One module a format; every one of them reads into
`QuantizedMatrix`, which knows no format.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class QuantizedMatrix:
    """A matrix `[out, in]` as codes and scales: a weight is code times the scale of its row, or of its group in it.

    `codes` `[out, in]` are int8: -128..127 of 8 bits, -8..7 of 4 bits. `scales` are float32 `[out, groups]`, each for
    `group` columns; a group of 0 means one scale for the whole row.
    """

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]
    bits: int
    group: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def dtype(self) -> str:
        return f"int{self.bits}"

    def rows(self, select: Callable[[NDArray[Any]], NDArray[Any]]) -> Self:
        """Those rows that `select` takes of an array whose first axis is that of the rows."""
        return replace(self, codes=select(self.codes), scales=select(self.scales))

    def dequantized(self) -> NDArray[np.float32]:
        """The weights `[out, in]`."""
        group = self.group or self.shape[1]
        scales = np.repeat(self.scales, group, axis=1)[:, : self.shape[1]]
        weights: NDArray[np.float32] = self.codes.astype(np.float32) * scales
        return weights

"""Reads the panels of packed weights back, in numpy: what `Linear` in kernels.h says, written down a second time."""

from typing import Any

import ml_dtypes
import numpy as np

PANEL = 32

NF4 = np.float32(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ]
)
_FP4 = [0.0, 0.0052083335, 0.6666667, 1.0, 0.3333333, 0.5, 0.1666667, 0.25]
FP4 = np.float32([*_FP4, *(-value for value in _FP4)])
TABLES = {"nf4": NF4, "fp4": FP4}


def unpack(linear: Any, table: np.ndarray | None = None) -> np.ndarray:
    """The weights `[outputs, inputs]` in float32. What pads them must be zero."""
    kind = linear.kind
    if kind in ("int4", "table4", *TABLES):
        values = _grouped(linear, table if table is not None else TABLES.get(kind))
    elif kind == "f32":
        values = _rows(linear, np.float32, 1)
    elif kind in ("bf16", "f16"):
        values = _rows(linear, ml_dtypes.bfloat16 if kind == "bf16" else np.float16, 2).astype(np.float32)
    elif kind == "int8":
        values = (_rows(linear, np.uint8, 4).astype(np.float32) - 128) * linear.scales[:, None]
    else:
        values = _rows(linear, ml_dtypes.float8_e4m3fn, 4).astype(np.float32) * linear.scales[:, None]
    padding = values.copy()
    padding[: linear.outputs, : linear.inputs] = 0
    assert not padding.any()
    return values[: linear.outputs, : linear.inputs]


def _rows(linear: Any, dtype: Any, depth: int) -> np.ndarray:
    """`[k / depth][32][depth]` in each panel: one row of numbers for each output."""
    panels = np.ascontiguousarray(linear.panels).view(dtype).reshape(len(linear.panels), -1, PANEL, depth)
    return panels.transpose(0, 2, 1, 3).reshape(len(panels) * PANEL, -1)


def codes_of(linear: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nibbles `[rows, groups, group]`, scales and zero points `[rows, groups]` of grouped weights, padding included."""
    panels, group = np.ascontiguousarray(linear.panels), linear.group
    nibbles = group // 8 * PANEL * 4
    size = nibbles + 2 * PANEL + (2 * PANEL if linear.asymmetric else 0)
    groups = panels.reshape(len(panels), -1, size)
    packed = groups[..., :nibbles].reshape(*groups.shape[:2], group // 8, PANEL, 4)
    codes = np.stack([packed & 15, packed >> 4], axis=-2)  # [panel, group, k / 8, output, 2, 4]
    codes = codes.transpose(0, 3, 1, 2, 4, 5).reshape(len(panels) * PANEL, groups.shape[1], group)
    scales = np.ascontiguousarray(groups[..., nibbles : nibbles + 2 * PANEL]).view(np.float16)
    zeros = np.full(scales.shape, 8, np.uint8)
    if linear.asymmetric:
        zeros = groups[..., nibbles + 2 * PANEL : nibbles + 3 * PANEL]
    by_output = [part.transpose(0, 2, 1).reshape(len(codes), -1) for part in (scales, zeros)]
    return codes, by_output[0].astype(np.float32), by_output[1]


def _grouped(linear: Any, table: np.ndarray | None) -> np.ndarray:
    codes, scales, zeros = codes_of(linear)
    values = codes.astype(np.float32) - zeros[..., None] if table is None else table[codes]
    return (values * scales[..., None]).reshape(len(codes), -1)

"""Packing: panels read back in numpy hold the checkpoint's numbers, or those of the quantization's own law."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from packed_weights import FP4, NF4, PANEL, TABLES, codes_of, unpack

native = pytest.importorskip("engine.runtimes.native._native", exc_type=ImportError)

SHAPES = [(1, 1), (5, 3), (32, 64), (33, 70), (96, 40), (100, 260)]
STORED = {"f32": np.float32, "bf16": ml_dtypes.bfloat16, "f16": np.float16}


@pytest.fixture(scope="module")
def pool() -> Any:
    return native.Pool(2)


def weights(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def given(value: np.ndarray, name: str = "f32") -> tuple[np.ndarray, str]:
    """A matrix as the module takes it: numpy has no bfloat16 of its own."""
    stored = value.astype(STORED[name])
    return (stored.view(np.uint16) if name == "bf16" else stored), name


def edge_cases() -> np.ndarray:
    """Every 16-bit float in either of the two types, and what lies between two of them."""
    halves = np.arange(65536, dtype=np.uint16)
    values = np.concatenate([halves.view(ml_dtypes.bfloat16).astype(np.float32), halves.view(np.float16)])
    values = values[np.isfinite(values)].astype(np.float32)
    with np.errstate(over="ignore"):
        between = np.concatenate([np.nextafter(values, np.inf), (values[1:] + values[:-1]) / 2])
    values = np.concatenate([values, between, [np.inf, -np.inf]]).astype(np.float32)
    return np.resize(values, (len(values) // 256 + 1, 256))


# Floats


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("kind", STORED)
def test_floats_are_rounded_once(pool: Any, kind: str, stored: str, shape: tuple[int, int]) -> None:
    value = weights(shape)
    packed = native.pack(pool, kind, [given(value, stored)])
    expected = value.astype(STORED[stored]).astype(STORED[kind]).astype(np.float32)
    assert (packed.kind, packed.outputs, packed.inputs) == (kind, *shape)
    assert np.array_equal(unpack(packed), expected)
    assert packed.scales is None
    assert packed.bias is None


@pytest.mark.parametrize("kind", ["bf16", "f16"])
def test_every_number_is_rounded_as_numpy_does(pool: Any, kind: str) -> None:
    value = edge_cases()
    with np.errstate(over="ignore"):
        expected = value.astype(STORED[kind]).astype(np.float32)
    assert np.array_equal(unpack(native.pack(pool, kind, [given(value)])), expected)


@pytest.mark.parametrize("stored", ["bf16", "f16"])
def test_every_16_bit_number_is_read(pool: Any, stored: str) -> None:
    bits = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    matrix = bits if stored == "bf16" else bits.view(np.float16)
    expected = bits.view(STORED[stored]).astype(np.float32)
    assert np.array_equal(unpack(native.pack(pool, "f32", [(matrix, stored)])), expected, equal_nan=True)


def test_matrices_are_stacked_with_their_bias(pool: Any) -> None:
    parts = [weights((rows, 40), rows) for rows in (7, 32, 30)]
    bias = weights((1, 69))[0]
    packed = native.pack(pool, "f32", [given(part, name) for part, name in zip(parts, STORED, strict=True)], bias)
    expected = np.concatenate([p.astype(STORED[n]).astype(np.float32) for p, n in zip(parts, STORED, strict=True)])
    assert np.array_equal(unpack(packed), expected)
    assert packed.bias.tolist() == [*bias.tolist(), *[0.0] * (3 * PANEL - 69)]
    assert packed.nbytes == packed.panels.nbytes + packed.bias.nbytes


# One scale for each output


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("steps", [127, 128])
def test_int8_rounds_to_steps_of_the_largest_weight(pool: Any, shape: tuple[int, int], steps: int) -> None:
    """`steps` 128 is EETQ's law: round half away from zero, then clamp."""
    value = weights(shape)
    value[0] = 0
    packed = native.pack(pool, "int8", [given(value, "bf16")], steps=steps)
    stored = value.astype(ml_dtypes.bfloat16).astype(np.float32)
    scale = np.abs(stored).max(-1) / np.float32(steps)
    whole = stored / np.where(scale > 0, scale, 1)[:, None]
    codes = np.clip(np.sign(whole) * np.floor(np.abs(whole) + np.float32(0.5)), -128, 127)
    assert np.array_equal(packed.scales[: len(scale)], scale)
    assert np.array_equal(unpack(packed), codes * scale[:, None])


@pytest.mark.parametrize("steps", [127, 128])
def test_int8_halves_go_away_from_zero(pool: Any, steps: int) -> None:
    value = np.float32([[steps, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49999997, -0.49999997, 2.4999998]])
    packed = native.pack(pool, "int8", [given(value)], steps=steps)
    assert unpack(packed).tolist() == [[127, 1, 2, 3, -1, -2, -3, 0, 0, 2]]


@pytest.mark.parametrize("shape", SHAPES)
def test_fp8_rounds_to_e4m3(pool: Any, shape: tuple[int, int]) -> None:
    value = weights(shape)
    scale = np.abs(value).max(-1) / np.float32(448)
    codes = (value / scale[:, None]).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    packed = native.pack(pool, "fp8", [given(value)])
    assert np.array_equal(packed.scales[: len(scale)], scale)
    assert np.array_equal(unpack(packed), codes * scale[:, None])


def test_every_number_is_rounded_to_e4m3_as_ml_dtypes_does(pool: Any) -> None:
    value = edge_cases()
    value = np.where(np.abs(value) <= 448, value, 448).astype(np.float32)
    value[:, 0] = 448  # so that each scale is 1
    packed = native.pack(pool, "fp8", [given(value)])
    assert np.array_equal(unpack(packed), value.astype(ml_dtypes.float8_e4m3fn).astype(np.float32))


# A scale for each group


def in_groups(value: np.ndarray, group: int) -> np.ndarray:
    columns = -(-value.shape[1] // group) * group
    padded = np.zeros((len(value), columns), np.float32)
    padded[:, : value.shape[1]] = value
    return padded.reshape(len(value), -1, group)


def q4_0(groups: np.ndarray) -> np.ndarray:
    """llama.cpp's rounding: the number of largest magnitude becomes -8."""
    edge = np.take_along_axis(groups, np.abs(groups).argmax(-1)[..., None], -1)
    scale = edge / -8
    codes = np.clip(np.floor(groups / np.where(scale == 0, 1, scale) + 8.5), 0, 15)
    rounded: np.ndarray = (codes - 8) * scale.astype(np.float16).astype(np.float32)
    return rounded


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("shape", SHAPES)
def test_int4_codes_are_the_nearest_for_their_scale(pool: Any, shape: tuple[int, int], group: int) -> None:
    value = weights(shape)
    packed = native.pack(pool, "int4", [given(value)], group=group)
    codes, scales, zeros = codes_of(packed)
    groups = in_groups(value, group)
    codes, scales = codes[: len(value)].astype(np.float32), scales[: len(value), :, None]
    assert (zeros == 8).all()
    assert np.array_equal(codes, np.clip(np.rint(groups / scales), -8, 7) + 8)
    assert np.array_equal(unpack(packed), ((codes - 8) * scales).reshape(len(value), -1)[:, : shape[1]])


def test_int4_loses_less_than_q4_0(pool: Any) -> None:
    """In every group at most as much but for the rounding of the scale, and a tenth less in all."""
    value = weights((256, 512), 3)
    groups = in_groups(value, 32)
    packed = native.pack(pool, "int4", [given(value)], group=32)
    ours = ((in_groups(unpack(packed), 32) - groups) ** 2).sum(-1)
    theirs = ((q4_0(groups) - groups) ** 2).sum(-1)
    assert (ours <= theirs * 1.01).all()
    assert ours.sum() < 0.9 * theirs.sum()


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("shape", [(5, 3), (33, 70), (100, 256)])
def test_tables_take_the_nearest_entry(pool: Any, kind: str, shape: tuple[int, int]) -> None:
    value = weights(shape)
    packed = native.pack(pool, kind, [given(value, "bf16")], group=64)
    groups = in_groups(value.astype(ml_dtypes.bfloat16).astype(np.float32), 64)
    largest = np.abs(groups).max(-1, keepdims=True)
    entries = np.sort(TABLES[kind])
    middles = (entries[1:] + entries[:-1]) / 2
    nearest = entries[np.searchsorted(middles, groups * (1 / np.where(largest > 0, largest, 1)))]
    expected = nearest * largest.astype(np.float16).astype(np.float32)
    assert packed.kind == kind
    assert np.array_equal(unpack(packed), expected.reshape(len(value), -1)[:, : shape[1]])


def test_rows_of_zeros(pool: Any) -> None:
    value = weights((40, 128))
    value[3] = 0
    value[:, 32:64] = 0
    for kind, group in (("int8", 0), ("fp8", 0), ("int4", 32), ("nf4", 64), ("fp4", 32)):
        packed = unpack(native.pack(pool, kind, [given(value)], group=group))
        assert not packed[3].any()
        assert np.isfinite(packed).all()
        if group == 32:
            assert not packed[:, 32:64].any()


@pytest.mark.parametrize(("kind", "group"), [("int8", 0), ("fp8", 0), ("int4", 32), ("nf4", 64), ("fp4", 64)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number_spoils_its_own_scale(pool: Any, kind: str, group: int, bad: float) -> None:
    value = weights((40, 128))
    whole = unpack(native.pack(pool, kind, [given(value)], group=group))
    value[7, 70] = bad
    packed = native.pack(pool, kind, [given(value)], group=group)
    scales = codes_of(packed)[1] if group else packed.scales[:, None]
    spoiled = np.zeros(scales.shape, bool)
    spoiled[7, 70 // group if group else 0] = True
    assert np.array_equal(np.isnan(scales), spoiled)
    with np.errstate(invalid="ignore"):
        assert np.array_equal(np.delete(unpack(packed), 7, 0), np.delete(whole, 7, 0))


# Codes that are there already


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_int4_codes_are_packed_as_given(pool: Any, group: int, asymmetric: bool) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (50, 200), np.uint8)
    groups = -(-200 // group)
    scales = rng.standard_normal((50, groups), np.float32)
    zeros = rng.integers(0, 16, (50, groups), np.uint8) if asymmetric else None
    packed = native.pack_codes(pool, "int4", codes, scales, zeros, group=group)
    zero = np.repeat(zeros, group, -1)[:, :200].astype(np.float32) if zeros is not None else np.float32(8)
    scale = np.repeat(scales.astype(np.float16).astype(np.float32), group, -1)[:, :200]
    assert packed.asymmetric == asymmetric
    assert np.array_equal(unpack(packed), (codes - zero) * scale)


@pytest.mark.parametrize("table", [NF4, FP4, np.float32([*np.linspace(-1, 1, 15), 0.01])])
def test_a_table_may_come_from_the_file(pool: Any, table: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (33, 64), np.uint8)
    scales = rng.random((33, 1), np.float32)
    packed = native.pack_codes(pool, "nf4", codes, scales, table=table, group=64)
    assert np.array_equal(unpack(packed, table), table[codes] * scales.astype(np.float16).astype(np.float32))


def test_int8_codes_are_packed_as_given(pool: Any) -> None:
    rng = np.random.default_rng(0)
    codes, scales = rng.integers(-128, 128, (50, 70), np.int8), rng.random((50, 1), np.float32)
    packed = native.pack_codes(pool, "int8", codes.view(np.uint8), scales)
    assert np.array_equal(unpack(packed), codes * scales)


@pytest.mark.parametrize(("kind", "group"), [("int4", 32), ("nf4", 64), ("fp4", 64)])
def test_packed_codes_pack_to_the_same_panels(pool: Any, kind: str, group: int) -> None:
    """What `pack` quantizes can be written to a file as codes and scales, and read back."""
    packed = native.pack(pool, kind, [given(weights((70, 128)))], group=group)
    codes, scales, _ = codes_of(packed)
    codes = np.ascontiguousarray(codes[:70].reshape(70, -1))
    again = native.pack_codes(pool, kind, codes, scales[:70], group=group)
    assert np.array_equal(again.panels[:2], packed.panels[:2])
    assert np.array_equal(unpack(again), unpack(packed))


# The module


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing(threads: int) -> None:
    value = weights((300, 256))
    for kind in ("bf16", "int8", "int4", "nf4", "fp8"):
        one, many = (native.pack(native.Pool(count), kind, [given(value)], group=64) for count in (2, threads))
        assert np.array_equal(one.panels, many.panels)


def test_what_cannot_be_packed(pool: Any) -> None:
    value = weights((4, 8))
    for call, said in (
        (lambda: native.pack(pool, "int3", [given(value)]), "int3"),
        (lambda: native.pack(pool, "int4", [given(value)], group=48), "groups of 48"),
        (lambda: native.pack(pool, "f32", [given(value), given(weights((4, 9)))]), "8 and 9 columns"),
        (lambda: native.pack(pool, "f32", [(value, "bf16")]), "4 bytes"),
        (lambda: native.pack(pool, "f32", [(value, "int8")]), "int8"),
        (lambda: native.pack(pool, "f32", []), "0 x 0"),
        (lambda: native.pack(pool, "f32", [given(value)], np.zeros(5, np.float32)), "bias of 5"),
        (lambda: native.pack_codes(pool, "f32", value.view(np.uint8), value, group=32), "4 x 1"),
        (
            lambda: native.pack_codes(pool, "f32", value.view(np.uint8), value[:, :1].copy(), group=32),
            "only int8, int4",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            call()

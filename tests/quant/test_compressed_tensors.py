"""The compressed-tensors format: what is written is read back, and what cannot be read back exactly is refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ModelUnsupported, WeightsError
from engine.quant import QuantizedMatrix
from engine.quant.compressed_tensors import (
    Layers,
    Scheme,
    group_size,
    make_config,
    pack_words,
    tied_head_bits,
    unpack_words,
    write,
)


def random_matrix(rows: int, columns: int, bits: int, group: int) -> QuantizedMatrix:
    rng = np.random.default_rng(rows * 1000 + columns)
    top = 2 ** (bits - 1)
    scales = rng.normal(size=(rows, -(-columns // group) if group else 1)).astype(np.float16).astype(np.float32)
    codes = rng.integers(-top, top, (rows, columns)).astype(np.int8)
    return QuantizedMatrix(codes=codes, scales=scales, bits=bits, group=group)


@settings(derandomize=True, deadline=None, database=None)
@given(
    rows=st.integers(1, 40), columns=st.integers(1, 150), scheme=st.sampled_from([(8, 0), (4, 32), (4, 64), (4, 128)])
)
def test_a_matrix_is_read_back_as_it_was_written(rows: int, columns: int, scheme: tuple[int, int]) -> None:
    matrix = random_matrix(rows, columns, *scheme)
    layers = Layers(write("a.b", matrix), scheme[1])
    assert list(layers) == ["a.b.weight"]
    read = layers["a.b.weight"]
    assert isinstance(read, QuantizedMatrix)
    assert (read.bits, read.group, read.shape) == (*scheme, (rows, columns))
    assert np.array_equal(read.codes, matrix.codes)
    assert np.array_equal(read.scales, matrix.scales)


def test_words_hold_eight_codes_the_first_in_the_low_bits() -> None:
    codes = np.array([[-8, -7, 0, 7, 1, 2, 3, -1, 5]], np.int8)
    words = pack_words(codes)
    low = sum((int(code) + 8) << (4 * place) for place, code in enumerate(codes[0, :8]))
    assert words.dtype == np.int32
    assert words.view(np.uint32).tolist() == [[low, 13]]
    assert np.array_equal(unpack_words(words, 9), codes)


def test_a_weight_is_its_code_times_the_scale_of_its_group() -> None:
    matrix = random_matrix(3, 70, 4, 32)
    expected = [[matrix.codes[i, k] * matrix.scales[i, k // 32] for k in range(70)] for i in range(3)]
    assert np.array_equal(matrix.dequantized(), np.array(expected, np.float32))


def test_tensors_that_are_not_quantized_pass() -> None:
    norm = np.ones(3, np.float32)
    layers = Layers({"norm.weight": norm, **write("a", random_matrix(2, 8, 8, 0))}, 0)
    assert set(layers) == {"norm.weight", "a.weight"}
    assert layers["norm.weight"] is norm
    assert len(layers) == 2


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ({"a.weight_packed": np.zeros((2, 3), np.int32)}, "cannot hold 2 x 64 codes"),
        ({"a.weight_packed": np.zeros((2, 8), np.int64)}, "is not what compressed-tensors stores"),
        ({"a.weight_shape": np.zeros(3, np.int64)}, "is not what compressed-tensors stores"),
        ({"a.weight_scale": np.zeros((2, 3), np.float16)}, "does not fit 2 x 64 weights"),
        ({"a.weight_scale": np.zeros((3, 2), np.float16)}, "does not fit 2 x 64 weights"),
    ],
)
def test_tensors_that_do_not_fit_together_are_refused(spoil: dict[str, Any], words: str) -> None:
    tensors = write("a", random_matrix(2, 64, 4, 32)) | spoil
    with pytest.raises(WeightsError, match=words):
        Layers(tensors, 32)["a.weight"]


def test_scales_without_weights_are_refused() -> None:
    with pytest.raises(WeightsError, match="no weights of int8 beside it"):
        Layers({"a.weight_scale": np.ones((2, 1), np.float32)}, 0)["a.weight"]


@pytest.mark.parametrize("head", [None, Scheme(bits=8)])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("layers", [Scheme(bits=8), Scheme(bits=4, group=64)])
def test_a_configuration_says_what_was_written(layers: Scheme, head: Scheme | None, tied: bool) -> None:
    config = make_config(layers, head, tied=tied)
    assert config["quant_method"] == "compressed-tensors"
    assert group_size(config) == layers.group
    assert tied_head_bits(config) == (8 if head and tied else None)
    assert ("lm_head" in config["ignore"]) == (head is None or tied)
    mixed = layers.bits == 4 and head is not None and not tied
    assert (config["format"] == "mixed-precision") == mixed


@pytest.mark.parametrize(
    "change",
    [
        {"num_bits": 2},
        {"type": "float"},
        {"symmetric": False},
        {"strategy": "tensor"},
        {"group_size": 48},
        {"actorder": "group"},
    ],
)
def test_other_schemes_are_refused(change: dict[str, Any]) -> None:
    config = make_config(Scheme(bits=4, group=32), None, tied=False)
    config["config_groups"]["group_0"]["weights"] |= change
    with pytest.raises(ModelUnsupported, match="group_0"):
        group_size(config)
    with pytest.raises(ModelUnsupported, match="no config_groups"):
        group_size({"quant_method": "compressed-tensors"})

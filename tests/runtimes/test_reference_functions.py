"""The numbers of the reference runtime: activations against the standard library, products under every BLAS kernel."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.models.spec import RopeSpec
from engine.runtimes.reference.functions import (
    ACTIVATIONS,
    layer_norm,
    normal_distribution,
    rms_norm,
    rotate,
    rotation,
    softcap,
    softmax,
)
from engine.runtimes.reference.linear import linear

# A row of 16 is multiplied wherever it stands in the tile; any difference is printed.
ROW_IN_TILE = """
import numpy as np
from engine.runtimes.reference.linear import linear
rng = np.random.default_rng(0)
for out, inner in ((17, 33), (128, 128), (256, 768), (512, 31), (40, 1096), (1, 16)):
    weight = rng.standard_normal((out, inner), np.float32)
    x = rng.standard_normal((32, inner), np.float32)
    whole = linear(x, weight)
    for row in (0, 3, 21):
        for position in range(16):
            tile = np.zeros((position + 1, inner), np.float32)
            tile[position] = x[row]
            if linear(tile, weight)[position].tobytes() != whole[row].tobytes():
                print(out, inner, row, position)
"""


def grid(limit: float = 12.0) -> np.ndarray:
    fine = np.logspace(-20, 0, 500)
    return np.concatenate([np.linspace(-limit, limit, 4001), fine, -fine]).astype(np.float32)


def test_normal_distribution_is_exact_to_float32() -> None:
    x = grid()
    exact = np.array([math.erfc(-float(value) / 2**0.5) / 2 for value in x])
    computed = normal_distribution(x)
    assert computed.dtype == np.float32
    assert np.all(np.abs(computed - exact) <= 2e-7 * exact + 1e-38)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_stay_float32_and_meet_their_limits(name: str) -> None:
    activation = ACTIVATIONS[name]
    x = grid()
    y = activation(x)
    assert y.dtype == np.float32
    assert np.all(np.abs(y - np.clip(x, 0, None)) < 0.4)
    assert activation(np.float32([0]))[0] == 0
    with np.errstate(over="ignore"):
        assert activation(np.float32([200, -200])).tolist() == [200, 0]


def test_activations_at_one() -> None:
    one = np.float32([1])
    assert ACTIVATIONS["silu"](one)[0] == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-7)
    assert ACTIVATIONS["gelu"](one)[0] == pytest.approx(0.8413447460685429, abs=1e-7)
    assert ACTIVATIONS["gelu_tanh"](one)[0] == pytest.approx(0.8411919906082768, abs=1e-7)


def test_norms_and_softmax_stay_float32() -> None:
    x = np.random.default_rng(0).standard_normal((3, 8), np.float32) * 5
    weight, bias = np.full(8, 2, np.float32), np.full(8, 3, np.float32)
    by_hand = np.array(x, np.float64)
    root = by_hand / np.sqrt((by_hand**2).mean(-1, keepdims=True) + 1e-5) * 2
    centred = by_hand - by_hand.mean(-1, keepdims=True)
    standard = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * 2 + 3
    for computed, expected in (
        (rms_norm(x, weight, None, 1e-5), root),
        (layer_norm(x, weight, bias, 1e-5), standard),
        (softmax(x), np.exp(by_hand) / np.exp(by_hand).sum(-1, keepdims=True)),
        (softcap(x, 3.0), 3 * np.tanh(by_hand / 3)),
    ):
        assert computed.dtype == np.float32
        np.testing.assert_allclose(computed, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotation_turns_pairs_and_passes_the_rest(interleaved: bool) -> None:
    rope = RopeSpec(inv_freq=(1.0, 0.25), attention_factor=1.5, interleaved=interleaved)
    x = np.random.default_rng(0).standard_normal((5, 2, 6), np.float32)
    positions = np.array([0, 1, 2, 50, 1000])
    turned = rotate(x, *rotation(rope, positions), interleaved)
    assert turned.dtype == np.float32
    assert np.array_equal(turned[..., 4:], x[..., 4:])
    pairs = ((0, 1), (2, 3)) if interleaved else ((0, 2), (1, 3))
    for (first, second), frequency in zip(pairs, rope.inv_freq, strict=True):
        number = x[..., first] + 1j * x[..., second]
        expected = number * 1.5 * np.exp(1j * positions * frequency)[:, None]
        np.testing.assert_allclose(turned[..., first] + 1j * turned[..., second], expected, atol=2e-5)


def test_linear_is_the_product() -> None:
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((5, 7), np.float32), rng.standard_normal(5, np.float32)
    for rows in (0, 1, 15, 16, 17, 40):
        x = rng.standard_normal((rows, 7), np.float32)
        product = linear(x, weight, bias)
        assert product.dtype == np.float32
        np.testing.assert_allclose(product, x @ weight.T + bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kernel", ["", "Haswell", "SkylakeX", "Nehalem"])
def test_a_row_does_not_depend_on_its_place_in_the_tile(kernel: str, threads: int) -> None:
    """Also with the kernels that OpenBLAS, which numpy's wheels bring, has for other processors."""
    flags = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    needed = {"": "", "Haswell": "avx2", "SkylakeX": "avx512vl", "Nehalem": "sse4_2"}[kernel]
    if needed not in flags:
        pytest.skip(f"this processor has no {needed}")
    environment = os.environ | {"OPENBLAS_CORETYPE": kernel, "OPENBLAS_NUM_THREADS": str(threads)}
    ran = subprocess.run([sys.executable, "-c", ROW_IN_TILE], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr


ROOT = Path(__file__).parents[2]

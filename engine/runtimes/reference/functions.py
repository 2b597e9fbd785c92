"""The functions of a decoder that act on each row, or each number, by itself. All in float32.

A Python number does not widen a float32 array (NumPy 2, NEP 50), so none is wrapped.
"""

from collections.abc import Callable

import numpy as np

from engine.models.spec import RopeSpec


def rms_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, eps: float) -> np.ndarray:
    """Zhang and Sennrich 2019, over the last axis. There is no bias."""
    variance = np.mean(x * x, axis=-1, keepdims=True)
    scaled: np.ndarray = x / np.sqrt(variance + eps) * weight
    return scaled


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, eps: float) -> np.ndarray:
    """Ba et al. 2016, over the last axis."""
    centred = x - np.mean(x, axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    scaled: np.ndarray = centred / np.sqrt(variance + eps) * weight
    return scaled if bias is None else scaled + bias


def softmax(scores: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    weights: np.ndarray = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def softcap(x: np.ndarray, cap: float) -> np.ndarray:
    """`cap * tanh(x / cap)` (Gemma 2)."""
    capped: np.ndarray = np.tanh(x / cap) * cap
    return capped


def silu(x: np.ndarray) -> np.ndarray:
    activated: np.ndarray = x / (1 + np.exp(-x))
    return activated


def gelu(x: np.ndarray) -> np.ndarray:
    """The exact one: x times the normal distribution function (Hendrycks and Gimpel 2016)."""
    activated: np.ndarray = x * normal_distribution(x)
    return activated


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    inner = (2 / np.pi) ** 0.5 * (x + 0.044715 * x * x * x)
    activated: np.ndarray = 0.5 * x * (1 + np.tanh(inner))
    return activated


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"silu": silu, "gelu": gelu, "gelu_tanh": gelu_tanh}

# ln(erfc(z) / t) + z^2 for t = 1 / (1 + z / 2) and z >= 0, highest power of t first (Press et al., Numerical Recipes,
# 6.2): the relative error of erfc is below 1.2e-7, which is the precision of float32.
_ERFC = (
    0.17087277,
    -0.82215223,
    1.48851587,
    -1.13520398,
    0.27886807,
    -0.18628806,
    0.09678418,
    0.37409196,
    1.00002368,
    -1.26551223,
)


def normal_distribution(x: np.ndarray) -> np.ndarray:
    """The probability that a standard normal variable is below x. In float64 inside, to add no error of its own."""
    z = np.abs(x, dtype=np.float64) / 2**0.5
    t = 1 / (1 + z / 2)
    fit = np.zeros_like(t)
    for coefficient in _ERFC:
        fit = fit * t + coefficient
    tail = t * np.exp(fit - z * z) / 2
    return np.where(x > 0, 1 - tail, tail).astype(x.dtype)


def rotation(rope: RopeSpec, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines `[T, 1, rotary_dim / 2]` of the positions `[T]`."""
    angles = positions.astype(np.float32)[:, None, None] * np.array(rope.inv_freq, np.float32)
    return np.cos(angles) * rope.attention_factor, np.sin(angles) * rope.attention_factor


def rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, interleaved: bool) -> np.ndarray:
    """Turn the first features of x `[T, heads, head_dim]` by the angles of `rotation`; the rest pass."""
    half = cos.shape[-1]
    turned = x.copy()
    pairs = (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if interleaved else (slice(0, half), slice(half, 2 * half))
    first, second = x[..., pairs[0]], x[..., pairs[1]]
    turned[..., pairs[0]] = first * cos - second * sin
    turned[..., pairs[1]] = second * cos + first * sin
    return turned

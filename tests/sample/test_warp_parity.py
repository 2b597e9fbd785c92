"""Every step against transformers' own class, in float64, over random rows."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_laws import rows

from engine.sample import warp

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

law = settings(derandomize=True, deadline=None, database=None, max_examples=60)
fractions = st.floats(0.001, 0.999)


def warped(processor: Any, scores: np.ndarray, tokens: list[int] | None = None) -> np.ndarray:
    """The row [V] that a transformers processor makes of `scores`."""
    history = torch.tensor([tokens or []], dtype=torch.int64)
    return processor(history, torch.from_numpy(scores.copy())[None])[0].numpy()


def kept(processor: Any, scores: np.ndarray) -> np.ndarray:
    return np.isfinite(warped(processor, scores))


@law
@given(rows(), st.integers(1, 6000))
def test_top_k_keeps_what_transformers_keeps(scores: np.ndarray, k: int) -> None:
    assert np.array_equal(warp.top_k(scores, k), kept(transformers.TopKLogitsWarper(k), scores))


@law
@given(rows(), fractions)
def test_top_p_keeps_what_transformers_keeps(scores: np.ndarray, mass: float) -> None:
    assert np.array_equal(warp.top_p(scores, mass), kept(transformers.TopPLogitsWarper(mass), scores))


@law
@given(rows(), fractions)
def test_typical_p_keeps_what_transformers_keeps(scores: np.ndarray, mass: float) -> None:
    assert np.array_equal(warp.typical_p(scores, mass), kept(transformers.TypicalLogitsWarper(mass), scores))


@law
@given(rows(), fractions)
def test_min_p_keeps_what_transformers_keeps(scores: np.ndarray, ratio: float) -> None:
    assert np.array_equal(warp.min_p(scores, ratio), kept(transformers.MinPLogitsWarper(ratio), scores))


@law
@given(rows(), st.floats(0.05, 20))
def test_temperature_is_transformers_but_for_a_shift(scores: np.ndarray, value: float) -> None:
    ours, theirs = warp.temperature(scores, value), warped(transformers.TemperatureLogitsWarper(value), scores)
    assert ours.max() == 0
    assert np.allclose(warp.softmax(ours), warp.softmax(theirs), rtol=1e-9, atol=0)


@law
@given(rows(), st.floats(0.1, 10), st.lists(st.integers(0, 4999), min_size=1, max_size=20))
def test_repetition_penalty_equals_transformers(scores: np.ndarray, penalty: float, tokens: list[int]) -> None:
    tokens = [token % scores.size for token in tokens]
    seen = np.isin(np.arange(scores.size), tokens)
    theirs = warped(transformers.RepetitionPenaltyLogitsProcessor(penalty), scores, tokens)
    assert np.array_equal(warp.repetition_penalty(scores, seen, penalty), theirs)


@law
@given(rows())
def test_log_softmax_equals_torch(scores: np.ndarray) -> None:
    theirs = torch.log_softmax(torch.from_numpy(scores), -1).numpy()
    assert np.allclose(warp.log_softmax(scores), theirs, rtol=0, atol=1e-12)
    assert np.allclose(warp.softmax(scores), np.exp(theirs), rtol=0, atol=1e-12)

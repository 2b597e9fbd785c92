"""The rules of each step, above all where scores tie. `test_warp_parity` compares with transformers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_laws import rows

from engine.sample import warp

law = settings(derandomize=True, deadline=None, database=None, max_examples=60)


def test_frequency_penalty_scales_with_the_count_and_presence_does_not() -> None:
    scores, counts = np.array([1.0, -1.0, 2.0]), np.array([0, 1, 3])
    assert warp.frequency_penalty(scores, counts, 0.5).tolist() == [1.0, -1.5, 0.5]
    assert warp.presence_penalty(scores, counts, 0.5).tolist() == [1.0, -1.5, 1.5]


def test_negative_penalties_reward() -> None:
    scores, counts = np.array([1.0, 1.0]), np.array([0, 2])
    assert warp.frequency_penalty(scores, counts, -0.5).tolist() == [1.0, 2.0]
    assert warp.presence_penalty(scores, counts, -0.5).tolist() == [1.0, 1.5]


def test_logit_bias_adds_up_for_an_id_named_twice() -> None:
    scores = np.array([1.0, 2.0, 3.0])
    assert warp.logit_bias(scores, [(0, -100.0), (2, 1.0), (2, 0.5)]).tolist() == [-99.0, 2.0, 4.5]
    assert scores.tolist() == [1.0, 2.0, 3.0]


def test_top_k_keeps_the_ties_of_the_kth() -> None:
    scores = np.array([1.0, 3.0, 2.0, 2.0, 2.0])
    assert warp.top_k(scores, 2).tolist() == [False, True, True, True, True]
    assert warp.top_k(scores, 1).tolist() == [False, True, False, False, False]


def test_top_p_takes_the_lowest_ids_among_equals() -> None:
    flat = np.zeros(4)
    assert warp.top_p(flat, 0.25).tolist() == [True, False, False, False]
    assert warp.top_p(flat, 0.5).tolist() == [True, True, False, False]
    assert warp.top_p(flat, 0.51).tolist() == [True, True, True, False]


def test_typical_p_takes_the_lowest_ids_among_equals() -> None:
    assert warp.typical_p(np.zeros(4), 0.5).tolist() == [True, True, False, False]


def test_typical_p_may_drop_the_most_probable_token() -> None:
    p = np.array([0.6, 0.1, 0.1, 0.1, 0.1])  # entropy 1.23 nats; the first token carries 0.51, the others 2.30
    assert warp.typical_p(np.log(p), 0.5).tolist() == [True, False, False, False, False]
    p = np.array([0.4] + [0.01] * 60)  # entropy 3.13; the first carries 0.92, the others 4.61
    assert warp.typical_p(np.log(p), 0.1).tolist() == [False] + [True] * 10 + [False] * 50


def test_min_p_keeps_a_token_exactly_at_the_threshold() -> None:
    assert warp.min_p(np.array([0.0, math.log(0.5), math.log(0.49)]), 0.5).tolist() == [True, True, False]
    assert warp.min_p(np.array([1.0, 1.0, 0.999]), 1.0).tolist() == [True, True, False]


@pytest.mark.parametrize("mass", [1e-9, 0.3, 0.9, 0.999999, 1.0])
@pytest.mark.parametrize("distinct", [1, 7, 100_000])
def test_top_p_equals_a_full_sort_over_a_large_vocabulary(mass: float, distinct: int) -> None:
    scores = np.random.default_rng(3).integers(0, distinct, 20_000) / distinct
    order = sorted(range(scores.size), key=lambda i: (-scores[i], i))
    count = int(np.sum(np.cumsum(warp.softmax(scores)[order]) < mass)) + 1
    assert np.flatnonzero(warp.top_p(scores, mass)).tolist() == sorted(order[:count])


@law
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(0, 40))
def test_lowest_is_the_head_of_a_stable_sort(keys: list[int], count: int) -> None:
    expected = sorted(range(len(keys)), key=lambda i: (keys[i], i))[:count]
    assert warp.lowest(np.array(keys, float), count).tolist() == expected


@law
@given(rows(), st.floats(0.001, 0.999))
def test_every_filter_keeps_something_and_changes_nothing(scores: np.ndarray, x: float) -> None:
    scores.setflags(write=False)
    for keep in (warp.top_k(scores, 1), warp.top_p(scores, x), warp.typical_p(scores, x), warp.min_p(scores, x)):
        assert keep.any()

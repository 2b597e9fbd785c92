"""The grammar's mask and TGI's frequency penalty: where they come among the steps, and what they leave alone."""

import math

import numpy as np
import pytest
from msgspec.structs import replace

from engine.errors import GenerationFailed
from engine.sample import Sampler, warp
from engine.types import SamplingParams

SIZE = 100
ROW = np.random.default_rng(3).normal(0, 2, SIZE).astype(np.float32)
PARAMS = SamplingParams(temperature=0.8, seed=7, logprobs=True, top_n_tokens=SIZE)


def bits(ids: list[int], words: int = 4) -> np.ndarray:
    mask = np.zeros(words * 32, np.uint8)
    mask[ids] = 1
    return np.packbits(mask, bitorder="little").view(np.uint32)


def test_only_what_is_allowed_is_drawn(sampler_type: type[Sampler]) -> None:
    ids = [3, 31, 32, 64, 99]
    sampler = sampler_type(SIZE)
    drawn = [sampler.sample(ROW, replace(PARAMS, seed=n, temperature=4.0), [0], 1, bits(ids)) for n in range(100)]
    assert {choice.token for choice in drawn} == set(ids)
    for choice in drawn:
        assert {score.id for score in choice.top} == set(ids)
        assert math.isclose(sum(math.exp(score.logprob) for score in choice.top), 1)
    greedy = sampler.sample(ROW, SamplingParams(), [0], 1, bits(ids))
    assert greedy.token == max(ids, key=lambda i: ROW[i])


def test_a_mask_of_everything_changes_nothing(sampler_type: type[Sampler]) -> None:
    for params in (PARAMS, SamplingParams(), replace(PARAMS, top_p=0.7, repetition_penalty=1.3)):
        plain = sampler_type(SIZE).sample(ROW, params, [5, 6], 1)
        assert sampler_type(SIZE).sample(ROW, params, [5, 6], 1, bits(list(range(128)))) == plain
        assert sampler_type(SIZE).sample(ROW, params, [5, 6], 1, bits(list(range(160)), words=5)) == plain


def test_the_only_token_allowed_is_certain_or_has_the_score_the_model_gave_it(sampler_type: type[Sampler]) -> None:
    sampler = sampler_type(SIZE)
    forced = sampler.sample(ROW, replace(PARAMS, top_n_tokens=0), [0], 1, bits([42]))
    assert (forced.token, forced.logprob) == (42, 0.0)
    raw = sampler.sample(ROW, replace(PARAMS, raw_logprobs=True, top_n_tokens=3), [0], 1, bits([42]))
    assert raw == (42, *sampler.score(ROW, 42, 3))


def test_the_mask_beats_a_bias(sampler_type: type[Sampler]) -> None:
    params = SamplingParams(logit_bias=((1, 100.0),))
    assert sampler_type(SIZE).sample(ROW, params, [0], 1, bits([2, 3])).token in (2, 3)


def test_ids_without_a_token_stay_forbidden(sampler_type: type[Sampler]) -> None:
    with pytest.raises(GenerationFailed, match="nothing but minus infinity"):
        sampler_type(SIZE, 60).sample(ROW, SamplingParams(), [0], 1, bits([60, 99]))


def test_a_mask_that_is_too_short_is_refused() -> None:
    native = pytest.importorskip("engine.runtimes.native._native", exc_type=ImportError)
    with pytest.raises(ValueError, match="fewer bits"):
        native.Sampler(SIZE).sample(ROW, SamplingParams(), [0], 1, bits([1], words=3))


def test_tgi_counts_relative_to_the_length(sampler_type: type[Sampler]) -> None:
    """logit -= penalty * count in prompt and output / length of both."""
    tokens = [4, 4, 4, 9, 4, 9, 50, 51]
    params = replace(PARAMS, frequency_penalty=1.5, relative_frequency=True, temperature=1.0)
    expected = ROW.astype(np.float64)
    for token in set(tokens):
        expected[token] -= 1.5 * tokens.count(token) / len(tokens)
    logprobs = warp.log_softmax(expected)
    for prompt_len in (1, 5, 8):  # it makes no difference what of it is the prompt
        top = sampler_type(SIZE).sample(ROW, params, tokens, prompt_len).top
        assert len(top) == SIZE
        assert all(math.isclose(score.logprob, logprobs[score.id], abs_tol=1e-12) for score in top)


def test_the_presence_penalty_stays_with_the_output(sampler_type: type[Sampler]) -> None:
    tokens, prompt_len = [4, 4, 9], 2
    params = replace(PARAMS, frequency_penalty=1.0, presence_penalty=0.5, relative_frequency=True, temperature=1.0)
    expected = ROW.astype(np.float64)
    expected[4] -= 2 / 3
    expected[9] -= 1 / 3 + 0.5
    logprobs = warp.log_softmax(expected)
    top = sampler_type(SIZE).sample(ROW, params, tokens, prompt_len).top
    assert all(math.isclose(score.logprob, logprobs[score.id], abs_tol=1e-12) for score in top)

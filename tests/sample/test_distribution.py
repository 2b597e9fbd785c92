"""The tokens drawn follow the distribution the parameters describe: chi-square, with controls that must fail."""

import math

import numpy as np
import pytest
from msgspec.structs import replace
from sampling_laws import FITS, MISFITS, distribution, misfit

from engine.sample import Sampler
from engine.types import SamplingParams

LOGITS = np.random.default_rng(11).normal(0, 1.2, 16).astype(np.float32)
TOKENS = [3, 3, 7, 1, 7, 7, 12]  # the first three are the prompt
PROMPT_LEN = 3
DRAWS = 4000

CASES = {
    "plain": SamplingParams(temperature=1.0),
    "cold": SamplingParams(temperature=0.6),
    "hot": SamplingParams(temperature=1.8),
    "top-k": SamplingParams(temperature=1.0, top_k=5),
    "top-p": SamplingParams(temperature=1.2, top_p=0.8),
    "typical-p": SamplingParams(temperature=1.0, typical_p=0.7),
    "min-p": SamplingParams(temperature=1.0, min_p=0.15),
    "filters": SamplingParams(temperature=1.5, top_k=12, top_p=0.95, typical_p=0.9, min_p=0.05),
    "penalties": SamplingParams(temperature=1.0, repetition_penalty=1.4, frequency_penalty=0.4, presence_penalty=-0.5),
    "everything": SamplingParams(
        temperature=0.9, top_k=10, top_p=0.9, min_p=0.02, frequency_penalty=0.3, logit_bias=((2, 1.5), (5, -100.0))
    ),
}


def drawn(sampler_type: type[Sampler], params: SamplingParams, first_seed: int = 0) -> list[int]:
    """One token for each of many seeds."""
    sampler = sampler_type(LOGITS.size)
    return [
        sampler.sample(LOGITS, replace(params, seed=first_seed + i), TOKENS, PROMPT_LEN).token for i in range(DRAWS)
    ]


def expected(params: SamplingParams) -> dict[int, float]:
    return distribution(LOGITS.tolist(), params, TOKENS, PROMPT_LEN)


@pytest.mark.parametrize("name", CASES)
def test_draws_over_seeds_follow_the_law(sampler_type: type[Sampler], name: str) -> None:
    assert misfit(drawn(sampler_type, CASES[name]), expected(CASES[name])) < FITS


def test_draws_over_positions_follow_the_law(sampler_type: type[Sampler]) -> None:
    params = SamplingParams(temperature=1.0, top_k=8, seed=42)
    sampler = sampler_type(LOGITS.size)
    draws = [sampler.sample(LOGITS, params, range(n), 1).token for n in range(1, DRAWS + 1)]
    assert misfit(draws, distribution(LOGITS.tolist(), params)) < FITS


WRONG = {
    "temperature 20 % off": (CASES["cold"], replace(CASES["cold"], temperature=0.72)),
    "no temperature": (CASES["hot"], replace(CASES["hot"], temperature=1.0)),
    "one more than k": (replace(CASES["top-k"], top_k=6), CASES["top-k"]),
    "one fewer than k": (replace(CASES["top-k"], top_k=4), CASES["top-k"]),
    "top-p forgotten": (replace(CASES["top-p"], top_p=1.0), CASES["top-p"]),
    "prompt not penalised": (CASES["penalties"], replace(CASES["penalties"], repetition_penalty=1.0)),
    "bias forgotten": (replace(CASES["everything"], logit_bias=()), CASES["everything"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_law_is_noticed(sampler_type: type[Sampler], name: str) -> None:
    used, claimed = WRONG[name]
    assert misfit(drawn(sampler_type, used), expected(claimed)) > MISFITS


def pairs(first: list[int], second: list[int], params: SamplingParams) -> float:
    """How far pairs of draws are from independent."""
    p = expected(params)
    return misfit(zip(first, second, strict=True), {(a, b): p[a] * p[b] for a in p for b in p})


def test_successive_draws_are_independent(sampler_type: type[Sampler]) -> None:
    params = SamplingParams(temperature=1.0, top_k=6, seed=5)
    sampler = sampler_type(LOGITS.size)
    draws = [sampler.sample(LOGITS, params, range(n), 1).token for n in range(1, 2 * DRAWS + 1)]
    p = distribution(LOGITS.tolist(), params)
    joint = {(a, b): p[a] * p[b] for a in p for b in p}
    assert misfit(zip(draws[0::2], draws[1::2], strict=True), joint) < FITS
    assert misfit(zip(draws[0::2], draws[0::2], strict=True), joint) > MISFITS


def test_draws_of_neighbouring_seeds_are_independent(sampler_type: type[Sampler]) -> None:
    params = CASES["top-k"]
    even, odd = drawn(sampler_type, params)[0::2], drawn(sampler_type, params)[1::2]
    assert pairs(even, odd, params) < FITS
    assert pairs(even, even, params) > MISFITS


def test_seeds_that_differ_in_the_high_word_are_independent(sampler_type: type[Sampler]) -> None:
    params = CASES["top-k"]
    assert pairs(drawn(sampler_type, params), drawn(sampler_type, params, first_seed=2**32), params) < FITS


def test_the_misfit_of_fair_draws_is_about_standard_normal() -> None:
    """The yardstick itself: 200 lots of fair dice from numpy's own generator."""
    generator = np.random.default_rng(1)
    dice = dict.fromkeys(range(6), 1 / 6)
    scores = [misfit(generator.integers(0, 6, 300).tolist(), dice) for _ in range(200)]
    assert abs(np.mean(scores)) < 4 / math.sqrt(200)
    assert 0.8 < np.std(scores) < 1.2
    assert misfit([0, 1, 2, 3, 4, 5, 6], dice) == math.inf

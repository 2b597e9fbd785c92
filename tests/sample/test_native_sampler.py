"""The native sampler draws what the reference draws: it may skip work, never change a result.

The laws of sampling themselves run against both, see `conftest`.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sampling_laws import FITS, MISFITS, misfit

from engine.errors import GenerationFailed
from engine.sample import Choice, Sampler
from engine.sample.noise import gumbel
from engine.types import SamplingParams, TokenScore

native = pytest.importorskip("engine.runtimes.native._native", exc_type=ImportError)

law = settings(derandomize=True, deadline=None, database=None)

SIZES = [1, 2, 7, 63, 64, 65, 300, 1000, 5000]  # a batch of noise has 64 ids
LARGE = 49_152

# What a row looks like. Each takes a generator and a size.
SHAPES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "ordinary": lambda generator, size: generator.normal(0, 2, size),
    "flat": lambda generator, size: generator.normal(0, 0.01, size),
    "wide": lambda generator, size: generator.normal(0, 20, size),
    "equal": lambda generator, size: np.zeros(size),
    "tied": lambda generator, size: generator.integers(-3, 3, size) * 1.0,
    "zeros of both signs": lambda generator, size: np.where(np.arange(size) % 3 > 0, -0.0, 0.0),
    "hardly apart": lambda generator, size: generator.choice([-0.0, 0.0, 1e-30, -1e-30], size),
    "neighbouring floats": lambda generator, size: 1 + generator.integers(0, 3, size) * 2.0**-23,
    "huge": lambda generator, size: generator.normal(0, 1e30, size),
    "largest": lambda generator, size: generator.choice([-3.4e38, 3.4e38], size),
    "one peak": lambda generator, size: generator.normal(0, 1, size) + 40 * (np.arange(size) == size // 2),
    "peaked": lambda generator, size: generator.normal(0, 2, size) + 18 * (generator.random(size) < 0.01),
    "half impossible": lambda generator, size: np.where(generator.random(size) < 0.5, -np.inf, generator.random(size)),
    "one possible": lambda generator, size: np.where(np.arange(size) == size // 3, -1e30, -np.inf),
}


def make_row(shape: str, seed: int, size: int) -> np.ndarray:
    return SHAPES[shape](np.random.default_rng(seed), size).astype(np.float32)


@st.composite
def rows(draw: st.DrawFn) -> np.ndarray:
    row = make_row(draw(st.sampled_from(list(SHAPES))), draw(st.integers(0, 2**32)), draw(st.sampled_from(SIZES)))
    if draw(st.integers(0, 15)) == 0:
        row[draw(st.integers(0, row.size - 1))] = draw(st.sampled_from([math.nan, math.inf]))
    return row


@st.composite
def sampling_params(draw: st.DrawFn, size: int) -> SamplingParams:
    """Any mixture of steps, each off about half of the time."""

    def maybe(off: float, *some: st.SearchStrategy[float]) -> float:
        return draw(st.one_of(st.just(off), *some))

    masses = st.one_of(st.sampled_from([1e-9, 0.25, 0.5, 0.9, 0.999999]), st.floats(0.01, 0.99))
    temperatures = st.one_of(st.sampled_from([0.0, 5e-324, 1e-6, 1e6, 1e308]), st.floats(0.2, 3))
    # Among n equals typical-p adds up e^-log(n), whose last bit is not the same everywhere: no j / n may be the mass.
    odd_masses = st.integers(1, 998).map(lambda n: (1000 * n + 317) / 1_000_000)
    biases = st.tuples(st.integers(0, size - 1), st.sampled_from([-100.0, 0.5, 3.0, 100.0]))
    return SamplingParams(
        temperature=maybe(1.0, temperatures),
        top_k=draw(st.one_of(st.just(0), st.integers(1, 60), st.integers(1, size + 1))),
        top_p=maybe(1.0, masses),
        typical_p=maybe(1.0, odd_masses),
        min_p=maybe(0.0, st.floats(0.001, 0.9)),
        repetition_penalty=maybe(1.0, st.floats(0.5, 2)),
        frequency_penalty=maybe(0.0, st.floats(-2, 2)),
        relative_frequency=draw(st.booleans()),
        presence_penalty=maybe(0.0, st.floats(-2, 2)),
        logit_bias=tuple(draw(st.lists(biases, max_size=3))),
        seed=draw(st.integers(0, 2**64 - 1)),
        logprobs=draw(st.booleans()),
        raw_logprobs=draw(st.booleans()),
        top_n_tokens=draw(st.sampled_from([0, 1, 5, 20, size])),
    )


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns, or the words it fails with."""
    try:
        return call()
    except GenerationFailed as error:
        return str(error)


def agree(one: Choice | str, other: Choice | str) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    scores = [[TokenScore(choice.token, choice.logprob), *choice.top] for choice in (one, other)]
    ids, logprobs = ([[getattr(score, name) for score in side] for side in scores] for name in ("id", "logprob"))
    return ids[0] == ids[1] and np.allclose(*logprobs, rtol=1e-9, atol=1e-9)


@settings(law, max_examples=1000)
@given(st.data(), rows(), st.integers(0, 2**32), st.floats(0.3, 1.2))
def test_native_draws_what_the_reference_draws(data: st.DataObject, row: np.ndarray, seed: int, part: float) -> None:
    params = data.draw(sampling_params(row.size))
    tokens = np.random.default_rng(seed).integers(0, row.size, 1 + seed % 40).tolist()
    words = np.random.default_rng(seed + 1).integers(0, 2**32, -(-row.size // 32), np.uint32)
    allowed = data.draw(
        st.sampled_from([None, None, words, words & 0x00010001, np.zeros_like(words), ~np.zeros_like(words)])
    )
    given_ = (row, params, tokens, len(tokens) // 2, allowed)
    num_tokens = max(1, int(row.size * part))
    expected = outcome(lambda: Sampler(row.size, num_tokens).sample(*given_))
    isa = data.draw(st.sampled_from(native.isas()))
    assert agree(outcome(lambda: native.Sampler(row.size, num_tokens, isa).sample(*given_)), expected)


@settings(law, max_examples=300)
@given(rows(), st.integers(-1, 6000), st.sampled_from([0, 1, 3, 40, 6000]))
def test_native_scores_as_the_reference(row: np.ndarray, token: int, top_n: int) -> None:
    def scored(sampler: Any) -> Choice | str:
        result = outcome(lambda: sampler.score(row, token, top_n))
        return result if isinstance(result, str) else Choice(0, *result)

    assert agree(scored(native.Sampler(row.size)), scored(Sampler(row.size)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [LARGE, LARGE - 27])
def test_a_race_over_a_large_vocabulary_has_the_winner_of_the_whole(shape: str, size: int) -> None:
    """Most ids are passed over unseen: the winner must be that of all noise, added to all scores."""
    row, sampler = make_row(shape, 5, size), native.Sampler(size)
    for position in range(1, 8):
        for temperature in (0.5, 1.0, 30.0):
            scores = (row.astype(np.float64) - row.max()) / temperature
            params = SamplingParams(temperature=temperature, seed=2**63 + position)
            expected = int(np.argmax(scores + gumbel(params.seed, position, np.arange(size))))
            assert sampler.sample(row, params, [0] * position, 1).token == expected


FILTERED = [
    SamplingParams(temperature=0.8, top_p=0.9),
    SamplingParams(temperature=1.0, top_p=0.9999),
    SamplingParams(temperature=1.0, top_k=1000),
    SamplingParams(temperature=1.3, top_k=40_000, top_p=0.5),
    SamplingParams(temperature=1.0, typical_p=0.9),
    SamplingParams(temperature=2.0, min_p=0.01, repetition_penalty=1.2, presence_penalty=0.3),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("params", FILTERED)
def test_filters_keep_the_same_of_a_large_vocabulary(params: SamplingParams, shape: str) -> None:
    """The log probability tells how much is left; the alternatives tell what."""
    row, tokens = make_row(shape, 6, LARGE), list(range(1, LARGE, 997))
    params = replace(params, seed=3, logprobs=True, top_n_tokens=LARGE)
    drawn = native.Sampler(LARGE).sample(row, params, tokens, 10)
    assert agree(drawn, Sampler(LARGE).sample(row, params, tokens, 10))


@pytest.mark.parametrize("mass", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("size", [1000, 4096, LARGE])
@pytest.mark.parametrize("distinct", [1, 2, 5])
def test_where_equals_decide_the_same_are_kept(mass: float, size: int, distinct: int) -> None:
    """Sums of equal numbers come so close to the mass that the order of additions counts."""
    row = (np.arange(size) % distinct).astype(np.float32)
    params = SamplingParams(temperature=0.5, top_p=mass, seed=1, logprobs=True, top_n_tokens=size)
    kept = [{score.id for score in kind(size).sample(row, params, [0], 1).top} for kind in (Sampler, native.Sampler)]
    assert kept[0] == kept[1]


def test_draws_over_a_large_vocabulary_follow_the_law() -> None:
    """Bins of ids of a peaked row, drawn without a filter; with the wrong temperature they must not fit."""
    row, sampler = make_row("peaked", 8, 10_000), native.Sampler(10_000)

    def bins(temperature: float) -> dict[object, float]:
        p = np.exp((row.astype(np.float64) - row.max()) / temperature)
        return dict(enumerate((p / p.sum()).reshape(50, 200).sum(1).tolist()))

    draws = [sampler.sample(row, SamplingParams(temperature=1.5, seed=n), [0], 1).token // 200 for n in range(4000)]
    assert misfit(draws, bins(1.5)) < FITS
    assert misfit(draws, bins(1.2)) > MISFITS


def test_threads_and_earlier_calls_leave_no_trace() -> None:
    """Many rows and parameters, by threads that take turns, against a fresh thread for each."""
    cases = []
    for n in range(240):
        size = SIZES[n % len(SIZES)]
        generator = np.random.default_rng(n)
        params = SamplingParams(
            temperature=0.7, seed=n, logprobs=True, top_n_tokens=3, top_p=(1.0, 0.8)[n % 2],
            typical_p=(1.0, 0.9, 1.0)[n % 3], frequency_penalty=(0.0, 0.5)[n // 2 % 2], repetition_penalty=1.1,
        )  # fmt: skip
        tokens = generator.integers(0, size, 20).tolist()
        cases.append((make_row(list(SHAPES)[n % len(SHAPES)], n, size), params, tokens, 5))

    def draw(case: tuple[np.ndarray, SamplingParams, list[int], int]) -> Any:
        return outcome(lambda: native.Sampler(case[0].size).sample(*case))

    alone = []
    for case in cases:
        with ThreadPoolExecutor(1) as fresh:
            alone.append(fresh.submit(draw, case).result())
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(draw, cases)) == alone
        assert list(threads.map(draw, reversed(cases))) == alone[::-1]


def test_what_is_not_a_row_or_a_token_is_refused() -> None:
    sampler, row = native.Sampler(3), np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="vocabulary"):
        sampler.sample(np.zeros(4, np.float32), SamplingParams(), [0], 1)
    for token in (-1, 3):
        with pytest.raises(IndexError, match="vocabulary"):
            sampler.sample(row, SamplingParams(presence_penalty=1.0), [token], 0)
        with pytest.raises(IndexError, match="vocabulary"):
            sampler.sample(row, SamplingParams(logit_bias=((token, 1.0),)), [0], 0)

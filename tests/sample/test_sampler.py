import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sampling_laws import distribution

from engine.errors import GenerationFailed
from engine.sample import Choice, Sampler
from engine.sample.noise import gumbel
from engine.types import SamplingParams, TokenScore

law = settings(derandomize=True, deadline=None, database=None, max_examples=150)

VOCAB = 24
GREEDY = SamplingParams(seed=0)
SAMPLED = SamplingParams(temperature=1.0, seed=0)


def row(*values: float) -> np.ndarray:
    """Logits that must not be written to."""
    logits = np.array(values, np.float32)
    logits.setflags(write=False)
    return logits


def random_row(seed: int, size: int = VOCAB) -> np.ndarray:
    return row(*np.random.default_rng(seed).normal(0, 2, size))


@st.composite
def sampling_params(draw: st.DrawFn) -> SamplingParams:
    """Any mixture of steps, each off about half of the time."""

    def maybe(off: float, low: float, high: float) -> float:
        return draw(st.one_of(st.just(off), st.floats(low, high)))

    return SamplingParams(
        temperature=draw(st.floats(0.2, 3)),
        top_k=draw(st.one_of(st.just(0), st.integers(1, VOCAB + 5))),
        top_p=maybe(1.0, 0.05, 0.99),
        typical_p=maybe(1.0, 0.05, 0.99),
        min_p=maybe(0.0, 0.01, 0.9),
        repetition_penalty=maybe(1.0, 0.5, 2),
        frequency_penalty=maybe(0.0, -2, 2),
        presence_penalty=maybe(0.0, -2, 2),
        logit_bias=tuple(draw(st.lists(st.tuples(st.integers(0, VOCAB - 1), st.floats(-5, 5)), max_size=3))),
        seed=draw(st.integers(0, 2**64 - 1)),
        logprobs=True,
    )


tokens_lists = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12)


@law
@given(st.integers(0, 2**32), sampling_params(), tokens_lists, st.integers(0, 12))
def test_every_choice_is_the_race_over_the_reference_distribution(
    sampler_type: type[Sampler], seed: int, params: SamplingParams, tokens: list[int], prompt_len: int
) -> None:
    logits = random_row(seed)
    p = distribution(logits.tolist(), params, tokens, prompt_len)
    noise = gumbel(params.seed, len(tokens), np.arange(VOCAB))  # of the whole vocabulary, whatever was filtered
    choice = sampler_type(VOCAB).sample(logits, params, tokens, prompt_len)
    assert choice.token == max(p, key=lambda token: math.log(p[token]) + noise[token])
    assert choice.logprob == pytest.approx(math.log(p[choice.token]), abs=1e-9)


@law
@given(st.integers(0, 2**32), sampling_params(), tokens_lists, st.integers(0, 12))
def test_greedy_is_the_mode_after_penalties_and_bias(
    sampler_type: type[Sampler], seed: int, params: SamplingParams, tokens: list[int], prompt_len: int
) -> None:
    logits = random_row(seed)
    penalties = {
        name: getattr(params, name)
        for name in ("repetition_penalty", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs")
    }
    p = distribution(logits.tolist(), SamplingParams(**penalties), tokens, prompt_len)
    choice = sampler_type(VOCAB).sample(logits, SamplingParams(**penalties, top_p=0.1, top_k=3), tokens, prompt_len)
    assert p[choice.token] == max(p.values())
    assert choice.logprob == pytest.approx(math.log(p[choice.token]), abs=1e-9)


def test_chosen_tokens_never_change(sampler_type: type[Sampler]) -> None:
    """Seeds that users keep, and other runtimes, rely on these. Worked out from the definitions, in plain Python."""
    logits = row(*(math.sin(i) for i in range(1000)))
    params = SamplingParams(temperature=0.8, top_k=40, top_p=0.95, seed=0x0123456789ABCDEF)
    drawn = [sampler_type(1000).sample(logits, params, range(n), 1).token for n in range(1, 9)]
    assert drawn == [33, 787, 234, 234, 743, 963, 146, 567]


def test_lowest_id_wins_a_tie(sampler_type: type[Sampler]) -> None:
    assert sampler_type(4).sample(row(1, 5, 5, 2), GREEDY, [0], 1).token == 1


def test_the_prompt_counts_for_repetition_only(sampler_type: type[Sampler]) -> None:
    sampler, logits = sampler_type(3), row(2.0, 1.5, 0.0)
    prompt = [0, 0, 0]
    assert sampler.sample(logits, SamplingParams(repetition_penalty=2.0), prompt, 3).token == 1
    assert sampler.sample(logits, SamplingParams(frequency_penalty=2.0), prompt, 3).token == 0
    assert sampler.sample(logits, SamplingParams(presence_penalty=2.0), prompt, 3).token == 0
    assert sampler.sample(logits, SamplingParams(presence_penalty=2.0), prompt, 2).token == 1


def test_frequency_counts_and_presence_does_not(sampler_type: type[Sampler]) -> None:
    sampler, logits = sampler_type(2), row(2.0, 1.0)
    assert sampler.sample(logits, SamplingParams(presence_penalty=0.6), [0, 0, 0], 1).token == 0
    assert sampler.sample(logits, SamplingParams(frequency_penalty=0.6), [0, 0, 0], 1).token == 1


def test_tokens_may_be_an_array(sampler_type: type[Sampler]) -> None:
    params = SamplingParams(temperature=0.7, repetition_penalty=1.3, frequency_penalty=0.2, seed=9)
    tokens = [3, 1, 4, 1, 5]
    for array in (np.array(tokens), np.array(tokens, np.int32)):
        assert sampler_type(VOCAB).sample(random_row(1), params, array, 2) == sampler_type(VOCAB).sample(
            random_row(1), params, tokens, 2
        )


def test_bias_is_added_after_the_penalty(sampler_type: type[Sampler]) -> None:
    params = SamplingParams(repetition_penalty=10.0, logit_bias=((0, 1.0),))
    assert sampler_type(2).sample(row(1.0, 1.05), params, [0], 1).token == 0  # 1 / 10 + 1, not (1 + 1) / 10


@pytest.mark.parametrize(
    "params", [GREEDY, SAMPLED, SamplingParams(temperature=1e6, seed=1), SamplingParams(logit_bias=((5, 99.0),))]
)
def test_ids_without_a_token_are_never_drawn_nor_listed(sampler_type: type[Sampler], params: SamplingParams) -> None:
    sampler, logits = sampler_type(6, num_tokens=4), row(0, 1, 2, 3, 50, math.nan)
    scored = SamplingParams(
        temperature=params.temperature, logit_bias=params.logit_bias, seed=1, top_n_tokens=6, raw_logprobs=True
    )
    for n in range(1, 50):
        choice = sampler.sample(logits, scored, range(n % 4, n % 4 + n)[:4], 1)
        assert choice.token < 4
        assert [score.id for score in choice.top] == [3, 2, 1, 0]
        assert math.fsum(math.exp(score.logprob) for score in choice.top) == pytest.approx(1)
    assert sampler.score(logits, 4)[0] == -math.inf


def test_a_tokenizer_may_have_more_tokens_than_the_model_has_rows(sampler_type: type[Sampler]) -> None:
    assert sampler_type(3, num_tokens=5).sample(row(0, 1, 2), GREEDY, [0], 1).token == 2


@pytest.mark.parametrize("params", [GREEDY, SAMPLED, SamplingParams(repetition_penalty=2.0)])
@pytest.mark.parametrize(
    ("logits", "named"),
    [((0, math.nan, 9), "NaN"), ((0, math.inf, 9), "plus infinity"), ((-math.inf,) * 3, "nothing but minus infinity")],
)
def test_scores_that_are_no_numbers_fail_the_request(
    sampler_type: type[Sampler], params: SamplingParams, logits: tuple[float, ...], named: str
) -> None:
    with pytest.raises(GenerationFailed, match=named):
        sampler_type(3).sample(row(*logits), params, [1], 1)
    with pytest.raises(GenerationFailed, match=named):
        sampler_type(3).score(row(*logits), 0)


@pytest.mark.parametrize("temperature", [0.0, 5e-324, 1e-6, 1.0, 1e6, 1e308])
def test_minus_infinity_is_never_drawn(sampler_type: type[Sampler], temperature: float) -> None:
    params = SamplingParams(temperature=temperature, seed=1, top_n_tokens=3, logprobs=True, top_p=0.9, typical_p=0.9)
    choice = sampler_type(3).sample(row(-math.inf, -3e38, -math.inf), params, [0], 1)
    assert choice == Choice(1, 0.0, (TokenScore(1, 0.0),))


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-40, 1e-6])
def test_a_temperature_near_zero_is_greedy(sampler_type: type[Sampler], temperature: float) -> None:
    params = SamplingParams(temperature=temperature, seed=3, top_p=0.9, typical_p=0.9, min_p=0.1)
    for seed in range(20):
        logits = random_row(seed)
        assert sampler_type(VOCAB).sample(logits, params, [0], 1).token == np.argmax(logits)


@pytest.mark.parametrize("temperature", [1e6, 1e308])
def test_a_huge_temperature_reaches_every_token(sampler_type: type[Sampler], temperature: float) -> None:
    params = SamplingParams(temperature=temperature, seed=3)
    drawn = {sampler_type(8).sample(row(*range(8)), params, range(n), 1).token for n in range(200)}
    assert drawn == set(range(8))


@pytest.mark.parametrize("temperature", [0.0, 1e-6, 1.0, 1e6])
def test_huge_logits_do_not_overflow(sampler_type: type[Sampler], temperature: float) -> None:
    params = SamplingParams(temperature=temperature, seed=3, logprobs=True, top_n_tokens=2)
    choice = sampler_type(3).sample(row(3.4e38, -3.4e38, 0), params, [0], 1)
    assert choice.token == 0
    assert choice.logprob == 0.0


def test_a_penalty_that_overflows_forbids_the_token(sampler_type: type[Sampler]) -> None:
    params = SamplingParams(temperature=1.0, repetition_penalty=1e308, seed=1, logprobs=True)
    assert sampler_type(2).sample(row(-30, -2000), params, [0], 1) == Choice(1, 0.0)
    with pytest.raises(GenerationFailed, match="plus infinity"):
        sampler_type(2).sample(row(1, 1), SamplingParams(repetition_penalty=5e-324), [0], 1)


def test_a_seed_must_be_there(sampler_type: type[Sampler]) -> None:
    with pytest.raises(ValueError, match="seed"):
        sampler_type(3).sample(row(0, 1, 2), SamplingParams(temperature=1.0), [0], 1)


def test_the_same_seed_gives_the_same_text_and_another_does_not(sampler_type: type[Sampler]) -> None:
    def text(seed: int) -> list[int]:
        tokens = [0]
        for step in range(30):
            params = SamplingParams(temperature=1.0, top_p=0.95, seed=seed)
            tokens.append(sampler_type(VOCAB).sample(random_row(step), params, tokens, 1).token)
        return tokens

    assert text(1) == text(1)
    texts = [tuple(text(seed)) for seed in (0, 1, 2, 2**32, 2**63, 2**64 - 1)]
    assert len(set(texts)) == len(texts)


def test_no_logprobs_unless_asked(sampler_type: type[Sampler]) -> None:
    assert sampler_type(3).sample(row(0, 1, 2), SAMPLED, [0], 1)[1:] == (0.0, ())


def test_logprobs_are_after_the_steps_or_raw(sampler_type: type[Sampler]) -> None:
    logits = row(2.0, 1.0, 0.0, -1.0)
    params = SamplingParams(temperature=0.5, top_k=2, logit_bias=((0, -100.0),), seed=1, logprobs=True, top_n_tokens=3)
    warped = sampler_type(4).sample(logits, params, [0], 1)
    expected = distribution(logits.tolist(), params)
    assert {score.id: score.logprob for score in warped.top} == pytest.approx(
        {token: math.log(p) for token, p in expected.items()}, abs=1e-9
    )
    assert [score.id for score in warped.top] == [1, 2]  # what was filtered is left out
    raw = sampler_type(4).sample(logits, replace(params, raw_logprobs=True), [0], 1)
    model = distribution(logits.tolist(), GREEDY)
    assert raw.token == warped.token
    assert raw.logprob == pytest.approx(math.log(model[raw.token]), abs=1e-9)
    assert [score.id for score in raw.top] == [0, 1, 2]
    assert [score.logprob for score in raw.top] == pytest.approx([math.log(model[i]) for i in range(3)], abs=1e-9)


def test_ties_at_the_nth_place_go_to_the_lowest_ids(sampler_type: type[Sampler]) -> None:
    logprob, top = sampler_type(6).score(row(0, 1, 1, 2, 1, 1), 4, top_n=3)
    assert [score.id for score in top] == [3, 1, 2]
    assert logprob == top[1].logprob


def test_score_is_the_models_log_softmax(sampler_type: type[Sampler]) -> None:
    logits = random_row(4)
    model = distribution(logits.tolist(), GREEDY)
    for token in range(VOCAB):
        logprob, top = sampler_type(VOCAB).score(logits, token)
        assert logprob == pytest.approx(math.log(model[token]), abs=1e-9)
        assert top == ()

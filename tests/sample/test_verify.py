"""Speculation changes neither the text nor its distribution, whoever proposes."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from msgspec.structs import replace
from sampling_laws import FITS, MISFITS, distribution, misfit

from engine.sample import Choice, Sampler, accept
from engine.spec import NgramProposer
from engine.types import SamplingParams

VOCAB = 6
# A toy Markov model: row t holds the logits of what follows token t.
MODEL = np.random.default_rng(2).normal(0, 1.5, (VOCAB, VOCAB)).astype(np.float32)
LENGTH = 25
PROMPT = [2, 5]

Propose = Callable[[Sequence[int]], Sequence[int]]


def plain(sampler_type: type[Sampler], params: SamplingParams, length: int = LENGTH) -> list[int]:
    """A text, token by token."""
    sampler, tokens = sampler_type(VOCAB), list(PROMPT)
    while len(tokens) < length:
        tokens.append(sampler.sample(MODEL[tokens[-1]], params, tokens, len(PROMPT)).token)
    return tokens


def speculated(
    sampler_type: type[Sampler], params: SamplingParams, propose: Propose, length: int = LENGTH
) -> tuple[list[int], int, int]:
    """A text, with drafts; also how many drafts were made and how many accepted."""
    sampler, tokens = sampler_type(VOCAB), list(PROMPT)
    drafted = accepted = 0
    while len(tokens) < length:
        drafts = list(propose(tokens))
        context = tokens + drafts
        choices = accept(
            drafts,
            (
                sampler.sample(MODEL[context[n - 1]], params, context[:n], len(PROMPT))
                for n in range(len(tokens), len(context) + 1)
            ),
        )
        drafted, accepted = drafted + len(drafts), accepted + len(choices) - 1
        tokens += [choice.token for choice in choices]
    return tokens[:length], drafted, accepted


def right(text: list[int]) -> Propose:
    return lambda tokens: text[len(tokens) : len(tokens) + 4]


def wrong(text: list[int]) -> Propose:
    return lambda tokens: [(token + 1) % VOCAB for token in text[len(tokens) : len(tokens) + 4]]


def at_random(text: list[int]) -> Propose:
    generator = np.random.default_rng(8)
    return lambda tokens: generator.integers(0, VOCAB, generator.integers(0, 5)).tolist()


def ngram(text: list[int]) -> Propose:
    return NgramProposer(num_draft=3, min_match=1).propose


PARAMS = {
    "greedy": SamplingParams(),
    "sampled": SamplingParams(temperature=1.0),
    "filtered": SamplingParams(temperature=1.3, top_k=4, top_p=0.9),
    "penalised": SamplingParams(temperature=0.8, repetition_penalty=1.3, frequency_penalty=0.5, presence_penalty=0.3),
    "greedy and penalised": SamplingParams(frequency_penalty=0.5, repetition_penalty=1.2),
}


@pytest.mark.parametrize("proposer", [right, wrong, at_random, ngram])
@pytest.mark.parametrize("name", PARAMS)
def test_speculated_equals_plain(
    sampler_type: type[Sampler], name: str, proposer: Callable[[list[int]], Propose]
) -> None:
    for seed in range(12):
        params = replace(PARAMS[name], seed=seed)
        text = plain(sampler_type, params)
        again, drafted, accepted = speculated(sampler_type, params, proposer(text))
        assert again == text
        if proposer is right:
            assert accepted == drafted > 0
        if proposer is wrong:
            assert accepted == 0 < drafted


def test_penalties_count_the_drafts_before_a_row(sampler_type: type[Sampler]) -> None:
    """With one history for all rows, as TGI has it, the text would be another: the law above is not vacuous."""
    params = replace(PARAMS["greedy and penalised"], seed=0)
    text, sampler = plain(sampler_type, params), sampler_type(VOCAB)
    stale = [sampler.sample(MODEL[text[n - 1]], params, PROMPT, len(PROMPT)).token for n in range(2, 12)]
    assert stale != text[2:12]


def pair_law(params: SamplingParams) -> dict[tuple[int, int], float]:
    first = distribution(MODEL[PROMPT[-1]].tolist(), params)
    return {(a, b): p * q for a, p in first.items() for b, q in distribution(MODEL[a].tolist(), params).items()}


def test_speculated_pairs_follow_the_model(sampler_type: type[Sampler]) -> None:
    params = SamplingParams(temperature=0.9, top_k=5)
    propose = at_random([])
    pairs = []
    for seed in range(3000):
        tokens, _, _ = speculated(sampler_type, replace(params, seed=seed), propose, length=4)
        pairs.append((tokens[2], tokens[3]))
    assert misfit(pairs, pair_law(params)) < FITS
    assert misfit(pairs, pair_law(replace(params, temperature=1.3))) > MISFITS


def test_a_verifier_that_trusts_drafts_is_noticed(sampler_type: type[Sampler]) -> None:
    """A control: take the first draft unseen every other time, and the pairs no longer follow the model."""
    params = SamplingParams(temperature=0.9, top_k=5)
    generator, sampler, pairs = np.random.default_rng(4), sampler_type(VOCAB), []
    likely = [int(token) for token in np.argsort(-MODEL[PROMPT[-1]])[:5]]  # the tokens that can be drawn
    for seed in range(3000):
        tokens = plain(sampler_type, replace(params, seed=seed), length=3)
        if generator.integers(0, 2) == 0:
            tokens[2] = likely[generator.integers(0, 5)]
        choice = sampler.sample(MODEL[tokens[2]], replace(params, seed=seed), tokens, len(PROMPT))
        pairs.append((tokens[2], choice.token))
    assert misfit(pairs, pair_law(params)) > MISFITS


@pytest.mark.parametrize("drafts", [drafts for n in range(4) for drafts in itertools.product((0, 1), repeat=n)])
def test_what_stands_is_the_agreeing_prefix_and_one_more(drafts: tuple[int, ...]) -> None:
    drawn = []

    def choices() -> Iterator[Choice]:
        for token in (1, 0, 1, 1)[: len(drafts) + 1]:
            drawn.append(token)
            yield Choice(token)

    standing = [choice.token for choice in accept(drafts, choices())]
    agreeing = next((i for i, (a, b) in enumerate(zip(drafts, (1, 0, 1), strict=False)) if a != b), len(drafts))
    assert standing == [1, 0, 1, 1][: agreeing + 1]
    assert drawn == standing  # nothing is drawn in vain

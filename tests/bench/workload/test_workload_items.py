"""Workloads: lengths that are exact, prompts that are new, and the same again from the same seed."""

import random
import statistics
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.types import UsageError
from bench.workload.items import Workload, build, sampler, seeded
from bench.workload.synthetic import vocabulary
from bench.workload.tokens import EstimatedTokens, IdTokens


class ByWord:
    """One token for each word, and one before all of them."""

    estimated = False
    as_ids = False

    def count(self, texts):
        return [1 + len(text.split()) for text in texts]


class ByLetters:
    """One token for every so many bytes, so that no word is a token."""

    estimated = False
    as_ids = False

    def __init__(self, size):
        self.size = size

    def count(self, texts):
        return [-(-len(text.encode()) // self.size) for text in texts]


@pytest.mark.parametrize("tokens", [ByWord(), ByLetters(1), ByLetters(2), ByLetters(3)], ids=["word", "1", "2", "3"])
@pytest.mark.parametrize("length", [8, 33, "uniform:10,100", "lognormal:50,0.6"])
def test_lengths_are_exact_for_every_tokenizer(tokens, length):
    items = build(Workload(in_tokens=length, seed=1), 40, tokens)
    assert [item.input_tokens for item in items] == tokens.count([item.prompt for item in items])
    if isinstance(length, int):
        assert {item.input_tokens for item in items} == {length}
    assert not any(item.input_estimated for item in items)


class Counted(ByWord):
    """Notes how many texts it was asked about, of which the ones with a certain word are a token longer."""

    def __init__(self, odd=()):
        self.asked = 0
        self.odd = frozenset(odd)

    def count(self, texts):
        self.asked += len(texts)
        return [
            count + bool(self.odd & set(text.split()[2:]))
            for text, count in zip(texts, super().count(texts), strict=True)
        ]


def test_many_prompts_are_believed_after_a_sample():
    tokens = Counted()
    items = build(Workload(in_tokens=6, seed=1), 3000, tokens)
    assert ByWord().count([item.prompt for item in items]) == [6] * 3000
    assert tokens.asked < 1500


def test_one_wrong_prompt_in_the_sample_means_that_all_are_checked():
    tokens = Counted()
    # Found out only after the vocabulary is known, as with words that merge with their neighbours.
    vocabulary(tokens)
    tokens.odd = frozenset(["time", "year", "people"])
    items = build(Workload(in_tokens=12, seed=1), 2000, tokens)
    assert tokens.count([item.prompt for item in items]) == [item.input_tokens for item in items] == [12] * 2000


@given(st.integers(1, 200), st.integers(0, 2**32))
def test_a_word_is_a_token_where_nobody_counts(length, seed):
    [item] = build(Workload(in_tokens=length, seed=seed), 1, EstimatedTokens())
    assert item.input_estimated
    assert item.input_tokens == length == len(item.prompt.split())


def test_prompts_are_new_and_come_back_with_their_seed():
    first, again, other = (build(Workload(in_tokens=16, seed=seed), 200, ByWord()) for seed in (1, 1, 2))
    assert first == again
    prompts = {item.prompt for item in first}
    assert len(prompts) == 200
    assert not prompts & {item.prompt for item in other}
    assert [item.index for item in first] == list(range(200))


def test_without_a_seed_every_run_is_another():
    workload = Workload(in_tokens=16)
    assert seeded(workload).seed != seeded(workload).seed
    assert seeded(Workload(seed=5)).seed == 5
    runs = [build(workload, 5, ByWord()) for _ in range(2)]
    assert runs[0] != runs[1]


def test_groups_share_their_prefix_and_nothing_else():
    workload = Workload(in_tokens=30, prefix_groups=3, prefix_tokens=20, seed=1)
    items = build(workload, 60, ByWord())
    assert {item.input_tokens for item in items} == {30}
    begins = {(item.group, " ".join(item.prompt.split()[:19])) for item in items}
    assert sorted(group for group, _ in begins) == [0, 1, 2]
    assert len({item.prompt for item in items}) == 60


def test_a_popular_group_is_popular():
    workload = Workload(in_tokens=8, prefix_groups=4, prefix_tokens=4, prefix_zipf=2.0, seed=1)
    groups = Counter(item.group for item in build(workload, 2000, ByWord()))
    assert groups[0] / 2000 == pytest.approx(1 / (1 + 1 / 4 + 1 / 9 + 1 / 16), abs=0.04)


def test_ids_have_their_length_and_their_prefix():
    workload = Workload(in_tokens=30, prefix_groups=2, prefix_tokens=20, token_ids=True, seed=1)
    items = build(workload, 50, IdTokens(range(500, 600)))
    assert {len(item.prompt) for item in items} == {30}
    assert {one for item in items for one in item.prompt} <= set(range(500, 600))
    assert len({(item.group, tuple(item.prompt[:20])) for item in items}) == 2
    assert len({tuple(item.prompt) for item in items}) == 50


def test_output_lengths_follow_their_own_law():
    items = build(Workload(in_tokens=4, out_tokens="uniform:5,7", seed=1), 300, ByWord())
    assert {item.output_tokens for item in items} == {5, 6, 7}
    assert {item.output_tokens for item in build(Workload(in_tokens=4, out_tokens=None), 3, ByWord())} == {None}


def test_the_mean_of_a_lognormal_length_is_the_one_asked_for():
    draw = sampler("lognormal:200,0.8", "--in")
    rng = random.Random(1)
    drawn = [draw(rng) for _ in range(20_000)]
    assert statistics.fmean(drawn) == pytest.approx(200, rel=0.03)
    assert sampler("lognormal:200,0", "--in")(rng) == 200


@pytest.mark.parametrize(
    "length", ["", "many", "uniform:5", "uniform:9,5", "uniform:0,5", "lognormal:0,1", "normal:5,1", 0, -1, "0"]
)
def test_a_length_that_means_nothing(length):
    with pytest.raises(UsageError, match="--in"):
        Workload(in_tokens=length)


@pytest.mark.parametrize(
    "fields",
    [
        {"prefix_groups": 2},
        {"prefix_tokens": 8},
        {"prefix_groups": 2, "prefix_tokens": 8, "in_tokens": 8},
        {"think_s": -1.0},
        {"token_ids": True, "turns": 3},
    ],
)
def test_a_workload_that_cannot_be_meant(fields):
    with pytest.raises(UsageError):
        Workload(**fields)


def test_what_does_not_fit_the_context_is_said_before_the_run():
    with pytest.raises(UsageError, match=r"context is 40 tokens, .* needs 48 \(32 in, 16 out\)"):
        build(Workload(in_tokens=32, out_tokens=16), 1, ByWord(), max_context=40)
    assert build(Workload(in_tokens=32, out_tokens=8), 1, ByWord(), max_context=40)
    with pytest.raises(UsageError, match="at least one"):
        build(Workload(), 0, ByWord())

"""How many tokens an event carried: nothing is lost, nothing made up, and guesses are called guesses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.api.counting import Piece, count
from bench.types import TokenSource

texts = st.lists(st.text("abc ", max_size=6), min_size=1, max_size=12)


def pieces(words, totals=None, ids=None):
    return [
        Piece(i + 1, word, "content", totals[i] if totals else -1, ids[i] if ids else -1)
        for i, word in enumerate(words)
    ]


@given(st.lists(st.integers(1, 8), min_size=1, max_size=20))
def test_running_counts_are_exact(steps):
    totals = [sum(steps[: i + 1]) for i in range(len(steps))]
    tokens, source = count(pieces(["a"] * len(steps), totals), totals[-1])
    assert tokens == steps
    assert source is TokenSource.USAGE_DELTA


@given(st.lists(st.integers(0, 8), min_size=1, max_size=20).filter(any))
def test_listed_ids_are_exact(steps):
    tokens, source = count(pieces(["a" * step for step in steps], ids=steps), sum(steps) + 1)
    assert tokens == steps
    assert source is TokenSource.TOKEN_IDS


@given(texts, st.integers(0, 50))
def test_a_final_count_is_spread_without_loss(words, total):
    tokens, source = count(pieces(words), total)
    assert sum(tokens) == pytest.approx(total)
    assert source is TokenSource.USAGE_SPREAD
    assert source.estimated
    with_text = [number for number, word in zip(tokens, words, strict=True) if word]
    if len(with_text) <= total:
        assert all(number >= 1 for number in with_text)
    if with_text:
        assert all(number == 0 for number, word in zip(tokens, words, strict=True) if not word)


@given(texts)
def test_one_event_for_each_token_is_believed_only_where_confirmed(words):
    assert count(pieces(words), len(words), one_each=True) == ([1.0] * len(words), TokenSource.TGI_TOKEN)
    assert count(pieces(words), len(words) + 1, one_each=True)[1] is TokenSource.USAGE_SPREAD
    assert count(pieces(words), None, one_each=True)[1] is not TokenSource.TGI_TOKEN


@given(texts)
def test_where_nobody_counts_each_event_with_text_is_a_token_and_called_a_guess(words):
    tokens, source = count(pieces(words), None)
    assert tokens == [1.0 if word else 0.0 for word in words]
    assert source is (TokenSource.EVENTS if any(words) else TokenSource.NONE)
    assert source.estimated


def test_anything_else_is_believed_before_the_number_of_events():
    words = ["ab", "c"]
    assert count(pieces(words), 5)[1] is TokenSource.USAGE_SPREAD
    assert count(pieces(words), None, retokenizer=Letters())[1] is TokenSource.RETOKENIZED
    assert list(TokenSource)[-2:] == [TokenSource.EVENTS, TokenSource.NONE]


class Letters:
    """Every two characters are a token."""

    def token_ends(self, text):
        return [*range(2, len(text), 2), len(text)] if text else []


@given(texts.filter(any))
def test_retokenized_text_counts_where_its_tokens_end(words):
    tokens, source = count(pieces(words), None, retokenizer=Letters())
    assert source is TokenSource.RETOKENIZED
    assert sum(tokens) == len(Letters().token_ends("".join(words)))
    for i in range(len(words)):
        before = len("".join(words[: i + 1]))
        assert sum(tokens[: i + 1]) == sum(end <= before for end in Letters().token_ends("".join(words)))


def test_the_server_is_believed_before_the_tokenizer():
    assert count(pieces(["a", "b"]), 2, retokenizer=Letters())[1] is TokenSource.USAGE_SPREAD

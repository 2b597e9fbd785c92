import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.spec import NgramProposer

law = settings(derandomize=True, deadline=None, database=None, max_examples=300)


def naive(tokens: list[int], num_draft: int, max_match: int, min_match: int) -> tuple[int, ...]:
    """The definition, by trying every length from the longest and every place from the latest."""
    size = len(tokens)
    for length in range(min(max_match, size - 1), min_match - 1, -1):
        for end in range(size - 1, length - 1, -1):
            if tokens[end - length : end] == tokens[size - length :]:
                draft = list(tokens)
                for i in range(num_draft):
                    draft.append(draft[end + i])
                return tuple(draft[size:])
    return ()


@law
@given(
    st.integers(1, 4).flatmap(lambda letters: st.lists(st.integers(0, letters - 1), max_size=40)),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 3),
)
def test_equals_the_definition(tokens: list[int], num_draft: int, max_match: int, min_match: int) -> None:
    proposer = NgramProposer(num_draft, max_match=max_match, min_match=min(min_match, max_match))
    expected = naive(tokens, num_draft, max_match, min(min_match, max_match))
    assert proposer.propose(tokens) == expected
    assert proposer.propose(np.array(tokens, np.int64)) == expected
    assert proposer.propose(tuple(tokens)) == expected


def test_the_longest_match_wins_over_a_later_shorter_one() -> None:
    text = [1, 2, 3, 9, 7, 2, 3, 8, 5, 1, 2, 3]
    assert NgramProposer(1).propose(text) == (9,)
    assert NgramProposer(1, max_match=2).propose(text) == (8,)  # and the latest among equals


def test_nothing_is_drafted_without_a_match() -> None:
    proposer = NgramProposer(4)
    for text in ([], [1], [1, 2, 3], [1, 2, 1]):
        assert proposer.propose(text) == ()
    assert NgramProposer(4, min_match=1).propose([1, 2, 1]) == (2, 1, 2, 1)


def test_a_loop_is_drafted_in_full() -> None:
    assert NgramProposer(5).propose([4, 4, 4]) == (4, 4, 4, 4, 4)
    assert NgramProposer(5).propose([1, 2, 3, 1, 2, 3, 1, 2]) == (3, 1, 2, 3, 1)


def test_drafts_are_plain_integers() -> None:
    assert all(type(token) is int for token in NgramProposer(3).propose(np.array([1, 2, 1, 2], np.int32)))


@pytest.mark.parametrize("letters", [1, 50])
def test_a_long_history_equals_the_definition(letters: int) -> None:
    text = np.random.default_rng(1).integers(0, letters, 20_000).tolist()
    assert NgramProposer(4).propose(text) == naive(text, 4, 8, 2)

"""Stop strings against `str.find` on the whole text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.text.stop import StopMatch, StopMatcher

LAW = settings(derandomize=True, deadline=None, database=None, max_examples=600)
WORDS = st.text("ab", max_size=4)


def first_match(stops: list[str], text: str) -> StopMatch | None:
    """By definition: ends first, then starts first."""
    found = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop and stop in text]
    return StopMatch(min(found)[1], min(found)[0]) if found else None


@LAW
@given(st.lists(WORDS, max_size=4), st.lists(st.text("abc", max_size=5), max_size=8))
def test_the_match_is_the_one_that_ends_first(stops: list[str], pieces: list[str]) -> None:
    matcher = StopMatcher(stops)
    text = ""
    for piece in pieces:
        text += piece
        assert matcher.push(piece) == first_match(stops, text) == matcher.match
    assert matcher.matched == (text[slice(*matcher.match)] if matcher.match else None)


@LAW
@given(st.lists(st.text("ab", min_size=1, max_size=6), max_size=4), st.text("abc", max_size=20))
def test_text_waits_only_while_it_may_become_a_stop_string(stops: list[str], text: str) -> None:
    matcher = StopMatcher(stops)
    for n, char in enumerate(text, 1):
        if matcher.push(char):
            assert matcher.safe == matcher.match.start  # type: ignore[union-attr]  # it has just matched
            break
        kept = [k for k in range(n) if any(stop.startswith(text[k:n]) for stop in stops)]
        assert matcher.safe == min(kept, default=n)


@pytest.mark.parametrize(
    ("stops", "text", "expected"),
    [
        (["abcd", "bc"], "xabcd", (2, 4)),  # ends first
        (["c", "abc"], "xabc", (1, 4)),  # both end there: the longer
        (["aab"], "aaab", (1, 4)),  # a failed beginning overlaps the match
        (["\ud800"], "a\ud800b", (1, 2)),
        (["", "b"], "ab", (1, 2)),
        (["日本"], "x日本", (1, 3)),
        ([], "ab", None),
    ],
)
def test_cases(stops: list[str], text: str, expected: tuple[int, int] | None) -> None:
    assert StopMatcher(stops).push(text) == expected


def test_adversarial_stops_take_linear_time() -> None:
    """Count the moves through the automaton: at most two for each character, by the theorem."""
    matcher = StopMatcher(["a" * 255 + "b", "a" * 254 + "c"])
    moves = 0

    class Counted(list[int]):
        def __getitem__(self, node: int) -> int:  # type: ignore[override]  # only indexed by numbers
            nonlocal moves
            moves += 1
            return super().__getitem__(node)

    matcher._back = Counted(matcher._back)
    text = ("a" * 255 + "x") * 40
    assert matcher.push(text) is None
    assert moves <= len(text)

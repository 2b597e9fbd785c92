"""Thoughts split from what is said: the same however an answer is cut, and nothing is lost."""

import pytest
from chat_corpus import TEMPLATES
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.text.reasoning import TAGS, Reasoning, ReasoningParser, detect_tags
from engine.text.tools import Text

LAW = settings(derandomize=True, deadline=None, database=None, max_examples=300)
THINK = TAGS[0]


def split(portions: list[str], tags: tuple[str, str] = THINK, *, opened: bool = False) -> tuple[str, str]:
    """The thoughts and the text."""
    parser = ReasoningParser(tags, opened=opened)
    events = [event for portion in portions for event in parser.push(portion)] + parser.finish()
    assert all(event.text for event in events)
    said = [isinstance(event, Text) for event in events]
    assert said == sorted(said)  # thoughts come first
    thoughts = "".join(event.text for event in events if isinstance(event, Reasoning))
    return thoughts, "".join(event.text for event in events if isinstance(event, Text))


@pytest.mark.parametrize(
    ("answer", "opened", "expected"),
    [
        ("<think>\na b\n\n c \n</think>\n\nHello \n", False, ("a b\n\n c", "Hello \n")),
        ("a b</think>Hello", True, ("a b", "Hello")),
        ("<think>a</think>Hello", True, ("a", "Hello")),
        ("\n<think>a</think>Hello", False, ("a", "Hello")),
        ("<think>\n\n</think>\n\nHello", False, ("", "Hello")),
        ("\n\n</think>\n\nHello", True, ("", "Hello")),
        ("<think>a </thi", False, ("a </thi", "")),
        ("a", True, ("a", "")),
        ("<think>a</think>  \n", False, ("a", "")),
        ("Hello <think>a</think>", False, ("", "Hello <think>a</think>")),
        ("Hello</think>", False, ("", "Hello</think>")),
        ("<think>a</think>b<think>c</think>", False, ("a", "b<think>c</think>")),
        (" \n<thi", False, ("", " \n<thi")),
        (" \n", False, ("", " \n")),
        ("", False, ("", "")),
        ("", True, ("", "")),
    ],
)
def test_what_was_thought_and_what_was_said(answer: str, opened: bool, expected: tuple[str, str]) -> None:
    assert split([answer], opened=opened) == expected
    assert split(list(answer), opened=opened) == expected


@pytest.mark.parametrize("tags", TAGS)
@pytest.mark.parametrize("opened", [False, True])
@LAW
@given(data=st.data())
def test_the_split_does_not_depend_on_the_portions(tags: tuple[str, str], opened: bool, data: st.DataObject) -> None:
    fragments = st.sampled_from([*tags, tags[0][:-1], tags[1][:3], " ", "\n", "a", "é", "<", "["])
    portions = data.draw(st.lists(fragments | st.text(max_size=3), max_size=12))
    answer = "".join(portions)
    whole = split([answer], tags, opened=opened)
    assert split(portions, tags, opened=opened) == whole
    assert split(list(answer), tags, opened=opened) == whole


@LAW
@given(thoughts=st.text().map(str.strip), said=st.text().map(str.strip))
def test_thoughts_and_text_come_back(thoughts: str, said: str) -> None:
    if any(tag in part for tag in THINK for part in (thoughts, said, thoughts + said)):
        return
    assert split(list(f"<think>\n{thoughts}\n</think>\n\n{said}")) == (thoughts, said)


def test_text_is_passed_on_at_once() -> None:
    parser = ReasoningParser(THINK)
    assert parser.push("<think>") == []
    assert parser.push("one ") == [Reasoning("one")]
    assert parser.push("two") == [Reasoning(" two")]
    assert parser.push("</think>\n") == []
    assert parser.push("\nYes") == [Text("Yes")]
    assert parser.push(" no\n") == [Text(" no\n")]


def test_the_tags_show_in_the_template() -> None:
    assert detect_tags(TEMPLATES["qwen3"]) == ("<think>", "</think>")
    assert detect_tags("{{ '[THINK]' }}") == ("[THINK]", "[/THINK]")
    assert detect_tags(TEMPLATES["chatml"]) is None

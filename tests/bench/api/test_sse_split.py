"""Server-sent events: where they end, and what they carry."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.api.sse import split

line = st.text(st.characters(blacklist_characters="\r\n", blacklist_categories=["Cs"]), max_size=20)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@given(st.lists(st.lists(line, min_size=1, max_size=3), max_size=6))
def test_events_come_back_whatever_ends_their_lines(ending, events):
    body, ends = b"", []
    for lines in events:
        body += "".join(f"data: {each}{ending}" for each in lines).encode() + ending.encode()
        ends.append(len(body))
    found, tail = split(body)
    assert [(data, end) for data, end, _ in found] == [
        ("\n".join(lines).encode(), end) for lines, end in zip(events, ends, strict=True)
    ]
    assert tail is None


@given(st.lists(line, min_size=1, max_size=4), st.data())
def test_a_cut_body_has_the_events_before_the_cut(events, data):
    whole = b"".join(f"data: {each}\n\n".encode() for each in events)
    cut = data.draw(st.integers(0, len(whole)))
    found, _ = split(whole[:cut])
    assert found == [event for event in split(whole)[0] if event[1] <= cut]


def test_only_data_and_errors_matter():
    body = b": ping\n\nid: 1\nretry: 5\n\nevent: error\ndata: a\n\nerror: b\n\ndata\n\nevent: x\ndata:c\n\ndata: d"
    found, tail = split(body)
    assert [(data, is_error) for data, _, is_error in found] == [
        (b"a", True),
        (b"b", True),
        (b"", False),
        (b"c", False),
    ]
    assert tail == (b"d", len(body), False)

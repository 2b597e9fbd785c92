"""The feed keeps its promises for any course of events; the courses are drawn, the clock is a number."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.load.plan import Due, Feed, schedule, sessions, split
from bench.types import PlannedRequest


def request(index: int, **changes) -> PlannedRequest:
    return PlannedRequest(index=index, payload=b"", **changes)


def begun(requests, places, *, closed, start_ns=0, deadline_ns=None) -> Feed:
    feed = Feed(requests, places, closed=closed)
    feed.begin(start_ns, deadline_ns)
    return feed


def taken(feed: Feed, now: int) -> list[Due]:
    found = []
    while (due := feed.take(now)) is not None:
        found.append(due)
    return found


def indices(found: list[Due]) -> list[int]:
    return [due.request.index for due in found]


@st.composite
def plans(draw) -> list[PlannedRequest]:
    timed = draw(st.booleans())
    planned: list[PlannedRequest] = []
    for session in range(draw(st.integers(1, 6))):
        turns = draw(st.integers(1, 3))
        for turn in range(turns):
            at_ns = draw(st.integers(0, 50)) if timed and turn == 0 else None
            think = draw(st.integers(0, 10))
            alone = turns == 1 and draw(st.booleans())
            planned.append(
                request(len(planned), session=None if alone else session, turn=turn, at_ns=at_ns, think_ns=think)
            )
    return planned


class Course:
    """Plays a feed to its end: answers take the times that were drawn."""

    def __init__(self, feed: Feed, durations: list[int], limit: int | None) -> None:
        self.feed, self.durations, self.limit = feed, durations, limit
        self.sent: list[tuple[int, Due]] = []
        self.ended: dict[int, int] = {}

    def play(self, now: int = 0) -> None:
        flying: list[tuple[int, int]] = []
        while not self.feed.finished:
            for due in taken(self.feed, now):
                self.sent.append((now, due))
                flying.append((now + self.durations[due.request.index % len(self.durations)], due.request.index))
            assert self.limit is None or len(flying) <= self.limit
            wakes = [time for time, _ in flying]
            next_due = self.feed.next_due_ns()
            assert next_due is None or next_due > now or self.feed.finished
            wakes += [next_due] if next_due is not None else []
            if self.feed.finished:
                break
            now = min(wakes)  # a feed that is not finished waits for something
            for time, index in sorted(flying):
                if time <= now:
                    self.feed.ended(index, time, went_well=True)
                    self.ended[index] = time
            flying = [(time, index) for time, index in flying if time > now]


@given(plans(), st.integers(1, 4), st.lists(st.integers(1, 30), min_size=1, max_size=5), st.booleans())
def test_every_request_is_sent_once_in_its_order_and_never_too_many(planned, places, durations, limited):
    closed = planned[0].at_ns is None
    limit = places if closed or limited else None
    course = Course(begun(planned, limit, closed=closed, start_ns=0), durations, limit)
    course.play()
    order = [due.request.index for _, due in course.sent]
    assert sorted(order) == list(range(len(planned)))
    assert course.feed.unsent == []
    sent_at = {due.request.index: now for now, due in course.sent}
    for turns in sessions(planned):
        for earlier, later in itertools.pairwise(turns):
            assert sent_at[later.index] >= course.ended[earlier.index] + later.think_ns
    for now, due in course.sent:
        assert due.scheduled_ns <= due.ready_ns <= now
        if due.request.at_ns is not None:
            assert due.scheduled_ns == due.request.at_ns
        if limit is None or closed:
            assert due.ready_ns == now  # nothing is held back without a reason


def test_a_closed_loop_sends_the_next_when_a_place_is_free():
    feed = begun([request(i) for i in range(4)], 2, closed=True, start_ns=100)
    assert feed.next_due_ns() == 100
    assert taken(feed, 99) == []
    assert indices(taken(feed, 101)) == [0, 1]
    assert feed.next_due_ns() is None
    feed.ended(1, 150, went_well=True)
    (due,) = taken(feed, 160)
    assert (due.request.index, due.scheduled_ns, due.ready_ns) == (2, 150, 150)


def test_a_session_keeps_its_place_while_it_thinks_in_a_closed_loop():
    planned = [request(0, session=1), request(1, session=1, turn=1, think_ns=50), request(2)]
    feed = begun(planned, 1, closed=True, start_ns=0)
    assert indices(taken(feed, 0)) == [0]
    feed.ended(0, 10, went_well=True)
    assert taken(feed, 59) == []
    assert feed.next_due_ns() == 60
    (due,) = taken(feed, 61)
    assert (due.request.index, due.scheduled_ns) == (1, 60)
    feed.ended(1, 70, went_well=True)
    assert indices(taken(feed, 70)) == [2]


def test_an_open_loop_with_a_limit_counts_the_wait_but_does_not_blame_the_client():
    feed = begun([request(0, at_ns=10), request(1, at_ns=20)], 1, closed=False, start_ns=1000)
    assert indices(taken(feed, 1010)) == [0]
    assert taken(feed, 1020) == []
    assert feed.next_due_ns() is None
    feed.ended(0, 1500, went_well=True)
    (due,) = taken(feed, 1501)
    assert (due.scheduled_ns, due.ready_ns) == (1020, 1500)


def test_after_the_deadline_supply_is_dropped_and_the_schedule_is_unsent():
    open_loop = begun([request(0, at_ns=5), request(1, at_ns=9)], 1, closed=False, start_ns=0, deadline_ns=10)
    assert indices(taken(open_loop, 5)) == [0]
    assert open_loop.next_due_ns() == 10
    assert taken(open_loop, 10) == []
    assert [(late.index, due) for late, due in open_loop.unsent] == [(1, 9)]
    closed = begun([request(0), request(1)], 1, closed=True, start_ns=0, deadline_ns=10)
    assert indices(taken(closed, 0)) == [0]
    closed.ended(0, 10, went_well=True)
    assert taken(closed, 10) == []
    assert closed.unsent == []
    assert closed.finished


def test_a_stopped_feed_names_what_was_not_sent():
    planned = [request(0, session=1), request(1, session=1, turn=1), request(2)]
    feed = begun(planned, 1, closed=True, start_ns=0)
    taken(feed, 0)
    feed.stop()
    assert sorted(left.index for left, _ in feed.unsent) == [1, 2]
    assert not feed.finished
    feed.ended(0, 5, went_well=True)
    assert feed.finished
    assert taken(feed, 6) == []


def test_a_session_ends_with_a_turn_that_failed():
    planned = [request(i, session=1, turn=i) for i in range(3)] + [request(3)]
    feed = begun(planned, 1, closed=True, start_ns=0)
    taken(feed, 0)
    feed.ended(0, 5, went_well=False)
    assert [left.index for left, _ in feed.unsent] == [1, 2]
    assert indices(taken(feed, 5)) == [3]


@pytest.mark.parametrize("closed", [True, False])
def test_a_turn_waits_until_its_answers_are_filled_in(closed):
    at_ns = None if closed else 0
    planned = [request(0, session=1, at_ns=at_ns), request(1, session=1, turn=1, messages=[]), request(2, at_ns=at_ns)]
    feed = begun(planned, 1, closed=closed, start_ns=0)
    assert indices(taken(feed, 0)) == [0]
    feed.ended(0, 10, went_well=True)
    assert indices(taken(feed, 11)) == ([] if closed else [2])
    assert not feed.finished
    feed.fill(1, b"full", 12)
    if not closed:
        feed.ended(2, 12, went_well=True)
    (due,) = taken(feed, 12)
    assert (due.request.index, due.request.payload, due.scheduled_ns) == (1, b"full", 12)


def test_a_session_that_cannot_be_filled_in_gives_its_place_back():
    planned = [request(0, session=1), request(1, session=1, turn=1, messages=[]), request(2)]
    feed = begun(planned, 1, closed=True, start_ns=0)
    taken(feed, 0)
    feed.ended(0, 10, went_well=True)
    feed.fill(1, None, 12)
    assert [left.index for left, _ in feed.unsent] == [1]
    assert indices(taken(feed, 12)) == [2]
    feed.fill(1, b"again", 13)
    assert taken(feed, 13) == []


@given(plans(), st.none() | st.integers(1, 9), st.integers(1, 4))
def test_a_split_keeps_sessions_whole_and_gives_out_every_place(planned, places, workers):
    if places is not None and places < workers:
        with pytest.raises(ValueError, match="cannot be shared"):
            split(planned, places, workers)
        return
    parts = split(planned, places, workers)
    assert len(parts) == workers
    assert sorted(one.index for part in parts for one in part.requests) == list(range(len(planned)))
    homes = {
        (one.session, number) for number, part in enumerate(parts) for one in part.requests if one.session is not None
    }
    assert len(homes) == len({session for session, _ in homes})
    if places is not None:
        assert sum(part.places or 0 for part in parts) == places
        assert all(part.places for part in parts)


def test_a_worker_gets_sessions_in_proportion_to_its_places():
    parts = split([request(i) for i in range(30)], 3, 2)
    assert [(len(part.requests), part.places) for part in parts] == [(20, 2), (10, 1)]


def test_times_go_to_the_first_turns_and_sessions_without_one_are_left_out():
    planned = [request(0, session=5), request(1, session=5, turn=1), request(2), request(3)]
    placed = schedule(planned, [7, 9])
    assert [(one.index, one.at_ns) for one in placed] == [(0, 7), (1, None), (2, 9)]
    assert schedule(planned, None) == planned

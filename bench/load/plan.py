"""In what order requests are sent, and by which worker: pure rules, told the time and never asking for it.

A **place** is the right to be at work. In a closed loop there are as many as the concurrency, and a session keeps
its place from its first turn to its last, as a user does who reads and thinks. In an open loop with a limit, a
place is held by a request in flight. A request alone is a session of one turn.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from bench.types import PlannedRequest


class Due(NamedTuple):
    """A request to be sent now. `ready_ns` is from when nothing but the client itself delays it."""

    request: PlannedRequest
    scheduled_ns: int
    ready_ns: int


class Part(NamedTuple):
    """What one worker does: its requests in order, and its share of the places (None = no limit)."""

    requests: list[PlannedRequest]
    places: int | None


def sessions(requests: Sequence[PlannedRequest]) -> list[list[PlannedRequest]]:
    """Group turns into their sessions, in order of first appearance; a request without a session stands alone."""
    grouped: dict[int | tuple[int], list[PlannedRequest]] = {}
    for request in requests:
        key = (request.index,) if request.session is None else request.session
        grouped.setdefault(key, []).append(request)
    return [sorted(turns, key=lambda request: request.turn) for turns in grouped.values()]


def schedule(requests: Sequence[PlannedRequest], times: Sequence[int] | None) -> list[PlannedRequest]:
    """Give each session its time of arrival; of an open loop, sessions without a time are left out."""
    if times is None:
        return list(requests)
    placed = []
    for (first, *later), at_ns in zip(sessions(requests), times, strict=False):
        placed += [msgspec.structs.replace(first, at_ns=at_ns), *later]
    return placed


def split(requests: Sequence[PlannedRequest], places: int | None, workers: int) -> list[Part]:
    """Deal sessions and places round-robin; a worker gets sessions in proportion to its places.

    Raises ValueError if some worker would have no place.
    """
    if places is not None and places < workers:
        raise ValueError(f"{places} places cannot be shared by {workers} workers")
    parts: list[list[PlannedRequest]] = [[] for _ in range(workers)]
    for number, turns in enumerate(sessions(requests)):
        place = number if places is None else number % places
        parts[place % workers] += turns
    if places is None:
        return [Part(part, None) for part in parts]
    return [Part(part, len(range(worker, places, workers))) for worker, part in enumerate(parts)]


class Feed:
    """Says which request is next. Told of every end, it never has more at work than it has places.

    `begin` comes before everything else. After its `deadline_ns` nothing new is sent: requests with a time of their
    own are then `unsent`; the others were a supply, and what is left of it is no loss.
    """

    def __init__(self, requests: Sequence[PlannedRequest], places: int | None, *, closed: bool) -> None:
        self._places, self._closed = places, closed
        self._start = 0
        self._deadline: int | None = None
        self._order = itertools.count()
        self._free: deque[int] | None = None  # since when each free place is free; None = no limit
        self._heads: deque[PlannedRequest] = deque()  # as soon as there is a place
        self._arrivals: deque[PlannedRequest] = deque()  # at a time after the start, in its order; in need of a place
        self._timed: list[tuple[int, int, PlannedRequest]] = []  # later turns, due at a time and in need of a place
        self._turns: list[tuple[int, int, PlannedRequest]] = []  # later turns on the place of their session
        self._unfilled: dict[int, tuple[int, PlannedRequest]] = {}  # by index: due, but the answers are missing
        self._later: dict[int, deque[PlannedRequest]] = {}
        self._at_work: dict[int, PlannedRequest] = {}
        self.unsent: list[tuple[PlannedRequest, int]] = []  # with the time each was scheduled for
        for first, *later in sessions(requests):
            if first.session is not None:
                self._later[first.session] = deque(later)
            (self._heads if first.at_ns is None else self._arrivals).append(first)
        self._arrivals = deque(sorted(self._arrivals, key=lambda request: request.at_ns or 0))

    def begin(self, start_ns: int, deadline_ns: int | None = None) -> None:
        """Set the time that the plan counts from. All that takes long for a long plan was done before."""
        self._start, self._deadline = start_ns, deadline_ns
        self._free = None if self._places is None else deque([start_ns] * self._places)

    @property
    def finished(self) -> bool:
        """Whether nothing is at work and nothing will come."""
        return not (self._at_work or self._waiting)

    @property
    def _waiting(self) -> bool:
        return bool(self._heads or self._arrivals or self._timed or self._turns or self._unfilled)

    def next_due_ns(self) -> int | None:
        """When `take` has something to say next; None = not before something ends or is filled in."""
        times = [self._turns[0][0]] if self._turns else []
        if self._free is None or self._free:
            times += [due] if (due := self._next_timed_ns()) is not None else []
            times += [self._free[0] if self._free else self._start] if self._heads else []
        if self._deadline is not None and self._waiting:
            times.append(self._deadline)
        return min(times, default=None)

    def take(self, now_ns: int) -> Due | None:
        """The request to send now, if there is one; ask until there is none."""
        if self._deadline is not None and now_ns >= self._deadline:
            self._drop(supply=True)
            return None
        if self._turns and self._turns[0][0] <= now_ns:
            due, _, request = heapq.heappop(self._turns)
            return self._hand_out(request, due, due)
        freed = self._start
        if self._free is not None:
            if not self._free:
                return None
            freed = self._free[0]
        timed_ns = self._next_timed_ns()
        if timed_ns is not None and timed_ns <= now_ns:
            later = bool(self._timed) and self._timed[0][0] == timed_ns
            request = heapq.heappop(self._timed)[2] if later else self._arrivals.popleft()
            self._use_place()
            return self._hand_out(request, timed_ns, max(timed_ns, freed))
        if self._heads and freed <= now_ns:
            self._use_place()
            return self._hand_out(self._heads.popleft(), freed, freed)
        return None

    def ended(self, index: int, at_ns: int, *, went_well: bool) -> None:
        """A request has ended. Its session goes on if it went well, and is given up otherwise."""
        request = self._at_work.pop(index)
        turns = self._later.get(request.session) if request.session is not None else None
        goes_on = bool(turns) and went_well
        if turns and not went_well:
            self._give_up(turns, at_ns)
        if goes_on and turns:
            following = turns.popleft()
            due = at_ns + following.think_ns
            if following.at_ns is not None:
                due = max(due, self._arrival_ns(following))
            if following.messages is not None:
                self._unfilled[following.index] = (due, following)
            else:
                self._push(self._turns if self._closed else self._timed, due, following)
        if self._free is not None and not (goes_on and self._closed):
            self._free.append(at_ns)

    def fill(self, index: int, payload: bytes | None, now_ns: int) -> None:
        """The bytes of a turn that waited for the answers before it; None = the session cannot go on."""
        if index not in self._unfilled:  # dropped in the meantime
            return
        due, request = self._unfilled.pop(index)
        due = max(due, now_ns)
        if payload is not None:
            filled = msgspec.structs.replace(request, payload=payload)
            self._push(self._turns if self._closed else self._timed, due, filled)
            return
        assert request.session is not None
        turns = self._later[request.session]
        turns.appendleft(request)
        self._give_up(turns, due)
        if self._free is not None and self._closed:
            self._free.append(due)

    def stop(self) -> None:
        """Send nothing more."""
        self._drop(supply=self._deadline is not None)

    def _next_timed_ns(self) -> int | None:
        """When the next request with a time of its own is due."""
        times = [self._arrival_ns(self._arrivals[0])] if self._arrivals else []
        times += [self._timed[0][0]] if self._timed else []
        return min(times, default=None)

    def _arrival_ns(self, request: PlannedRequest) -> int:
        return self._start + (request.at_ns or 0)

    def _hand_out(self, request: PlannedRequest, scheduled_ns: int, ready_ns: int) -> Due:
        self._at_work[request.index] = request
        return Due(request, scheduled_ns, ready_ns)

    def _use_place(self) -> None:
        if self._free is not None:
            self._free.popleft()

    def _push(self, heap: list[tuple[int, int, PlannedRequest]], due: int, request: PlannedRequest) -> None:
        heapq.heappush(heap, (due, next(self._order), request))

    def _give_up(self, turns: deque[PlannedRequest], at_ns: int) -> None:
        self.unsent += [(request, at_ns) for request in turns]
        turns.clear()

    def _drop(self, *, supply: bool) -> None:
        """Forget what waits. Of a supply, only what has a time of its own is `unsent`."""
        waiting = [(request, self._start) for request in self._heads]
        waiting += [(request, self._arrival_ns(request)) for request in self._arrivals]
        waiting += [(request, due) for due, _, request in (*self._timed, *self._turns)]
        waiting += [(request, due) for due, request in self._unfilled.values()]
        waiting += [(request, self._start) for turns in self._later.values() for request in turns]
        self.unsent += [(request, due) for request, due in waiting if not supply or request.at_ns is not None]
        for kept in (self._heads, self._arrivals, self._timed, self._turns, self._unfilled, self._later):
            kept.clear()

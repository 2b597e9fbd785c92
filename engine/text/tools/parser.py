"""Finds the calls in the text of an answer, as it comes. The formats are subclasses, in `formats.py`."""

from collections.abc import Callable, Collection
from typing import ClassVar

from engine.text.tools.call import CallReader, NotACall, Reading
from engine.text.tools.events import CallArguments, CallStarted, Text, ToolEvent
from engine.text.tools.json_scan import SPACE


class ToolCallParser:
    """`push` the text of an answer in any portions, then `finish`; together they return what was in it.

    A call is text between a marker and the end of its JSON that names one of `tools`; all else is text, which
    is what a malformed call becomes too. Joined, the events do not depend on the portions. Spaces before the
    first call, between calls and after the last one are dropped.

    `eager` gives a call out while it is written: once it names a tool and its arguments begin. Should it then
    turn out malformed, it stays with the arguments it had, and the rest is text. Otherwise only whole calls are
    given out. `limit` drops the calls beyond so many.
    """

    markers: ClassVar[tuple[str, ...]] = ()  # what calls follow, anywhere in the text
    others: ClassVar[tuple[str, ...]] = ()  # what else the format writes that may be a special token
    bare: ClassVar[str] = ""  # the characters that begin calls at the start of an answer, without a marker

    def __init__(
        self, tools: Collection[str], new_id: Callable[[], str], *, eager: bool = True, limit: int | None = None
    ) -> None:
        self.calls = 0  # given out, or beyond the limit
        self.whole_calls = 0  # of which the end was seen
        self.tools = frozenset(tools)
        self._new_id = new_id
        self._eager = eager
        self._limit = limit
        self._first = frozenset(marker[0] for marker in self.markers)
        self._events: list[ToolEvent] = []
        self._waiting = ""  # text that is not decided on: the beginning of a marker, or spaces
        self._after_call = False  # nothing but spaces came after a call
        self._at_start = True  # nothing but spaces came at all
        self._section: Reading[None] | None = None  # reads what follows a marker
        self._opener = ""  # the marker and spaces before it, until a call behind it is whole
        self._raw: list[str] = []  # what the section read since then
        self._reader: CallReader | None = None  # the call in it
        self._started = False  # that call was given out

    def read(self, marker: str) -> Reading[None]:
        """Read one or more calls (`call`) behind a marker, or from the start of an answer (`marker` is empty)."""
        raise NotImplementedError

    def push(self, text: str) -> list[ToolEvent]:
        while text:
            text = self._find(text) if self._section is None else self._feed(text)
        self._give_out()
        return self._taken()

    def finish(self) -> list[ToolEvent]:
        """No more text: a marker or a call that is not whole is text."""
        self._give_out()
        rest = self._waiting
        if self._section is not None and not self._started:
            rest = self._opener + "".join(self._raw)
        if not (self._after_call and is_space(rest)):
            self._add_text(rest)
        return self._taken()

    def call(self, reader: CallReader | None = None, first: str = "") -> Reading[None]:
        """Read one call, whose first character was `first` if it has been read already."""
        self._reader = reader = reader or CallReader(self.tools)
        if first:
            reader.push(first)
        while not reader.done:
            reader.push((yield))
        self._give_out()
        self._reader, self._started, self._after_call = None, False, True
        self.whole_calls += 1
        self.settle()

    def settle(self) -> None:
        """What was read so far is calls and what stands around them: never text."""
        self._opener = ""
        self._raw.clear()

    def _taken(self) -> list[ToolEvent]:
        events, self._events = self._events, []
        return events

    def _give_out(self) -> None:
        """What can be told of the call that is being read."""
        reader = self._reader
        if reader is None or reader.name is None or not (self._eager or reader.done):
            return
        kept = self._limit is None or self.calls < self._limit + self._started
        if not self._started:
            self._started, self._at_start = True, False
            if kept:
                self._events.append(CallStarted(self.calls, self._new_id(), reader.name))
            self.calls += 1
        if (text := reader.take()) and kept:
            self._events.append(CallArguments(self.calls - 1, text))

    def _find(self, text: str) -> str:
        """Pass text on up to where a call may begin. Returns what was not read."""
        text = self._waiting + text
        self._waiting = ""
        start = len(text) - len(text.lstrip(SPACE))
        if self._at_start and start < len(text) and text[start] in self.bare:
            self._open(text[: start + 1], "").send(text[start])
            return text[start + 1 :]
        found = [(at, marker) for marker in self.markers if (at := text.find(marker)) >= 0]
        if found:
            at, marker = min(found)
            end = at + len(marker)
            if not (self._at_start or self._after_call) or start < at:
                self._add_text(text[:at])
                self._open(marker, marker)
            else:  # the spaces are text only if no call follows
                self._open(text[:end], marker)
            return text[end:]
        safe = self._safe(text)
        if (self._at_start or self._after_call) and start >= safe:
            self._waiting = text
            return ""
        self._add_text(text[:safe])
        self._waiting = text[safe:]
        return ""

    def _safe(self, text: str) -> int:
        """How many characters cannot be part of a marker that is not whole yet."""
        if self._first.isdisjoint(text):
            return len(text)
        longest = max(map(len, self.markers)) - 1
        for at in range(max(0, len(text) - longest), len(text)):
            if any(marker.startswith(text[at:]) for marker in self.markers):
                return at
        return len(text)

    def _add_text(self, text: str) -> None:
        if text:
            self._events.append(Text(text))
            self._at_start = self._after_call = False

    def _open(self, opener: str, marker: str) -> Reading[None]:
        self._opener = opener
        self._section = self.read(marker)
        next(self._section)
        return self._section

    def _feed(self, text: str) -> str:
        """Read on behind a marker. Returns what was not read."""
        assert self._section is not None
        for at, char in enumerate(text):
            self._raw.append(char)
            try:
                self._section.send(char)
            except StopIteration:
                self._close()
                return text[at + 1 :]
            except NotACall:
                return self._give_up(char) + text[at + 1 :]
        return ""

    def _give_up(self, char: str) -> str:
        """The section ends before `char`, which does not belong to it: its opener is text.

        Returns what is to be read again, since it may hold other calls.
        """
        self._give_out()
        unread = char if self._started else "".join(self._raw)
        if not self._started:
            self._add_text(self._opener)
        self._close()
        return unread

    def _close(self) -> None:
        self._section = self._reader = None
        self._started = False
        self._opener = ""
        self._raw.clear()


def is_space(text: str) -> bool:
    return not text.strip(SPACE)

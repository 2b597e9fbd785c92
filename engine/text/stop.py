"""Stop strings, found across the edges of pieces in time linear in the text (Aho and Corasick 1975).

Of several stop strings the occurrence that ends first wins, since text is read from left to right and
nothing behind it is ever needed; of those that end together the longest wins, which starts first.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple


class StopMatch(NamedTuple):
    """`text[start:stop]` is the stop string; positions count characters of all text pushed."""

    start: int
    stop: int


class StopMatcher:
    """Read text piece by piece until a stop string has occurred.

    `safe` counts the characters at the start of the text that can no longer become part of a match: the
    rest, if any, is the longest ending of the text that is the beginning of a stop string. Empty stop
    strings are ignored. Lone surrogates are characters like any other.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._next: list[dict[str, int]] = [{}]  # the trie of all stop strings; node 0 is its root
        self._depth = [0]  # characters from the root
        self._stop = [""]  # the longest stop string that ends at this node, if any
        self._back = [0]  # the node of the longest proper ending that is in the trie too
        for stop in stops:
            self._add(stop)
        self._link()
        self._node = 0
        self._seen = 0
        self.match: StopMatch | None = None
        self.matched: str | None = None  # the stop string that it is of

    def _add(self, stop: str) -> None:
        node = 0
        for char in stop:
            child = self._next[node].get(char)
            if child is None:
                child = len(self._next)
                self._next[node][char] = child
                self._next.append({})
                self._depth.append(self._depth[node] + 1)
                self._stop.append("")
                self._back.append(0)
            node = child
        self._stop[node] = stop

    def _link(self) -> None:
        """Point every node back to the longest of its endings, shallow nodes first."""
        queue = deque(self._next[0].values())
        while queue:
            node = queue.popleft()
            for char, child in self._next[node].items():
                self._back[child] = self._step(self._back[node], char)
                self._stop[child] = self._stop[child] or self._stop[self._back[child]]
                queue.append(child)

    def _step(self, node: int, char: str) -> int:
        while node and char not in self._next[node]:
            node = self._back[node]
        return self._next[node].get(char, 0)

    @property
    def safe(self) -> int:
        return self.match.start if self.match else self._seen - self._depth[self._node]

    def push(self, text: str) -> StopMatch | None:
        """Read on. Returns the match once there is one; text after it is not read."""
        if self.match or len(self._next) == 1:
            self._seen += len(text)
            return self.match
        for char in text:
            self._seen += 1
            self._node = self._step(self._node, char)
            if stop := self._stop[self._node]:
                self.match, self.matched = StopMatch(self._seen - len(stop), self._seen), stop
                break
        return self.match

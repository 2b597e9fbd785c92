"""Prompt lookup: text that repeats itself predicts itself (Saxena 2023; TGI's and vLLM's n-gram speculation)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class NgramProposer:
    """Drafts what followed the longest suffix of the sequence when it last occurred.

    Only the last `max_match` tokens count, and a match of fewer than `min_match` proposes nothing (by default a single
    token, which is mostly chance). Among occurrences that match equally long the most recent one wins. Stateless: the
    sequence is all it goes by.
    """

    def __init__(self, num_draft: int, max_match: int = 8, min_match: int = 2) -> None:
        self.num_draft = num_draft
        self.max_match = max_match
        self.min_match = min_match

    def propose(self, tokens: Sequence[int] | NDArray[np.integer[Any]]) -> tuple[int, ...]:
        """`num_draft` tokens, or none without a match.

        A copy that reaches the end of the sequence goes on with what it has copied, as LZ77 does, so that a loop of
        any length is drafted in full. Time: one comparison for each token and `max_match` for each occurrence of the
        last one. An int64 array is read in place; anything else is converted first, which takes longer.
        """
        known = np.asarray(tokens, np.int64)
        if known.size == 0:
            return ()
        ends = np.flatnonzero(known[:-1] == known[-1])  # where an earlier match of one token ends, ascending
        length = 1
        while length < self.max_match and ends.size:
            longer = ends[ends >= length]
            longer = longer[known[longer - length] == known[-1 - length]]
            if not longer.size:
                break
            ends, length = longer, length + 1
        if not ends.size or length < self.min_match:
            return ()
        followed = known[ends[-1] + 1 :][: self.num_draft]
        return tuple(np.resize(followed, self.num_draft).tolist())

"""How many tokens each event of a stream carried.

An event is not a token: servers send several at once when they speculate, batch steps or are slow, and events
without one. What each server says is believed in the order of `TokenSource`; what has to be guessed is marked so.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from bench.types import TokenSource

UNKNOWN = -1


class Piece(msgspec.Struct, array_like=True, gc=False):
    """One event that could have carried tokens: one with a choice in OpenAI's dialects, with a token in TGI's."""

    end: int  # in the body
    text: str
    kind: str  # content, reasoning or tool
    total: int = UNKNOWN  # the server's count of output tokens so far
    ids: int = UNKNOWN  # how many token ids it lists


class Retokenizer(Protocol):
    def token_ends(self, text: str) -> list[int]:
        """For each token of `text`, the position (in characters) after it."""


def count(
    pieces: Sequence[Piece], final: int | None, *, one_each: bool = False, retokenizer: Retokenizer | None = None
) -> tuple[list[float], TokenSource]:
    """Tokens of each piece, and how they are known.

    `final` is the server's count for the whole stream. `one_each` says that this server sends one event for each
    token, which is believed where `final` confirms it. Where nobody counts, each piece with text is taken for one
    token, and the source says so.
    """
    with_text = [i for i, piece in enumerate(pieces) if piece.text]
    if any(piece.total > 0 for piece in pieces) and all(pieces[i].total >= 0 for i in with_text):
        return _differences(pieces, final), TokenSource.USAGE_DELTA
    if one_each and final == len(pieces) > 0:
        return [1.0] * len(pieces), TokenSource.TGI_TOKEN
    if any(piece.ids > 0 for piece in pieces) and all(pieces[i].ids >= 0 for i in with_text):
        return [float(max(piece.ids, 0)) for piece in pieces], TokenSource.TOKEN_IDS
    if final is not None:
        return _spread(pieces, with_text, final), TokenSource.USAGE_SPREAD
    if retokenizer is not None and with_text:
        return _retokenized(pieces, retokenizer), TokenSource.RETOKENIZED
    return [1.0 if piece.text else 0.0 for piece in pieces], TokenSource.EVENTS if with_text else TokenSource.NONE


def _differences(pieces: Sequence[Piece], final: int | None) -> list[float]:
    """What each cumulative count adds to the one before.

    A final count that is still higher belongs to the end: the end token, which has no text.
    """
    tokens, before = [], 0
    for piece in pieces:
        total = piece.total
        if total > before:
            tokens.append(float(total - before))
            before = total
        else:
            tokens.append(0.0)
    if final is not None and final > before:
        tokens[-1] += final - before
    return tokens


def _spread(pieces: Sequence[Piece], with_text: Sequence[int], total: int) -> list[float]:
    """`total` tokens over the pieces with text: one to each, since text is not made from less, the rest by length.

    Where there are fewer tokens than pieces, all of them by length; where no piece has text, all to the last.
    """
    tokens = [0.0] * len(pieces)
    if not with_text:
        if pieces:
            tokens[-1] = float(total)
        return tokens
    least = 1.0 if total >= len(with_text) else 0.0
    rest = total - least * len(with_text)
    characters = sum(len(pieces[i].text) for i in with_text)
    for i in with_text:
        tokens[i] = least + rest * len(pieces[i].text) / characters
    return tokens


def _retokenized(pieces: Sequence[Piece], retokenizer: Retokenizer) -> list[float]:
    """The tokens of the joined text, each counted for the piece with its last character."""
    tokens = [0.0] * len(pieces)
    index, reached = 0, len(pieces[0].text)
    for end in retokenizer.token_ends("".join(piece.text for piece in pieces)):
        while reached < end and index + 1 < len(pieces):
            index += 1
            reached += len(pieces[index].text)
        tokens[index] += 1
    return tokens

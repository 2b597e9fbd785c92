"""The mock's tokenizer: a word is one token for every six letters, with the space before it.

Simple, but not a law of "one word, one token": lengths have to be asked for, as with a real tokenizer.
"""

import re
from zlib import crc32

VOCABULARY_SIZE = 32000
_TEXT = (
    "the of and to in is that it was for on are as with his they at be this from have or by one had not but what all "
    "were when we there can an your which their said if do will each about how up out them then she many some so "
    "these would other into has more her two like him see time could no make than first been its who now"
)
WORDS = _TEXT.split()

_PIECE = re.compile(r"\s?\w{1,6}|\s?[^\w\s]|\s")


def pieces(text: str) -> list[str]:
    return _PIECE.findall(text)


def piece_id(piece: str) -> int:
    return crc32(piece.encode()) % VOCABULARY_SIZE


def encode(text: str) -> list[int]:
    return [piece_id(piece) for piece in pieces(text)]


def count(text: str) -> int:
    return len(pieces(text))


def count_chat(messages: list[tuple[str, str]]) -> int:
    """Roles and contents; each message costs three more tokens, and the answer's opening another three."""
    return 3 + sum(3 + count(role) + count(content) for role, content in messages)


def output_piece(position: int) -> str:
    """The text of the token at `position` of any answer. Each is one token, also when they are joined."""
    return " " + WORDS[position % len(WORDS)]

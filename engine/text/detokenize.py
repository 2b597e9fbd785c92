"""Incremental detokenization: a growing list of ids becomes pieces of text that are never taken back.

A token is not a piece of text: its bytes may end inside a character, and decoders look at a token's place
(a leading space is dropped at the start of a text, and kept after a prompt). Lossy UTF-8 decoding shows an
unfinished character as one U+FFFD at the end (Unicode standard 3.9, "maximal subparts"), so all but that
last character is final and sent at once.

Where tokens are nothing but bytes, as in every byte-level tokenizer, an incremental UTF-8 decoder does it. With
any other, each new id is decoded together with a few ids before it, and what is new in that text is the piece.
"""

import codecs
from collections.abc import Sequence
from typing import Protocol

from engine.text.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"

# An unfinished character covers at most the last three ids, and one more keeps some text before it. Where the
# window's first ids are the rest of a character, only text that was already sent reads differently.
WINDOW = 4

LONGEST_CHARACTER = 4  # bytes in UTF-8

# Python's incremental decoder waits for the third byte of a surrogate; in UTF-8 the first two are wrong already.
HALF_SURROGATE, AFTER_SURROGATES = b"\xed\xa0", b"\xee"

_new_utf8_decoder = codecs.getincrementaldecoder("utf-8")


class Detokenizer(Protocol):
    """Streams the text of one answer.

    The pieces and `flush` joined are `decode(prompt_ids + ids)[len(decode(prompt_ids)):]`, without the
    clean-up of spaces that some tokenizers ask for, which would change text that was already sent. Each id
    costs a constant. Ids without a token have no text.
    """

    def push(self, token_id: int) -> str:
        """The text that is certain now and was not before; empty inside a character."""

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character whose bytes never came, else nothing."""


def detokenizer(tokenizer: Tokenizer, prompt_ids: Sequence[int], *, skip_special_tokens: bool) -> Detokenizer:
    """The fastest `Detokenizer` that is right for a tokenizer."""
    kind = ByteDetokenizer if tokenizer.byte_level else WindowDetokenizer
    return kind(tokenizer, prompt_ids, skip=tokenizer.special_ids if skip_special_tokens else frozenset())


class ByteDetokenizer:
    """For tokenizers whose text is the bytes of its tokens, joined."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], *, skip: frozenset[int]) -> None:
        self._bytes_of = tokenizer.token_bytes
        self._skip = skip
        self._decoder = _new_utf8_decoder("replace")
        before = b""
        for token_id in reversed(prompt_ids):
            before = self._bytes(token_id) + before
            if len(before) >= LONGEST_CHARACTER:
                break
        self._decode(before)
        # A character that the prompt left unfinished is the last of its text, as U+FFFD.
        self._belongs_to_prompt = bool(self._decoder.getstate()[0])

    def _bytes(self, token_id: int) -> bytes:
        return b"" if token_id in self._skip else self._bytes_of(token_id) or b""

    def _decode(self, data: bytes) -> str:
        text = self._decoder.decode(data)
        if HALF_SURROGATE <= self._decoder.getstate()[0] < AFTER_SURROGATES:
            text += self._decoder.decode(b"", final=True)
        return text

    def push(self, token_id: int) -> str:
        return self._new(self._decode(self._bytes(token_id)))

    def flush(self) -> str:
        return self._new(self._decoder.decode(b"", final=True))

    def _new(self, text: str) -> str:
        if text and self._belongs_to_prompt:
            self._belongs_to_prompt = False
            return text[1:]
        return text


class WindowDetokenizer:
    """For tokenizers whose decoder looks at a token's neighbours."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], *, skip: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._skip = skip
        self._window: list[int] = []
        self._text = ""  # of the window
        self._shown = 0  # characters of it that were sent, or belong to the prompt
        for token_id in reversed(prompt_ids):
            if self._has_text(token_id):
                self._window.insert(0, token_id)
                if len(self._window) >= WINDOW and self._decode(self._window):
                    break
        self._text = self._decode(self._window)
        self._shown = len(self._text)

    def _has_text(self, token_id: int) -> bool:
        return token_id not in self._skip and self._tokenizer.token(token_id) is not None

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False, clean_up=False)

    def push(self, token_id: int) -> str:
        if not self._has_text(token_id):
            return ""
        self._window.append(token_id)
        self._text = self._decode(self._window)
        final = _final_length(self._text)
        piece = self._text[self._shown : final]
        self._shown = max(self._shown, final)
        if len(self._window) >= 2 * WINDOW:
            self._shorten()
        return piece

    def _shorten(self) -> None:
        """Forget old ids. What was not sent yet, at most one character, lies in the ids that stay."""
        unsent = len(self._text) - self._shown
        window = self._window[-WINDOW:]
        text = self._decode(window)
        if len(text) > unsent:  # some text must stay before the next id, or it would be at the start of a text
            self._window, self._text, self._shown = window, text, len(text) - unsent

    def flush(self) -> str:
        piece = self._text[self._shown :]
        self._shown = max(self._shown, len(self._text))
        return piece


def _final_length(text: str) -> int:
    return len(text) - text.endswith(REPLACEMENT)

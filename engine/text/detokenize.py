"""Incremental detokenization: a growing list of ids becomes pieces of text that are never taken back.

A token is not a piece of text: its bytes may end inside a character, and decoders look at a token's place
(a leading space is dropped at the start of a text, and kept after a prompt). So each new id is decoded
together with a few ids before it, and what is new in that text is the piece. Lossy UTF-8 decoding shows an
unfinished character as one U+FFFD at the end (Unicode standard 3.9, "maximal subparts"), so all but that
last character is final and sent at once.
"""

from collections.abc import Sequence

from engine.text.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"

# An unfinished character covers at most the last three ids, and one more keeps some text before it. Where the
# window's first ids are the rest of a character, only text that was already sent reads differently.
WINDOW = 4


class Detokenizer:
    """Stream the text of one answer.

    The pieces and `flush` joined are `decode(prompt_ids + ids)[len(decode(prompt_ids)):]`, without the
    clean-up of spaces that some tokenizers ask for, which would change text that was already sent. Each id
    costs a constant. Ids without a token have no text.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], *, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip = tokenizer.special_ids if skip_special_tokens else frozenset[int]()
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
        """The text that is certain now and was not before; empty inside a character."""
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
        """What is left at the end: U+FFFD for a character whose bytes never came, else nothing."""
        piece = self._text[self._shown :]
        self._shown = max(self._shown, len(self._text))
        return piece


def _final_length(text: str) -> int:
    return len(text) - text.endswith(REPLACEMENT)

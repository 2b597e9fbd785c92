"""The text of one answer as it grows: pieces to stream, the final text, and the end at a stop string.

Shared by the HTTP server and the offline `LLM`, so that both say the same.
"""

from collections import deque
from collections.abc import Sequence

import msgspec

from engine.text.detokenize import detokenizer
from engine.text.stop import StopMatcher
from engine.text.tokenizer import Tokenizer
from engine.types import TokenScore


class Piece(msgspec.Struct, frozen=True):
    """One token of an answer and the text it released, which may be empty or reach back before it."""

    id: int
    text: str
    logprob: float | None
    special: bool
    top: tuple[TokenScore, ...] = ()


class OutputText:
    """Turn the tokens of one answer into pieces of text, up to the first stop string.

    - `keep_stop=True`, TGI's own routes: text is released at once, the stop string stays in it, and the
      piece of a special token shows that token's literal text. `text` never contains special tokens: it
      is the join of the texts of all pieces that are not special, and of `flush()`.
    - `keep_stop=False`, the OpenAI routes: text that may be the beginning of a stop string waits until
      that is decided, the stop string is cut off, and special tokens have no text of their own (their
      piece may release text that waited). `text` is the join of the texts of all pieces, and of `flush()`.

    Stop strings are looked for in the text a TGI stream shows, so the literal text of a special token
    (`<|im_end|>`) is a stop string too. Text behind a match is dropped, also within a token.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt_ids: Sequence[int], *, stop: Sequence[str] = (), keep_stop: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._detokenizer = detokenizer(tokenizer, prompt_ids, skip_special_tokens=True)
        self._matcher = StopMatcher(stop)
        self._stops = bool(stop)
        self._keep_stop = keep_stop
        self._held: deque[tuple[str, bool]] = deque()  # (text, of a special token) not released yet, in order
        self._seen = 0  # characters that went through the matcher
        self._released = 0  # how many of them left `_held`
        self._texts: list[str] = []
        self.num_tokens = 0  # accepted ones, special tokens and the last token of a stop string included

    @property
    def finished(self) -> bool:
        """Whether a stop string has occurred."""
        return self._matcher.match is not None

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the answer."""
        return self._matcher.matched

    @property
    def text(self) -> str:
        """All text released so far; the whole answer after a stop string or `flush`."""
        return "".join(self._texts)

    def push(self, token_id: int, logprob: float | None = None, top: Sequence[TokenScore] = ()) -> Piece | None:
        """The next token. None, and nothing is counted, once the answer is finished."""
        if self.finished:
            return None
        self.num_tokens += 1
        special = token_id in self._tokenizer.special_ids
        text = self._tokenizer.token_text(token_id) if special else self._detokenizer.push(token_id)
        return Piece(token_id, self._read(text, special), logprob, special, tuple(top))

    def flush(self) -> str:
        """No more tokens: release what waited for the rest of a character or of a stop string."""
        if self.finished:
            return ""
        text = self._read(self._detokenizer.flush(), special=False)
        return text if self.finished else text + self._release(self._seen)

    def _read(self, text: str, special: bool) -> str:
        if not self._stops:  # nothing ever waits
            if not special:
                self._texts.append(text)
            return text if self._keep_stop or not special else ""
        if text:
            self._held.append((text, special))
        self._seen += len(text)
        match = self._matcher.push(text)
        if self._keep_stop:
            return self._release(match.stop if match else self._seen)
        return self._release(self._matcher.safe)

    def _release(self, until: int) -> str:
        """Let go of the text before character `until`; what of it a stream shows is returned."""
        shown = []
        while self._held and self._released < until:
            text, special = self._held.popleft()
            taken = text[: until - self._released]
            self._released += len(taken)
            if len(taken) < len(text):
                self._held.appendleft((text[len(taken) :], special))
            if not special:
                self._texts.append(taken)
            if not special or self._keep_stop:
                shown.append(taken)
        return "".join(shown)

"""The choices of a text completion: the echoed prompt, the answer, and the scores of both."""

from collections.abc import Iterable, Iterator, Sequence

from engine.server import strict
from engine.server.generation import Generation, Step
from engine.server.openai import finish_reason
from engine.server.schema.completions import CompletionBody, CompletionChoice, CompletionLogprobs
from engine.server.service import Service
from engine.text.detokenize import detokenizer
from engine.text.output import Piece
from engine.text.tokenizer import Tokenizer
from engine.types import FinishReason, TokenScore


def scores_only(body: CompletionBody) -> bool:
    """`echo` with `max_tokens: 0`: the prompt and its scores, and no answer.

    The engine cannot make less than one token, so one is made and left out.
    """
    return bool(body.echo) and body.max_tokens == 0


class Choice:
    """One answer to one prompt, as a whole or as a stream."""

    def __init__(self, here: Service, body: CompletionBody, index: int, generation: Generation) -> None:
        self.generation = generation
        self._here = here
        self._tokenizer = here.tokenizer
        self._body = body
        self._index = index
        self._started = False
        self._offset = len(generation.prepared.inputs) if body.echo else 0  # characters before the next piece

    def whole(self) -> CompletionChoice:
        generation, body = self.generation, self._body
        if scores_only(body):
            return self._echo("length")
        logprobs = self._answer_logprobs(generation.pieces)
        if body.echo and logprobs is not None:
            logprobs = _join(self._prompt_logprobs(), logprobs)
        text = (generation.prepared.inputs if body.echo else "") + generation.text
        return self._choice(text, logprobs, finish_reason(generation.finish_reason, self._here))

    def stream(self, step: Step) -> Iterator[CompletionChoice]:
        """The choices that a step makes: before the first the prompt where it is echoed, then one a token."""
        if self._body.echo and not self._started:
            yield self._echo("length" if scores_only(self._body) else None)
        self._started = True
        if scores_only(self._body):
            return
        for i, piece in enumerate(step.pieces):
            finish = self._streamed(step.finish_reason if i == len(step.pieces) - 1 else None)
            yield self._choice(piece.text, self._answer_logprobs([piece]), finish)

    def _streamed(self, reason: FinishReason | None) -> str | None:
        if self._here.strict:
            return strict.finish_reason(reason, streamed_completion=True)
        return finish_reason(reason)

    def _echo(self, finish: str | None) -> CompletionChoice:
        logprobs = None if self._body.logprobs is None else self._prompt_logprobs()
        return self._choice(self.generation.prepared.inputs, logprobs, finish)

    def _choice(self, text: str, logprobs: CompletionLogprobs | None, finish: str | None) -> CompletionChoice:
        return CompletionChoice(index=self._index, text=text, logprobs=logprobs, finish_reason=finish)

    def _prompt_logprobs(self) -> CompletionLogprobs:
        """Of every prompt token; the first has no score."""
        ids = self.generation.prepared.prompt
        tops: tuple[tuple[TokenScore, ...] | None, ...] = (None, *self.generation.prompt_top)
        if len(tops) < len(ids):  # no alternatives were asked for
            tops = (None, *(() for _ in ids[1:]))
        tokens = [self._tokenizer.token_text(token_id) for token_id in ids]
        texts = prompt_pieces(self._tokenizer, ids, self.generation.prepared.inputs)
        return self._logprobs(tokens, texts, (None, *self.generation.prompt_logprobs), tops, 0)

    def _answer_logprobs(self, pieces: Sequence[Piece]) -> CompletionLogprobs | None:
        if self._body.logprobs is None:
            return None
        start = self._offset
        texts = [piece.text for piece in pieces]
        self._offset += sum(map(len, texts))
        return self._logprobs(
            [self._tokenizer.token_text(piece.id) for piece in pieces],
            texts,
            [piece.logprob for piece in pieces],
            [piece.top for piece in pieces],
            start,
        )

    def _logprobs(
        self,
        tokens: Sequence[str],
        texts: Iterable[str],
        scores: Sequence[float | None],
        tops: Sequence[Sequence[TokenScore] | None],
        offset: int,
    ) -> CompletionLogprobs:
        """`texts` is what each token added to the text, which is where the offsets come from."""
        offsets = []
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        alternatives = [
            None if top is None else self._alternatives(token, score, top)
            for token, score, top in zip(tokens, scores, tops, strict=True)
        ]
        return CompletionLogprobs(
            tokens=list(tokens), token_logprobs=list(scores), top_logprobs=alternatives, text_offset=offsets
        )

    def _alternatives(self, token: str, score: float | None, top: Sequence[TokenScore]) -> dict[str, float]:
        """The best tokens by text, and the chosen one. Of two with the same text the better counts."""
        found: dict[str, float] = {}
        for other in top[: self._body.logprobs]:
            found.setdefault(self._tokenizer.token_text(other.id), other.logprob)
        if score is not None:
            found.setdefault(token, score)
        return found


def prompt_pieces(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> list[str]:
    """What each token of a prompt adds to its text: a character of several tokens comes with the last of them.

    A special token that the tokenizer added, such as one for the beginning, adds nothing.
    """
    reader = detokenizer(tokenizer, (), skip_special_tokens=False)
    pieces, offset = [], 0
    for token_id in ids:
        added = token_id in tokenizer.special_ids and not text.startswith(tokenizer.token_text(token_id), offset)
        pieces.append("" if added else reader.push(token_id))
        offset += len(pieces[-1])
    return pieces


def _join(first: CompletionLogprobs, second: CompletionLogprobs) -> CompletionLogprobs:
    return CompletionLogprobs(
        tokens=first.tokens + second.tokens,
        token_logprobs=first.token_logprobs + second.token_logprobs,
        top_logprobs=first.top_logprobs + second.top_logprobs,
        text_offset=first.text_offset + second.text_offset,
    )

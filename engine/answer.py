"""`Answer`: one request from its submission to its last piece of text, for the HTTP server and the offline `LLM`."""

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

import msgspec

from engine.client import EngineClient
from engine.text.output import OutputText, Piece
from engine.text.tokenizer import Tokenizer
from engine.types import FinishReason, GenerateRequest, Timings, TokenEvent, TokenScore


class Answer:
    """Iterate for the pieces of the text as they come, then read what it came to.

    A stop string is recognised here, where text exists: it ends the answer and cancels the request. So does
    `aclose`. The iteration raises what `EngineClient.generate` raises. `keep_stop`: see `OutputText`.
    """

    def __init__(
        self,
        client: EngineClient,
        tokenizer: Tokenizer,
        request: GenerateRequest,
        *,
        stop: Sequence[str] = (),
        keep_stop: bool = True,
    ) -> None:
        seed = request.params.seed
        self.seed = secrets.randbits(64) if seed is None else seed
        params = msgspec.structs.replace(request.params, seed=self.seed)
        self.request = msgspec.structs.replace(request, params=params)
        self.pieces: list[Piece] = []
        self.finish_reason: FinishReason | None = None
        self.timings: Timings | None = None  # as of the first token, then of the last the engine made
        self.prompt_logprobs: tuple[float, ...] = ()
        self.prompt_top: tuple[tuple[TokenScore, ...], ...] = ()
        self._client = client
        self._keep_stop = keep_stop
        self._output = OutputText(tokenizer, request.prompt, stop=stop, keep_stop=keep_stop)
        self._steps = self._run()

    @property
    def text(self) -> str:
        """What has been released so far; the whole answer once it is finished."""
        return self._output.text

    @property
    def stop_string(self) -> str | None:
        """Which of the stop strings ended the answer, where one did."""
        return self._output.stop_string

    @property
    def num_tokens(self) -> int:
        return len(self.pieces)

    @property
    def prompt_tokens(self) -> int:
        return len(self.request.prompt)

    async def __aiter__(self) -> AsyncIterator[Piece]:
        async for pieces in self._steps:
            for piece in pieces:
                yield piece

    def steps(self) -> AsyncGenerator[list[Piece], None]:
        """The pieces of each step of the engine; `finish_reason` is set before the last ones are given out."""
        return self._steps

    async def aclose(self) -> None:
        await self._steps.aclose()

    async def _run(self) -> AsyncGenerator[list[Piece], None]:
        async with aclosing(self._client.generate(self.request)) as events:
            async for event in events:
                self.timings = event.timings or self.timings
                if event.prompt_logprobs:
                    self.prompt_logprobs, self.prompt_top = event.prompt_logprobs, event.prompt_top
                pieces = self._read(event)
                self.pieces += pieces
                yield pieces
                if self.finish_reason is not None:
                    return

    def _read(self, event: TokenEvent) -> list[Piece]:
        """Turn an event into pieces and find out whether the answer ends with them."""
        pieces: list[Piece] = []
        for i, token in enumerate(event.tokens):
            logprob = event.logprobs[i] if event.logprobs else None
            piece = self._output.push(token, logprob, event.top[i] if event.top else ())
            if piece is None:
                break
            pieces.append(piece)
        if event.finish_reason is not None and len(pieces) == len(event.tokens):
            self._end(pieces, event.finish_reason)
        elif self._output.finished:
            self.finish_reason = FinishReason.STOP
        return pieces

    def _end(self, pieces: list[Piece], engine_says: FinishReason) -> None:
        """The engine is done: text that was held back leaves with the last token.

        A stop string that ends with the last token allowed is `length` to TGI and `stop` to OpenAI.
        """
        if (rest := self._output.flush()) and pieces:
            pieces[-1] = msgspec.structs.replace(pieces[-1], text=pieces[-1].text + rest)
        stopped = self._output.finished and not self._keep_stop
        self.finish_reason = FinishReason.STOP if stopped else engine_says

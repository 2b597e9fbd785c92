"""An engine without a model: it answers with the tokens of a script, as fast or as slowly as a test lets it."""

import asyncio
import struct
from collections.abc import AsyncGenerator, Callable, Sequence

from engine.errors import EngineDead, EngineError
from engine.types import (
    Embedding,
    EmbedRequest,
    EngineInfo,
    EngineStats,
    FinishReason,
    GenerateRequest,
    Timings,
    TokenEvent,
    TokenScore,
)

INFO = EngineInfo(
    architecture="LlamaForCausalLM",
    runtime="reference",
    dtype="float32",
    vocab_size=8192,
    eos_token_ids=(2, 0),
    max_total_tokens=64,
    block_size=16,
    num_blocks=256,
    max_batch_size=8,
    max_batch_prefill_tokens=512,
    num_parameters=1,
    weight_bytes=4,
    kv_bytes=4,
    embedding_size=4,
    max_embed_tokens=64,
    embed_truncation=64,
)
TIMINGS = Timings(queue=0.0, prefill=0.0, decode=0.0)


class FakeEngine:
    """Implements `EngineClient`. `script` holds the tokens of each step; an end token ends the answer.

    Token i of an answer has log probability -(i + 1) / 8, one less for an odd seed; the k-th alternative at
    each place is the k-th id after the token, with k less. Prompt token i has -i / 4.

    With `gate` a request waits at step `gate_step` until the event is set. With `error` it is raised there.
    """

    def __init__(self, script: Sequence[Sequence[int]] = ((5,),), info: EngineInfo = INFO) -> None:
        self.script = script
        self.info = info
        self.gate: asyncio.Event | None = None
        self.gate_step = 0
        self.error: Exception | None = None
        self.first_logprob: float | None = None  # of token 0 instead of -1 / 8
        self.start_error: EngineError | None = None
        self.healthy = False
        self.stats = EngineStats(blocks_total=info.num_blocks)
        self.on_step: Callable[[EngineStats], None] = lambda stats: None
        self.on_lost: Callable[[str], None] = lambda why: None
        self.requests: list[GenerateRequest] = []
        self.embedded: list[EmbedRequest] = []
        self.cancelled: list[GenerateRequest] = []
        self.waiting = asyncio.Event()  # a request has reached the gate
        self.closed = 0

    async def start(self) -> EngineInfo:
        if self.start_error is not None:
            raise self.start_error
        self.healthy = True
        return self.info

    async def close(self) -> None:
        self.healthy = False
        self.closed += 1

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenEvent, None]:
        if not self.healthy:
            raise EngineDead("the engine is not running")
        self.requests.append(request)
        finished, made = False, 0
        try:
            for step, planned in enumerate(self.script):
                await self._pass_gate(step)
                tokens = tuple(planned)[: request.params.max_new_tokens - made]
                reason = self._reason(request, tokens, made)
                finished = reason is not None
                yield self._event(request, tokens, made, reason)
                made += len(tokens)
                if finished:
                    return
        except EngineError:
            finished = True
            raise
        finally:
            if not finished:
                self.cancelled.append(request)

    async def embed(self, request: EmbedRequest) -> Embedding:
        """The vector holds how many tokens the text has, its first and its last token, and the rest zeros."""
        if not self.healthy:
            raise EngineDead("the engine is not running")
        self.embedded.append(request)
        await self._pass_gate(self.gate_step)
        size, tokens = self.info.embedding_size, request.prompt
        numbers = [float(number) for number in (len(tokens), tokens[0], tokens[-1])] + [0.0] * (size - 3)
        return Embedding(request_id=len(self.embedded), vector=struct.pack(f"<{size}f", *numbers), timings=TIMINGS)

    async def _pass_gate(self, step: int) -> None:
        if step != self.gate_step:
            return
        if self.error is not None:
            raise self.error
        if self.gate is not None:
            self.waiting.set()
            await self.gate.wait()

    def _reason(self, request: GenerateRequest, tokens: tuple[int, ...], made: int) -> FinishReason | None:
        if made + len(tokens) >= request.params.max_new_tokens:
            return FinishReason.LENGTH
        ended = tokens[-1] in self.info.eos_token_ids and not request.params.ignore_eos
        return FinishReason.EOS if ended else None

    def _event(
        self, request: GenerateRequest, tokens: tuple[int, ...], made: int, reason: FinishReason | None
    ) -> TokenEvent:
        params, count = request.params, len(tokens)
        scores = tuple(-(made + i + 1) / 8 - (params.seed or 0) % 2 for i in range(count))
        if made == 0 and self.first_logprob is not None:
            scores = (self.first_logprob, *scores[1:])
        prompt = request.prompt[1:] if params.prompt_logprobs and made == 0 else ()
        prompt_scores = tuple(-(i + 1) / 4 for i in range(len(prompt)))
        wanted = range(params.top_n_tokens)
        top = tuple(
            tuple(TokenScore(token + k, score - k) for k in wanted) for token, score in zip(tokens, scores, strict=True)
        )
        prompt_top = tuple(
            tuple(TokenScore(token + k, score - k) for k in wanted)
            for token, score in zip(prompt, prompt_scores, strict=True)
        )
        return TokenEvent(
            request_id=len(self.requests),
            tokens=tokens,
            logprobs=scores if params.logprobs else (),
            top=top if wanted else (),
            prompt_logprobs=prompt_scores,
            prompt_top=prompt_top if wanted else (),
            finish_reason=reason,
            timings=TIMINGS if reason else None,
        )

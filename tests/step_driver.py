"""Drives a worker with step plans of any shape, in place of a scheduler."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.runtimes import Worker
from engine.sample.sampler import Choice, Sampler
from engine.sched.plan import Chunk, ChunkOutput, Enter, StepPlan
from engine.types import SamplingParams, TokenScore


@dataclass(eq=False)
class Request:
    id: int
    tokens: list[int]
    prompt_len: int
    params: SamplingParams
    computed: int = 0
    slot: int | None = None
    blocks: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    prompt_logprobs: list[float] = field(default_factory=list)

    @property
    def output(self) -> list[int]:
        return self.tokens[self.prompt_len :]

    @property
    def gap(self) -> int:
        return len(self.tokens) - self.computed


class StepDriver:
    """Gives out slots and blocks (the last freed is used first) and turns chunk sizes into plans."""

    def __init__(self, worker: Worker, block_size: int, rng: random.Random | None = None) -> None:
        self.worker = worker
        self.block_size = block_size
        self.free_blocks = list(range(1, worker.info.num_blocks))
        self.free_slots = list(range(1, worker.info.num_slots))
        if rng is not None:
            rng.shuffle(self.free_blocks)
            rng.shuffle(self.free_slots)
        self._requests = 0
        self._steps = 0
        self._enter: list[Enter] = []
        self._leave: list[int] = []

    def request(self, prompt: Sequence[int], params: SamplingParams | None = None) -> Request:
        self._requests += 1
        return Request(self._requests, list(prompt), len(prompt), params or SamplingParams())

    def preempt(self, request: Request) -> None:
        """Take everything from a request; it starts again from its tokens. Also what ends it."""
        if request.slot is not None:
            self._leave.append(request.slot)
            self.free_slots.append(request.slot)
        self.free_blocks += request.blocks
        request.slot, request.blocks, request.computed = None, [], 0

    def step(self, *pieces: tuple[Request, int, Sequence[int]]) -> dict[int, ChunkOutput]:
        """Compute so many tokens of each request, and where these are its last, the drafts after them."""
        chunks = tuple(self._chunk(*piece) for piece in pieces)
        self._steps += 1
        plan = StepPlan(self._steps, chunks, tuple(self._enter), tuple(self._leave))
        self._enter, self._leave = [], []
        result = self.worker.execute(plan)
        assert result.step == plan.step
        assert result.outputs.keys() == {chunk.request_id for chunk in chunks}
        for (request, count, _), chunk in zip(pieces, chunks, strict=True):
            output = result.outputs[request.id]
            assert bool(output.tokens) == (chunk.sample and output.error is None)
            request.computed += count + max(0, len(output.tokens) - 1)
            request.tokens += output.tokens
            request.logprobs += output.logprobs
            request.prompt_logprobs += output.prompt_logprobs
        return dict(result.outputs)

    def run(self, request: Request, new_tokens: int) -> Request:
        """Alone, whole, one token a step."""
        while len(request.output) < new_tokens:
            self.step((request, request.gap, ()))
        self.preempt(request)
        return request

    def _chunk(self, request: Request, count: int, drafts: Sequence[int]) -> Chunk:
        assert 0 < count <= request.gap
        if request.slot is None:
            request.slot = self.free_slots.pop()
            self._enter.append(
                Enter(request.id, request.slot, tuple(request.tokens), request.prompt_len, request.params)
            )
        sample = count == request.gap
        drafts = tuple(drafts) if sample else ()
        tokens = tuple(request.tokens[request.computed : request.computed + count]) + drafts
        while len(request.blocks) * self.block_size < request.computed + len(tokens):
            request.blocks.append(self.free_blocks.pop())
        return Chunk(
            request.id,
            request.slot,
            request.computed,
            tokens,
            len(drafts),
            tuple(request.blocks),
            sample,
            request.params.prompt_logprobs,
        )


class RecordingSampler:
    """A sampler that keeps the bytes of the logits by the tokens before them, and finds any that differ."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self.rows: dict[tuple[int, ...], bytes] = {}

    def sample(
        self, logits: Any, params: SamplingParams, tokens: Sequence[int], prompt_len: int, allowed: Any = None
    ) -> Choice:
        row = logits.tobytes()
        context = tuple(map(int, tokens))
        assert self.rows.setdefault(context, row) == row, f"other logits after {len(context)} tokens"
        return self._sampler.sample(logits, params, tokens, prompt_len, allowed)

    def score(self, logits: Any, token: int, top_n: int = 0) -> tuple[float, tuple[TokenScore, ...]]:
        return self._sampler.score(logits, token, top_n)

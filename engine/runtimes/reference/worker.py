"""The reference runtime's worker: executes step plans in plain numpy.

Only what is common to every model and every request belongs in this file.
"""

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Self

import numpy as np

from engine.config import EngineOptions
from engine.errors import ConfigError, GenerationFailed
from engine.models.checkpoint import count_tokens, eos_token_ids, read_config
from engine.models.pooling import find_pooling
from engine.models.registry import family
from engine.runtimes import Masks, WorkerInfo
from engine.runtimes.memory import count_blocks
from engine.runtimes.pooling import pool_rows, pooled_rows
from engine.runtimes.reference.kv import KVCache, block_bytes
from engine.runtimes.reference.model import DTYPES, Model, Span
from engine.sample.sampler import Choice, Sampler
from engine.sample.verify import accept
from engine.sched.plan import Chunk, ChunkOutput, Enter, StepPlan, StepResult
from engine.spec import Proposer, make_proposer
from engine.types import SamplingParams
from engine.weights.load import load

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Slot:
    """What the worker knows of a request."""

    tokens: np.ndarray  # int64 [max_context + 1]; position p holds token p as far as they are known
    prompt_len: int
    params: SamplingParams


class ReferenceWorker:
    """A `Worker` (see engine.runtimes). The oracle, and the fallback where no other runtime is installed."""

    def __init__(
        self, info: WorkerInfo, model: Model, cache: KVCache, sampler: Sampler, proposer: Proposer | None = None
    ) -> None:
        self.info = info
        self.model = model
        self.cache = cache
        self.sampler = sampler
        self.proposer = proposer
        self._slots: dict[int, _Slot] = {}

    @classmethod
    def load(cls, options: EngineOptions) -> Self:
        """Load the model at `options.model.path`. Raises the subclasses of `StartError`.

        `options.model.dtype` is what the weights are rounded to before they are computed with, always in float32.
        """
        path, dtype = options.model.path, options.model.dtype or "float32"
        if dtype not in DTYPES:
            raise ConfigError(f"unknown dtype '{dtype}'; choose one of: {', '.join(DTYPES)}")
        proposer = make_proposer(options.spec)
        config = read_config(path)
        module = family(config)
        spec = module.spec(config, options.scheduler.max_total_tokens)
        model = Model(spec, load(spec, module, path), dtype)
        pooled = find_pooling(path, spec)
        block_size = options.cache.block_size
        num_blocks = count_blocks(options, block_bytes(spec, block_size), spec.max_context, transient=not spec.causal)
        cache = KVCache(spec, num_blocks, block_size)
        info = WorkerInfo(
            architecture=spec.architecture,
            runtime="reference",
            dtype=dtype,
            vocab_size=spec.vocab_size,
            eos_token_ids=eos_token_ids(path, config),
            max_context=spec.max_context,
            num_blocks=num_blocks,
            num_slots=options.scheduler.max_batch_size + 1,
            num_parameters=model.num_parameters,
            weight_bytes=model.nbytes,
            kv_bytes=cache.nbytes,
            is_encoder=not spec.causal,
            embedding_size=spec.hidden_size,
            pooling=pooled.mode,
            normalizes=pooled.normalizes,
            embed_truncation=pooled.max_tokens,
        )
        return cls(info, model, cache, Sampler(spec.vocab_size, count_tokens(path)), proposer)

    def execute(self, plan: StepPlan, masks: Masks | None = None) -> StepResult:
        for slot in plan.leave:
            self._slots.pop(slot, None)
        for enter in plan.enter:
            self._slots[enter.slot] = self._occupied(enter)
        if not plan.chunks:
            return StepResult(plan.step)
        spans = [Span(chunk.start, chunk.tokens, np.array(chunk.blocks), chunk.bidirectional) for chunk in plan.chunks]
        hidden = self.model.forward(spans, self.cache)
        scored = [self._scored_rows(chunk) for chunk in plan.chunks]
        firsts = list(accumulate((len(chunk.tokens) for chunk in plan.chunks[:-1]), initial=0))
        rows = [first + row for first, own in zip(firsts, scored, strict=True) for row in own]
        logits = self.model.logits(hidden[rows])
        outputs = {}
        for chunk, first, own in zip(plan.chunks, firsts, scored, strict=True):
            if chunk.embed:
                outputs[chunk.request_id] = self._embed(hidden[first : first + len(chunk.tokens)])
            else:
                outputs[chunk.request_id] = self._answer(chunk, islice(logits, len(own)), masks)
        return StepResult(plan.step, outputs)

    def close(self) -> None:
        """Forget all requests. Memory goes with the worker."""
        self._slots.clear()

    def _occupied(self, enter: Enter) -> _Slot:
        tokens = np.empty(self.info.max_context + 1, np.int64)
        tokens[: len(enter.tokens)] = enter.tokens
        return _Slot(tokens, enter.prompt_len, enter.params)

    def _scored_rows(self, chunk: Chunk) -> list[int]:
        """The rows of a chunk whose logits are looked at: those before a prompt token, those that a token follows."""
        rows = list(range(self._prompt_scores(chunk)))
        if chunk.sample:
            rows += range(len(chunk.tokens) - chunk.num_draft - 1, len(chunk.tokens))
        return rows

    def _prompt_scores(self, chunk: Chunk) -> int:
        """How many rows of the chunk precede a prompt token to be scored."""
        if not chunk.prompt_logprobs:
            return 0
        return max(0, min(len(chunk.tokens), self._slots[chunk.slot].prompt_len - 1 - chunk.start))

    def _embed(self, hidden: np.ndarray) -> ChunkOutput:
        mode = self.info.pooling
        try:
            return ChunkOutput(embedding=pool_rows(hidden[pooled_rows(mode, len(hidden))], mode))
        except GenerationFailed as error:
            return ChunkOutput(error=str(error))

    def _answer(self, chunk: Chunk, logits: Iterator[np.ndarray], masks: Masks | None) -> ChunkOutput:
        """Score and sample one chunk, given the logits of its `_scored_rows`. An error ends this request only."""
        try:
            return self._score_and_sample(chunk, logits, masks)
        except GenerationFailed as error:
            return ChunkOutput(error=str(error))
        except Exception as error:
            logger.exception("request %d failed", chunk.request_id)
            return ChunkOutput(error=f"{type(error).__name__}: {error}")
        finally:
            deque(logits, maxlen=0)  # rows after a refused draft or an error; the next chunk's come after them

    def _score_and_sample(self, chunk: Chunk, logits: Iterator[np.ndarray], masks: Masks | None) -> ChunkOutput:
        slot = self._slots[chunk.slot]
        params, tokens = slot.params, slot.tokens
        prompt = [
            self.sampler.score(next(logits), int(tokens[chunk.start + 1 + row]), params.top_n_tokens)
            for row in range(self._prompt_scores(chunk))
        ]
        choices: list[Choice] = []
        draft: tuple[int, ...] = ()
        if chunk.sample:
            end = chunk.start + len(chunk.tokens)
            known = end - chunk.num_draft
            tokens[chunk.start : end] = chunk.tokens
            allowed = masks.rows(chunk.request_id) if masks is not None else None
            choices = accept(
                chunk.tokens[len(chunk.tokens) - chunk.num_draft :],
                (
                    self.sampler.sample(
                        row,
                        params,
                        tokens[:length],
                        slot.prompt_len,
                        None if allowed is None else allowed[length - known],
                    )
                    for length, row in zip(range(known, end + 1), logits, strict=True)
                ),
            )
            tokens[known : known + len(choices)] = [choice.token for choice in choices]
            if self.proposer is not None:
                draft = self.proposer.propose(tokens[: known + len(choices)])
        return ChunkOutput(
            tokens=tuple(choice.token for choice in choices),
            logprobs=tuple(choice.logprob for choice in choices if params.logprobs),
            top=tuple(choice.top for choice in choices if params.top_n_tokens),
            prompt_logprobs=tuple(logprob for logprob, _ in prompt),
            prompt_top=tuple(top for _, top in prompt if params.top_n_tokens),
            draft=draft,
        )

"""The native runtime's worker: turns step plans into calls of the compiled program, and its rows into outputs.

Only what is common to every model and every request belongs in this file.
"""

import logging
import math
import os
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from engine.config import EngineOptions
from engine.errors import ConfigError, GenerationFailed
from engine.models.checkpoint import count_tokens, eos_token_ids, read_config
from engine.models.pooling import find_pooling
from engine.models.registry import family
from engine.models.spec import ModelSpec, parameters
from engine.runtimes import Masks, WorkerInfo
from engine.runtimes.memory import count_blocks
from engine.runtimes.native import _native
from engine.runtimes.native.cores import physical_cores
from engine.runtimes.native.program import Tape, compile_tape
from engine.runtimes.native.weights import Weights, find_dtype, find_kv_kind, find_method, load_weights
from engine.runtimes.pooling import pool_rows
from engine.sample.sampler import Choice, no_scores
from engine.sample.verify import accept
from engine.sched.plan import Chunk, ChunkOutput, StepPlan, StepResult
from engine.spec import Proposer, make_proposer
from engine.types import Pooling, SamplingParams, TokenScore
from engine.weights.load import load

EMBED_ROWS: dict[Pooling, str] = {"mean": "all", "max": "all", "cls": "first", "last": "last"}  # that are pooled
MAX_BLOCKS = 2**31 - 1  # that the compiled module can count
ISA_VARIABLE = "TGI_ISA"  # names the instruction set to use in place of the best one

logger = logging.getLogger(__name__)


class NativeWorker:
    """A `Worker` (see engine.runtimes) on the threads of this process."""

    def __init__(self, info: WorkerInfo, program: _native.Program, proposer: Proposer | None = None) -> None:
        self.info = info
        self.program = program
        self.proposer = proposer
        self._params: dict[int, SamplingParams] = {}  # by slot

    @classmethod
    def load(cls, options: EngineOptions) -> Self:
        """Load the model at `options.model.path`. Raises the subclasses of `StartError`.

        Weights are held as stored, or as `dtype` and `quantize` say; see engine.runtimes.native.weights.
        """
        chosen = options.model
        find_dtype(chosen.dtype)
        find_method(chosen.quantize)
        isa = instruction_set()
        proposer = make_proposer(options.spec)
        config = read_config(chosen.path)
        module = family(config)
        spec = module.spec(config, options.scheduler.max_total_tokens)
        # Nothing of an encoder's cache outlives a step, so that there is nothing to be saved by rounding.
        kv_kind = find_kv_kind(chosen.kv_cache_dtype, chosen.dtype if spec.causal else "float32")
        pooled = find_pooling(chosen.path, spec)
        tape = compile_tape(spec)
        num_blocks = count_blocks(
            options,
            _native.kv_block_bytes(kv_kind, options.cache.block_size, spec.num_kv_heads, spec.head_dim, spec.kv_layers),
            spec.max_context,
            transient=not spec.causal,
        )
        checkpoint = load(spec, module, chosen.path)
        pool = _native.Pool(chosen.threads or physical_cores())
        weights = load_weights(spec, tape, checkpoint, pool, dtype=chosen.dtype, quantize=chosen.quantize)
        num_slots = options.scheduler.max_batch_size + 1
        program = make_program(
            spec,
            tape,
            weights,
            pool,
            isa=isa,
            kv_kind=kv_kind,
            num_blocks=num_blocks,
            block_size=options.cache.block_size,
            num_slots=num_slots,
            num_tokens=min(spec.vocab_size, count_tokens(chosen.path) or spec.vocab_size),
            pooling=pooled.mode,
        )
        logger.info(
            "%s weights, %s KV cache, %d threads of %s",
            weights.format,
            kv_kind,
            pool.threads,
            program.isa,
        )
        info = WorkerInfo(
            architecture=spec.architecture,
            runtime="native",
            dtype=weights.dtype,
            weight_format=weights.format,
            vocab_size=spec.vocab_size,
            eos_token_ids=eos_token_ids(chosen.path, config),
            max_context=spec.max_context,
            num_blocks=num_blocks,
            num_slots=num_slots,
            num_parameters=sum(math.prod(shape) for shape in parameters(spec).values()),
            weight_bytes=weights.nbytes,
            kv_bytes=program.kv_bytes,
            is_encoder=not spec.causal,
            embedding_size=spec.hidden_size,
            pooling=pooled.mode,
            normalizes=pooled.normalizes,
            embed_truncation=pooled.max_tokens,
        )
        return cls(info, program, proposer)

    def execute(self, plan: StepPlan, masks: Masks | None = None) -> StepResult:
        for slot in plan.leave:
            self.program.leave(slot)
            self._params.pop(slot, None)
        for enter in plan.enter:
            self.program.enter(enter)
            self._params[enter.slot] = enter.params
        if not plan.chunks:
            return StepResult(plan.step)
        failed: dict[int, ChunkOutput] = {}
        rows = self.program.step(plan.chunks, None if masks is None else lambda: _allowed(plan, masks, failed))
        outputs = {
            chunk.request_id: self._embed(own) if chunk.embed else self._answer(chunk, *own)
            for chunk, own in zip(plan.chunks, rows, strict=True)
        }
        return StepResult(plan.step, outputs | failed)

    def close(self) -> None:
        """Forget all requests. Memory goes with the worker."""
        for slot in self._params:
            self.program.leave(slot)
        self._params.clear()

    def _embed(self, hidden: np.ndarray) -> ChunkOutput:
        try:
            return ChunkOutput(embedding=pool_rows(hidden, self.info.pooling))
        except GenerationFailed as error:
            return ChunkOutput(error=str(error))

    def _answer(self, chunk: Chunk, scored: Sequence["_native.Row"], drawn: Sequence["_native.Row"]) -> ChunkOutput:
        """The output of one chunk. An error ends this request only."""
        try:
            prompt = [_choice(row) for row in scored]
            choices = accept(chunk.tokens[len(chunk.tokens) - chunk.num_draft :], map(_choice, drawn)) if drawn else []
        except GenerationFailed as error:
            return ChunkOutput(error=str(error))
        params = self._params[chunk.slot]
        draft: tuple[int, ...] = ()
        if choices:
            known = chunk.start + len(chunk.tokens) - chunk.num_draft
            tokens = self.program.tokens(chunk.slot)
            tokens[known : known + len(choices)] = [choice.token for choice in choices]
            if self.proposer is not None:
                draft = self.proposer.propose(tokens[: known + len(choices)])
        return ChunkOutput(
            tokens=tuple(choice.token for choice in choices),
            logprobs=tuple(choice.logprob for choice in choices if params.logprobs),
            top=tuple(choice.top for choice in choices if params.top_n_tokens),
            prompt_logprobs=tuple(choice.logprob for choice in prompt),
            prompt_top=tuple(choice.top for choice in prompt if params.top_n_tokens),
            draft=draft,
        )


def make_program(
    spec: ModelSpec,
    tape: Tape,
    weights: Weights,
    pool: _native.Pool,
    *,
    isa: str,
    kv_kind: str,
    num_blocks: int,
    block_size: int,
    num_slots: int,
    num_tokens: int,
    pooling: Pooling = "last",
) -> _native.Program:
    """The tape with its weights, a KV cache and slots. Raises ConfigError where the cache finds no room."""
    try:
        if num_blocks > MAX_BLOCKS:
            raise MemoryError
        return _native.Program(
            pool,
            isa=isa,
            buffers=tape.buffers,
            ops=tape.ops,
            linears=weights.linears,
            vectors=weights.vectors,
            embedding=weights.embedding,
            positions=weights.positions,
            embedding_kind=weights.embedding_kind,
            ropes=[
                (np.array(rope.inv_freq, np.float32), rope.attention_factor, rope.interleaved) for rope in spec.ropes
            ],
            num_layers=spec.kv_layers,
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            kv_kind=kv_kind,
            num_blocks=num_blocks,
            block_size=block_size,
            num_slots=num_slots,
            max_context=spec.max_context,
            num_tokens=num_tokens,
            embed_rows=EMBED_ROWS[pooling],
        )
    except MemoryError as error:
        raise ConfigError(
            f"a KV cache of {num_blocks} blocks takes more memory than this machine gives; "
            "lower the number of blocks or max_batch_total_tokens"
        ) from error


def instruction_set() -> str:
    """The one that TGI_ISA names, or "" for the best. Raises ConfigError where this machine cannot run it."""
    name = os.environ.get(ISA_VARIABLE, "")
    if name and name not in _native.isas():
        raise ConfigError(
            f"{ISA_VARIABLE}: this machine cannot run '{name}'; choose one of: {', '.join(_native.isas())}"
        )
    return name


def _allowed(plan: StepPlan, masks: Masks, failed: dict[int, ChunkOutput]) -> list[NDArray[np.uint32] | None]:
    """The masks of each chunk. A request without its masks is put into `failed`, and what it draws does not count."""
    rows: list[NDArray[np.uint32] | None] = []
    for chunk in plan.chunks:
        try:
            rows.append(masks.rows(chunk.request_id))
        except GenerationFailed as error:
            failed[chunk.request_id] = ChunkOutput(error=str(error))
            rows.append(None)
    return rows


def _choice(row: "_native.Row") -> Choice:
    token, logprob, top, fault = row
    if fault is not None:
        raise no_scores(fault)
    return Choice(token, logprob, tuple(TokenScore(*score) for score in top))

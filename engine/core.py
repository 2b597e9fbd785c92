"""`EngineCore`: the only step loop. Drain messages, schedule, execute, commit, emit.

The core owns a scheduler and a worker and ties them together. It knows no sockets, no text and no HTTP; the
thread or process that runs it hands it a `Channel`.
"""

import logging
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import msgspec

from engine.config import EngineOptions
from engine.constraints import Constraints
from engine.errors import EngineError, InvalidRequest
from engine.runtimes import Worker, load_worker
from engine.sched.plan import ChunkOutput, StepPlan, StepResult
from engine.sched.request import Request
from engine.sched.scheduler import Scheduler, Update
from engine.types import (
    Embedding,
    EmbedRequest,
    EngineInfo,
    EngineStats,
    GenerateRequest,
    SamplingParams,
    Timings,
    TokenEvent,
    TokenScore,
)
from engine.validate import check
from engine.wire import Cancel, Embed, Message, Ready, Refused, Reply, StartFailed, Step, Stop, Submit, Wake

if TYPE_CHECKING:
    from engine.text.grammar import Compiler

log = logging.getLogger(__name__)


NOTHING_NEW = SamplingParams(max_new_tokens=0)  # of a request that is not continued
Answer = TokenEvent | Embedding | Refused  # what a step has for a request

HEARTBEAT = 1.0  # seconds an idle core waits before it says that it is still there


class Channel:
    """The two ends a core talks to: a queue that other threads fill, and a way to answer."""

    def __init__(self, inbox: SimpleQueue[Message], send: Callable[[Reply], None]) -> None:
        self._inbox = inbox
        self.send = send

    def wake(self) -> None:
        """End a wait. Any thread may call it."""
        self._inbox.put(Wake())

    def receive(self, wait: bool) -> list[Message]:
        """Everything that has arrived; with `wait`, block until something has or a heartbeat is due."""
        messages: list[Message] = []
        with suppress(Empty):
            if wait:
                messages.append(self._inbox.get(timeout=HEARTBEAT))
            while True:
                messages.append(self._inbox.get_nowait())
        return messages


def serve(options: EngineOptions, channel: Channel, *, warm: bool = False) -> None:
    """The life of an engine: load, say so (or why not), run until told to stop.

    `warm` prepares for grammars before the first one comes: other requests might have to wait for that.
    """
    try:
        core = EngineCore(load_worker(options), options)
    except EngineError as error:
        channel.send(StartFailed(type(error).__name__, str(error)))
        return
    except MemoryError:
        channel.send(StartFailed("StartError", "there is not enough memory to load the model"))
        return
    if warm and not core.info.is_encoder:
        core.constraints.warm()
    channel.send(Ready(msgspec.structs.replace(core.info, pid=os.getpid())))
    try:
        core.run(channel)
    finally:
        core.close()


@dataclass(slots=True)
class _Open:
    """What the core keeps of a request until its last event: its clock and its prompt's scores."""

    arrived: float
    seed: int
    prompt_len: int
    embeds: bool = False
    prompt_known: int = 0  # prompt tokens computed so far, or found in the prefix cache
    started: float | None = None
    first_token: float | None = None
    prompt_logprobs: list[float] = field(default_factory=list)
    prompt_top: list[tuple[TokenScore, ...]] = field(default_factory=list)


class EngineCore:
    def __init__(self, worker: Worker, options: EngineOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self._worker = worker
        self._clock = clock
        limit = options.scheduler.max_total_tokens
        self.max_total_tokens = min(worker.info.max_context, limit or worker.info.max_context)
        self._scheduler = Scheduler(
            options.scheduler,
            options.cache,
            num_blocks=worker.info.num_blocks,
            max_total_tokens=self.max_total_tokens,
            hash_key=secrets.token_bytes(32),
        )
        self.max_total_tokens = min(self.max_total_tokens, self._scheduler.capacity)
        self._options = options
        self.constraints = Constraints(self._grammar_compiler)
        self._open: dict[int, _Open] = {}
        self._compiling: dict[int, Request] = {}  # admitted when their grammars have been compiled
        self._steps = self._prompt_tokens = self._generated = self._drafted = self._accepted = 0
        self._step_seconds, self._step_size = 0.0, 0
        self._step_prefill = self._step_failed = False
        self._stopping = False

    def _grammar_compiler(self) -> "Compiler":
        from engine.text.grammar import Compiler

        worker = self._worker.info
        return Compiler.load(Path(self._options.model.path), worker.vocab_size, worker.eos_token_ids)

    @property
    def info(self) -> EngineInfo:
        worker = self._worker.info
        return EngineInfo(
            architecture=worker.architecture,
            runtime=worker.runtime,
            dtype=worker.dtype,
            weight_format=worker.weight_format,
            vocab_size=worker.vocab_size,
            eos_token_ids=worker.eos_token_ids,
            max_total_tokens=self.max_total_tokens,
            block_size=self._options.cache.block_size,
            num_blocks=worker.num_blocks - 1,
            max_batch_size=self._options.scheduler.max_batch_size,
            max_batch_prefill_tokens=self._options.scheduler.max_batch_prefill_tokens,
            num_parameters=worker.num_parameters,
            weight_bytes=worker.weight_bytes,
            kv_bytes=worker.kv_bytes,
            is_encoder=worker.is_encoder,
            embedding_size=worker.embedding_size,
            pooling=worker.pooling,
            normalizes=worker.normalizes,
            max_embed_tokens=self._scheduler.max_embed_tokens,
            embed_truncation=min(worker.embed_truncation or worker.max_context, self._scheduler.max_embed_tokens),
        )

    @property
    def stats(self) -> EngineStats:
        scheduler = self._scheduler
        return EngineStats(
            running=scheduler.num_running,
            waiting=scheduler.num_waiting,
            blocks_used=scheduler.blocks_used,
            blocks_total=self._worker.info.num_blocks - 1,
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated,
            cached_tokens=scheduler.cached_tokens,
            preemptions=scheduler.preemptions,
            drafted_tokens=self._drafted,
            accepted_tokens=self._accepted,
            step_seconds=self._step_seconds,
            step_size=self._step_size,
            step_prefill=self._step_prefill,
            step_failed=self._step_failed,
            batch_max_tokens=scheduler.batch_max_tokens,
        )

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work or self.constraints.compiling

    def run(self, channel: Channel) -> None:
        """Serve until a Stop arrives. An idle core sends an empty step now and then: its heartbeat."""
        self.constraints.on_compiled = channel.wake
        while not self._stopping:
            self._drain(channel, wait=not self._scheduler.has_work)
            answers = self.step(lambda: self._drain(channel, wait=False))
            events = tuple(answer for answer in answers if isinstance(answer, TokenEvent))
            for refused in answers:
                if isinstance(refused, Refused):
                    channel.send(refused)
            embeddings = tuple(answer for answer in answers if isinstance(answer, Embedding))
            channel.send(Step(events, self.stats, embeddings))

    def _drain(self, channel: Channel, wait: bool) -> None:
        for message in channel.receive(wait):
            match message:
                case Submit() | Embed():
                    try:
                        self.add(message.request_id, message.request)
                    except EngineError as error:
                        channel.send(Refused(message.request_id, type(error).__name__, str(error)))
                case Cancel():
                    self.cancel(message.request_id)
                case Stop():
                    self._stopping = True

    def add(self, request_id: int, request: GenerateRequest | EmbedRequest) -> None:
        """Queue a request. Raises InvalidRequest if it can never run, Overloaded if the queue is full."""
        worker = self._worker.info
        if not request.prompt:
            raise InvalidRequest("`inputs` cannot be empty")
        if not 0 <= min(request.prompt) <= max(request.prompt) < worker.vocab_size:
            bad = next(token for token in request.prompt if not 0 <= token < worker.vocab_size)
            raise InvalidRequest(f"token id {bad} is outside the vocabulary of {worker.vocab_size}")
        if isinstance(request, EmbedRequest):
            return self._add_text(request_id, request)
        if worker.is_encoder:
            raise InvalidRequest(
                f"{worker.architecture} is an encoder: it turns text into vectors and cannot generate; "
                "ask for embeddings, or load a model that generates"
            )
        params = request.params
        check(params, worker.vocab_size)
        if params.seed is None:
            params = msgspec.structs.replace(params, seed=secrets.randbits(64))
        # The end tokens of a text that matches its grammar are all that can follow it: they cannot be ignored.
        ignore_eos = params.ignore_eos and params.grammar is None
        made = Request(
            id=request_id,
            tokens=list(request.prompt),
            prompt_len=len(request.prompt),
            params=params,
            eos_ids=frozenset(() if ignore_eos else worker.eos_token_ids),
            priority=request.priority,
            tenant=request.tenant,
            salt=request.salt,
        )
        if params.grammar is None:
            self._scheduler.add(made)
        elif request_id in self._open:
            raise InvalidRequest(f"request id {request_id} is in use")
        else:
            self.constraints.compile(request_id, params.grammar)
            self._compiling[request_id] = made
        assert params.seed is not None
        self._open[request_id] = _Open(self._clock(), params.seed, len(request.prompt))

    def _add_text(self, request_id: int, request: EmbedRequest) -> None:
        self._scheduler.add(
            Request(
                id=request_id,
                tokens=list(request.prompt),
                prompt_len=len(request.prompt),
                params=NOTHING_NEW,
                priority=request.priority,
                tenant=request.tenant,
                embed=True,
                bidirectional=self._worker.info.is_encoder,
            )
        )
        self._open[request_id] = _Open(self._clock(), 0, len(request.prompt), embeds=True)

    def cancel(self, request_id: int) -> None:
        """Forget a request, wherever it is. Unknown ids are ignored: it may just have finished."""
        self._scheduler.cancel(request_id)
        self._open.pop(request_id, None)
        self._compiling.pop(request_id, None)
        self.constraints.drop(request_id)

    def step(self, drain: Callable[[], None] = lambda: None) -> list[Answer]:
        """One step, if there is work. `drain` is called while its results wait, so a cancel beats the commit."""
        answers: list[Answer] = [*self._admit_compiled()]
        plan = self._scheduler.schedule()
        if plan is None:
            return answers
        began = self._clock()
        for enter in plan.enter:
            opened = self._open[enter.request_id]
            opened.started = opened.started or began
        try:
            result = self._worker.execute(plan, self.constraints.masks(plan))
        except Exception as error:
            log.exception("step %d failed", plan.step)
            self._count(plan, self._clock() - began, failed=True)
            drain()
            updates = self._scheduler.abort_step(f"the engine failed in step {plan.step}: {error}")
            return answers + [self._event(update, ChunkOutput(), self._clock()) for update in updates]
        ended = self._clock()
        self._count(plan, ended - began)
        drain()
        self._collect_scores(plan, result)
        updates = self._scheduler.commit(result)
        outputs = result.outputs
        return answers + [self._event(each, outputs.get(each.request_id, ChunkOutput()), ended) for each in updates]

    def _admit_compiled(self) -> list[Refused]:
        """Queue the requests whose grammars have been compiled; return those that cannot be."""
        refused = []
        for request_id, error in self.constraints.compiled():
            request = self._compiling.pop(request_id)
            try:
                if error is not None:
                    raise error
                self._scheduler.add(request)
            except EngineError as reason:
                refused.append(Refused(request_id, type(reason).__name__, str(reason)))
                self.cancel(request_id)
        return refused

    def close(self) -> None:
        self.constraints.close()
        self._worker.close()

    def _count(self, plan: StepPlan, seconds: float, failed: bool = False) -> None:
        """A prompt token counts once, also when it is computed again after a preemption."""
        prompts = [chunk for chunk in plan.chunks if self._scheduler.in_prompt(chunk)]
        self._steps += 1
        self._step_seconds, self._step_size = seconds, len(plan.chunks)
        self._step_prefill, self._step_failed = bool(prompts), failed
        for chunk in () if failed else prompts:
            opened = self._open[chunk.request_id]
            known = max(opened.prompt_known, min(chunk.start + len(chunk.tokens), opened.prompt_len))
            self._prompt_tokens += known - opened.prompt_known
            opened.prompt_known = known

    def _collect_scores(self, plan: StepPlan, result: StepResult) -> None:
        """Join the prompt scores of several chunks; a position scored again after a preemption counts once."""
        for chunk in plan.chunks:
            opened = self._open.get(chunk.request_id)
            output = result.outputs.get(chunk.request_id)
            if opened is None or output is None or not output.prompt_logprobs:
                continue
            known = len(opened.prompt_logprobs) - chunk.start
            opened.prompt_logprobs += output.prompt_logprobs[known:]
            opened.prompt_top += output.prompt_top[known:]

    def _event(self, update: Update, output: ChunkOutput, now: float) -> TokenEvent | Embedding:
        kept = len(update.tokens)
        opened = self._open[update.request_id]
        if opened.embeds:
            del self._open[update.request_id]
            return Embedding(
                request_id=update.request_id,
                vector=update.embedding,
                error=update.error,
                timings=_timings(opened, now, 0),
            )
        first = opened.first_token is None and kept > 0
        if first:
            opened.first_token = now
        self._generated += kept
        self._drafted += update.drafted
        self._accepted += update.accepted
        finished = update.finish_reason is not None
        if finished:
            del self._open[update.request_id]
            self.constraints.drop(update.request_id)
        else:
            self.constraints.advance(update.request_id, update.tokens)
        return TokenEvent(
            request_id=update.request_id,
            tokens=tuple(update.tokens),
            logprobs=output.logprobs[:kept],
            top=output.top[:kept],
            prompt_logprobs=tuple(opened.prompt_logprobs) if first else (),
            prompt_top=tuple(opened.prompt_top) if first else (),
            drafted=update.drafted,
            accepted=update.accepted,
            finish_reason=update.finish_reason,
            error=update.error,
            seed=opened.seed if finished else None,
            timings=_timings(opened, now, update.cached_tokens) if first or finished else None,
        )


def _timings(opened: _Open, now: float, cached_tokens: int) -> Timings:
    started = opened.started if opened.started is not None else now
    first = opened.first_token if opened.first_token is not None else now
    return Timings(
        queue=started - opened.arrived, prefill=first - started, decode=now - first, cached_tokens=cached_tokens
    )

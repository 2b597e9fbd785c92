"""Continuous batching as a pure state machine: requests and results in, one frozen `StepPlan` at a time out.

Only what is common to every model and every request belongs in this file.

A request is a gap between its known tokens and `computed`. Every step closes gaps within one budget of tokens:
the running rows first, then their drafts, then new prompts, of which the last may be split; but never a text to be
embedded, which waits for a step that has room for all of it. Chunked prefill, a prefix hit, resumption after a
preemption and speculation are all the same case. Integers in, integers out: no clock, no thread, no I/O; the same
calls always give the same plans.

The caller alternates `schedule` with `commit` (or `abort_step`), and may `add` and `cancel` at any time between.
"""

from collections import deque
from dataclasses import dataclass

from engine.config import CacheOptions, SchedulerOptions
from engine.errors import ConfigError, InvalidRequest, Overloaded
from engine.sched import policy
from engine.sched.blocks import BlockPool
from engine.sched.budget import admits, blocks_for, check_size, check_text, gate_open, share
from engine.sched.plan import Chunk, ChunkOutput, StepPlan, StepResult
from engine.sched.request import Request, Row, Status
from engine.types import FinishReason, TokenScore

MISSING = ChunkOutput(error="the worker returned nothing for this request")


@dataclass(frozen=True, slots=True)
class Update:
    """What one step brought to one request: tokens that were kept, or its end, or both."""

    request_id: int
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()  # as long as `tokens`, or empty; `top` too
    top: tuple[tuple[TokenScore, ...], ...] = ()
    drafted: int = 0  # draft tokens verified
    accepted: int = 0  # how many of them were right and kept
    finish_reason: FinishReason | None = None
    error: str | None = None  # set with FinishReason.ERROR
    cached_tokens: int = 0  # prompt tokens found in the prefix cache at first admission
    embedding: bytes = b""  # of a request to embed: its only update


class Scheduler:
    """Decides what each step computes, and who holds which slot and which block.

    `num_blocks` counts the reserved block 0; slots are 1 to `max_batch_size`. No request may grow beyond
    `max_total_tokens`. `hash_key` (up to 64 secret bytes) keys the prefix cache. Raises ConfigError.
    """

    def __init__(
        self,
        options: SchedulerOptions,
        cache: CacheOptions,
        *,
        num_blocks: int,
        max_total_tokens: int,
        hash_key: bytes = b"",
    ) -> None:
        if options.max_batch_size < 1 or options.max_batch_prefill_tokens < 1 or num_blocks < 2:
            raise ConfigError(
                "max_batch_size, max_batch_prefill_tokens and the usable blocks of the KV cache must be at least 1; "
                f"given: {options.max_batch_size}, {options.max_batch_prefill_tokens} and {num_blocks - 1}"
            )
        self.options = options
        self.pool = BlockPool(num_blocks, cache.block_size, hash_key)
        self.capacity = min(max_total_tokens, self.pool.capacity * cache.block_size)  # tokens of the longest request
        self.max_embed_tokens = min(self.capacity, options.max_batch_prefill_tokens)
        self.waiting: dict[int, Request] = {}
        self.running: dict[int, Request] = {}
        self.tenants = policy.Tenants()
        self.preemptions = 0
        self.cached_tokens = 0  # of all first admissions
        self._order = policy.find(options.policy)
        self._prefix_caching = cache.prefix_caching
        self._arrivals = 0
        self._step = 0
        self._plan: StepPlan | None = None  # the step in flight
        self._in_flight: dict[int, Request] = {}  # the requests it computes, also if cancelled since
        self._retired: list[list[int]] = []  # blocks that the step in flight may still write to
        self._free_slots = list(range(options.max_batch_size, 0, -1))
        self._left: set[int] = set()  # slots given up since the last plan

    # -- messages -----------------------------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """Queue a request. Raises InvalidRequest if it could never run, even alone; Overloaded if the queue is full."""
        if request.id in self.waiting or request.id in self.running:
            raise InvalidRequest(f"request id {request.id} is in use")
        if request.embed:
            check_text(request.prompt_len, self.max_embed_tokens)
        else:
            check_size(request.prompt_len, request.params.max_new_tokens, self.capacity)
        limit = self.options.max_waiting_requests
        if limit is not None and len(self.waiting) >= limit:
            raise Overloaded("Model is overloaded")
        self._arrivals += 1
        request.arrival = self._arrivals
        request.waiting_since = self._step
        request.keys = [self.pool.salt_key(request.salt)]
        self.tenants.join(request.tenant)
        self.waiting[request.id] = request

    def cancel(self, request_id: int) -> bool:
        """End a request, whether it waits, runs or is being computed; no update follows. False if it is not there."""
        request = self.waiting.get(request_id) or self.running.get(request_id)
        if request is None:
            return False
        self._finish(request, FinishReason.CANCELLED)
        return True

    # -- planning -----------------------------------------------------------------------------------------------

    def schedule(self) -> StepPlan | None:
        """Plan one step; None when no request is left. News of `leave` alone waits for the next step with work."""
        if self._plan is not None:
            raise RuntimeError(f"step {self._plan.step} is in flight: commit or abort it first")
        budget, preemptions = self.options.max_batch_prefill_tokens, self.preemptions
        rows = self._continue(budget)
        budget -= sum(row.count for row in rows)
        budget -= self._speculate(rows, budget)
        entered = self._admit(budget) if self.preemptions == preemptions else []
        rows += entered
        if not rows:
            return None
        self._step += 1
        self._in_flight = {row.request.id: row.request for row in rows}
        self._plan = StepPlan(
            step=self._step,
            chunks=tuple(row.chunk() for row in rows),
            enter=tuple(row.enter() for row in entered),
            leave=tuple(sorted(self._left)),
        )
        self._left.clear()
        return self._plan

    def _continue(self, budget: int) -> list[Row]:
        """The running rows, the most important first. One that finds no block free takes those of the least important.

        A victim comes after the row it makes way for, so it has no part in this step yet.
        """
        rows: list[Row] = []
        queue = deque(sorted(self.running.values(), key=self._rank))
        while queue and budget > 0:
            request = queue.popleft()
            count = min(request.gap, share(budget, len(queue)))
            while not self._grow(request, count):
                victim = queue.pop() if queue else request
                self._preempt(victim)
                if victim is request:
                    return rows
            rows.append(Row(request, count))
            budget -= count
        return rows

    def _speculate(self, rows: list[Row], budget: int) -> int:
        """Let rows verify their drafts with what budget and blocks are left over; return the tokens this takes."""
        spent = 0
        for row in rows:
            request = row.request
            draft = request.draft[: min(budget - spent, request.remaining - 1)]
            if draft and row.count == request.gap and self._grow(request, row.count + len(draft)):
                row.draft = draft
                spent += len(draft)
        return spent

    def _admit(self, budget: int) -> list[Row]:
        """Give slots and blocks to waiting requests, in order, until one does not fit."""
        rows: list[Row] = []
        queue = self._candidates()
        while queue and budget > 0 and self._free_slots:
            request = min(queue, key=self._rank)
            if (request.embed and request.gap > budget) or not self._seat(request):
                break
            queue.remove(request)
            rows.append(Row(request, min(request.gap, budget)))
            budget -= rows[-1].count
        return rows

    def _candidates(self) -> list[Request]:
        """Whom `waiting_served_ratio` and `max_waiting_tokens` let in. Who has been in before may always come back."""
        options = self.options
        if gate_open(len(self.waiting), len(self.running), options.waiting_served_ratio):
            return list(self.waiting.values())
        patience = options.max_waiting_tokens
        return [
            request
            for request in self.waiting.values()
            if request.admitted or (patience is not None and self._step - request.waiting_since >= patience)
        ]

    def _seat(self, request: Request) -> bool:
        """Start or resume a waiting request with the blocks of all its known tokens, shared where others have them."""
        pool = self.pool
        shared: list[int] = []
        if self._prefix_caching and not request.embed and not request.scores_prompt:
            shared = pool.match(request.keys, request.tokens)
        fresh = blocks_for(len(request.tokens), pool.block_size) - len(shared)
        idle = sum(pool.refs[block] == 0 for block in shared)  # no longer available once held
        if not admits(fresh + idle, pool.available, len(self.running), pool.capacity):
            return False
        pool.hold(shared)
        request.blocks = shared
        request.computed = len(shared) * pool.block_size
        self._grow(request, request.gap)  # there is room: that was just asked
        if not request.admitted:
            request.admitted = True
            request.cached_tokens = request.computed
            self.cached_tokens += request.computed
            self.tenants.charge(request.tenant, request.gap)
        del self.waiting[request.id]
        self.running[request.id] = request
        request.status = Status.RUNNING
        request.slot = self._free_slots.pop()
        return True

    # -- results ------------------------------------------------------------------------------------------------

    def commit(self, result: StepResult) -> list[Update]:
        """Fold in what the worker made of the step in flight; one update for each request that moved or ended."""
        if self._plan is None or result.step != self._plan.step:
            raise RuntimeError(f"step {result.step} is not in flight")
        chunks, requests = self._land()
        updates = (self._fold(requests[c.request_id], c, result.outputs.get(c.request_id, MISSING)) for c in chunks)
        return [update for update in updates if update is not None]

    def abort_step(self, error: str) -> list[Update]:
        """The worker failed: end every request of the step in flight with `error`. The others go on.

        Slots are told to leave once more, as nobody knows how far the worker came; leaving twice does no harm.
        """
        if self._plan is None:
            raise RuntimeError("no step is in flight")
        self._left.update(self._plan.leave)
        _, requests = self._land()
        return [self._fail(request, error) for request in requests.values() if request.status is Status.RUNNING]

    def _land(self) -> tuple[tuple[Chunk, ...], dict[int, Request]]:
        """The step is over: nothing writes to the blocks of requests that were cancelled under it."""
        assert self._plan is not None
        chunks, requests = self._plan.chunks, self._in_flight
        self._plan, self._in_flight = None, {}
        for blocks in self._retired:
            self.pool.release(blocks)
        self._retired.clear()
        return chunks, requests

    def _fold(self, request: Request, chunk: Chunk, output: ChunkOutput) -> Update | None:
        if request.status is not Status.RUNNING:
            return None  # cancelled while it was computed
        error = _wrong_answer(chunk, output) if output.error is None else output.error
        if error is not None:
            return self._fail(request, error)
        if chunk.embed:
            self._finish(request, FinishReason.LENGTH)
            return Update(request.id, finish_reason=request.reason, embedding=output.embedding)
        accepted = max(len(output.tokens) - 1, 0)
        computed = chunk.start + len(chunk.tokens) - chunk.num_draft + accepted
        kept = request.extend(output.tokens)
        self._advance(request, min(computed, len(request.tokens)))
        if not chunk.sample:
            return None
        request.draft = output.draft
        self.tenants.charge(request.tenant, kept)
        if request.reason is not None:
            self._finish(request, request.reason)
        return Update(
            request_id=request.id,
            tokens=output.tokens[:kept],
            logprobs=output.logprobs[:kept],
            top=output.top[:kept],
            drafted=chunk.num_draft,
            accepted=min(accepted, kept),
            finish_reason=request.reason,
            cached_tokens=request.cached_tokens,
        )

    def _fail(self, request: Request, error: str) -> Update:
        self._finish(request, FinishReason.ERROR)
        return Update(request.id, finish_reason=request.reason, error=error, cached_tokens=request.cached_tokens)

    # -- what a request holds -----------------------------------------------------------------------------------

    def _grow(self, request: Request, count: int) -> bool:
        """Make sure of blocks for the next `count` tokens; False (and nothing changed) if there are too few."""
        missing = blocks_for(request.computed + count, self.pool.block_size) - len(request.blocks)
        taken = self.pool.take(max(missing, 0))
        if taken is None:
            return False
        request.blocks += taken
        return True

    def _advance(self, request: Request, computed: int) -> None:
        """Move `computed`, publish the blocks this fills, and give back those that only a rejected draft needed."""
        size = self.pool.block_size
        if self._prefix_caching:
            self.pool.publish(request.keys, request.tokens, request.blocks, request.computed // size, computed // size)
        request.computed = computed
        needed = blocks_for(len(request.tokens), size)
        self.pool.release(request.blocks[needed:])
        del request.blocks[needed:]

    def _preempt(self, request: Request) -> None:
        """Take a running request's slot and blocks; it keeps its tokens and will compute them again."""
        self._vacate(request)
        del self.running[request.id]
        self.waiting[request.id] = request
        request.status = Status.WAITING
        request.waiting_since = self._step
        request.preemptions += 1
        self.preemptions += 1

    def _finish(self, request: Request, reason: FinishReason) -> None:
        self._vacate(request)
        (self.running if request.status is Status.RUNNING else self.waiting).pop(request.id)
        self.tenants.leave(request.tenant)
        request.status, request.reason = Status.FINISHED, reason

    def _vacate(self, request: Request) -> None:
        """Give up the slot and the blocks, these only once no step in flight can write to them."""
        if self._plan is not None:
            self._retired.append(request.blocks)
        else:
            self.pool.release(request.blocks)
        request.blocks, request.computed, request.draft = [], 0, ()
        if request.slot:
            self._left.add(request.slot)
            self._free_slots.append(request.slot)
            request.slot = 0

    def _rank(self, request: Request) -> tuple[int, ...]:
        return self._order(request, self.tenants.served)

    # -- gauges -------------------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        return bool(self.running or self.waiting)

    @property
    def num_running(self) -> int:
        return len(self.running)

    @property
    def num_waiting(self) -> int:
        return len(self.waiting)

    @property
    def blocks_used(self) -> int:
        return self.pool.used

    @property
    def batch_max_tokens(self) -> int:
        """Tokens the running requests may grow to."""
        return sum(request.max_tokens for request in self.running.values())

    def in_prompt(self, chunk: Chunk) -> bool:
        """Whether a chunk of the step in flight computes prompt tokens."""
        return chunk.start < self._in_flight[chunk.request_id].prompt_len


def _wrong_answer(chunk: Chunk, output: ChunkOutput) -> str | None:
    if chunk.embed and not output.embedding:
        return "the worker returned no vector"
    count = len(output.tokens)
    least, most = (1, chunk.num_draft + 1) if chunk.sample else (0, 0)
    return None if least <= count <= most else f"the worker returned {count} tokens, not {least} to {most}"

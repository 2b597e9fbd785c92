"""The laws of the scheduler, checked at every move of whoever drives it.

`Laws` owns a scheduler, a `ModelWorker` and a record of its own of every request: what it must answer, when it
began to wait, what its tenant has been served. Drivers call `add`, `cancel`, `schedule`, `commit`, `abort` in any
order; each call asserts what must hold after it. The scheduler is imported by package name, so that the same
laws can judge a copy with a bug in it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import pytest
from rolling_hash import EOS, Draft, Expected, ModelWorker, expect, slot_values

from engine.config import CacheOptions, SchedulerOptions
from engine.errors import InvalidRequest, Overloaded
from engine.sched.plan import Chunk, StepPlan
from engine.types import FinishReason, GenerateRequest


@dataclass(eq=False)
class Record:
    """What the laws know of one request."""

    request: GenerateRequest
    expected: Expected
    arrival: int
    waits_since: int
    out: list[int] = field(default_factory=list)
    prompt_scores: dict[int, float] = field(default_factory=dict)  # position -> score
    scores_delivered: bool = False
    cached_tokens: int | None = None
    preempted: bool = False

    @property
    def tokens(self) -> list[int]:
        return [*self.request.prompt, *self.out]


class Laws:
    def __init__(
        self,
        options: SchedulerOptions,
        *,
        num_blocks: int,
        block_size: int,
        prefix_caching: bool = True,
        package: str = "engine.sched",
    ) -> None:
        self.options = options
        self._request_type = import_module(f"{package}.request").Request
        self.s: Any = import_module(f"{package}.scheduler").Scheduler(
            options,
            CacheOptions(block_size=block_size, prefix_caching=prefix_caching),
            num_blocks=num_blocks,
            max_total_tokens=options.max_total_tokens or 10_000,
            hash_key=b"secret",
        )
        self.worker = ModelWorker(num_blocks, block_size, options.max_batch_size)
        self.live: dict[int, Record] = {}
        self.ended: Counter[str] = Counter()
        self.plans: list[StepPlan] = []
        self.added = self.cached_tokens = self.preemptions = 0
        self.drafted = self.accepted = 0
        self.plan: StepPlan | None = None
        self._table_before: dict[int, Any] = {}
        self._promises: dict[bytes, set[tuple[int, ...]]] = {}  # key of a block -> what it may hold
        self._served: dict[int, int] = {}
        self._poison_what_is_taken()

    def _poison_what_is_taken(self) -> None:
        pool, take = self.s.pool, self.s.pool.take

        def poisoning(count: int) -> list[int] | None:
            taken: list[int] | None = take(count)
            self.worker.poison(taken or ())
            return taken

        pool.take = poisoning

    @property
    def steps(self) -> int:
        return len(self.plans)

    # -- moves --------------------------------------------------------------------------------------------------

    def add(self, request: GenerateRequest) -> int | None:
        """Offer a request; its id, or None if it was refused."""
        request_id, params, options = self.added, request.params, self.options
        candidate = self._request_type(
            id=request_id,
            tokens=list(request.prompt),
            prompt_len=len(request.prompt),
            params=params,
            eos_ids=frozenset(() if params.ignore_eos else (EOS,)),
            priority=request.priority,
            tenant=request.tenant,
            salt=request.salt,
        )
        limit = options.max_waiting_requests
        fits = len(request.prompt) + params.max_new_tokens <= self.s.capacity
        room = limit is None or self.s.num_waiting < limit
        if not fits or not room:
            with pytest.raises(Overloaded if fits else InvalidRequest):
                self.s.add(candidate)
            return None
        self.s.add(candidate)
        self.added += 1
        self._join(request.tenant)
        self.live[request_id] = Record(request, expect(request), request_id, self.steps)
        self.worker.salts[request_id] = request.salt
        self._promise(self.live[request_id])
        return request_id

    def cancel(self, request_id: int) -> None:
        assert self.s.cancel(request_id) == (request_id in self.live), "cancel must know who is there"
        if request_id in self.live:
            self._end(request_id, "cancelled")

    def schedule(self) -> bool:
        """Plan a step and check it; False when nothing is left to do."""
        assert self.plan is None
        running = [request.id for request in self.s.running.values()]
        plan = self.s.schedule()
        if plan is None:
            assert not self.live, "stuck with work left"
            return False
        self.plan = plan
        self.plans.append(plan)
        assert plan.step == self.steps
        self._check_plan(plan, running)
        self._table_before = dict(self.worker.seats)
        self.worker.seat(plan)
        table = {slot: seat.request_id for slot, seat in self.worker.seats.items()}
        assert table == {request.slot: request.id for request in self.s.running.values()}, "worker and scheduler differ"
        return True

    def commit(self, draft: Draft, faults: Sequence[int] = ()) -> None:
        """Run the step; the requests in `faults` fail in it."""
        assert self.plan is not None
        plan, self.plan = self.plan, None
        result = self.worker.execute(plan, draft, dict.fromkeys(faults, "a logit is not a number"))
        chunks = {chunk.request_id: chunk for chunk in plan.chunks}
        for request_id, output in result.outputs.items():
            if request_id in self.live and output.prompt_logprobs:
                scores = enumerate(output.prompt_logprobs, chunks[request_id].start + 1)
                self.live[request_id].prompt_scores.update(scores)
        told = set()
        for update in self.s.commit(result):
            assert update.request_id not in told, "two updates for one request"
            told.add(update.request_id)
            self._check_update(update, chunks[update.request_id], failed=update.request_id in faults)
        for chunk in plan.chunks:
            assert chunk.request_id not in self.live or chunk.request_id in told or not chunk.sample, "a token is lost"

    def abort(self, *, before_seating: bool) -> None:
        """The worker raises, before it touched its slots or after."""
        assert self.plan is not None
        plan, self.plan = self.plan, None
        computed = {chunk.request_id for chunk in plan.chunks} & self.live.keys()
        updates = self.s.abort_step("out of memory")
        assert {update.request_id for update in updates} == computed, "who was computed fails, nobody else"
        for update in updates:
            assert (update.finish_reason, update.error, update.tokens) == (FinishReason.ERROR, "out of memory", ())
            self._end(update.request_id, "failed")
        if before_seating:
            self.worker.seats = self._table_before
        self.worker.forgiven = {*plan.leave, *(enter.slot for enter in plan.enter)}

    def drain(self, draft: Draft = lambda request_id, tokens: ()) -> None:
        """Run until nobody is left, and check that nothing has leaked."""
        for _ in range(3_000):
            if self.plan is not None:
                self.commit(draft)
            elif not self.schedule():
                break
            self.check()
        else:
            raise AssertionError("does not drain")
        assert not self.s.has_work
        assert self.s.blocks_used == 0, "blocks leak"
        assert self.ended.total() == self.added

    # -- laws of a plan -----------------------------------------------------------------------------------------

    def _check_plan(self, plan: StepPlan, running: list[int]) -> None:
        options, order = self.options, [chunk.request_id for chunk in plan.chunks]
        ranks = {request_id: self._rank(request_id) for request_id in running}
        preempted = [request_id for request_id in running if request_id in self.s.waiting]
        stayed = [request_id for request_id in running if request_id in self.s.running]
        assert sorted(preempted + stayed) == sorted(running)
        assert 0 < plan.num_tokens <= options.max_batch_prefill_tokens, "over the budget"
        assert len(self.s.running) <= options.max_batch_size
        for victim in preempted:
            assert all(ranks[victim] > ranks[other] for other in stayed), "the wrong victim"
            self.live[victim].preempted = True
            self.live[victim].waits_since = self.steps - 1
        self.preemptions += len(preempted)
        if options.max_batch_prefill_tokens >= len(running):
            assert set(stayed) <= set(order), "a running row is stalled"
        assert not (preempted and plan.enter), "admits in a step that had to preempt"
        for chunk in plan.chunks:
            self._check_chunk(chunk)
        self._check_admission(plan, running, preempted)

    def _check_chunk(self, chunk: Chunk) -> None:
        record, size, pool = self.live[chunk.request_id], self.worker.block_size, self.s.pool
        left = record.request.params.max_new_tokens - len(record.out)
        assert chunk.num_draft < left, "a draft beyond the last token"
        owed = record.request.params.prompt_logprobs and not record.out
        assert chunk.prompt_logprobs == owed
        for block in chunk.blocks[chunk.start // size :]:
            assert pool.refs[block] == 1, "writes to a block that others hold"
            assert block not in pool.contents, "writes to a published block"

    def _check_admission(self, plan: StepPlan, running: list[int], preempted: list[int]) -> None:
        """Who enters is the first in order of those who may; who may and fits is not kept waiting."""
        entering = {enter.request_id for enter in plan.enter}
        waiting = [request_id for request_id in self.live if request_id in self.s.waiting or request_id in entering]
        open_to_all = self._gate_is_open(len(waiting), len(running))
        queue = [request_id for request_id in waiting if open_to_all or self._may_pass(self.live[request_id])]
        chunks = {chunk.request_id: chunk for chunk in plan.chunks}
        for enter in plan.enter:
            assert enter.request_id == min(queue, key=self._rank, default=None), "not the first in order"
            queue.remove(enter.request_id)
            record = self.live[enter.request_id]
            assert (enter.prompt_len, enter.params) == (len(record.request.prompt), record.request.params)
            assert list(enter.tokens) == record.tokens
            if record.cached_tokens is None:
                record.cached_tokens = chunks[enter.request_id].start
                self.cached_tokens += record.cached_tokens
                self._served[record.request.tenant] += len(record.request.prompt) - record.cached_tokens
        room = plan.num_tokens < self.options.max_batch_prefill_tokens
        if queue and room and not preempted and len(self.s.running) < self.options.max_batch_size:
            pool, size = self.s.pool, self.worker.block_size
            needed = -(-len(self.live[min(queue, key=self._rank)].tokens) // size)
            spare = min(len(self.s.running), -(-pool.capacity // 16))
            assert needed + spare > pool.available, "kept waiting without need"

    def _gate_is_open(self, waiting: int, running: int) -> bool:
        ratio = self.options.waiting_served_ratio
        return not running or ratio is None or waiting >= ratio * running

    def _may_pass(self, record: Record) -> bool:
        patience = self.options.max_waiting_tokens
        waited = self.steps - 1 - record.waits_since
        return record.preempted or (patience is not None and waited >= patience)

    def _rank(self, request_id: int) -> tuple[int, ...]:
        record = self.live[request_id]
        first = {"fcfs": 0, "priority": record.request.priority, "fair": self._served[record.request.tenant]}
        return first[self.options.policy], record.arrival

    # -- laws of a result ---------------------------------------------------------------------------------------

    def _check_update(self, update: Any, chunk: Chunk, *, failed: bool) -> None:
        record = self.live[update.request_id]
        if failed:
            assert (update.finish_reason, update.tokens) == (FinishReason.ERROR, ())
            assert update.error == "a logit is not a number"
            self._end(update.request_id, "failed")
            return
        expected, start = record.expected, len(record.out)
        assert chunk.sample
        assert update.tokens, "an update without news"
        assert update.error is None
        record.out += update.tokens
        end = len(record.out)
        assert record.out == expected.tokens[:end], (record.out, expected.tokens)
        assert list(update.logprobs) == expected.scores[start:end], "the score of another state"
        assert list(update.top) == expected.top[start:end]
        guess, truth = chunk.tokens[len(chunk.tokens) - chunk.num_draft :], expected.tokens[start:]
        right = next((i for i, token in enumerate(guess) if i >= len(truth) or token != truth[i]), len(guess))
        assert (update.drafted, update.accepted) == (chunk.num_draft, right)
        assert end - start == min(right + 1, len(truth)), "a token more or less than the drafts are worth"
        self.drafted += update.drafted
        self.accepted += update.accepted
        assert update.cached_tokens == record.cached_tokens
        if record.request.params.prompt_logprobs and not record.scores_delivered:
            record.scores_delivered = True
            scores = [record.prompt_scores.get(p) for p in range(1, len(record.request.prompt))]
            assert scores == expected.prompt_scores, "prompt scores of other rows"
        self._served[record.request.tenant] += len(update.tokens)
        done = expected.reason if end == len(expected.tokens) else None
        assert update.finish_reason == done
        self._promise(record)
        if done is not None:
            self._end(update.request_id, "finished")

    def _end(self, request_id: int, how: str) -> None:
        del self.live[request_id]
        self.ended[how] += 1
        if not self.live:
            self._served.clear()

    def _join(self, tenant: int) -> None:
        active = {record.request.tenant for record in self.live.values()}
        if tenant not in active:
            level = min((self._served[other] for other in active), default=0)
            self._served[tenant] = max(level, self._served.get(tenant, 0))

    def _promise(self, record: Record) -> None:
        """Note what each full block of the known tokens must hold, under the key it would be published with."""
        pool, size, tokens = self.s.pool, self.worker.block_size, record.tokens
        keys, values = [pool.salt_key(record.request.salt)], slot_values(tokens, record.request.salt)
        for index in range(len(tokens) // size):
            key, _ = pool._identify(keys, tokens, index)
            self._promises.setdefault(key, set()).add(tuple(values[index * size : (index + 1) * size]))

    # -- laws of a moment ---------------------------------------------------------------------------------------

    def check(self) -> None:
        """What holds after every move."""
        s, pool = self.s, self.s.pool
        requests = [*s.running.values(), *s.waiting.values()]
        assert sorted(request.id for request in requests) == sorted(self.live)
        holders = Counter(block for request in requests for block in request.blocks)
        holders.update(block for blocks in s._retired for block in blocks)
        assert pool.refs == [holders[block] for block in range(len(pool.refs))], "references and holders differ"
        assert set(pool.free) == {block for block in range(1, len(pool.refs)) if not holders[block]}
        assert {block: key for key, block in pool.published.items()} == {
            block: key for block, (key, _) in pool.contents.items()
        }
        slots = [request.slot for request in s.running.values()]
        assert sorted(slots + s._free_slots) == list(range(1, self.options.max_batch_size + 1))
        for request in s.waiting.values():
            assert (request.slot, request.blocks, request.computed, request.draft) == (0, [], 0, ())
        if self.plan is None:
            self._check_at_rest()
        else:
            held = {block for chunk in self.plan.chunks for block in chunk.blocks}
            assert all(pool.refs[block] for block in held), "a block is free while a step may write to it"
        assert (s.num_running, s.num_waiting) == (len(s.running), len(s.waiting))
        assert s.blocks_used == sum(count > 0 for count in pool.refs)
        assert (s.preemptions, s.cached_tokens) == (self.preemptions, self.cached_tokens)
        limits = [self.live[r].request for r in s.running]
        assert s.batch_max_tokens == sum(len(r.prompt) + r.params.max_new_tokens for r in limits)

    def _check_at_rest(self) -> None:
        """Between steps: every published block holds what its key promises, and nobody holds more than they need."""
        for key, block in self.s.pool.published.items():
            assert self._promises.get(key) == {tuple(self.worker.kv[block])}, f"block {block} breaks its promise"
        for request in self.s.running.values():
            assert len(request.blocks) <= -(-len(request.tokens) // self.worker.block_size), "blocks beyond the tokens"
            assert 0 <= request.computed < len(request.tokens)

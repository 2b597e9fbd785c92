"""Preemption, the prefix cache and what a request holds, seen from outside."""

from itertools import count

import pytest
from by_hand import answer, ask, planned, run, scheduler, sizes, step, words

from engine.sched.plan import ChunkOutput, StepPlan
from engine.types import FinishReason


def starts(plan: StepPlan) -> dict[int, int]:
    """Request id -> first position computed."""
    return {chunk.request_id: chunk.start for chunk in plan.chunks}


class TestPreemption:
    @pytest.mark.parametrize("policy", ["fcfs", "priority", "fair"])
    @pytest.mark.parametrize("prompt", [1, 6, 30])
    @pytest.mark.parametrize("requests", [2, 5])
    def test_requests_of_60_percent_each_all_complete(self, policy: str, prompt: int, requests: int) -> None:
        s = scheduler(blocks=60, block_size=1, policy=policy, max_batch_prefill_tokens=8)
        crowd = [
            ask(i, words(prompt, 100 * i), 36 - prompt, tenant=i, priority=-i, ignore_eos=True) for i in range(requests)
        ]
        for request in crowd:
            s.add(request)
        given = run(s)
        assert {len(tokens) for tokens in given.values()} == {36 - prompt}
        assert len(given) == requests
        assert max(request.preemptions for request in crowd) <= (1 if requests == 2 else 3)
        assert s.blocks_used == 0

    @pytest.mark.parametrize(
        ("policy", "victim"),
        [("fcfs", 3), ("priority", 1), ("fair", 2)],
    )
    def test_the_policy_names_the_victim(self, policy: str, victim: int) -> None:
        s = scheduler(blocks=9, block_size=1, policy=policy)
        s.add(ask(1, [1], 8, priority=5, tenant=1))
        s.add(ask(2, [2], 8, priority=2, tenant=2))
        s.add(ask(3, [3], 8, priority=3, tenant=3))
        s.tenants.charge(2, 50)
        for _ in range(3):
            step(s)
        assert s.blocks_used == 9
        assert victim not in sizes(planned(s))
        assert list(s.waiting) == [victim]

    def test_a_resumed_request_finds_its_own_output_in_the_cache(self) -> None:
        s = scheduler(blocks=12, block_size=1)
        s.add(ask(1, [1], 9))
        s.add(ask(2, [2], 9))
        tokens = count(10)
        while not s.preemptions:
            plan = planned(s)
            answer(s, plan, {chunk.request_id: ChunkOutput(tokens=(next(tokens),)) for chunk in plan.chunks})
        assert list(s.waiting) == [2]
        known = list(s.waiting[2].tokens)
        s.cancel(1)
        plan = planned(s)
        (enter,), (chunk,) = plan.enter, plan.chunks
        assert list(enter.tokens) == known
        assert enter.prompt_len == 1
        assert chunk.start == len(known) - 2 > 1, "all that was computed but the one block that request 1 took"
        assert s.cached_tokens == 0, "what a preemption recovers is no prefix hit"

    def test_a_request_may_fill_the_whole_pool(self) -> None:
        s = scheduler(blocks=3, block_size=2, max_batch_prefill_tokens=2)
        s.add(ask(1, words(5), 1))
        s.add(ask(2, words(2, 200), 4))
        assert {request_id: len(tokens) for request_id, tokens in run(s).items()} == {1: 1, 2: 4}
        assert s.preemptions == 0

    def test_a_newcomer_leaves_a_block_for_each_row_to_grow_into(self) -> None:
        s = scheduler(blocks=20, block_size=1)
        s.add(ask(1, words(8), 5))
        step(s)
        s.add(ask(2, words(11, 200), 5))
        assert sizes(planned(s)) == {1: 1}, "9 + 11 fit, but the next token of 1 would evict 2"

    def test_the_first_in_line_that_does_not_fit_is_not_overtaken(self) -> None:
        s = scheduler(blocks=10, block_size=1)
        s.add(ask(1, words(6), 3))
        step(s)
        s.add(ask(2, words(8, 200), 1))
        s.add(ask(3, [1], 1))
        assert sizes(planned(s)) == {1: 1}


class TestPrefixCache:
    def test_a_whole_prompt_in_the_cache_leaves_one_token(self) -> None:
        s = scheduler()
        for request_id in (1, 2):
            s.add(ask(request_id, words(12), 1))
            plan, updates = step(s)
        (chunk,) = plan.chunks
        assert (chunk.start, chunk.tokens, chunk.sample) == (8, (108, 109, 110, 111), True)
        assert updates[2].cached_tokens == 8
        s.add(ask(3, words(13), 1))
        assert starts(planned(s)) == {3: 12}
        assert s.cached_tokens == 20

    def test_a_running_prefix_is_shared_block_by_block(self) -> None:
        s = scheduler()
        s.add(ask(1, words(9), 8))
        step(s)
        s.add(ask(2, [*words(8), 5], 8))
        first, second = planned(s).chunks
        assert first.blocks[:2] == second.blocks[:2]
        assert first.blocks[2] != second.blocks[2]
        assert second.start == 8

    def test_the_next_turn_of_a_talk_finds_the_answer_too(self) -> None:
        s = scheduler()
        s.add(ask(1, words(6), 6))
        given = run(s)[1]
        s.add(ask(2, [*words(6), *given, *words(3, 500)], 1))
        assert starts(planned(s)) == {2: 8}, "11 of 12 tokens were computed: two full blocks"

    def test_salts_never_share(self) -> None:
        s = scheduler()
        for request_id, salt in ((1, b""), (2, b"a"), (3, b"b"), (4, b"a")):
            s.add(ask(request_id, words(12), 1, salt=salt))
            plan, _ = step(s)
            assert starts(plan) == {request_id: 8 if request_id == 4 else 0}

    def test_caching_can_be_switched_off(self) -> None:
        s = scheduler(prefix_caching=False)
        for request_id in (1, 2):
            s.add(ask(request_id, words(12), 1))
            assert starts(step(s)[0]) == {request_id: 0}

    def test_a_scored_prompt_is_computed_in_full_but_published(self) -> None:
        s = scheduler(max_batch_prefill_tokens=8)
        s.add(ask(1, words(12), 1))
        run(s)
        s.add(ask(2, words(12), 3, prompt_logprobs=True))
        plans = [step(s)[0] for _ in range(3)]
        chunks = [chunk for plan in plans for chunk in plan.chunks]
        assert [(c.start, c.prompt_logprobs) for c in chunks] == [(0, True), (8, True), (12, False)]
        alone = scheduler()
        alone.add(ask(1, words(12), 1, prompt_logprobs=True))
        step(alone)
        alone.add(ask(2, words(12), 1))
        assert starts(planned(alone)) == {2: 8}

    def test_two_that_computed_the_same_prefix_free_it_once_each(self) -> None:
        s = scheduler(max_batch_size=2)
        s.add(ask(1, words(8), 2))
        s.add(ask(2, words(8), 3))
        plan, _ = step(s)
        first, second = plan.chunks
        assert not set(first.blocks) & set(second.blocks), "neither was published when both began"
        assert run(s).keys() == {1, 2}
        assert s.blocks_used == 0

    def test_the_key_of_the_engine_decides_the_keys_of_blocks(self) -> None:
        one, other = scheduler().pool, type(scheduler().pool)(10, 4, b"another")
        assert one.salt_key(b"a") != other.salt_key(b"a")


def test_growing_takes_one_block_at_a_time_and_the_end_frees_all() -> None:
    s = scheduler(block_size=2)
    s.add(ask(1, [1], 5))
    used = []
    while (plan := s.schedule()) is not None:
        used.append(s.blocks_used)
        last = answer(s, plan)[1]
    assert used == [1, 1, 2, 2, 3]
    assert last.finish_reason is FinishReason.LENGTH
    assert s.blocks_used == 0

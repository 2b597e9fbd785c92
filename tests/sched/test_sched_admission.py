"""Who enters a step, with how many tokens, and who is refused."""

import pytest
from by_hand import answer, ask, planned, run, scheduler, sizes, step, words

from engine.errors import ConfigError, InvalidRequest, Overloaded


def test_a_long_prompt_is_computed_in_chunks_and_only_the_last_samples() -> None:
    s = scheduler(max_batch_prefill_tokens=4)
    s.add(ask(1, words(10)))
    plans = [step(s)[0] for _ in range(3)]
    assert [(c.start, len(c.tokens), c.sample) for plan in plans for c in plan.chunks] == [
        (0, 4, False),
        (4, 4, False),
        (8, 2, True),
    ]
    assert [len(plan.enter) for plan in plans] == [1, 0, 0]


def test_a_chunk_without_a_sample_gives_no_update() -> None:
    s = scheduler(max_batch_prefill_tokens=4)
    s.add(ask(1, words(6)))
    assert step(s)[1] == {}
    assert step(s)[1][1].tokens == (7,)


def test_running_rows_come_first_and_the_last_prompt_is_split() -> None:
    s = scheduler(max_batch_prefill_tokens=10)
    s.add(ask(1, words(3)))
    step(s)
    s.add(ask(2, words(5, 200)))
    s.add(ask(3, words(20, 300)))
    assert sizes(planned(s)) == {1: 1, 2: 5, 3: 4}


def test_a_long_prompt_leaves_a_token_for_every_row_behind_it() -> None:
    s = scheduler(max_batch_prefill_tokens=8, policy="priority")
    s.add(ask(1, words(2), 20, priority=1))
    s.add(ask(2, words(2, 200), 20, priority=1))
    step(s)
    s.add(ask(3, words(30, 300), priority=0))
    step(s)
    assert sizes(planned(s)) == {3: 6, 1: 1, 2: 1}


def test_rows_beyond_the_budget_wait_their_turn() -> None:
    s = scheduler(max_batch_prefill_tokens=2)
    for request_id in range(3):
        s.add(ask(request_id, [request_id + 1], 3))
    assert sizes(step(s)[0]) == {0: 1, 1: 1}
    assert sizes(step(s)[0]) == {0: 1, 1: 1}
    assert {request_id: len(tokens) for request_id, tokens in run(s).items()} == {0: 1, 1: 1, 2: 3}


def test_no_more_rows_than_slots_and_slot_0_is_reserved() -> None:
    s = scheduler(max_batch_size=2)
    for request_id in range(5):
        s.add(ask(request_id, words(3, 100 * request_id)))
    plan = planned(s)
    assert [chunk.slot for chunk in plan.chunks] == [1, 2]
    assert (s.num_running, s.num_waiting) == (2, 3)


def test_a_slot_is_freed_and_taken_again_in_one_step() -> None:
    s = scheduler(max_batch_size=1)
    s.add(ask(1, words(3), 1))
    s.add(ask(2, words(3, 200), 1))
    first, _ = step(s)
    second = planned(s)
    assert (first.leave, [enter.slot for enter in first.enter]) == ((), [1])
    assert (second.leave, [(enter.request_id, enter.slot) for enter in second.enter]) == ((1,), [(2, 1)])


def test_leave_waits_for_the_next_step_with_work() -> None:
    s = scheduler()
    s.add(ask(1, words(3), 1))
    step(s)
    assert s.schedule() is None
    s.add(ask(2, words(3), 1))
    assert planned(s).leave == (1,)


class TestGate:
    def test_at_once_when_unset(self) -> None:
        s = scheduler()
        s.add(ask(1, words(3)))
        step(s)
        s.add(ask(2, words(3)))
        assert 2 in sizes(planned(s))

    def test_ratio_of_waiting_to_running(self) -> None:
        s = scheduler(waiting_served_ratio=1.5)
        for request_id in (1, 2):
            s.add(ask(request_id, words(3), 50))
        step(s)
        for request_id in (3, 4):
            s.add(ask(request_id, words(3), 50))
        assert sizes(step(s)[0]).keys() == {1, 2}, "2 waiting < 1.5 x 2 running"
        s.add(ask(5, words(3), 50))
        assert sizes(step(s)[0]).keys() == {1, 2, 3, 4, 5}

    def test_nothing_running_opens_it(self) -> None:
        s = scheduler(waiting_served_ratio=100.0)
        s.add(ask(1, words(3)))
        assert sizes(planned(s)) == {1: 3}

    def test_whoever_waited_long_enough_passes_alone(self) -> None:
        s = scheduler(waiting_served_ratio=100.0, max_waiting_tokens=3)
        s.add(ask(1, words(3), 50))
        step(s)
        s.add(ask(2, words(3), 50))
        step(s)
        s.add(ask(3, words(3), 50))
        seen = [sizes(step(s)[0]).keys() for _ in range(4)]
        assert seen == [{1}, {1}, {1, 2}, {1, 2, 3}]

    def test_the_preempted_come_back_through_a_closed_gate(self) -> None:
        s = scheduler(blocks=8, block_size=1, waiting_served_ratio=100.0)
        for request_id, new in ((1, 7), (2, 3), (3, 7)):
            s.add(ask(request_id, [request_id], new))
        step(s)
        s.add(ask(4, [4], 7))
        seen = [list(sizes(step(s)[0])) for _ in range(3)]
        assert seen == [[1, 2, 3], [1, 2], [1, 3]], "3 gives way to 2, and is back when that has ended; 4 waits"


class TestRefused:
    def test_what_no_pool_could_hold(self) -> None:
        s = scheduler(blocks=3, block_size=4)
        with pytest.raises(InvalidRequest) as caught:
            s.add(ask(1, words(10), 3))
        assert str(caught.value) == (
            "`inputs` tokens + `max_new_tokens` must be <= 12. Given: 10 `inputs` tokens and 3 `max_new_tokens`"
        )
        s.add(ask(1, words(10), 2))
        assert len(run(s)[1]) == 2

    def test_what_the_model_does_not_allow(self) -> None:
        s = scheduler(max_total_tokens=20)
        assert s.capacity == 20
        with pytest.raises(InvalidRequest, match="must be <= 20"):
            s.add(ask(1, words(18), 3))

    @pytest.mark.parametrize(("prompt", "new", "message"), [([], 3, "cannot be empty"), ([1], 0, "strictly positive")])
    def test_nothing_to_do(self, prompt: list[int], new: int, message: str) -> None:
        with pytest.raises(InvalidRequest, match=message):
            scheduler().add(ask(1, prompt, new))

    def test_an_id_that_is_in_use(self) -> None:
        s = scheduler()
        s.add(ask(1, words(3)))
        with pytest.raises(InvalidRequest, match="request id 1 is in use"):
            s.add(ask(1, words(3)))

    def test_a_full_queue(self) -> None:
        s = scheduler(max_waiting_requests=2)
        s.add(ask(1, words(3)))
        s.add(ask(2, words(3)))
        with pytest.raises(Overloaded, match="Model is overloaded"):
            s.add(ask(3, words(3)))
        step(s)
        s.add(ask(3, words(3)))

    @pytest.mark.parametrize("bad", [{"max_batch_size": 0}, {"max_batch_prefill_tokens": 0}, {"blocks": 0}])
    def test_options_that_leave_no_room(self, bad: dict[str, int]) -> None:
        with pytest.raises(ConfigError, match="at least 1"):
            scheduler(**bad)

    def test_an_unknown_policy(self) -> None:
        with pytest.raises(ConfigError, match="choose one of: fcfs, priority, fair"):
            scheduler(policy="lifo")


def test_the_gauges() -> None:
    s = scheduler(max_batch_prefill_tokens=6)
    assert not s.has_work
    s.add(ask(1, words(6), 10))
    s.add(ask(2, words(9, 200), 5))
    assert (s.has_work, s.num_running, s.num_waiting) == (True, 0, 2)
    plan = planned(s)
    assert s.in_prompt(plan.chunks[0])
    assert (s.num_running, s.num_waiting, s.blocks_used, s.batch_max_tokens) == (1, 1, 2, 16)
    answer(s, plan)
    plan = planned(s)
    assert [s.in_prompt(chunk) for chunk in plan.chunks] == [False, True]
    assert s.batch_max_tokens == 30

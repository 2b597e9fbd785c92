"""Cancelled, failed, aborted: one request ends, the others do not notice."""

import pytest
from by_hand import answer, ask, planned, run, scheduler, sizes, step, words

from engine.sched.plan import ChunkOutput, StepResult
from engine.types import FinishReason


class TestCancel:
    def test_while_it_waits(self) -> None:
        s = scheduler(max_batch_size=1)
        s.add(ask(1, words(3)))
        s.add(ask(2, words(3)))
        step(s)
        assert s.cancel(2)
        assert run(s).keys() == {1}

    def test_before_its_first_step(self) -> None:
        s = scheduler()
        s.add(ask(1, words(3)))
        assert s.cancel(1)
        assert s.schedule() is None
        assert not s.has_work

    def test_while_it_runs(self) -> None:
        s = scheduler()
        s.add(ask(1, words(3)))
        step(s)
        assert s.cancel(1)
        assert s.blocks_used == 0
        assert s.schedule() is None

    def test_under_a_running_step_it_keeps_its_blocks_until_the_commit(self) -> None:
        s = scheduler()
        s.add(ask(1, words(9)))
        plan = planned(s)
        assert s.cancel(1)
        assert s.blocks_used == 3
        assert answer(s, plan) == {}
        assert s.blocks_used == 0

    def test_under_the_step_of_its_last_token_it_is_cancelled_and_nothing_else(self) -> None:
        s = scheduler()
        s.add(ask(1, words(3), 1))
        plan = planned(s)
        assert s.cancel(1)
        assert answer(s, plan) == {}
        assert not s.cancel(1)

    def test_twice_unknown_and_too_late(self) -> None:
        s = scheduler()
        s.add(ask(1, words(3), 1))
        assert not s.cancel(2)
        step(s)
        assert not s.cancel(1), "it has ended by itself"
        s.add(ask(3, words(3)))
        assert [s.cancel(3), s.cancel(3)] == [True, False]

    def test_an_id_used_again_under_the_same_step_is_another_request(self) -> None:
        s = scheduler()
        s.add(ask(1, words(3)))
        plan = planned(s)
        s.cancel(1)
        s.add(ask(1, words(5, 200), 2))
        assert answer(s, plan) == {}
        again = planned(s)
        assert (again.leave, sizes(again)) == ((1,), {1: 5})
        assert answer(s, again)[1].tokens == (7,)

    def test_a_preempted_one(self) -> None:
        s = scheduler(blocks=6, block_size=1)
        s.add(ask(1, [1], 5))
        s.add(ask(2, [2], 5))
        while not s.preemptions:
            step(s)
        assert s.cancel(2)
        assert run(s).keys() == {1}
        assert s.blocks_used == 0


class TestErrors:
    def test_one_row_fails_alone(self) -> None:
        s = scheduler()
        s.add(ask(1, words(3), 2))
        s.add(ask(2, words(3, 200), 2))
        _, updates = step(s, {1: ChunkOutput(error="a logit is not a number")})
        assert (updates[1].finish_reason, updates[1].error) == (FinishReason.ERROR, "a logit is not a number")
        assert updates[1].tokens == ()
        assert updates[2].tokens == (7,)
        plan = planned(s)
        assert (plan.leave, sizes(plan)) == ((1,), {2: 1})

    def test_what_failed_is_not_published(self) -> None:
        s = scheduler()
        s.add(ask(1, words(9)))
        step(s, {1: ChunkOutput(error="a logit is not a number")})
        s.add(ask(2, words(9)))
        assert planned(s).chunks[0].start == 0

    def test_a_worker_that_returns_nothing_for_a_row(self) -> None:
        s = scheduler()
        s.add(ask(1, words(3)))
        plan = planned(s)
        (update,) = s.commit(StepResult(plan.step))
        assert update.error == "the worker returned nothing for this request"

    @pytest.mark.parametrize("tokens", [(), (1, 2)])
    def test_a_worker_that_returns_too_few_or_too_many_tokens(self, tokens: tuple[int, ...]) -> None:
        s = scheduler()
        s.add(ask(1, words(3)))
        _, updates = step(s, {1: ChunkOutput(tokens=tokens)})
        assert updates[1].error == f"the worker returned {len(tokens)} tokens, not 1 to 1"

    def test_tokens_from_the_middle_of_a_prompt(self) -> None:
        s = scheduler(max_batch_prefill_tokens=2)
        s.add(ask(1, words(3)))
        _, updates = step(s, {1: ChunkOutput(tokens=(7,))})
        assert updates[1].finish_reason is FinishReason.ERROR


class TestAbort:
    def test_the_step_in_flight_fails_and_the_rest_goes_on(self) -> None:
        s = scheduler(max_batch_size=2)
        for request_id in (1, 2, 3):
            s.add(ask(request_id, words(5, 100 * request_id), 2))
        plan = planned(s)
        assert sizes(plan).keys() == {1, 2}
        s.cancel(2)
        (update,) = s.abort_step("out of memory")
        assert (update.request_id, update.finish_reason, update.error) == (1, FinishReason.ERROR, "out of memory")
        assert s.blocks_used == 0
        following = planned(s)
        assert following.leave == (1, 2)
        assert answer(s, following).keys() == {3}

    def test_slots_that_were_leaving_are_told_again(self) -> None:
        s = scheduler()
        s.add(ask(1, words(3), 1))
        s.add(ask(2, words(3), 9))
        step(s)
        assert planned(s).leave == (1,)
        s.abort_step("out of memory")
        s.add(ask(3, words(3)))
        assert planned(s).leave == (1, 2)

    def test_running_rows_that_were_not_computed_live(self) -> None:
        s = scheduler(max_batch_prefill_tokens=2)
        s.add(ask(1, [1], 9))
        s.add(ask(2, [2], 9))
        step(s)
        s.add(ask(3, [3], 2))
        assert sizes(planned(s)).keys() == {1, 2}
        s.abort_step("out of memory")
        assert run(s).keys() == {3}


class TestOrderOfCalls:
    def test_one_step_at_a_time(self) -> None:
        s = scheduler()
        s.add(ask(1, words(3)))
        planned(s)
        with pytest.raises(RuntimeError, match="step 1 is in flight"):
            s.schedule()

    def test_only_the_step_in_flight_is_committed_or_aborted(self) -> None:
        s = scheduler()
        s.add(ask(1, words(3)))
        with pytest.raises(RuntimeError, match="no step is in flight"):
            s.abort_step("?")
        plan = planned(s)
        with pytest.raises(RuntimeError, match="step 9 is not in flight"):
            s.commit(StepResult(9))
        assert answer(s, plan)[1].tokens == (7,)
        with pytest.raises(RuntimeError, match="step 1 is not in flight"):
            s.commit(StepResult(plan.step))

"""The same laws driven by hypothesis, which shrinks what it finds to the shortest run."""

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from rolling_hash import VOCAB, Draft
from scheduler_laws import Laws

from engine.config import SchedulerOptions
from engine.types import GenerateRequest, SamplingParams

OPTIONS = st.builds(
    SchedulerOptions,
    max_batch_prefill_tokens=st.integers(1, 20),
    max_batch_size=st.integers(1, 4),
    max_total_tokens=st.none() | st.just(12),
    max_waiting_requests=st.none() | st.just(3),
    waiting_served_ratio=st.none() | st.sampled_from([0.5, 1.2]),
    max_waiting_tokens=st.none() | st.integers(0, 4),
    policy=st.sampled_from(["fcfs", "priority", "fair"]),
)
PARAMS = st.builds(
    SamplingParams,
    max_new_tokens=st.integers(1, 9),
    ignore_eos=st.booleans(),
    stop_token_ids=st.sampled_from([(), (3,)]),
    prompt_logprobs=st.booleans(),
)
REQUESTS = st.builds(
    GenerateRequest,
    prompt=st.lists(st.integers(1, 2), min_size=1, max_size=10).map(tuple),
    params=PARAMS,
    priority=st.integers(0, 2),
    tenant=st.integers(0, 2),
    salt=st.sampled_from([b"", b"a"]),
)


class Machine(RuleBasedStateMachine):
    laws: Laws | None = None

    @initialize(
        options=OPTIONS, num_blocks=st.integers(3, 14), block_size=st.sampled_from([1, 2, 3]), caching=st.booleans()
    )
    def start(self, options: SchedulerOptions, num_blocks: int, block_size: int, caching: bool) -> None:
        self.laws = Laws(options, num_blocks=num_blocks, block_size=block_size, prefix_caching=caching)

    @rule(request=REQUESTS)
    def add(self, request: GenerateRequest) -> None:
        self.laws.add(request)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.laws.cancel(data.draw(st.integers(0, self.laws.added)))

    @precondition(lambda self: self.laws.plan is None)
    @rule()
    def schedule(self) -> None:
        self.laws.schedule()

    @precondition(lambda self: self.laws.plan is not None)
    @rule(right=st.integers(0, 4), noise=st.lists(st.integers(0, VOCAB - 1), max_size=3))
    def commit(self, right: int, noise: list[int]) -> None:
        self.laws.commit(self._draft(right, noise))

    @precondition(lambda self: self.laws.plan is not None)
    @rule(data=st.data())
    def commit_with_a_fault(self, data: st.DataObject) -> None:
        chunk = data.draw(st.sampled_from(self.laws.plan.chunks))
        self.laws.commit(self._draft(1, []), faults=[chunk.request_id])

    @precondition(lambda self: self.laws.plan is not None)
    @rule(before_seating=st.booleans())
    def abort(self, before_seating: bool) -> None:
        self.laws.abort(before_seating=before_seating)

    def _draft(self, right: int, noise: list[int]) -> Draft:
        def draft(request_id: int, tokens: Sequence[int]) -> tuple[int, ...]:
            record = self.laws.live.get(request_id)
            if record is None:
                return ()
            return (*record.expected.tokens[len(tokens) - len(record.request.prompt) :][:right], *noise)

        return draft

    @invariant()
    def lawful(self) -> None:
        if self.laws is not None:
            self.laws.check()

    def teardown(self) -> None:
        if self.laws is not None:
            self.laws.drain()


def run_machine(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


def test_state_machine() -> None:
    run_machine(examples=120, steps=30)


@pytest.mark.slow
def test_state_machine_for_long() -> None:
    run_machine(examples=2_000, steps=50)

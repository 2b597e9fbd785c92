"""Speculation: what is guessed is verified, kept as far as it is right, and costs nobody else anything."""

import pytest
from by_hand import EOS, answer, ask, planned, run, scheduler, sizes, step, words

from engine.sched.plan import ChunkOutput
from engine.sched.scheduler import Scheduler
from engine.types import FinishReason, TokenScore


def started(max_new_tokens: int = 20, draft: tuple[int, ...] = (21, 22, 23), **options: int) -> Scheduler:
    """A scheduler with request 1 (prompt 1, 2, 3) after its first token 20, and the draft that came with it."""
    s = scheduler(**options)
    s.add(ask(1, [1, 2, 3], max_new_tokens))
    step(s, {1: ChunkOutput(tokens=(20,), draft=draft)})
    return s


def test_a_draft_is_computed_after_the_known_token() -> None:
    (chunk,) = planned(started()).chunks
    assert (chunk.start, chunk.tokens, chunk.num_draft, chunk.sample) == (3, (20, 21, 22, 23), 3, True)


@pytest.mark.parametrize("accepted", [0, 1, 2, 3])
def test_what_is_rejected_is_computed_again(accepted: int) -> None:
    s = started()
    tokens = (*range(21, 21 + accepted), 9)
    _, updates = step(s, {1: ChunkOutput(tokens=tokens)})
    assert (updates[1].tokens, updates[1].drafted, updates[1].accepted) == (tokens, 3, accepted)
    (chunk,) = planned(s).chunks
    assert (chunk.start, chunk.tokens, chunk.num_draft) == (4 + accepted, (9,), 0)


def test_a_draft_is_used_once() -> None:
    s = started()
    step(s, {1: ChunkOutput(tokens=(9,))})
    assert sizes(planned(s)) == {1: 1}


@pytest.mark.parametrize(("max_new_tokens", "drafted"), [(2, 0), (3, 1), (4, 2), (5, 3), (6, 3)])
def test_no_more_is_guessed_than_may_still_come(max_new_tokens: int, drafted: int) -> None:
    (chunk,) = planned(started(max_new_tokens)).chunks
    assert chunk.num_draft == drafted


def test_a_draft_takes_what_the_budget_leaves() -> None:
    s = started(max_batch_prefill_tokens=3)
    assert planned(s).chunks[0].num_draft == 2


def test_drafts_share_what_is_left_in_order() -> None:
    s = scheduler(max_batch_prefill_tokens=6)
    for request_id in (1, 2):
        s.add(ask(request_id, [request_id], 20))
    step(s, {request_id: ChunkOutput(tokens=(20,), draft=(21, 22, 23)) for request_id in (1, 2)})
    assert sizes(planned(s)) == {1: 4, 2: 2}


def test_no_draft_where_it_would_cost_a_peer_its_block() -> None:
    s = scheduler(blocks=4, block_size=1)
    s.add(ask(1, [1], 3))
    s.add(ask(2, [2], 3))
    step(s, {1: ChunkOutput(tokens=(20,), draft=(21,)), 2: ChunkOutput(tokens=(30,))})
    plan = planned(s)
    assert sizes(plan) == {1: 1, 2: 1}, "the four blocks are needed for four known tokens"
    assert s.preemptions == 0


def test_a_rejected_draft_gives_its_blocks_back() -> None:
    s = started(block_size=1)
    assert planned(s).num_tokens == 4
    assert s.blocks_used == 7
    s = started(block_size=1)
    step(s, {1: ChunkOutput(tokens=(9,))})
    assert s.blocks_used == 5, "3 + 2 known tokens; those of the guesses are free again"


def test_a_rejected_draft_is_never_published() -> None:
    s = started(block_size=1)
    step(s, {1: ChunkOutput(tokens=(9,))})
    s.add(ask(2, [1, 2, 3, 20, 21, 22, 23, 1], 1))
    chunk = planned(s).chunks[1]
    assert chunk.start == 4, "1, 2, 3 and 20 were computed for good; 21 was a guess"


def test_an_end_token_among_accepted_drafts_ends_the_request_there() -> None:
    s = started(draft=(21, EOS, 23))
    scores = (-1.0, -2.0, -3.0, -4.0)
    top = tuple((TokenScore(i, -1.0),) for i in range(4))
    _, updates = step(s, {1: ChunkOutput(tokens=(21, EOS, 23, 24), logprobs=scores, top=top)})
    update = updates[1]
    assert (update.tokens, update.logprobs, update.top) == ((21, EOS), scores[:2], top[:2])
    assert (update.drafted, update.accepted, update.finish_reason) == (3, 2, FinishReason.EOS)
    assert s.blocks_used == 0
    assert not s.has_work


def test_length_is_reported_before_an_end_token_in_the_last_place() -> None:
    s = started(max_new_tokens=3)
    _, updates = step(s, {1: ChunkOutput(tokens=(21, EOS))})
    assert updates[1].finish_reason is FinishReason.LENGTH


def test_stop_token_ids_hold_even_where_end_tokens_do_not() -> None:
    s = scheduler()
    s.add(ask(1, [1], 9, ignore_eos=True, stop_token_ids=(5,)))
    _, first = step(s, {1: ChunkOutput(tokens=(EOS,))})
    _, second = step(s, {1: ChunkOutput(tokens=(5,))})
    assert first[1].finish_reason is None
    assert second[1].finish_reason is FinishReason.EOS


def test_a_draft_is_dropped_with_a_preemption() -> None:
    s = scheduler(blocks=6, block_size=1)
    for request_id in (1, 2):
        s.add(ask(request_id, [request_id], 5))
    while not s.preemptions:
        plan = planned(s)
        answer(s, plan, {c.request_id: ChunkOutput(tokens=(20,), draft=(21,)) for c in plan.chunks})
    s.cancel(1)
    (chunk,) = planned(s).chunks
    assert (chunk.request_id, chunk.num_draft) == (2, 0)


def test_a_draft_beside_a_prompt_still_in_chunks() -> None:
    s = started(max_batch_prefill_tokens=8)
    s.add(ask(2, words(20), 3))
    assert sizes(planned(s)) == {1: 4, 2: 4}
    s.abort_step("enough")
    assert run(s) == {}

"""Texts to embed: each whole in one step, once, and nothing of them is kept."""

from random import Random

import pytest
from by_hand import VECTOR, answer, ask, planned, scheduler, sizes, step, text, words

from engine.errors import InvalidRequest
from engine.sched.plan import ChunkOutput
from engine.types import FinishReason


def test_a_text_is_one_chunk_with_the_flags_of_its_request() -> None:
    s = scheduler()
    s.add(text(1, words(10)))
    plan, updates = step(s)
    (chunk,) = plan.chunks
    assert (chunk.start, len(chunk.tokens), len(chunk.blocks)) == (0, 10, 3)
    assert (chunk.embed, chunk.bidirectional, chunk.sample, chunk.num_draft) == (True, True, False, 0)
    assert (updates[1].embedding, updates[1].finish_reason) == (VECTOR, FinishReason.LENGTH)
    assert not s.has_work
    assert s.blocks_used == 0


def test_a_text_waits_for_a_step_that_has_room_for_all_of_it() -> None:
    s = scheduler(max_batch_prefill_tokens=10)
    s.add(text(1, words(6)))
    s.add(text(2, words(5)))
    s.add(text(3, words(2)))
    assert sizes(step(s)[0]) == {1: 6}
    assert sizes(step(s)[0]) == {2: 5, 3: 2}


def test_a_text_is_not_split_beside_a_prompt_that_is() -> None:
    s = scheduler(max_batch_prefill_tokens=10)
    s.add(ask(1, words(14)))
    s.add(text(2, words(8)))
    assert sizes(step(s)[0]) == {1: 10}
    assert sizes(step(s)[0]) == {1: 4}
    assert sizes(step(s)[0]) == {1: 1, 2: 8}


def test_as_many_texts_as_fit_are_embedded_at_once() -> None:
    s = scheduler(max_batch_prefill_tokens=64, max_batch_size=5)
    for request_id in range(7):
        s.add(text(request_id, words(8)))
    plan, updates = step(s)
    assert len(plan.chunks) == len(updates) == 5
    assert len(planned(s).chunks) == 2


@pytest.mark.parametrize(("length", "options"), [(11, {"max_batch_prefill_tokens": 10}), (17, {"blocks": 4})])
def test_a_text_that_fits_no_step_is_refused(length: int, options: dict[str, int]) -> None:
    s = scheduler(**options)
    assert s.max_embed_tokens == length - 1
    with pytest.raises(InvalidRequest, match=rf"at most {length - 1} tokens to be embedded. Given: {length}"):
        s.add(text(1, words(length)))
    with pytest.raises(InvalidRequest, match="empty"):
        s.add(text(1, []))
    s.add(text(1, words(length - 1)))
    assert sizes(step(s)[0]) == {1: length - 1}


def test_texts_neither_use_nor_fill_the_prefix_cache() -> None:
    """A prompt's keys and values say nothing of a text whose tokens see what comes after, nor the other way round."""
    s = scheduler()
    for _ in range(2):
        s.add(text(1, words(8)))
        assert sizes(step(s)[0]) == {1: 8}
    s.add(ask(2, words(8), 1))
    assert sizes(step(s)[0]) == {2: 8}
    s.add(text(3, words(8)))
    assert sizes(step(s)[0]) == {3: 8}
    s.add(ask(4, words(8), 1))
    assert sizes(step(s)[0]) == {4: 4}
    assert s.cached_tokens == 4


def test_an_error_and_a_missing_vector_end_the_request() -> None:
    s = scheduler()
    s.add(text(1, words(3)))
    s.add(text(2, words(3)))
    s.add(text(3, words(3)))
    _, updates = step(s, {1: ChunkOutput(error="NaN"), 2: ChunkOutput()})
    assert [updates[request_id].error for request_id in (1, 2, 3)] == ["NaN", "the worker returned no vector", None]
    assert not s.has_work


def test_a_text_cancelled_under_its_step_gives_no_update() -> None:
    s = scheduler()
    s.add(text(1, words(3)))
    plan = planned(s)
    assert s.cancel(1)
    assert answer(s, plan) == {}
    assert s.blocks_used == 0


def test_a_failed_step_ends_its_texts_only() -> None:
    s = scheduler(max_batch_prefill_tokens=4)
    s.add(text(1, words(3)))
    s.add(text(2, words(3)))
    planned(s)
    assert [(update.request_id, update.error) for update in s.abort_step("out of order")] == [(1, "out of order")]
    assert sizes(step(s)[0]) == {2: 3}


@pytest.mark.parametrize("seed", range(60))
def test_texts_among_prompts_at_random(seed: int) -> None:
    """Every text is computed whole and once within the budget, every prompt is answered, and all blocks come back."""
    r = Random(seed)
    budget = r.choice([6, 12, 40])
    s = scheduler(
        blocks=r.randint(6, 20),
        block_size=2,
        max_batch_prefill_tokens=budget,
        max_batch_size=r.randint(1, 6),
        policy=r.choice(["fcfs", "priority", "fair"]),
    )
    left = {}
    for request_id in range(r.randint(1, 20)):
        embeds = r.random() < 0.5
        prompt = words(r.randint(1, min(8, s.max_embed_tokens)))
        priority = r.randint(0, 2)
        request = text(request_id, prompt, priority=priority) if embeds else ask(request_id, prompt, r.randint(1, 4))
        s.add(request)
        left[request_id] = request
    while left:
        plan = planned(s)
        assert plan.num_tokens <= budget
        for chunk in plan.chunks:
            request = left[chunk.request_id]
            assert chunk.embed == request.embed
            assert not chunk.embed or (chunk.start, list(chunk.tokens)) == (0, request.tokens)
        for request_id, update in answer(s, plan).items():
            if left[request_id].embed:
                assert update.embedding == VECTOR
            if update.finish_reason is not None:
                del left[request_id]
        assert not [chunk for chunk in plan.chunks if chunk.embed and chunk.request_id in left]
    assert not s.has_work
    assert s.blocks_used == 0

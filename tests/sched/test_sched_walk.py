"""The scheduler's laws under a seeded random walk."""

from collections import Counter

import pytest
from scheduler_walk import tally, walk


def walks(seeds: range) -> Counter[str]:
    seen: Counter[str] = Counter()
    for seed in seeds:
        seen += tally(walk(seed))
    return seen


def test_random_walks() -> None:
    seen = walks(range(400))
    # A walk that never meets a case proves nothing about it.
    for case in ("finished", "cancelled", "failed", "preemptions", "cached", "accepted"):
        assert seen[case] >= 30, f"{case} too rare: {seen}"
    assert seen["drafted"] > seen["accepted"] + 100, "drafts must also be wrong"


def test_the_same_calls_give_the_same_plans() -> None:
    for seed in range(20):
        assert walk(seed).plans == walk(seed).plans


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_thousands_of_random_walks(block: int) -> None:
    walks(range(1_000 * (block + 1), 1_000 * (block + 2)))

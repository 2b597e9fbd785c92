"""The scheduler's parts alone: blocks, budget, policies, tenants."""

from by_hand import ask
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.sched.blocks import BlockPool
from engine.sched.budget import admits, blocks_for, gate_open, share
from engine.sched.policy import POLICIES, Tenants

TOKENS = list(range(1, 9))


def filled(pool: BlockPool, tokens: list[int], salt: bytes = b"") -> list[int]:
    """Take blocks for full-block `tokens`, publish them and let go."""
    blocks = pool.take(len(tokens) // pool.block_size)
    assert blocks is not None
    pool.publish([pool.salt_key(salt)], tokens, blocks, 0, len(blocks))
    pool.release(blocks)
    return blocks


def found(pool: BlockPool, tokens: list[int], salt: bytes = b"") -> list[int]:
    return pool.match([pool.salt_key(salt)], tokens)


class TestBlocks:
    def test_block_0_is_never_handed_out(self) -> None:
        pool = BlockPool(4, 2)
        assert pool.take(4) is None
        assert sorted(pool.take(3) or []) == [1, 2, 3]
        assert (pool.available, pool.used, pool.capacity) == (0, 3, 3)

    def test_the_least_recently_used_goes_first_and_a_prefix_outlives_its_end(self) -> None:
        pool = BlockPool(7, 2)
        old, new = filled(pool, [1, 2, 3, 4]), filled(pool, [5, 6, 7, 8])
        assert len(found(pool, [1, 2, 3, 4, 0])) == 2
        pool.take(2)  # the two that hold nothing
        assert pool.take(2) == [old[1], old[0]]
        assert pool.take(1) == [new[1]]
        assert found(pool, [5, 6, 7, 8, 0]) == [new[0]]

    def test_a_hit_that_is_held_is_not_evicted(self) -> None:
        pool = BlockPool(3, 2)
        blocks = filled(pool, [1, 2])
        pool.hold(found(pool, [1, 2, 3]))
        assert pool.take(2) is None
        assert pool.take(1) != blocks

    def test_the_first_publisher_keeps_the_key(self) -> None:
        pool = BlockPool(5, 2)
        first, second = pool.take(1), pool.take(1)
        assert first is not None
        assert second is not None
        for blocks in (first, second):
            pool.publish([pool.salt_key(b"")], [1, 2], blocks, 0, 1)
        assert found(pool, [1, 2, 3]) == first
        pool.release(second)
        pool.take(3)  # evicts the twin, which was never published
        assert found(pool, [1, 2, 3]) == first

    def test_a_collision_is_no_hit(self) -> None:
        pool = BlockPool(5, 2)
        filled(pool, [1, 2])
        (key,) = pool.published
        pool.contents[pool.published[key]] = key, b"other tokens"
        assert found(pool, [1, 2, 3]) == []

    def test_a_block_stands_for_all_tokens_before_it(self) -> None:
        pool = BlockPool(9, 2)
        filled(pool, [1, 2, 3, 4])
        assert found(pool, [3, 4, 0]) == []
        assert len(found(pool, [1, 2, 5, 6, 0])) == 1

    def test_wide_token_ids_do_not_run_into_each_other(self) -> None:
        pool = BlockPool(9, 2)
        filled(pool, [1, 256])
        for other in ([257, 0], [1, 0], [256, 1], [2**40 + 1, 256]):
            assert found(pool, [*other, 0]) == []

    @settings(derandomize=True, deadline=None, database=None)
    @given(
        one=st.binary(max_size=40),
        other=st.binary(max_size=40),
        tokens=st.lists(st.integers(0, 2**31), min_size=3, max_size=9),
    )
    def test_two_salts_never_share(self, one: bytes, other: bytes, tokens: list[int]) -> None:
        pool = BlockPool(20, 1, b"secret")
        filled(pool, tokens, one)
        assert bool(found(pool, tokens, other)) == (one == other)

    @settings(derandomize=True, deadline=None, database=None)
    @given(st.lists(st.integers(0, 1), min_size=1, max_size=12), st.lists(st.integers(0, 1), min_size=1, max_size=12))
    def test_a_match_is_the_longest_common_start_in_whole_blocks(self, known: list[int], asked: list[int]) -> None:
        pool = BlockPool(20, 2, b"secret")
        filled(pool, known)
        common = next(
            (i for i, (a, b) in enumerate(zip(known, asked, strict=False)) if a != b), min(len(known), len(asked))
        )
        assert len(found(pool, asked)) == min(common, len(asked) - 1) // 2


class TestBudget:
    @given(st.integers(0, 1_000), st.integers(1, 64))
    @settings(derandomize=True, deadline=None, database=None)
    def test_blocks_for(self, tokens: int, size: int) -> None:
        blocks = blocks_for(tokens, size)
        assert blocks * size >= tokens > (blocks - 1) * size

    def test_shares_never_fall_below_one_and_add_up(self) -> None:
        for budget in range(1, 20):
            left, taken = budget, []
            for behind in reversed(range(5)):
                if left:
                    taken.append(min(share(left, behind), 100))
                    left -= taken[-1]
            assert sum(taken) == budget
            assert len(taken) == min(budget, 5)

    def test_the_gate(self) -> None:
        assert gate_open(1, 0, 9.0)
        assert gate_open(1, 100, None)
        assert gate_open(12, 10, 1.2)
        assert not gate_open(11, 10, 1.2)

    def test_admission_keeps_a_block_a_row_up_to_a_sixteenth(self) -> None:
        assert admits(10, 10, 0, 10)
        assert not admits(9, 10, 2, 32)
        assert admits(8, 10, 2, 32)
        assert admits(8, 10, 30, 32)


class TestPolicies:
    def test_orders(self) -> None:
        served = {0: 5, 1: 3}
        requests = [ask(i, [1], priority=p, tenant=t) for i, (p, t) in enumerate([(1, 0), (0, 0), (1, 1), (0, 1)])]
        for arrival, request in enumerate(requests):
            request.arrival = arrival
        ranks = {name: sorted((order(r, served), r.id) for r in requests) for name, order in POLICIES.items()}
        assert {name: [request_id for _, request_id in ranked] for name, ranked in ranks.items()} == {
            "fcfs": [0, 1, 2, 3],
            "priority": [1, 3, 0, 2],
            "fair": [2, 3, 0, 1],
        }

    def test_a_tenant_that_was_away_starts_level(self) -> None:
        tenants = Tenants()
        tenants.join(1)
        tenants.charge(1, 40)
        tenants.join(2)
        assert tenants.served == {1: 40, 2: 40}
        tenants.charge(2, 30)
        tenants.leave(2)
        tenants.join(2)
        assert tenants.served[2] == 70, "nor does it shed its debt"

    def test_all_is_forgotten_when_nobody_is_left(self) -> None:
        tenants = Tenants()
        for _ in range(2):
            tenants.join(1)
        tenants.leave(1)
        assert tenants.served
        tenants.leave(1)
        assert not tenants.served

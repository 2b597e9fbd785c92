import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_laws import FITS, MISFITS, misfit

from engine.sample import noise

law = settings(derandomize=True, deadline=None, database=None, max_examples=60)
words = st.integers(0, 2**32 - 1)

# Random123, tests/kat_vectors, the lines "philox4x32 10": counter, key, result.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def hexadecimal(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def philox_of_one(counter: list[int], key: list[int]) -> list[int]:
    """The round function as the paper writes it, in Python's integers."""
    (l0, r0, l1, r1), (k0, k1) = counter, key
    for _ in range(10):
        high0, low0 = divmod(l0 * 0xD2511F53, 2**32)
        high1, low1 = divmod(l1 * 0xCD9E8D57, 2**32)
        l0, r0, l1, r1 = high1 ^ r0 ^ k0, low1, high0 ^ r1 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [l0, r0, l1, r1]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(counter: str, key: str, result: str) -> None:
    column = np.array(hexadecimal(counter), np.uint64)[:, None]
    low, high = hexadecimal(key)
    assert noise.philox(column, (low, high))[:, 0].tolist() == hexadecimal(result)


@law
@given(
    st.lists(st.lists(words, min_size=4, max_size=4), min_size=1, max_size=5), st.lists(words, min_size=2, max_size=2)
)
def test_philox_equals_the_paper_column_by_column(counters: list[list[int]], key: list[int]) -> None:
    made = noise.philox(np.array(counters, np.uint64).T, (key[0], key[1]))
    assert made.T.tolist() == [philox_of_one(counter, key) for counter in counters]


@law
@given(st.integers(0, 2**64 - 1), words, st.sets(st.integers(0, 2000), min_size=1), st.integers(0, 3))
def test_a_number_is_a_function_of_seed_position_stream_and_id(
    seed: int, position: int, ids: set[int], stream: int
) -> None:
    made = noise.uniform(seed, position, np.array(sorted(ids)), stream)
    key = [seed % 2**32, seed // 2**32]
    for token, u in zip(sorted(ids), made.tolist(), strict=True):
        word = philox_of_one([token // 4, position, stream, 0], key)[token % 4]
        assert u == (word + 0.5) / 2**32
        assert 0 < u < 1


@law
@given(st.sets(st.integers(0, 299), min_size=1))
def test_noise_of_a_subset_is_that_of_the_whole(ids: set[int]) -> None:
    some = np.array(sorted(ids))
    assert np.array_equal(noise.gumbel(5, 9, some), noise.gumbel(5, 9, np.arange(300))[some])


def test_gumbel_noise_is_finite_at_both_ends() -> None:
    for word in (0, 2**32 - 1):
        u = (word + 0.5) * 2.0**-32
        assert math.isfinite(-math.log(-math.log(u)))
    assert np.isfinite(noise.gumbel(0, 0, np.arange(200_000))).all()


def test_gumbel_noise_has_its_moments() -> None:
    g = noise.gumbel(1, 1, np.arange(400_000))
    assert g.mean() == pytest.approx(0.5772157, abs=4 * math.sqrt(math.pi**2 / 6 / g.size))
    assert g.var() == pytest.approx(math.pi**2 / 6, rel=0.02)


def together(left: np.ndarray, right: np.ndarray) -> float:
    """Whether two lots of uniform numbers are uniform and independent: their pairs fill a 16 x 16 grid evenly."""
    cells = (left * 16).astype(int) * 16 + (right * 16).astype(int)
    return misfit(cells.tolist(), dict.fromkeys(range(256), 1 / 256))


IDS = np.arange(100_000)


@pytest.mark.parametrize(
    ("seed", "position", "stream"),
    [(7, 4, 0), (8, 3, 0), (7 + 2**32, 3, 0), (7 + 2**63, 3, 0), (7, 3, 1), (3, 7, 0)],
    ids=[
        "next position",
        "next seed",
        "seed's high word",
        "seed's top bit",
        "next stream",
        "seed and position swapped",
    ],
)
def test_neighbouring_draws_are_independent(seed: int, position: int, stream: int) -> None:
    assert together(noise.uniform(7, 3, IDS), noise.uniform(seed, position, IDS, stream)) < FITS


def test_neighbouring_ids_are_independent() -> None:
    u = noise.uniform(7, 3, np.arange(200_000))
    for step in (1, 2, 3, 4):
        assert together(u[:-step], u[step:]) < FITS


def test_the_independence_test_can_fail() -> None:
    u = noise.uniform(7, 3, IDS)
    assert together(u, u) > MISFITS
    assert together(u, (u + 0.1 * noise.uniform(7, 4, IDS)) % 1) > MISFITS

"""The isotonic fit against its definition, and the search for the largest load on servers of every kind."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats.find import Finder
from bench.stats.isotonic import crossing, pava
from bench.stats.simulate import Server

NUMBERS = st.lists(st.floats(-100, 100), min_size=1, max_size=12)


@given(NUMBERS)
def test_fit_is_the_nearest_rising_curve(values):
    """The min-max formula of isotonic regression (Barlow et al. 1972)."""
    n = len(values)
    expected = [
        max(min(np.mean(values[start : end + 1]) for end in range(i, n)) for start in range(i + 1)) for i in range(n)
    ]
    assert pava(values) == pytest.approx(expected, abs=1e-9)


@given(NUMBERS, st.data())
def test_a_weight_is_a_repetition(values, data):
    weights = [data.draw(st.integers(1, 3)) for _ in values]
    repeated = [value for value, weight in zip(values, weights, strict=True) for _ in range(weight)]
    places = np.cumsum(weights) - 1
    assert pava(values, [float(w) for w in weights]) == pytest.approx(pava(repeated)[places], abs=1e-9)


def test_crossing():
    assert crossing([1, 2, 4], [-1.0, -1.0, 1.0]) == 3
    assert crossing([1, 2], [-1.0, 0.0]) is None
    assert crossing([1, 2], [0.5, 0.6]) == 1
    assert len(pava([])) == 0


def search(server: Server, **options: object) -> Finder:
    finder = Finder(**options)  # type: ignore[arg-type]
    while (load := finder.propose()) is not None:
        finder.observe(load, server.ratio(load))
    return finder


@given(st.floats(math.log(1.5), math.log(900)), st.sampled_from([0.0, 0.05, 0.15, 0.3]))
def test_capacity_is_found_without_noise(log_capacity, idle):
    server = Server(math.exp(log_capacity), idle)
    found = search(server).result()
    assert found.load == pytest.approx(server.capacity, rel=0.03)
    assert found.low <= found.load <= found.high
    assert found.limited
    assert len(found.probes) <= 12
    assert all(1 <= probe.load <= 1000 for probe in found.probes)


def test_the_kind_of_edge_is_told():
    assert search(Server(50, 0)).result().edge == "cliff"
    assert search(Server(50, 0.2)).result().edge == "smooth"


def test_a_cliff_needs_fewer_probes_than_allowed():
    assert len(search(Server(50, 0)).result().probes) < 12


@given(st.integers(1, 60))
def test_whole_loads_are_found_exactly(capacity):
    found = search(Server(capacity + 0.5, 0), low=1, high=64, whole=True).result()
    assert found.load == capacity
    assert all(probe.load == int(probe.load) for probe in found.probes)


def test_no_load_is_too_much():
    found = search(Server(5000, 0)).result()
    assert not found.limited
    assert (found.load, found.edge, found.binding) == (1000, "none", None)
    assert sum(probe.load == 1000 for probe in found.probes) == 2


def test_every_load_is_too_much():
    found = search(Server(0.5, 0)).result()
    assert found.load is None
    assert found.limited
    assert [probe.load for probe in found.probes] == [1, 1]


def test_the_objective_that_binds_is_named():
    finder = Finder(1, 100)
    while (load := finder.propose()) is not None:
        finder.observe(load, {"ttft_p99<500ms": load / 80, "tpot_p95<50ms": load / 20})
    found = finder.result()
    assert found.load == pytest.approx(20, rel=0.05)
    assert found.binding == "tpot_p95<50ms"


def test_a_load_without_a_measurement_is_too_much():
    finder = Finder(1, 100)
    while (load := finder.propose()) is not None:
        finder.observe(load, math.nan if load > 30 else 0.1)
    assert finder.result().load == pytest.approx(30, rel=0.05)


def test_bad_searches_are_refused():
    for arguments in ({"low": 5, "high": 5}, {"low": 0}, {"probes": 1}):
        with pytest.raises(ValueError, match=r"0 < low < high|at least 2"):
            Finder(**arguments)
    with pytest.raises(ValueError, match="no load"):
        Finder().result()
    with pytest.raises(ValueError, match="at least one objective"):
        Finder().observe(1, {})

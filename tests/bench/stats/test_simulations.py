"""What the statistics promise, on data whose truth is known. A sample always runs; the whole of it is slow."""

import pytest

from bench.stats import simulate

PROOFS = [simulate.coverage, simulate.false_alarms, simulate.power, simulate.find_accuracy]


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.__name__)
def test_a_sample_keeps_its_promise(proof):
    outcome = proof(trials=400)
    slack = 0.03  # of 400 trials
    assert outcome.low - slack <= outcome.share <= outcome.high + slack


@pytest.mark.slow
@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.__name__)
def test_every_promise_is_kept(proof):
    outcome = proof()
    assert outcome.trials >= 2000
    assert outcome.passed, outcome


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.02, 0.2])
def test_search_with_other_noise(noise):
    assert simulate.find_accuracy(noise=noise, seed=9).passed


def test_seeds_are_fixed():
    assert simulate.find_accuracy(50) == simulate.find_accuracy(50)


def test_a_promise_that_cannot_be_kept_is_seen():
    assert not simulate.power(200, change=0.001).passed
    assert not simulate.find_accuracy(200, probes=6).passed

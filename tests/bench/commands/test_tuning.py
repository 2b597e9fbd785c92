"""The search for good settings, on made-up measurements."""

import math
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.ranges import numbers
from bench.tuning import Job, Knob, Search, Trial, flag_of, grid, main_effects, medians, pareto, preset
from bench.types import UsageError


def play(search: Search, truth: list[float]) -> list[Trial]:
    """Measure until the search has enough, without noise."""
    trials: list[Trial] = []
    while jobs := search.next_jobs(trials):
        trials += [Trial(job, {"output_throughput": truth[job.configuration]}) for job in jobs]
    return trials


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=60, unique=True))
def test_halving_finds_the_best_of_any_grid(truth: list[float]):
    search = Search(len(truth))
    trials = play(search, truth)
    best = next(iter(search.final(trials)))
    assert truth[best] == max(truth)
    assert len(search.final(trials)[best]) == search.repeats
    assert len({trial.job for trial in trials}) == len(trials)
    first = sum(trial.job.round == 0 for trial in trials)
    assert len(trials) <= first + math.ceil(len(truth) / 2) + search.repeats * 3 + 3


@given(st.integers(0, 40))
def test_a_search_that_was_cut_off_goes_on_where_it_was(cut: int):
    truth = [float((i * 37) % 100) for i in range(20)]
    search = Search(20)
    whole = play(search, truth)
    trials = whole[:cut]
    while jobs := search.next_jobs(trials):
        trials.append(Trial(jobs[0], {"output_throughput": truth[jobs[0].configuration]}))
    assert [trial.job for trial in trials] == [trial.job for trial in whole]


def test_a_grid_measures_everything_as_often_as_asked():
    search = Search(4, method="grid", repeats=2)
    assert search.next_jobs([]) == [Job(0, each, repeat) for repeat in range(2) for each in range(4)]
    assert search.scale(0) == 1


def test_a_configuration_that_fails_is_not_tried_again_and_never_wins():
    search = Search(2)
    trials = [Trial(Job(0, 0, 0), error="does not start"), Trial(Job(0, 1, 0), {"output_throughput": 1.0})]
    assert {job.configuration for job in search.next_jobs(trials)} == {1}
    trials += [Trial(job, {"output_throughput": 1.0}) for job in search.next_jobs(trials)]
    assert next(iter(search.final(trials))) == 1


def test_what_meets_the_slo_comes_before_what_is_faster():
    search = Search(2, repeats=1)
    trials = [
        Trial(Job(0, 0, 0), {"output_throughput": 9.0}, meets_slo=False),
        Trial(Job(0, 1, 0), {"output_throughput": 1.0}),
    ]
    assert search.ranked(trials, 0, [0, 1]) == [1, 0]


def test_latencies_are_better_when_small():
    search = Search(2, objective="p99_ttft_ms", repeats=1)
    trials = [Trial(Job(0, i, 0), {"p99_ttft_ms": value}) for i, value in enumerate((5.0, 3.0))]
    assert search.ranked(trials, 0, [0, 1]) == [1, 0]


def test_pareto_keeps_what_nothing_beats():
    def point(throughput: float, ttft: float, tpot: float) -> dict[str, float]:
        return {"output_throughput": throughput, "p90_ttft_ms": ttft, "p90_tpot_ms": tpot}

    points = {0: point(10, 5, 5), 1: point(9, 4, 5), 2: point(9, 5, 6), 3: point(10, 5, 5), 4: {}}
    assert pareto(points) == [0, 1, 3]


def test_main_effects_and_medians():
    configurations = grid([Knob.parse("a=1,2"), Knob.parse("b=x,y")])
    assert configurations == [{"a": "1", "b": "x"}, {"a": "1", "b": "y"}, {"a": "2", "b": "x"}, {"a": "2", "b": "y"}]
    trials = [Trial(Job(0, i, 0), {"output_throughput": float(i)}) for i in range(4)]
    effects = main_effects(configurations, trials, "output_throughput")
    assert effects == {"a": {"1": 0.5, "2": 2.5}, "b": {"x": 1.0, "y": 2.0}}
    assert medians(trials) == {"output_throughput": 1.5}


def test_a_preset_names_the_flags_of_the_command():
    words = ["tgi", "serve", "--max-batch-size", "{batch}", "--policy={policy}"]
    text = preset(words, {"batch": "32", "policy": "fcfs", "prefix_caching": "true"}, ["fast", "two\nlines"])
    assert tomllib.loads(text) == {"max_batch_size": 32, "policy": "fcfs", "prefix_caching": True}
    assert text.startswith("# fast\n# two\n# lines\n")
    assert flag_of(words, "batch") == "max-batch-size"
    assert flag_of(words, "other") is None


def test_knobs():
    assert Knob.parse("chunk=512..4096x2").values == ("512", "1024", "2048", "4096")
    assert Knob.parse("policy=fcfs, fair").values == ("fcfs", "fair")
    for text in ("chunk", "=1", "1a=2", "a="):
        with pytest.raises(UsageError, match="--knob"):
            Knob.parse(text)
    with pytest.raises(UsageError, match="given twice"):
        grid([Knob.parse("a=1"), Knob.parse("a=2")])
    with pytest.raises(UsageError, match="at least one knob"):
        grid([])
    with pytest.raises(UsageError, match="configurations"):
        grid([Knob.parse("a=1..50:50"), Knob.parse("b=1..50:50")])


def test_ranges():
    assert numbers("1..64x2", "--concurrency") == [1, 2, 4, 8, 16, 32, 64]
    assert numbers("1..100x4", "--concurrency") == [1, 4, 16, 64, 100]
    assert numbers("1..10:4,2k", "--rate") == [1, 4, 7, 10, 2048]
    assert numbers("3..3", "--rate") == [3]
    for text in ("0", "-1", "x", "4..1", "1..2x1", "1..2x", "1..5:1", "inf", ""):
        with pytest.raises(UsageError, match="--rate"):
            numbers(text, "--rate")

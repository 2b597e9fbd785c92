"""summary.json: every key always there, throughput where it is steady, failures charged, doubts marked."""

import math

import msgspec
import pytest
from bench_records import MS, START, record, run, window

from bench.load.arrivals import Load
from bench.metrics import KEYS, Slo
from bench.summary import summarize
from bench.types import Outcome, Phase, Sample, TokenSource

STATISTICS = ("mean", "median", "std", "p50", "p90", "p95", "p99")
VLLM = (
    "duration",
    "completed",
    "failed",
    "total_input_tokens",
    "total_output_tokens",
    "request_throughput",
    "request_goodput",
    "output_throughput",
    "total_token_throughput",
    "max_output_tokens_per_s",
    "max_concurrent_requests",
    "num_prompts",
    "request_rate",
    "burstiness",
    "max_concurrency",
)


def summary(records, **options):
    return summarize(records, window_ns=options.pop("window_ns", window(records)), **options)


@pytest.mark.parametrize(
    "records",
    [run(0), [record()], [record(outcome=Outcome.HTTP_ERROR, events=[])], [record(phase=Phase.WARMUP)]],
    ids=["run", "one", "failed", "none"],
)
def test_keys_always_exist_and_json_holds_them(records):
    found = msgspec.json.decode(msgspec.json.encode(summary(records)))
    for key in VLLM:
        assert key in found
    for key in KEYS.values():
        assert {f"{statistic}_{key}_ms" for statistic in STATISTICS} <= found.keys()
    adjusted = [
        f"adjusted_p{p}_{key}_ms" for p in (50, 90, 95, 99) for key in ("ttft", "ttft_sched", "e2el", "e2el_sched")
    ]
    ours = [
        "steady_output_throughput",
        "outcomes",
        "token_source",
        "reconciliation",
        "verdict",
        "reasons",
        "goodput_share",
    ]
    assert {*adjusted, *ours} <= found.keys()


def test_only_two_endings_come_and_go():
    """`_reliable` and `_needs` are there where a figure rests on too little; every other key in every run."""
    found = [
        summarize(records, window_ns=(START, START), load=load, slo=slo, samples=samples)
        for records, load, slo, samples in (
            (run(0), None, None, ()),
            (run(1), Load(rate=5, requests=1), Slo.parse("ttft_p99<1ms,itl:3"), [Sample(at_ns=START, running=1.0)]),
            ([record()], Load(concurrency=3, requests=1), None, ()),
            ([record(events=[(100, 1)])], None, None, ()),
            ([record(outcome=Outcome.HTTP_ERROR, events=[])], None, None, ()),
            ([record(phase=Phase.WARMUP)], None, None, ()),
            ([], None, None, ()),
        )
    ]
    always = [{key for key in one if not key.endswith(("_reliable", "_needs"))} for one in found]
    assert all(keys == always[0] for keys in always)
    for one in found:
        assert all(value is False for key, value in one.items() if key.endswith("_reliable"))
        assert all(one[f"{key.removesuffix('_needs')}_reliable"] is False for key in one if key.endswith("_needs"))


def test_an_objective_on_another_percentile_adds_it():
    keys = set(summary(run(0), slo=Slo.parse("ttft_p80<1s"))) - set(summary(run(0)))
    assert keys - {"p80_ttft_ms_reliable", "p80_ttft_ms_needs"} == {"p80_ttft_ms", "p80_ttft_ms_interval"}


def test_an_empty_run_has_no_numbers():
    found = summarize([], window_ns=(START, START))
    assert (found["completed"], found["mean_ttft_ms"], found["request_throughput"]) == (0, None, 0.0)


def test_numbers_of_a_worked_example():
    records = [
        record(0, sent=0, events=[(100, 1), (200, 1)], ended=210),
        record(1, scheduled=50, sent=100, events=[(300, 2), (500, 2)], ended=1000, input_tokens=30),
        record(2, phase=Phase.WARMUP, sent=-100),
        record(3, sent=10, events=[], ended=20, outcome=Outcome.CONNECT),
    ]
    found = summary(records, window_ns=(START, START + 900 * MS))
    assert found["duration"] == pytest.approx(1.0)  # to the end of the last request
    assert (found["num_prompts"], found["completed"], found["failed"]) == (3, 2, 1)
    assert (found["total_input_tokens"], found["total_output_tokens"]) == (40, 6)
    assert found["output_throughput"] == pytest.approx(6)
    assert found["total_token_throughput"] == pytest.approx(46)
    assert found["mean_ttft_ms"] == pytest.approx(150)
    assert found["mean_ttft_sched_ms"] == pytest.approx(175)
    assert found["mean_tpot_ms"] == pytest.approx(100)
    assert found["mean_e2el_ms"] == pytest.approx(300)
    assert found["max_concurrent_requests"] == 2
    assert found["max_output_tokens_per_s"] == 6
    assert found["itl_smeared"]
    assert found["outcomes"]["connect"] == 1


def test_failures_are_infinite_where_they_are_counted():
    good = [record(i, sent=i, events=[(i + 100, 1)]) for i in range(8)]
    bad = [record(8 + i, events=[], outcome=outcome) for i, outcome in enumerate((Outcome.TIMEOUT, Outcome.NEVER_SENT))]
    found = summary(good + bad)
    assert found["adjusted_p50_ttft_ms"] == pytest.approx(100)
    assert found["adjusted_p90_ttft_ms"] is None
    assert found["p90_ttft_ms"] == pytest.approx(100)
    assert (found["failed"], found["never_sent"]) == (1, 1)


def test_goodput_charges_what_failed():
    records = [record(i, events=[(100 if i % 2 else 700, 1)]) for i in range(6)]
    records += [record(6, outcome=Outcome.CUT), record(7, outcome=Outcome.NEVER_SENT, events=[], sent_ns=0)]
    found = summary(records, goodput=Slo.parse("ttft:500"), window_ns=(START, 0))
    assert found["goodput_share"] == pytest.approx(3 / 8)
    assert found["request_goodput"] == pytest.approx(3 / found["duration"])


def test_objectives_are_judged_on_the_run():
    found = summary(run(0), slo=Slo.parse("ttft_p75<10s,tpot_p99.9<1us"))
    assert found["p75_ttft_ms"] is not None  # asked for, so measured
    assert found["slo_met"] is False
    assert found["slo_ratios"]["tpot_p99.9<0.001ms"] > 1 > found["slo_ratios"]["ttft_p75<10000ms"]
    assert found["goodput_share"] < 0.1  # each request is held against the same limits; single tokens have no TPOT


def test_too_few_samples_are_marked_and_the_number_kept():
    records = [record(i, scheduled=i, sent=i, events=[(i + 50 + (i * 7919) % 100, 1)]) for i in range(100)]
    found = summary(records)
    assert found["p99_ttft_ms"] is not None
    assert found["p99_ttft_ms_reliable"] is False
    assert found["p99_ttft_ms_needs"] >= 300
    assert "p50_ttft_ms_reliable" not in found
    assert found["p50_ttft_ms_interval"][0] <= found["p50_ttft_ms"] <= found["p50_ttft_ms_interval"][1]
    assert found["p99_ttft_ms_interval"][1] is None  # nothing is known of how long the tail is


def test_latencies_that_resemble_their_neighbours_count_for_less():
    slow = [record(i, scheduled=i, sent=i, events=[(i + (500 if i // 100 % 2 else 50) + i % 7, 1)]) for i in range(400)]
    found = summary(slow)
    assert found["ttft_effective_samples"] < 40
    assert found["p95_ttft_ms_reliable"] is False


def steady_records(places=4, waves=25, length=100):
    """A closed loop: every request takes `length` ms and brings 10 tokens, a tenth of the time apart."""
    return [
        record(
            wave * places + place,
            scheduled=wave * length,
            sent=wave * length,
            events=[(wave * length + (k + 1) * length / 10, 1) for k in range(10)],
            ended=(wave + 1) * length,
        )
        for wave in range(waves)
        for place in range(places)
    ]


def test_steady_throughput_leaves_out_ramp_and_drain():
    records = steady_records()
    straggler = record(999, scheduled=0, sent=2400, events=[(9000, 1)], ended=10_000)
    found = summary([*records, straggler], load=Load(concurrency=4, requests=101))
    assert found["output_throughput"] == pytest.approx(1001 / 10)
    assert found["steady_window_s"] == pytest.approx([0.01, 2.4])
    assert found["steady_output_throughput"] == pytest.approx(400, rel=0.01)
    assert found["steady_request_throughput"] == pytest.approx(40, rel=0.05)
    assert "steady_output_throughput_reliable" not in found


def test_a_window_that_is_too_little_of_the_run_does_not_speak_for_it():
    straggler = record(999, scheduled=0, sent=2400, events=[(19_000, 1)], ended=20_000)
    found = summary([*steady_records(), straggler])
    assert found["steady_window_s"] is None
    assert found["steady_output_throughput_reliable"] is False


def test_a_ramp_is_not_steady():
    found = summary(steady_records(), load=Load(rate=40, requests=100, ramp=(1, 1.5)))
    assert found["steady_window_s"][0] == pytest.approx(1.5)


def test_one_burst_is_never_steady():
    found = summary(steady_records(waves=1))
    assert found["steady_window_s"] is None
    assert found["steady_output_throughput"] == found["output_throughput"]


@pytest.mark.parametrize(
    ("load", "rate", "burstiness", "most"),
    [
        (Load(concurrency=8, requests=1), "inf", 1.0, 8),
        (Load(rate=5, requests=1), 5, 1.0, None),
        (Load(rate=5, requests=1, arrival="constant", max_concurrency=3), 5, "inf", 3),
        (Load(rate=5, requests=1, arrival="gamma:0.5"), 5, 0.5, None),
        (Load(rate=math.inf, requests=1), "inf", 1.0, None),
    ],
)
def test_load_in_the_words_of_vllm(load, rate, burstiness, most):
    found = summary([record()], load=load)
    assert (found["request_rate"], found["burstiness"], found["max_concurrency"]) == (rate, burstiness, most)


def test_counting_is_described():
    records = run(0)
    for one in records[1::2]:
        one.token_source = TokenSource.USAGE_SPREAD
        one.wanted_tokens = 1000
    found = summary(records)
    assert found["token_source_estimated"]
    assert set(found["token_sources"]) == {"usage_delta", "usage_spread"}
    assert found["length_mismatches"] > 0
    assert not found["itl_smeared"]


def test_server_and_client_are_reconciled():
    records = [
        record(0, events=[(100, 1), (200, 2)]),
        record(1, phase=Phase.WARMUP, sent=-90, events=[(-50, 5)], ended=-40),
    ]
    samples = [
        Sample(at_ns=START - 60 * MS, generated_tokens=90.0, requests=6.0),
        Sample(at_ns=START - 10 * MS, generated_tokens=100.0, requests=7.0),
        Sample(at_ns=START + 100 * MS, generated_tokens=101.0, running=1.0, kv_used=0.5, waiting=3.0),
        Sample(at_ns=START + 300 * MS, generated_tokens=104.0, requests=8.0),
    ]
    found = summary(records, samples=samples)
    assert found["reconciliation"] == {
        "server_output_tokens": 4.0,
        "client_output_tokens": 3,
        "output_tokens_difference": 1.0,
        "server_requests": 1.0,
        "client_requests": 1,
    }
    assert (found["server"]["max_waiting"], found["server"]["mean_kv_used"]) == (3.0, 0.5)
    assert summary(records, samples=samples[:3])["reconciliation"] is None


def test_what_the_server_says_of_each_request():
    records = [record(i, server={"queue": 0.01 * i, "prefill": 0.02}) for i in range(3)]
    found = summary(records)
    assert found["server_timings_ms"]["prefill"]["p99"] == pytest.approx(20)
    assert found["mean_queue_ms"] == pytest.approx(10)


def test_about_comes_first():
    assert next(iter(summary([record()], about={"model_id": "m"}))) == "model_id"

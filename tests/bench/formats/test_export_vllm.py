"""The vLLM export against `vllm bench serve` on the same event log.

`serve` below goes from stamps to results the way vLLM's client and its calculate_metrics do: a request has a start
time, a TTFT, gaps between chunks and a latency, all accumulated as floats; none of our metrics are used.
"""

import math

import msgspec
import pytest
from bench_records import record, run, window

from bench.formats import export
from bench.formats.vllm import PERCENTILES
from bench.metrics import Slo
from bench.summary import summarize
from bench.types import Outcome, Phase, Record


class Output:
    """What vLLM's client keeps of a request."""

    def __init__(self, one: Record) -> None:
        self.success = one.outcome is Outcome.OK
        self.start_time = one.sent_ns / 1e9
        self.prompt_len = one.input_tokens or 0
        self.output_tokens = one.output_tokens
        self.itl: list[float] = []
        self.ttft = self.latency = 0.0
        most_recent = self.start_time
        for event in one.events:
            timestamp = event.at_ns / 1e9
            if self.ttft == 0.0:
                self.ttft = timestamp - self.start_time
            else:
                self.itl.append(timestamp - most_recent)
            most_recent = timestamp
        self.latency = most_recent - self.start_time


def percentile(values: list[float], p: float) -> float:
    ordered = sorted(values)
    place = (len(ordered) - 1) * p / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def serve(records: list[Record], duration: float, goodput: dict[str, float]) -> dict[str, float]:
    outputs = [Output(r) for r in records if r.phase is Phase.MEASURED]
    good = [one for one in outputs if one.success]
    ttfts, tpots, all_tpots, itls, latencies = [], [], [], [], []
    for one in good:
        tpot = 0.0
        if one.output_tokens > 1:
            tpot = (one.latency - one.ttft) / (one.output_tokens - 1)
            tpots.append(tpot)
        all_tpots.append(tpot)
        itls += one.itl
        ttfts.append(one.ttft)
        latencies.append(one.latency)
    limits = [(ttfts, goodput["ttft"]), (all_tpots, goodput["tpot"]), (latencies, goodput["e2el"])]
    met = sum(all(column[i] <= limit / 1000 for column, limit in limits) for i in range(len(good)))
    first = min(one.start_time for one in good)
    last = max(one.start_time + one.latency for one in good)
    tokens = [0] * (math.ceil(last - first) + 1)
    busy = [0] * (math.ceil(last - first) + 1)
    for one in good:
        moment = one.start_time + one.ttft
        tokens[int(moment - first)] += 1
        for gap in one.itl:
            moment += gap
            tokens[int(moment - first)] += 1
        for second in range(int(one.start_time - first), int(one.start_time + one.latency - first) + 1):
            busy[second] += 1
    total_in, total_out = sum(one.prompt_len for one in good), sum(one.output_tokens for one in good)
    result = {
        "duration": duration,
        "completed": len(good),
        "failed": len(outputs) - len(good),
        "total_input_tokens": total_in,
        "total_output_tokens": total_out,
        "request_throughput": len(good) / duration,
        "request_goodput": met / duration,
        "output_throughput": total_out / duration,
        "total_token_throughput": (total_in + total_out) / duration,
        "max_output_tokens_per_s": max(tokens),
        "max_concurrent_requests": max(busy),
    }
    for name, values in (("ttft", ttfts), ("tpot", tpots), ("itl", itls), ("e2el", latencies)):
        mean = sum(values) / len(values)
        result[f"mean_{name}_ms"] = mean * 1000
        result[f"median_{name}_ms"] = percentile(values, 50) * 1000
        result[f"std_{name}_ms"] = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values)) * 1000
        result |= {f"p{p}_{name}_ms": percentile(values, p) * 1000 for p in PERCENTILES}
    return result


def exported(records: list[Record], goodput: str = "ttft:60,tpot:25,e2el:400") -> tuple[dict, dict]:
    summary = summarize(records, window_ns=window(records), goodput=Slo.parse(goodput))
    return msgspec.json.decode(export("vllm", records, summary)["vllm.json"]), summary


@pytest.mark.parametrize("most_tokens", [1, 8])
@pytest.mark.parametrize("seed", range(4))
def test_every_value_is_the_one_vllm_would_report(seed, most_tokens):
    records = run(seed, requests=80, most_tokens=most_tokens)
    document, summary = exported(records)
    expected = serve(records, summary["duration"], {"ttft": 60, "tpot": 25, "e2el": 400})
    assert {name: document[name] for name in expected} == pytest.approx(expected, rel=1e-7)
    assert 0 < document["failed"] < document["completed"]


def test_our_own_summary_says_the_same_where_definitions_agree():
    records = run(3, requests=80)
    document, summary = exported(records)
    differ = {"itl", "max_concurrent_requests", "failed"}
    for name, value in document.items():
        shared = name.endswith("_ms") or name.endswith("throughput") or name.startswith("total")
        if shared and not any(word in name for word in differ):
            assert summary[name] == pytest.approx(value), name
    for statistic in ("mean", "std", "p99"):
        assert summary[f"{statistic}_icl_ms"] == pytest.approx(document[f"{statistic}_itl_ms"])


def test_details_of_every_request():
    records = run(1, requests=20)
    document, _ = exported(records)
    outputs = [Output(r) for r in records if r.phase is Phase.MEASURED]
    ok = [one for one in outputs if one.success]
    at = [i for i, one in enumerate(outputs) if one.success]
    for name, field in (("ttfts", "ttft"), ("latencies", "latency"), ("itls", "itl"), ("output_lens", "output_tokens")):
        for i, one in zip(at, ok, strict=True):
            assert document[name][i] == pytest.approx(getattr(one, field))
    assert [bool(error) for error in document["errors"]] == [not one.success for one in outputs]
    assert document["start_times"] == pytest.approx([one.start_time for one in outputs])


def test_what_was_never_sent_vllm_never_made():
    records = [record(0), record(1, outcome=Outcome.NEVER_SENT, sent_ns=0, events=[], output_tokens=0)]
    document, summary = exported(records)
    assert (document["completed"], document["failed"], summary["never_sent"]) == (1, 0, 1)


def test_without_a_success_everything_is_zero_as_in_vllm():
    records = [record(0, outcome=Outcome.HTTP_ERROR, events=[], error="503: busy")]
    document, _ = exported(records)
    assert (document["completed"], document["failed"], document["mean_ttft_ms"], document["p99_itl_ms"]) == (0, 1, 0, 0)
    assert document["errors"] == ["503: busy"]

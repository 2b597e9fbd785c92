"""The metrics page: TGI's names byte for byte, and a format that a strict reader accepts."""

import math
import re
from collections.abc import Iterable
from itertools import pairwise

import pytest
from fake_engine import INFO
from hypothesis import given
from hypothesis import strategies as st

from engine.metrics import Counter, Gauge, Histogram, Metric, Metrics, Summary, render
from engine.types import EngineStats

TGI: dict[str, list[str]] = {
    "counter": [
        "tgi_request_count",
        "tgi_request_success",
        "tgi_request_failure",
        "tgi_batch_inference_count",
        "tgi_batch_inference_success",
        "tgi_batch_inference_failure",
        "tgi_batch_concat",
    ],
    "gauge": [
        "tgi_batch_current_size",
        "tgi_batch_current_max_tokens",
        "tgi_queue_size",
        "tgi_batch_max_total_tokens",
    ],
    "histogram": [
        "tgi_request_duration",
        "tgi_request_validation_duration",
        "tgi_request_queue_duration",
        "tgi_request_inference_duration",
        "tgi_request_mean_time_per_token_duration",
        "tgi_request_input_length",
        "tgi_request_generated_tokens",
        "tgi_request_max_new_tokens",
        "tgi_batch_next_size",
        "tgi_batch_inference_duration",
        "tgi_batch_forward_duration",
        "tgi_batch_decode_duration",
        "tgi_batch_filter_duration",
        "tgi_batch_concat_duration",
    ],
    "summary": ["tgi_request_skipped_tokens"],
}
NEW = {
    "tgi_kv_blocks_used": "gauge",
    "tgi_kv_blocks_total": "gauge",
    "tgi_request_first_token_duration": "histogram",
    "tgi_request_inter_token_duration": "histogram",
    "tgi_prompt_tokens": "counter",
    "tgi_generated_tokens": "counter",
    "tgi_prefix_cache_hit_tokens": "counter",
    "tgi_preemptions": "counter",
    "tgi_kv_usage": "gauge",
    "tgi_prefix_cache_hit_rate": "gauge",
}
ALIASES = {"tgi_request_duration_seconds": "tgi_request_duration", "tgi_batch_size": "tgi_batch_current_size"}

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (NaN|[+-]Inf|-?[0-9.e+-]+)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\n"])*)"(?:,(?=.)|$)')
SUFFIXES = {
    "counter": ("",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("", "_sum", "_count"),
}


def parse(page: str) -> tuple[dict[str, str], Series]:
    """Read the text format strictly: HELP, TYPE, then samples of that metric only; each series once."""
    assert page.endswith("\n")
    kinds: dict[str, str] = {}
    series: Series = {}
    name = kind = ""
    for line in page[:-1].split("\n"):
        if line.startswith("# HELP "):
            name, _, text = line.removeprefix("# HELP ").partition(" ")
            assert NAME.fullmatch(name)
            assert name not in kinds
            assert text
            kind = ""
        elif line.startswith("# TYPE "):
            assert kind == ""
            typed, kind = line.removeprefix("# TYPE ").split(" ")
            assert typed == name
            assert kind in SUFFIXES
            kinds[name] = kind
        else:
            sample = SAMPLE.fullmatch(line)
            assert sample, line
            assert sample[1].removeprefix(name) in SUFFIXES[kind], line
            key = (sample[1], tuple(read_labels(sample[2] or "")))
            assert key not in series, line
            series[key] = float(sample[3])
    check_histograms(kinds, series)
    return kinds, series


def read_labels(text: str) -> Iterable[tuple[str, str]]:
    at = 0
    while at < len(text):
        found = LABEL.match(text, at)
        assert found, text
        yield found[1], re.sub(r"\\(.)", lambda escaped: {"n": "\n"}.get(escaped[1], escaped[1]), found[2])
        at = found.end()


def check_histograms(kinds: dict[str, str], series: Series) -> None:
    """Bounds rise and end at +Inf, counts never fall, and the last is `_count`."""
    for name in (name for name, kind in kinds.items() if kind == "histogram"):
        buckets: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
        for (sample, labels), value in series.items():
            if sample == f"{name}_bucket":
                *others, (last, bound) = labels
                assert last == "le"
                buckets.setdefault(tuple(others), []).append((float(bound), value))
        assert buckets
        for labels, pairs in buckets.items():
            assert all(low[0] < high[0] and low[1] <= high[1] for low, high in pairwise(pairs))
            assert pairs[-1] == (math.inf, series[f"{name}_count", labels])
            assert (f"{name}_sum", labels) in series


def bounds_of(series: Series, name: str) -> list[str]:
    return [dict(labels)["le"] for sample, labels in series if sample == f"{name}_bucket"]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(INFO, max_input_tokens=63)


def test_every_name_of_tgi_is_there_with_its_type(metrics: Metrics) -> None:
    kinds, _ = parse(metrics.exposition(EngineStats()))
    assert {name: kinds.get(name) for names in TGI.values() for name in names} == {
        name: kind for kind, names in TGI.items() for name in names
    }
    assert NEW.items() <= kinds.items()
    assert not [name for name in kinds if name.endswith(("_total", "_created")) and name != "tgi_kv_blocks_total"]


def test_an_alias_says_the_same_under_another_name(metrics: Metrics) -> None:
    for seconds in (0.2, 3.0):
        metrics.request_duration.observe(seconds)
    kinds, series = parse(metrics.exposition(EngineStats(running=5)))
    for alias, name in ALIASES.items():
        assert kinds[alias] == kinds[name]
        named = {key: value for key, value in series.items() if key[0].removeprefix(name) in SUFFIXES[kinds[name]]}
        assert named
        for (sample, labels), value in named.items():
            assert series[alias + sample.removeprefix(name), labels] == value
    assert series["tgi_batch_size", ()] == 5
    assert series["tgi_request_duration_seconds_count", ()] == 2


def test_the_buckets_are_tgis(metrics: Metrics) -> None:
    _, series = parse(metrics.exposition(EngineStats()))
    durations = bounds_of(series, "tgi_request_duration")
    assert len(durations) == 36
    assert [float(bound) for bound in durations[:-1]] == pytest.approx([0.0001 * 1.5**i for i in range(1, 36)])
    assert bounds_of(series, "tgi_batch_next_size") == [*map(str, range(1, 1025)), "+Inf"]
    for name, largest in [("input_length", 63), ("generated_tokens", 64), ("max_new_tokens", 64)]:
        *bounds, _ = map(float, bounds_of(series, f"tgi_request_{name}"))
        assert bounds == pytest.approx([largest / 100 * i for i in range(1, 101)])


def test_labels_are_tgis_and_there_from_the_start(metrics: Metrics) -> None:
    _, series = parse(metrics.exposition(EngineStats()))
    for reason in ("overloaded", "validation", "generation", "incomplete", "template", "dropped"):
        assert series["tgi_request_failure", (("err", reason),)] == 0
    for method in ("prefill", "decode"):
        assert series["tgi_batch_inference_count", (("method", method),)] == 0
        assert series["tgi_batch_inference_duration_count", (("method", method),)] == 0


def test_the_engines_numbers_are_read_at_the_scrape(metrics: Metrics) -> None:
    stats = EngineStats(
        running=3, waiting=2, blocks_used=7, steps=9, prompt_tokens=100, generated_tokens=50, cached_tokens=16,
        preemptions=1, drafted_tokens=8, accepted_tokens=4, batch_max_tokens=99,
    )  # fmt: skip
    _, series = parse(metrics.exposition(stats))
    expected = {
        "batch_current_size": 3,
        "queue_size": 2,
        "kv_blocks_used": 7,
        "kv_blocks_total": 256,
        "batch_max_total_tokens": 4096,
        "engine_steps": 9,
        "prompt_tokens": 100,
        "generated_tokens": 50,
        "prefix_cache_hit_tokens": 16,
        "preemptions": 1,
        "kv_usage": 7 / 256,
        "prefix_cache_hit_rate": 0.16,
        "draft_tokens": 8,
        "accepted_draft_tokens": 4,
        "batch_current_max_tokens": 99,
    }
    assert {name: series[f"tgi_{name}", ()] for name in expected} == expected


def test_a_step_counts_once_and_a_heartbeat_not_at_all(metrics: Metrics) -> None:
    prefill = EngineStats(steps=1, step_prefill=True, step_size=3, step_seconds=0.5)  # and nobody runs on
    for stats in [
        EngineStats(),
        prefill,
        prefill,
        EngineStats(steps=2, running=2, step_size=2, step_seconds=0.25),
        EngineStats(steps=3, running=1, step_size=2, step_failed=True),
        EngineStats(),  # the engine is gone
        EngineStats(steps=1, running=1, step_size=1),
    ]:
        metrics.observe_step(stats)
    count, success, failure = (getattr(metrics, f"batch_inference_{what}") for what in ("count", "success", "failure"))
    assert [metric.value("prefill") for metric in (count, success, failure)] == [1, 1, 0]
    assert [metric.value("decode") for metric in (count, success, failure)] == [3, 2, 1]
    duration = metrics.batch_inference_duration
    assert (duration.count("prefill"), duration.count("decode")) == (1, 3)
    _, series = parse(metrics.exposition(EngineStats()))
    assert (series["tgi_batch_next_size_count", ()], series["tgi_batch_next_size_sum", ()]) == (1, 3)


@given(st.lists(st.floats(0, 10, allow_nan=False), max_size=50), st.text(max_size=20))
def test_any_observations_and_labels_make_a_page_that_reads_back(values: list[float], label: str) -> None:
    histogram = Histogram("h", "seconds", (0.5, 1.0, 5.0), "path")
    counter = Counter("c", 'a "help"\nof two lines \\', "path")
    gauge, summary = Gauge("g", "now"), Summary("s", "some")
    for value in values:
        histogram.observe(value, label)
        counter.inc(value, label)
        gauge.set(value)
        summary.observe(value)
    metrics: list[Metric] = [counter, gauge, summary]
    _, series = parse(render([*metrics, histogram] if values else metrics))
    key = (("path", label),)
    if values:
        assert series["c", key] == sum(values)
        assert series["h_sum", key] == sum(values)
        for bound in ("0.5", "1", "5"):
            inside = sum(value <= float(bound) for value in values)
            assert series["h_bucket", (*key, ("le", bound))] == inside
        assert series["s", (("quantile", "0"),)] == min(values)
        assert series["s", (("quantile", "1"),)] == max(values)
    else:
        assert math.isnan(series["s", (("quantile", "0.5"),)])
    assert series["g", ()] == (values[-1] if values else 0)
    assert series["s_count", ()] == len(values)

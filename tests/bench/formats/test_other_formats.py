"""aiperf and CSV exports, and reading back what other tools wrote."""

import csv
import io
import statistics

import msgspec
import pytest
from bench_records import record, run, window

from bench.formats import EXPORTS, export, read
from bench.metrics import request_metrics
from bench.summary import summarize
from bench.types import Outcome, Phase, Record, TokenSource, UsageError


@pytest.fixture
def records():
    return run(5, requests=50, most_tokens=3)


def files(tool: str, records: list[Record], **about: object) -> dict[str, bytes]:
    return export(tool, records, summarize(records, window_ns=window(records), about=about))


def done(records: list[Record]) -> list[Record]:
    return [r for r in records if r.phase is Phase.MEASURED and r.outcome is Outcome.OK]


def test_aiperf_statistics(records):
    document = msgspec.json.decode(files("aiperf", records, started_unix_s=1.7e9)["profile_export_aiperf.json"])
    ok = done(records)
    ttfts = [(r.events[0].at_ns - r.sent_ns) / 1e6 for r in ok]
    gaps = [(r.events[-1].at_ns - r.events[0].at_ns) / 1e6 / (r.output_tokens - 1) for r in ok if r.output_tokens > 1]
    assert document["time_to_first_token"]["avg"] == pytest.approx(statistics.fmean(ttfts))
    assert document["time_to_first_token"]["std"] == pytest.approx(statistics.pstdev(ttfts))
    assert document["time_to_first_token"]["p50"] == pytest.approx(statistics.median(ttfts))
    assert document["inter_token_latency"]["avg"] == pytest.approx(statistics.fmean(gaps))
    assert document["request_count"]["avg"] == len(ok)
    assert sum(one["count"] for one in document["error_summary"]) == 5
    assert document["was_cancelled"]
    assert document["start_time"].startswith("2023-11-14T22:13:20")


def test_aiperf_requests(records):
    lines = [msgspec.json.decode(line) for line in files("aiperf", records)["profile_export.jsonl"].splitlines()]
    measured = [r for r in records if r.phase is Phase.MEASURED]
    assert len(lines) == len(measured)
    for line, one in zip(lines, measured, strict=True):
        assert (line["error"] is None) == (one.outcome is Outcome.OK)
        if line["error"] is None:
            chunks = line["metrics"].get("inter_chunk_latency", {"value": []})["value"]
            assert chunks == pytest.approx([gap * 1e3 for gap in request_metrics(one).icl])


def test_csv_has_a_row_for_each_request(records):
    records[1].error = "=cmd()"
    rows = list(csv.DictReader(io.StringIO(files("csv", records)["requests.csv"].decode())))
    measured = [r for r in records if r.phase is Phase.MEASURED]
    assert [int(row["index"]) for row in rows] == [r.index for r in measured]
    assert float(rows[0]["ttft_ms"]) == pytest.approx((measured[0].events[0].at_ns - measured[0].sent_ns) / 1e6)
    assert rows[0]["error"] == "'=cmd()"
    failed = next(row for row in rows if row["outcome"] == "http_error")
    assert (failed["ttft_ms"], failed["status"]) == ("", "503")


@pytest.mark.parametrize("tool", ["vllm", "aiperf"])
@pytest.mark.parametrize("most_tokens", [1, 4])
def test_requests_survive_a_round_trip(tool, most_tokens, tmp_path):
    records = run(2, requests=30, most_tokens=most_tokens)
    for name, content in files(tool, records).items():
        (tmp_path / name).write_bytes(content)
    name = {"vllm": "vllm.json", "aiperf": "profile_export_aiperf.json"}[tool]
    (found,) = read(tmp_path / name)
    assert found.tool == tool
    back, ours = [r for r in found.records if r.outcome is Outcome.OK], done(records)
    assert len(found.records) == 30
    for mine, theirs in zip(ours, back, strict=True):
        a, b = request_metrics(mine), request_metrics(theirs)
        assert b.ttft == pytest.approx(a.ttft, rel=1e-6)
        assert b.e2e == pytest.approx(a.e2e, rel=1e-6)
        assert b.icl == pytest.approx(a.icl, rel=1e-4, abs=1e-7)
        assert theirs.output_tokens == mine.output_tokens
        exact = mine.output_tokens == len(mine.events)
        assert theirs.token_source is (TokenSource.USAGE_DELTA if exact else TokenSource.USAGE_SPREAD)


@pytest.mark.parametrize("tool", ["vllm", "guidellm", "aiperf"])
def test_numbers_are_read_under_our_names(tool, records, tmp_path):
    ours = summarize(records, window_ns=window(records), about={"model_id": "m", "label": "L"})
    for name, content in export(tool, records, ours).items():
        (tmp_path / name).write_bytes(content)
    first = {"vllm": "vllm.json", "guidellm": "benchmarks.json", "aiperf": "profile_export_aiperf.json"}[tool]
    (found,) = read(tmp_path / first)
    for name in ("completed", "mean_ttft_ms", "std_ttft_ms", "total_output_tokens"):
        assert found.summary[name] == pytest.approx(ours[name]), name
    assert found.summary["p99_ttft_ms"] == pytest.approx(ours["p99_ttft_ms"], rel=0.2)
    assert found.notes


def test_a_vllm_file_without_details_has_numbers_only(records, tmp_path):
    document = msgspec.json.decode(files("vllm", records)["vllm.json"])
    kept = {name: value for name, value in document.items() if not isinstance(value, list)}
    (tmp_path / "a.json").write_bytes(msgspec.json.encode(kept) + b"\n" + msgspec.json.encode(kept))
    found = read(tmp_path / "a.json")  # as --append-result writes them
    assert [one.records for one in found] == [[], []]
    assert found[1].summary["mean_itl_ms"] == document["mean_itl_ms"]


@pytest.mark.parametrize(
    ("content", "why"), [(b"{}", "not a result"), (b"nothing", "not JSON"), (b"[1]", "not a result"), (b"", "empty")]
)
def test_other_files_are_refused(content, why, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UsageError, match=why):
        read(tmp_path / "x.json")


def test_missing_files_and_unknown_tools_are_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        read(tmp_path / "none.json")
    with pytest.raises(UsageError, match="no export as 'xml'"):
        files("xml", [record()])
    assert set(EXPORTS) == {"vllm", "guidellm", "aiperf", "csv"}

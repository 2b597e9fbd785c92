"""What is written is what is read, whole or not at all, and holds no secret."""

import hashlib
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from bench_runs import made_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.load.arrivals import Load
from bench.report.manifest import Manifest, collect, without_secrets
from bench.report.rundir import RunDir, load_runs, write_atomically, write_series
from bench.types import BenchError, Outcome, OutputEvent, Phase, Record, TokenSource, UsageError

FILES = {
    "manifest.json",
    "requests.jsonl",
    "events.bin",
    "samples.jsonl",
    "health.jsonl",
    "summary.json",
    "report.md",
    "report.html",
}
LOAD = Load(concurrency=4, requests=30)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = made_run(tmp_path / "run", LOAD)
    made.write()
    return made


def test_a_run_comes_back_as_it_was(run):
    assert {path.name for path in run.path.iterdir()} == FILES
    read = RunDir.load(run.path)
    assert read.manifest == run.manifest
    assert read.records == run.records
    assert read.samples == run.samples
    assert read.health == run.health
    assert read.summary == msgspec.json.decode(msgspec.json.encode(run.summary))
    [alone] = load_runs(run.path)
    assert alone.records == run.records


times = st.integers(0, 2**62)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
events = st.builds(
    OutputEvent,
    at_ns=times,
    tokens=st.floats(0, 1e6),
    kind=st.sampled_from(["content", "reasoning", "tool", "new kind"]),
    coalesced=st.booleans(),
)
records = st.builds(
    Record,
    index=st.integers(0, 2**40),
    phase=st.sampled_from(Phase),
    outcome=st.sampled_from(Outcome),
    error=st.none() | texts,
    scheduled_ns=times,
    sent_ns=times,
    ended_ns=times,
    events=st.lists(events, max_size=5),
    token_source=st.sampled_from(TokenSource),
    text=texts,
    server=st.dictionaries(texts, st.floats(0, 1e3), max_size=2),
    session=st.none() | st.integers(0, 9),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(many=st.lists(records, max_size=6))
def test_any_records_come_back_as_they_were(tmp_path, many):
    RunDir(path=tmp_path, manifest=Manifest(), records=many, summary={}).write_data()
    assert RunDir.load(tmp_path).records == many


def test_events_are_read_as_documented(run):
    with (run.path / "events.bin").open("rb") as file:
        header = json.loads(file.readline())
        found = np.frombuffer(file.read(), [tuple(field) for field in header["dtype"]])
    assert header["kinds"] == ["content"]
    assert len(found) == header["count"] == sum(len(record.events) for record in run.records)
    third = found[found["request"] == 3]
    assert third["at_ns"].tolist() == [event.at_ns for event in run.records[3].events]


def test_each_request_is_a_line_with_the_number_of_its_events(run):
    lines = [json.loads(line) for line in (run.path / "requests.jsonl").read_text().splitlines()]
    assert [line["events"] for line in lines] == [len(record.events) for record in run.records]


@pytest.mark.parametrize("name", ["requests.jsonl", "events.bin", "summary.json", "samples.jsonl"])
def test_a_damaged_file_is_named(run, name):
    path = run.path / name
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(BenchError, match=name):
        RunDir.load(run.path)


def test_a_missing_file_is_named(run):
    (run.path / "events.bin").unlink()
    with pytest.raises(BenchError, match=r"events\.bin.*No such file"):
        RunDir.load(run.path)


def test_events_of_another_run_are_noticed(run, tmp_path):
    other = made_run(tmp_path / "other", Load(concurrency=4, requests=31))
    other.write_data()
    (run.path / "events.bin").write_bytes((other.path / "events.bin").read_bytes())
    with pytest.raises(BenchError, match="speaks of"):
        RunDir.load(run.path)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="not a run directory"):
        RunDir.load(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(BenchError, match="format 99"):
        RunDir.load(tmp_path)


def test_a_place_that_cannot_be_written_to_is_named(run, tmp_path):
    (tmp_path / "file").touch()
    run.path = tmp_path / "file" / "run"
    with pytest.raises(UsageError, match="cannot write to"):
        run.write()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "text")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_series_names_its_runs(tmp_path):
    runs = [made_run(tmp_path / name, Load(concurrency=c, requests=20)) for name, c in (("a", 1), ("b", 4))]
    for each in runs:
        each.write()
    write_series(tmp_path, runs[0].manifest, runs)
    assert runs[0].manifest.kind == "run"
    again = load_runs(tmp_path)
    assert [each.path.name for each in again] == ["a", "b"]
    assert [each.records for each in again] == [each.records for each in runs]
    assert len(json.loads((tmp_path / "summary.json").read_text())["runs"]) == 2
    assert (tmp_path / "report.md").read_text().count("concurrent") == 2
    with pytest.raises(UsageError, match="series of 2 runs"):
        RunDir.load(tmp_path)


SECRET = "hunter2"


@pytest.mark.parametrize(
    "argv",
    [
        ["--api-key", SECRET],
        [f"--api-key={SECRET}"],
        ["-H", f"Authorization: Bearer {SECRET}"],
        ["--header", f"Authorization: {SECRET}"],
        ["--hf-token", SECRET],
        [f"http://user:{SECRET}@127.0.0.1:3000/v1"],
    ],
)
def test_secrets_are_hidden(argv):
    shown = without_secrets(["tgi", "bench", *argv, "--concurrency", "64"])
    assert SECRET not in " ".join(shown)
    assert shown[:2] + shown[-2:] == ["tgi", "bench", "--concurrency", "64"]


def test_no_secret_reaches_a_file(run):
    assert [path.name for path in run.path.iterdir() if SECRET.encode() in path.read_bytes()] == []


def test_the_manifest_says_what_was_run(run, tmp_path):
    dataset = tmp_path / "data.jsonl"
    dataset.write_text("{}")
    manifest = collect(
        ["tgi"],
        title="",
        server={"place": Path("x")},
        load={"rate": 2.0},
        workload={},
        window_ns=(3, 5),
        dataset=dataset,
    )
    assert manifest.dataset_sha256 == hashlib.sha256(b"{}").hexdigest()
    assert manifest.server == {"place": "x"}
    assert manifest.started_ns == 3
    assert manifest.machine.cores >= 1
    assert manifest.machine.python.startswith("CPython 3.")
    assert {"numpy", "msgspec"} <= manifest.packages.keys()
    assert manifest.definitions >= 1
    assert manifest.created[10] == "T"

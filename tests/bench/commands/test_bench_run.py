"""`tgi bench URL`: what it writes and prints, and how it ends when something is wrong."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_runner import Run, assert_refused

from bench.mock import MockServer
from bench.mock.behaviour import Fault
from bench.report.rundir import RunDir, load_runs
from bench.types import Outcome, Phase

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
SMALL = ("--concurrency", "4", "--requests", "12", "--in", "8", "--out", "6")


def summary_of(place: Path) -> dict[str, object]:
    return json.loads((place / "summary.json").read_text())


@pytest.mark.parametrize("api", ["auto", "openai", "chat", "tgi"])
def test_a_run_writes_everything(api: str, bench: Run, mock: MockServer, tmp_path: Path):
    done = bench(mock.url, *SMALL, "--api", api, "--output", str(tmp_path))
    assert done.code == 0, done.err
    assert {path.name for path in tmp_path.iterdir()} == FILES
    summary = summary_of(tmp_path)
    assert (summary["completed"], summary["failed"], summary["num_prompts"]) == (12, 0, 12)
    assert (summary["total_output_tokens"], summary["length_mismatches"]) == (72, 0)
    assert "12  (none failed)" in done.out
    assert mock.url in done.out
    run = RunDir.load(tmp_path)
    assert [record.phase for record in run.records].count(Phase.WARMUP) == 4
    assert run.manifest.argv[:2] == ["tgi", "bench"]


def test_the_command_may_be_named(bench: Run, mock: MockServer, tmp_path: Path):
    done = bench("run", mock.url, *SMALL, "--output", str(tmp_path), "--json", "--quiet", "--warmup", "0")
    assert done.code == 0
    assert done.err == ""
    assert json.loads(done.out)["completed"] == 12


def test_options_come_before_the_url_as_well(bench: Run, mock: MockServer, tmp_path: Path):
    assert bench(*SMALL, "-o", str(tmp_path), mock.url).code == 0


def test_an_open_loop_ends_by_the_clock(bench: Run, mock: MockServer, tmp_path: Path):
    arguments = ("--rate", "40", "--arrival", "constant", "--duration", "0.5", "--in", "8", "--out", "3")
    done = bench(mock.url, *arguments, "-o", str(tmp_path))
    assert done.code in (0, 3), done.err  # 3: a busy machine sent late
    assert summary_of(tmp_path)["completed"] == 20


def test_a_closed_loop_ends_by_the_clock(bench: Run, mock: MockServer, tmp_path: Path):
    done = bench(mock.url, "-c", "2", "--duration", "0.3", "--in", "8", "--out", "3", "-o", str(tmp_path))
    assert done.code == 0, done.err
    summary = summary_of(tmp_path)
    assert summary["never_sent"] == 0
    assert summary["completed"] == summary["num_prompts"]


def test_conversations_send_their_history(bench: Run, mock: MockServer, tmp_path: Path):
    done = bench(mock.url, "-c", "2", "-n", "9", "--turns", "3", "--in", "8", "--out", "4", "-o", str(tmp_path))
    assert done.code == 0, done.err
    run = RunDir.load(tmp_path)
    lengths = {
        (record.session, record.turn): record.input_tokens for record in run.records if record.phase is Phase.MEASURED
    }
    assert len(lengths) == 9
    for session in range(3):
        first, second, third = (lengths[session, turn] or 0 for turn in range(3))
        assert first < second < third


def test_several_runs_are_a_series(bench: Run, mock: MockServer, tmp_path: Path):
    done = bench(mock.url, *SMALL, "--runs", "2", "--seed", "5", "-o", str(tmp_path), "-q")
    assert done.code == 0
    assert "mean over runs" in done.out
    assert re.search(r"^p99_ttft_ms +n/a, need [\d,]+ a run", done.out, re.MULTILINE)  # 12 requests say nothing of it
    runs = load_runs(tmp_path)
    assert [run.manifest.seeds["workload"] for run in runs] == [5, 6]
    assert (tmp_path / "report.html").is_file()


def test_a_series_says_what_is_wrong_with_its_runs(bench: Run, behaving: Callable[..., str], tmp_path: Path):
    url = behaving(faults=(Fault("status", 503, 0.4),), seed=3)
    done = bench(url, *SMALL, "--runs", "2", "--warmup", "0", "-o", str(tmp_path), "-q")
    failed = sum(run.summary["failed"] for run in load_runs(tmp_path))
    assert f"{failed} of 24 requests failed" in done.out
    assert "run-01 is " in done.out
    assert "requests did not succeed" in done.out


def test_settings_come_from_a_preset_and_a_file_and_flags_win(bench: Run, mock: MockServer, tmp_path: Path):
    file = tmp_path / "bench.toml"
    file.write_text('requests = 6\nconcurrency = 3\nslo = "ttft_p50<10s"\n')
    place = tmp_path / "out"
    done = bench(mock.url, "--config", str(file), "--preset", "smoke", "-n", "5", "-o", str(place))
    assert done.code == 0, done.err
    summary = summary_of(place)
    assert (summary["completed"], summary["max_concurrency"], summary["slo_met"]) == (5, 3, True)
    assert summary["total_output_tokens"] == 5 * 16


def test_a_trace_is_replayed(bench: Run, mock: MockServer, tmp_path: Path):
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(json.dumps({"timestamp": 1000 + 100 * i}) + "\n" for i in range(4)))
    place = tmp_path / "out"
    done = bench(mock.url, "--replay", f"{trace}x2", "--in", "8", "--out", "2", "--warmup", "0", "-o", str(place))
    assert done.code in (0, 3), done.err
    run = RunDir.load(place)
    planned = sorted(record.scheduled_ns for record in run.records)
    assert [at - planned[0] for at in planned] == [0, 50_000_000, 100_000_000, 150_000_000]


def test_the_key_is_sent_and_not_kept(bench: Run, behaving: Callable[..., str], tmp_path: Path):
    url = behaving(key="very-secret")
    assert bench(url, *SMALL, "--key", "very-secret", "-o", str(tmp_path)).code == 0
    for path in tmp_path.iterdir():
        assert b"very-secret" not in path.read_bytes()


def test_nothing_listens(bench: Run, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert_refused(bench(f"http://127.0.0.1:{port}", "-o", str(tmp_path)), "cannot reach", str(port))


def test_a_key_is_wanted(bench: Run, behaving: Callable[..., str], tmp_path: Path):
    assert_refused(bench(behaving(key="secret"), "-o", str(tmp_path)), "key", "401")


def test_a_wrong_model(bench: Run, mock: MockServer, tmp_path: Path):
    assert_refused(bench(mock.url, "--model", "no-such-model", "-o", str(tmp_path)), "no-such-model")


@pytest.mark.parametrize(
    ("fault", "outcome", "words"),
    [
        (Fault("json"), Outcome.NOT_A_STREAM, "12 requests succeeded"),
        (Fault("status", 503), Outcome.HTTP_ERROR, "503"),
        (Fault("error", 2), Outcome.STREAM_ERROR, "12 requests succeeded"),
        (Fault("cut", 2), Outcome.CUT, "12 requests succeeded"),
        (Fault("empty"), Outcome.EMPTY, "12 requests succeeded"),
    ],
)
def test_no_success_is_a_failure_that_keeps_its_results(
    fault: Fault, outcome: Outcome, words: str, bench: Run, behaving: Callable[..., str], tmp_path: Path
):
    done = bench(behaving(faults=(fault,)), *SMALL, "--api", "chat", "--warmup", "0", "-o", str(tmp_path))
    assert_refused(done, "none of 12 requests succeeded", code=3)
    assert words in done.err
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert summary_of(tmp_path)["outcomes"][outcome] == 12


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweeep"], ["neither a URL nor a command", "did you mean `tgi bench sweep`"]),
        (["ftp://x"], ["http"]),
        (["--concurrency", "4", "--rate", "3"], ["exclude each other"]),
        (["--concurrency", "1..8"], ["tgi bench sweep"]),
        (["--concurrency", "2.5"], ["whole number"]),
        (["--requests", "0"], ["requests is 0"]),
        (["--arrival", "sometimes"], ["poisson"]),
        (["--slo", "ttft"], ["not an objective"]),
        (["--in", "no"], ["--in"]),
        (["--prefix", "groups"], ["groups=16,len=2k"]),
        (["--preset", "nope"], ["choose one of", "smoke"]),
        (["--config", "/nope/nope.toml"], ["cannot read"]),
        (["--replay", "/nope/trace"], ["cannot read"]),
        (["--ramp", "3", "--rate", "5"], ["--ramp"]),
        (["--warmup", "-1"], ["--warmup"]),
        (["--timeout", "0"], ["--timeout"]),
        (["--runs", "0"], ["--runs"]),
        (["--turns", "2", "--token-ids"], ["token ids"]),
        (["--output", "/proc/nope"], ["cannot write"]),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], words: list[str], bench: Run, mock: MockServer):
    url = [] if arguments[0][0] != "-" else [mock.url]
    assert_refused(bench(*url, *arguments), *words, code=2)


def test_a_file_with_a_mistake_names_it(bench: Run, tmp_path: Path):
    file = tmp_path / "bench.toml"
    for text, words in (
        ("concurency = 3", ["concurency", "did you mean 'concurrency'"]),
        ("requests = 'x'", ["requests", "whole number"]),
        ("token_ids = 1", ["token_ids", "true or false"]),
        ("duration = 'x'", ["duration", "a number"]),
        ("= 3", ["is not TOML"]),
    ):
        file.write_text(text)
        assert_refused(bench("--config", str(file)), *words, code=2)


def test_ctrl_c_lets_requests_end_and_writes_the_report(behaving: Callable[..., str], tmp_path: Path):
    url = behaving(itl_ms=20.0)
    command = [sys.executable, "-m", "tgi_cli", "bench", url, "-c", "2", "-n", "5000", "--in", "8", "--out", "10"]
    with subprocess.Popen(
        [*command, "-o", str(tmp_path)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "done 1" in line or "done 2" in line or "done 3" in line or "done 4" in line:
                process.send_signal(signal.SIGINT)
                break
        rest = process.communicate()
    assert process.returncode == 130, ("".join(lines), rest)
    summary = summary_of(tmp_path)
    assert 0 < summary["completed"] < 5000
    assert (summary["never_sent"], summary["cancelled"], summary["failed"]) == (0, 0, 0)
    assert any("interrupted" in reason for reason in summary["reasons"])


@pytest.mark.slow
def test_our_own_server_is_started_where_none_listens(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "tgi_cli", "bench", "--preset", "smoke", "-o", str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    run = RunDir.load(tmp_path)
    assert run.summary["completed"] == 16
    if run.manifest.server["command"]:
        assert run.manifest.server["kind"] == "ours"

"""The commands that measure more than once: sweep, find, ab; and those that read what was measured."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_runner import Run, assert_refused

from bench.commands.find import in_words, ratios_of
from bench.metrics import Slo
from bench.mock import MockServer
from bench.report.rundir import RunDir, load_manifest, load_runs
from bench.stats.find import Found
from bench.types import OutputEvent, Phase

SMALL = ("--requests", "12", "--in", "8", "--out", "4", "--quiet")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, mock: MockServer) -> Path:
    """A run directory."""
    place = tmp_path_factory.mktemp("measured")
    command = [sys.executable, "-m", "tgi_cli", "bench", mock.url, "-c", "3", *SMALL, "-o", str(place)]
    subprocess.run(command, check=True, capture_output=True)
    return place


def test_a_sweep_of_concurrency(bench: Run, mock: MockServer, tmp_path: Path):
    done = bench("sweep", mock.url, "--concurrency", "1..4x2", *SMALL, "-o", str(tmp_path))
    assert done.code == 0, done.err
    assert [line[:12] for line in done.out.splitlines()[2:5]] == ["1 concurrent", "2 concurrent", "4 concurrent"]
    runs = load_runs(tmp_path)
    assert [run.manifest.load["concurrency"] for run in runs] == [1, 2, 4]
    assert len({run.manifest.seeds["workload"] for run in runs}) == 3  # no prompt is met twice
    assert load_manifest(tmp_path).title.startswith("Sweep: ")
    assert (tmp_path / "report.html").is_file()


def test_a_sweep_of_rates_up_to_the_most(bench: Run, mock: MockServer, tmp_path: Path):
    rates = ("--rate", "20..max:3", "--max-concurrency", "4")
    done = bench("sweep", mock.url, *rates, "--requests", "16", "--in", "8", "--out", "3", "-o", str(tmp_path))
    assert done.code in (0, 3), done.err
    assert "max is" in done.err
    low, middle, high = (run.manifest.load["rate"] for run in load_runs(tmp_path))
    assert low == 20
    assert middle == pytest.approx((low + high) / 2)


def test_find_meets_the_capacity_of_its_server(bench: Run, behaving: Callable[..., str], tmp_path: Path):
    url = behaving(slots=2, itl_ms=5.0)  # the third waits for a place, 150 ms and more
    load = ("--over", "concurrency", "--high", "8", "--slo", "ttft:100", "--probes", "6")
    done = bench("find", url, *load, "--requests", "10", "--in", "8", "--out", "30", "-o", str(tmp_path))
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "find.json").read_text())
    assert found["limited"]
    assert found["load"] in (None, 1, 2), done.err  # a busy machine can make the mock miss its own times
    assert found["binding"] == "requests outside the limits"
    assert len(load_runs(tmp_path)) == len(found["probes"]) <= 6


def test_find_sees_failures_that_latencies_hide(measured: Path):
    run = RunDir.load(measured)
    slo = Slo.parse("ttft_p50<10s")
    assert ratios_of(run, slo, 0.95)["failed requests"] == 0
    run.summary |= {"completed": 6}
    assert ratios_of(run, slo, 0.95)["failed requests"] == pytest.approx(50)


def test_find_sees_a_backlog_that_a_short_probe_hides(measured: Path):
    run = RunDir.load(measured)
    slo = Slo.parse("ttft_p50<10s")
    for second, record in enumerate(record for record in run.records if record.phase is Phase.MEASURED):
        late = round(0.05 * second * 1e9)  # served 5 % slower than they come
        record.scheduled_ns = record.sent_ns = 10**12 + second * 10**9
        record.events = [OutputEvent(record.sent_ns + 10**7 + late, 1)]
    assert ratios_of(run, slo, 0.95, open_loop=True)["a growing backlog"] == pytest.approx(2.5)
    assert "a growing backlog" not in ratios_of(run, slo, 0.95)


def test_findings_in_words():
    open_end = Found(100.0, 100.0, float("inf"), False, "none", None, ())
    assert in_words(open_end, "rate").startswith("At least 100 requests/s")
    assert in_words(Found(None, 0.0, 1.0, True, "none", "x", ()), "rate") == "None: 1 requests/s already misses x."
    assert "faster than they are served" in in_words(
        Found(8.0, 7.0, 9.0, True, "smooth", "a growing backlog", ()), "rate"
    )
    assert "stay well below" in in_words(Found(8.0, 7.0, 9.0, True, "cliff", "x", ()), "concurrency")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["find"], ["--slo"]),
        (["find", "--slo", "ttft_p99<1s", "--over", "x"], ["--over"]),
        (["find", "--slo", "ttft_p99<1s", "--rate", "3"], ["--low and --high"]),
        (["find", "--slo", "ttft_p99<1s", "--low", "5", "--high", "4"], ["--low"]),
        (["find", "--slo", "ttft_p99<1s", "--attain", "1"], ["--attain"]),
        (["find", "--slo", "ttft_p99<1s", "--probes", "1"], ["--probes"]),
        (["sweep", "--concurrency", "8..1"], ["goes down"]),
        (["sweep", "--concurrency", "1", "--rate", "2"], ["exclude each other"]),
        (["sweep", "--rate", "0..max:3"], ["greater than 0"]),
        (["ab", "http://127.0.0.1:1", "serve me"], ["says no port"]),
        (["ab", "http://127.0.0.1:1", "x", "--margin", "2"], ["--margin"]),
        (["report", "/nope"], ["not a run directory"]),
        (["mock", "--fault", "sometimes"], ["KIND[:VALUE]"]),
        (["mock", "--tokens-per-event", "x"], ["--tokens-per-event"]),
        (["mock", "--slots", "0"], ["the mock cannot do that"]),
        (["micro", "--runtime", "nope"], ["reference"]),
        (["micro", "--only", "no such kernel"], ["no such kernel"]),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], words: list[str], bench: Run, mock: MockServer):
    if arguments[0] == "ab":
        arguments = [mock.url if word == "http://127.0.0.1:1" else word for word in arguments]
    elif arguments[0] in ("find", "sweep"):
        arguments = [arguments[0], mock.url, *arguments[1:]]
    assert_refused(bench(*arguments), *words, code=2)


def test_ab_finds_the_slower_server(bench: Run, mock: MockServer, behaving: Callable[..., str], tmp_path: Path):
    slow = behaving(ttft_ms=50.0, itl_ms=5.0)
    done = bench("ab", mock.url, slow, "--runs", "3", "-c", "3", *SMALL, "-o", str(tmp_path))
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "summary.json").read_text())
    assert result["judgements"]["mean_e2el_ms"]["change"] > 0
    assert result["judgements"]["mean_e2el_ms"]["pairs"] == 3
    a, b = load_runs(tmp_path / "a"), load_runs(tmp_path / "b")
    assert [run.manifest.seeds for run in a] == [run.manifest.seeds for run in b]
    assert len({run.manifest.seeds["workload"] for run in a}) == 3
    ran = [("a", run.manifest.window_ns[0]) for run in a] + [("b", run.manifest.window_ns[0]) for run in b]
    assert "".join(name for name, _ in sorted(ran, key=lambda each: each[1])) == "abbaab"
    assert (tmp_path / "report.html").is_file()
    assert "B is" in done.out


def test_ab_starts_the_servers_that_are_given_as_commands(bench: Run, tmp_path: Path):
    serve = f"{sys.executable} -m tgi_cli bench mock --port {{port}} --itl 1"
    a, b = f"{serve} --ttft 5", f"{serve} --ttft 60 --model http://is/no/url"
    done = bench("ab", a, b, "--runs", "2", "-c", "3", *SMALL, "-o", str(tmp_path))
    assert done.code == 0, done.err
    runs = {side: load_runs(tmp_path / side) for side in "ab"}
    assert [len(found) for found in runs.values()] == [2, 2]
    assert len({run.manifest.server["url"] for found in runs.values() for run in found}) == 4  # started for each run
    assert json.loads((tmp_path / "summary.json").read_text())["judgements"]["mean_ttft_ms"]["change"] > 1


def test_reports_are_made_anew(bench: Run, measured: Path):
    before = (measured / "report.html").read_bytes()
    (measured / "report.html").unlink()
    done = bench("report", str(measured))
    assert done.code == 0, done.err
    assert (measured / "report.html").read_bytes() == before
    assert "12  (none failed)" in done.out


@pytest.mark.parametrize("tool", ["vllm", "guidellm", "aiperf", "csv"])
def test_a_run_is_exported_and_comes_back(tool: str, bench: Run, measured: Path, tmp_path: Path):
    done = bench("export", str(measured), "--as", tool, "-o", str(tmp_path))
    assert done.code == 0, done.err
    written = [Path(line) for line in done.out.split()]
    assert written
    assert all(path.is_file() for path in written)
    if tool != "csv":
        back = tmp_path / "back"
        done = bench("import", str(written[0]), "-o", str(back))
        assert done.code == 0, done.err
        assert RunDir.load(back).summary["completed"] == 12
    assert_refused(bench("export", str(measured), "--as", "pdf"), "vllm", code=2)


def test_compare_says_so_by_its_exit_code(bench: Run, measured: Path, tmp_path: Path):
    gate = tmp_path / "gate.toml"
    gate.write_text('[[metric]]\nname = "completed"\ndirection = "higher"\n')
    same = bench("compare", str(measured), str(measured), "--gate", str(gate), "-o", str(tmp_path / "out"))
    assert same.code == 0, (same.out, same.err)
    assert (tmp_path / "out" / "report.html").is_file()
    worse = tmp_path / "worse"
    run = RunDir.load(measured)
    run.path, run.summary = worse, {**run.summary, "completed": 6}
    run.write()
    assert bench("compare", str(measured), str(worse), "--gate", str(gate)).code == 1
    assert bench("compare", str(worse), str(measured), "--gate", str(gate)).code == 2
    run.manifest.load = {**run.manifest.load, "concurrency": 99}
    run.write()
    other = bench("compare", str(measured), str(worse), "--gate", str(gate))
    assert other.code == 3
    assert "load differs" in other.out
    assert bench("compare", str(measured), str(worse), "--gate", str(gate), "--allow-mismatch").code == 1


def test_what_compare_cannot_read_is_no_verdict(bench: Run, measured: Path):
    assert_refused(bench("compare", str(measured), "/nope"), "not a run directory", code=3)


def test_the_mock_serves_from_the_command_line(tmp_path: Path):
    config = tmp_path / "mock.toml"
    config.write_text('ttft_ms = 1.0\nrole = "early"\n')
    command = [sys.executable, "-m", "tgi_cli", "bench", "mock", "--port", "0", "--itl", "1", "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert line.startswith("ready at http://127.0.0.1:")
            url = line.split()[-1]
            done = subprocess.run(
                [sys.executable, "-m", "tgi_cli", "bench", url, "-c", "2", *SMALL, "-o", str(tmp_path / "out")],
                capture_output=True,
            )
            assert done.returncode == 0, done.stderr
        finally:
            process.terminate()

"""`tgi bench tune`: servers started with one setting after the other, a file that survives, and nothing left behind."""

import json
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from cli_runner import Run, assert_refused

from bench.mock import MockServer

MOCK = shlex.join([sys.executable, "-m", "tgi_cli", "bench", "mock", "--port", "{port}", "--ttft", "2"])
SMALL = ("-c", "2", "--requests", "6", "--in", "8", "--out", "5", "--warmup", "0")


def running(marker: str) -> list[str]:
    """The command lines of processes that have the marker among their arguments."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if marker.encode() in words:
            found.append(b" ".join(words).decode())
    return found


def test_the_best_setting_is_recommended(bench: Run, tmp_path: Path):
    serve = f"{MOCK} --itl {{inter-token}} --model {{name}}"
    knobs = ("--knob", "inter-token=1,40", "--knob", "name=a,b")
    done = bench("tune", "--serve", serve, *knobs, *SMALL, "--repeats", "1", "-o", str(tmp_path))
    assert done.code == 0, done.err
    recommended = tomllib.loads((tmp_path / "recommended.toml").read_text())
    assert recommended["itl"] == 1
    assert recommended["model"] in ("a", "b")
    state = json.loads((tmp_path / "tune.json").read_text())
    assert len(state["trials"]) == 4 + 3
    assert all(trial["error"] is None for trial in state["trials"])
    assert "recommended" in done.out
    assert "median output_throughput" in done.out
    again = bench("tune", "--serve", serve, *knobs, *SMALL, "--repeats", "1", "-o", str(tmp_path))
    assert again.code == 0
    assert "7 done" in again.err
    assert again.out == done.out
    other = bench("tune", "--serve", serve, *knobs, *SMALL, "--repeats", "2", "-o", str(tmp_path))
    assert_refused(other, "belongs to another search", code=2)


def test_a_setting_that_does_not_start_is_left_out(bench: Run, tmp_path: Path):
    serve = f"{MOCK} --itl {{itl}}"
    arguments = ("--knob", "itl=nonsense,1", *SMALL, "--repeats", "1", "-o", str(tmp_path))
    done = bench("tune", "--serve", serve, *arguments)
    assert done.code == 0, done.err
    assert "failed: itl=nonsense" in done.out
    assert tomllib.loads((tmp_path / "recommended.toml").read_text()) == {"itl": 1}
    none = tmp_path / "none"
    done = bench("tune", "--serve", serve, "--knob", "itl=nonsense", *SMALL, "-o", str(none))
    assert_refused(done, "no configuration worked")


def test_killed_in_the_middle_it_resumes_and_leaves_nothing_behind(bench: Run, tmp_path: Path):
    marker = f"model-{tmp_path.name}"
    serve = f"{MOCK} --itl {{itl}} --model {marker}"
    arguments = ["tune", "--serve", serve, "--knob", "itl=1..8:4", *SMALL, "--repeats", "1", "-o", str(tmp_path)]
    state = tmp_path / "tune.json"
    with subprocess.Popen(
        [sys.executable, "-m", "tgi_cli", "bench", *arguments], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as process:
        # Past the first trial, and with a server up for the second: both are bounded by the test's own timeout.
        while not state.is_file() or not running(marker):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    while running(marker):
        time.sleep(0.01)
    before = json.loads(state.read_text())["trials"]
    assert 1 <= len(before) < 7
    done = bench(*arguments)
    assert done.code == 0, done.err
    assert f"{len(before)} done" in done.err
    after = json.loads(state.read_text())["trials"]
    assert after[: len(before)] == before
    assert len(after) == 7
    assert running(marker) == []


def test_live_knobs_are_posted(bench: Run, mock: MockServer, tmp_path: Path):
    """Between this test's own little server, which takes the knobs, and the mock, which is measured."""
    posted: list[object] = []

    class Knobs(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200 if posted[-1] != {"size": 2} else 422)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on the terminal."""

    from bench.commands.trials import _change
    from bench.types import BenchError

    with ThreadingHTTPServer(("127.0.0.1", 0), Knobs) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        _change(url, "/knobs", {"size": "1", "policy": "fair", "on": "true"}, None)
        with pytest.raises(BenchError, match=r"refuses .*422"):
            _change(url, "knobs", {"size": "2"}, None)
        server.shutdown()
    assert posted == [{"size": 1, "policy": "fair", "on": True}, {"size": 2}]
    refused = bench("tune", "--live", "/nope", "--url", mock.url, "--knob", "a=1", *SMALL, "-o", str(tmp_path))
    assert_refused(refused, "no configuration worked")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--knob"]),
        (["--knob", "a=1", "--serve", "x --port {port}"], ["--knob a changes nothing"]),
        (["--knob", "a=1", "--live", "/x"], ["--url"]),
        (["--knob", "a=1", "--search", "bo"], ["halving nor grid"]),
        (["--knob", "a=1", "--repeats", "0"], ["--repeats"]),
        (["--knob", "a=1", "--serve", "x {a} {b} {port}"], ["{b} without a value"]),
        (["--knob", "a=1", "--serve", "x {a}"], ["says no port"]),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], words: list[str], bench: Run, tmp_path: Path):
    assert_refused(bench("tune", *arguments, *SMALL, "-o", str(tmp_path)), *words, code=2)


@pytest.mark.slow
def test_our_own_server_is_tuned(bench: Run, tmp_path: Path):
    knobs = ("--knob", "max_batch_size=2,8", "--knob", "prefix_caching=true,false")
    load = ("-c", "4", "--requests", "8", "--in", "32", "--out", "8", "--repeats", "1")
    done = bench("tune", *knobs, *load, "-o", str(tmp_path))
    assert done.code == 0, done.err
    assert "Pareto" in done.out
    shown = subprocess.run(
        [sys.executable, "-m", "tgi_cli", "serve", "--config", str(tmp_path / "recommended.toml"), "--env"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    recommended = tomllib.loads((tmp_path / "recommended.toml").read_text())
    assert set(recommended) == {"max_batch_size", "prefix_caching"}
    assert "recommended.toml: max_batch_size" in shown

"""The start-up benchmark measures every command it names, with as many runs as asked for."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_it_measures_every_command():
    command = [sys.executable, "-m", "bench.startup", "--runs", "1", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    seconds = json.loads(done.stdout)["seconds"]
    assert set(seconds) == {"tgi --help", "tgi generate, one token", "tgi serve, ready"}
    assert all(len(times) == 1 and times[0] > 0 for times in seconds.values())


def test_a_command_that_fails_is_no_measurement():
    script = "from bench.startup import *; "
    for call in ("time_to_end('inspect', 'no-such/place')", "time_to_ready('serve', '--port', 'x')"):
        done = subprocess.run([sys.executable, "-c", script + call], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode != 0
        assert "RuntimeError: tgi " in done.stderr

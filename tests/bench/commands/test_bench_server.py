"""Servers that a benchmark starts: found ready, ended with all they started, also when their user is killed."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from bench.server.launch import Server, fill, listens
from bench.types import BenchError, UsageError

# A server with a child of its own, which outlives it unless the whole group is ended.
PROGRAM = """
import http.server, subprocess, sys, pathlib
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session="away" in sys.argv)
pathlib.Path(sys.argv[2]).write_text(str(child.pid))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    program = tmp_path / "server.py"
    program.write_text(PROGRAM)
    return [sys.executable, str(program), "{port}", str(tmp_path / "child")]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until_gone(*pids: int) -> None:
    while not all(gone(pid) for pid in pids):  # the test's own timeout bounds this
        time.sleep(0.01)


def test_a_server_is_ready_inside_and_gone_with_its_children_outside(command: list[str], tmp_path: Path):
    with Server(command) as server:
        assert listens(server.url)
        child = int((tmp_path / "child").read_text())
        assert not gone(child)
    assert not listens(server.url)
    assert gone(child)


@pytest.mark.parametrize("away", [[], ["away"]], ids=["same session", "child in a session of its own"])
def test_a_server_dies_with_a_user_that_is_killed(command: list[str], away: list[str], tmp_path: Path):
    command += away
    user = textwrap.dedent(f"""
        import time
        from bench.server.launch import Server
        with Server({command!r}) as server:
            print(server.url, flush=True)
            time.sleep(600)
    """)
    root = Path(__file__).parents[3]
    process = subprocess.Popen([sys.executable, "-c", user], stdout=subprocess.PIPE, text=True, cwd=root)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    child = int((tmp_path / "child").read_text())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    wait_until_gone(child)
    while listens(url):
        time.sleep(0.01)


def test_a_server_that_ends_shows_what_it_said():
    command = [sys.executable, "-c", "print('no such model'); raise SystemExit(3)", "{port}"]
    with pytest.raises(BenchError, match=r"ended before it was ready.*\n.*no such model"), Server(command):
        pass


def test_a_port_in_use_is_refused(command: list[str]):
    with Server(command) as first:
        port = first.url.rpartition(":")[2]
        second = Server([word.replace("{port}", port) for word in command], url=first.url)
        with pytest.raises(BenchError, match=r"answers at .* already"), second:
            pass


def test_places_of_a_command_are_filled():
    assert fill("serve --port {port} --size={size}", {"port": 1, "size": "2k"}) == ["serve", "--port", "1", "--size=2k"]
    with pytest.raises(UsageError, match=r"\{chunk\} without a value; known: \{port\}"):
        fill("serve {chunk}", {"port": 1})
    with pytest.raises(UsageError, match="empty"):
        fill("", {})
    with pytest.raises(UsageError, match="says no port"):
        Server("serve")

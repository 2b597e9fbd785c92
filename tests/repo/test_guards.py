"""The guards of tests/guards.py do what they say."""

import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import guards
import pytest


def test_other_machines_are_unreachable():
    with socket.socket() as connection, pytest.raises(OSError, match=r"only this machine, not 192\.0"):
        connection.connect(("192.0.2.1", 80))
    with socket.socket() as connection:
        assert connection.connect_ex(("192.0.2.1", 80)) != 0


def test_other_names_are_unknown():
    with pytest.raises(OSError, match="only this machine, not huggingface"):
        urllib.request.urlopen("https://huggingface.co")


def test_this_machine_is_reachable():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(("localhost", server.getsockname()[1]), timeout=10) as client,
    ):
        assert client.getpeername()[0] == "127.0.0.1"


SKIPPING = """
import pytest

@pytest.mark.skip(reason="no compiler here")
def test_skipped(): ...

def test_skips():
    pytest.skip("no browser here")

@pytest.mark.xfail(strict=True)
def test_expected_to_fail():
    raise AssertionError
"""


@pytest.mark.parametrize(
    ("require", "summary"), [("", "3 skipped, 1 xfailed"), ("all", "1 failed, 1 xfailed, 2 errors")]
)
def test_a_skip_is_a_failure_where_all_is_required(require, summary, tmp_path):
    (tmp_path / "test_skipping.py").write_text(SKIPPING)
    (tmp_path / "test_module.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    options = ["-p", "guards", "-p", "no:cacheprovider", "--continue-on-collection-errors", "-q"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), guards.REQUIRE: require}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert summary in done.stdout
    assert (done.returncode != 0) == (require == "all")


def test_what_is_required_is_all_or_nothing(monkeypatch, pytestconfig):
    monkeypatch.setenv(guards.REQUIRE, "some")
    with pytest.raises(pytest.UsageError, match="use 'all'"):
        guards.pytest_configure(pytestconfig)

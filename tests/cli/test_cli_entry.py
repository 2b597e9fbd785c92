"""How the programs begin and end: Ctrl-C while they load, and an output that cannot be written."""

import errno
import importlib.abc
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tgi_cli import entry

HELLO = ("generate", "Hello", "--max-new-tokens", "2")


class Interrupted(importlib.abc.MetaPathFinder):
    """Ctrl-C in the midst of the imports."""

    def find_spec(self, name: str, *_: Any) -> None:
        if name == "tgi_cli.app":
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "start", [entry.main, entry.launcher, lambda: runpy.run_module("tgi_cli")], ids=["tgi", "launcher", "python -m"]
)
def test_ctrl_c_while_loading_ends_quietly(
    start: Callable[[], object], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import tgi_cli

    monkeypatch.delitem(sys.modules, "tgi_cli.app")
    monkeypatch.delattr(tgi_cli, "app")
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        start()
    assert ended.value.code == 130
    assert capfd.readouterr() == ("", "")


def run(arguments: tuple[str, ...], redirection: str) -> subprocess.CompletedProcess[str]:
    command = f'exec "$@" {redirection}'
    return subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, "-m", "tgi_cli", *arguments], stderr=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
@pytest.mark.parametrize("arguments", [HELLO, (*HELLO, "--json"), ("inspect",), ("--help",)], ids=" ".join)
def test_a_full_disk_is_one_line(arguments: tuple[str, ...]) -> None:
    done = run(arguments, ">/dev/full")
    assert done.returncode == 1
    assert done.stderr == f"error: cannot write the output: {os.strerror(errno.ENOSPC)}\n"


@pytest.mark.parametrize("arguments", [HELLO, (*HELLO, "--json"), ("inspect",)], ids=" ".join)
def test_a_closed_output_is_one_line(arguments: tuple[str, ...]) -> None:
    done = run(arguments, ">&-")
    assert done.returncode == 1
    assert done.stderr == "error: cannot write the output: standard output is closed\n"

"""Run commands in this process, as a user would type them."""

import io
import logging
import sys
from collections.abc import Callable, Iterator

import pytest
from cli_runner import Result, Run

from tgi_cli.app import launcher, main
from tgi_cli.options import FLAGS


@pytest.fixture
def tgi(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`tgi("generate", "Hello", stdin="...")` -> exit code, standard output and standard error."""

    def run(*arguments: str, stdin: str | bytes = "", program: Callable[[list[str]], None] = main) -> Result:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            program(list(arguments))
        output = capsys.readouterr()
        code = ended.value.code
        return Result(code if isinstance(code, int) else 0 if code is None else 1, output.out, output.err)

    return run


@pytest.fixture
def launch(tgi: Run) -> Run:
    return lambda *arguments: tgi(*arguments, program=launcher)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No flag is set from outside, and what a command does to logging ends with the test."""
    for name in ("HOSTNAME", "API_KEY", "LOG_LEVEL", "TGI_DEBUG", *(flag.env for flag in FLAGS)):
        monkeypatch.delenv(name or "", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)

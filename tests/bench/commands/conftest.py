"""`tgi bench` in this process, against a mock that answers fast."""

import sys
from collections.abc import Callable, Iterator

import pytest
from cli_runner import Result, Run

from bench.mock import Behaviour, MockServer
from tgi_cli.app import main


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`bench("sweep", url, ...)` -> exit code, standard output and standard error."""
    monkeypatch.delenv("TGI_DEBUG", raising=False)
    monkeypatch.delenv("TGI_BENCH_KEY", raising=False)

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["tgi", "bench", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["bench", *arguments])
        output = capsys.readouterr()
        code = ended.value.code
        return Result(code if isinstance(code, int) else 0 if code is None else 1, output.out, output.err)

    return run


@pytest.fixture(scope="session")
def mock() -> Iterator[MockServer]:
    with MockServer.start(Behaviour(ttft_ms=5, itl_ms=1)) as server:
        yield server


@pytest.fixture
def behaving() -> Iterator[Callable[..., str]]:
    """`behaving(faults=...)` -> the URL of a mock that does so, until the test ends."""
    started: list[MockServer] = []

    def start(**settings: object) -> str:
        quick = {"ttft_ms": 5.0, "itl_ms": 1.0}
        started.append(MockServer.start(Behaviour(**{**quick, **settings})))
        return started[-1].url

    yield start
    for server in started:
        server.stop()

"""What the tests of the commands share: the outcome of one, and what a refusal looks like."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Run = Callable[..., Result]  # the fixture `tgi`: run("generate", "Hello", stdin="...")


def assert_refused(result: Result, *words: str, code: int = 1) -> None:
    """The command failed with one line that holds these words, and no traceback."""
    assert result.code == code, result
    assert "Traceback" not in result.err
    [line] = [line for line in result.err.splitlines() if line.startswith("error:")]
    assert "This is a bug" not in line
    for word in words:
        assert word in line

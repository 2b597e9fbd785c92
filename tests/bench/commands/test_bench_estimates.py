"""A server that counts no tokens: every figure of tokens is called an estimate, wherever it is shown."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_runner import Run

from bench.mock import MockServer
from bench.types import ONE_PER_EVENT

SMALL = ("--requests", "12", "--in", "8", "--out", "4", "--quiet")


@pytest.fixture
def uncounted(behaving: Callable[..., str]) -> str:
    """Sends two tokens in an event, and says nothing of it."""
    return behaving(kind="openai", usage="none", tokens_per_event=(2,))


def test_one_token_per_event_is_never_silent(bench: Run, uncounted: str, tmp_path: Path):
    done = bench(uncounted, "-c", "3", *SMALL, "-o", str(tmp_path))
    assert done.code == 0, done.err
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["token_source"], summary["token_source_estimated"]) == ("events", True)
    assert summary["total_output_tokens"] == 24  # in truth 48, which nobody says
    assert summary["length_mismatches"] is None
    assert summary["verdict"] == "DEGRADED"
    reason = f"the tokens of 12 of 12 answers are {ONE_PER_EVENT}; --tokenizer counts them"
    assert reason in summary["reasons"]
    for text in (done.out, (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()):
        assert ONE_PER_EVENT in text
        assert reason in text
        assert "TPOT, estimated" in text


def test_a_series_says_so_too(bench: Run, uncounted: str, tmp_path: Path):
    for arguments in (("sweep", uncounted, "--concurrency", "1,2"), (uncounted, "-c", "2", "--runs", "2")):
        place = tmp_path / arguments[0][:5]
        done = bench(*arguments, *SMALL, "-o", str(place))
        assert done.code == 0, done.err
        for text in (done.out, (place / "report.md").read_text(), (place / "report.html").read_text()):
            assert f"are {ONE_PER_EVENT}." in text


def test_counted_and_uncounted_tokens_are_not_compared_in_silence(
    bench: Run, uncounted: str, mock: MockServer, tmp_path: Path
):
    done = bench("ab", mock.url, uncounted, "--runs", "1", "-c", "2", "--api", "openai", *SMALL, "-o", str(tmp_path))
    assert done.code == 0, done.err
    for text in (done.out, (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()):
        assert f"the tokens of B are {ONE_PER_EVENT}" in text
    done = bench("compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert done.code == 3
    assert "tokens differs: counted and one per event" in done.out

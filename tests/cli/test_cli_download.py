"""`tgi download`: what it fetches, prints and refuses. The faults of a hub are in test_hub.py."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_runner import Run, assert_refused
from fake_hub import COMMIT, FakeHub

from tgi_cli import ui

TOKEN = "hf_canaryCanaryCanary"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with FakeHub().running() as server:
        server.models["acme/tiny"] = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": bytes(5000)}
        server.models["acme/pickled"] = {"config.json": b"{}", "pytorch_model.bin": bytes(5000)}
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield server


@pytest.mark.parametrize("command", ["download", "download-weights"])
def test_a_download_prints_where_the_model_is(hub: FakeHub, tgi: Run, tmp_path: Path, command: str) -> None:
    result = tgi(command, "acme/tiny", "--cache-dir", str(tmp_path))
    assert result.code == 0
    assert result.err == ""  # no progress bar where nobody watches
    folder = Path(result.out.removesuffix("\n"))
    assert folder.name == COMMIT
    assert folder.is_relative_to(tmp_path)
    assert (folder / "model.safetensors").read_bytes() == bytes(5000)


def test_a_progress_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with ui.download_progress("acme/[tiny]") as progress:
        assert progress is not None
        assert capsys.readouterr().err == ""  # nor anything where there is nothing to download
        progress(500, 0)  # how much there is may not be known yet
        progress(500, 1000)
        progress(1000, 1000)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "acme/[tiny]" in shown.err
    assert "1.0/1.0 kB" in shown.err


def test_a_directory_is_printed_as_it_is(tgi: Run, tmp_path: Path) -> None:
    assert tgi("download", str(tmp_path)).out == f"{tmp_path}\n"
    assert_refused(tgi("download", str(tmp_path), "--revision", "v1"), "--revision", "has no revisions", code=2)


def test_what_cannot_be_downloaded(hub: FakeHub, tgi: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ("--cache-dir", str(tmp_path))
    assert_refused(tgi("download", "acme/nothing", *cache), "acme/nothing", "HF_TOKEN")
    assert_refused(tgi("download", "acme/tiny", "--revision", "v9", *cache), "no revision 'v9'")
    assert_refused(tgi("download", "acme/pickled", *cache), "pytorch_model.bin", "safetensors")
    assert_refused(tgi("download", "./missing", *cache), "there is no directory './missing'")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = tgi("download", "acme/tiny", *cache)
    assert_refused(result, "HF_HUB_OFFLINE", "there is no directory 'acme/tiny'")
    assert TOKEN not in result.err


def test_serve_and_generate_name_a_missing_model(hub: FakeHub, tgi: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_TOKEN")
    assert_refused(tgi("serve", "nope"), "there is no directory 'nope'", "http://127.0.0.1:9 cannot be reached")
    for command in (["serve"], ["generate", "x", "--model"], ["inspect"]):
        assert_refused(tgi(*command, "/no/such/model"), "/no/such/model")
    monkeypatch.setenv("MODEL_ID", "/no/such/model")
    assert_refused(tgi("serve"), "/no/such/model")

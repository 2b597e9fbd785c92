"""The number of BLAS threads: as asked, one for a small model, else the environment's; said when it is too late."""

import os
import sys
from pathlib import Path

import pytest

from engine.config import ModelOptions
from engine.runtimes.reference import threads


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of 1000 bytes, before numpy is loaded and with nothing in the environment."""
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    monkeypatch.delenv(threads.VARIABLE, raising=False)
    monkeypatch.delitem(sys.modules, "numpy", raising=False)
    return tmp_path


def limit(model: Path, count: int | None) -> str | None:
    threads.limit_threads(ModelOptions(path=str(model), threads=count))
    return os.environ.get(threads.VARIABLE)


def test_as_asked(model: Path) -> None:
    assert limit(model, 7) == "7"


def test_one_for_a_small_model(model: Path) -> None:
    assert limit(model, None) == "1"


def test_the_environment_decides_for_a_large_one(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "SMALL_MODEL", 1000)
    assert limit(model, None) is None


def test_the_environment_beats_the_size(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(threads.VARIABLE, "5")
    assert limit(model, None) == "5"


def test_too_late(model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "numpy", threads)
    assert limit(model, 3) is None
    assert "--threads 3 has no effect" in caplog.text

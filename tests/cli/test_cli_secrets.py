"""Keys and tokens appear nowhere: not in messages, reports, representations or logs."""

import logging
from pathlib import Path

import pytest
from cli_runner import Run

from engine.errors import ConfigError
from tgi_cli.options import FLAGS
from tgi_cli.settings import read_settings

CANARY = "canary-5f0c1d"
SECRET = [flag for flag in FLAGS if flag.secret]


def key_file(tmp_path: Path, text: str = f"# keys\n{CANARY}-a\n\n  {CANARY}-b  \n") -> str:
    file = tmp_path / "keys"
    file.write_text(text)
    return str(file)


def test_keys_come_from_the_environment_a_flag_and_a_file(tmp_path: Path) -> None:
    settings = read_settings({"api_key_file": key_file(tmp_path)}, {"API_KEY": f"{CANARY}-env"})
    assert settings.server_options("m").api_keys == (f"{CANARY}-env", f"{CANARY}-a", f"{CANARY}-b")
    assert read_settings({"api_key": CANARY}, {}).server_options("m").api_keys == (CANARY,)
    several = read_settings({}, {"API_KEY": f" {CANARY}-1 {CANARY}-2\n"}).server_options("m")
    assert several.api_keys == (f"{CANARY}-1", f"{CANARY}-2")


def test_nothing_shows_a_secret(tmp_path: Path) -> None:
    typed: dict[str, object] = {flag.key: CANARY for flag in SECRET} | {"api_key_file": key_file(tmp_path)}
    settings = read_settings(typed, {})
    assert len(SECRET) == 2
    assert CANARY not in repr(settings)
    assert CANARY not in repr(settings.server_options("m"))
    assert CANARY not in " ".join(settings.notices())


def test_the_report_shows_no_secret(tgi: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    monkeypatch.setenv("NGROK_AUTHTOKEN", CANARY)
    result = tgi("serve", "--env", "--api-key", CANARY, "--api-key-file", key_file(tmp_path), "--port", "8080")
    assert result.code == 0
    assert CANARY not in result.out + result.err
    assert "***  (--api-key)" in result.out
    assert "***  (environment NGROK_AUTHTOKEN)" in result.out
    assert "8080  (--port)" in result.out
    assert "python" in result.out


def test_a_key_on_the_command_line_is_warned_about() -> None:
    [warning] = read_settings({"api_key": CANARY}, {}).notices()
    assert "API_KEY or --api-key-file" in warning
    assert not list(read_settings({}, {"API_KEY": CANARY}).notices())


def test_an_empty_key_does_not_open_the_server(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="API_KEY is set but empty"):
        read_settings({}, {"API_KEY": ""})
    with pytest.raises(ConfigError, match="--api-key is empty"):
        read_settings({"api_key": " "}, {})
    with pytest.raises(ConfigError, match="holds no key"):
        read_settings({"api_key_file": key_file(tmp_path, "# none\n\n")}, {}).server_options("m")


def test_a_bad_secret_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings({"api_key": f"{CANARY}\0"}, {})
    assert CANARY not in str(caught.value)


def test_a_start_logs_no_secret(tgi: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("API_KEY", CANARY)
    monkeypatch.setenv("HF_TOKEN", CANARY)
    monkeypatch.setattr("engine.server.run.serve", lambda *_, **__: logging.getLogger("tgi").info("served"))
    result = tgi("serve", "--hostname", "0.0.0.0", "--sharded", "true")
    assert result.code == 0
    assert "served" in result.err
    assert "no effect" in result.err
    assert CANARY not in result.out + result.err

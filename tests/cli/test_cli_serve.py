"""`tgi serve` from start to end: its log, its address, its signals, and what keeps it from starting."""

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runner import Run, assert_refused

from engine.errors import ConfigError
from engine.logs import configure_logging


def test_a_server_starts_answers_and_ends(tgi: Run, tmp_path: Path) -> None:
    config = tmp_path / "own.toml"
    config.write_text('preset = "latency"\nport = 0\njson_output = true\n')
    command = [
        sys.executable,
        "-m",
        "tgi_cli",
        "serve",
        "--config",
        str(config),
        "--inline",
        "--usage-stats",
        "on",
        "--num-shard",
        "1",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            log = []
            for line in process.stderr:
                log.append(json.loads(line))
                if found := re.search(r"ready at (\S+)", log[-1]["fields"]["message"]):
                    break
            else:
                pytest.fail(f"never ready: {log}")
            answer = tgi("generate", "The river is", "--max-new-tokens", "4", "--url", found[1])
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert answer.out == tgi("generate", "The river is", "--max-new-tokens", "4").out
    assert {frozenset(entry) for entry in log} == {frozenset({"timestamp", "level", "fields", "target"})}
    messages = [entry["fields"]["message"] for entry in log]
    assert messages[0] == "the flag --usage-stats has no effect: nothing is ever reported"
    assert not any("--num-shard" in message for message in messages)  # one is what there is
    assert log[0]["level"] == "WARN"
    assert any("LlamaForCausalLM with 6.8 million parameters" in message for message in messages)


def test_a_port_in_use(tgi: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert_refused(tgi("serve", "--port", port), f"port {port}", "in use")


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["one", "--model-id", "two"], ["'one'", "'two'"], 2),
        (["--sharded", "--port", "8083", "--model-id", "two"], ["--sharded", "'--port'", "true, false"], 2),
        (["--max-total-tokens", "99999", "--port", "0"], ["--max-total-tokens 99999: this model", "at most 1024"], 2),
        (["--lora-adapters", "x/y"], ["--lora-adapters: 'x/y' is not available"], 2),
        (["--port", "99999"], ["--port", "65535"], 2),
        (["--hostname", "no.such.host.invalid"], ["--hostname", "no.such.host.invalid"], 2),
        (["--quantize", "gptq"], ["--quantize", "one of: int8"], 2),
        (["--max-input-length", "9", "--max-input-tokens", "9"], ["say the same thing"], 2),
        (["--config", "/no/such.toml"], ["/no/such.toml"], 2),
        (["--preset", "speed"], ["--preset", "latency, throughput"], 2),
        (["--runtime", "abacus", "--port", "0", "--inline"], ["abacus"], 2),
        (["--max-input-tokens", "5000", "--port", "0", "--inline"], ["5000", "1024"], 2),
    ],
)
def test_what_keeps_it_from_starting(tgi: Run, arguments: list[str], words: list[str], code: int) -> None:
    assert_refused(tgi("serve", *arguments), *words, code=code)


def test_the_launcher_takes_tgis_command_line(launch: Run) -> None:
    command = "--model-id /no/such/model --num-shard 1 --port 8080 --max-total-tokens 100 -g 5"
    assert_refused(launch(*command.split()), "/no/such/model")


def test_an_open_server_is_warned_about(tgi: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.server.run.serve", lambda *_, **__: None)
    assert "everyone who reaches 0.0.0.0" in tgi("serve", "--hostname", "0.0.0.0").err
    assert "everyone" not in tgi("serve").err
    monkeypatch.setenv("API_KEY", "k")
    assert "everyone" not in tgi("serve", "--hostname", "0.0.0.0").err


def test_a_revision_of_a_directory_is_only_remarked_on(tgi: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deployments set REVISION for whatever MODEL_ID they serve."""
    monkeypatch.setattr("engine.server.run.serve", lambda *_, **__: None)
    monkeypatch.setenv("REVISION", "v1")
    result = tgi("serve")
    assert result.code == 0
    assert "--revision has no effect" in result.err


def test_env_shows_settings_as_they_are_written(tgi: Run) -> None:
    out = tgi("serve", "--env", "--json-output", "--cors-allow-origin", "a", "--cors-allow-origin", "b").out
    assert re.search(r"^--json-output +true  \(--json-output\)$", out, re.MULTILINE)
    assert re.search(r"^--cors-allow-origin +a,b  \(--cors-allow-origin\)$", out, re.MULTILINE)


def test_log_levels(monkeypatch: pytest.MonkeyPatch, tgi: Run) -> None:
    monkeypatch.setattr("engine.server.run.serve", lambda *_, **__: None)
    assert "loading built-in" in tgi("serve").err
    monkeypatch.setenv("LOG_LEVEL", "ERROR")
    assert tgi("serve").err == ""
    monkeypatch.setenv("LOG_LEVEL", "loud")
    with pytest.raises(ConfigError, match="LOG_LEVEL: 'loud' is not one of: trace"):
        configure_logging(as_json=False)

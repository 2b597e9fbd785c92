"""`tgi --help` and its like: what they say, and that they load nothing heavy to say it."""

import re
import subprocess
import sys

import pytest
from cli_runner import Run

from tgi_cli.options import FLAGS

HEAVY = ("numpy", "torch", "transformers", "tokenizers", "msgspec", "httpx", "rich", "huggingface_hub", "asyncio")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["serve", "--help"], ["bench", "--help"], ["bench", "run", "--help"], ["--version"]]
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tgi_cli", *arguments], capture_output=True, text=True, check=True
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "tgi_cli.app" in loaded
    assert not loaded & set(HEAVY)


def test_help_lists_the_commands_that_work(tgi: Run) -> None:
    help = tgi("--help")
    assert help.code == 0
    listed = help.out.partition("Commands:")[2].split()
    assert {"serve", "generate", "download", "inspect", "quantize", "bench"} <= set(listed)
    assert "download-weights" not in listed


def test_without_a_command_help_is_shown(tgi: Run) -> None:
    assert "Commands:" in tgi().out + tgi().err


def test_serve_help_says_everything_about_every_flag(tgi: Run) -> None:
    text = " ".join(tgi("serve", "--help").out.split())
    for flag in FLAGS:
        assert f"--{flag.name}" in text
        assert f"env {flag.env}" in text
    assert "default 3000" in text
    assert "-p, --port" in text
    assert "-g, --graceful-termination-timeout" in text
    assert "-e, --env" in text
    for heading in ("Model:", "Limits of a request:", "Batching:", "Server:", "Beyond TGI:", "Hardware and extras:"):
        assert heading in text


def test_the_launcher_is_serve(launch: Run, tgi: Run) -> None:
    own, serve = launch("--help").out, tgi("serve", "--help").out
    assert own.startswith("Usage: text-generation-launcher [OPTIONS] [MODEL]")
    assert own.partition("\n")[2] == serve.partition("\n")[2]


def test_version(tgi: Run, launch: Run) -> None:
    from importlib.metadata import version

    for flag in ("--version", "-V"):
        assert tgi(flag).out == launch(flag).out == f"tgi {version('tgi')}\n"


@pytest.mark.parametrize("arguments", [["nonsense"], ["serve", "--nonsense"], ["generate", "a", "b"], ["download"]])
def test_what_is_typed_wrong_is_a_usage_error(arguments: list[str], tgi: Run) -> None:
    result = tgi(*arguments)
    assert result.code == 2
    assert "Error:" in result.err
    assert "Traceback" not in result.err


def test_a_flag_is_described_alike_by_both_commands(tgi: Run) -> None:
    serve, generate = tgi("serve", "--help").out, tgi("generate", "--help").out
    for described in ("--threads INTEGER", "--speculate INTEGER", "--dtype float32|bfloat16|float16", "--runtime NAME"):
        assert described in serve
        assert described in generate
    assert "--temperature FLOAT" in generate
    for command in ("serve", "generate", "inspect", "download"):
        text = tgi(command, "--help").out
        assert not re.search(r"--[\w-]+ <", text)
        assert "RANGE" not in text
    assert "NUMBER" not in serve

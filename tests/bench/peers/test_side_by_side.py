"""Engines in turns: what is asked of each process, how figures become ratios, and what happens when one fails."""

import json
import os
import re
import sys
from pathlib import Path

import pytest

from bench import cpu
from bench.peers import commands, models, side_by_side
from bench.peers.side_by_side import CaseResult, Contender, compare, contenders
from bench.types import UsageError

TINY = models.Shape(hidden=32, inner=48, layers=1, heads=4, kv_heads=2, head_dim=8, vocab=8192)
OURS = "reference:float32"
FAKE = """
import json, sys
name, variant = sys.argv[3], sys.argv[5]
if variant == "F16":
    print(json.dumps({"error": "OSError: no such file"}), flush=True)
    sys.exit(1)
print(json.dumps({"version": "1", "rss": 10**6, "peak_rss": 2 * 10**6}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    do = asked["do"]
    if do == "prefill" and name == "vllm":
        sys.exit(7)
    if do == "prefill":
        answer = {"seconds": asked["tokens"] / 1e9}
    elif do == "score":
        answer = {"logprob": 1.0 - len(asked["tokens"])}
    else:
        answer = {"start": {}, "decode": {"seconds": 1e-9}, "stop": {"peak_rss": 3 * 10**6}}[do]
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(side_by_side, "PAUSE", 0)


@pytest.fixture
def fake_python(tmp_path: Path) -> str:
    """An interpreter in whose environment every engine answers at once, but for two that fail."""
    (tmp_path / "fake.py").write_text(FAKE)
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path / "fake.py"} "$@"\n')
    program.chmod(0o755)
    return str(program)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    models.make(TINY, tmp_path / "models" / "tiny" / "hf")
    return tmp_path / "models"


def test_contenders_are_ours_and_the_peers_that_know_the_precision():
    found = contenders(["llama.cpp", "vllm"], "int8", ["auto:int8"], {"": "p", "vllm": "q"}, "own")
    assert found == [Contender("tgi", "auto:int8", "own"), Contender("llama.cpp", "Q8_0", "p")]
    assert contenders(["vllm"], "bf16", [], {"": "p", "vllm": "q"}, "own") == [Contender("vllm", "bfloat16", "q")]
    for peers, pythons, word in ((["nope"], {"": "p"}, "'nope'"), (["vllm"], {}, "--peer-python vllm=PATH")):
        with pytest.raises(UsageError, match=word):
            contenders(peers, "bf16", [], pythons, "own")


def test_ratios_are_taken_round_by_round_against_the_best_peer():
    rates = {"tgi a": [10.0, 20.0, 40.0], "x b": [1.0, 50.0, 2.0], "y c": [5.0, 5.0, 20.0]}
    ratio = CaseResult("case", rates).ratio("tgi a")
    assert ratio == side_by_side.Ratio("tgi a", "y c", 2.0, 2.0, 4.0)
    assert str(ratio) == "2.00 (2.00-4.00)"
    assert CaseResult("case", {"tgi a": [1.0]}).ratio("tgi a") is None
    assert CaseResult("case", {"y c": [1.0]}).ratio("tgi a") is None


def test_engines_take_turns(folder: Path, fake_python: str):
    peers = ["llama.cpp", "vllm"]
    taking_part = contenders(peers, "bf16", [OURS], {"": fake_python}, sys.executable)
    cases = [cpu.case("prefill 16"), cpu.case("decode 2@8")]
    seen: list[CaseResult] = []
    found = compare(folder, "tiny", "bf16", taking_part, cases, threads=1, rounds=3, steps=2, on_case=seen.append)
    ours = f"tgi {OURS}"
    assert list(found.engines) == [ours, "llama.cpp BF16", "llama.cpp F16", "vllm bfloat16"]
    assert found.engines["llama.cpp F16"] == {"error": "OSError: no such file"}
    assert found.engines[ours]["peak_rss"] >= found.engines[ours]["rss"] > 10**6
    assert found.engines["llama.cpp BF16"]["peak_rss"] == 3 * 10**6
    prefill, decode = found.cases == seen and seen
    assert {name: len(rates) for name, rates in prefill.rates.items()} == {ours: 3, "llama.cpp BF16": 3}
    assert prefill.rates["llama.cpp BF16"] == pytest.approx([1e9] * 3)
    assert decode.rates["llama.cpp BF16"] == pytest.approx([4e9] * 3)
    assert all(0 < rate < 1e6 for case in seen for rate in case.rates[ours])
    assert prefill.failed == {"vllm bfloat16": "its process ended with code 7"}
    assert "vllm bfloat16" not in decode.rates
    markdown = side_by_side.as_markdown([side_by_side.as_json(found)], "reference")
    assert re.search(r"\| bf16 \| [\d.]+ \([\d.]+-[\d.]+\), llama.cpp BF16 \|", markdown)
    assert "| bf16 | - | - |" in side_by_side.as_markdown([side_by_side.as_json(found)], "native")
    text = side_by_side.as_table(found)
    assert f"{ours} / best peer" in text
    assert "llama.cpp F16: OSError: no such file" in text
    assert json.loads(json.dumps(side_by_side.as_json(found)))["cases"][1]["ratios"][0]["peer"] == "llama.cpp BF16"


def test_the_command_compares(folder: Path, fake_python: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["--peers", "llama.cpp", "--models", str(folder), "--shape", "tiny", "--precision", "int8"]
    arguments += ["--peer-python", fake_python, "--own", "", "--rounds", "1", "--cases", "prefill 4"]
    commands.cpu([*arguments, "--json", str(tmp_path / "out.json")])
    assert "llama.cpp Q8_0" in capsys.readouterr().out
    [comparison] = json.loads((tmp_path / "out.json").read_text())["comparisons"]
    assert comparison["cases"][0]["rates"]["llama.cpp Q8_0"] == pytest.approx([1e9])
    commands.peers(["report", str(tmp_path / "out.json")])
    assert "| tiny | prefill 4 |" in capsys.readouterr().out
    for wrong, word in ((["--precision", "int3"], "int3"), (["--rounds", "0"], "--rounds"), (["--peers", "x"], "'x'")):
        with pytest.raises(SystemExit, match="2"):
            commands.cpu([*arguments, *wrong])
        assert word in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        commands.cpu(["--peers", "llama.cpp"])
    assert "--models" in capsys.readouterr().err


def test_the_command_scores_llama_cpp(tmp_path: Path, fake_python: str, capsys: pytest.CaptureFixture[str]):
    """The fake finds every token as probable as 1/e."""
    commands.peers(["make", str(tmp_path), "--shape", "built-in"])
    (tmp_path / "text.txt").write_text("The same text for every engine.")
    arguments = ["--peers", "llama.cpp", "--models", str(tmp_path), "--shape", "built-in", "--precision", "int8"]
    commands.cpu([*arguments, "--peer-python", fake_python, "--perplexity", str(tmp_path / "text.txt")])
    assert "built-in llama.cpp Q8_0: perplexity 2.7183 over 1 windows" in capsys.readouterr().out


def test_the_command_measures_one_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "out.json"
    commands.cpu(["--runtime", "reference", "--cases", "prefill 4", "--seconds", "0", "--json", str(file)])
    assert "prefill 4" in capsys.readouterr().out
    assert json.loads(file.read_text())["runtime"] == "reference"


def test_models_are_made_and_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_python: str):
    monkeypatch.setitem(models.SHAPES, "tiny", TINY)
    commands.peers(["make", str(tmp_path), "--shape", "tiny"])
    assert (tmp_path / "tiny" / "hf" / "config.json").exists()
    for wrong in (["make", str(tmp_path), "--shape", "huge"], ["convert", str(tmp_path), "--peer-python", os.devnull]):
        with pytest.raises((SystemExit, PermissionError)):
            commands.peers(wrong)
    with pytest.raises(SystemExit, match="2"):
        commands.peers(["convert", str(tmp_path), "--shape", "tiny", "--peer-python", fake_python, "--to", "onnx"])

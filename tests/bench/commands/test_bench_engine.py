"""The engine without a server: kernels, steps and batches, each with the machine's limits."""

import json

import pytest
from cli_runner import Run

from bench import cpu, micro, offline
from bench.ceilings import Ceilings, ceilings, measure
from bench.tables import cell, table

SHAPES = micro.Shapes(hidden=32, inner=48, heads=4, kv_heads=2, head_dim=8, vocab=96)


@pytest.fixture(autouse=True)
def quick_ceilings(monkeypatch: pytest.MonkeyPatch):
    """Measuring the machine takes a second; one test does."""
    fixed = Ceilings(1e10, 1e11, 2)
    monkeypatch.setattr(micro, "ceilings", lambda seconds: fixed)
    monkeypatch.setattr(cpu, "ceilings", lambda seconds: fixed)


def test_every_kernel_is_measured():
    seen: list[micro.Result] = []
    machine, results = micro.run("reference", shapes=SHAPES, seconds=0, on_result=seen.append)
    assert results == seen
    kernels = {result.kernel for result in results}
    assert {"linear gate", "linear head", "attention", "rms norm", "silu", "sample greedy"} <= kernels
    for result in results:
        assert result.timing.best <= result.timing.median <= result.timing.worst
        assert result.of_limit > 0
    text = micro.as_table(results)
    assert len(text.splitlines()) == len(results) + 2
    assert json.loads(json.dumps(micro.as_json("reference", machine, results)))["machine"]["cores"] == 2


def test_steps_of_a_model_are_measured():
    cases = (cpu.Case("prefill 2 x 8", 2, 8), cpu.Case("decode 2", 2, 1, context=8))
    machine, results = cpu.run(cases=cases, seconds=0)
    assert [result.case for result in results] == list(cases)
    for result in results:
        assert result.runtime == "reference"
        assert result.tokens_per_second == pytest.approx(result.case.batch * result.case.tokens / result.step.median)
        assert result.limit > result.tokens_per_second / 100
    assert results[1].step.calls == cpu.DECODE_STEPS - 1
    assert "decode 2" in cpu.as_table(results)
    json.dumps(cpu.as_json(machine, results))


def test_steps_longer_than_the_model_takes_are_refused():
    from bench.types import UsageError

    with pytest.raises(UsageError, match="the cases need"):
        cpu.run(cases=(cpu.Case("long", 1, 10**6),), seconds=0)


def test_batches_without_a_server():
    seen: list[offline.Batch] = []
    result = offline.run(batch=3, input_tokens=5, output_tokens=4, runs=2, on_batch=seen.append)
    assert result.batches == seen
    assert [(each.input_tokens, each.output_tokens) for each in result.batches] == [(15, 12), (15, 12)]
    mean = result.output_throughput
    assert mean.low < mean.center < mean.high
    json.dumps(offline.as_json(result))


def test_the_commands(bench: Run):
    done = bench("offline", "--batch", "2", "--in", "4", "--out", "3", "--runs", "2")
    assert done.code == 0, done.err
    assert "output tokens/s (95 % interval" in done.out
    done = bench("micro", "--only", "silu", "--seconds", "0", "--json")
    assert done.code == 0, done.err
    assert {result["kernel"] for result in json.loads(done.out)["results"]} == {"silu"}
    for wrong, word in ((["offline", "--batch", "0"], "--batch"), (["offline", "--in", "100000"], "--in 100000")):
        assert word in bench(*wrong).err


def test_ceilings():
    found = ceilings(seconds=0)
    assert found.bytes_per_second > 1e8
    assert found.flops > 1e8
    assert found.cores >= 1
    assert "GB/s" in str(found)
    timing = measure(lambda: None, seconds=0, least=3)
    assert timing.calls == 3


def test_tables():
    assert table(("a", "b"), [("x", 1234.5), ("yy", None)]) == "a       b\n--  -----\nx   1,234\nyy    n/a"
    cells = [cell(value) for value in (float("nan"), 0.12345, 12.3456, 123.456, 12345, True, "z")]
    assert cells == ["n/a", "0.123", "12.3", "123.5", "12,345", "True", "z"]

"""The engine without a server: kernels, steps and batches, each with the machine's limits."""

import json
from pathlib import Path

import pytest
from cli_runner import Run

from bench import cpu, micro, offline
from bench.ceilings import Ceilings, ceilings, measure
from bench.peers import models
from bench.peers.engine import prompt
from bench.tables import cell, table
from bench.types import UsageError

SHAPES = micro.Shapes(hidden=32, inner=48, heads=4, kv_heads=2, head_dim=8, vocab=96)
REFERENCE = cpu.Setup(runtime="reference")


@pytest.fixture(autouse=True)
def quick_ceilings(monkeypatch: pytest.MonkeyPatch):
    """Measuring the machine takes a second; one test does."""
    fixed = Ceilings(1e10, 1e11, 2)
    monkeypatch.setattr(micro, "ceilings", lambda *_, **__: fixed)
    monkeypatch.setattr(cpu, "ceilings", lambda *_, **__: fixed)


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


def test_native_kernels_are_measured(monkeypatch: pytest.MonkeyPatch):
    if micro.native_probes() is None:
        with pytest.raises(UsageError, match="not built"):
            micro.run("native", seconds=0)
        return
    monkeypatch.setitem(micro.KERNELS, "native", lambda shapes: micro.native_cases(shapes, cycled=10_000))
    _, results = micro.run("native", shapes=SHAPES, seconds=0)
    kernels = {result.kernel for result in results}
    assert {f"linear {kind} down" for kind in micro.KINDS} | {"rms norm", "silu", "argmax"} <= kernels
    assert all(result.timing.best > 0 for result in results)


def test_steps_of_a_model_are_measured():
    cases = [cpu.case(text) for text in ("prefill 16", "decode 2@8", "decode 2@24")]
    seen: list[cpu.Case] = []
    report = cpu.run(REFERENCE, cases=cases, seconds=0, on_result=lambda case, _: seen.append(case))
    assert report.runtime == "reference"
    assert [result.case for result in report.results] == cases == seen
    prefill, short, long = report.results
    assert prefill.tokens_per_second == pytest.approx(16 / prefill.step.median)
    assert short.tokens_per_second == pytest.approx(2 / short.step.median)
    assert short.step.calls == cpu.DECODE_STEPS - 1
    assert 0 < report.rss <= report.peak_rss
    assert long.work.kv_bytes == 3 * short.work.kv_bytes
    assert prefill.work.kv_bytes == 0
    assert "decode 2@24 over @8" in cpu.as_table(report)
    assert json.loads(json.dumps(cpu.as_json(report)))["results"][0]["case"]["batch"] == 1


def test_necessary_work_is_that_of_the_shape(tmp_path: Path):
    shape = models.Shape(hidden=32, inner=48, layers=2, heads=4, kv_heads=2, head_dim=8, vocab=8192)
    models.make(shape, tmp_path)
    setup = cpu.Setup(str(tmp_path), runtime="reference")
    worker = setup.load(batch=2, num_blocks=9)
    [decode, prefill] = cpu.necessary_work(setup, worker, [cpu.case("decode 2@8"), cpu.case("prefill 4")])
    worker.close()
    inner, head = 2 * (32 * 32 * 2 + 2 * 16 * 32 + 3 * 32 * 48), 8192 * 32
    assert decode.weight_bytes == prefill.weight_bytes == 4 * (inner + head)
    assert decode.linear_ops == 2 * 2 * (inner + head)
    assert prefill.linear_ops == 2 * (4 * inner + head)
    assert decode.kv_bytes == 2 * 8 * (2 * 2 * 16 * 4)
    assert decode.attention_ops == 2 * 9 * (4 * 4 * 8 * 2)
    assert prefill.attention_ops == (1 + 2 + 3 + 4) * (4 * 4 * 8 * 2)
    machine = Ceilings(1e9, 1e6, 2)
    assert decode.least_seconds(machine) == pytest.approx((decode.linear_ops + decode.attention_ops) / 1e6)


def test_the_engine_samples_what_it_feeds_back():
    """The steps are those of a request: the same tokens come as from `LLM.generate`."""
    from engine.llm import LLM
    from engine.types import SamplingParams

    prompts = [prompt(seed, 20) for seed in range(3)]
    with LLM(runtime="reference") as llm:
        answers = llm.generate(prompts, SamplingParams(max_new_tokens=5, ignore_eos=True))
    worker = REFERENCE.load(batch=3, num_blocks=10)
    steps = cpu.Steps(worker)
    for _ in range(2):  # what is stopped can be started again
        steps.start(prompts, 4)
        made = [list(steps.last)]
        for _ in range(4):
            steps.decode()
            made.append(list(steps.last))
        steps.stop()
        assert [list(tokens) for tokens in zip(*made, strict=True)] == [answer.token_ids for answer in answers]
    worker.close()


@pytest.mark.parametrize("text", ["decode 8", "prefill 0", "prefill 5@3", "decode 0@8", ""])
def test_a_case_that_is_none_is_refused(text: str):
    with pytest.raises(UsageError, match="is no case"):
        cpu.case(text)


def test_steps_longer_than_the_model_takes_are_refused():
    with pytest.raises(UsageError, match="takes 1024 tokens"):
        cpu.run(REFERENCE, cases=(cpu.case("decode 1@1000"),), seconds=0)


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
    assert measure(lambda: 7.0, seconds=0, timed=True).median == 7.0


def test_the_highest_ceilings_are_kept():
    one, other = Ceilings(5.0, 2.0, 2, 9.0), Ceilings(3.0, 4.0, 2)
    assert one.best(other) == Ceilings(5.0, 4.0, 2, 9.0)
    assert other.best(other).dot_ops is None


def test_probes_are_asked_for_the_buffer_and_the_threads():
    class Fixed:
        def read_bandwidth(self, isa: str, bytes: int, threads: int) -> float:
            return bytes * 10.0 + threads

        def fma_peak(self, isa: str, threads: int) -> float:
            return 100.0 + threads

        def dot_peak(self, isa: str, threads: int) -> float:
            return 200.0 + threads

    found = ceilings(0, buffer_bytes=5, threads=3, probes=Fixed())
    assert (found.bytes_per_second, found.flops, found.dot_ops, found.buffer_bytes) == (53.0, 103.0, 203.0, 5)


def test_tables():
    assert table(("a", "b"), [("x", 1234.5), ("yy", None)]) == "a       b\n--  -----\nx   1,234\nyy    n/a"
    cells = [cell(value) for value in (float("nan"), 0.12345, 12.3456, 123.456, 12345, True, "z")]
    assert cells == ["n/a", "0.123", "12.3", "123.5", "12,345", "True", "z"]

"""The gate: its file, its exit codes, and what it refuses to compare."""

import tomllib
from pathlib import Path

import numpy as np
import pytest

from bench.compare import Finding, Gate, compare
from bench.report.manifest import Machine, Manifest
from bench.report.rundir import write_json
from bench.types import BenchError, UsageError

GATE = """
min_runs = 3
[[metric]]
name = "mean_ttft_ms"
max_regression = "5%"
[[metric]]
name = "output_throughput"
direction = "higher"
max_regression = 0.05
"""


def gate(text: str = GATE) -> Gate:
    return Gate.parse(tomllib.loads(text))


def result(path: Path, summaries: list[dict], **manifest: object) -> Path:
    """A run, or a series of several."""
    if len(summaries) == 1:
        path.mkdir(parents=True)
        write_json(path / "summary.json", {"verdict": "VALID"} | summaries[0])
        write_json(path / "manifest.json", Manifest(**manifest))
        return path
    members = [f"run-{i}" for i in range(len(summaries))]
    for member, summary in zip(members, summaries, strict=True):
        result(path / member, [summary], **manifest)
    write_json(path / "manifest.json", Manifest(kind="series", members=members))
    return path


def runs(ttft: float, throughput: float, spread: float = 0.01, count: int = 5, seed: int = 0) -> list[dict]:
    noise = np.random.default_rng(seed).standard_normal((count, 2)) * spread
    return [
        {"mean_ttft_ms": ttft * float(np.exp(a)), "output_throughput": throughput * float(np.exp(b))} for a, b in noise
    ]


@pytest.mark.parametrize(
    ("ttft", "throughput", "spread", "code", "findings"),
    [
        (100, 1000, 0.01, 0, ["ok", "ok"]),
        (120, 1000, 0.01, 1, ["regression", "ok"]),
        (100, 800, 0.01, 1, ["ok", "regression"]),
        (80, 1000, 0.01, 2, ["improvement", "ok"]),
        (80, 800, 0.01, 1, ["improvement", "regression"]),
        (102, 1000, 0.01, 0, ["ok", "ok"]),  # worse, but no more than is allowed
        (112, 1000, 0.3, 3, ["inconclusive", "inconclusive"]),
    ],
)
def test_exit_codes(tmp_path, ttft, throughput, spread, code, findings):
    old = result(tmp_path / "old", runs(100, 1000, spread))
    new = result(tmp_path / "new", runs(ttft, throughput, spread, seed=1))
    comparison = compare(old, new, gate())
    assert [row.finding.value for row in comparison.rows] == findings
    assert comparison.exit_code == code
    assert "mean_ttft_ms" in comparison.verdict
    assert set(comparison.judgements) == {"mean_ttft_ms", "output_throughput"}


def test_noise_alone_fails_the_gate_no_more_often_than_it_may(tmp_path):
    failed = 0
    for seed in range(60):
        old = result(tmp_path / f"old{seed}", runs(100, 1000, 0.03, seed=seed))
        new = result(tmp_path / f"new{seed}", runs(100, 1000, 0.03, seed=1000 + seed))
        failed += compare(old, new, gate()).exit_code in (1, 2)
    assert failed <= 5


@pytest.mark.parametrize("more", [1, 5])
@pytest.mark.parametrize("factor", [0.5, 1.0, 1.1])
def test_a_single_run_proves_nothing(tmp_path, factor, more):
    metrics = ("output_throughput", "mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms")
    one = result(tmp_path / "one", [dict.fromkeys(metrics, 100.0)])
    other = result(tmp_path / "other", [dict.fromkeys(metrics, 100.0 * factor)] * more)
    for sides in ((one, other), (other, one)):
        comparison = compare(*sides)
        assert {row.finding for row in comparison.rows} == {Finding.INCONCLUSIVE}
        assert comparison.exit_code == 3
        assert all("cannot tell with one run" in row.reason for row in comparison.rows)
        assert all("%" in row.reason for row in comparison.rows)  # the difference itself is shown


@pytest.mark.parametrize(("ttft", "code", "words"), [(100, 0, "within"), (110, 1, "beyond"), (50, 2, "beyond")])
def test_a_gate_decides_single_runs_by_its_limits_and_claims_no_more(tmp_path, ttft, code, words):
    loose = gate(GATE.replace("min_runs = 3", ""))
    old = result(tmp_path / "old", runs(100, 1000, count=1))
    found = compare(old, result(tmp_path / "new", runs(ttft, 1000, count=1)), loose)
    assert found.exit_code == code
    assert f"{words} the gate's 5 %; cannot tell with one run" in found.rows[0].reason


def test_too_few_runs_are_inconclusive(tmp_path):
    old = result(tmp_path / "old", runs(100, 1000, count=2))
    comparison = compare(old, old, gate())
    assert comparison.exit_code == 3
    assert "3 runs of each side are needed" in comparison.rows[0].reason


def test_unreliable_figures_are_inconclusive(tmp_path):
    doubtful = [one | {"mean_ttft_ms_reliable": False, "mean_ttft_ms_needs": 400} for one in runs(100, 1000)]
    old = result(tmp_path / "old", runs(100, 1000))
    comparison = compare(old, result(tmp_path / "new", doubtful), gate())
    assert comparison.rows[0].finding is Finding.INCONCLUSIVE
    assert "400 requests are needed" in comparison.rows[0].reason


@pytest.mark.parametrize(("old", "new", "code"), [(0, 0, 0), (0, 2, 1), (2, 0, 2), (4, 4, 0)])
def test_counts_may_be_zero(tmp_path, old, new, code):
    rule = gate('[[metric]]\nname = "failed"\nmax_regression = 0')
    sides = [result(tmp_path / name, [{"failed": value}]) for name, value in (("old", old), ("new", new))]
    assert compare(*sides, rule).exit_code == code


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"machine": Machine(cpu="Z80")}, "cpu"),
        ({"server": {"model": "other"}}, "model"),
        ({"load": {"concurrency": 8}}, "load"),
        ({"dataset_sha256": "ff"}, "dataset"),
        ({"definitions": 99}, "definitions"),
        ({"workload": {"in_tokens": 9, "seed": 1}}, "workload"),
    ],
)
def test_what_is_not_alike_is_refused(tmp_path, changed, named):
    about = {
        "machine": Machine(cpu="6502", cores=1),
        "server": {"model": "m"},
        "load": {"concurrency": 4},
        "workload": {"in_tokens": 5, "seed": 1},
        "dataset_sha256": "00",
        "definitions": 1,
    }
    old = result(tmp_path / "old", runs(100, 1000), **about)
    new = result(tmp_path / "new", runs(100, 1000), **(about | changed))
    comparison = compare(old, new, gate())
    assert comparison.exit_code == 3
    assert f"{named} differs" in comparison.verdict
    assert compare(old, new, gate(), allow_mismatch=True).exit_code == 0


def test_what_differs_is_named_without_what_does_not(tmp_path):
    old = result(tmp_path / "old", runs(100, 1000), load={"concurrency": 4, "rate": None, "arrival": "poisson"})
    new = result(tmp_path / "new", runs(100, 1000), load={"concurrency": 8, "rate": None, "arrival": "poisson"})
    assert compare(old, new, gate()).problems == ("load differs: concurrency 4 and 8",)


def test_a_sweep_is_compared_run_by_run(tmp_path):
    for side in ("old", "new"):
        for i, places in enumerate((1, 2)):
            result(tmp_path / side / f"run-{i}", runs(100, 1000, count=1), load={"concurrency": places})
        write_json(tmp_path / side / "manifest.json", Manifest(kind="series", members=["run-0", "run-1"]))
    found = compare(tmp_path / "old", tmp_path / "new", gate())
    assert found.exit_code == 3
    assert len(found.problems) == 2
    assert "holds runs of 2 loads: compare them one by one" in found.problems[0]


def test_other_seeds_are_no_mismatch(tmp_path):
    old = result(tmp_path / "old", runs(100, 1000), workload={"seed": 1}, seeds={"workload": 1})
    new = result(tmp_path / "new", runs(100, 1000), workload={"seed": 2}, seeds={"workload": 2})
    assert compare(old, new, gate()).exit_code == 0


def test_invalid_runs_are_not_compared(tmp_path):
    old = result(tmp_path / "old", runs(100, 1000))
    new = result(tmp_path / "new", [one | {"verdict": "INVALID"} for one in runs(100, 1000)])
    comparison = compare(old, new, gate())
    assert comparison.exit_code == 3
    assert "INVALID" in comparison.verdict


def test_no_directory_and_damage(tmp_path):
    old = result(tmp_path / "old", runs(100, 1000, count=1))
    with pytest.raises(UsageError, match="not a run directory"):
        compare(old, tmp_path / "none")
    (old / "summary.json").write_text("{")
    with pytest.raises(BenchError, match="cannot read"):
        compare(old, old)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "at least one"),
        ("metrics = 3", "a gate has no metrics"),
        ("[[metric]]\nmax_regression = 0.1", "needs a name"),
        ('[[metric]]\nname = "a"\ndirection = "up"', "which way is better"),
        ('[[metric]]\nname = "a"\nmax_regression = "much"', "write a share"),
        ('[[metric]]\nname = "a"\nmax_regression = 5', "write a share"),
        ('[[metric]]\nname = "a"\nmin_runs = 0', "1 or more"),
        ('[[metric]]\nname = "a"\nlimit = 1', "has no limit"),
        ("[[metric", "is not TOML"),
    ],
)
def test_mistakes_in_a_gate_are_explained(tmp_path, text, why):
    path = tmp_path / "gate.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=why):
        Gate.load(path)


def test_a_gate_file(tmp_path):
    (tmp_path / "gate.toml").write_text(GATE)
    first, second = Gate.load(tmp_path / "gate.toml").rules
    assert (first.higher_is_better, first.max_regression, first.min_runs) == (False, 0.05, 3)
    assert second.higher_is_better
    with pytest.raises(UsageError, match="cannot read"):
        Gate.load(tmp_path / "none.toml")

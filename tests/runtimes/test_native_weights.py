"""From a checkpoint to packed linears: which kind each becomes, what is read in place, and how much memory it takes."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("engine.runtimes.native._native", exc_type=ImportError)

from native_machine import pool
from packed_weights import unpack
from tiny_models import make_checkpoint

from engine.models.checkpoint import read_config
from engine.models.registry import family
from engine.runtimes.native import cores
from engine.runtimes.native.program import compile_tape
from engine.runtimes.native.weights import METHODS, Weights, find_kv_kind, load_weights
from engine.weights.load import Checkpoint, load

ROOT = Path(__file__).parents[2]


def opened(path: Path) -> Checkpoint:
    module = family(read_config(path))
    return load(module.spec(read_config(path), None), module, path)


def packed(path: Path, *, dtype: str | None = None, quantize: str | None = None) -> Weights:
    spec = family(read_config(path)).spec(read_config(path), None)
    return load_weights(spec, compile_tape(spec), opened(path), pool(2), dtype=dtype, quantize=quantize)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tied", [False, True])
def test_what_each_method_quantizes(tmp_path: Path, method: str, tied: bool) -> None:
    """The four linears of each of three layers; the head in 8 bits by our own methods, as stored by the others."""
    path = make_checkpoint(tmp_path, dtype="bfloat16", tie_word_embeddings=tied)
    weights = packed(path, quantize=method)
    kind, head = {
        "int8": ("int8", "int8"),
        "int4": ("int4", "int8"),
        "eetq": ("int8", "bf16"),
        "bitsandbytes-nf4": ("nf4", "bf16"),
        "bitsandbytes-fp4": ("fp4", "bf16"),
        "fp8": ("fp8", "bf16"),
    }[method]
    assert Counter(linear.kind for linear in weights.linears[:-1]) == {kind: 12}
    assert weights.linears[-1].kind == head
    assert weights.linears[-1].outputs == 96
    assert weights.embedding_kind == "bf16"
    groups = {"int4": 32, "nf4": 64, "fp4": 64}
    assert weights.linears[0].group == groups.get(kind, 0)


@pytest.mark.parametrize(("dtype", "kind"), [(None, None), ("float32", None), ("bfloat16", "bf16"), ("float16", "f16")])
@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
def test_what_a_dtype_makes_of_what_is_stored(tmp_path: Path, stored: str, dtype: str | None, kind: str | None) -> None:
    path = make_checkpoint(tmp_path, "GPT2LMHeadModel", dtype=stored)
    weights, checkpoint = packed(path, dtype=dtype), opened(path)
    as_stored = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[stored]
    assert {linear.kind for linear in weights.linears} == {kind or as_stored}
    assert weights.embedding_kind == (kind or as_stored)
    assert weights.dtype == (dtype or stored)
    parts = [checkpoint[f"layers.0.{name}.weight"].astype(np.float32) for name in "qkv"]
    difference = np.abs(unpack(weights.linears[0]) - np.concatenate(parts)).max()
    exact = kind in (None, as_stored) or (stored, kind) == ("bfloat16", "f16")  # these are large enough for float16
    assert (difference == 0) == exact
    biases = np.concatenate([checkpoint[f"layers.0.{name}.bias"] for name in "qkv"]).astype(np.float32)
    assert np.allclose(weights.linears[0].bias[:96], biases, atol=2e-3)


def test_one_linear_of_parts_that_are_stored_unlike_is_exact(tmp_path: Path) -> None:
    import ml_dtypes

    path = make_checkpoint(tmp_path)
    checkpoint = opened(path)
    name = checkpoint.sources["layers.0.k.weight"].name
    checkpoint.tensors[name] = checkpoint.tensors[name].astype(ml_dtypes.bfloat16)  # type: ignore[index]
    spec = family(read_config(path)).spec(read_config(path), None)
    weights = load_weights(spec, compile_tape(spec), checkpoint, pool(2), dtype=None, quantize=None)
    assert weights.linears[0].kind == "f32"
    expected = np.concatenate([checkpoint[f"layers.0.{part}.weight"].astype(np.float32) for part in "qkv"])
    assert np.array_equal(unpack(weights.linears[0]), expected)


def test_an_embedding_is_read_where_it_lies(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, dtype="bfloat16")
    checkpoint = opened(path)
    spec = family(read_config(path)).spec(read_config(path), None)
    table = checkpoint["embed.weight"]
    for dtype, shared in ((None, True), ("float32", True), ("bfloat16", True), ("float16", False)):
        weights = load_weights(spec, compile_tape(spec), checkpoint, pool(2), dtype=dtype, quantize="int4")
        assert np.shares_memory(weights.embedding, table) == shared


def test_norms_with_a_unit_offset_are_held_with_it(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "Gemma2ForCausalLM")
    spec = family(read_config(path)).spec(read_config(path), None)
    tape, weights, checkpoint = compile_tape(spec), packed(path), opened(path)
    for name, vector in zip(tape.vectors, weights.vectors, strict=True):
        assert np.array_equal(vector, checkpoint[name] + np.float32(1)), name


@pytest.mark.parametrize(
    ("kv", "dtype", "kind"),
    [(None, None, "bf16"), (None, "float32", "f32"), (None, "float16", "bf16"), ("int8", "float32", "int8")],
)
def test_the_kind_of_the_cache(kv: str | None, dtype: str | None, kind: str) -> None:
    assert find_kv_kind(kv, dtype) == kind


# Bytes by which memory grew at most while weights were loaded, and which are left; then those of the packed weights.
MEASURE = """
import sys
from pathlib import Path
sys.path.insert(0, "tests/runtimes")
from test_native_weights import packed
packed(Path(sys.argv[2]), quantize="int4")  # whatever is imported or made once

def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = kilobytes("VmRSS")
weights = packed(Path(sys.argv[1]), quantize="int4")
linears = sum(linear.nbytes for linear in weights.linears)
print((kilobytes("VmHWM") - before) << 10, (kilobytes("VmRSS") - before) << 10, linears)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_takes_the_packed_weights_and_at_most_the_largest_tensor(tmp_path: Path) -> None:
    sizes = {"vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 12}
    large = make_checkpoint(tmp_path / "large", dtype="bfloat16", head_dim=64, **sizes)
    small = make_checkpoint(tmp_path / "small", dtype="bfloat16")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), *sys.path])}
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, str(large), str(small)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    peak, left, linears = map(int, ran.stdout.split())
    largest = 8192 * 512 * 2
    slack = 10 << 20  # huge pages are taken whole, and each thread has a panel
    assert (large / "model.safetensors").stat().st_size > linears + largest + 2 * slack, "or nothing would be shown"
    assert peak < linears + largest + slack
    assert left < linears + slack


# Cores


def test_cores_count_once_for_two_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(siblings + "\n")
    monkeypatch.setattr(cores, "CPUS", tmp_path)
    monkeypatch.setattr(cores, "CONTROL_GROUP", tmp_path / "none")
    monkeypatch.setattr(cores, "_allowed_cpus", lambda: {0, 1, 2, 3})
    assert cores.physical_cores() == 2
    monkeypatch.setattr(cores, "_allowed_cpus", lambda: {1, 3})
    assert cores.physical_cores() == 1
    monkeypatch.setattr(cores, "_allowed_cpus", lambda: {8, 9, 10})  # of which nothing is said
    assert cores.physical_cores() == 3


@pytest.mark.parametrize(
    ("files", "allowed"),
    [
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "350000 100000\n"}, 3),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({}, 8),
    ],
)
def test_a_quota_limits_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], allowed: int
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(cores, "CPUS", tmp_path / "none")
    monkeypatch.setattr(cores, "CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(cores, "_allowed_cpus", lambda: set(range(8)))
    assert cores.physical_cores() == allowed

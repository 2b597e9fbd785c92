"""How a worker starts: the size of its pool, and a clear error for every bad option or model."""

import json
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import make_checkpoint, tiny_config

from engine.config import CacheOptions, EngineOptions, ModelOptions, SchedulerOptions, SpecOptions
from engine.errors import ConfigError, ModelNotFound, ModelUnsupported, StartError, WeightsError
from engine.models.registry import family
from engine.runtimes import load_worker, memory
from engine.runtimes.native import available
from engine.runtimes.reference.kv import KVCache, block_bytes


def options(path: Path | str, **changes: Any) -> EngineOptions:
    base: dict[str, Any] = {"model": ModelOptions(path=str(path)), "cache": CacheOptions(num_blocks=8)}
    return EngineOptions(**base | changes)


@pytest.fixture(params=["native", "reference"], autouse=True)
def runtime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What `auto` is in a test: each runtime must start and fail alike."""
    if request.param == "reference":
        monkeypatch.setattr("engine.runtimes.native.available", lambda: "not in this test")
    elif reason := available():
        pytest.skip(reason)
    return str(request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cache": CacheOptions(num_blocks=1)}, "blocks must be 2 or more"),
        ({"cache": CacheOptions(block_size=0)}, "block size must be 1 or more"),
        ({"scheduler": SchedulerOptions(max_batch_size=0)}, "max_batch_size must be 1 or more"),
        (
            {"cache": CacheOptions(), "scheduler": SchedulerOptions(max_batch_total_tokens=0)},
            "max_batch_total_tokens must be 1 or more",
        ),
        ({"spec": SpecOptions(num_draft=2, method="oracle")}, "unknown speculation method 'oracle'"),
        ({"spec": SpecOptions(num_draft=-1)}, "0 \\(off\\) or more"),
    ],
)
def test_bad_options(llama: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_worker(options(llama, **changes))


def test_unknown_dtype(llama: Path) -> None:
    with pytest.raises(ConfigError, match="unknown dtype 'int3'; choose one of: float32, bfloat16, float16"):
        load_worker(options(llama, model=ModelOptions(path=str(llama), dtype="int3")))


def test_more_context_than_the_model_has(llama: Path) -> None:
    with pytest.raises(StartError, match="129"):
        load_worker(options(llama, scheduler=SchedulerOptions(max_total_tokens=129)))
    worker = load_worker(options(llama, scheduler=SchedulerOptions(max_total_tokens=100)))
    assert worker.info.max_context == 100


def test_no_such_directory() -> None:
    with pytest.raises(ModelNotFound, match="no model directory 'no/such/model'"):
        load_worker(options("no/such/model"))


@pytest.mark.parametrize("content", ["", "{", "[]", '"llama"', "\xff"])
def test_a_config_that_is_no_object(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content, "latin-1")
    with pytest.raises(ModelUnsupported, match=r"cannot read '.*config\.json'"):
        load_worker(options(tmp_path))


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"has no config\.json"):
        load_worker(options(tmp_path))


@pytest.mark.parametrize("architectures", [None, [], "LlamaForCausalLM", ["BartModel"], [["LlamaForCausalLM"]]])
def test_an_architecture_nothing_runs(tmp_path: Path, architectures: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": architectures}))
    with pytest.raises(ModelUnsupported, match="architecture"):
        load_worker(options(tmp_path))


def test_an_unknown_architecture_is_named_with_the_known_ones() -> None:
    with pytest.raises(ModelUnsupported, match="the architecture BartModel; supported are LlamaForCausalLM, Mistral"):
        family({"architectures": ["BartModel"]})


def test_quantized_models(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, quantization_config={"quant_method": "gptq"})
    with pytest.raises(ModelUnsupported, match="is quantized"):
        load_worker(options(path))


def test_weights_of_another_config(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    (path / "config.json").write_text(json.dumps(tiny_config(intermediate_size=64)))
    with pytest.raises(WeightsError, match=r"mlp\.gate_proj\.weight' has the shape \[48, 32\]"):
        load_worker(options(path))


# The pool


def count(available: int, cache: CacheOptions, scheduler: SchedulerOptions, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(memory, "available_memory", lambda: available)
    given = replace(options("any"), cache=cache, scheduler=scheduler)
    return memory.count_blocks(given, block_bytes=1000, max_context=100)


def test_the_pool_is_as_asked_else_what_fits_else_what_all_requests_fill(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = SchedulerOptions(max_batch_size=4, max_batch_total_tokens=33)
    batch = SchedulerOptions(max_batch_size=4)
    assert count(10**6, CacheOptions(num_blocks=7), tokens, monkeypatch) == 7
    assert count(10**6, CacheOptions(), tokens, monkeypatch) == 4  # three for the tokens and the reserved one
    assert count(10**6, CacheOptions(), batch, monkeypatch) == 29  # seven for each of four requests
    assert count(10**4, CacheOptions(), batch, monkeypatch) == 3  # three tenths of the memory
    with pytest.raises(ConfigError, match="needs 0 MB of free memory"):
        count(10**3, CacheOptions(), batch, monkeypatch)


def test_memory_at_hand() -> None:
    assert 2**20 < memory.available_memory() < 2**60


def test_a_control_group_limits_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CONTROL_GROUP", tmp_path)
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("4000000\n")
    assert memory.available_memory() == 1_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_memory() > 1_000_000


def test_a_pool_is_read_as_it_was_written_and_unused_blocks_cost_no_memory() -> None:
    config = tiny_config()
    spec = family(config).spec(config, None)
    blocks = 2**32 // block_bytes(spec, 16)
    limit = 2**27 if sys.platform == "darwin" else 2**17  # 128 MB, in bytes or in KB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kv = KVCache(spec, blocks, 16)
    assert kv.nbytes == blocks * block_bytes(spec, 16)
    table = np.array([blocks - 1, 3])
    kv.write(2, 15, table, np.ones((2, 2, 8)), np.full((2, 2, 8), 2))
    keys, values = kv.read(2, 15, 17, table)
    assert keys.tolist() == np.ones((2, 2, 8)).tolist()
    assert values.tolist() == np.full((2, 2, 8), 2.0).tolist()
    assert kv.keys[2, 3, 0].sum() == 16
    assert not kv.keys[:2, 3].any()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < limit


@pytest.mark.parametrize("blocks", [10**12, 10**18])
def test_a_pool_that_no_machine_has(blocks: int) -> None:
    config = tiny_config()
    with pytest.raises(ConfigError, match="GB, more than this machine gives"):
        KVCache(family(config).spec(config, None), blocks, 16)

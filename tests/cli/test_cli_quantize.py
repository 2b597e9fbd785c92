"""`tgi quantize`: what it writes computes the same as `--quantize`, for every family; nothing is ever half there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runner import Run, assert_refused
from embed_plans import make_encoder
from safetensors.numpy import load_file
from tiny_models import CONFIGS, make_checkpoint

from engine import LLM
from engine.models.checkpoint import read_config
from engine.models.registry import family
from engine.runtimes import native
from engine.weights.load import load
from engine.weights.save import save_tensors

pytestmark = pytest.mark.skipif(native.available() is not None, reason=str(native.available()))


def packed(path: Path, quantize: str | None = None) -> list[tuple[str, bytes, Any]]:
    """Kind, panels and scales of every linear of a model as the native runtime loads it."""
    from engine.runtimes.native import _native
    from engine.runtimes.native.program import compile_tape
    from engine.runtimes.native.weights import load_weights

    config = read_config(path)
    module = family(config)
    spec = module.spec(config, None)
    pool = _native.Pool(1)
    weights = load_weights(spec, compile_tape(spec), load(spec, module, path), pool, quantize=quantize)
    return [
        (linear.kind, linear.panels.tobytes(), None if linear.scales is None else linear.scales.tobytes())
        for linear in weights.linears
    ]


@pytest.mark.parametrize("method", ["int8", "int4"])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_file_holds_what_quantizing_at_load_makes(architecture: str, method: str, tmp_path: Path, tgi: Run) -> None:
    model = make_checkpoint(tmp_path / "model", architecture)
    done = tgi("quantize", str(model), str(tmp_path / "out"), "--method", method)
    assert done.code == 0, done.err
    assert done.out.strip() == str(tmp_path / "out")
    assert packed(tmp_path / "out") == packed(model, method)


def test_the_same_tokens_and_smaller_files(tmp_path: Path, tgi: Run) -> None:
    out = tmp_path / "small"
    assert tgi("quantize", "built-in", str(out)).code == 0
    ask = ("generate", "The river is", "--max-new-tokens", "12", "--temperature", "0", "--json")
    read, made = tgi(*ask, "--model", str(out)), tgi(*ask, "--quantize", "int4")
    assert json.loads(read.out) == json.loads(made.out)
    facts = json.loads(tgi("inspect", str(out), "--json").out)
    assert (facts["quantization"], facts["runnable"]) == ("compressed-tensors", True)
    assert facts["weight_bytes"] < 0.55 * json.loads(tgi("inspect", "--json").out)["weight_bytes"]
    reference = tgi(*ask, "--model", str(out), "--runtime", "reference")
    assert json.loads(reference.out)["details"]["generated_tokens"] == 12


def test_what_is_quantized_is_not_quantized_again(tmp_path: Path, tgi: Run) -> None:
    out = str(tmp_path / "small")
    assert tgi("quantize", "built-in", out, "--method", "int8").code == 0
    ask = ("generate", "The river is", "--max-new-tokens", "4")
    again = tgi(*ask, "--model", out, "--quantize", "int4")
    assert (again.code, again.err) == (
        2,
        "error: quantize 'int4': the model's weights are int8 already; leave it out\n",
    )
    as_stored = tgi(*ask, "--model", out, "--quantize", "compressed-tensors")
    assert (as_stored.code, as_stored.out) == (0, tgi(*ask, "--model", out).out)
    floats = tgi(*ask, "--quantize", "compressed-tensors")
    assert floats.code == 2
    assert "are not quantized" in floats.err


def test_an_encoder_keeps_its_pooling(tmp_path: Path, tgi: Run) -> None:
    encoder, out = make_encoder(tmp_path / "encoder", "cls", tokenizer=True), tmp_path / "small"
    assert tgi("quantize", str(encoder), str(out), "--method", "int8").code == 0
    texts = ["A river is wide.", "The river"]
    with LLM(out) as small, LLM(encoder, quantize="int8") as whole:
        assert small.embed(texts) == whole.embed(texts)
        assert small.info.pooling == "cls"


def test_what_cannot_be_made_leaves_nothing(tmp_path: Path, tgi: Run) -> None:
    assert_refused(tgi("quantize", "built-in", str(tmp_path / "out"), "--method", "int3"), "int3", "int8, int4", code=2)
    assert_refused(tgi("quantize", "built-in", str(tmp_path)), "exists", code=2)
    assert_refused(tgi("quantize", "built-in", str(tmp_path / "a" / "b")), "no directory", code=2)
    assert tgi("quantize", "built-in", str(tmp_path / "once"), "--method", "int8").code == 0
    assert_refused(tgi("quantize", str(tmp_path / "once"), str(tmp_path / "twice")), "is quantized already")
    assert [path.name for path in tmp_path.iterdir()] == ["once"]


def test_large_models_are_written_in_shards(tmp_path: Path) -> None:
    tensors = {f"t{i}": np.full((4, 8), i, np.float32) for i in range(5)}
    save_tensors(tmp_path, iter(tensors.items()), shard_bytes=300)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert index["metadata"]["total_size"] == 5 * 128
    for name, file in index["weight_map"].items():
        assert np.array_equal(load_file(tmp_path / file)[name], tensors[name])

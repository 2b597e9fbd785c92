"""The checkpoints that every engine gets: the same bytes each time, readable by this engine and as GGUF."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench.peers import gguf_files, models
from bench.types import UsageError
from engine.models.checkpoint import count_tokens, read_config
from engine.models.registry import family
from engine.models.spec import parameters
from engine.text.tokenizer import Tokenizer
from engine.weights.files import read_checkpoint
from engine.weights.load import load

SHAPE = models.Shape(hidden=32, inner=48, layers=2, heads=4, kv_heads=2, head_dim=8, vocab=1000)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "hf"
    models.make(SHAPE, folder)
    return folder


def test_the_same_bytes_are_made_again(checkpoint: Path, tmp_path: Path):
    models.make(SHAPE, tmp_path)
    names = {file.name for file in checkpoint.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert all((tmp_path / name).read_bytes() == (checkpoint / name).read_bytes() for name in names)


def test_a_complete_checkpoint_is_left_alone(checkpoint: Path):
    before = (checkpoint / "model.safetensors").stat()
    models.make(SHAPE, checkpoint)
    assert (checkpoint / "model.safetensors").stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(UsageError, match="another model"):
        models.make(models.SHAPES["135m"], checkpoint)


def test_this_engine_loads_it(checkpoint: Path):
    config = read_config(checkpoint)
    module = family(config)
    spec = module.spec(config, None)
    load(spec, module, checkpoint)
    assert (spec.vocab_size, spec.tied) == (1000, True)


@pytest.mark.parametrize(("name", "millions"), [("135m", 134.5), ("1b", 1073.8)])
def test_shapes_have_the_sizes_they_are_called_by(name: str, millions: float):
    config = models.SHAPES[name].config()
    spec = family(config).spec(config, None)
    size = sum(int(np.prod(shape)) for shape in parameters(spec).values())
    assert size == sum(int(np.prod(shape)) for _, shape in models.SHAPES[name].tensors())
    assert size / 1e6 == pytest.approx(millions, abs=0.05)


def test_every_id_is_a_token_of_ascii_text(checkpoint: Path):
    assert count_tokens(checkpoint) == SHAPE.vocab
    tokenizer = Tokenizer.load(checkpoint)
    assert tokenizer.decode(tokenizer.encode("any text, Unicode too: \u00fc")) == "any text, Unicode too: \u00fc"
    words = [tokenizer.decode([id]) for id in range(257, 1000)]
    assert len(set(words)) == len(words)
    assert all(word.isascii() and word.isalpha() for word in words)
    for impossible in (100, 10**6):
        with pytest.raises(UsageError, match=str(impossible)):
            models.tokenizer(impossible)


def test_gguf_sees_the_bits_of_every_tensor(checkpoint: Path):
    found = gguf_files.bfloat16_tensors(checkpoint / "model.safetensors")
    expected = read_checkpoint(checkpoint)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(bits, expected[name].view(np.uint16)) for name, bits in found.items())


def test_gguf_names_every_tensor():
    names = [gguf_files.gguf_name(name) for name, _ in SHAPE.tensors()]
    assert len(set(names)) == len(names)
    assert {"token_embd.weight", "output_norm.weight", "blk.1.ffn_gate.weight", "blk.0.attn_norm.weight"} <= set(names)
    assert gguf_files.gguf_name("lm_head.weight") == "output.weight"


def test_rows_are_paired_as_llama_cpp_turns_them():
    """Feature j and its partner j + dim / 2 become neighbours, in every head for itself."""
    rows = np.arange(12)[:, None]
    assert gguf_files.interleaved(rows, heads=2)[:, 0].tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


def test_gguf_refuses_other_dtypes(tmp_path: Path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ValueError, match="a is F32; only BF16"):
        gguf_files.bfloat16_tensors(tmp_path / "model.safetensors")

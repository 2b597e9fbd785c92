"""From stored tensors to parameters: every source is undone, and nothing is missing, misshapen or left over."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_models import CONFIGS, make_checkpoint, random_parameters, write_tensors

from engine.errors import ModelUnsupported, WeightsError
from engine.models.registry import FAMILIES, family
from engine.models.spec import ModelSpec, parameters
from engine.weights.load import Checkpoint, load


def open_checkpoint(path: Path) -> tuple[ModelSpec, Checkpoint]:
    config = json.loads((path / "config.json").read_text())
    spec = family(config).spec(config, None)
    return spec, load(spec, family(config), path)


def change(path: Path, edit: Callable[[dict[str, np.ndarray]], object]) -> Path:
    """Rewrite the weights after `edit` has changed them in place."""
    tensors = load_file(path / "model.safetensors")
    edit(tensors)
    write_tensors(path, tensors)
    return path


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("shards", [1, 4])
def test_every_family_reads_back_what_was_stored(tmp_path: Path, architecture: str, shards: int) -> None:
    spec, checkpoint = open_checkpoint(make_checkpoint(tmp_path, architecture, shards=shards, seed=5))
    expected = random_parameters(spec, seed=5)
    assert checkpoint.keys() == parameters(spec).keys() == expected.keys()
    assert len(checkpoint) == len(expected)
    for name, value in checkpoint.items():
        assert value.dtype == np.float32
        assert np.array_equal(value, expected[name]), name


def test_every_supported_decoder_has_a_tiny_model() -> None:
    encoders = {name for name, module in FAMILIES.items() if module == "bert"}  # see tests/models/test_bert.py
    assert CONFIGS.keys() == FAMILIES.keys() - encoders


def test_a_missing_tensor(tmp_path: Path) -> None:
    path = change(make_checkpoint(tmp_path), lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(WeightsError, match=r"lack the tensor model\.norm\.weight, which LlamaForCausalLM needs"):
        open_checkpoint(path)


def test_many_missing_tensors(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(WeightsError, match=r"lack the tensors model\.layers\.3\.input_layernorm.* and 6 more"):
        open_checkpoint(path)


def test_a_tensor_left_over(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    with pytest.raises(WeightsError, match=r"hold the tensors model\.layers\.2\..* and 6 more, for which Llama"):
        open_checkpoint(path)


def test_buffers_are_ignored(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    path = change(make_checkpoint(tmp_path), lambda tensors: tensors.update({name: np.ones(4, np.float32)}))
    assert "embed.weight" in open_checkpoint(path)[1]


def test_a_stale_head_is_ignored_only_where_the_embedding_is_the_head(tmp_path: Path) -> None:
    tied = make_checkpoint(tmp_path, tie_word_embeddings=True)
    change(tied, lambda tensors: tensors.update({"lm_head.weight": np.ones((96, 32), np.float32)}))
    assert "head.weight" not in open_checkpoint(tied)[1]
    untied = make_checkpoint(tmp_path, tie_word_embeddings=False)
    assert np.array_equal(
        open_checkpoint(untied)[1]["head.weight"], load_file(untied / "model.safetensors")["lm_head.weight"]
    )
    with pytest.raises(WeightsError, match=r"lm_head\.weight"):
        open_checkpoint(change(untied, lambda tensors: tensors.pop("lm_head.weight")))


def test_a_wrong_shape(tmp_path: Path) -> None:
    name = "model.layers.1.self_attn.q_proj.weight"
    path = change(make_checkpoint(tmp_path), lambda tensors: tensors.update({name: tensors[name][:-1].copy()}))
    with pytest.raises(
        WeightsError, match=r"q_proj\.weight' has the shape \[31, 32\].*layers\.1\.q\.weight.*\[32, 32\]"
    ):
        dict(open_checkpoint(path)[1])


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("Phi3ForCausalLM", "model.layers.0.self_attn.qkv_proj.weight"),
        ("GPTNeoXForCausalLM", "gpt_neox.layers.0.attention.query_key_value.weight"),
        ("GPTNeoXForCausalLM", "gpt_neox.layers.0.attention.query_key_value.bias"),
        ("GPT2LMHeadModel", "transformer.h.0.attn.c_attn.weight"),
        ("GPT2LMHeadModel", "transformer.h.0.attn.c_attn.bias"),
    ],
)
@pytest.mark.parametrize("misshape", ["longer", "shorter", "flat", "scalar", "deeper"])
def test_a_fused_tensor_of_a_wrong_shape(tmp_path: Path, architecture: str, name: str, misshape: str) -> None:
    changes: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "longer": lambda tensor: (
            np.concatenate([tensor, tensor[..., :4]], -1) if "c_attn" in name else np.concatenate([tensor, tensor[:4]])
        ),
        "shorter": lambda tensor: tensor[..., :-1].copy() if "c_attn" in name else tensor[:-1].copy(),
        "flat": lambda tensor: np.resize(tensor, tensor.size + 1),
        "scalar": lambda tensor: np.array(1, np.float32),
        "deeper": lambda tensor: tensor[..., None].copy(),
    }
    path = make_checkpoint(tmp_path, architecture)
    change(path, lambda tensors: tensors.update({name: changes[misshape](tensors[name])}))
    with pytest.raises(WeightsError, match=name.replace(".", r"\.")):
        dict(open_checkpoint(path)[1])


def test_numbers_that_are_no_weights(tmp_path: Path) -> None:
    name = "model.norm.weight"
    path = change(make_checkpoint(tmp_path), lambda tensors: tensors.update({name: np.ones(32, np.int8)}))
    with pytest.raises(WeightsError, match=r"model\.norm\.weight' is stored as int8"):
        dict(open_checkpoint(path)[1])


def test_a_checkpoint_of_the_model_without_its_head(tmp_path: Path) -> None:
    """GPT-2 was published with names that lack `transformer.`."""
    path = make_checkpoint(tmp_path, "GPT2LMHeadModel")
    expected = dict(open_checkpoint(path)[1])

    def strip(tensors: dict[str, np.ndarray]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)

    found = dict(open_checkpoint(change(path, strip))[1])
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_quantized_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnsupported, match="is quantized"):
        open_checkpoint(make_checkpoint(tmp_path, quantization_config={"quant_method": "awq"}))


def test_a_float32_parameter_is_a_view_of_its_file(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    value = open_checkpoint(path)[1]["layers.0.up.weight"]
    assert not value.flags.writeable
    assert not value.flags.owndata
    shutil.rmtree(path)
    assert np.isfinite(value).all()  # the mapping outlives the name

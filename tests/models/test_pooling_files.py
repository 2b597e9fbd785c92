"""How a model pools, read from the files that sentence-transformers writes."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_config

from engine.errors import ModelUnsupported
from engine.models.pooling import PoolingSpec, find_pooling
from engine.models.registry import family
from engine.models.spec import ModelSpec

TRANSFORMER = {"path": "", "type": "sentence_transformers.models.Transformer"}
POOLING = {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
NORMALIZE = {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
OFF = {f"pooling_mode_{mode}": False for mode in ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")}


def tiny_spec(architecture: str = "BertModel") -> ModelSpec:
    config = tiny_config(architecture)
    return family(config).spec(config, None)


def write(path: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(json.dumps(content))
    return path


def pooled(path: Path, modes: dict[str, bool], folder: str = "1_Pooling", **files: Any) -> PoolingSpec:
    return find_pooling(write(path, {f"{folder}/config.json": OFF | modes, **files}), tiny_spec())


def test_without_files_an_encoder_means_and_a_decoder_takes_the_last_token(tmp_path: Path) -> None:
    assert find_pooling(tmp_path, tiny_spec()) == PoolingSpec("mean")
    assert find_pooling(tmp_path, tiny_spec("LlamaForCausalLM")) == PoolingSpec("last")


@pytest.mark.parametrize(
    ("key", "mode"), [("mean_tokens", "mean"), ("cls_token", "cls"), ("max_tokens", "max"), ("lasttoken", "last")]
)
def test_the_mode_that_is_on(key: str, mode: str, tmp_path: Path) -> None:
    assert pooled(tmp_path, {f"pooling_mode_{key}": True}).mode == mode


@pytest.mark.parametrize(("name", "mode"), [("mean", "mean"), ("cls", "cls"), ("lasttoken", "last"), (["max"], "max")])
def test_the_mode_as_newer_versions_name_it(name: str | list[str], mode: str, tmp_path: Path) -> None:
    config = {"embedding_dimension": 32, "pooling_mode": name, "include_prompt": True}
    assert find_pooling(write(tmp_path, {"1_Pooling/config.json": config}), tiny_spec()).mode == mode


def test_no_mode_is_the_mean(tmp_path: Path) -> None:
    assert pooled(tmp_path, {}).mode == "mean"


@pytest.mark.parametrize(("length", "limit"), [(512, 512), (1e30, None)])
def test_the_tokenizer_may_have_the_length(length: float, limit: int | None, tmp_path: Path) -> None:
    tokenizer = {"model_max_length": length}
    assert find_pooling(write(tmp_path, {"tokenizer_config.json": tokenizer}), tiny_spec()).max_tokens == limit
    files = {"sentence_bert_config.json": {"max_seq_length": 20}}
    assert find_pooling(write(tmp_path, files), tiny_spec()).max_tokens == 20


def test_modules_name_the_folder_and_the_normalisation(tmp_path: Path) -> None:
    cls = {"pooling_mode_cls_token": True}
    found = pooled(
        tmp_path,
        cls,
        "pool",
        **{
            "modules.json": [TRANSFORMER, POOLING | {"path": "pool"}, NORMALIZE],
            "sentence_bert_config.json": {"max_seq_length": 77, "do_lower_case": False},
        },
    )
    assert found == PoolingSpec("cls", normalizes=True, max_tokens=77)


def test_a_folder_outside_the_model_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, {"outside/config.json": OFF | {"pooling_mode_cls_token": True}})
    model = write(tmp_path / "model", {"modules.json": [POOLING | {"path": "../outside"}]})
    assert find_pooling(model, tiny_spec()).mode == "mean"


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"1_Pooling/config.json": {"pooling_mode": ["cls", "mean"]}}, "cls, mean"),
        ({"1_Pooling/config.json": {"pooling_mode": "attention"}}, "attention"),
        ({"1_Pooling/config.json": OFF | {"pooling_mode_mean_sqrt_len_tokens": True}}, "mean_sqrt_len_tokens"),
        ({"1_Pooling/config.json": {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}}, "cls, max"),
        ({"modules.json": [TRANSFORMER, {"type": "sentence_transformers.models.Dense"}]}, "models.Dense"),
        ({"modules.json": {"0": "Pooling"}}, "modules.json"),
        ({"sentence_bert_config.json": {"max_seq_length": "long"}}, "max_seq_length"),
    ],
)
def test_what_would_give_other_vectors_is_refused(files: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(ModelUnsupported, match=named):
        find_pooling(write(tmp_path, files), tiny_spec())

"""The JSON files of a checkpoint: end tokens and the number of tokens, from wherever they are named."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import DEFAULT_MODEL

from engine.errors import ModelNotFound, ModelUnsupported
from engine.models.checkpoint import count_tokens, eos_token_ids, read_config

TOKENIZER = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 5, "content": "</s>"}]}


def write(directory: Path, **files: Any) -> Path:
    for name, content in files.items():
        (directory / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return directory


def test_the_built_in_model() -> None:
    config = read_config(DEFAULT_MODEL)
    assert config["model_type"] == "llama"
    assert eos_token_ids(DEFAULT_MODEL, config) == (2, 0)
    assert count_tokens(DEFAULT_MODEL) == 8192


def test_read_config(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no model directory"):
        read_config(tmp_path / "nothing")
    with pytest.raises(ModelNotFound, match=r"has no config\.json"):
        read_config(tmp_path)
    assert read_config(write(tmp_path, config={"a": [1]})) == {"a": [1]}
    with pytest.raises(ModelUnsupported, match=r"cannot read '.*config\.json'"):
        read_config(write(tmp_path, config='{"a": NaN}'))


@pytest.mark.parametrize(
    ("generation", "config", "tokenizer_config", "expected"),
    [
        ({"eos_token_id": [7, 8, 7]}, {"eos_token_id": 1}, {"eos_token": "a"}, (7, 8)),
        ({"eos_token_id": 7}, {"eos_token_id": 1}, None, (7,)),
        ({"eos_token_id": None}, {"eos_token_id": 1}, {"eos_token": "a"}, (1,)),
        ({}, {"eos_token_id": [1, 2]}, None, (1, 2)),
        (None, {"text_config": {"eos_token_id": 3}}, {"eos_token": "a"}, (3,)),
        (None, {}, {"eos_token": "</s>"}, (5,)),
        (None, {}, {"eos_token": {"content": "b", "special": True}}, (1,)),
        (None, {}, {"eos_token": None}, ()),
        (None, {}, {"eos_token": "unheard of"}, ()),
        (None, {}, None, ()),
    ],
)
def test_eos_token_ids(
    tmp_path: Path, generation: object, config: dict[str, Any], tokenizer_config: object, expected: tuple[int, ...]
) -> None:
    files = {"generation_config": generation, "tokenizer_config": tokenizer_config, "tokenizer": TOKENIZER}
    write(tmp_path, **{name: content for name, content in files.items() if content is not None})
    assert eos_token_ids(tmp_path, config) == expected


@pytest.mark.parametrize("value", ["2", 2.5, -1, True, [[2]], {"id": 2}])
def test_an_eos_token_id_that_is_none(tmp_path: Path, value: object) -> None:
    with pytest.raises(ModelUnsupported, match=r"generation_config\.json: eos_token_id must be"):
        eos_token_ids(write(tmp_path, generation_config={"eos_token_id": value}), {})


@pytest.mark.parametrize("name", ["generation_config", "tokenizer_config"])
def test_a_corrupt_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelUnsupported, match=rf"cannot read '.*{name}\.json'"):
        eos_token_ids(write(tmp_path, **{name: "{"}), {})


def test_count_tokens(tmp_path: Path) -> None:
    assert count_tokens(tmp_path) is None
    assert count_tokens(write(tmp_path, tokenizer=TOKENIZER)) == 6
    unigram = {"model": {"type": "Unigram", "vocab": [["<unk>", 0.0], ["a", -1.5], ["b", -2]]}}
    assert count_tokens(write(tmp_path, tokenizer=unigram)) == 3
    with pytest.raises(ModelUnsupported, match=r"cannot read '.*tokenizer\.json'"):
        count_tokens(write(tmp_path, tokenizer={"model": {"vocab": 3}}))

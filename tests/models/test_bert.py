"""Encoders give transformers' hidden states on both runtimes, and what cannot be computed is refused."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import distance, our_spec, prompt, tiny
from safetensors.numpy import load_file, save_file
from tiny_models import make_checkpoint

from engine.config import CacheOptions, EngineOptions, ModelOptions
from engine.errors import ModelUnsupported, WeightsError
from engine.models.checkpoint import read_config
from engine.models.registry import family
from engine.runtimes.reference.kv import KVCache
from engine.runtimes.reference.model import Model, Span
from engine.sched.plan import Chunk, Enter
from engine.types import SamplingParams
from engine.weights.load import load

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {}),
    "bert, another activation and epsilon": ("Bert", {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5}),
    "bert, one token type": ("Bert", {"type_vocab_size": 1}),
    "roberta": ("Roberta", {"pad_token_id": 1, "max_position_embeddings": 66, "type_vocab_size": 1}),
    "xlm-roberta, another padding token": ("XLMRoberta", {"pad_token_id": 3, "max_position_embeddings": 68}),
}
BLOCKS = (3, 1, 4, 2)
BLOCK = 16

Hidden = Callable[[Path, Sequence[int]], np.ndarray]


def their_hidden(model: Any, tokens: Sequence[int]) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.tensor([tokens])).last_hidden_state[0].float().numpy()


def reference_hidden(path: Path, tokens: Sequence[int], **changes: Any) -> np.ndarray:
    """`[T, hidden_size]`; `changes` falsify the spec."""
    spec = our_spec(path)
    model = Model(replace(spec, **changes), load(spec, family(read_config(path)), path))
    return model.forward([Span(0, tokens, np.array(BLOCKS), bidirectional=True)], KVCache(spec, 5, BLOCK))


def native_hidden(path: Path, tokens: Sequence[int]) -> np.ndarray:
    pytest.importorskip("engine.runtimes.native._native", exc_type=ImportError)
    from engine.runtimes.native.worker import NativeWorker

    options = EngineOptions(
        model=ModelOptions(path=str(path), dtype="float32"), cache=CacheOptions(block_size=BLOCK, num_blocks=5)
    )
    program = NativeWorker.load(options).program
    program.enter(Enter(1, 1, tuple(tokens), len(tokens), SamplingParams(max_new_tokens=0)))
    (hidden,) = program.step([Chunk(1, 1, 0, tuple(tokens), 0, BLOCKS, False, embed=True, bidirectional=True)])
    return np.asarray(hidden)


@pytest.mark.parametrize("ours", [reference_hidden, native_hidden])
@pytest.mark.parametrize("case", CASES)
def test_hidden_states_are_those_of_transformers(case: str, ours: Hidden, tmp_path: Path) -> None:
    name, options = CASES[case]
    model = tiny(name, **options)
    model.save_pretrained(tmp_path)
    for length in (1, 2, 40, 64):
        tokens = [4 + token % 60 for token in prompt(length)]  # RoBERTa gives padding tokens no position
        assert distance(ours(tmp_path, tokens), their_hidden(model, tokens)) < 1e-4


@pytest.mark.parametrize(
    "changes",
    [{"position_offset": 1}, {"embedding_norm": False}, {"residual_norm": False}, {"token_types": None}],
    ids=str,
)
def test_no_part_of_the_spec_is_idle(changes: dict[str, Any], tmp_path: Path) -> None:
    model = tiny("Bert", max_position_embeddings=65)
    model.save_pretrained(tmp_path)
    tokens = prompt(40)
    assert np.abs(reference_hidden(tmp_path, tokens, **changes) - their_hidden(model, tokens)).max() > 0.1


def rewrite(path: Path, rename: Callable[[str], str], **more: np.ndarray) -> None:
    tensors = {rename(name): value for name, value in load_file(path / "model.safetensors").items()}
    save_file(tensors | more, path / "model.safetensors", metadata={"format": "pt"})


def test_names_with_and_without_the_prefix_of_a_whole_model(tmp_path: Path) -> None:
    """Of a masked language model, say; the pooler, the buffers and the head have no part in a vector."""
    path = make_checkpoint(tmp_path, "BertModel")
    expected = reference_hidden(path, [5, 6, 7])
    rewrite(path, lambda name: name.removeprefix("bert."))
    np.testing.assert_array_equal(reference_hidden(path, [5, 6, 7]), expected)
    pooler = {"pooler.dense.weight": np.ones((32, 32), np.float32), "pooler.dense.bias": np.ones(32, np.float32)}
    rewrite(path, str, **pooler, **{"embeddings.position_ids": np.arange(128)[None]})
    np.testing.assert_array_equal(reference_hidden(path, [5, 6, 7]), expected)
    rewrite(path, lambda name: "bert." + name, **{"cls.predictions.bias": np.ones(96, np.float32)})
    np.testing.assert_array_equal(reference_hidden(path, [5, 6, 7]), expected)


def test_a_tensor_without_a_place_is_refused(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "BertModel")
    rewrite(path, str, **{"bert.embeddings.more.weight": np.ones(3, np.float32)})
    with pytest.raises(WeightsError, match=r"bert\.embeddings\.more\.weight"):
        reference_hidden(path, [5])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "is_decoder"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"type_vocab_size": 0}, "type_vocab_size"),
    ],
)
def test_what_cannot_be_computed_is_refused(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "BertModel")
    config = json.loads((path / "config.json").read_text()) | changes
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelUnsupported, match=named):
        our_spec(path)


def test_the_rows_of_padding_leave_fewer_positions(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "XLMRobertaModel")
    assert our_spec(path).max_context == 132 - 4
    config = json.loads((path / "config.json").read_text()) | {"max_position_embeddings": 4}
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelUnsupported, match="leaves no positions"):
        our_spec(path)

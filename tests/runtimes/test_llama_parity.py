"""Llama on the reference runtime against transformers in float32: logits, and greedy text of the built-in model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from step_driver import StepDriver
from tiny_models import CONFIGS, DEFAULT_MODEL, make_checkpoint, reference_logits

from engine.config import CacheOptions, EngineOptions, ModelOptions
from engine.runtimes.reference.worker import ReferenceWorker

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def load_theirs(path: Path) -> Any:
    """Transformers' model of the checkpoint, which must fit it name for name."""
    transformers.utils.logging.disable_progress_bar()
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), report
    return model.eval()


def their_logits(path: Path, tokens: list[int]) -> np.ndarray:
    with torch.no_grad():
        return load_theirs(path)(torch.tensor([tokens])).logits[0].numpy()


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"tie_word_embeddings": True},
        {"attention_bias": True, "mlp_bias": True},
        {"num_key_value_heads": 4, "head_dim": None},
        {"num_key_value_heads": 1, "head_dim": 20, "hidden_act": "gelu"},
        {"rope_theta": 500000.0, "rms_norm_eps": 1e-3, "hidden_act": "gelu_pytorch_tanh"},
    ],
    ids=lambda overrides: ",".join(overrides) or "plain",
)
def test_tiny_llamas(tmp_path: Path, overrides: dict[str, Any]) -> None:
    path = make_checkpoint(tmp_path, seed=3, **overrides)
    tokens = np.random.default_rng(0).integers(0, 96, 100).tolist()
    np.testing.assert_allclose(reference_logits(path, tokens), their_logits(path, tokens), rtol=0, atol=1e-4)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_checkpoints_of_tiny_models_are_what_transformers_reads(tmp_path: Path, architecture: str) -> None:
    """Each family once, in bfloat16 shards: names, fused and transposed tensors, and the forward pass."""
    path = make_checkpoint(tmp_path, architecture, dtype="bfloat16", shards=3)
    tokens = np.random.default_rng(0).integers(0, 96, 40).tolist()
    np.testing.assert_allclose(reference_logits(path, tokens), their_logits(path, tokens), rtol=0, atol=1e-4)


def test_the_built_in_model_continues_as_in_transformers() -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEFAULT_MODEL)
    theirs = load_theirs(DEFAULT_MODEL)
    worker = ReferenceWorker.load(
        EngineOptions(model=ModelOptions(path=str(DEFAULT_MODEL)), cache=CacheOptions(num_blocks=64))
    )
    assert (
        list(worker.info.eos_token_ids)
        == json.loads((DEFAULT_MODEL / "generation_config.json").read_text())["eos_token_id"]
    )
    driver = StepDriver(worker, 16)
    for prompt in ("Once upon a time", "The capital of France", "def main():\n", "1 2 3 4"):
        ids = tokenizer(prompt).input_ids
        ours = driver.run(driver.request(ids), 32)
        with torch.no_grad():
            expected = theirs.generate(
                torch.tensor([ids]), do_sample=False, min_new_tokens=32, max_new_tokens=32, eos_token_id=None
            )
            logits = theirs(torch.tensor([ours.tokens])).logits[0].numpy()
        assert ours.tokens == expected[0].tolist()
        np.testing.assert_allclose(reference_logits(DEFAULT_MODEL, ours.tokens), logits, rtol=0, atol=1e-4)

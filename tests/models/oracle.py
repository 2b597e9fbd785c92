"""Tiny random checkpoints made by transformers, its logits for them, and those of the reference runtime.

Weights are drawn so that mistakes show: scales far from 1, biases far from 0, activations of order 1.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from engine.models.checkpoint import read_config
from engine.models.registry import family
from engine.models.spec import ModelSpec
from engine.runtimes.reference.kv import KVCache
from engine.runtimes.reference.model import Model, Span
from engine.weights.load import load

TINY = {
    "vocab_size": 67,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
SPECIAL = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
BLOCK = 4


@cache
def transformers() -> Any:
    """The library, imported once and made quiet."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def tiny(name: str, *, seed: int = 0, **options: Any) -> Any:
    """A random model of the class `{name}ForCausalLM` with `options` over TINY, in eager attention."""
    import torch

    library = transformers()
    config_class, model_class = CLASSES.get(name, (f"{name}Config", f"{name}ForCausalLM"))
    sizes = {key: value for key, value in TINY.items() if key not in ABSENT.get(name, ())}
    config = getattr(library, config_class)(**SPECIAL | sizes | options)
    model = getattr(library, model_class)._from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(seed)
    offset = 0.0 if name.startswith("Gemma") else 1.0
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter_name.endswith("bias"):
                parameter.copy_(0.4 * noise)
            elif parameter.ndim == 1:
                parameter.copy_(offset + 0.4 * noise)
            elif "emb" in parameter_name or "wte" in parameter_name or "wpe" in parameter_name:
                parameter.copy_(noise)
            else:
                parameter.copy_(1.2 * noise / 32**0.5)
    return model


ENCODERS = ("Bert", "Roberta", "XLMRoberta")
ABSENT = {
    "GPT2": TINY,
    **dict.fromkeys(("GPTNeoX", *ENCODERS), ("num_key_value_heads",)),
}  # what their configs do not know
CLASSES = {
    **{name: (f"{name}Config", f"{name}Model") for name in ENCODERS},
    "GPT2": ("GPT2Config", "GPT2LMHeadModel"),
    "Gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM"),
}


def prompt(length: int, seed: int = 1) -> list[int]:
    return np.random.default_rng(seed).integers(0, TINY["vocab_size"], length).tolist()


def their_logits(model: Any, tokens: Sequence[int]) -> np.ndarray:
    """Logits `[T, vocab_size]` of transformers."""
    import torch

    with torch.no_grad():
        return model(torch.tensor([tokens]), use_cache=False).logits[0].float().numpy()


def resolve_rope(model: Any, served: int) -> None:
    """Make transformers use the `dynamic` or `longrope` frequencies of a served length for every sequence."""
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rotary = model.model.rotary_emb
    inv_freq, rotary.attention_scaling = ROPE_INIT_FUNCTIONS[rotary.rope_type](model.config, None, seq_len=served)
    rotary.inv_freq = torch.nn.Buffer(inv_freq, persistent=False)
    rotary.original_inv_freq = torch.nn.Buffer(inv_freq.clone(), persistent=False)
    rotary.max_seq_len_cached = served


def our_spec(path: Path, max_context: int | None = None) -> ModelSpec:
    config = read_config(path)
    return family(config).spec(config, max_context)


def our_logits(
    path: Path,
    tokens: Sequence[int],
    *,
    chunk: int | None = None,
    max_context: int | None = None,
    **changes: Any,
) -> np.ndarray:
    """Logits `[T, vocab_size]` of the reference runtime, `chunk` tokens a step; `changes` falsify the spec."""
    spec = our_spec(path, max_context)
    parameters = load(spec, family(read_config(path)), path)
    model = Model(replace(spec, **changes), parameters)
    num_blocks = -(-len(tokens) // BLOCK)
    blocks = np.random.default_rng(2).permutation(num_blocks) + 1
    cache = KVCache(spec, num_blocks + 1, BLOCK)
    logits: list[np.ndarray] = []
    for start in range(0, len(tokens), chunk or len(tokens)):
        span = Span(start, tokens[start : start + (chunk or len(tokens))], blocks)
        logits += model.logits(model.forward([span], cache))
    return np.array(logits)


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of two sets of logits, which must be of order 1 for 1e-4 to mean anything."""
    assert ours.shape == theirs.shape
    assert 0.5 < theirs.std() < 50
    return float(np.abs(ours - theirs).max())

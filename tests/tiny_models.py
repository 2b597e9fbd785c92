"""Tiny random checkpoints of every family, written without torch: what the tests load instead of downloads."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from engine.models.registry import family
from engine.models.spec import ModelSpec, Source, parameters
from engine.runtimes.reference.kv import KVCache
from engine.runtimes.reference.model import Model, Span
from engine.weights.load import load

DEFAULT_MODEL = Path(__file__).parents[1] / "engine/assets/default"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

_DECODER = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 3,
}

# The keys of each architecture that differ from the decoder above; None where it has no such key.
CONFIGS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {"model_type": "llama", "head_dim": 8},
    "MistralForCausalLM": {"model_type": "mistral", "head_dim": 8, "sliding_window": 7},
    "Qwen2ForCausalLM": {"model_type": "qwen2"},
    "Qwen3ForCausalLM": {"model_type": "qwen3", "head_dim": 16},
    "Gemma2ForCausalLM": {
        "model_type": "gemma2",
        "head_dim": 16,
        "query_pre_attn_scalar": 12,
        "sliding_window": 7,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
    },
    "Gemma3ForCausalLM": {
        "model_type": "gemma3_text",
        "head_dim": 16,
        "query_pre_attn_scalar": 12,
        "sliding_window": 7,
        "num_hidden_layers": 6,
    },
    "Phi3ForCausalLM": {"model_type": "phi3"},
    "GPT2LMHeadModel": {
        "model_type": "gpt2",
        "n_embd": 32,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 128,
        **dict.fromkeys(_DECODER.keys() - {"vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"}),
    },
    "GPTNeoXForCausalLM": {"model_type": "gpt_neox", "rotary_pct": 0.5, "num_key_value_heads": None},
    "GraniteForCausalLM": {
        "model_type": "granite",
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.2,
        "logits_scaling": 2.0,
    },
    "Olmo2ForCausalLM": {"model_type": "olmo2"},
    "SmolLM3ForCausalLM": {"model_type": "smollm3", "num_hidden_layers": 4},
}


# Encoders, which have no logits.
ENCODERS: dict[str, dict[str, Any]] = {
    "BertModel": {"model_type": "bert", "num_key_value_heads": None, "bos_token_id": None, "eos_token_id": None},
    "XLMRobertaModel": {"model_type": "xlm-roberta", "num_key_value_heads": None, "max_position_embeddings": 132},
}


def tiny_config(architecture: str = "LlamaForCausalLM", **overrides: Any) -> dict[str, Any]:
    """A `config.json` of the architecture with a few thousand parameters; an override of None removes a key."""
    config = _DECODER | (CONFIGS | ENCODERS)[architecture] | {"architectures": [architecture]} | overrides
    return {key: value for key, value in config.items() if value is not None}


def make_checkpoint(
    directory: Path,
    architecture: str = "LlamaForCausalLM",
    *,
    seed: int = 0,
    dtype: str = "float32",
    shards: int = 1,
    tokenizer: bool = False,
    **overrides: Any,
) -> Path:
    """Write a random model with the given config overrides into `directory` and return it.

    `dtype` is float32, float16 or bfloat16. With `tokenizer` it gets the built-in model's tokenizer, and its vocabulary
    size where no other is given.
    """
    if tokenizer:
        overrides = {"vocab_size": 8192} | overrides
    config = tiny_config(architecture, **overrides) | {"dtype": dtype}
    module = family(config)
    spec = module.spec(config, None)
    tensors = random_tensors(spec, module.sources(spec), seed)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    write_tensors(directory, {name: value.astype(_DTYPES[dtype]) for name, value in tensors.items()}, shards)
    if tokenizer:
        for file in TOKENIZER_FILES:
            shutil.copy(DEFAULT_MODEL / file, directory / file)
    return directory


def write_tensors(directory: Path, tensors: Mapping[str, np.ndarray], shards: int = 1) -> None:
    """Write `model.safetensors`, or that many shards and their index."""
    if shards == 1:
        save_file(dict(tensors), directory / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        own = {name: tensors[name] for name in sorted(tensors)[i::shards]}
        save_file(own, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(own, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def random_parameters(spec: ModelSpec, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 values for every parameter of the spec, sized so that the layers neither vanish nor explode."""
    rng = np.random.default_rng(seed)
    values = {}
    for name, shape in parameters(spec).items():
        value = rng.standard_normal(shape, np.float32)
        if name.endswith("norm.weight"):
            value = value * 0.2 + (0 if spec.norm_unit_offset else 1)
        elif name.endswith(".bias"):
            value = value * 0.2
        elif not name.startswith(("embed", "positions")):
            value = value * 1.5 / shape[1] ** 0.5
        values[name] = value.astype(np.float32)
    return values


def random_tensors(spec: ModelSpec, sources: Mapping[str, Source], seed: int = 0) -> dict[str, np.ndarray]:
    """`random_parameters` as the family stores them: fused and transposed. The inverse of `engine.weights.load`."""
    ends: dict[str, int] = {}
    for source in sources.values():
        ends[source.name] = max(ends.get(source.name, 0), source.rows[1] if source.rows else 0)
    tensors: dict[str, np.ndarray] = {}
    for name, value in random_parameters(spec, seed).items():
        source = sources[name]
        rows = slice(*source.rows) if source.rows else slice(None)
        count = ends[source.name] or len(value) * (source.part[1] if source.part else 1)
        stored = tensors.setdefault(source.name, np.zeros((count, *value.shape[1:]), np.float32))
        if source.part:
            i, n = source.part
            stored.reshape(-1, n, spec.head_dim, *value.shape[1:])[:, i] = value.reshape(
                -1, spec.head_dim, *value.shape[1:]
            )
        else:
            stored[rows] = value
    transposed = {source.name for source in sources.values() if source.transpose}
    return {name: np.ascontiguousarray(value.T if name in transposed else value) for name, value in tensors.items()}


def reference_logits(path: Path, tokens: Sequence[int], max_context: int | None = None) -> np.ndarray:
    """The logits `[T, V]` of one prompt, as the reference runtime computes them from the checkpoint in `path`."""
    config = json.loads((path / "config.json").read_text())
    module = family(config)
    spec = module.spec(config, max_context)
    model = Model(spec, load(spec, module, path))
    block_size = 16
    blocks = np.arange(-(-len(tokens) // block_size)) + 1
    hidden = model.forward([Span(0, tokens, blocks)], KVCache(spec, len(blocks) + 1, block_size))
    return np.stack(list(model.logits(hidden)))


_DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

"""Checkpoints with random weights in the shapes of known models, the same bytes wherever they are made.

Speed depends on shapes, not on values. The tokenizer is a byte-level BPE over every id, so that no id is padding and
answers are ASCII text: letters, and all short words of letters until the vocabulary is full.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from bench.types import UsageError

SEED = 20
DEVIATION = 0.02  # of the weights, as models are initialised
END = "<|endoftext|>"


@dataclass(frozen=True)
class Shape:
    """The sizes of a llama whose head is its embedding."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int = 64
    vocab: int = 49152
    rope_theta: float = 100_000.0
    max_context: int = 8192

    def config(self) -> dict[str, Any]:
        """The `config.json` of transformers."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": self.rope_theta,
            "max_position_embeddings": self.max_context,
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "torch_dtype": "bfloat16",
        }

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every tensor of the checkpoint."""
        yield "model.embed_tokens.weight", (self.vocab, self.hidden)
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        for i in range(self.layers):
            layer = f"model.layers.{i}."
            yield layer + "input_layernorm.weight", (self.hidden,)
            yield layer + "self_attn.q_proj.weight", (queries, self.hidden)
            yield layer + "self_attn.k_proj.weight", (keys, self.hidden)
            yield layer + "self_attn.v_proj.weight", (keys, self.hidden)
            yield layer + "self_attn.o_proj.weight", (self.hidden, queries)
            yield layer + "post_attention_layernorm.weight", (self.hidden,)
            yield layer + "mlp.gate_proj.weight", (self.inner, self.hidden)
            yield layer + "mlp.up_proj.weight", (self.inner, self.hidden)
            yield layer + "mlp.down_proj.weight", (self.hidden, self.inner)
        yield "model.norm.weight", (self.hidden,)


SHAPES = {
    "135m": Shape(hidden=576, inner=1536, layers=30, heads=9, kv_heads=3),  # SmolLM2-135M
    "1b": Shape(hidden=2048, inner=8192, layers=16, heads=32, kv_heads=8),  # Llama-3.2-1B, with the vocabulary above
}


def make(shape: Shape, folder: Path, *, seed: int = SEED) -> None:
    """Write a checkpoint into `folder`; one that is complete is left alone. Raises UsageError where another lies."""
    config = json.dumps(shape.config(), indent=2)
    file = folder / "config.json"
    if file.exists():
        if file.read_text(encoding="utf-8") != config:
            raise UsageError(f"{folder} holds another model; remove it or name another place")
        return
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    weights = {name: _weight(name, size, random) for name, size in shape.tensors()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    tokenizer(shape.vocab).save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "bos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    file.write_text(config, encoding="utf-8")  # last: it marks the checkpoint as complete


def _weight(name: str, size: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    if len(size) == 1:
        return np.ones(size, ml_dtypes.bfloat16)
    return (random.standard_normal(size, dtype=np.float32) * DEVIATION).astype(ml_dtypes.bfloat16)


def tokenizer(vocab: int) -> Tokenizer:
    """A byte-level BPE with exactly `vocab` tokens: the end, the bytes, then words of two letters, three and four."""
    tokens = [END, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words = ("".join(word) for length in (2, 3, 4) for word in product(ascii_lowercase, repeat=length))
    made = list(islice(words, max(0, vocab - len(tokens))))
    if len(tokens) + len(made) != vocab:
        raise UsageError(
            f"a vocabulary of {vocab} is not between {len(tokens)} and {len(tokens) + 26**2 + 26**3 + 26**4}"
        )
    merges = [(word[:-1], word[-1]) for word in made]
    found = Tokenizer(models.BPE({token: id for id, token in enumerate([*tokens, *made])}, merges))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    found.add_special_tokens([END])
    return found

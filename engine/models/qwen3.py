"""Qwen3, dense (Qwen team 2025): Llama's decoder with an RMS norm over every head of q and k."""

from collections.abc import Mapping
from typing import Any

from engine.models.config_fields import activation, flag, number, sizes
from engine.models.naming import named
from engine.models.qwen2 import qwen_windows
from engine.models.rope import rope, served_context
from engine.models.spec import LayerSpec, ModelSpec, Source

ARCHITECTURES = ("Qwen3ForCausalLM",)
IGNORED: tuple[str, ...] = ()
DEFAULTS = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "tie_word_embeddings": False,
}


def spec(config: Mapping[str, Any], max_context: int | None) -> ModelSpec:
    config = {**DEFAULTS, **config}
    shape = sizes(config)
    bias = flag(config, "attention_bias")
    return ModelSpec(
        **shape,
        architecture=ARCHITECTURES[0],
        max_context=served_context(config, max_context),
        layers=tuple(LayerSpec(window=window) for window in qwen_windows(config)),
        ropes=(rope(config, head_dim=shape["head_dim"], max_context=max_context),),
        norm_eps=number(config, "rms_norm_eps"),
        qk_norm="head",
        qkv_bias=bias,
        o_bias=bias,
        attention_scale=shape["head_dim"] ** -0.5,
        activation=activation(config),
        tied=flag(config, "tie_word_embeddings"),
    )


def sources(spec: ModelSpec) -> dict[str, Source]:
    return named(spec)

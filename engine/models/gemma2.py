"""Gemma 2 (Gemma team 2024): norms on both sides, soft caps, every other layer with a window, a scaled embedding."""

from collections.abc import Mapping
from typing import Any

from engine.models.config_fields import (
    activation,
    flag,
    integer,
    number,
    optional_integer,
    optional_number,
    require,
    sizes,
    windows,
)
from engine.models.naming import LLAMA_NAMES, SANDWICH_NAMES, named
from engine.models.rope import rope, served_context
from engine.models.spec import LayerSpec, ModelSpec, Source

ARCHITECTURES = ("Gemma2ForCausalLM",)
IGNORED: tuple[str, ...] = ()
DEFAULTS = {
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "tie_word_embeddings": True,
}


def spec(config: Mapping[str, Any], max_context: int | None) -> ModelSpec:
    config = {**DEFAULTS, **config}
    require(config, use_bidirectional_attention=False)
    shape = sizes(config)
    bias = flag(config, "attention_bias")
    alternating = [("sliding_attention", "full_attention")[i % 2] for i in range(integer(config, "num_hidden_layers"))]
    return ModelSpec(
        **shape,
        architecture=ARCHITECTURES[0],
        max_context=served_context(config, max_context),
        layers=tuple(
            LayerSpec(window=window)
            for window in windows(config, alternating, optional_integer(config, "sliding_window"))
        ),
        ropes=(rope(config, head_dim=shape["head_dim"], max_context=max_context),),
        norm_eps=number(config, "rms_norm_eps"),
        norm_unit_offset=True,
        post_norm=True,
        qkv_bias=bias,
        o_bias=bias,
        attention_scale=number(config, "query_pre_attn_scalar") ** -0.5,
        attention_softcap=optional_number(config, "attn_logit_softcapping"),
        activation=activation(config, "hidden_activation"),
        embedding_scale=shape["hidden_size"] ** 0.5,
        logits_softcap=optional_number(config, "final_logit_softcapping"),
        tied=flag(config, "tie_word_embeddings"),
    )


def sources(spec: ModelSpec) -> dict[str, Source]:
    return named(spec, LLAMA_NAMES | SANDWICH_NAMES)

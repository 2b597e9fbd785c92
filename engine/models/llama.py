"""Llama (Touvron et al. 2023): RMSNorm, rotary positions, grouped queries, a gated SiLU."""

from collections.abc import Mapping
from typing import Any

from engine.models.config_fields import activation, flag, integer, number, sizes
from engine.models.naming import named
from engine.models.rope import rope, served_context
from engine.models.spec import LayerSpec, ModelSpec, Source

ARCHITECTURES = ("LlamaForCausalLM",)
IGNORED = (r".*\.rotary_emb\.inv_freq",)
DEFAULTS = {
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
}


def spec(config: Mapping[str, Any], max_context: int | None) -> ModelSpec:
    config = {**DEFAULTS, **config}
    dims = sizes(config)
    bias = flag(config, "attention_bias")
    return ModelSpec(
        architecture=ARCHITECTURES[0],
        **dims,
        max_context=served_context(config, max_context),
        layers=(LayerSpec(),) * integer(config, "num_hidden_layers"),
        ropes=(rope(config, head_dim=dims["head_dim"], max_context=max_context),),
        norm_eps=number(config, "rms_norm_eps"),
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=flag(config, "mlp_bias"),
        attention_scale=dims["head_dim"] ** -0.5,
        activation=activation(config),
        tied=flag(config, "tie_word_embeddings"),
    )


def sources(spec: ModelSpec) -> dict[str, Source]:
    return named(spec)

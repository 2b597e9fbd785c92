"""Mistral (Jiang et al. 2023): Llama's decoder, with one sliding window for all layers where the config sets one."""

from collections.abc import Mapping
from typing import Any

from engine.models.config_fields import (
    activation,
    flag,
    integer,
    number,
    optional_integer,
    refusal,
    require,
    sizes,
    windows,
)
from engine.models.naming import named
from engine.models.rope import rope, served_context
from engine.models.spec import LayerSpec, ModelSpec, Source

ARCHITECTURES = ("MistralForCausalLM",)
IGNORED = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)
DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
}


def spec(config: Mapping[str, Any], max_context: int | None) -> ModelSpec:
    config = {**DEFAULTS, **config}
    require(config, attention_bias=False, mlp_bias=False)
    shape = sizes(config)
    count, window = integer(config, "num_hidden_layers"), optional_integer(config, "sliding_window")
    kind = "full_attention" if window is None else "sliding_attention"
    if windows(config, [kind] * count, window) != (window,) * count:
        raise refusal("layer_types", config["layer_types"], f"only {kind}, as 'sliding_window' says")
    return ModelSpec(
        **shape,
        architecture=ARCHITECTURES[0],
        max_context=served_context(config, max_context),
        layers=(LayerSpec(window=window),) * count,
        ropes=(rope(config, head_dim=shape["head_dim"], max_context=max_context),),
        norm_eps=number(config, "rms_norm_eps"),
        attention_scale=shape["head_dim"] ** -0.5,
        activation=activation(config),
        tied=flag(config, "tie_word_embeddings"),
    )


def sources(spec: ModelSpec) -> dict[str, Source]:
    return named(spec)

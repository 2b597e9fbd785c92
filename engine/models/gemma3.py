"""Gemma 3, text (Gemma team 2025): Gemma 2 with q and k norms for soft caps, and a rotary base for each kind of layer.

Local layers have a window and the base `rope_local_base_freq`; every sixth layer is global, with `rope_theta` and
whatever scaling the config names. `max_position_embeddings` states the scaled length.
"""

from collections.abc import Mapping
from typing import Any

from engine.models.config_fields import (
    activation,
    flag,
    integer,
    number,
    optional_integer,
    optional_number,
    refusal,
    require,
    sizes,
    windows,
)
from engine.models.naming import LLAMA_NAMES, SANDWICH_NAMES, named
from engine.models.rope import rope, served_context
from engine.models.spec import LayerSpec, ModelSpec, RopeSpec, Source

ARCHITECTURES = ("Gemma3ForCausalLM",)
IGNORED: tuple[str, ...] = ()
DEFAULTS = {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "tie_word_embeddings": True,
}


def spec(config: Mapping[str, Any], max_context: int | None) -> ModelSpec:
    config = {**DEFAULTS, **config}
    require(config, use_bidirectional_attention=False, attn_logit_softcapping=None)
    shape = sizes(config)
    bias = flag(config, "attention_bias")
    served = served_context(config, max_context, scaling=None)
    return ModelSpec(
        **shape,
        architecture=ARCHITECTURES[0],
        max_context=served,
        layers=_layers(config),
        ropes=_ropes(config, shape["head_dim"], served),
        norm_eps=number(config, "rms_norm_eps"),
        norm_unit_offset=True,
        post_norm=True,
        qk_norm="head",
        qkv_bias=bias,
        o_bias=bias,
        attention_scale=number(config, "query_pre_attn_scalar") ** -0.5,
        activation=activation(config, "hidden_activation"),
        embedding_scale=shape["hidden_size"] ** 0.5,
        logits_softcap=optional_number(config, "final_logit_softcapping"),
        tied=flag(config, "tie_word_embeddings"),
    )


def _layers(config: Mapping[str, Any]) -> tuple[LayerSpec, ...]:
    period = integer(config, "sliding_window_pattern")
    default = [
        "sliding_attention" if (i + 1) % period else "full_attention"
        for i in range(integer(config, "num_hidden_layers"))
    ]
    found = windows(config, default, optional_integer(config, "sliding_window"))
    return tuple(LayerSpec(window=window, rope=0 if window is None else 1) for window in found)


def _ropes(config: Mapping[str, Any], head_dim: int, max_context: int) -> tuple[RopeSpec, RopeSpec]:
    """The rotary embeddings of global and of local layers."""
    by_type = config.get("rope_parameters") or {}
    if not isinstance(by_type, Mapping) or not by_type.keys() <= {"full_attention", "sliding_attention"}:
        raise refusal("rope_parameters", by_type, "parameters for full_attention and sliding_attention")

    def of(kind: str, theta: str, scaling: object) -> RopeSpec:
        parameters: dict[str, Any] = {}
        for key, part in ((f"rope_parameters.{kind}", by_type.get(kind)), ("rope_scaling", scaling)):
            if not isinstance(part, Mapping | None):
                raise refusal(key, part, "a table of parameters, or null")
            parameters |= part or {}
        return rope(config, head_dim=head_dim, max_context=max_context, theta=number(config, theta), scaling=parameters)

    return (
        of("full_attention", "rope_theta", config.get("rope_scaling")),
        of("sliding_attention", "rope_local_base_freq", None),
    )


def sources(spec: ModelSpec) -> dict[str, Source]:
    return named(spec, LLAMA_NAMES | SANDWICH_NAMES)

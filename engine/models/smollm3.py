"""SmolLM3 (Hugging Face 2025): Llama's decoder with no rotary embedding in every fourth layer."""

from collections.abc import Mapping
from typing import Any

from engine.models.config_fields import (
    activation,
    flag,
    integer,
    number,
    optional_integer,
    refusal,
    sizes,
    windows,
)
from engine.models.naming import named
from engine.models.rope import rope, served_context
from engine.models.spec import LayerSpec, ModelSpec, Source

ARCHITECTURES = ("SmolLM3ForCausalLM",)
IGNORED: tuple[str, ...] = ()
DEFAULTS = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 2_000_000.0,
    "use_sliding_window": False,
    "no_rope_layer_interval": 4,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
}


def spec(config: Mapping[str, Any], max_context: int | None) -> ModelSpec:
    config = {**DEFAULTS, **config}
    shape = sizes(config)
    attention_bias = flag(config, "attention_bias")
    return ModelSpec(
        **shape,
        architecture=ARCHITECTURES[0],
        max_context=served_context(config, max_context),
        layers=_layers(config),
        ropes=(rope(config, head_dim=shape["head_dim"], max_context=max_context),),
        norm_eps=number(config, "rms_norm_eps"),
        qkv_bias=attention_bias,
        o_bias=attention_bias,
        mlp_bias=flag(config, "mlp_bias"),
        attention_scale=shape["head_dim"] ** -0.5,
        activation=activation(config),
        tied=flag(config, "tie_word_embeddings"),
    )


def _layers(config: Mapping[str, Any]) -> tuple[LayerSpec, ...]:
    """Rotary embedding where `no_rope_layers` has a 1 (sic); a window, if any, where it has a 0."""
    count, interval = integer(config, "num_hidden_layers"), integer(config, "no_rope_layer_interval")
    turns = config.get("no_rope_layers")
    if turns is None:
        turns = [int((i + 1) % interval != 0) for i in range(count)]
    if not isinstance(turns, list) or len(turns) < count or any(turn not in (0, 1) for turn in turns):
        raise refusal("no_rope_layers", turns, f"a list of at least {count} zeros and ones")
    turns = turns[:count]
    window = optional_integer(config, "sliding_window") if flag(config, "use_sliding_window") else None
    default = ["full_attention" if window is None or turn else "sliding_attention" for turn in turns]
    return tuple(
        LayerSpec(window=window, rope=0 if turn else None)
        for window, turn in zip(windows(config, default, window), turns, strict=True)
    )


def sources(spec: ModelSpec) -> dict[str, Source]:
    return named(spec)

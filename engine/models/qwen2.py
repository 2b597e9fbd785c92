"""Qwen2 and Qwen2.5 (Qwen team 2024): Llama's decoder with biases on q, k and v.

`use_sliding_window` gives a window to the layers from `max_window_layers` on.
"""

from collections.abc import Mapping
from typing import Any

from engine.models.config_fields import (
    activation,
    flag,
    integer,
    number,
    optional_integer,
    require,
    sizes,
    windows,
)
from engine.models.naming import named
from engine.models.rope import rope, served_context
from engine.models.spec import LayerSpec, ModelSpec, Source

ARCHITECTURES = ("Qwen2ForCausalLM",)
IGNORED = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)
DEFAULTS = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "tie_word_embeddings": False,
}


def spec(config: Mapping[str, Any], max_context: int | None) -> ModelSpec:
    config = {**DEFAULTS, **config}
    require(config, use_mrope=False)
    shape = sizes(config)
    return ModelSpec(
        **shape,
        architecture=ARCHITECTURES[0],
        max_context=served_context(config, max_context),
        layers=tuple(LayerSpec(window=window) for window in qwen_windows(config)),
        ropes=(rope(config, head_dim=shape["head_dim"], max_context=max_context),),
        norm_eps=number(config, "rms_norm_eps"),
        qkv_bias=True,
        attention_scale=shape["head_dim"] ** -0.5,
        activation=activation(config),
        tied=flag(config, "tie_word_embeddings"),
    )


def qwen_windows(config: Mapping[str, Any]) -> tuple[int | None, ...]:
    """The window of every layer; `layer_types`, where there is one, comes before `max_window_layers`."""
    window = optional_integer(config, "sliding_window") if flag(config, "use_sliding_window") else None
    first = integer(config, "max_window_layers", minimum=0)
    layers = range(integer(config, "num_hidden_layers"))
    default = ["full_attention" if window is None or i < first else "sliding_attention" for i in layers]
    return windows(config, default, window)


def sources(spec: ModelSpec) -> dict[str, Source]:
    return named(spec)

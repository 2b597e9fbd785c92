"""Phi-3, Phi-3.5 and Phi-4-mini (Abdin et al. 2024): Llama's decoder with fused projections and LongRoPE."""

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
)
from engine.models.naming import LLAMA_NAMES, named
from engine.models.rope import rope, scaling_parameters, served_context
from engine.models.spec import LayerSpec, ModelSpec, Source

ARCHITECTURES = ("Phi3ForCausalLM",)
IGNORED = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)
DEFAULTS = {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
ROPE_TYPES = ("default", "longrope", "su", "yarn")


def spec(config: Mapping[str, Any], max_context: int | None) -> ModelSpec:
    config = {**DEFAULTS, **config}
    require(config, attention_bias=False, mlp_bias=False)
    shape = sizes(config)
    scaling = _scaling(config)
    return ModelSpec(
        **shape,
        architecture=ARCHITECTURES[0],
        max_context=served_context(config, max_context, scaling=scaling),
        layers=(LayerSpec(window=optional_integer(config, "sliding_window")),) * integer(config, "num_hidden_layers"),
        ropes=(rope(config, head_dim=shape["head_dim"], max_context=max_context, scaling=scaling),),
        norm_eps=number(config, "rms_norm_eps"),
        attention_scale=shape["head_dim"] ** -0.5,
        activation=activation(config),
        tied=flag(config, "tie_word_embeddings"),
    )


def _scaling(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary parameters. The first configs of this family say `su` or `yarn` and mean `longrope`."""
    parameters = dict(scaling_parameters(config))
    name = parameters.pop("rope_type", None) or parameters.pop("type", "default")
    if name not in ROPE_TYPES:
        raise refusal("rope_scaling.rope_type", name, f"one of {', '.join(ROPE_TYPES)}")
    return parameters | {"rope_type": "default" if name == "default" else "longrope"}


def sources(spec: ModelSpec) -> dict[str, Source]:
    """`qkv_proj` is q, k and v below one another, `gate_up_proj` gate and up."""
    q, kv, mlp = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim, spec.intermediate_size
    fused = {
        "q": ("qkv_proj", (0, q)),
        "k": ("qkv_proj", (q, q + kv)),
        "v": ("qkv_proj", (q + kv, q + 2 * kv)),
        "gate": ("gate_up_proj", (0, mlp)),
        "up": ("gate_up_proj", (mlp, 2 * mlp)),
    }
    sources = named(spec)
    for name, source in sources.items():
        part = name.split(".")[-2]
        if part in fused:
            tensor, rows = fused[part]
            sources[name] = Source(name=source.name.replace(LLAMA_NAMES[part].split(".")[1], tensor), rows=rows)
    return sources

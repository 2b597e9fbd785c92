"""GPT-NeoX and Pythia (Black et al. 2022): attention and MLP side by side, partial rotary embedding, layer norms."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engine.models.config_fields import activation, flag, integer, number, require, sizes
from engine.models.naming import named
from engine.models.rope import rope, served_context
from engine.models.spec import LayerSpec, ModelSpec, Source

ARCHITECTURES = ("GPTNeoXForCausalLM",)
IGNORED = (r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",)
DEFAULTS = {
    "vocab_size": 50432,
    "hidden_size": 6144,
    "num_hidden_layers": 44,
    "num_attention_heads": 64,
    "intermediate_size": 24576,
    "hidden_act": "gelu",
    "max_position_embeddings": 2048,
    "layer_norm_eps": 1e-5,
    "rotary_pct": 0.25,
    "rotary_emb_base": 10000,
    "attention_bias": True,
    "use_parallel_residual": True,
    "tie_word_embeddings": False,
}
NAMES = {
    "embed": "gpt_neox.embed_in",
    "final_norm": "gpt_neox.final_layer_norm",
    "head": "embed_out",
    "input_norm": "input_layernorm",
    "pre_mlp_norm": "post_attention_layernorm",
    "q": "attention.query_key_value",
    "k": "attention.query_key_value",
    "v": "attention.query_key_value",
    "o": "attention.dense",
    "up": "mlp.dense_h_to_4h",
    "down": "mlp.dense_4h_to_h",
}


def spec(config: Mapping[str, Any], max_context: int | None) -> ModelSpec:
    config = {**DEFAULTS, **config}
    config = {"partial_rotary_factor": config["rotary_pct"], **config}
    require(config, num_key_value_heads=config["num_attention_heads"])
    shape = sizes(config)
    attention_bias = flag(config, "attention_bias")
    return ModelSpec(
        **shape,
        architecture=ARCHITECTURES[0],
        max_context=served_context(config, max_context),
        layers=(LayerSpec(),) * integer(config, "num_hidden_layers"),
        ropes=(
            rope(
                config,
                head_dim=shape["head_dim"],
                max_context=max_context,
                theta=number(config, "rotary_emb_base"),
            ),
        ),
        norm="layer",
        norm_eps=number(config, "layer_norm_eps"),
        parallel_residual=flag(config, "use_parallel_residual"),
        qkv_bias=attention_bias,
        o_bias=attention_bias,
        mlp_bias=True,
        attention_scale=shape["head_dim"] ** -0.5,
        activation=activation(config),
        gated=False,
        tied=flag(config, "tie_word_embeddings"),
    )


def sources(spec: ModelSpec) -> dict[str, Source]:
    """`query_key_value` holds q, k and v of the first head, then of the second, and so on."""
    sources = named(spec, NAMES, layers="gpt_neox.layers")
    for name, source in sources.items():
        part = name.split(".")[-2]
        if part in ("q", "k", "v"):
            sources[name] = replace(source, part=("qkv".index(part), 3))
    return sources

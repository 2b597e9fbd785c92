"""GPT-2 (Radford et al. 2019): layer norms, learned positions, biases everywhere, weights stored as `[in, out]`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engine.models.config_fields import activation, flag, integer, number, optional_integer, require, sizes
from engine.models.naming import named
from engine.models.rope import served_context
from engine.models.spec import LayerSpec, ModelSpec, Source

ARCHITECTURES = ("GPT2LMHeadModel",)
IGNORED = (r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",)
DEFAULTS = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "tie_word_embeddings": True,
}
RENAMED = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
NAMES = {
    "embed": "transformer.wte",
    "positions": "transformer.wpe",
    "final_norm": "transformer.ln_f",
    "head": "lm_head",
    "input_norm": "ln_1",
    "pre_mlp_norm": "ln_2",
    "q": "attn.c_attn",
    "k": "attn.c_attn",
    "v": "attn.c_attn",
    "o": "attn.c_proj",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}


def spec(config: Mapping[str, Any], max_context: int | None) -> ModelSpec:
    config = {**DEFAULTS, **config}
    require(config, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    config = config | {name: config[stored] for name, stored in RENAMED.items()}
    inner = optional_integer(config, "n_inner") or 4 * integer(config, "n_embd")
    shape = sizes(config | {"intermediate_size": inner})
    return ModelSpec(
        **shape,
        architecture=ARCHITECTURES[0],
        max_context=served_context(config, max_context),
        layers=(LayerSpec(rope=None),) * integer(config, "n_layer"),
        learned_positions=integer(config, "n_positions"),
        norm="layer",
        norm_eps=number(config, "layer_norm_epsilon"),
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        attention_scale=shape["head_dim"] ** -0.5 if flag(config, "scale_attn_weights") else 1.0,
        activation=activation(config, "activation_function"),
        gated=False,
        tied=flag(config, "tie_word_embeddings"),
    )


def sources(spec: ModelSpec) -> dict[str, Source]:
    """Linear weights are stored transposed, and q, k and v lie beside one another in `c_attn`."""
    hidden = spec.hidden_size
    sources = named(spec, NAMES, layers="transformer.h")
    for name, source in sources.items():
        part, kind = name.split(".")[-2:]
        if part in ("q", "k", "v", "o", "up", "down") and kind == "weight":
            source = replace(source, transpose=True)
        if part in ("q", "k", "v"):
            start = "qkv".index(part) * hidden
            source = replace(source, rows=(start, start + hidden))
        sources[name] = source
    return sources

"""OLMo 2 (OLMo team 2024): norms on the output of attention and MLP only, and over all of q and of k at once."""

from collections.abc import Mapping
from typing import Any

from engine.models.config_fields import activation, flag, integer, number, sizes
from engine.models.naming import LLAMA_NAMES, SANDWICH_NAMES, named
from engine.models.rope import rope, served_context
from engine.models.spec import LayerSpec, ModelSpec, Source

ARCHITECTURES = ("Olmo2ForCausalLM",)
IGNORED: tuple[str, ...] = ()
DEFAULTS = {
    "vocab_size": 50304,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
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
        layers=(LayerSpec(),) * integer(config, "num_hidden_layers"),
        ropes=(rope(config, head_dim=shape["head_dim"], max_context=max_context),),
        norm_eps=number(config, "rms_norm_eps"),
        pre_norm=False,
        post_norm=True,
        qk_norm="full",
        qkv_bias=bias,
        o_bias=bias,
        attention_scale=shape["head_dim"] ** -0.5,
        activation=activation(config),
        tied=flag(config, "tie_word_embeddings"),
    )


def sources(spec: ModelSpec) -> dict[str, Source]:
    return named(spec, LLAMA_NAMES | SANDWICH_NAMES)

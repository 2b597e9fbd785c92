"""The parameter names that most decoders share with Llama, so that a family states only its differences."""

from collections.abc import Mapping

from engine.models.spec import ModelSpec, Source, parameters

LLAMA_NAMES = {
    "embed": "model.embed_tokens",
    "final_norm": "model.norm",
    "head": "lm_head",
    "input_norm": "input_layernorm",
    "pre_mlp_norm": "post_attention_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}

# Norms on both sides of attention and MLP: what Llama calls `post_attention_layernorm` is then the one on the output.
SANDWICH_NAMES = {
    "post_attention_norm": "post_attention_layernorm",
    "pre_mlp_norm": "pre_feedforward_layernorm",
    "post_mlp_norm": "post_feedforward_layernorm",
}


def named(
    spec: ModelSpec, names: Mapping[str, str] = LLAMA_NAMES, *, layers: str = "model.layers"
) -> dict[str, Source]:
    """The tensor of every parameter of the spec: `layers.3.q.weight` lies in `{layers}.3.{names["q"]}.weight`."""
    sources = {}
    for name in parameters(spec):
        *layer, part, kind = name.split(".")
        prefix = f"{layers}.{layer[1]}." if layer else ""
        sources[name] = Source(name=f"{prefix}{names[part]}.{kind}")
    return sources

"""BERT (Devlin et al. 2019) and RoBERTa (Liu et al. 2019): encoders, which the MiniLM, BGE, E5 and GTE models are.

Every token sees all others; norms follow the additions to the residual. A text is one segment, so that of the token
types only the first is ever used. What pools the hidden states to a vector is not part of the model: see `pooling.py`.
"""

from collections.abc import Mapping
from typing import Any

from engine.errors import ModelUnsupported
from engine.models.config_fields import activation, integer, number, require, sizes
from engine.models.naming import named
from engine.models.rope import served_context
from engine.models.spec import LayerSpec, ModelSpec, Source

ARCHITECTURES = ("BertModel", "RobertaModel", "XLMRobertaModel")
IGNORED = (
    r"(bert|roberta)\.pooler\..*",
    r"(bert|roberta)\.embeddings\.(position_ids|token_type_ids)",
    r"(cls|lm_head)\..*",
)
DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "vocab_size": 30522,
    "pad_token_id": 0,
}
ROBERTA_DEFAULTS = {"vocab_size": 50265, "pad_token_id": 1}
NAMES = {
    "embed": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "o": "attention.output.dense",
    "post_attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "post_mlp_norm": "output.LayerNorm",
}


def spec(config: Mapping[str, Any], max_context: int | None) -> ModelSpec:
    architecture = next(name for name in config["architectures"] if name in ARCHITECTURES)
    roberta = architecture != "BertModel"
    config = {**DEFAULTS, **(ROBERTA_DEFAULTS if roberta else {}), **config}
    require(config, position_embedding_type="absolute", is_decoder=False, add_cross_attention=False)
    shape = sizes(config)
    rows = integer(config, "max_position_embeddings")
    # RoBERTa counts positions from behind the row of its padding token.
    offset = integer(config, "pad_token_id", minimum=0) + 1 if roberta else 0
    if offset >= rows:
        raise ModelUnsupported(
            f"config.json: 'max_position_embeddings' is {rows}, which leaves no positions for tokens"
        )
    return ModelSpec(
        **shape,
        architecture=architecture,
        max_context=served_context(config | {"max_position_embeddings": rows - offset}, max_context),
        layers=(LayerSpec(rope=None),) * integer(config, "num_hidden_layers"),
        learned_positions=rows,
        position_offset=offset,
        token_types=integer(config, "type_vocab_size"),
        causal=False,
        norm="layer",
        norm_eps=number(config, "layer_norm_eps"),
        pre_norm=False,
        residual_norm=True,
        embedding_norm=True,
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        attention_scale=shape["head_dim"] ** -0.5,
        activation=activation(config),
        gated=False,
    )


def sources(spec: ModelSpec) -> dict[str, Source]:
    """By the names of a whole model, `bert.` or `roberta.` in front; the encoder alone is saved without."""
    prefix = "bert." if spec.architecture == "BertModel" else "roberta."
    names = {part: prefix + name if name.startswith("embeddings.") else name for part, name in NAMES.items()}
    return named(spec, names, layers=prefix + "encoder.layer")

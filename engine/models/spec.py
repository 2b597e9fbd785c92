"""`ModelSpec`: everything a runtime must know of a decoder or an encoder, as one flat frozen record.

A family file turns a Hugging Face `config.json` into a `ModelSpec` and says where in the checkpoint each
parameter lies (`Source`). Runtimes read only these two; no runtime knows a family by name.

Parameters have canonical names: `embed.weight`, `positions.weight`, `token_types.weight`, `embedding_norm.weight`,
`final_norm.weight`, `head.weight`, and for layer i `layers.{i}.` + `input_norm`, `q`, `k`, `v`, `q_norm`, `k_norm`,
`o`, `post_attention_norm`, `pre_mlp_norm`, `gate`, `up`, `down`, `post_mlp_norm`, each with `.weight` and, where the
spec says so, `.bias`.
Linear weights are `[out, in]`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass(frozen=True, kw_only=True)
class RopeSpec:
    """Rotary embedding resolved to numbers (Su et al. 2021, and the scaling of the variant).

    `inv_freq` has `rotary_dim / 2` entries; the first `rotary_dim` features of a head turn, the rest pass.
    Features `j` and `j + rotary_dim / 2` form a pair, or `2j` and `2j + 1` where `interleaved`.
    Cosine and sine are multiplied by `attention_factor`.
    """

    inv_freq: tuple[float, ...]
    attention_factor: float = 1.0
    interleaved: bool = False


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    window: int | None = None  # a query sees itself and the window - 1 tokens before it; None = all
    rope: int | None = 0  # index into ModelSpec.ropes; None = no rotary embedding in this layer


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    architecture: str  # as in config.json
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_context: int
    layers: tuple[LayerSpec, ...]
    ropes: tuple[RopeSpec, ...] = ()
    learned_positions: int | None = None  # rows of a learned position table that is added to the embedding
    position_offset: int = 0  # the row of position 0 (RoBERTa)
    token_types: int | None = None  # rows of a table whose first one is added to the embedding of every token (BERT)
    causal: bool = True  # or an encoder: every token sees all others, and there is neither final norm nor head

    norm: Literal["rms", "layer"] = "rms"  # layer norms have a bias
    norm_eps: float
    norm_unit_offset: bool = False  # the stored weight is the scale minus 1 (gemma)
    pre_norm: bool = True  # norms on the input of attention and MLP
    post_norm: bool = False  # norms on their output, before the residual is added
    residual_norm: bool = False  # norms on the residual after each addition, by the names of `post_norm` (BERT)
    embedding_norm: bool = False  # a norm on the sum of the embeddings
    parallel_residual: bool = False  # attention and MLP both read the layer's input
    qk_norm: Literal["none", "head", "full"] = "none"  # over each head, or over all heads at once

    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    attention_scale: float  # multiplies q . k
    attention_softcap: float | None = None  # cap * tanh(score / cap)

    activation: Literal["silu", "gelu", "gelu_tanh"] = "silu"
    gated: bool = True  # down(act(gate(x)) * up(x)); otherwise down(act(up(x)))

    embedding_scale: float = 1.0
    residual_scale: float = 1.0  # multiplies what attention and MLP add to the residual
    logits_scale: float = 1.0  # multiplies the logits, before the soft cap
    logits_softcap: float | None = None
    tied: bool = False  # the head is the embedding

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def kv_layers(self) -> int:
        """Layers that have pages of their own. Those of an encoder share them: nobody reads a layer's again."""
        return self.num_layers if self.causal else 1

    def kv_layer(self, layer: int) -> int:
        """The pages of a layer."""
        return layer if self.causal else 0


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a parameter lies: a tensor of the checkpoint, or a part of one.

    The steps apply in this order. `transpose`: stored as `[in, out]` (Conv1D). `rows`: only these rows of
    axis 0. `part = (i, n)`: axis 0 is `[heads, n, head_dim]`; take i of n for every head (fused q, k, v of GPT-NeoX).
    """

    name: str
    transpose: bool = False
    rows: tuple[int, int] | None = None
    part: tuple[int, int] | None = None


class Family(Protocol):
    """What a family module offers; `registry.py` names the modules."""

    ARCHITECTURES: tuple[str, ...]
    IGNORED: tuple[str, ...]  # regular expressions of checkpoint tensors that carry nothing (buffers, masks)

    def spec(self, config: Mapping[str, Any], max_context: int | None) -> ModelSpec:
        """Read a config; `max_context` is the served length, None = the model's own. Raises ModelUnsupported."""

    def sources(self, spec: ModelSpec) -> dict[str, Source]:
        """The place of every parameter of `parameters(spec)`."""


def parameters(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of every parameter the spec implies. A tied head is not one."""
    hidden, heads, kv_heads, dim = spec.hidden_size, spec.num_heads, spec.num_kv_heads, spec.head_dim
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (spec.vocab_size, hidden)}
    if spec.learned_positions is not None:
        shapes["positions.weight"] = (spec.learned_positions, hidden)
    if spec.token_types is not None:
        shapes["token_types.weight"] = (spec.token_types, hidden)

    def norm(name: str, size: int) -> None:
        shapes[f"{name}.weight"] = (size,)
        if spec.norm == "layer":
            shapes[f"{name}.bias"] = (size,)

    def linear(name: str, out: int, inner: int, bias: bool) -> None:
        shapes[f"{name}.weight"] = (out, inner)
        if bias:
            shapes[f"{name}.bias"] = (out,)

    if spec.embedding_norm:
        norm("embedding_norm", hidden)
    for i in range(spec.num_layers):
        layer = f"layers.{i}."
        if spec.pre_norm:
            norm(layer + "input_norm", hidden)
            norm(layer + "pre_mlp_norm", hidden)
        if spec.post_norm or spec.residual_norm:
            norm(layer + "post_attention_norm", hidden)
            norm(layer + "post_mlp_norm", hidden)
        linear(layer + "q", heads * dim, hidden, spec.qkv_bias)
        linear(layer + "k", kv_heads * dim, hidden, spec.qkv_bias)
        linear(layer + "v", kv_heads * dim, hidden, spec.qkv_bias)
        linear(layer + "o", hidden, heads * dim, spec.o_bias)
        if spec.qk_norm != "none":
            full = spec.qk_norm == "full"
            norm(layer + "q_norm", heads * dim if full else dim)
            norm(layer + "k_norm", kv_heads * dim if full else dim)
        if spec.gated:
            linear(layer + "gate", spec.intermediate_size, hidden, spec.mlp_bias)
        linear(layer + "up", spec.intermediate_size, hidden, spec.mlp_bias)
        linear(layer + "down", hidden, spec.intermediate_size, spec.mlp_bias)
    if not spec.causal:
        return shapes
    norm("final_norm", hidden)
    if not spec.tied:
        linear("head", spec.vocab_size, hidden, False)
    return shapes

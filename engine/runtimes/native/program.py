"""From a `ModelSpec` to the tape that the compiled module executes: this is where families are data.

A tape is a flat list of ops over numbered buffers, linears and vectors; what the ops do is in src/program.h. A buffer
has one row for each token of a step. From the first `gather` on, rows are those that are asked for, in buffers of their
own. That is right behind the last layer's attention, because nobody needs the other rows any more; but at the end of an
encoder, of which most rows are asked for. A decoder's tape ends with the head, an encoder's with the hidden states.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from engine.models.spec import LayerSpec, ModelSpec

NORMS = {"rms": 0, "layer": 1}
ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_tanh": 2}
NONE = -1  # an operand that is not there


class Op(NamedTuple):
    name: str
    operands: tuple[int, ...]
    numbers: tuple[float, ...] = ()


@dataclass(frozen=True)
class Tape:
    """What a step computes, and of which parameters.

    `linears`: for each, the parameters that are stacked to one matrix, by the name that `.weight` and `.bias` follow.
    `vectors`: full names of parameters; one of `norm_unit_offset` is held with the 1 added.
    """

    buffers: tuple[int, ...]  # widths in floats
    ops: tuple[Op, ...]
    linears: tuple[tuple[str, ...], ...]
    vectors: tuple[str, ...]


def compile_tape(spec: ModelSpec) -> Tape:
    tape = _Writer(spec)
    tape.embed("x")
    last = spec.num_layers - 1
    for i, layer in enumerate(spec.layers):
        tape.attend(i, layer)
        if i == last and spec.causal:
            tape.gather("x", "attended")
        tape.mix(i)
    if not spec.causal:
        tape.gather("x")
        return tape.finished()
    tape.norm("x", "normed", "final_norm")
    tape.linear("normed", "logits", "embed" if spec.tied else "head")
    if spec.logits_scale != 1 or spec.logits_softcap is not None:
        tape.op("scale_cap", ("logits",), (spec.vocab_size,), (spec.logits_scale, spec.logits_softcap or 0.0))
    return tape.finished()


class _Writer:
    """Writes ops. Buffers are known by name here; a name means another buffer once its rows are gathered."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        heads, kv_heads = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        self.widths = {
            "x": spec.hidden_size,  # the residual stream
            "normed": spec.hidden_size,
            "qkv": heads + 2 * kv_heads,
            "attended": heads,
            "attention": spec.hidden_size,  # what attention adds to the residual
            "expanded": spec.intermediate_size * (2 if spec.gated else 1),  # gate and up
            "inner": spec.intermediate_size,
            "mlp": spec.hidden_size,  # what the MLP adds to the residual
            "logits": spec.vocab_size,
        }
        self.gathered = False
        self.buffers: dict[tuple[str, bool], int] = {}
        self.linears: list[tuple[str, ...]] = []
        self.vectors: dict[str, int] = {}
        self.ops: list[Op] = []

    def finished(self) -> Tape:
        widths = tuple(self.widths[name] for name, _ in self.buffers)
        return Tape(widths, tuple(self.ops), tuple(self.linears), tuple(self.vectors))

    # ---- The parts of a decoder; as in engine/runtimes/reference/model.py

    def attend(self, i: int, layer: LayerSpec) -> None:
        """From the residual to what the heads make of it."""
        spec, name = self.spec, f"layers.{i}."
        heads, kv_heads = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        source = self.normed("x", name + "input_norm") if spec.pre_norm else "x"
        self.linear(source, "qkv", name + "q", name + "k", name + "v")
        if spec.qk_norm == "full":
            self.norm("qkv", "qkv", name + "q_norm", 0, heads)
            self.norm("qkv", "qkv", name + "k_norm", heads, kv_heads)
        q = k = (NONE, NONE)
        if spec.qk_norm == "head":
            q, k = self.norm_vectors(name + "q_norm"), self.norm_vectors(name + "k_norm")
        rope = NONE if layer.rope is None else layer.rope
        pages = spec.kv_layer(i)
        rest = (pages, rope, q[0], k[0], q[1], k[1], NORMS[spec.norm])
        self.op("qkv", ("qkv",), rest, (spec.norm_eps, spec.attention_scale))
        self.op("attend", ("qkv", "attended"), (pages, layer.window or 0), (spec.attention_softcap or 0.0,))

    def mix(self, i: int) -> None:
        """From what the heads made to the residual of the next layer."""
        spec, name = self.spec, f"layers.{i}."
        self.linear("attended", "attention", name + "o")
        if not spec.parallel_residual:
            self.residual("attention", name + "post_attention_norm")
        source = self.normed("x", name + "pre_mlp_norm") if spec.pre_norm else "x"
        self.linear(source, "expanded", *([name + "gate"] if spec.gated else []), name + "up")
        width, kind = spec.intermediate_size, ACTIVATIONS[spec.activation]
        self.op("activate", ("expanded", "inner"), (width, kind, int(spec.gated)))
        self.linear("inner", "mlp", name + "down")
        if spec.parallel_residual:
            self.residual("attention", name + "post_attention_norm")
        self.residual("mlp", name + "post_mlp_norm")

    def residual(self, branch: str, norm: str) -> None:
        """Add a branch to the residual."""
        added = self.normed(branch, norm) if self.spec.post_norm else branch
        self.op("add", ("x", added), (self.spec.hidden_size,), (self.spec.residual_scale,))
        if self.spec.residual_norm:
            self.norm("x", "x", norm)

    # ---- Ops

    def embed(self, out: str) -> None:
        self.op("embed", (out,), (int(self.spec.learned_positions is not None),), (self.spec.embedding_scale,))
        if self.spec.embedding_norm:
            self.norm(out, out, "embedding_norm")

    def normed(self, source: str, name: str) -> str:
        self.norm(source, "normed", name)
        return "normed"

    def norm(self, source: str, out: str, name: str, offset: int = 0, width: int | None = None) -> None:
        weight, bias = self.norm_vectors(name)
        operands = (self.buffer(source), offset, self.buffer(out), offset, width or self.widths[source])
        self.op("norm", (), (*operands, weight, bias, NORMS[self.spec.norm]), (self.spec.norm_eps,))

    def linear(self, source: str, out: str, *parts: str) -> None:
        self.linears.append(parts)
        self.op("linear", (), (self.buffer(source), len(self.linears) - 1, self.buffer(out)))

    def gather(self, *names: str) -> None:
        """Take the rows that are asked for; from here on the names mean those."""
        sources = [self.buffer(name) for name in names]
        self.gathered = True
        for name, source in zip(names, sources, strict=True):
            self.op("gather", (), (source, self.buffer(name), self.widths[name]))

    def op(
        self, name: str, buffers: Sequence[str], operands: Sequence[int] = (), numbers: Sequence[float] = ()
    ) -> None:
        self.ops.append(Op(name, (*map(self.buffer, buffers), *operands), tuple(numbers)))

    # ---- What they refer to

    def buffer(self, name: str) -> int:
        return self.buffers.setdefault((name, self.gathered), len(self.buffers))

    def norm_vectors(self, name: str) -> tuple[int, int]:
        """Weight and bias of a norm."""
        bias = self.vector(f"{name}.bias") if self.spec.norm == "layer" else NONE
        return self.vector(f"{name}.weight"), bias

    def vector(self, name: str) -> int:
        return self.vectors.setdefault(name, len(self.vectors))

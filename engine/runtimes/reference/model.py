"""The forward pass of a `ModelSpec`, in plain numpy float32: the definition that every other runtime is tested against.

The bytes of a row never depend on what else is in the batch: matrix products run on tiles of a fixed number of rows
(`linear`), attention on one query at a time over its own context, everything else on each row by itself. Keys and
values are read back from the pages also where this step wrote them, so it does not matter in which step that was.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from engine.models.spec import ModelSpec
from engine.runtimes.reference.attention import attend
from engine.runtimes.reference.functions import ACTIVATIONS, layer_norm, rms_norm, rotate, rotation, softcap
from engine.runtimes.reference.kv import KVCache
from engine.runtimes.reference.linear import TILE, linear

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}

Rotation = tuple[np.ndarray, np.ndarray]  # cosines and sines


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of one request, the first at position `start`; `blocks` is the request's block table."""

    start: int
    tokens: Sequence[int]
    blocks: np.ndarray
    bidirectional: bool = False

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


class Model:
    """The weights of a model and what they compute."""

    def __init__(self, spec: ModelSpec, parameters: Mapping[str, np.ndarray], dtype: str = "float32") -> None:
        """Weights are rounded to `dtype` (a key of DTYPES) and then held, and computed with, in float32."""
        self.spec = spec
        self.weights = {name: _prepare(value, dtype) for name, value in parameters.items()}
        if spec.norm_unit_offset:
            for name in self.weights:
                if name.endswith("norm.weight"):
                    self.weights[name] = self.weights[name] + 1

    @property
    def num_parameters(self) -> int:
        return sum(weight.size for weight in self.weights.values())

    @property
    def nbytes(self) -> int:
        return sum(weight.nbytes for weight in self.weights.values())

    @np.errstate(all="ignore")  # what is not finite is found in the logits
    def forward(self, spans: Sequence[Span], cache: KVCache) -> np.ndarray:
        """Compute the spans, write their keys and values, and return the last hidden states `[T, hidden_size]`."""
        spec = self.spec
        tokens = np.concatenate([span.tokens for span in spans])
        positions = np.concatenate([np.arange(span.start, span.end) for span in spans])
        x = self.weights["embed.weight"][tokens] * spec.embedding_scale
        if spec.learned_positions is not None:
            x = x + self.weights["positions.weight"][positions + spec.position_offset]
        if spec.token_types is not None:
            x = x + self.weights["token_types.weight"][0]
        if spec.embedding_norm:
            x = self._norm(x, "embedding_norm")
        rotations = [rotation(rope, positions) for rope in spec.ropes]
        for i in range(spec.num_layers):
            x = self._layer(i, x, spans, rotations, cache)
        return self._norm(x, "final_norm") if spec.causal else x

    def logits(self, hidden: np.ndarray) -> Iterator[np.ndarray]:
        """The logits `[vocab_size]` of each row of `hidden`, made a tile at a time because vocabularies are large."""
        for first in range(0, len(hidden), TILE):
            yield from self._head(hidden[first : first + TILE])

    @np.errstate(all="ignore")
    def _head(self, hidden: np.ndarray) -> np.ndarray:
        spec = self.spec
        logits = linear(hidden, self.weights["embed.weight" if spec.tied else "head.weight"]) * spec.logits_scale
        return logits if spec.logits_softcap is None else softcap(logits, spec.logits_softcap)

    def _layer(
        self, i: int, x: np.ndarray, spans: Sequence[Span], rotations: Sequence[Rotation], cache: KVCache
    ) -> np.ndarray:
        spec, name = self.spec, f"layers.{i}."
        attended = self._attention(
            i, self._norm(x, name + "input_norm") if spec.pre_norm else x, spans, rotations, cache
        )
        if spec.post_norm:
            attended = self._norm(attended, name + "post_attention_norm")
        after = x + attended * spec.residual_scale
        if spec.residual_norm:
            after = self._norm(after, name + "post_attention_norm")
        read = x if spec.parallel_residual else after
        expanded = self._mlp(i, self._norm(read, name + "pre_mlp_norm") if spec.pre_norm else read)
        if spec.post_norm:
            expanded = self._norm(expanded, name + "post_mlp_norm")
        after = after + expanded * spec.residual_scale
        return self._norm(after, name + "post_mlp_norm") if spec.residual_norm else after

    def _attention(
        self, i: int, x: np.ndarray, spans: Sequence[Span], rotations: Sequence[Rotation], cache: KVCache
    ) -> np.ndarray:
        spec, layer, name = self.spec, self.spec.layers[i], f"layers.{i}."
        queries = self._project(x, name + "q", spec.num_heads)
        keys = self._project(x, name + "k", spec.num_kv_heads)
        values = self._linear(x, name + "v").reshape(keys.shape)
        if layer.rope is not None:
            interleaved = spec.ropes[layer.rope].interleaved
            queries = rotate(queries, *rotations[layer.rope], interleaved)
            keys = rotate(keys, *rotations[layer.rope], interleaved)
        queries = queries * spec.attention_scale

        rows = _rows(spans)
        pages = spec.kv_layer(i)
        for span, own in zip(spans, rows, strict=True):
            cache.write(pages, span.start, span.blocks, keys[own], values[own])
        mixed = np.empty_like(queries)
        for span, own in zip(spans, rows, strict=True):
            first = 0 if layer.window is None else max(0, span.start + 1 - layer.window)
            context = cache.read(pages, first, span.end, span.blocks)
            mixed[own] = attend(
                queries[own],
                *context,
                window=layer.window,
                cap=spec.attention_softcap,
                bidirectional=span.bidirectional,
            )
        return self._linear(mixed.reshape(len(x), -1), name + "o")

    def _project(self, x: np.ndarray, name: str, heads: int) -> np.ndarray:
        """Queries or keys `[T, heads, head_dim]`, normalised where the spec says so."""
        projected = self._linear(x, name)
        if self.spec.qk_norm == "full":
            projected = self._norm(projected, name + "_norm")
        projected = projected.reshape(len(x), heads, self.spec.head_dim)
        return self._norm(projected, name + "_norm") if self.spec.qk_norm == "head" else projected

    def _mlp(self, i: int, x: np.ndarray) -> np.ndarray:
        name, activation = f"layers.{i}.", ACTIVATIONS[self.spec.activation]
        up = self._linear(x, name + "up")
        inner = activation(self._linear(x, name + "gate")) * up if self.spec.gated else activation(up)
        return self._linear(inner, name + "down")

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        norm = rms_norm if self.spec.norm == "rms" else layer_norm
        return norm(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"), self.spec.norm_eps)


def _rows(spans: Sequence[Span]) -> list[slice]:
    """Where in the batch each span lies."""
    rows, begin = [], 0
    for span in spans:
        rows.append(slice(begin, begin + len(span.tokens)))
        begin += len(span.tokens)
    return rows


def _prepare(weight: np.ndarray, dtype: str) -> np.ndarray:
    """Round to `dtype`, then widen to float32; a contiguous float32 weight stays a view of its file."""
    if dtype != "float32":
        weight = weight.astype(DTYPES[dtype])
    return np.require(weight, np.float32, ["C_CONTIGUOUS", "ALIGNED"])

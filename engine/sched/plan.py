"""What crosses the line between scheduler and worker: a frozen plan out, a result back.

The plan is also the trace format: everything a worker does follows from the plans it was given.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.types import SamplingParams, TokenScore


@dataclass(frozen=True, slots=True)
class Enter:
    """A request takes a slot: all the tokens it has so far, of which the first `prompt_len` are its prompt."""

    request_id: int
    slot: int
    tokens: tuple[int, ...]
    prompt_len: int
    params: SamplingParams


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of one request's tokens to compute in this step, at positions `start, start + 1, ...`.

    `tokens` are known tokens followed by `num_draft` guesses. `blocks` is the request's whole block
    table: position p lives in block `blocks[p // block_size]` at offset `p % block_size`. With `sample`
    the chunk reaches the last known token, so a next token is drawn after it (and after each accepted
    draft). With `prompt_logprobs` every row that precedes a prompt token scores that token.

    With `embed` the chunk is a whole text, computed for the vector that is pooled from its hidden states.
    `bidirectional`: every token of the chunk sees every other, not only those before it.
    """

    request_id: int
    slot: int
    start: int
    tokens: tuple[int, ...]
    num_draft: int
    blocks: tuple[int, ...]
    sample: bool
    prompt_logprobs: bool = False
    embed: bool = False
    bidirectional: bool = False


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step. `leave` names slots whose requests are gone; it is applied before `enter`.

    After a failed step the next `leave` names its slots again, empty ones too: leaving twice must do no harm.
    """

    step: int
    chunks: tuple[Chunk, ...]
    enter: tuple[Enter, ...] = ()
    leave: tuple[int, ...] = ()

    @property
    def num_tokens(self) -> int:
        return sum(len(chunk.tokens) for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class ChunkOutput:
    """What a worker made of one chunk.

    `tokens`: the accepted drafts and one more, empty where the chunk does not sample. `logprobs` and
    `top` match `tokens` or are empty. `prompt_logprobs[i]` scores the prompt token at position
    `chunk.start + 1 + i`. `draft` is a guess at what follows `tokens`. `error` ends this request only.
    """

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    top: tuple[tuple[TokenScore, ...], ...] = ()
    prompt_logprobs: tuple[float, ...] = ()
    prompt_top: tuple[tuple[TokenScore, ...], ...] = ()
    draft: tuple[int, ...] = ()
    embedding: bytes = b""  # float32, little endian; only of a chunk to embed
    error: str | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """The outputs of one step, by request id: one for every chunk of the plan."""

    step: int
    outputs: Mapping[int, ChunkOutput] = field(default_factory=dict)

"""The nouns every part of the engine shares: what is asked for, and what comes back.

All of them are msgspec structs, because they cross the boundary between the HTTP process and the
engine process. Nothing here knows about text: a request is token ids, and so is an answer.
"""

from enum import StrEnum
from typing import Literal

import msgspec

Pooling = Literal["mean", "cls", "max", "last"]  # the hidden states' mean or maximum, or the first or last token's


class FinishReason(StrEnum):
    """Why a generation ended; the first three values are what TGI puts on the wire."""

    LENGTH = "length"
    EOS = "eos_token"
    STOP = "stop_sequence"
    CANCELLED = "cancelled"
    ERROR = "error"


class Grammar(msgspec.Struct, frozen=True):
    """What an answer must match, in one of the forms of `engine.text.grammar`."""

    kind: Literal["json", "regex", "lark"]
    text: str  # a JSON schema, a regular expression, or a grammar in llguidance's Lark


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How the next token of one request is chosen.

    `temperature == 0` is greedy: the penalties and the logit bias still apply, the filters and the
    noise do not. The order of the steps is fixed, see `engine/sample`.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0  # 0 = off; ties of the k-th score are kept
    top_p: float = 1.0  # 1 = off
    typical_p: float = 1.0  # 1 = off
    min_p: float = 0.0  # 0 = off
    repetition_penalty: float = 1.0  # over prompt and output; 1 = off
    frequency_penalty: float = 0.0  # times the count in the output; 0 = off
    relative_frequency: bool = False  # TGI's count instead: in prompt and output, divided by their length
    presence_penalty: float = 0.0  # once for each token present in the output; 0 = off
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, added to its logit)
    seed: int | None = None  # 64 bits; None = drawn at admission, so workers always see a number
    grammar: Grammar | None = None  # only tokens that can still lead to a match are drawn
    ignore_eos: bool = False  # the model's end tokens neither stop nor count as special; not with a grammar
    stop_token_ids: tuple[int, ...] = ()  # end the text as an end token does, also with ignore_eos
    logprobs: bool = False
    raw_logprobs: bool = False  # of the model's own distribution (OpenAI), not after the warpers (TGI)
    top_n_tokens: int = 0
    prompt_logprobs: bool = False  # always of the model's own distribution


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt to be continued."""

    prompt: tuple[int, ...]
    params: SamplingParams
    priority: int = 0  # lower runs first
    tenant: int = 0  # whom the fairness policy counts this request for
    salt: bytes = b""  # requests with different salts never share cached blocks


class EmbedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One text to be turned into a vector. It is computed whole, in one step; nothing of it is kept."""

    prompt: tuple[int, ...]  # with the tokenizer's special tokens
    priority: int = 0  # lower runs first
    tenant: int = 0  # whom the fairness policy counts this request for


class TokenScore(msgspec.Struct, frozen=True, array_like=True):
    """A token id and its log probability; minus infinity where it cannot be chosen."""

    id: int
    logprob: float


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds a request has spent in the engine."""

    queue: float  # from arrival to its first step
    prefill: float  # from its first step to its first token
    decode: float  # from its first token to its last
    cached_tokens: int = 0  # prompt tokens found in the prefix cache at first admission


class TokenEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What one step added to one request. The last event of a request has `finish_reason` set.

    `logprobs` and `top` are either empty or as long as `tokens`. `prompt_logprobs` holds one score
    for each prompt token but the first; it comes once, with the first new token. `prompt_top` is the
    same for the `top_n_tokens` alternatives at each of those positions.
    """

    request_id: int
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    top: tuple[tuple[TokenScore, ...], ...] = ()
    prompt_logprobs: tuple[float, ...] = ()
    prompt_top: tuple[tuple[TokenScore, ...], ...] = ()
    drafted: int = 0  # draft tokens verified in this step
    accepted: int = 0  # how many of them the model agreed with
    finish_reason: FinishReason | None = None
    error: str | None = None  # set with FinishReason.ERROR
    seed: int | None = None  # what the request was sampled with; set on the last event
    timings: Timings | None = None  # set on the event with the first token and on the last


class Embedding(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to an EmbedRequest. `engine.embedding` brings the vector to length 1 or to fewer numbers."""

    request_id: int
    vector: bytes = b""  # [EngineInfo.embedding_size] float32, little endian: pooled, nothing else
    error: str | None = None  # set where there is no vector
    timings: Timings


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a loaded engine can do; sent once, when it is ready."""

    architecture: str
    runtime: str
    dtype: str
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    max_total_tokens: int  # of one request: prompt and answer
    block_size: int
    num_blocks: int  # usable ones, without the reserved block 0
    max_batch_size: int
    max_batch_prefill_tokens: int
    num_parameters: int
    weight_bytes: int
    kv_bytes: int
    pid: int = 0
    weight_format: str = ""  # of linear layers; empty = the dtype
    is_encoder: bool = False  # it embeds, and cannot generate
    embedding_size: int = 0  # numbers of a vector
    pooling: Pooling = "last"  # what a vector is made of
    normalizes: bool = False  # the model's own configuration asks for vectors of length 1
    max_embed_tokens: int = 0  # of one text, special tokens included
    embed_truncation: int = 0  # what a text is cut to by one who asks for that: the length the model was made for


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters (since start) and gauges of an engine, for metrics and health."""

    running: int = 0
    waiting: int = 0
    blocks_used: int = 0
    blocks_total: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    step_seconds: float = 0.0  # of the last step
    step_size: int = 0  # requests the last step computed
    step_prefill: bool = False  # whether it computed prompt tokens
    step_failed: bool = False
    batch_max_tokens: int = 0  # tokens the running requests may grow to

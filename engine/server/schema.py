"""What requests and responses look like on the wire.

In requests null means absent, unknown fields are ignored and ranges are checked later (`limits.py`), where
the messages are TGI's. In responses a field that is `UNSET` does not appear at all; a number that is not
finite is written as null.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from engine.types import Timings

UInt32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Stop = str | list[str] | None

# ---------------------------------------------------------------------------------------------------
# TGI's own routes: requests


class GenerateParameters(Struct, frozen=True, kw_only=True):
    """TGI's parameters, and after `adapter_id` those that only the OpenAI routes of TGI know, or none."""

    best_of: UInt32 | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: Int32 | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool | None = None
    max_new_tokens: UInt32 | None = None
    return_full_text: bool | None = None
    stop: Stop = None
    truncate: UInt32 | None = None
    watermark: bool | None = None
    details: bool | None = None
    decoder_input_details: bool | None = None
    seed: int | None = None
    top_n_tokens: UInt32 | None = None
    grammar: dict[str, Any] | None = None
    adapter_id: str | None = None

    min_p: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    ignore_eos: bool | None = None
    timings: bool | None = None  # ours: the last event of a stream says how long the request waited and ran

    def __post_init__(self) -> None:
        check_seed(self.seed)


def check_seed(seed: int | None) -> None:
    """msgspec's bounds end at 63 bits; a seed has 64."""
    if seed is not None and not 0 <= seed < 2**64:
        raise ValueError(f"`seed` must be >= 0 and < 2^64. Given: {seed}")


class GenerateBody(Struct, frozen=True, kw_only=True):
    inputs: str
    parameters: GenerateParameters | None = None
    stream: bool | None = None  # read on `POST /` only


# ---------------------------------------------------------------------------------------------------
# TGI's own routes: responses


class PrefillToken(Struct, frozen=True):
    id: int
    text: str
    logprob: float | None


class Token(Struct, frozen=True):
    id: int
    text: str
    logprob: float | None
    special: bool


class BestOfSequence(Struct, frozen=True, kw_only=True):
    generated_text: str
    finish_reason: str
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[Token]
    top_tokens: list[list[Token]] | UnsetType = UNSET


class Details(Struct, frozen=True, kw_only=True):
    finish_reason: str
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[Token]
    best_of_sequences: list[BestOfSequence] | UnsetType = UNSET
    top_tokens: list[list[Token]] | UnsetType = UNSET


class GenerateResponse(Struct, frozen=True, kw_only=True):
    generated_text: str
    details: Details | UnsetType = UNSET


class StreamDetails(Struct, frozen=True, kw_only=True):
    finish_reason: str
    generated_tokens: int
    seed: int | None
    input_length: int
    timings: Timings | UnsetType = UNSET


class StreamResponse(Struct, frozen=True, kw_only=True):
    index: int
    token: Token
    top_tokens: list[Token] | UnsetType = UNSET
    generated_text: str | None = None
    details: StreamDetails | None = None


class Info(Struct, frozen=True, kw_only=True):
    """TGI's fields, then those its older releases had."""

    model_id: str
    model_sha: str | None
    model_pipeline_tag: str | None
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_input_tokens: int
    max_total_tokens: int
    validation_workers: int
    max_client_batch_size: int
    router: str
    version: str
    sha: str | None
    docker_label: str | None
    model_dtype: str
    model_device_type: str
    max_batch_total_tokens: int
    max_batch_size: int


# ---------------------------------------------------------------------------------------------------
# OpenAI routes: requests


class StreamOptions(Struct, frozen=True, kw_only=True):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None  # usage so far in every chunk, as vLLM offers it


class ContentPart(Struct, frozen=True, kw_only=True):
    type: str
    text: str | None = None


class Message(Struct, frozen=True, kw_only=True):
    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class OpenAIParameters(Struct, frozen=True, kw_only=True):
    """What chat and completions share; from `top_k` on, extensions that OpenAI lacks."""

    model: str | None = None
    max_tokens: UInt32 | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    stop: Stop = None
    seed: int | None = None
    n: UInt32 | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    top_k: Int32 | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    ignore_eos: bool | None = None
    timings: bool | None = None  # ours: the usage chunk of a stream says how long the request waited and ran

    def __post_init__(self) -> None:
        check_seed(self.seed)


class ChatBody(OpenAIParameters, frozen=True, kw_only=True):
    messages: list[Message]
    max_completion_tokens: UInt32 | None = None
    logprobs: bool | None = None
    top_logprobs: UInt32 | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    tool_prompt: str | None = None
    response_format: dict[str, Any] | None = None


class CompletionBody(OpenAIParameters, frozen=True, kw_only=True):
    prompt: str | list[str | TokenId | list[TokenId]]
    suffix: str | None = None
    echo: bool | None = None
    logprobs: UInt32 | None = None
    best_of: UInt32 | None = None


# ---------------------------------------------------------------------------------------------------
# OpenAI routes: responses


class Usage(Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TopLogprob(Struct, frozen=True, kw_only=True):
    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(Struct, frozen=True, kw_only=True):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct, frozen=True):
    content: list[ChatLogprob]


class ChatMessage(Struct, frozen=True, kw_only=True):
    role: str = "assistant"
    content: str


class ChatChoice(Struct, frozen=True, kw_only=True):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: str


class ChatCompletion(Struct, frozen=True, kw_only=True):
    object: Literal["chat.completion"] = "chat.completion"
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class ChatChunkChoice(Struct, frozen=True, kw_only=True):
    index: int
    delta: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class ChatChunk(Struct, frozen=True, kw_only=True):
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    timings: Timings | UnsetType = UNSET  # ours, in seconds, beside the usage of the whole stream


class CompletionLogprobs(Struct, frozen=True, kw_only=True):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Struct, frozen=True, kw_only=True):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None


class Completion(Struct, frozen=True, kw_only=True):
    """A whole completion, or with `choices` of one piece each a chunk of a stream."""

    object: Literal["text_completion"] = "text_completion"
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None
    timings: Timings | UnsetType = UNSET  # ours, in seconds, beside the usage of a whole stream


class Model(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str


class ModelList(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Model] = field(default_factory=list)


GENERATE_DECODER = msgspec.json.Decoder(GenerateBody)
CHAT_DECODER = msgspec.json.Decoder(ChatBody)
COMPLETION_DECODER = msgspec.json.Decoder(CompletionBody)

encode = msgspec.json.Encoder().encode

"""TGI's own routes."""

from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from engine.server.schema.common import Int32, Stop, UInt32, check_seed
from engine.types import Pooling, Timings


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


class GenerateBody(Struct, frozen=True, kw_only=True):
    inputs: str
    parameters: GenerateParameters | None = None
    stream: bool | None = None  # read on `POST /` only


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


class EmbeddingInfo(Struct, frozen=True, kw_only=True):
    """The model that answers requests for embeddings."""

    model_id: str
    is_encoder: bool  # rather than a model that generates
    pooling: Pooling
    size: int  # numbers of a vector
    max_input_tokens: int
    truncation: int  # tokens that `truncate` leaves: the length the model was made for
    max_batch_size: int  # texts of one request


class Info(Struct, frozen=True, kw_only=True):
    """TGI's fields, then those its older releases had, then ours."""

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
    embedding: EmbeddingInfo


GENERATE_DECODER = msgspec.json.Decoder(GenerateBody)

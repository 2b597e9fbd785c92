"""`POST /v1/completions`"""

from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from engine.server.schema.common import TokenId, UInt32
from engine.server.schema.openai import OpenAIParameters, Usage
from engine.types import Timings


class CompletionBody(OpenAIParameters, frozen=True, kw_only=True):
    prompt: str | list[str | TokenId | list[TokenId]]
    suffix: str | None = None
    echo: bool | None = None
    logprobs: UInt32 | None = None
    best_of: UInt32 | None = None


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


COMPLETION_DECODER = msgspec.json.Decoder(CompletionBody)

"""What a failure looks like in each family of routes; `engine/server/errors.py` writes them."""

from typing import Literal

from msgspec import Struct


class ErrorResponse(Struct, frozen=True):
    """A failure on TGI's routes. `error_type` tells the reasons apart."""

    error: str
    error_type: str


class OpenAIErrorDetail(Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str | None
    http_status_code: int


class OpenAIErrorResponse(Struct, frozen=True):
    """A failure on OpenAI's routes, with TGI's `error_type` beside their object."""

    error: OpenAIErrorDetail
    error_type: str


class AnthropicErrorDetail(Struct, frozen=True):
    type: str
    message: str


class AnthropicErrorResponse(Struct, frozen=True):
    """A failure on Anthropic's routes."""

    type: Literal["error"]
    error: AnthropicErrorDetail

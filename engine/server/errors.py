"""What a failure looks like on the wire: TGI's flat object on its own routes, OpenAI's nested one under `/v1/`.

Both carry `error_type`, so a client of either family can tell the reasons apart. The errors that only
HTTP knows are defined here; the others are `engine.errors`.
"""

from http import HTTPStatus
from typing import Literal

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from engine.errors import EngineDead, EngineError, GenerationFailed, InvalidRequest, Overloaded, TemplateError

RETRY_AFTER = {"retry-after": "1"}


class BadJSON(EngineError):
    status = HTTPStatus.BAD_REQUEST
    error_type = "bad_request"


class Unauthorized(EngineError):
    status = HTTPStatus.UNAUTHORIZED
    error_type = "unauthorized"


class PayloadTooLarge(EngineError):
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    error_type = "payload_too_large"


class UnsupportedMediaType(EngineError):
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    error_type = "unsupported_media_type"


class WrongShape(EngineError):
    """JSON that is not what the route takes: a missing field or a value of the wrong type."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    error_type = "validation"


class ModelUnknown(EngineError):
    status = HTTPStatus.NOT_FOUND
    error_type = "model_not_found"


class VertexFailed(EngineError):
    """What TGI answers on `/vertex` whatever went wrong."""

    error_type = "Incomplete generation"


class VertexEmpty(EngineError):
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    error_type = "Input validation error"


class ToolError(InvalidRequest):
    error_type = "tool_error"


class SuffixUnsupported(InvalidRequest):
    error_type = "suffix not supported"


class BatchTooLarge(InvalidRequest):
    error_type = "batch size exceeded"


class Internal(EngineError):
    """A defect of this server."""

    error_type = "internal"


class IncompleteGeneration(EngineError):
    """The engine ended the request without a last token."""

    error_type = "incomplete_generation"


class IncompleteStream(IncompleteGeneration):
    error_type = "incomplete_generation_stream"


_PREFIXES: dict[type[EngineError], str] = {
    InvalidRequest: "Input validation error: ",
    ToolError: "Tool error: ",
    GenerationFailed: "Request failed during generation: ",
}

ANTHROPIC_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    424: "api_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}

# OpenAI's codes for the errors it has one for.
_CODES = {"model_not_found": "model_not_found", "unauthorized": "invalid_api_key"}

# The reasons that `tgi_request_failure` tells apart.
_REASONS: tuple[tuple[type[EngineError], str], ...] = (
    (Overloaded, "overloaded"),
    (TemplateError, "template"),
    (InvalidRequest, "validation"),
    (IncompleteGeneration, "incomplete"),
)


def message(error: EngineError) -> str:
    """The text a client sees, as TGI words it; a TemplateError already is."""
    if isinstance(error, Overloaded):
        return "Model is overloaded"
    return _PREFIXES.get(type(error), "") + str(error)


def reason(error: EngineError) -> str:
    """The label `err` of `tgi_request_failure`."""
    return next((text for kind, text in _REASONS if isinstance(error, kind)), "generation")


def dialect(path: str) -> Literal["tgi", "openai", "anthropic"]:
    """Whose clients call a path, and so whose errors they understand."""
    if path.startswith("/v1/messages"):
        return "anthropic"
    return "openai" if path.startswith("/v1/") or path == "/embeddings" else "tgi"


def native_body(text: str, error_type: str) -> bytes:
    return msgspec.json.encode({"error": text, "error_type": error_type})


def openai_body(text: str, error_type: str, status: int) -> bytes:
    """OpenAI's error object, with TGI's `http_status_code` inside and `error_type` beside it."""
    error = {
        "message": text,
        "type": error_type,
        "param": None,
        "code": _CODES.get(error_type),
        "http_status_code": status,
    }
    return msgspec.json.encode({"error": error, "error_type": error_type})


def anthropic_body(text: str, status: int) -> bytes:
    """Anthropic's error object; its clients tell errors apart by `type`."""
    kind = ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": text}})


def error_body(path: str, error: EngineError) -> bytes:
    """The JSON of a failed request, in the shape of the route family that `path` belongs to."""
    return _body(path, message(error), error.error_type, error.status)


def _body(path: str, text: str, error_type: str, status: int) -> bytes:
    match dialect(path):
        case "openai":
            return openai_body(text, error_type, status)
        case "anthropic":
            return anthropic_body(text, status)
        case "tgi":
            return native_body(text, error_type)


async def engine_error_response(request: Request, error: Exception) -> Response:
    assert isinstance(error, EngineError)
    headers = RETRY_AFTER if isinstance(error, (Overloaded, EngineDead)) else None
    body = error_body(request.scope["path"], error)
    return Response(body, error.status, headers, media_type="application/json")


async def http_error_response(request: Request, error: Exception) -> Response:
    """Unknown paths and wrong methods."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    text = f"{status.phrase}: {request.method} {request.scope['path']}"
    body = _body(request.scope["path"], text, status.name.lower(), status)
    return Response(body, status, error.headers, media_type="application/json")


async def unexpected_error_response(request: Request, error: Exception) -> Response:
    """A defect of this server. Starlette raises it again after this answer, so that it is logged."""
    body = _body(request.scope["path"], "Internal server error", "internal", 500)
    # This answer is made outside of `RequestId`.
    headers = {"x-request-id": request.state.request_id} if hasattr(request.state, "request_id") else None
    return Response(body, 500, headers, media_type="application/json")

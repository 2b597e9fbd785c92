"""`--tgi-compat strict`: TGI's behaviour also where ours is better, for what was built on exactly that.

`DIFFERENCES` says what that is, and is the table of the documentation. The functions below restore TGI's side of
it; nothing here runs on a server that is not strict.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from engine.errors import EngineError, InvalidRequest
from engine.server.errors import (
    BadJSON,
    PayloadTooLarge,
    Unauthorized,
    UnsupportedMediaType,
    WrongShape,
    engine_error_response,
    http_error_response,
    message,
    native_body,
)
from engine.server.schema.chat import ChatBody
from engine.server.schema.common import encode
from engine.server.schema.completions import CompletionBody
from engine.server.schema.tgi import GenerateBody, GenerateParameters
from engine.types import FinishReason

SLICE = 1024  # tokens that TGI schedules at once, and the most it holds against the window
PLAIN = (BadJSON, PayloadTooLarge, UnsupportedMediaType, WrongShape)  # errors that TGI writes as plain text
ROUTES = ("/v1/chat/completions", "/v1/completions")  # those of TGI below /v1


@dataclass(frozen=True)
class Difference:
    """What this server does, what TGI does, and whether `--tgi-compat strict` brings TGI's way back."""

    where: str
    ours: str
    tgis: str
    restored: bool = True


DIFFERENCES = (
    Difference("null", "means absent for every optional field", "refused for some, such as `stop` and `details`"),
    Difference("`stop`", "a text or a list", "a list"),
    Difference("`top_p`, `typical_p`", "may be 1, which means off", "1 is refused"),
    Difference("`logit_bias`", "OpenAI's object, on every route", "the object is refused, a list ignored"),
    Difference("`response_format`", "OpenAI's shapes and TGI's", "only TGI's, with `value`"),
    Difference("schemas without `properties`", "taken", "refused"),
    Difference("`tools` with `response_format`", "a call, or a text of that format", "refused"),
    Difference("`top_logprobs` without `logprobs`", "422", "not shown"),
    Difference("`max_tokens` beside `max_completion_tokens`", "taken where they are equal", "refused"),
    Difference("`presence_penalty`", "OpenAI's", "in chat a repetition penalty of 2 more; ignored in completions"),
    Difference("`frequency_penalty`", "on `/v1` OpenAI's", "relative to the length everywhere"),
    Difference(
        "parameters TGI lacks, such as `n`, `min_p`, `ignore_eos`, `echo`",
        "do what they say",
        "ignored",
    ),
    Difference("token ids as `prompt`", "taken", "refused"),
    Difference("log probabilities", "the model's own (`--logprobs processed`: TGI's)", "after penalties and filters"),
    Difference(
        "`decoder_input_details`", "always with scores of the prompt", "scores only with `--enable-prefill-logprobs`"
    ),
    Difference("`adapter_id` that is not loaded", "422", "the base model answers"),
    Difference(
        "`max_new_tokens` over the window",
        "422 with the number the client sent",
        "counted as 1024 at most, and cut short",
    ),
    Difference("stop sequences on `/v1`", "cut off; finish reason `stop`", "stay; finish reason `stop_sequence`"),
    Difference(
        "streamed completions",
        "finish reason null, then OpenAI's; no text of the end token",
        '`""`, then TGI\'s own; with that text',
    ),
    Difference("choices of several prompts", "in the order of the prompts", "in the order they were finished"),
    Difference("`id` on `/v1`", "of its own for every answer", "empty"),
    Difference("`role` in a streamed chat", "in the first chunk", "in every chunk"),
    Difference(
        "tool calls in one answer", "as many as the model likes, each with an id of its own", "one, with id `0`"
    ),
    Difference("a tool call's finish reason", "`tool_calls`", "`stop`, in streams none"),
    Difference("thoughts of a model", "in `reasoning_content`", "in the text"),
    Difference("`bytes` of a log probability", "there", "not there"),
    Difference("errors on `/v1`", "OpenAI's object", "TGI's flat one"),
    Difference("error events on `/v1`", "the error's own status and type", "`http_status_code` 422, no type"),
    Difference("400, 413, 415 and 422 for a body", "JSON", "plain text"),
    Difference("401, 404, 405", "JSON", "no body"),
    Difference("`POST /` with texts to embed", "embedded, as `huggingface_hub` expects", "refused, or continued"),
    Difference("keys", "compared exactly", "compared without regard to case"),
    Difference(
        "`watermark`", "refused: answers are not watermarked", "a watermark in the choice of tokens", restored=False
    ),
    Difference("long answers", "end after `max_new_tokens`", "may go on to the next multiple of 1024", restored=False),
    Difference("`tgi_request_count`", "counts a request once", "chats twice, completions once more", restored=False),
    Difference(
        "routes without a key",
        "`/health`, `/ping`, `/metrics`; with `--public-info` those TGI leaves open",
        "also `/info`, `/v1/models`, `/chat_tokenize`, `/docs`",
        restored=False,
    ),
    Difference(
        "browsers of other origins",
        "where `--cors-allow-origin` names them",
        "all, but never with a key",
        restored=False,
    ),
    Difference(
        "additions: routes, headers, metrics, fields of `/info` and of answers", "there", "not there", restored=False
    ),
)


@dataclass(frozen=True)
class Fields:
    """The fields of a body that TGI reads; of those that `never_null` it takes no null."""

    known: frozenset[str]
    never_null: frozenset[str]


def _fields(known: str, never_null: str) -> Fields:
    return Fields(frozenset(known.split()), frozenset(never_null.split()))


PARAMETERS = _fields(
    "best_of temperature repetition_penalty frequency_penalty top_k top_p typical_p do_sample max_new_tokens "
    "return_full_text stop truncate watermark details decoder_input_details seed top_n_tokens grammar adapter_id",
    never_null="do_sample stop watermark details decoder_input_details",
)
BODIES: dict[Any, Fields] = {
    GenerateBody: _fields("inputs parameters stream", never_null="parameters stream"),
    ChatBody: _fields(
        "model messages max_tokens max_completion_tokens temperature top_p frequency_penalty presence_penalty stop "
        "seed stream stream_options logprobs top_logprobs tools tool_choice tool_prompt response_format",
        never_null="stream stream_options",
    ),
    CompletionBody: _fields(
        "model prompt max_tokens temperature top_p stream seed stop suffix repetition_penalty frequency_penalty",
        never_null="stream",
    ),
}
GRAMMARS = ("json", "json_object", "json_schema", "regex")


def as_tgi_reads(kind: Any, body: bytes) -> bytes:
    """The body with the fields that TGI reads. Raises WrongShape for what it does not take.

    Fields TGI does not know may hold anything, as there. Raises msgspec.DecodeError for what is not JSON.
    """
    given = msgspec.json.decode(body) if kind in BODIES else None
    if not isinstance(given, dict):
        return body
    kept = _keep(given, BODIES[kind], "")
    if isinstance(given.get("parameters"), dict) and kind is GenerateBody:
        kept["parameters"] = _keep(given["parameters"], PARAMETERS, "parameters.")
        _check_shapes(kept["parameters"], "parameters.")
    if kind is ChatBody and isinstance(given.get("logit_bias"), dict):
        raise _wrong("logit_bias", "invalid type: map, expected a sequence")
    if "max_tokens" in given and "max_completion_tokens" in given:
        raise _wrong("max_completion_tokens", "duplicate field `max_tokens`")
    _check_shapes(kept, "")
    return json.dumps(kept).encode()  # msgspec cannot write every number that it reads


def _keep(given: dict[str, Any], fields: Fields, path: str) -> dict[str, Any]:
    for name in fields.never_null:
        if name in given and given[name] is None:
            raise _wrong(path + name, "invalid type: null")
    return {name: value for name, value in given.items() if name in fields.known}


def _check_shapes(fields: dict[str, Any], path: str) -> None:
    if isinstance(fields.get("stop"), str):
        raise _wrong(f"{path}stop", "invalid type: string, expected a sequence")
    prompt = fields.get("prompt")
    if isinstance(prompt, list):
        if not prompt:
            raise _wrong("prompt", "Empty array detected. Do not use an empty array for the prompt.")
        if not all(isinstance(item, str) for item in prompt):
            raise _wrong("prompt", "invalid type: expected a string or an array of strings")
    wanted = fields.get("response_format")
    if isinstance(wanted, dict) and wanted.get("type") not in GRAMMARS:
        raise _wrong("response_format", f"unknown variant `{wanted.get('type')}`")
    if isinstance(wanted, dict) and "value" not in wanted:
        raise _wrong("response_format", "missing field `value`")


def _wrong(path: str, why: str) -> WrongShape:
    return WrongShape(f"Failed to deserialize the JSON body into the target type: {path}: {why}")


def as_tgi_means(parameters: GenerateParameters, *, openai: bool) -> GenerateParameters:
    """What TGI makes of the parameters."""
    if openai and parameters.presence_penalty is not None:
        parameters = replace(parameters, repetition_penalty=parameters.presence_penalty + 2.0, presence_penalty=None)
    return replace(parameters, adapter_id=None)


def check_lengths(inputs: int, max_new_tokens: int | None, max_input_tokens: int, max_total_tokens: int) -> int:
    """As `limits.check_lengths`, with no more than a slice held against the window."""
    first = SLICE if max_new_tokens is None else min(max_new_tokens, SLICE)
    if max_new_tokens is not None and inputs + first > max_total_tokens:
        raise InvalidRequest(
            f"`inputs` tokens + `max_new_tokens` must be <= {max_total_tokens}. "
            f"Given: {inputs} `inputs` tokens and {first} `max_new_tokens`"
        )
    if inputs > max_input_tokens:
        raise InvalidRequest(f"`inputs` must have less than {max_input_tokens} tokens. Given: {inputs}")
    fits = max_total_tokens - inputs
    return fits if max_new_tokens is None else min(max_new_tokens, fits)


def finish_reason(reason: FinishReason | None, *, streamed_completion: bool = False) -> str | None:
    """TGI's finish reason on its routes below /v1."""
    if streamed_completion:
        return "" if reason is None else str(reason)
    return "stop" if reason is FinishReason.EOS else None if reason is None else str(reason)


def as_finished(answers: Sequence[Any]) -> list[Any]:
    """Answers in the order of their ends."""
    return sorted(answers, key=lambda answer: answer.generation.ended)


def error_event(error: EngineError) -> bytes:
    """The error of a stream below /v1, whatever it was."""
    return encode({"error": {"message": message(error), "http_status_code": 422}})


async def error_response(request: Request, error: Exception) -> Response:
    assert isinstance(error, EngineError)
    if isinstance(error, PLAIN):
        return Response(str(error), error.status, media_type="text/plain")
    if isinstance(error, Unauthorized):
        return Response(status_code=error.status)
    response = await engine_error_response(request, error)
    if request.scope["path"] not in ROUTES:
        return response
    response.body = native_body(message(error), error.error_type)
    response.headers["content-length"] = str(len(response.body))
    return response


async def unknown_route_response(request: Request, error: Exception) -> Response:
    """TGI says nothing of unknown paths and wrong methods."""
    assert isinstance(error, HTTPException)
    if error.status_code not in (404, 405):
        return await http_error_response(request, error)
    return Response(status_code=error.status_code, headers=error.headers)

"""What the OpenAI routes share: their parameters as TGI's, their ids, their usage, and `/v1/models`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from msgspec import UNSET, UnsetType
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from engine.server import limits, strict
from engine.server.endpoint import Endpoint
from engine.server.errors import ModelUnknown
from engine.server.generation import Generation
from engine.server.schema.common import encode
from engine.server.schema.openai import Model, ModelList, OpenAIParameters, StreamOptions, Usage
from engine.server.schema.tgi import GenerateParameters
from engine.server.service import Service, service
from engine.server.sse import ErrorBody
from engine.types import FinishReason, Timings

FINISH_REASONS = {FinishReason.EOS: "stop", FinishReason.STOP: "stop", FinishReason.LENGTH: "length"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """What every chunk of one answer repeats. Any model name is accepted, and given back."""

    id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))


def new_id(prefix: str, here: Service | None = None) -> str:
    """An id of its own; TGI has none."""
    return "" if here is not None and here.strict else f"{prefix}-{uuid4().hex}"


def to_parameters(
    body: OpenAIParameters, *, max_new_tokens: int | None, top_n_tokens: int | None
) -> GenerateParameters:
    """OpenAI's parameters in TGI's terms: tokens are drawn unless the temperature is exactly 0.

    Raises InvalidRequest for a filter out of its range, where the temperature of 0 leaves it without effect.
    """
    asked = GenerateParameters(
        do_sample=True,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        typical_p=body.typical_p,
        repetition_penalty=body.repetition_penalty,
        frequency_penalty=body.frequency_penalty,
        presence_penalty=body.presence_penalty,
        logit_bias=body.logit_bias,
        ignore_eos=body.ignore_eos,
        stop=body.stop,
        seed=body.seed,
        max_new_tokens=max_new_tokens,
        top_n_tokens=top_n_tokens,
    )
    if body.temperature != 0:
        return asked
    limits.check_filters(asked)  # they must make sense also where they have no effect
    return replace(asked, do_sample=False, temperature=None, top_p=None, top_k=None, min_p=None, typical_p=None)


def finish_reason(reason: FinishReason | None, here: Service | None = None) -> str | None:
    """OpenAI's name for it, or on a strict server TGI's; None while the answer goes on."""
    if here is not None and here.strict:
        return strict.finish_reason(reason)
    return None if reason is None else FINISH_REASONS[reason]


def stream_error(here: Service) -> ErrorBody | None:
    """How the error events of a stream are written where not as its family's: TGI says less."""
    return strict.error_event if here.strict else None


def usage(prompt_tokens: int, generations: Sequence[Generation]) -> Usage:
    completion_tokens = sum(len(generation.pieces) for generation in generations)
    return Usage(prompt_tokens, completion_tokens, prompt_tokens + completion_tokens)


class RunningUsage:
    """What a stream says of its usage on the way (`continuous_usage_stats`) and at its end (`include_usage`)."""

    def __init__(self, options: StreamOptions | None, prompt_tokens: int) -> None:
        self.at_the_end = options is not None and bool(options.include_usage)
        self._on_the_way = options is not None and bool(options.continuous_usage_stats)
        self._prompt_tokens = prompt_tokens
        self._tokens = 0

    def count(self, tokens: int = 1) -> Usage | None:
        """The usage with so many more tokens; None unless every chunk is to carry it."""
        self._tokens += tokens
        if not self._on_the_way:
            return None
        return Usage(self._prompt_tokens, self._tokens, self._prompt_tokens + self._tokens)


def stream_timings(wanted: bool | None, generations: Sequence[Generation]) -> Timings | UnsetType:
    """The times of a stream that is one answer, if they were asked for; those of several would not add up."""
    if not wanted or len(generations) != 1:
        return UNSET
    return generations[0].timings or UNSET


def served_models(here: Service) -> list[Model]:
    """What this server answers with, as OpenAI lists models."""
    names = dict.fromkeys((here.options.model_id, here.embedder.model_id))
    return [Model(id=name, owned_by=name) for name in names]


async def models(request: Request) -> Response:
    """`GET /v1/models`"""
    return Response(encode(ModelList(data=served_models(service(request)))), media_type="application/json")


async def model(request: Request) -> Response:
    """`GET /v1/models/{id}`. Ids of the hub contain a slash, which clients send as it is or as %2F."""
    wanted = request.path_params["id"]
    for each in served_models(service(request)):
        if each.id == wanted:
            return Response(encode(each), media_type="application/json")
    raise ModelUnknown(f"The model `{wanted}` does not exist; GET /v1/models lists those that do")


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/models",
        handler=models,
        summary="The model, as OpenAI lists it",
        tag="OpenAI",
        access="info",
        answer=ModelList,
    ),
    Endpoint(
        method="GET",
        path="/v1/models/{id}",
        handler=model,
        summary="One model, as OpenAI describes it",
        tag="OpenAI",
        access="info",
        answer=Model,
        errors=(404,),
    ),
)

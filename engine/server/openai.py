"""What the OpenAI routes share: their parameters as TGI's, their ids, their usage, and `/v1/models`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from engine.errors import InvalidRequest
from engine.server import limits
from engine.server.endpoint import Endpoint
from engine.server.generation import Generation
from engine.server.schema.common import encode
from engine.server.schema.openai import Model, ModelList, OpenAIParameters, StreamOptions, Usage
from engine.server.schema.tgi import GenerateParameters
from engine.server.service import service
from engine.types import FinishReason, Timings

FINISH_REASONS = {FinishReason.EOS: "stop", FinishReason.STOP: "stop", FinishReason.LENGTH: "length"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """What every chunk of one answer repeats. Any model name is accepted, and given back."""

    id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))


def new_id(prefix: str) -> str:
    return f"{prefix}-{uuid4().hex}"


def to_parameters(
    body: OpenAIParameters, *, max_new_tokens: int | None, top_n_tokens: int | None
) -> GenerateParameters:
    """OpenAI's parameters in TGI's terms: tokens are drawn unless the temperature is exactly 0."""
    greedy = body.temperature == 0
    return GenerateParameters(
        do_sample=not greedy,
        temperature=None if greedy else body.temperature,
        top_p=None if greedy else body.top_p,
        top_k=None if greedy else body.top_k,
        min_p=None if greedy else body.min_p,
        typical_p=None if greedy else body.typical_p,
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


def check_choices(n: int | None) -> int:
    """How many answers each prompt gets."""
    choices = 1 if n is None else n
    if not 1 <= choices <= limits.MAX_CHOICES:
        raise InvalidRequest(f"`n` must be >= 1 and <= {limits.MAX_CHOICES}. Given: {choices}")
    return choices


def finish_reason(reason: FinishReason | None) -> str | None:
    """OpenAI's name for it; None while the answer goes on."""
    return None if reason is None else FINISH_REASONS[reason]


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


async def models(request: Request) -> Response:
    """`GET /v1/models`"""
    name = service(request).options.model_id
    return Response(encode(ModelList(data=[Model(id=name, owned_by=name)])), media_type="application/json")


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
)

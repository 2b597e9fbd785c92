"""The routes that SageMaker (`/invocations`) and Vertex AI (`/vertex`) call: the others, in one."""

import asyncio
import contextlib
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from engine.errors import EngineError
from engine.server import chat, completions, root
from engine.server.body import LARGE_BODY, decode, read_body, read_struct
from engine.server.endpoint import Endpoint, Handler
from engine.server.errors import VertexEmpty, VertexFailed, WrongShape
from engine.server.generation import Generation, Stopwatch, observed, prepare, run_all
from engine.server.schema.chat import CHAT_DECODER, ChatBody
from engine.server.schema.common import encode
from engine.server.schema.completions import COMPLETION_DECODER, CompletionBody
from engine.server.schema.embeddings import EMBED_DECODER, EmbedBody
from engine.server.schema.platforms import VERTEX_DECODER, VertexAnswer, VertexBody
from engine.server.schema.tgi import GENERATE_DECODER, GenerateBody, GenerateParameters
from engine.server.service import Service, service
from engine.server.sse import unless_disconnected

HANDLERS: dict[str, Handler] = {
    each.path: each.handler
    for each in (*root.ENDPOINTS, *chat.ENDPOINTS, *completions.ENDPOINTS)
    if each.method == "POST"
}
# In the order in which they are tried; the first whose type the body has is the one.
VARIANTS: tuple[tuple[str, msgspec.json.Decoder[Any]], ...] = (
    ("/", GENERATE_DECODER),
    ("/v1/chat/completions", CHAT_DECODER),
    ("/v1/completions", COMPLETION_DECODER),
)
TEXTS = ("/", EMBED_DECODER)  # which TGI does not have
UNMATCHED = "Failed to deserialize the JSON body into the target type: data did not match any variant of untagged enum"


async def invocations(request: Request) -> Response:
    """`POST /invocations`: what the body says it is. From here on the request is one for that route."""
    here = service(request)
    body = await read_body(request, here.options.payload_limit)
    if len(body) < LARGE_BODY:
        path = _route_of(body, here.strict)
    else:
        path = await here.in_executor(_route_of, body, here.strict)
    request.scope["path"] = path
    return await HANDLERS[path](request)


def _route_of(body: bytes, as_tgi: bool) -> str:
    reasons = []
    for path, decoder in VARIANTS if as_tgi else (*VARIANTS, TEXTS):
        try:
            decode(body, decoder, as_tgi)
            return path
        except WrongShape as error:
            reasons.append(f"as {path}: {str(error).rpartition('target type: ')[2]}")
    raise WrongShape(f"{UNMATCHED} SagemakerRequest" + ("" if as_tgi else f" ({'; '.join(reasons)})"))


async def vertex(request: Request) -> Response:
    """`POST /vertex`: the text of the answer to each instance.

    As in TGI tokens are drawn, of the parameters only `max_new_tokens` and `seed` count, and whatever goes wrong
    is the same error.
    """
    here = service(request)
    body = await read_struct(request, VERTEX_DECODER, here.options.payload_limit, here.executor)
    if not body.instances:
        here.metrics.request_count.inc()
        here.metrics.request_failure.inc(1, "validation")
        raise VertexEmpty("Input validation error")
    instances = [_instance(instance) for instance in body.instances]
    try:
        predictions = await unless_disconnected(request, _predict(here, instances))
    except EngineError:
        raise VertexFailed("Incomplete generation") from None
    return Response(encode(VertexAnswer(predictions)), media_type="application/json")


def _instance(given: dict[str, Any]) -> GenerateBody | ChatBody:
    with contextlib.suppress(msgspec.ValidationError):
        return msgspec.convert(given, GenerateBody)
    with contextlib.suppress(msgspec.ValidationError):
        return msgspec.convert(given, ChatBody)
    raise WrongShape(f"{UNMATCHED} VertexInstance")


async def _predict(here: Service, instances: list[GenerateBody | ChatBody]) -> list[str]:
    with observed(here.metrics) as watch, here.permits.hold(len(instances)):
        tasks = [asyncio.create_task(_text(here, instance, watch)) for instance in instances]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _text(here: Service, instance: GenerateBody | ChatBody, watch: Stopwatch) -> str:
    if isinstance(instance, ChatBody):
        return await chat.text_of(here, instance, watch)
    given = instance.parameters or GenerateParameters()
    parameters = GenerateParameters(do_sample=True, max_new_tokens=given.max_new_tokens, seed=given.seed)
    prepared = await prepare(here, parameters, instance.inputs)
    if not watch.validation:  # the first of the instances
        watch.validated(here.metrics)
    generation = Generation(here, prepared, watch)
    await run_all([generation])
    return generation.text


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/invocations",
        handler=invocations,
        summary="SageMaker's: a body of `POST /`, of chat or of completions, and that route's answer",
        tag="Platforms",
        body=GenerateBody | ChatBody | CompletionBody | EmbedBody,
        answer=Any,
        event=Any,
        errors=(424, 429, 500, 503),
    ),
    Endpoint(
        method="POST",
        path="/vertex",
        handler=vertex,
        summary="Vertex AI's: the text of the answer to each instance",
        tag="Platforms",
        body=VertexBody,
        answer=VertexAnswer,
        errors=(500,),
    ),
)

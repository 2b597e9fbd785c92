"""`POST /` and `POST /v1`: where huggingface_hub sends both what it wants continued and what it wants embedded.

Nothing but the body, and for one case the sender, tells the two apart.
"""

import msgspec
from msgspec import Raw, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from engine.server import embeddings, tgi
from engine.server.body import LARGE_BODY, read_body
from engine.server.endpoint import Endpoint
from engine.server.schema.embeddings import ROOT_DECODER, EmbedBody, RootBody
from engine.server.schema.tgi import GenerateBody, GenerateParameters, GenerateResponse, StreamResponse
from engine.server.service import Service, service

GENERATION = GenerateParameters.__struct_fields__
EMBEDDING = ("normalize", "prompt_name", "truncation_direction", "dimensions", "encoding_format")
NULL = b"null"


async def root(request: Request) -> Response:
    """`POST /` and `POST /v1`"""
    here = service(request)
    body = await read_body(request, here.options.payload_limit)
    user_agent = request.headers.get("user-agent", "")
    if len(body) < LARGE_BODY:
        wants_vectors = asks_for_vectors(here, body, user_agent)
    else:
        wants_vectors = await here.in_executor(asks_for_vectors, here, body, user_agent)
    if wants_vectors:
        return await embeddings.embed(request)
    return await tgi.compat_generate(request)


def asks_for_vectors(here: Service, body: bytes, user_agent: str) -> bool:
    """Whether a body wants embeddings rather than an answer; the first that applies:

    1. a list of inputs, an option that only embeddings have, or `truncate` as true or false: embeddings;
    2. `stream`, or a parameter of generation: an answer;
    3. the model is an encoder: embeddings;
    4. no `parameters` at all, from huggingface_hub, which sends them with every text to continue: embeddings;
    5. anything else: an answer.

    On a strict server, as in TGI, a model that generates does nothing else. What cannot be read wants an answer,
    and so is refused by that route.
    """
    if here.strict and not here.info.is_encoder:
        return False
    try:
        asked = ROOT_DECODER.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return here.info.is_encoder
    if _has_inputs_or_options(asked):
        return True
    parameters = asked.parameters or {}
    if _given(asked.stream) or any(_given(parameters[name]) for name in GENERATION if name in parameters):
        return False
    return here.info.is_encoder or (asked.parameters is None and "hf_hub/" in user_agent)


def _has_inputs_or_options(asked: RootBody) -> bool:
    """What only a request for embeddings has."""
    if isinstance(asked.inputs, Raw) and bytes(asked.inputs).startswith(b"["):
        return True
    parameters = asked.parameters or {}
    options = [value for name in EMBEDDING for value in (getattr(asked, name), parameters.get(name, Raw(NULL)))]
    truncates = (asked.truncate, parameters.get("truncate", Raw(NULL)))
    return any(map(_given, options)) or any(
        isinstance(value, Raw) and bytes(value) in (b"true", b"false") for value in truncates
    )


def _given(value: Raw | UnsetType) -> bool:
    """Whether a field is there; null means absent."""
    return isinstance(value, Raw) and bytes(value) != NULL


def _endpoint(path: str, summary: str) -> Endpoint:
    return Endpoint(
        method="POST",
        path=path,
        handler=root,
        summary=summary,
        tag="Text generation",
        body=GenerateBody | EmbedBody,
        answer=list[GenerateResponse] | list[list[float]],
        event=StreamResponse,
        errors=(424, 429, 500, 503),
    )


ENDPOINTS = (
    _endpoint("/", "Generate, as one answer or as events; or embed, as the body shows"),
    # Where huggingface_hub posts for a base_url that ends in /v1
    _endpoint("/v1", "The same as `POST /`"),
)

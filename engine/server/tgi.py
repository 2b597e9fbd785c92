"""TGI's own routes: generation in both forms, tokenization, and what a server says about itself."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from msgspec import UNSET, UnsetType
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from engine.metrics import CONTENT_TYPE
from engine.server import limits
from engine.server.body import read_struct
from engine.server.endpoint import Endpoint, Handler
from engine.server.errors import native_body
from engine.server.generation import Generation, observed, prepare, run_all
from engine.server.headers import compute_headers, stream_headers
from engine.server.schema.common import encode
from engine.server.schema.tgi import (
    GENERATE_DECODER,
    BestOfSequence,
    Details,
    EmbeddingInfo,
    GenerateBody,
    GenerateParameters,
    GenerateResponse,
    Info,
    PrefillToken,
    StreamDetails,
    StreamResponse,
    Token,
)
from engine.server.service import VERSION, Service, service
from engine.server.sse import event, event_stream, unless_disconnected
from engine.text.output import Piece
from engine.text.tokenizer import Tokenizer, TokenSpan

JSON = "application/json"


async def generate(request: Request) -> Response:
    """`POST /generate`"""
    body, parameters = await _read(request)
    answer, headers = await unless_disconnected(request, _generate(service(request), body.inputs, parameters))
    return Response(encode(answer), headers=headers, media_type=JSON)


async def generate_stream(request: Request) -> Response:
    """`POST /generate_stream`"""
    body, parameters = await _read(request)
    return _stream_response(request, body.inputs, parameters)


async def compat_generate(request: Request) -> Response:
    """`POST /` and `POST /v1` for generation: either form, chosen by `stream`. The answer is a list of one.

    The prompt is part of the text unless `return_full_text` is false, as TGI does for models whose task
    it does not know.
    """
    body, parameters = await _read(request)
    if parameters.return_full_text is None:
        parameters = replace(parameters, return_full_text=True)
    if body.stream:
        return _stream_response(request, body.inputs, parameters)
    answer, headers = await unless_disconnected(request, _generate(service(request), body.inputs, parameters))
    return Response(encode([answer]), headers=headers, media_type=JSON)


async def _read(request: Request) -> tuple[GenerateBody, GenerateParameters]:
    """The body. Without any `parameters` TGI samples; with an empty object it is greedy."""
    here = service(request)
    body = await read_struct(request, GENERATE_DECODER, here.options.payload_limit, here.executor)
    return body, GenerateParameters(do_sample=True) if body.parameters is None else body.parameters


async def _generate(
    here: Service, inputs: str, parameters: GenerateParameters
) -> tuple[GenerateResponse, Mapping[str, str]]:
    with_details = bool(parameters.details or parameters.decoder_input_details)
    with observed(here.metrics) as watch:
        count = limits.check_best_of(parameters.best_of, here.options)
        with here.permits.hold(count):
            prepared = await prepare(
                here,
                parameters,
                inputs,
                logprobs=with_details or count > 1,
                prompt_logprobs=bool(parameters.decoder_input_details),
            )
            watch.validated(here.metrics)
            generations = [Generation(here, candidate, watch) for candidate in prepared.candidates(count)]
            await run_all(generations)
    best, *others = sorted(generations, key=lambda generation: generation.mean_logprob, reverse=True)
    prefix = inputs if parameters.return_full_text else ""
    headers = compute_headers(here, watch, [best], characters=len(inputs), prompt_tokens=len(prepared.prompt))
    if not with_details:
        return GenerateResponse(generated_text=prefix + best.text), headers
    sequences = [
        BestOfSequence(generated_text=prefix + other.text, **_details(here.tokenizer, other)) for other in others
    ]
    details = Details(**_details(here.tokenizer, best), best_of_sequences=sequences or UNSET)
    return GenerateResponse(generated_text=prefix + best.text, details=details), headers


def _details(tokenizer: Tokenizer, generation: Generation) -> dict[str, Any]:
    """The fields that `Details` and `BestOfSequence` share."""
    wants_top = generation.prepared.params.top_n_tokens > 0
    return {
        "finish_reason": generation.finish_reason,
        "generated_tokens": len(generation.pieces),
        "seed": generation.prepared.seed,
        "prefill": _prefill(tokenizer, generation),
        "tokens": [_token(piece) for piece in generation.pieces],
        "top_tokens": [_top_tokens(tokenizer, piece) for piece in generation.pieces] if wants_top else UNSET,
    }


def _prefill(tokenizer: Tokenizer, generation: Generation) -> list[PrefillToken]:
    """The prompt's tokens with their scores; the first has none. Empty where they were not asked for."""
    if not generation.prepared.scores_prompt:
        return []
    scores = (None, *generation.prompt_logprobs)
    return [
        PrefillToken(token_id, tokenizer.token_text(token_id), score)
        for token_id, score in zip(generation.prepared.prompt, scores, strict=True)
    ]


def _token(piece: Piece) -> Token:
    return Token(piece.id, piece.text, piece.logprob, piece.special)


def _top_tokens(tokenizer: Tokenizer, piece: Piece) -> list[Token]:
    return [
        Token(score.id, tokenizer.token_text(score.id), score.logprob, score.id in tokenizer.special_ids)
        for score in piece.top
    ]


def _stream_response(request: Request, inputs: str, parameters: GenerateParameters) -> Response:
    here = service(request)
    events = _events(here, inputs, parameters)
    return event_stream(events, request.scope["path"], stream_headers(here, len(inputs)))


async def _events(here: Service, inputs: str, parameters: GenerateParameters) -> AsyncGenerator[bytes, None]:
    with observed(here.metrics) as watch:
        limits.check_stream(parameters)
        with here.permits.hold():
            prepared = await prepare(here, parameters, inputs, logprobs=True)
            watch.validated(here.metrics)
            generation = Generation(here, prepared, watch)
            index = 0
            async with aclosing(generation.stream()) as steps:
                async for pieces in steps:
                    chunk = b""
                    for i, piece in enumerate(pieces):
                        index += 1
                        last = generation.finish_reason is not None and i == len(pieces) - 1
                        ending = _ending(generation, inputs, parameters) if last else (None, None)
                        chunk += event(encode(_stream_item(here.tokenizer, generation, index, piece, *ending)))
                    yield chunk


def _stream_item(
    tokenizer: Tokenizer,
    generation: Generation,
    index: int,
    piece: Piece,
    generated_text: str | None,
    details: StreamDetails | None,
) -> StreamResponse:
    top: list[Token] | UnsetType = UNSET
    if generation.prepared.params.top_n_tokens > 0:
        top = _top_tokens(tokenizer, piece)
    return StreamResponse(
        index=index, token=_token(piece), top_tokens=top, generated_text=generated_text, details=details
    )


def _ending(generation: Generation, inputs: str, parameters: GenerateParameters) -> tuple[str, StreamDetails | None]:
    """What only the last event of a stream carries."""
    text = (inputs if parameters.return_full_text else "") + generation.text
    assert generation.finish_reason is not None
    details = StreamDetails(
        finish_reason=generation.finish_reason,
        generated_tokens=len(generation.pieces),
        seed=generation.prepared.seed,
        input_length=len(generation.prepared.prompt),
        timings=generation.timings if parameters.timings and generation.timings else UNSET,
    )
    return text, details if parameters.details else None


async def tokenize(request: Request) -> Response:
    """`POST /tokenize`: the tokens of `inputs`, with special tokens, and the bytes each covers."""
    here = service(request)
    body, _ = await _read(request)
    return Response(encode(await here.in_executor(here.tokenizer.encode_with_offsets, body.inputs)), media_type=JSON)


async def health(request: Request) -> Response:
    """`GET /health`, `/ping` and `/`: whether every engine is there and answering. Asks them nothing."""
    if service(request).healthy:
        return Response()
    return Response(native_body("unhealthy", "healthcheck"), 503, {"retry-after": "1"}, media_type=JSON)


async def info(request: Request) -> Response:
    """`GET /info`"""
    here = service(request)
    options, engine, encoder = here.options, here.info, here.embedder.info
    answer = Info(
        model_id=options.model_id,
        model_sha=options.revision,
        model_pipeline_tag="feature-extraction" if engine.is_encoder else None,
        max_concurrent_requests=options.max_concurrent_requests,
        max_best_of=options.max_best_of,
        max_stop_sequences=options.max_stop_sequences,
        max_input_tokens=here.max_input_tokens,
        max_total_tokens=engine.max_total_tokens,
        validation_workers=options.validation_workers,
        max_client_batch_size=options.max_client_batch_size,
        router="text-generation-router",
        version=VERSION,
        sha=None,
        docker_label=None,
        model_dtype=engine.dtype,
        model_device_type="cuda" if engine.runtime == "cuda" else "cpu",
        max_batch_total_tokens=engine.num_blocks * engine.block_size,
        max_batch_size=engine.max_batch_size,
        embedding=EmbeddingInfo(
            model_id=here.embedder.model_id,
            is_encoder=encoder.is_encoder,
            pooling=encoder.pooling,
            size=encoder.embedding_size,
            max_input_tokens=here.max_embed_tokens,
            truncation=min(encoder.embed_truncation, here.max_embed_tokens),
            max_batch_size=options.max_embedding_batch_size,
        ),
    )
    return Response(encode(answer), media_type=JSON)


async def metrics(request: Request) -> Response:
    """`GET /metrics`"""
    here = service(request)
    page = here.metrics.exposition(here.client.stats, here.embedder.client.stats)
    return Response(page, media_type=CONTENT_TYPE)


def _generation(path: str, handler: Handler, summary: str, answer: Any, event: Any) -> Endpoint:
    return Endpoint(
        method="POST",
        path=path,
        handler=handler,
        summary=summary,
        tag="Text generation",
        body=GenerateBody,
        answer=answer,
        event=event,
        errors=(424, 429, 500, 503),
    )


def _status(path: str, handler: Handler, summary: str, **others: Any) -> Endpoint:
    return Endpoint(method="GET", path=path, handler=handler, summary=summary, tag="Server", **others)


ENDPOINTS = (
    _generation("/generate", generate, "Generate one answer", GenerateResponse, None),
    _generation("/generate_stream", generate_stream, "Generate token by token", None, StreamResponse),
    Endpoint(
        method="POST",
        path="/tokenize",
        handler=tokenize,
        summary="The tokens of a text",
        tag="Text generation",
        body=GenerateBody,
        answer=list[TokenSpan],
    ),
    _status("/", health, "The same as `GET /health`", access="info", errors=(503,)),
    _status("/health", health, "Whether the engine answers", access="open", errors=(503,)),
    _status("/ping", health, "The same as `GET /health`", access="open", errors=(503,)),
    _status("/info", info, "The model and the limits of this server", access="info", answer=Info),
    _status("/metrics", metrics, "Metrics for Prometheus", access="open", media_type="text/plain"),
)

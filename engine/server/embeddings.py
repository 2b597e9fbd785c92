"""Texts to vectors: OpenAI's route, and that of text-embeddings-inference.

What answers is the `Embedder` of the `Service`: an encoder with an engine of its own, or the served model itself.
"""

import asyncio
import sys
from array import array
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

from starlette.requests import Request
from starlette.responses import Response

from engine.embedding import finished
from engine.errors import EngineError, InvalidRequest
from engine.metrics import Metrics
from engine.server import limits, tracing
from engine.server.body import read_struct
from engine.server.endpoint import Endpoint
from engine.server.errors import BatchTooLarge, reason
from engine.server.generation import Stopwatch
from engine.server.headers import embedding_headers
from engine.server.schema.common import encode
from engine.server.schema.embeddings import (
    EMBED_DECODER,
    EMBEDDING_DECODER,
    EmbedBody,
    EmbeddingBody,
    EmbeddingItem,
    EmbeddingList,
    EmbeddingUsage,
    Inputs,
)
from engine.server.service import Service, service
from engine.server.sse import unless_disconnected
from engine.types import Embedding, EmbedRequest

Text = str | list[int]
Vector: TypeAlias = "array[float]"
Write = Callable[[Sequence[Vector], int], bytes]  # the answer's body from its vectors and the tokens of their texts


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a body of either route comes down to."""

    inputs: Inputs
    normalize: bool = True  # as both do unless told otherwise
    truncate: bool = False
    keep: Literal["start", "end"] = "start"  # of a text that is truncated
    prompt_name: str | None = None
    dimensions: int | None = None


async def embed(request: Request) -> Response:
    """`POST /embed`, and `POST /` where the body asks for it: a list of vectors."""
    here = service(request)
    body = await read_struct(request, EMBED_DECODER, here.options.payload_limit, here.executor)
    direction = str(body.option("truncation_direction") or "right")
    asked = Asked(
        inputs=body.inputs,
        normalize=body.option("normalize") is not False,
        truncate=body.option("truncate") is True,
        keep="end" if direction.lower() == "left" else "start",
        prompt_name=body.option("prompt_name"),
        dimensions=body.option("dimensions"),
    )
    return await _respond(request, asked, lambda vectors, tokens: encode([vector.tolist() for vector in vectors]))


async def openai_embeddings(request: Request) -> Response:
    """`POST /v1/embeddings`, and `POST /embeddings` as text-embeddings-inference has it."""
    here = service(request)
    body = await read_struct(request, EMBEDDING_DECODER, here.options.payload_limit, here.executor)
    model = here.embedder.model_id if body.model in (None, "tgi") else body.model
    as_base64 = body.encoding_format == "base64"

    def write(vectors: Sequence[Vector], tokens: int) -> bytes:
        written = [_base64(vector) if as_base64 else vector.tolist() for vector in vectors]
        items = [EmbeddingItem(embedding=each, index=index) for index, each in enumerate(written)]
        return encode(EmbeddingList(data=items, model=model, usage=EmbeddingUsage(tokens, tokens)))

    asked = Asked(inputs=body.input, truncate=body.truncate is True, dimensions=body.dimensions)
    return await _respond(request, asked, write)


def _texts(inputs: Inputs) -> list[Text]:
    """A text, a list of them, a list of token ids, or a list of such lists. Raises InvalidRequest for a mixture."""
    if isinstance(inputs, str):
        return [inputs]
    ids = [item for item in inputs if isinstance(item, int)]
    others: list[Text] = [item for item in inputs if not isinstance(item, int)]
    if ids and others:
        raise InvalidRequest(
            "`inputs` must be a text, a list of texts and of lists of token ids, or a list of token ids"
        )
    return [ids] if ids else others


def _base64(vector: Vector) -> str:
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return b64encode(numbers.tobytes()).decode()


async def _respond(request: Request, asked: Asked, write: Write) -> Response:
    content, headers = await unless_disconnected(request, _embed(service(request), asked, write))
    return Response(content, headers=headers, media_type="application/json")


async def _embed(here: Service, asked: Asked, write: Write) -> tuple[bytes, dict[str, str]]:
    with _observed(here.metrics, "single" if isinstance(asked.inputs, str) else "batch") as watch:
        texts = _texts(asked.inputs)
        _check(here, asked, texts)
        with here.permits.hold():
            prompts = await here.in_executor(_tokenize, here, asked, texts)
            watch.validation = watch.total
            tracing.validated(watch.validation)
            answers = await _run_all(here, prompts)
        tokens = sum(map(len, prompts))
        content = await here.in_executor(_write, asked, answers, write, tokens)
        queue = max(answer.timings.queue for answer in answers)
        inference = max(0.0, watch.total - watch.validation - queue)
        here.metrics.observe_embedding(watch.validation, queue, inference, map(len, prompts))
        tracing.record(queue_time=queue, inference_time=inference)
    characters = sum(map(len, texts))
    return content, embedding_headers(here, watch, queue, inference, characters=characters, tokens=tokens)


def _check(here: Service, asked: Asked, texts: Sequence[Text]) -> None:
    """What needs no tokens to be refused."""
    if not texts or not all(texts):
        raise InvalidRequest("`inputs` cannot be empty")
    if len(texts) > (most := here.options.max_embedding_batch_size):
        raise BatchTooLarge(f"batch size {len(texts)} > maximum allowed batch size {most}")
    size = here.embedder.info.embedding_size
    if asked.dimensions is not None and not 0 < asked.dimensions <= size:
        raise InvalidRequest(f"`dimensions` must be > 0 and <= {size}. Given: {asked.dimensions}")
    if asked.prompt_name is None:
        return
    if asked.prompt_name not in (prompts := here.embedder.tokenizer.prompts):
        known = ", ".join(sorted(prompts)) or "none"
        raise InvalidRequest(
            f"`prompt_name` must be one of the model's prompts ({known}). Given: {asked.prompt_name[:64]}"
        )
    if not all(isinstance(text, str) for text in texts):
        raise InvalidRequest("`prompt_name` must not be set with token ids")


def _tokenize(here: Service, asked: Asked, texts: Sequence[Text]) -> list[tuple[int, ...]]:
    """The tokens of each text, with the tokenizer's special ones; token ids stay as they are."""
    prefix = here.embedder.tokenizer.prompts[asked.prompt_name] if asked.prompt_name is not None else ""
    return [_tokens(here, asked, prefix + text if isinstance(text, str) else text) for text in texts]


def _tokens(here: Service, asked: Asked, text: Text) -> tuple[int, ...]:
    tokenizer, info = here.embedder.tokenizer, here.embedder.info
    cut = min(info.embed_truncation, here.max_embed_tokens)
    if not isinstance(text, str):
        limits.check_prompt_ids(tuple(text), info.vocab_size)
        ids = text if not asked.truncate else text[:cut] if asked.keep == "start" else text[-cut:]
    elif asked.truncate:
        ids = tokenizer.encode_cut(text, cut, keep=asked.keep)
    else:
        ids = tokenizer.encode(text)
    if not ids:
        raise InvalidRequest("`inputs` cannot be empty")
    if len(ids) > here.max_embed_tokens:
        raise InvalidRequest(f"`inputs` must have less than {here.max_embed_tokens} tokens. Given: {len(ids)}")
    return tuple(ids)


async def _run_all(here: Service, prompts: Sequence[tuple[int, ...]]) -> list[Embedding]:
    """Embed every text. A long list does not fill the engine's queue; when one text fails, the others are cancelled."""
    client, seats = here.embedder.client, asyncio.Semaphore(here.embedder.info.max_batch_size)

    async def one(prompt: tuple[int, ...]) -> Embedding:
        async with seats:
            return await client.embed(EmbedRequest(prompt=prompt))

    tasks = [asyncio.create_task(one(prompt)) for prompt in prompts]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _write(asked: Asked, answers: Sequence[Embedding], write: Write, tokens: int) -> bytes:
    vectors = [finished(each.vector, normalize=asked.normalize, dimensions=asked.dimensions) for each in answers]
    return write(vectors, tokens)


@contextmanager
def _observed(metrics: Metrics, method: str) -> Iterator[Stopwatch]:
    """Count a request once, and how it ends: in success, in an error or with a client that left."""
    watch = Stopwatch()
    metrics.embed_count.inc(1, method)
    try:
        yield watch
    except EngineError as error:
        metrics.embed_failure.inc(1, "batch_size" if isinstance(error, BatchTooLarge) else reason(error))
        raise
    except asyncio.CancelledError:
        metrics.embed_failure.inc(1, "dropped")
        raise
    metrics.embed_success.inc(1, method)
    metrics.embed_duration.observe(watch.total)
    tracing.record(total_time=watch.total)


def _openai(path: str, summary: str) -> Endpoint:
    return Endpoint(
        method="POST",
        path=path,
        handler=openai_embeddings,
        summary=summary,
        tag="Embeddings",
        body=EmbeddingBody,
        answer=EmbeddingList,
        errors=(424, 429, 500, 503),
    )


ENDPOINTS = (
    _openai("/v1/embeddings", "Vectors for texts, as OpenAI gives them"),
    # text-embeddings-inference has both paths
    _openai("/embeddings", "The same as `POST /v1/embeddings`"),
    Endpoint(
        method="POST",
        path="/embed",
        handler=embed,
        summary="Vectors for texts, as text-embeddings-inference gives them",
        tag="Embeddings",
        body=EmbedBody,
        answer=list[list[float]],
        errors=(424, 429, 500, 503),
    ),
)

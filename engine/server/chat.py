"""`POST /v1/chat/completions`"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from engine.errors import InvalidRequest
from engine.server.body import read_struct
from engine.server.endpoint import Endpoint
from engine.server.errors import ToolError, reason
from engine.server.generation import Generation, Prepared, Step, Stopwatch, merge, observed, prepare, run_all
from engine.server.headers import compute_headers, stream_headers
from engine.server.openai import (
    Label,
    RunningUsage,
    check_choices,
    finish_reason,
    new_id,
    stream_timings,
    to_parameters,
    usage,
)
from engine.server.schema.chat import (
    CHAT_DECODER,
    ChatBody,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprob,
    ChatLogprobs,
    ChatMessage,
    Message,
    TopLogprob,
)
from engine.server.schema.common import encode
from engine.server.schema.openai import Usage
from engine.server.service import SYSTEM_FINGERPRINT, Service, service
from engine.server.sse import EventStream, event, unless_disconnected, with_errors
from engine.text.output import Piece
from engine.text.tokenizer import Tokenizer
from engine.types import Timings


async def chat_completions(request: Request) -> Response:
    """Answers as JSON, or with `stream` as events. A template that refuses is a plain 422 in both."""
    here = service(request)
    body = await read_struct(request, CHAT_DECODER, here.options.payload_limit, here.executor)
    label = Label(id=new_id("chatcmpl"), model=_model_name(here, body))
    if body.stream:
        prompt = await _render(here, body)
        events = with_errors(_events(here, body, prompt, label), request.scope["path"])
        return EventStream(events, stream_headers(here, len(prompt)))
    answer, headers = await unless_disconnected(request, _complete(here, body, label))
    return Response(encode(answer), headers=headers, media_type="application/json")


def _model_name(here: Service, body: ChatBody) -> str:
    return here.options.model_id if body.model in (None, "tgi") else str(body.model)


async def _render(here: Service, body: ChatBody) -> str:
    """The prompt. A final message of the assistant is continued rather than answered, as TGI does."""
    try:
        _check_unsupported(body)
        messages = [_template_message(message) for message in body.messages]
        continues = bool(messages) and messages[-1]["role"] == "assistant"
        return await here.in_executor(_render_chat, here.tokenizer, messages, continues)
    except InvalidRequest as error:
        here.metrics.request_count.inc()
        here.metrics.request_failure.inc(1, reason(error))
        raise


def _render_chat(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], continues: bool) -> str:
    return tokenizer.render_chat(messages, continue_final_message=continues)


def _check_unsupported(body: ChatBody) -> None:
    if body.tools and body.tool_choice != "none":
        raise ToolError('tools are not supported yet; leave `tools` out or set `tool_choice` to "none"')
    if body.response_format is not None and body.response_format.get("type") != "text":
        raise InvalidRequest("grammar is not supported")
    if body.logprobs is not True and body.top_logprobs:
        raise InvalidRequest("`top_logprobs` needs `logprobs`: true")
    both = body.max_tokens, body.max_completion_tokens
    if None not in both and both[0] != both[1]:
        raise InvalidRequest("`max_tokens` and `max_completion_tokens` mean the same; set one of them")


def _template_message(message: Message) -> dict[str, Any]:
    """A message as templates read it. Tool calls become their JSON text where there is no other content."""
    content: str | list[dict[str, Any]] | None = None
    if isinstance(message.content, list):
        for part in message.content:
            if part.type != "text" or part.text is None:
                raise InvalidRequest(f"{part.type} modality is not supported")
        content = [{"type": "text", "text": part.text} for part in message.content]
    elif message.content is not None:
        content = message.content
    elif message.tool_calls:
        content = msgspec.json.encode(message.tool_calls).decode()
    else:
        raise InvalidRequest("a message needs `content`, or `tool_calls`")
    return {"role": message.role, "content": content}


async def _prepare(here: Service, body: ChatBody, prompt: str, watch: Stopwatch) -> Prepared:
    max_new_tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    parameters = to_parameters(body, max_new_tokens=max_new_tokens, top_n_tokens=body.top_logprobs)
    prepared = await prepare(
        here, parameters, prompt, openai=True, logprobs=bool(body.logprobs), add_special_tokens=False
    )
    watch.validated(here.metrics)
    return prepared


async def _complete(here: Service, body: ChatBody, label: Label) -> tuple[ChatCompletion, Mapping[str, str]]:
    prompt = await _render(here, body)
    with observed(here.metrics) as watch:
        count = check_choices(body.n)
        with here.permits.hold(count):
            prepared = await _prepare(here, body, prompt, watch)
            generations = [Generation(here, candidate, watch) for candidate in prepared.candidates(count)]
            await run_all(generations)
    choices = [
        ChatChoice(
            index=index,
            message=ChatMessage(content=generation.text),
            logprobs=_logprobs(here.tokenizer, body, generation.pieces),
            finish_reason=finish_reason(generation.finish_reason) or "stop",
        )
        for index, generation in enumerate(generations)
    ]
    prompt_tokens = len(prepared.prompt)
    answer = ChatCompletion(
        id=label.id,
        created=label.created,
        model=label.model,
        system_fingerprint=SYSTEM_FINGERPRINT,
        choices=choices,
        usage=usage(prompt_tokens, generations),
    )
    headers = compute_headers(here, watch, generations, characters=len(prompt), prompt_tokens=prompt_tokens)
    return answer, headers


async def _events(here: Service, body: ChatBody, prompt: str, label: Label) -> AsyncGenerator[bytes, None]:
    """One chunk for each token, as TGI sends them, also where its text is still held back."""
    with observed(here.metrics) as watch:
        count = check_choices(body.n)
        with here.permits.hold(count):
            prepared = await _prepare(here, body, prompt, watch)
            generations = [Generation(here, candidate, watch) for candidate in prepared.candidates(count)]
            running = RunningUsage(body.stream_options, len(prepared.prompt))
            async with aclosing(merge(generations)) as steps:
                async for step in steps:
                    yield _step(here.tokenizer, body, label, step, running)
        if running.at_the_end:
            yield _chunk(label, [], usage(len(prepared.prompt), generations), stream_timings(body.timings, generations))


def _step(tokenizer: Tokenizer, body: ChatBody, label: Label, step: Step, running: RunningUsage) -> bytes:
    chunks = []
    for i, piece in enumerate(step.pieces):
        choice = ChatChunkChoice(
            index=step.index,
            delta=ChatMessage(content=piece.text),
            logprobs=_logprobs(tokenizer, body, [piece]),
            finish_reason=finish_reason(step.finish_reason) if i == len(step.pieces) - 1 else None,
        )
        chunks.append(_chunk(label, [choice], running.count()))
    return b"".join(chunks)


def _chunk(
    label: Label,
    choices: list[ChatChunkChoice],
    used: Usage | None = None,
    timings: Timings | UnsetType = UNSET,
) -> bytes:
    chunk = ChatChunk(
        id=label.id,
        created=label.created,
        model=label.model,
        system_fingerprint=SYSTEM_FINGERPRINT,
        choices=choices,
        usage=used,
        timings=timings,
    )
    return event(encode(chunk))


def _logprobs(tokenizer: Tokenizer, body: ChatBody, pieces: Sequence[Piece]) -> ChatLogprobs | None:
    """Scores by the model's own distribution; null unless asked for. The end token is among them."""
    if not body.logprobs:
        return None
    content = []
    for piece in pieces:
        text = tokenizer.token_text(piece.id)
        # Equal scores at the last place can bring more alternatives than were asked for.
        top = [
            TopLogprob(token=other, logprob=score.logprob, bytes=list(other.encode()))
            for score in piece.top[: body.top_logprobs or 0]
            for other in (tokenizer.token_text(score.id),)
        ]
        logprob = float("nan") if piece.logprob is None else piece.logprob
        content.append(ChatLogprob(token=text, logprob=logprob, bytes=list(text.encode()), top_logprobs=top))
    return ChatLogprobs(content)


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/chat/completions",
        handler=chat_completions,
        summary="Answer a conversation",
        tag="OpenAI",
        body=ChatBody,
        answer=ChatCompletion,
        event=ChatChunk,
        errors=(424, 429, 500, 503),
    ),
)

"""`POST /v1/chat/completions` and `POST /chat_tokenize`"""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Literal

from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from engine.errors import InvalidRequest
from engine.server.body import read_struct
from engine.server.chat_input import to_conversation
from engine.server.conversation import Choice, Conversation, Reply, Step, render
from engine.server.endpoint import Endpoint
from engine.server.errors import reason
from engine.server.generation import Stopwatch, observed
from engine.server.headers import compute_headers, stream_headers
from engine.server.openai import Label, RunningUsage, new_id, stream_error, stream_timings, usage
from engine.server.schema.chat import (
    CHAT_DECODER,
    CalledFunction,
    ChatBody,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprob,
    ChatLogprobs,
    ChatMessage,
    ChatTokens,
    DeltaCall,
    DeltaFunction,
    ToolCall,
    TopLogprob,
)
from engine.server.schema.common import encode
from engine.server.schema.openai import Usage
from engine.server.service import SYSTEM_FINGERPRINT, Service, service
from engine.server.sse import event, event_stream, unless_disconnected
from engine.text.output import Piece
from engine.text.reasoning import Reasoning
from engine.text.tools import CallArguments, CallStarted, Text
from engine.types import Timings

JSON = "application/json"


async def chat_completions(request: Request) -> Response:
    """Answers as JSON, or with `stream` as events. A prompt that cannot be made is a plain 422 in both."""
    here = service(request)
    body = await read_struct(request, CHAT_DECODER, here.options.payload_limit, here.executor)
    label = Label(id=new_id("chatcmpl", here), model=_model_name(here, body))
    if body.stream:
        conversation, prompt = await _render(here, body)
        events = _Stream(here, body, label).events(conversation, prompt)
        path = request.scope["path"]
        return event_stream(events, path, stream_headers(here, len(prompt)), stream_error(here))
    answer, headers = await unless_disconnected(request, _complete(here, body, label))
    return Response(encode(answer), headers=headers, media_type=JSON)


async def chat_tokenize(request: Request) -> Response:
    """The prompt that a chat would have, and its tokens."""
    here = service(request)
    body = await read_struct(request, CHAT_DECODER, here.options.payload_limit, here.executor)
    prompt = await render(here, to_conversation(here, body))
    spans = await here.in_executor(lambda: here.tokenizer.encode_with_offsets(prompt, add_special_tokens=False))
    return Response(encode(ChatTokens(tokenize_response=spans, templated_text=prompt)), media_type=JSON)


async def text_of(here: Service, body: ChatBody, watch: Stopwatch) -> str:
    """The text of one answer. The caller holds its permit and counts it."""
    conversation = to_conversation(here, body)
    [choice] = await Reply(here, conversation, await render(here, conversation), watch).whole()
    return choice.text or ""


def _model_name(here: Service, body: ChatBody) -> str:
    return here.options.model_id if body.model in (None, "tgi") else str(body.model)


async def _render(here: Service, body: ChatBody) -> tuple[Conversation, str]:
    with _refusals(here):
        conversation = to_conversation(here, body)
        return conversation, await render(here, conversation)


@contextmanager
def _refusals(here: Service) -> Iterator[None]:
    """Count a request that is refused before `observed` counts it."""
    try:
        yield
    except InvalidRequest as error:
        here.metrics.request_count.inc()
        here.metrics.request_failure.inc(1, reason(error))
        raise


async def _complete(here: Service, body: ChatBody, label: Label) -> tuple[ChatCompletion, Mapping[str, str]]:
    conversation, prompt = await _render(here, body)
    with observed(here.metrics) as watch, here.permits.hold(conversation.n):
        reply = Reply(here, conversation, prompt, watch)
        choices = await reply.whole()
    answer = ChatCompletion(
        id=label.id,
        created=label.created,
        model=label.model,
        system_fingerprint=SYSTEM_FINGERPRINT,
        choices=[_choice(here, body, index, choice) for index, choice in enumerate(choices)],
        usage=usage(reply.prompt_tokens, reply.generations),
    )
    headers = compute_headers(here, watch, reply.generations, characters=len(prompt), prompt_tokens=reply.prompt_tokens)
    return answer, headers


def _choice(here: Service, body: ChatBody, index: int, choice: Choice) -> ChatChoice:
    description: UnsetType | None = None if here.strict else UNSET
    calls = [
        ToolCall(id=call.id, function=CalledFunction(description=description, name=call.name, arguments=call.arguments))
        for call in choice.calls
    ]
    message = ChatMessage(
        content=UNSET if here.strict and calls else choice.text,
        reasoning_content=UNSET if choice.reasoning is None else choice.reasoning,
        tool_calls=calls or UNSET,
    )
    return ChatChoice(
        index=index,
        message=message,
        logprobs=_logprobs(here, body, choice.pieces),
        finish_reason="stop" if here.strict and calls else choice.finish_reason,
    )


class _Stream:
    """One streamed answer: a chunk for each token, as TGI sends them, also where its text is still held back."""

    def __init__(self, here: Service, body: ChatBody, label: Label) -> None:
        self._here = here
        self._body = body
        self._label = label
        self._begun: set[int] = set()  # the choices whose role was told
        self._ids: dict[tuple[int, int], str] = {}  # of the calls, by choice and index
        self._plain = True

    async def events(self, conversation: Conversation, prompt: str) -> AsyncGenerator[bytes, None]:
        here, body = self._here, self._body
        with observed(here.metrics) as watch:
            with here.permits.hold(conversation.n):
                reply = Reply(here, conversation, prompt, watch)
                await reply.start()
                self._plain = reply.plain
                running = RunningUsage(body.stream_options, reply.prompt_tokens)
                async with aclosing(reply.steps()) as steps:
                    async for step in steps:
                        yield self._chunks(step, running)
            if running.at_the_end:
                used = usage(reply.prompt_tokens, reply.generations)
                yield self._chunk([], used, stream_timings(body.timings, reply.generations))

    def _chunks(self, step: Step, running: RunningUsage) -> bytes:
        """The first chunk of a token has its score, the last one of an answer why it ended."""
        deltas = self._deltas(step)
        used = running.count(len(step.pieces))
        chunks = []
        for i, delta in enumerate(deltas):
            choice = ChatChunkChoice(
                index=step.choice,
                delta=delta,
                logprobs=_logprobs(self._here, self._body, step.pieces) if i == 0 else None,
                finish_reason=self._finish_reason(step) if i == len(deltas) - 1 else None,
            )
            chunks.append(self._chunk([choice], used))
        return b"".join(chunks)

    def _finish_reason(self, step: Step) -> str | None:
        """TGI gives none to a stream of calls."""
        calls = self._here.strict and step.finish_reason == "tool_calls"
        return None if calls else step.finish_reason

    def _deltas(self, step: Step) -> list[ChatDelta]:
        """What a step adds to the message: texts, and parts of calls with the name in the first."""
        deltas: list[ChatDelta] = []
        started: CallStarted | None = None
        for found in step.events:
            match found:
                case Text(text):
                    deltas.append(ChatDelta(role=self._role(step.choice), content=text))
                case Reasoning(text):
                    deltas.append(ChatDelta(role=self._role(step.choice), reasoning_content=text))
                case CallStarted():
                    started = found  # its arguments follow
                case CallArguments(_, text):
                    deltas.append(self._call(step.choice, found, started))
                    started = None
        if not deltas:
            deltas.append(
                ChatDelta(role=self._role(step.choice), content="" if self._plain or self._here.strict else UNSET)
            )
        return deltas

    def _call(self, choice: int, part: CallArguments, started: CallStarted | None) -> ChatDelta:
        strict, role = self._here.strict, self._role(choice)
        if started is not None:
            self._ids[choice, part.index] = started.id
            function = DeltaFunction(name=started.name, arguments=part.text)
        else:
            function = DeltaFunction(name=None if strict else UNSET, arguments=part.text)
        tells = strict or started is not None
        call = DeltaCall(
            index=part.index,
            id=self._ids[choice, part.index] if tells else UNSET,
            type="function" if tells else UNSET,
            function=function,
        )
        return ChatDelta(role=role, tool_calls=[call])

    def _role(self, choice: int) -> Literal["assistant"] | UnsetType:
        """Told once: OpenAI's client joins whatever it is told. TGI tells it in every chunk."""
        if choice in self._begun and not self._here.strict:
            return UNSET
        self._begun.add(choice)
        return "assistant"

    def _chunk(self, choices: list[ChatChunkChoice], used: Usage | None, timings: Timings | UnsetType = UNSET) -> bytes:
        label = self._label
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


def _logprobs(here: Service, body: ChatBody, pieces: Sequence[Piece]) -> ChatLogprobs | None:
    """The scores of tokens, the end token among them; null unless asked for. TGI gives no bytes."""
    if not body.logprobs:
        return None

    def bytes_of(text: str) -> list[int] | UnsetType:
        return UNSET if here.strict else list(text.encode())

    content = []
    for piece in pieces:
        text = here.tokenizer.token_text(piece.id)
        # Equal scores at the last place can bring more alternatives than were asked for.
        top = [
            TopLogprob(token=other, logprob=score.logprob, bytes=bytes_of(other))
            for score in piece.top[: body.top_logprobs or 0]
            for other in (here.tokenizer.token_text(score.id),)
        ]
        logprob = float("nan") if piece.logprob is None else piece.logprob
        content.append(ChatLogprob(token=text, logprob=logprob, bytes=bytes_of(text), top_logprobs=top))
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
    Endpoint(
        method="POST",
        path="/chat_tokenize",
        handler=chat_tokenize,
        summary="The prompt that a conversation becomes, and its tokens",
        tag="Text generation",
        body=ChatBody,
        answer=ChatTokens,
    ),
)

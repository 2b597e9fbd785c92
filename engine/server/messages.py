"""`POST /v1/messages` and `POST /v1/messages/count_tokens`: Anthropic's Messages API."""

from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response

from engine.errors import EngineError
from engine.server.body import read_struct
from engine.server.conversation import Step, render
from engine.server.endpoint import Endpoint
from engine.server.errors import error_body
from engine.server.exchange import Events, Exchange
from engine.server.messages_input import to_conversation
from engine.server.messages_output import Content
from engine.server.schema.common import encode
from engine.server.schema.messages import (
    COUNT_DECODER,
    MESSAGES_DECODER,
    AnthropicMessage,
    CountTokensBody,
    MessageDelta,
    MessagesBody,
    MessagesEvent,
    MessageStart,
    MessageStop,
    MessagesUsage,
    StopDelta,
    TokenCount,
)
from engine.server.service import Service, service
from engine.server.sse import EventStream, begun, event, unless_disconnected
from engine.types import FinishReason


async def messages(request: Request) -> Response:
    """Answers as JSON, or with `stream` as events. What is refused is a plain 4xx in both."""
    here = service(request)
    body = await read_struct(request, MESSAGES_DECODER, here.options.payload_limit, here.executor)
    exchange = _Messaging(here, body)
    if body.stream:
        events = await begun(exchange.events())
        return EventStream(events, exchange.stream_headers(), exchange.failure)
    answer = await unless_disconnected(request, exchange.whole())
    return Response(encode(answer), headers=exchange.headers(), media_type="application/json")


async def count_tokens(request: Request) -> Response:
    """The length of the prompt that the same request to `/v1/messages` would make."""
    here = service(request)
    body = await read_struct(request, COUNT_DECODER, here.options.payload_limit, here.executor)
    prompt = await render(here, to_conversation(body))
    ids = await here.in_executor(_encode, here, prompt)
    return Response(encode(TokenCount(input_tokens=len(ids))), media_type="application/json")


def _encode(here: Service, prompt: str) -> list[int]:
    return here.tokenizer.encode(prompt, add_special_tokens=False)


class _Messaging(Exchange):
    def __init__(self, here: Service, body: MessagesBody) -> None:
        super().__init__(here, lambda: to_conversation(body))
        self._id = f"msg_{uuid4().hex}"
        self._model = here.options.model_id if body.model == "tgi" else body.model
        self._content = Content()
        self._finish_reason: str | None = None

    async def whole(self) -> AnthropicMessage:
        await self.complete()
        return self._message(self._stop())

    def opening(self) -> Events:
        yield MessageStart(message=self._message(None))

    def read(self, step: Step) -> Events:
        events = [made for each in step.events for made in self._content.read(each)]
        if step.finish_reason is not None:
            self._finish_reason = step.finish_reason
            events += self._content.close()
        return events

    def closing(self) -> Events:
        yield MessageDelta(delta=self._stop(), usage=self._usage())
        yield MessageStop()

    def failure(self, error: EngineError) -> bytes:
        return event(error_body("/v1/messages", error), "error")

    def _stop(self) -> StopDelta:
        """Why the answer ended, in Anthropic's words."""
        generation = self.reply.generations[0]
        if self._finish_reason == "length":
            return StopDelta(stop_reason="max_tokens", stop_sequence=None)
        if self._finish_reason == "tool_calls":
            return StopDelta(stop_reason="tool_use", stop_sequence=None)
        if generation.finish_reason is FinishReason.STOP:
            return StopDelta(stop_reason="stop_sequence", stop_sequence=generation.stop_string)
        return StopDelta(stop_reason="end_turn", stop_sequence=None)

    def _message(self, stop: StopDelta | None) -> AnthropicMessage:
        return AnthropicMessage(
            id=self._id,
            model=self._model,
            content=self._content.blocks,
            stop_reason=stop.stop_reason if stop else None,
            stop_sequence=stop.stop_sequence if stop else None,
            usage=self._usage(),
        )

    def _usage(self) -> MessagesUsage:
        """So far: what the prefix cache held is known with the first token."""
        cached = self.cached_tokens
        return MessagesUsage(
            input_tokens=self.reply.prompt_tokens - cached,
            cache_read_input_tokens=cached,
            output_tokens=self.generated_tokens,
        )


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/messages",
        handler=messages,
        summary="Answer a conversation, in the shapes of Anthropic's Messages API",
        tag="Anthropic",
        body=MessagesBody,
        answer=AnthropicMessage,
        event=MessagesEvent,
        errors=(424, 429, 500, 503),
    ),
    Endpoint(
        method="POST",
        path="/v1/messages/count_tokens",
        handler=count_tokens,
        summary="Count the tokens of a conversation, in the shapes of Anthropic's Messages API",
        tag="Anthropic",
        body=CountTokensBody,
        answer=TokenCount,
    ),
)

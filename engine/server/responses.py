"""`POST /v1/responses`: OpenAI's Responses API. Nothing is stored, which every answer says."""

import time

from starlette.requests import Request
from starlette.responses import Response

from engine.errors import EngineError, InvalidRequest, Overloaded
from engine.server.body import read_struct
from engine.server.conversation import Step
from engine.server.endpoint import Endpoint
from engine.server.errors import message
from engine.server.exchange import Events, Exchange, encoded
from engine.server.responses_input import to_conversation, wants_logprobs
from engine.server.responses_output import Output, new_id, scores
from engine.server.schema.common import encode
from engine.server.schema.responses import (
    RESPONSES_DECODER,
    IncompleteDetails,
    InputTokensDetails,
    OutputTokensDetails,
    ResponseCompleted,
    ResponseCreated,
    ResponseError,
    ResponseEvent,
    ResponseFailed,
    ResponseIncomplete,
    ResponseInProgress,
    ResponseObject,
    ResponsesBody,
    ResponseUsage,
    Status,
    StreamFailed,
    TextOptions,
)
from engine.server.service import Service, service
from engine.server.sse import EventStream, begun, unless_disconnected


async def responses(request: Request) -> Response:
    """Answers as JSON, or with `stream` as events. What is refused is a plain 4xx in both."""
    here = service(request)
    body = await read_struct(request, RESPONSES_DECODER, here.options.payload_limit, here.executor)
    exchange = _Responding(here, body)
    if body.stream:
        events = await begun(exchange.events())
        return EventStream(events, exchange.stream_headers(), exchange.failure)
    answer = await unless_disconnected(request, exchange.whole())
    return Response(encode(answer), headers=exchange.headers(), media_type="application/json")


class _Responding(Exchange):
    def __init__(self, here: Service, body: ResponsesBody) -> None:
        super().__init__(here, lambda: to_conversation(body))
        self._body = body
        self._id = new_id("resp")
        self._created_at = int(time.time())
        self._model = here.options.model_id if body.model in (None, "tgi") else str(body.model)
        self._output = Output(scores(here.tokenizer, body.top_logprobs or 0) if wants_logprobs(body) else None)
        self._status: Status = "in_progress"

    async def whole(self) -> ResponseObject:
        await self.complete()
        return self._response()

    def opening(self) -> Events:
        numbers, response = self._output.numbers, self._response()
        yield ResponseCreated(sequence_number=next(numbers), response=response)
        yield ResponseInProgress(sequence_number=next(numbers), response=response)

    def read(self, step: Step) -> Events:
        events = list(self._output.read(step))
        if step.finish_reason is not None:
            self._status = "incomplete" if step.finish_reason == "length" else "completed"
            events += self._output.finish(self._status)
        return events

    def closing(self) -> Events:
        kind = ResponseIncomplete if self._status == "incomplete" else ResponseCompleted
        yield kind(sequence_number=next(self._output.numbers), response=self._response())

    def failure(self, error: EngineError) -> bytes:
        self._status = "failed"
        numbers, why = self._output.numbers, ResponseError(code=_code(error), message=message(error))
        first = StreamFailed(sequence_number=next(numbers), code=why.code, message=why.message)
        return encoded([first, ResponseFailed(sequence_number=next(numbers), response=self._response(why))])

    def _response(self, error: ResponseError | None = None) -> ResponseObject:
        """As it stands: its output is shown once it is complete."""
        body, status = self._body, self._status
        ended = status != "in_progress"
        return ResponseObject(
            id=self._id,
            created_at=self._created_at,
            completed_at=int(time.time()) if status == "completed" else None,
            status=status,
            error=error,
            incomplete_details=IncompleteDetails(reason="max_output_tokens") if status == "incomplete" else None,
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            model=self._model,
            output=self._output.items if ended else [],
            parallel_tool_calls=body.parallel_tool_calls is not False,
            temperature=1.0 if body.temperature is None else body.temperature,
            text=TextOptions(format={"type": "text"} if body.text is None else body.text.format or {"type": "text"}),
            tool_choice="auto" if body.tool_choice is None else body.tool_choice,
            tools=body.tools or [],
            top_logprobs=body.top_logprobs or 0,
            top_p=1.0 if body.top_p is None else body.top_p,
            usage=self._usage() if ended else None,
            user=body.user,
            metadata=body.metadata or {},
        )

    def _usage(self) -> ResponseUsage:
        prompt_tokens, generated = self.reply.prompt_tokens, self.generated_tokens
        return ResponseUsage(
            input_tokens=prompt_tokens,
            input_tokens_details=InputTokensDetails(cached_tokens=self.cached_tokens),
            output_tokens=generated,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=self._output.reasoning_tokens),
            total_tokens=prompt_tokens + generated,
        )


def _code(error: EngineError) -> str:
    """The nearest of OpenAI's codes."""
    if isinstance(error, Overloaded):
        return "rate_limit_exceeded"
    return "invalid_prompt" if isinstance(error, InvalidRequest) else "server_error"


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/responses",
        handler=responses,
        summary="Answer a conversation, in the shapes of OpenAI's Responses API",
        tag="OpenAI",
        body=ResponsesBody,
        answer=ResponseObject,
        event=ResponseEvent,
        errors=(424, 429, 500, 503),
    ),
)

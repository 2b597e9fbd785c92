"""`POST /v1/responses`: OpenAI's Responses API, without what needs a store or tools of OpenAI's own."""

from typing import Any, Literal

import msgspec
from msgspec import Struct

from engine.server.schema.common import Int32, Stop, UInt32, check_seed

Status = Literal["in_progress", "completed", "incomplete", "failed"]


class ResponsesPart(Struct, frozen=True, kw_only=True):
    type: str
    text: str | None = None
    refusal: str | None = None


class ResponsesItem(Struct, frozen=True, kw_only=True):
    """One of OpenAI's items; a message needs no `type`. What the others need is checked when they are read."""

    type: str | None = None
    id: str | None = None
    role: str | None = None
    content: str | list[ResponsesPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[ResponsesPart] | None = None
    summary: list[ResponsesPart] | None = None


class ResponsesTool(Struct, frozen=True, kw_only=True):
    """OpenAI's tools other than functions are refused."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class TextOptions(Struct, frozen=True, kw_only=True):
    format: dict[str, Any] | None = None


class ResponsesBody(Struct, frozen=True, kw_only=True):
    """From `stop` on, extensions that OpenAI lacks."""

    input: str | list[ResponsesItem]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: UInt32 | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = None
    tools: list[ResponsesTool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    include: list[str] | None = None
    top_logprobs: UInt32 | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    store: bool | None = None  # nothing is stored, which the answer says
    truncation: str | None = None  # nothing is cut off, which the answer says
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None

    stop: Stop = None
    seed: int | None = None
    top_k: Int32 | None = None
    min_p: float | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        check_seed(self.seed)


class OutputTopLogprob(Struct, frozen=True, kw_only=True):
    token: str
    logprob: float
    bytes: list[int]


class OutputLogprob(Struct, frozen=True, kw_only=True):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[OutputTopLogprob]


class OutputText(Struct, frozen=True, kw_only=True, tag_field="type", tag="output_text"):
    text: str
    annotations: list[dict[str, Any]] = msgspec.field(default_factory=list)
    logprobs: list[OutputLogprob] = msgspec.field(default_factory=list)


class ReasoningText(Struct, frozen=True, kw_only=True, tag_field="type", tag="reasoning_text"):
    text: str


class OutputMessage(Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    id: str
    status: Status
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class OutputCall(Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call"):
    id: str
    status: Status
    call_id: str
    name: str
    arguments: str


class ReasoningItem(Struct, frozen=True, kw_only=True, tag_field="type", tag="reasoning"):
    id: str
    status: Status
    summary: list[dict[str, Any]] = msgspec.field(default_factory=list)
    content: list[ReasoningText]


OutputItem = OutputMessage | OutputCall | ReasoningItem


class InputTokensDetails(Struct, frozen=True, kw_only=True):
    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(Struct, frozen=True, kw_only=True):
    reasoning_tokens: int


class ResponseUsage(Struct, frozen=True, kw_only=True):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseError(Struct, frozen=True, kw_only=True):
    code: str
    message: str


class IncompleteDetails(Struct, frozen=True, kw_only=True):
    reason: str


class ReasoningOptions(Struct, frozen=True, kw_only=True):
    effort: None = None
    summary: None = None


class ResponseObject(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Status
    background: Literal[False] = False
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: None = None
    reasoning: ReasoningOptions = ReasoningOptions()
    service_tier: Literal["default"] = "default"
    store: Literal[False] = False
    temperature: float
    text: TextOptions
    tool_choice: str | dict[str, Any]
    tools: list[ResponsesTool]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    user: str | None
    metadata: dict[str, str]


class NumberedEvent(Struct, frozen=True, kw_only=True, tag_field="type"):
    sequence_number: int


class ResponseCreated(NumberedEvent, frozen=True, kw_only=True, tag="response.created"):
    response: ResponseObject


class ResponseInProgress(NumberedEvent, frozen=True, kw_only=True, tag="response.in_progress"):
    response: ResponseObject


class ResponseCompleted(NumberedEvent, frozen=True, kw_only=True, tag="response.completed"):
    response: ResponseObject


class ResponseIncomplete(NumberedEvent, frozen=True, kw_only=True, tag="response.incomplete"):
    response: ResponseObject


class ResponseFailed(NumberedEvent, frozen=True, kw_only=True, tag="response.failed"):
    response: ResponseObject


class StreamFailed(NumberedEvent, frozen=True, kw_only=True, tag="error"):
    code: str
    message: str
    param: None = None


class ItemAdded(NumberedEvent, frozen=True, kw_only=True, tag="response.output_item.added"):
    output_index: int
    item: OutputItem


class ItemDone(NumberedEvent, frozen=True, kw_only=True, tag="response.output_item.done"):
    output_index: int
    item: OutputItem


class ItemEvent(NumberedEvent, frozen=True, kw_only=True, tag=False):
    item_id: str
    output_index: int


class PartEvent(ItemEvent, frozen=True, kw_only=True, tag=False):
    content_index: int = 0


class PartAdded(PartEvent, frozen=True, kw_only=True, tag="response.content_part.added"):
    part: OutputText | ReasoningText


class PartDone(PartEvent, frozen=True, kw_only=True, tag="response.content_part.done"):
    part: OutputText | ReasoningText


class OutputTextDelta(PartEvent, frozen=True, kw_only=True, tag="response.output_text.delta"):
    delta: str
    logprobs: list[OutputLogprob]


class OutputTextDone(PartEvent, frozen=True, kw_only=True, tag="response.output_text.done"):
    text: str
    logprobs: list[OutputLogprob]


class ReasoningDelta(PartEvent, frozen=True, kw_only=True, tag="response.reasoning_text.delta"):
    delta: str


class ReasoningDone(PartEvent, frozen=True, kw_only=True, tag="response.reasoning_text.done"):
    text: str


class ArgumentsDelta(ItemEvent, frozen=True, kw_only=True, tag="response.function_call_arguments.delta"):
    delta: str


class ArgumentsDone(ItemEvent, frozen=True, kw_only=True, tag="response.function_call_arguments.done"):
    name: str
    arguments: str


ResponseEvent = (
    ResponseCreated
    | ResponseInProgress
    | ItemAdded
    | PartAdded
    | OutputTextDelta
    | OutputTextDone
    | ReasoningDelta
    | ReasoningDone
    | ArgumentsDelta
    | ArgumentsDone
    | PartDone
    | ItemDone
    | ResponseCompleted
    | ResponseIncomplete
    | ResponseFailed
    | StreamFailed
)

RESPONSES_DECODER = msgspec.json.Decoder(ResponsesBody)

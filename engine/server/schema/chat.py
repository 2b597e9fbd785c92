"""`POST /v1/chat/completions` and `POST /chat_tokenize`"""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from engine.server.schema.common import UInt32
from engine.server.schema.openai import OpenAIParameters, Usage
from engine.text.tokenizer import TokenSpan
from engine.types import Timings


class ContentPart(Struct, frozen=True, kw_only=True):
    type: str
    text: str | None = None
    refusal: str | None = None


class GivenFunction(Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    arguments: str | dict[str, Any] | None = None


class GivenCall(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A call that the assistant made earlier in the conversation."""

    id: str | None = None
    type: str | None = None
    function: GivenFunction | None = None


class Message(Struct, frozen=True, kw_only=True):
    """`reasoning_content` is ours, as answers have it: templates of models that think may show it again."""

    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[GivenCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None


class FunctionDefinition(Struct, frozen=True, kw_only=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    arguments: dict[str, Any] | None = None  # TGI's other name for them
    strict: bool | None = None


class ToolDefinition(Struct, frozen=True, kw_only=True):
    type: str = "function"
    function: FunctionDefinition


class ChatBody(OpenAIParameters, frozen=True, kw_only=True):
    messages: list[Message]
    max_completion_tokens: UInt32 | None = None
    logprobs: bool | None = None
    top_logprobs: UInt32 | None = None
    tools: list[ToolDefinition] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    tool_prompt: str | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None  # a variable of the templates that know it

    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None


class TopLogprob(Struct, frozen=True, kw_only=True):
    token: str
    logprob: float
    bytes: list[int] | UnsetType = UNSET


class ChatLogprob(Struct, frozen=True, kw_only=True):
    token: str
    logprob: float
    bytes: list[int] | UnsetType = UNSET
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct, frozen=True):
    content: list[ChatLogprob]


class CalledFunction(Struct, frozen=True, kw_only=True):
    description: str | UnsetType | None = UNSET  # TGI's, always null
    name: str
    arguments: str


class ToolCall(Struct, frozen=True, kw_only=True):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Struct, frozen=True, kw_only=True):
    """`content` is null where there are only calls or thoughts; a strict server leaves it out then, as TGI does."""

    role: Literal["assistant"] = "assistant"
    content: str | UnsetType | None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChoice(Struct, frozen=True, kw_only=True):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: str


class ChatCompletion(Struct, frozen=True, kw_only=True):
    object: Literal["chat.completion"] = "chat.completion"
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class DeltaFunction(Struct, frozen=True, kw_only=True):
    name: str | UnsetType | None = UNSET
    arguments: str


class DeltaCall(Struct, frozen=True, kw_only=True):
    """The first part of a call has its id and its name, the others only more of its arguments (TGI repeats the id)."""

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: DeltaFunction


class ChatDelta(Struct, frozen=True, kw_only=True):
    """What a chunk adds to a message. Clients join the texts, so what is said once stands in one chunk."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[DeltaCall] | UnsetType = UNSET


class ChatChunkChoice(Struct, frozen=True, kw_only=True):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class ChatChunk(Struct, frozen=True, kw_only=True):
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    timings: Timings | UnsetType = UNSET  # ours, in seconds, beside the usage of the whole stream


class ChatTokens(Struct, frozen=True, kw_only=True):
    tokenize_response: list[TokenSpan]
    templated_text: str


CHAT_DECODER = msgspec.json.Decoder(ChatBody)

"""`POST /v1/messages` and `POST /v1/messages/count_tokens`: Anthropic's Messages API."""

from typing import Any, Literal

import msgspec
from msgspec import Struct

from engine.server.schema.common import UInt32


class MessagesPart(Struct, frozen=True, kw_only=True):
    type: str
    text: str | None = None


class MessagesBlock(Struct, frozen=True, kw_only=True):
    """One of Anthropic's content blocks. What each type needs is checked when it is read."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[MessagesPart] | None = None


class MessagesTurn(Struct, frozen=True, kw_only=True):
    role: str
    content: str | list[MessagesBlock]


class MessagesTool(Struct, frozen=True, kw_only=True):
    """Anthropic's own tools, which have a `type` other than custom, are refused."""

    name: str
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class MessagesToolChoice(Struct, frozen=True, kw_only=True):
    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingOptions(Struct, frozen=True, kw_only=True):
    type: str


class OutputConfig(Struct, frozen=True, kw_only=True):
    format: dict[str, Any] | None = None


class CountTokensBody(Struct, frozen=True, kw_only=True):
    model: str
    messages: list[MessagesTurn]
    system: str | list[MessagesPart] | None = None
    tools: list[MessagesTool] | None = None
    tool_choice: MessagesToolChoice | None = None
    thinking: ThinkingOptions | None = None
    output_config: OutputConfig | None = None


class MessagesBody(CountTokensBody, frozen=True, kw_only=True):
    max_tokens: UInt32
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: UInt32 | None = None
    stream: bool | None = None


class TextBlock(Struct, frozen=True, kw_only=True, tag_field="type", tag="text"):
    text: str


class ThinkingBlock(Struct, frozen=True, kw_only=True, tag_field="type", tag="thinking"):
    """The signature is empty: nobody here checks where a thought came from."""

    thinking: str
    signature: str = ""


class ToolUseBlock(Struct, frozen=True, kw_only=True, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


ContentBlock = TextBlock | ThinkingBlock | ToolUseBlock


class MessagesUsage(Struct, frozen=True, kw_only=True):
    """The three input counts add up to the prompt; no cache entry is made by a request's order."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int


class AnthropicMessage(Struct, frozen=True, kw_only=True):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[ContentBlock]
    stop_reason: str | None
    stop_sequence: str | None
    usage: MessagesUsage


class TokenCount(Struct, frozen=True, kw_only=True):
    input_tokens: int


class MessageStart(Struct, frozen=True, kw_only=True, tag_field="type", tag="message_start"):
    message: AnthropicMessage


class Ping(Struct, frozen=True, kw_only=True, tag_field="type", tag="ping"):
    pass


class BlockStart(Struct, frozen=True, kw_only=True, tag_field="type", tag="content_block_start"):
    index: int
    content_block: ContentBlock


class TextDelta(Struct, frozen=True, kw_only=True, tag_field="type", tag="text_delta"):
    text: str


class ThinkingDelta(Struct, frozen=True, kw_only=True, tag_field="type", tag="thinking_delta"):
    thinking: str


class SignatureDelta(Struct, frozen=True, kw_only=True, tag_field="type", tag="signature_delta"):
    signature: str


class InputJSONDelta(Struct, frozen=True, kw_only=True, tag_field="type", tag="input_json_delta"):
    partial_json: str


class BlockDelta(Struct, frozen=True, kw_only=True, tag_field="type", tag="content_block_delta"):
    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputJSONDelta


class BlockStop(Struct, frozen=True, kw_only=True, tag_field="type", tag="content_block_stop"):
    index: int


class StopDelta(Struct, frozen=True, kw_only=True):
    stop_reason: str
    stop_sequence: str | None


class MessageDelta(Struct, frozen=True, kw_only=True, tag_field="type", tag="message_delta"):
    delta: StopDelta
    usage: MessagesUsage


class MessageStop(Struct, frozen=True, kw_only=True, tag_field="type", tag="message_stop"):
    pass


MessagesEvent = MessageStart | Ping | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop

MESSAGES_DECODER = msgspec.json.Decoder(MessagesBody)
COUNT_DECODER = msgspec.json.Decoder(CountTokensBody)

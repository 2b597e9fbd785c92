"""OpenAI's chat dialect: `POST /v1/chat/completions`. Its deltas carry answers, thoughts and tool calls."""

from collections.abc import Iterable

import msgspec

from bench.api.completions import Chunk, read_chunks
from bench.api.reading import Reading
from bench.api.sse import Event


class Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct, gc=False):
    function: Function | None = None


class Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None  # DeepSeek's name, and SGLang's and llama.cpp's
    reasoning: str | None = None  # OpenRouter's name, and that of newer vLLM
    tool_calls: list[ToolCall] | None = None


class Choice(msgspec.Struct, gc=False):
    delta: Delta | None = None
    finish_reason: str | None = None
    token_ids: list[int] | None = None


_DECODER = msgspec.json.Decoder(Chunk[Choice])


def read(events: Iterable[Event]) -> Reading:
    return read_chunks(events, _DECODER, _text)


def _text(choice: Choice) -> tuple[str, str]:
    """The text of a delta and its kind. A role alone, or nothing at all, has neither."""
    delta = choice.delta
    if delta is None:
        return "", ""
    if delta.content:
        return delta.content, "content"
    thought = delta.reasoning_content or delta.reasoning
    if thought:
        return thought, "reasoning"
    if delta.tool_calls:
        functions = [call.function for call in delta.tool_calls if call.function is not None]
        text = "".join((function.name or "") + (function.arguments or "") for function in functions)
        return text, "tool" if text else ""
    return "", ""

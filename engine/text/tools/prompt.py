"""How a prompt offers tools: through the chat template, or where it knows of none as text, as TGI does."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from engine.text.tools.events import Tool

Messages = Sequence[Mapping[str, Any]]

DEFAULT_PROMPT = (
    "These are functions that you can have called. To call one, answer with nothing but a JSON object of the form "
    '{"name": "the name of the function", "arguments": {"the name of an argument": its value}}. '
    "Where none of them helps, answer as usual."
)


def descriptions(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The tools as templates and OpenAI write them."""
    described = []
    for tool in tools:
        function: dict[str, Any] = {"name": tool.name}
        if tool.description is not None:
            function["description"] = tool.description
        described.append({"type": "function", "function": function | {"parameters": tool.parameters}})
    return described


def mentions(template: str, variable: str) -> bool:
    return re.search(rf"\b{variable}\b", template) is not None


def fit_messages(
    messages: Messages, tools: Sequence[Tool], template: str, tool_prompt: str | None
) -> list[dict[str, Any]]:
    """Messages that a template can show, whose source is `template`.

    One that never mentions `tools` gets them as JSON, and how to call them, at the end of the last message that
    is not the assistant's. One that never mentions `tool_calls` gets those as text. `tool_prompt` is added
    wherever it is given.
    """
    fitted = [dict(message) for message in messages]
    if "developer" not in template:  # the newer name of the role
        for message in fitted:
            message["role"] = "system" if message.get("role") == "developer" else message.get("role")
    if not mentions(template, "tool_calls"):
        fitted = [_with_calls_as_text(message) for message in fitted]
    if tools:
        _add_text(fitted, _addition(tools, template, tool_prompt))
    return fitted


def _addition(tools: Sequence[Tool], template: str, tool_prompt: str | None) -> str:
    if mentions(template, "tools"):
        return f"\n---\n{tool_prompt}" if tool_prompt else ""
    listed = json.dumps(descriptions(tools), ensure_ascii=False)
    return f"\n---\n{listed}\n{tool_prompt or DEFAULT_PROMPT}"


def _with_calls_as_text(message: dict[str, Any]) -> dict[str, Any]:
    calls = message.pop("tool_calls", None)
    if calls and not message.get("content"):
        message["content"] = json.dumps(calls, ensure_ascii=False, separators=(",", ":"))
    return message


def _add_text(messages: list[dict[str, Any]], text: str) -> None:
    asked = [message for message in messages if message.get("role") != "assistant" and message.get("content")]
    if not text or not asked:
        return
    content = asked[-1]["content"]
    added = content + text if isinstance(content, str) else [*content, {"type": "text", "text": text}]
    asked[-1]["content"] = added

"""An OpenAI Responses request as the `Conversation` that every chat-like route runs."""

from collections.abc import Sequence
from typing import Any

import msgspec

from engine.errors import InvalidRequest
from engine.server.conversation import Conversation, NamedTool, ToolChoice
from engine.server.errors import ToolError
from engine.server.grammar import grammar_of
from engine.server.openai import to_parameters
from engine.server.schema.openai import OpenAIParameters
from engine.server.schema.responses import ResponsesBody, ResponsesItem, ResponsesPart, ResponsesTool
from engine.text.tools import Tool
from engine.types import Grammar

LOGPROBS = "message.output_text.logprobs"  # of `include`
ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


def to_conversation(body: ResponsesBody) -> Conversation:
    """Raises InvalidRequest and ToolError for what cannot be done here."""
    _check_unsupported(body)
    tools = tuple(_tool(i, tool) for i, tool in enumerate(body.tools or ()))
    sampling = OpenAIParameters(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        seed=body.seed,
        stop=body.stop,
    )
    return Conversation(
        messages=_messages(body),
        parameters=to_parameters(sampling, max_new_tokens=body.max_output_tokens, top_n_tokens=body.top_logprobs),
        logprobs=wants_logprobs(body),
        tools=tools,
        tool_choice=_tool_choice(body.tool_choice),
        parallel_tool_calls=body.parallel_tool_calls is not False,
        grammar=_grammar(body),
        template_arguments=body.chat_template_kwargs or {},
    )


def wants_logprobs(body: ResponsesBody) -> bool:
    return bool(body.top_logprobs) or LOGPROBS in (body.include or ())


def _check_unsupported(body: ResponsesBody) -> None:
    if body.previous_response_id is not None or body.conversation is not None:
        name = "previous_response_id" if body.previous_response_id is not None else "conversation"
        raise InvalidRequest(f"`{name}` names something stored, and this server stores nothing; send all of the input")
    if body.prompt is not None:
        raise InvalidRequest("`prompt` names a stored template, and this server stores nothing; send `input`")
    if body.background:
        raise InvalidRequest("`background` is not supported; leave it out and wait for the answer, or set `stream`")


def _messages(body: ResponsesBody) -> list[dict[str, Any]]:
    """As templates read them: what the instructions and the first items say as the system is one message."""
    items = [ResponsesItem(role="user", content=body.input)] if isinstance(body.input, str) else body.input
    system = [] if body.instructions is None else [body.instructions]
    messages: list[dict[str, Any]] = []
    calls: dict[str, str] = {}  # names by call id
    answered: set[str] = set()
    for i, item in enumerate(items):
        where = f"input[{i}]"
        match item.type:
            case None | "message":
                role, content = _said(item, where)
                if role == "system" and not messages:
                    system.append(_joined(content))
                else:
                    _add_message(messages, role, content)
            case "reasoning":
                parts = item.content if isinstance(item.content, list) and item.content else item.summary or ()
                thoughts = _assistant(messages).setdefault("reasoning_content", [])
                thoughts += [_text(part, where) for part in parts]
            case "function_call":
                call = _call(item, where)
                calls[call["id"]] = call["function"]["name"]
                _assistant(messages).setdefault("tool_calls", []).append(call)
            case "function_call_output":
                messages.append(_result(item, calls, where))
                answered.add(messages[-1]["tool_call_id"])
            case "item_reference":
                raise InvalidRequest(f"`{where}` refers to something stored, and this server stores nothing")
            case other:
                raise InvalidRequest(f"`{where}.type` `{other}` is not supported")
    if missing := [call for call in calls if call not in answered]:
        raise InvalidRequest(f"No tool output found for function call {missing[0][:64]}")
    for message in messages:
        message.setdefault("content", "")
        if "reasoning_content" in message:
            message["reasoning_content"] = "".join(message["reasoning_content"])
    return [*([{"role": "system", "content": "\n\n".join(system)}] if system else []), *messages]


def _said(item: ResponsesItem, where: str) -> tuple[str, str | list[dict[str, str]]]:
    """Role and content of a message."""
    role = ROLES.get(item.role or "")
    if role is None:
        raise InvalidRequest(f"`{where}.role` must be one of {', '.join(ROLES)}. Given: {item.role}")
    if item.content is None:
        raise InvalidRequest(f"`{where}` needs `content`")
    return role, _content(item.content, where)


def _add_message(messages: list[dict[str, Any]], role: str, content: str | list[dict[str, str]]) -> None:
    """What the assistant said belongs to what it thought and called before."""
    last = _assistant(messages) if role == "assistant" else {}
    if role == "assistant" and "content" not in last:
        last["content"] = content
    else:
        messages.append({"role": role, "content": content})


def _assistant(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The message of the assistant's turn, which OpenAI spreads over several items."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant"})
    return messages[-1]


def _content(content: str | Sequence[ResponsesPart], where: str) -> str | list[dict[str, str]]:
    if isinstance(content, str):
        return content
    return [{"type": "text", "text": _text(part, where)} for part in content]


def _text(part: ResponsesPart, where: str) -> str:
    text = part.refusal if part.type == "refusal" else part.text
    known = ("input_text", "output_text", "text", "refusal", "reasoning_text", "summary_text")
    if part.type not in known or text is None:
        raise InvalidRequest(f"{part.type} modality is not supported (in `{where}`)")
    return text


def _joined(content: str | Sequence[dict[str, str]]) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _call(item: ResponsesItem, where: str) -> dict[str, Any]:
    if item.call_id is None or item.name is None or item.arguments is None:
        raise InvalidRequest(f"`{where}` needs `call_id`, `name` and `arguments`")
    try:
        arguments = msgspec.json.decode(item.arguments or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise InvalidRequest(f"`{where}.arguments` must be a JSON object as text") from None
    return {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": arguments}}


def _result(item: ResponsesItem, calls: dict[str, str], where: str) -> dict[str, Any]:
    if item.call_id is None or item.output is None:
        raise InvalidRequest(f"`{where}` needs `call_id` and `output`")
    if item.call_id not in calls:
        raise InvalidRequest(f"No tool call found for function call output with call_id {item.call_id[:64]}")
    content = _joined(_content(item.output, where))
    return {"role": "tool", "tool_call_id": item.call_id, "name": calls[item.call_id], "content": content}


def _tool(index: int, tool: ResponsesTool) -> Tool:
    if tool.type != "function":
        raise ToolError(f"`tools[{index}].type` `{tool.type}` is not supported; only `function` is")
    if not tool.name:
        raise ToolError(f"`tools[{index}].name` is missing")
    parameters = {"type": "object", "properties": {}} if tool.parameters is None else tool.parameters
    return Tool(name=tool.name, description=tool.description, parameters=parameters, strict=bool(tool.strict))


def _tool_choice(choice: str | dict[str, Any] | None) -> ToolChoice:
    match choice:
        case None | "auto":
            return "auto"
        case "none" | "required":
            return choice
        case {"type": "function", "name": str(name)}:
            return NamedTool(name)
        case _:
            raise ToolError('`tool_choice` must be "auto", "none", "required" or {"type": "function", "name": ...}')


def _grammar(body: ResponsesBody) -> Grammar | None:
    wanted = None if body.text is None else body.text.format
    return None if wanted is None else grammar_of(wanted)

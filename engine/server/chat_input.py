"""A chat request as the `Conversation` that every chat-like route runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from engine.errors import InvalidRequest
from engine.server import limits
from engine.server.conversation import Conversation, NamedTool, Tool, ToolChoice
from engine.server.errors import ToolError
from engine.server.grammar import grammar_of
from engine.server.openai import to_parameters
from engine.server.schema.chat import ChatBody, ContentPart, GivenCall, Message, ToolDefinition
from engine.server.service import Service

NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
MODES: dict[object, ToolChoice] = {"auto": "auto", "none": "none", "required": "required"}


def to_conversation(here: Service, body: ChatBody) -> Conversation:
    """Raises InvalidRequest and ToolError for what cannot be done here."""
    n = limits.check_choices(body.n, here.options)
    _check(here, body)
    tools, choice = _chosen(tuple(map(_tool, body.tools or ())), body.tool_choice)
    max_new_tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    return Conversation(
        messages=[_message(message) for message in body.messages],
        parameters=to_parameters(body, max_new_tokens=max_new_tokens, top_n_tokens=body.top_logprobs),
        n=n,
        logprobs=bool(body.logprobs),
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        tool_prompt=body.tool_prompt,
        grammar=None if body.response_format is None else grammar_of(body.response_format, strict=here.strict),
        template_arguments=_template_arguments(body),
        continue_final_message=body.continue_final_message,
        add_generation_prompt=body.add_generation_prompt,
    )


def _check(here: Service, body: ChatBody) -> None:
    # OpenAI takes both, TGI neither; an empty list of tools is an error to both.
    if body.tools is not None and body.response_format is not None and (here.strict or not body.tools):
        raise ToolError("Grammar and tools are mutually exclusive")
    if body.logprobs is not True and body.top_logprobs and not here.strict:
        raise InvalidRequest("`top_logprobs` needs `logprobs`: true")
    both = body.max_tokens, body.max_completion_tokens
    if None not in both and both[0] != both[1]:
        raise InvalidRequest("`max_tokens` and `max_completion_tokens` mean the same; set one of them")


def _template_arguments(body: ChatBody) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if body.reasoning_effort is not None:
        given["reasoning_effort"] = body.reasoning_effort
    if body.documents is not None:
        given["documents"] = body.documents
    return given | (body.chat_template_kwargs or {})


def _tool(tool: ToolDefinition) -> Tool:
    if tool.type != "function":
        raise ToolError(f"tools of type `{tool.type}` are not supported; describe a `function`")
    function = tool.function
    parameters = function.arguments if function.parameters is None else function.parameters
    return Tool(
        name=function.name,
        description=function.description,
        parameters=NO_PARAMETERS if parameters is None else parameters,
        strict=bool(function.strict),
    )


def _chosen(tools: tuple[Tool, ...], given: str | dict[str, Any] | None) -> tuple[tuple[Tool, ...], ToolChoice]:
    """The tools and which of them to call: a mode, a name (TGI), an object with a name, or OpenAI's allowed tools."""
    if given is None:
        return tools, "auto"
    if isinstance(given, str):
        return tools, MODES.get(given) or NamedTool(given)
    if given.get("type") == "allowed_tools":
        return _allowed(tools, given.get("allowed_tools", given))
    return tools, NamedTool(_name_in(given))


def _allowed(tools: tuple[Tool, ...], given: object) -> tuple[tuple[Tool, ...], ToolChoice]:
    listed = given.get("tools") if isinstance(given, Mapping) else None
    if not isinstance(given, Mapping) or given.get("mode") not in ("auto", "required") or not isinstance(listed, list):
        raise ToolError('`allowed_tools` needs a `mode` ("auto" or "required") and `tools`')
    names = [_name_in(each) for each in listed]
    have = {tool.name for tool in tools}
    if missing := [name for name in names if name not in have]:
        raise ToolError(f"Tool with name {missing[0]} not found")
    return tuple(tool for tool in tools if tool.name in names), MODES[given["mode"]]


def _name_in(given: object) -> str:
    """The name in `{"type": "function", "function": {"name": N}}`."""
    function = given.get("function") if isinstance(given, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        raise ToolError('a tool is chosen by {"type": "function", "function": {"name": ...}}')
    return name


def _message(message: Message) -> dict[str, Any]:
    """A message as templates read it."""
    fitted: dict[str, Any] = {"role": message.role, "content": _content(message)}
    if message.tool_calls:
        fitted["tool_calls"] = [_call(call) for call in message.tool_calls]
    for name in ("name", "tool_call_id", "reasoning_content"):
        if (value := getattr(message, name)) is not None:
            fitted[name] = value
    return fitted


def _content(message: Message) -> str | list[dict[str, Any]] | None:
    if isinstance(message.content, list):
        return _parts(message.content)
    if message.content is not None:
        return message.content
    if message.refusal is not None:
        return message.refusal
    if message.role == "tool" or message.reasoning_content is not None:
        return ""
    if not message.tool_calls:
        raise InvalidRequest("a message needs `content`, or `tool_calls`")
    return None


def _parts(parts: Sequence[ContentPart]) -> list[dict[str, Any]]:
    fitted = []
    for part in parts:
        text = part.refusal if part.type == "refusal" else part.text
        if part.type not in ("text", "refusal") or text is None:
            raise InvalidRequest(f"{part.type} modality is not supported")
        fitted.append({"type": "text", "text": text})
    return fitted


def _call(call: GivenCall) -> dict[str, Any]:
    """With its arguments as an object where they are one, as transformers passes them to templates."""
    fitted: dict[str, Any] = msgspec.to_builtins(call)
    if call.function is not None and isinstance(call.function.arguments, str):
        try:
            arguments = msgspec.json.decode(call.function.arguments or "{}")
        except (msgspec.DecodeError, RecursionError):
            return fitted  # what a model once wrote need not be JSON
        if isinstance(arguments, dict):
            fitted["function"]["arguments"] = arguments
    return fitted

"""An Anthropic Messages request as the `Conversation` that every chat-like route runs."""

from collections.abc import Iterable, Sequence
from typing import Any

from engine.errors import InvalidRequest
from engine.server.conversation import Conversation, NamedTool, ToolChoice
from engine.server.errors import ToolError
from engine.server.grammar import grammar_of
from engine.server.openai import to_parameters
from engine.server.schema.messages import (
    CountTokensBody,
    MessagesBlock,
    MessagesBody,
    MessagesPart,
    MessagesTool,
    MessagesToolChoice,
    MessagesTurn,
)
from engine.server.schema.openai import OpenAIParameters
from engine.server.schema.tgi import GenerateParameters
from engine.text.tools import Tool
from engine.types import Grammar


def to_conversation(body: CountTokensBody) -> Conversation:
    """Raises InvalidRequest and ToolError for what cannot be done here."""
    choice = body.tool_choice
    return Conversation(
        messages=_messages(body),
        parameters=_parameters(body) if isinstance(body, MessagesBody) else GenerateParameters(),
        tools=tuple(_tool(i, tool) for i, tool in enumerate(body.tools or ())),
        tool_choice=_tool_choice(choice),
        parallel_tool_calls=choice is None or not choice.disable_parallel_tool_use,
        grammar=_grammar(body),
        template_arguments=_template_arguments(body),
    )


def _parameters(body: MessagesBody) -> GenerateParameters:
    sampling = OpenAIParameters(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k or None,  # 0 is off
        stop=body.stop_sequences,
    )
    return to_parameters(sampling, max_new_tokens=body.max_tokens, top_n_tokens=None)


def _template_arguments(body: CountTokensBody) -> dict[str, Any]:
    """The switch that templates of reasoning models know; where nothing is said, the model's own default."""
    return {} if body.thinking is None else {"enable_thinking": body.thinking.type != "disabled"}


def _grammar(body: CountTokensBody) -> Grammar | None:
    wanted = None if body.output_config is None else body.output_config.format
    if wanted is None:
        return None
    if wanted.get("type") != "json_schema" or "schema" not in wanted:
        raise InvalidRequest("`output_config.format` must be an object with `type` json_schema and `schema`")
    return grammar_of(wanted)


def _messages(body: CountTokensBody) -> list[dict[str, Any]]:
    """As templates read them. Turns of one role that follow each other are one, as with Anthropic."""
    messages: list[dict[str, Any]] = []
    if body.system:
        messages.append({"role": "system", "content": _content(body.system, "system")})
    calls: dict[str, str] = {}  # names of the tools called and not answered yet, by id
    for i, turn in enumerate(body.messages):
        where = f"messages[{i}]"
        match turn.role:
            case "user":
                _add_user(messages, turn, calls, where)
            case "assistant":
                _check_answered(calls)
                _add_assistant(messages, turn, calls, where)
            case "system":
                messages.append({"role": "system", "content": _parts(turn, where)})
            case other:
                raise InvalidRequest(f"`{where}.role` must be user, assistant or system. Given: {other}")
    _check_answered(calls)
    return messages


def _check_answered(calls: dict[str, str]) -> None:
    if calls:
        found = ", ".join(calls)[:256]
        raise InvalidRequest(f"`tool_use` ids were found without `tool_result` blocks immediately after: {found}")


def _add_user(messages: list[dict[str, Any]], turn: MessagesTurn, calls: dict[str, str], where: str) -> None:
    """Results of tools are messages of their own to templates."""
    for block in _blocks(turn):
        if block.type == "tool_result":
            messages.append(_result(block, calls, where))
        else:
            _append(messages, "user", _text(block, where))


def _add_assistant(messages: list[dict[str, Any]], turn: MessagesTurn, calls: dict[str, str], where: str) -> None:
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    message, thoughts = messages[-1], []
    for block in _blocks(turn):
        match block.type:
            case "tool_use":
                if block.id is None or block.name is None or block.input is None:
                    raise InvalidRequest(f"`tool_use` needs `id`, `name` and `input` (in `{where}`)")
                calls[block.id] = block.name
                function = {"name": block.name, "arguments": block.input}
                message.setdefault("tool_calls", []).append({"id": block.id, "type": "function", "function": function})
            case "thinking":
                thoughts.append(block.thinking or "")
            case "redacted_thinking":
                pass  # nobody but its maker can read it
            case _:
                _append(messages, "assistant", _text(block, where))
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)


def _append(messages: list[dict[str, Any]], role: str, text: str) -> None:
    """Add a text to the last message if it is of this role, or else as a message."""
    part = {"type": "text", "text": text}
    if not messages or messages[-1]["role"] != role:
        messages.append({"role": role, "content": text})
        return
    last = messages[-1]
    if not last["content"]:
        last["content"] = text
    elif isinstance(last["content"], str):
        last["content"] = [{"type": "text", "text": last["content"]}, part]
    else:
        last["content"].append(part)


def _result(block: MessagesBlock, calls: dict[str, str], where: str) -> dict[str, Any]:
    if block.tool_use_id is None:
        raise InvalidRequest(f"`tool_result` needs `tool_use_id` (in `{where}`)")
    name = calls.pop(block.tool_use_id, None)
    if name is None:
        raise InvalidRequest(f"unexpected `tool_use_id` found in `tool_result` blocks: {block.tool_use_id[:64]}")
    content = block.content or ""
    text = content if isinstance(content, str) else "\n".join(_text(part, where) for part in content)
    return {"role": "tool", "tool_call_id": block.tool_use_id, "name": name, "content": text}


def _blocks(turn: MessagesTurn) -> Iterable[MessagesBlock]:
    return [MessagesBlock(type="text", text=turn.content)] if isinstance(turn.content, str) else turn.content


def _parts(turn: MessagesTurn, where: str) -> str | list[dict[str, str]]:
    if isinstance(turn.content, str):
        return turn.content
    return [{"type": "text", "text": _text(block, where)} for block in turn.content]


def _content(content: str | Sequence[MessagesPart], where: str) -> str | list[dict[str, str]]:
    if isinstance(content, str):
        return content
    return [{"type": "text", "text": _text(part, where)} for part in content]


def _text(part: MessagesPart | MessagesBlock, where: str) -> str:
    if part.type != "text" or part.text is None:
        raise InvalidRequest(f"{part.type} modality is not supported (in `{where}`)")
    return part.text


def _tool(index: int, tool: MessagesTool) -> Tool:
    if tool.type not in (None, "custom"):
        raise ToolError(f"`tools[{index}].type` `{tool.type}` is not supported; only your own tools are")
    if tool.input_schema is None:
        raise ToolError(f"`tools[{index}].input_schema` is missing")
    return Tool(name=tool.name, description=tool.description, parameters=tool.input_schema, strict=bool(tool.strict))


def _tool_choice(choice: MessagesToolChoice | None) -> ToolChoice:
    match choice:
        case None:
            return "auto"
        case MessagesToolChoice(type="tool", name=str(name)):
            return NamedTool(name)
        case MessagesToolChoice(type="any"):
            return "required"
        case MessagesToolChoice(type="auto" | "none" as kind):
            return kind
        case _:
            raise ToolError("`tool_choice.type` must be auto, any, none, or tool with a `name`")

"""The grammar of an answer that must call: in the format of its model, with the arguments each tool declares."""

import json
from collections.abc import Callable, Mapping, Sequence

from engine.text.schemas import enforceable
from engine.text.tools.events import Tool
from engine.types import Grammar

# How a marker stands in a grammar: the text of a special token has no bytes, so it goes by its id.
Marker = Callable[[str], str]

# How JSON within a grammar is read and laid out: as alone (`engine.text.grammar`), without loading llguidance here.
JSON_OPTIONS = {
    "whitespace_pattern": " ",
    "item_separator": ",",
    "key_separator": ":",
    "coerce_one_of": False,
    "lenient": False,
    "json_allow_general_unicode_escapes": False,
}


def markers_of(special: Mapping[str, int]) -> Marker:
    """`special` has the ids of the special tokens, by their texts."""
    return lambda text: f"<[{special[text]}]>" if text in special else json.dumps(text)


def calls_grammar(name: str, template: str, tools: Sequence[Tool], many: bool, marker: Marker) -> str:
    """Rules in Lark; `calls` is one call of one of the tools, or with `many` one or more, in the named format."""
    if name == "hermes":
        start, end = marker("<tool_call>"), marker("</tool_call>")
        rules = [f"calls: call{_more('NL', many)}", 'NL: "\\n"']
        rules += _objects(tools, "arguments")
        rules.append(f"call: {start} NL object NL {end}")
    elif name == "mistral" and "[ARGS]" in template:
        rules = [f"calls: call{'+' if many else ''}"]
        for i, tool in enumerate(tools):
            rules.append(f"call_{i}: {marker('[TOOL_CALLS]')} {json.dumps(tool.name)} {marker('[ARGS]')} arguments_{i}")
            rules.append(_arguments(i, tool))
        rules.append(f"call: {_any('call', tools)}")
    elif name == "mistral":
        rules = [f'calls: {marker("[TOOL_CALLS]")} " "? "[" object{_more(_quoted(", "), many, "object")} "]"']
        rules += _objects(tools, "arguments")
    elif name == "llama3":
        rules = [f"calls: object{_more(_quoted('; '), many, 'object')}", *_objects(tools, "parameters")]
    else:
        listed = f' | "[" object{_more(_quoted(", "), many, "object")} "]"' if many else ""
        rules = [f"calls: object{listed}", *_objects(tools, "arguments")]
    return "\n".join(rules)


def answer_grammar(
    calls: str | None, text: Grammar | None, thoughts: tuple[str, str] | None, opened: bool, marker: Marker
) -> Grammar | None:
    """What a whole answer must match: calls, or a text, or either. None where anything goes.

    Where the model thinks, thoughts between their two tags may come first; they do if the prompt `opened` them.
    """
    if calls is None and (text is None or thoughts is None):
        return text
    rules = [calls] if calls is not None else []
    if text is not None:
        rules.append(_text(text))
    body = " | ".join([*(["calls"] if calls is not None else []), *(["text"] if text is not None else [])])
    if thoughts is None:
        return Grammar("lark", "\n".join([f"start: {body}", *rules]))
    start, end = map(marker, thoughts)
    thinking = "thoughts" if opened else f"({start} thoughts)?"
    ending = (
        f"thoughts: ANYTHING {end} GAP"
        if end.startswith("<")
        else f"thoughts: thought GAP\nthought[suffix={end}]: ANYTHING"
    )
    rules += [ending, "ANYTHING: /(.|\\n)*/", "GAP: /[ \\n]{0,2}/"]
    return Grammar("lark", "\n".join([f"start: {thinking} ({body})", *rules]))


def _objects(tools: Sequence[Tool], arguments: str) -> list[str]:
    """`object`: a call as an object of its name and its arguments."""
    rules = [f"object: {_any('object', tools)}"]
    for i, tool in enumerate(tools):
        before = _quoted(f'{{"name": {json.dumps(tool.name)}, "{arguments}": ')
        rules += [f'object_{i}: {before} arguments_{i} "}}"', _arguments(i, tool)]
    return rules


def _arguments(i: int, tool: Tool) -> str:
    schema = enforceable(json.dumps({"type": "object", **tool.parameters}))
    if schema.get("properties"):
        schema.setdefault("additionalProperties", False)
    # A strict tool is one whose schema is enforced whole or not accepted.
    schema["x-guidance"] = {**JSON_OPTIONS, "lenient": not tool.strict}
    return f"arguments_{i}: %json {json.dumps(schema)}"


def _text(grammar: Grammar) -> str:
    match grammar.kind:
        case "json":
            schema = enforceable(grammar.text)
            return f"text: %json {json.dumps({**schema, 'x-guidance': JSON_OPTIONS})}"
        case "regex":
            escaped = grammar.text.replace("\\/", "/").replace("/", "\\/").replace("\n", "\\n")
            return f"text: /{escaped}/"
        case "lark":
            return f"text: %lark {{\n{grammar.text}\n}}"


def _any(rule: str, tools: Sequence[Tool]) -> str:
    return " | ".join(f"{rule}_{i}" for i in range(len(tools)))


def _more(separator: str, many: bool, rule: str = "call") -> str:
    return f" ({separator} {rule})*" if many else ""


def _quoted(text: str) -> str:
    return json.dumps(text)

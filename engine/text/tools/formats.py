"""How the families of models write their calls."""

from collections.abc import Mapping
from typing import ClassVar

from engine.text.tools.call import CallReader, NotACall, Reading, skip_space
from engine.text.tools.json_scan import SPACE
from engine.text.tools.parser import ToolCallParser

MAX_ID = 64  # characters


def literal(expected: str, first: str) -> Reading[None]:
    """Read `expected`, of which `first` has been read."""
    for i, char in enumerate(expected):
        if (first if i == 0 else (yield)) != char:
            raise NotACall(expected)


class Hermes(ToolCallParser):
    """Hermes, Qwen and SmolLM3: `<tool_call>{"name": N, "arguments": {...}}</tool_call>`, one tag for each call."""

    markers: ClassVar[tuple[str, ...]] = ("<tool_call>",)
    others: ClassVar[tuple[str, ...]] = ("</tool_call>",)

    def read(self, marker: str) -> Reading[None]:
        yield from self.call()
        # An answer that ends here, for want of the closing tag, has called all the same.
        yield from literal("</tool_call>", (yield from skip_space()))


class Llama3(ToolCallParser):
    """Llama 3: the answer is `{"name": N, "parameters": {...}}`, or that follows `<|python_tag|>`.

    Several calls are separated by semicolons.
    """

    markers: ClassVar[tuple[str, ...]] = ("<|python_tag|>",)
    bare: ClassVar[str] = "{"

    def read(self, marker: str) -> Reading[None]:
        yield from self.call()
        while True:
            char = yield from skip_space()
            if char == ";":
                char = yield from skip_space()
            yield from self.call(first=char)


class Mistral(ToolCallParser):
    """Mistral: `[TOOL_CALLS][{"name": N, "arguments": {...}}, ...]`, and since its 11th format
    `[TOOL_CALLS]N[ARGS]{...}` for each call, with or without `[CALL_ID]id` behind the name.
    """

    markers: ClassVar[tuple[str, ...]] = ("[TOOL_CALLS]",)
    others: ClassVar[tuple[str, ...]] = ("[CALL_ID]", "[ARGS]")

    def read(self, marker: str) -> Reading[None]:
        char = yield from skip_space()
        if char == "[":
            yield from read_list(self)
        elif char == "{":
            yield from self.call(first=char)
        else:
            yield from self._named(char)

    def _named(self, char: str) -> Reading[None]:
        name, longest = "", max(map(len, self.tools), default=0)
        while char not in "[{":
            name += char
            if len(name) > longest + 1:  # a space may follow it
                raise NotACall(name)
            char = yield
        while char == "[":
            char = yield
            if char == "C":
                yield from literal("CALL_ID]", char)
                char = yield from self._skip_id()
            else:
                yield from literal("ARGS]", char)
                char = yield from skip_space()
                break
        reader = CallReader(self.tools)
        reader.begin(name.rstrip(SPACE))
        yield from self.call(reader, char)

    def _skip_id(self) -> Reading[str]:
        for _ in range(MAX_ID):
            char = yield
            if char in "[{":
                return char
        raise NotACall("an id without an end")


class GenericJSON(ToolCallParser):
    """Any model that was asked for JSON: a call or a list of calls is the whole answer, also within a fence of
    Markdown or between the tags of Granite and Phi 4.
    """

    markers: ClassVar[tuple[str, ...]] = ("<|tool_call|>",)
    others: ClassVar[tuple[str, ...]] = ("<|/tool_call|>",)
    bare: ClassVar[str] = "{[`"

    def read(self, marker: str) -> Reading[None]:
        char = yield from skip_space()
        fenced = char == "`"
        if fenced:
            char = yield from self._fence(char)
        if char == "[":
            yield from read_list(self)
        elif char == "{":
            yield from self.call(first=char)
        else:
            raise NotACall(char)
        yield from self._behind(marker, fenced)

    def _fence(self, char: str) -> Reading[str]:
        yield from literal("```", char)
        char = yield
        if char == "j":
            yield from literal("json", char)
            char = yield
        return char if char not in SPACE else (yield from skip_space())

    def _behind(self, marker: str, fenced: bool) -> Reading[None]:
        """More calls, and what closes the fence or the tag."""
        while True:
            char = yield from skip_space()
            if char == "`" and fenced:
                yield from literal("```", char)
                return
            if char == "<" and marker:
                yield from literal("<|/tool_call|>", char)
                return
            if char in ";,":
                char = yield from skip_space()
            yield from self.call(first=char)


def read_list(parser: ToolCallParser) -> Reading[None]:
    """Read calls between commas up to the closing bracket; the opening one has been read."""
    while True:
        yield from parser.call(first=(yield from skip_space()))
        char = yield from skip_space()
        if char == "]":
            break
        if char != ",":
            raise NotACall(char)
    parser.settle()


FORMATS: Mapping[str, type[ToolCallParser]] = {
    "hermes": Hermes,
    "llama3": Llama3,
    "mistral": Mistral,
    "json": GenericJSON,
}


def detect_format(template: str) -> str:
    """The name of the format that a chat template shows; `json` where it shows none."""
    if "<tool_call>" in template:
        return "hermes"
    if "[TOOL_CALLS]" in template:
        return "mistral"
    if "<|python_tag|>" in template or ("<|eot_id|>" in template and '"parameters": ' in template):
        return "llama3"
    return "json"

"""One call as models write it in JSON, read while it is being written.

`{"name": N, "arguments": {...}}` with its members in any order, `parameters` for `arguments`, the function as an
object of its own (`{"function": {"name": N, ...}}`), and TGI's `{"function": {"_name": N, ...arguments}}`.
"""

import json
from collections.abc import Collection, Generator
from typing import TypeVar

from engine.text.tools.json_scan import LITERALS, NUMBER, SPACE, JSONScanner, NotJSON

T = TypeVar("T")
Reading = Generator[None, str, T]  # is sent one character after the other

NAMES = ("name", "function")
ARGUMENTS = ("arguments", "parameters")
OTHERS = ("type", "id")  # members that add nothing


class NotACall(ValueError):
    """The text is not a call of a known tool."""


class CallReader:
    """Reads one call. `push` raises NotACall at the first character that does not fit.

    `name` is set once the name is known and the arguments begin: from there on it is the call of a known tool.
    `take` returns what of the arguments' JSON came since it was last asked.
    """

    def __init__(self, tools: Collection[str]) -> None:
        self.name: str | None = None
        self.done = False
        self._tools = tools
        self._given: str | None = None  # the name, before the arguments were seen
        self._arguments: list[str] = []  # that were not taken
        self._has_arguments = False
        self._reading = self._call()
        next(self._reading)

    def push(self, char: str) -> None:
        try:
            self._reading.send(char)
        except StopIteration:
            self.done = True
        except NotJSON:
            raise NotACall(char) from None

    def take(self) -> str:
        if self.name is None:
            return ""
        found = "".join(self._arguments)
        self._arguments.clear()
        return found

    def begin(self, name: str) -> None:
        """For formats that write the name before the object: what follows is the arguments alone."""
        self._set_name(name)
        self._reading = self._arguments_only()
        next(self._reading)

    def _arguments_only(self) -> Reading[None]:
        char = yield from skip_space()
        if char != "{":
            raise NotACall(char)
        yield from self._object(char)

    def _call(self) -> Reading[None]:
        char = yield from skip_space()
        if char != "{":
            raise NotACall(char)
        yield from self._members()
        if self._given is None:
            raise NotACall("a call without a name")
        if not self._has_arguments:
            self._found("{}")

    def _members(self) -> Reading[None]:
        """The members of a call, to its closing brace."""
        char = yield from skip_space()
        while char != "}":
            key = yield from _string(char)
            char = yield from skip_space()
            if char != ":":
                raise NotACall(char)
            if key == "_name":
                yield from self._arguments_beside_name()
                return
            char = yield from self._member(key)
            if char == ",":
                char = yield from skip_space()
                if char == "}":
                    raise NotACall(char)
            elif char != "}":
                raise NotACall(char)

    def _member(self, key: str) -> Reading[str]:
        """A value. Returns the first character behind it that is not a space."""
        char = yield from skip_space()
        if char == "{" and key == "function" and self._given is None:
            yield from self._members()
        elif char == "{" and key in ARGUMENTS:
            yield from self._object(char)
        elif char == '"':
            self._take_text(key, (yield from _string(char)))
        elif key in ARGUMENTS or key in OTHERS:
            char = yield from self._scalar(key, char)
            return char if char not in SPACE else (yield from skip_space())
        else:
            raise NotACall(char)
        return (yield from skip_space())

    def _take_text(self, key: str, value: str) -> None:
        if key in NAMES:
            self._set_name(value)
        elif key in ARGUMENTS:  # some models write the object's JSON into a string
            self._found(checked_object(value))
        elif key not in OTHERS:
            raise NotACall(key)

    def _scalar(self, key: str, char: str) -> Reading[str]:
        """A number or a literal; of arguments, null. Returns the character behind it."""
        text = ""
        while char not in SPACE and char not in ",}":
            text += char
            char = yield
        if (text not in LITERALS.values() and not NUMBER.fullmatch(text)) or (key in ARGUMENTS and text != "null"):
            raise NotACall(text)
        if key in ARGUMENTS:
            self._found("{}")
        return char

    def _object(self, char: str) -> Reading[None]:
        """The arguments, passed on as they are written."""
        scanner = JSONScanner()
        self._found(scanner.push(char))
        while not scanner.done:
            self._arguments.append(scanner.push((yield)))

    def _arguments_beside_name(self) -> Reading[None]:
        """TGI's form, behind `"_name":`; the comma after the name is not part of the arguments."""
        self._set_name((yield from _string((yield from skip_space()))))
        char = yield from skip_space()
        if char not in ",}":
            raise NotACall(char)
        scanner = JSONScanner()
        self._found(scanner.push("{"))
        if char == ",":
            char = yield from skip_space()
            if char != '"':
                raise NotACall(char)
        self._arguments.append(scanner.push(char))
        while not scanner.done:
            self._arguments.append(scanner.push((yield)))

    def _set_name(self, name: str) -> None:
        if self._given is not None or name not in self._tools:
            raise NotACall(name)
        self._given = name
        if self._has_arguments:
            self.name = name

    def _found(self, text: str) -> None:
        """The arguments, or their beginning."""
        if self._has_arguments:
            raise NotACall(text)
        self._has_arguments = True
        self._arguments.append(text)
        self.name = self._given


def skip_space() -> Reading[str]:
    """The first character that is not a space."""
    char = yield
    while char in SPACE:
        char = yield
    return char


def _string(char: str) -> Reading[str]:
    """The value of the string that begins with `char`."""
    if char != '"':
        raise NotACall(char)
    scanner = JSONScanner()
    scanner.push("[")
    text = scanner.push(char)
    while scanner.expects == "string":
        text += scanner.push((yield))
    return str(json.loads(text))


def checked_object(text: str) -> str:
    """The text of a JSON object, fit to be sent. Raises NotACall if it is anything else."""
    text = text.strip(SPACE)
    scanner = JSONScanner()
    try:
        text.encode()  # an escaped lone surrogate is no text
        checked = "".join(map(scanner.push, text))
    except (NotJSON, UnicodeEncodeError):
        raise NotACall(text[:64]) from None
    if not scanner.done or not text.startswith("{"):
        raise NotACall(text[:64])
    return checked

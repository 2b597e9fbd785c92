"""A recogniser of JSON (RFC 8259) that is given one character at a time, for answers that come piece by piece."""

import json
import re

NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
SPACE = " \t\n\r"
ESCAPES = '"\\/bfnrt'
LITERALS = {"t": "true", "f": "false", "n": "null"}
MAX_DEPTH = 256


class NotJSON(ValueError):
    """The characters so far are not the beginning of a JSON object."""


class JSONScanner:
    """Reads one object or list. `push` raises NotJSON at the first character that cannot belong to it.

    `depth` is the number of objects and lists that are open; `done` says that the outermost one was closed.
    `expects` is what the next character continues or begins: value, item (a value or the end of a list), key,
    name (a key or the end of an object), colon, comma, string, or scalar (a number or a literal).
    """

    def __init__(self) -> None:
        self.expects = "value"
        self.done = False
        self._open: list[str] = []  # the characters that will close what is open
        self._is_key = False  # of the string that is being read
        self._escape = 0  # characters of an escape still to come; -1 = the one behind the backslash
        self._scalar = ""

    @property
    def depth(self) -> int:
        return len(self._open)

    def push(self, char: str) -> str:
        """Read a character. Returns it as JSON wants it: a raw control character in a string as its escape."""
        if self.expects == "string":
            return self._in_string(char)
        if self.expects == "scalar":
            if char not in SPACE and char not in ",]}":
                self._scalar += char
                self._check_literal()
                return char
            self._end_scalar()
        if char not in SPACE:
            self._structure(char)
        return char

    def _in_string(self, char: str) -> str:
        if self._escape == -1:
            if char != "u" and char not in ESCAPES:
                raise NotJSON(char)
            self._escape = 4 if char == "u" else 0
        elif self._escape:
            if char not in "0123456789abcdefABCDEF":
                raise NotJSON(char)
            self._escape -= 1
        elif char == "\\":
            self._escape = -1
        elif char == '"':
            self.expects = "colon" if self._is_key else "comma"
        elif char < " ":
            return json.dumps(char)[1:-1]
        return char

    def _structure(self, char: str) -> None:
        expects = self.expects
        if self.done:
            raise NotJSON(char)
        if char in "]}":
            self._close(char)
        elif expects in ("value", "item"):
            self._begin_value(char)
        elif expects in ("key", "name") and char == '"':
            self.expects, self._is_key = "string", True
        elif expects == "colon" and char == ":":
            self.expects = "value"
        elif expects == "comma" and char == ",":
            self.expects = "key" if self._open[-1] == "}" else "value"
        else:
            raise NotJSON(char)

    def _begin_value(self, char: str) -> None:
        if char in "{[":
            if self.depth == MAX_DEPTH:
                raise NotJSON(char)
            self._open.append("}" if char == "{" else "]")
            self.expects = "name" if char == "{" else "item"
        elif not self._open:
            raise NotJSON(char)
        elif char == '"':
            self.expects, self._is_key = "string", False
        elif char in "-0123456789tfn":
            self.expects, self._scalar = "scalar", char
        else:
            raise NotJSON(char)

    def _close(self, char: str) -> None:
        if not self._open or self._open[-1] != char or self.expects not in ("comma", "name" if char == "}" else "item"):
            raise NotJSON(char)
        self._open.pop()
        self.expects = "comma"
        self.done = not self._open

    def _check_literal(self) -> None:
        literal = LITERALS.get(self._scalar[0])
        if not literal.startswith(self._scalar) if literal else self._scalar[-1] not in "0123456789+-.eE":
            raise NotJSON(self._scalar)

    def _end_scalar(self) -> None:
        if self._scalar not in LITERALS.values() and not NUMBER.fullmatch(self._scalar):
            raise NotJSON(self._scalar)
        self.expects = "comma"

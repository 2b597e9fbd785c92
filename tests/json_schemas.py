"""Random JSON schemas, all valid Draft 2020-12 and within what llguidance enforces."""

import random
from typing import Any

Schema = dict[str, Any]

PATTERNS = ["^[a-z]{1,5}$", "^(red|green|blue)-\\d+$", "\\d", "^[a-zé]?x", "a+b*", '^[^"\\\\]{0,4}$', "^$|^z"]
FORMATS = ["uuid", "ipv4", "date", "email"]  # those that jsonschema checks as RFC 3339 and the others have them
NAMES = ["a", "name", "ключ", "two words", 'quo"te', "back\\slash", "x1", "x2", "x3", "$dollar", ""]
CONSTANTS: list[Any] = [
    None,
    True,
    False,
    0,
    -3,
    1.5,
    "",
    "text",
    "été \"'\\\n",
    [1, "two"],
    {"k": None, "l": [2]},
    [],
    {},
]


class SchemaGenerator:
    """One schema after another from one seed. `schema()` may hold definitions that refer to themselves."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._defined: dict[str, Schema] = {}

    def schema(self) -> Schema:
        self._defined = {}
        made = self._object(3) if self._random.random() < 0.6 else self._any(3)
        return made | ({"$defs": self._defined} if self._defined else {})

    def _any(self, depth: int) -> Schema:
        chosen = self._random
        leaves = [self._string, self._integer, self._number, self._constant, self._enum, self._simple]
        inner = [self._object, self._array, self._tuple, self._choice, self._reference, self._typed]
        make = chosen.choice(leaves + 2 * inner if depth > 0 else leaves)
        made = make(depth - 1)
        if chosen.random() < 0.1 and "$ref" not in made:
            made = {"title": "a title", "description": "what it is", "default": 1, **made}
        return made

    def _simple(self, depth: int) -> Schema:
        return {"type": self._random.choice(["boolean", "null", ["boolean", "null"]])}

    def _typed(self, depth: int) -> Schema:
        """Several types at once, each with a keyword of its own."""
        types = self._random.sample(["string", "integer", "boolean", "null"], 2)
        return {"type": types, "maxLength": 5, "minimum": -2, "maximum": 77}

    def _constant(self, depth: int) -> Schema:
        return {"const": self._random.choice(CONSTANTS)}

    def _enum(self, depth: int) -> Schema:
        return {"enum": self._random.sample(CONSTANTS, self._random.randint(1, 5))}

    def _string(self, depth: int) -> Schema:
        chosen = self._random
        made: Schema = {"type": "string"}
        kind = chosen.choice(["any", "length", "pattern", "format"])
        if kind == "length":
            least = chosen.randint(0, 4)
            made |= {"minLength": least, "maxLength": least + chosen.randint(0, 12)}
        elif kind == "pattern":
            made["pattern"] = chosen.choice(PATTERNS)
        elif kind == "format":
            made["format"] = chosen.choice(FORMATS)
        return made

    def _integer(self, depth: int) -> Schema:
        chosen = self._random
        made: Schema = {"type": "integer"}
        if chosen.random() < 0.7:
            low = chosen.randint(-1000, 1000)
            made[chosen.choice(["minimum", "exclusiveMinimum"])] = low
            if chosen.random() < 0.7:
                made[chosen.choice(["maximum", "exclusiveMaximum"])] = low + chosen.randint(2, 5000)
        if chosen.random() < 0.2 and len(made) == 1:
            made["multipleOf"] = chosen.choice([2, 5, 10])
        return made

    def _number(self, depth: int) -> Schema:
        chosen = self._random
        made: Schema = {"type": "number"}
        if chosen.random() < 0.7:
            low = round(chosen.uniform(-50, 50), chosen.randint(0, 3))
            made[chosen.choice(["minimum", "exclusiveMinimum"])] = low
            made[chosen.choice(["maximum", "exclusiveMaximum"])] = low + chosen.choice([0.5, 1, 17.25, 4000])
        return made

    def _object(self, depth: int) -> Schema:
        chosen = self._random
        names = chosen.sample(NAMES, chosen.randint(0, 5))
        made: Schema = {"type": "object", "properties": {name: self._any(depth - 1) for name in names}}
        if chosen.random() < 0.8:
            made["required"] = [name for name in names if chosen.random() < 0.7]
        if chosen.random() < 0.7:
            made["additionalProperties"] = chosen.choice([False, False, True, {"type": "integer"}])
        return made

    def _array(self, depth: int) -> Schema:
        chosen = self._random
        made: Schema = {"type": "array", "items": self._any(depth - 1)}
        if chosen.random() < 0.8:
            made["minItems"] = chosen.randint(0, 2)
            made["maxItems"] = made["minItems"] + chosen.randint(0, 3)
        return made

    def _tuple(self, depth: int) -> Schema:
        parts = [self._any(depth - 1) for _ in range(self._random.randint(1, 3))]
        return {"type": "array", "prefixItems": parts, "items": False, "minItems": len(parts)}

    def _choice(self, depth: int) -> Schema:
        return {"anyOf": [self._any(depth - 1) for _ in range(self._random.randint(1, 3))]}

    def _reference(self, depth: int) -> Schema:
        """To a definition, which may be a list that refers to itself."""
        name = f"d{len(self._defined)}"
        if self._random.random() < 0.4:
            following = {"anyOf": [{"$ref": f"#/$defs/{name}"}, {"type": "null"}]}
            properties = {"value": {"type": "integer"}, "next": following}
            node: Schema = {"type": "object", "properties": properties, "required": ["value", "next"]}
            self._defined[name] = node | {"additionalProperties": False}
        else:
            self._defined[name] = {}  # the name is taken
            self._defined[name] = self._any(depth - 1)
        return {"$ref": f"#/$defs/{name}"}

"""What a JSON schema becomes before llguidance reads it, alone or within a grammar."""

import json
import math
from collections.abc import Iterator
from typing import Any, TypeGuard

TINY = 1e-12
EXACT = 2**53  # up to here every whole number is one of float64, as which llguidance reads a bound
LARGEST = 2**63 - 1024  # the last whole number of float64 that has 64 bits
# Where a schema has schemas inside: by name, or one or a list of them.
SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions")
SCHEMA_LISTS = ("items", "prefixItems", "additionalItems", "additionalProperties", "anyOf", "allOf", "oneOf")


def enforceable(text: str) -> Any:
    """The schema in a JSON text, with what has `properties` an object, and bounds that llguidance keeps.

    Raises ValueError and RecursionError.
    """
    schema = json.loads(text)
    for each in list(_subschemas(schema)) if isinstance(schema, dict) else []:
        _round_bounds(each)
        _narrow_open_bounds(each)
        if "properties" in each:
            each.setdefault("type", "object")
    return schema


def _subschemas(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The schema itself, and all that it is made of."""
    yield schema
    for key, value in schema.items():
        inner: list[Any] = []
        if key in SCHEMA_MAPS and isinstance(value, dict):
            inner = list(value.values())
        elif key in SCHEMA_LISTS:
            inner = value if isinstance(value, list) else [value]
        for each in inner:
            if isinstance(each, dict):
                yield from _subschemas(each)


def inexact_number(schema: Any) -> int | None:
    """A whole number of a `const` or `enum` that float64, as which llguidance reads it, would change; None = none."""
    for each in _subschemas(schema) if isinstance(schema, dict) else ():
        named = each.get("enum")
        for value in [each.get("const"), *(named if isinstance(named, list) else [])]:
            if _is_large(value) and (abs(value) > LARGEST or int(float(value)) != value):
                return value
    return None


def _round_bounds(schema: dict[str, Any]) -> None:
    """Move a large whole bound inside, to a number of float64 with 64 bits: the nearest one might be outside.

    llguidance takes an exclusive one of them for inclusive, so it becomes that.
    """
    for sign, key, other in ((1, "inimum", "aximum"), (-1, "aximum", "inimum")):
        closed, opened = schema.get(f"m{key}"), schema.get(f"exclusiveM{key}")
        large = _is_large(opened)
        if not (large or _is_large(closed)):
            continue
        bounds = [closed] if _is_number(closed) else []
        if large:
            bounds.append(schema.pop(f"exclusiveM{key}") + sign)
        bound = max(bounds) if sign > 0 else min(bounds)
        if _is_large(bound):
            bound = max(bound, -LARGEST) if sign > 0 else min(bound, LARGEST)
            rounded = float(bound)
            if (bound - int(rounded)) * sign > 0:
                rounded = math.nextafter(rounded, sign * math.inf)
            bound = int(rounded)
        schema[f"m{key}"] = bound
        if bound * sign > LARGEST:  # nothing is inside; alone, the bound would be cut to 64 bits
            schema.setdefault(f"m{other}", sign * LARGEST)


def _is_large(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and abs(value) > EXACT


def _narrow_open_bounds(schema: dict[str, Any]) -> None:
    """Close an exclusive bound that llguidance 1.9 lets through: a whole number, with the other bound less than 1 away.

    The bound becomes the next number of float64, so that nothing is lost that a reader of JSON would tell apart from it
    (but next to 0, where nothing closer than TINY is written).
    """
    for sign, low, high in ((1, "inimum", "aximum"), (-1, "aximum", "inimum")):
        bound, others = schema.get(f"exclusiveM{low}"), (schema.get(f"m{high}"), schema.get(f"exclusiveM{high}"))
        if not (_is_number(bound) and bound == int(bound) and bound * sign >= 0):
            continue
        if any(_is_number(other) and 0 < (other - bound) * sign < 1 for other in others):
            del schema[f"exclusiveM{low}"]
            schema[f"m{low}"] = sign * max(math.nextafter(abs(bound), math.inf), TINY)


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

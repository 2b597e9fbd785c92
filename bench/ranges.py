"""Lists of numbers as they are typed: `1,2,4`, `1..64x2`, `512..4096x2`, `10..100:10`.

`A..BxF` multiplies by F from A, `A..B:N` takes N evenly spaced numbers, `A..B` doubles; the last number is always B.
"""

import math
import re

from bench.types import UsageError

RANGE = re.compile(r"(?P<low>[\d.]+k?)\.\.(?P<high>[\d.]+k?)(?:x(?P<factor>[\d.]+)|:(?P<count>\d+))?")
LONGEST = 1000


def number(text: str, what: str) -> float:
    """A positive number; `2k` is 2048, as lengths are written. Raises UsageError that names `what`."""
    digits, scale = (text[:-1], 1024) if text.endswith("k") else (text, 1)
    try:
        value = float(digits) * scale
    except ValueError:
        raise UsageError(f"{what}: {text!r} is not a number") from None
    if not math.isfinite(value) or value <= 0:
        raise UsageError(f"{what}: {text} must be greater than 0")
    return value


def plain(value: float) -> str:
    """A number as it would be typed: 64, not 64.0."""
    return str(int(value)) if value == int(value) else f"{value:g}"


def numbers(text: str, what: str) -> list[float]:
    """Every number of a list, in its order, once each. Raises UsageError that names `what`."""
    found = [value for part in text.split(",") for value in _part(part.strip(), what)]
    return list(dict.fromkeys(found))


def _part(text: str, what: str) -> list[float]:
    match = RANGE.fullmatch(text)
    if match is None:
        if ".." in text:
            raise UsageError(f"{what}: {text!r} is no range; write it like 1..64x2 or 10..100:10")
        return [number(text, what)]
    low, high = number(match["low"], what), number(match["high"], what)
    if high < low:
        raise UsageError(f"{what}: {text} goes down; write the smaller number first")
    if match["count"]:
        count = int(match["count"])
        if not 2 <= count <= LONGEST:
            raise UsageError(f"{what}: {text} asks for {count} numbers; 2 to {LONGEST} are possible")
        return [low + (high - low) * i / (count - 1) for i in range(count)]
    factor = float(match["factor"] or 2)
    if factor <= 1:
        raise UsageError(f"{what}: the factor of {text} must be greater than 1")
    found = [low]
    while found[-1] * factor < high * (1 - 1e-9) and len(found) < LONGEST:
        found.append(found[-1] * factor)
    return [*found, high] if high > low else found

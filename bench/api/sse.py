"""Server-sent events (WHATWG HTML, 9.2.6), split from a body that was recorded whole.

More than the standard is let pass, because servers differ: an `error:` field, which older llama.cpp servers send, is
an event named error; and a last event without its blank line counts where nothing is missing from it.
"""

import re
from itertools import accumulate, repeat

DONE = b"[DONE]"

_BLANK_LINE = re.compile(rb"(?>\r\n|\r|\n){2}")
_BOM = b"\xef\xbb\xbf"
_FIELD = b"data: "


# The data; the position in the body after the blank line that completed it; and whether the event is named error,
# which most servers say in the data instead. There are too many of them for more than a tuple.
Event = tuple[bytes, int, bool]


def split(body: bytes) -> tuple[list[Event], Event | None]:
    """The events that are complete, in order, and the one that its blank line never followed."""
    plain = _plain(body)
    if plain is not None:
        return plain, None
    events: list[Event] = []
    append = events.append
    position = len(_BOM) if body.startswith(_BOM) else 0
    if b"\r" in body:
        for match in _BLANK_LINE.finditer(body, position):
            if (event := _event(body[position : match.start()], match.end())) is not None:
                append(event)
            position = match.end()
        return events, _event(body[position:], len(body))
    blocks = body[position:].split(b"\n\n")
    tail = blocks.pop()
    for block in blocks:
        position += len(block) + 2
        if block.startswith(b"data: ") and b"\n" not in block:
            append((block[6:], position, False))
        elif (event := _event(block, position)) is not None:
            append(event)
    return events, _event(tail, len(body))


def _plain(body: bytes) -> list[Event] | None:
    """The events of a body in which each is one `data: ` line and a blank one, as nearly all are: several times as
    fast as looking at them one by one. None if it is not so."""
    if not (body.startswith(_FIELD) and body.endswith(b"\n\n")):
        return None
    parts = body[len(_FIELD) : -2].split(b"\n\n" + _FIELD)
    if body.count(b"\n") != 2 * len(parts) or b"\r" in body:
        return None
    ends = accumulate(len(part) + len(_FIELD) + 2 for part in parts)
    return list(zip(parts, ends, repeat(False)))


def _event(block: bytes, end: int) -> Event | None:
    """One event from its lines; None for comments and whatever else carries no data."""
    data, is_error = [], False
    for line in block.splitlines():
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            is_error = value == b"error"
        elif name == b"error":
            data.append(value)
            is_error = True
    return (b"\n".join(data), end, is_error) if data else None
